"""The parameters of one request, each taken with the type it must have, or Invalid.

JSON from a local program may hold anything: what is missing, of another type, or not known is
named in the error, and nothing was done.
"""

from typing import Any, Final

from ampd.core import json_text
from ampd.model.address import Address, check_name
from ampd.model.errors import Invalid

MAX_MESSAGES: Final = 1000  # as many as one list has (core/lists.py)


class Params:
    """A request's `params`, each taken once; `done` says that none is left."""

    __slots__ = ("_left",)

    def __init__(self, params: object) -> None:
        if params is None:
            params = {}
        if not isinstance(params, dict):
            raise Invalid("params must be an object")
        self._left: dict[str, Any] = dict(params)

    def _take(self, name: str, kind: type | tuple[type, ...], what: str) -> Any:
        value = self._left.pop(name, None)
        if value is None:
            return None
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise Invalid(f"{name} must be {what}")
        return _sendable(value, name) if isinstance(value, str) else value

    def text(self, name: str, default: str = "") -> str:
        """A text; `default` where it is missing."""
        value = self._take(name, str, "a text")
        return default if value is None else str(value)

    def required(self, name: str) -> str:
        """A text that is there and not empty."""
        value = self.text(name)
        if not value:
            raise Invalid(f"{name} is missing")
        return value

    def optional(self, name: str) -> str | None:
        """A text, or None where it is missing."""
        value = self._take(name, str, "a text")
        return None if value is None else str(value)

    def flag(self, name: str) -> bool:
        """True or false; false where it is missing."""
        return bool(self._take(name, bool, "true or false"))

    def whole(self, name: str) -> int | None:
        """A whole number, or None where it is missing."""
        value = self._take(name, int, "a whole number")
        return None if value is None else int(value)

    def integer(self, name: str, default: int) -> int:
        """A whole number; `default` where it is missing."""
        value = self.whole(name)
        return default if value is None else value

    def seconds(self, name: str) -> float | None:
        """A duration in seconds, 0 or more; None where it is missing."""
        value = self._take(name, (int, float), "a number of seconds")
        if value is not None and not 0 <= value < 1e9:
            raise Invalid(f"{name} must be a number of seconds, 0 or more")
        return None if value is None else float(value)

    def texts(self, name: str, *, one_will_do: bool = False) -> list[str] | None:
        """An array of texts."""
        value = self._left.pop(name, None)
        if value is None:
            return None
        if one_will_do and isinstance(value, str):
            value = [value]
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise Invalid(f"{name} must be an array of texts")
        return [_sendable(item, name) for item in value]

    def messages(self, name: str = "ids") -> list[str]:
        """An array of ids or numbers of messages, each once; at most MAX_MESSAGES."""
        value = self._left.pop(name, None)
        if isinstance(value, (str, int)) and not isinstance(value, bool):
            value = [value]
        if not isinstance(value, list) or not value:
            raise Invalid(f"{name} must be an array of message ids")
        if len(value) > MAX_MESSAGES:
            raise Invalid(
                f"{len(value)} messages in one request, over {MAX_MESSAGES}",
                code="too_large", hint=f"name {MAX_MESSAGES} at a time",
            )  # fmt: skip
        return list(dict.fromkeys(_one_message(item, name) for item in value))

    def message(self, name: str) -> str:
        """The id or the number of one message; "" where it is missing."""
        value = self._left.pop(name, None)
        return "" if value is None else _one_message(value, name)

    def sender(self, name: str) -> str:
        """An address, or a name at any domain, in lower case; "" where it is missing."""
        text = self.text(name).strip()
        if not text:
            return ""
        return str(Address.parse(text)) if "@" in text else check_name(text)

    def json(self, name: str) -> str | None:
        """Any JSON value, as the JSON text that is sent; None where it is missing or null."""
        value = self._left.pop(name, None)
        if value is None:
            return None
        return json_text.to_text(value)

    def done(self) -> None:
        """Every parameter was taken."""
        if self._left:
            raise Invalid(f"unknown parameter {min(self._left)[:60]!r}")


def _one_message(value: object, name: str) -> str:
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        raise Invalid(f"{name} must hold message ids")
    if value == "":
        raise Invalid(
            "a message id is empty", hint="use the number that `amp inbox` shows, or the id"
        )
    return _sendable(str(value), name)


def _sendable(text: str, name: str) -> str:
    """`text` unless it has a lone surrogate: no UTF-8, no database and no signature can hold it."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise Invalid(f"{name} has a lone surrogate, which no UTF-8 can carry") from None
    return text
