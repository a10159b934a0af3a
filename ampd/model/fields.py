"""Reading the members of a decoded map: each of the type it must have, or Invalid.

Bytes that decode as CBOR may still say anything, so a reader takes every member through here.
A member that nobody asked for is an error too (`done`): two versions of a format never guess.
"""

from typing import Final

from ampd.model.errors import Invalid

MAX_INTEGER: Final = (1 << 63) - 1  # what signed 64 bits hold, in SQLite and other languages


class Fields:
    """The members of one map, each taken once."""

    __slots__ = ("_members", "_what")

    def __init__(self, value: object, what: str) -> None:
        if not isinstance(value, dict):
            raise Invalid(f"a {what} must be a map")
        self._members: dict[str, object] = dict(value)
        self._what = what

    def _wrong(self, name: str, expected: str) -> Invalid:
        return Invalid(f"{self._what}: {name} must be {expected}")

    def text(self, name: str, limit: int, *, empty: bool = True) -> str:
        """A text string of at most `limit` characters."""
        value = self._members.pop(name, None)
        if type(value) is not str or len(value) > limit or not (value or empty):
            raise self._wrong(name, f"text of at most {limit} characters")
        return value

    def optional_text(self, name: str, limit: int) -> str | None:
        """A text string of at most `limit` characters, or null."""
        if self._members.get(name, "") is None:
            del self._members[name]
            return None
        return self.text(name, limit)

    def data(self, name: str, size: int) -> bytes:
        """A byte string of exactly `size` bytes."""
        value = self._members.pop(name, None)
        if type(value) is not bytes or len(value) != size:
            raise self._wrong(name, f"{size} bytes")
        return value

    def optional_data(self, name: str, size: int) -> bytes | None:
        """A byte string of exactly `size` bytes, or null."""
        if self._members.get(name, b"") is None:
            del self._members[name]
            return None
        return self.data(name, size)

    def some_data(self, name: str, limit: int) -> bytes:
        """A byte string of at most `limit` bytes."""
        value = self._members.pop(name, None)
        if type(value) is not bytes or len(value) > limit:
            raise self._wrong(name, f"at most {limit} bytes")
        return value

    def integer(self, name: str, limit: int = MAX_INTEGER) -> int:
        """An integer of 0 .. `limit`."""
        value = self._members.pop(name, None)
        if type(value) is not int or not 0 <= value <= limit:
            raise self._wrong(name, f"a number of 0 to {limit}")
        return value

    def boolean(self, name: str) -> bool:
        """True or false."""
        value = self._members.pop(name, None)
        if type(value) is not bool:
            raise self._wrong(name, "true or false")
        return value

    def items(self, name: str, limit: int) -> list[object]:
        """An array of at most `limit` items."""
        value = self._members.pop(name, None)
        if type(value) is not list or len(value) > limit:
            raise self._wrong(name, f"an array of at most {limit} items")
        return value

    def version(self, expected: int) -> None:
        """The format's version, which must be `expected`."""
        value = self._members.pop("v", None)
        if type(value) is not int or value != expected:
            raise Invalid(f"{self._what} of version {value!r}; this program knows {expected}")

    def done(self) -> None:
        """Every member was taken."""
        if self._members:
            raise Invalid(f"{self._what}: unknown member {min(self._members)[:40]!r}")


def texts(items: list[object], limit: int, what: str) -> tuple[str, ...]:
    """An array's items, all of them text of at most `limit` characters."""
    checked = tuple(item for item in items if type(item) is str and len(item) <= limit)
    if len(checked) != len(items):
        raise Invalid(f"{what} must be text of at most {limit} characters")
    return checked
