"""A JSON object from the daemon, read without trust in its shape.

An older or newer daemon may leave a field out or add one. Each accessor answers with the type it
names, empty where the field is missing or is something else, so that printing cannot fail;
`value` is the object as it came, which is what --json prints.
"""


class Document:
    __slots__ = ("value",)

    def __init__(self, value: object) -> None:
        self.value: dict[str, object] = value if isinstance(value, dict) else {}

    def text(self, name: str) -> str:
        """A text, or a number as text."""
        value = self.value.get(name)
        if isinstance(value, str):
            return value
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        return str(value) if is_number else ""

    def number(self, name: str) -> int:
        value = self.value.get(name)
        return int(value) if isinstance(value, int | float) else 0

    def flag(self, name: str) -> bool:
        return self.value.get(name) is True

    def of(self, name: str) -> "Document":
        """The object inside."""
        return Document(self.value.get(name))

    def each(self, name: str) -> list["Document"]:
        """The objects of a list."""
        value = self.value.get(name)
        return [Document(item) for item in value] if isinstance(value, list) else []

    def texts(self, name: str) -> list[str]:
        value = self.value.get(name)
        return [str(item) for item in value] if isinstance(value, list) else []

    def at(self, name: str) -> str:
        """A time as people read it: `2026-11-22 13:04:05Z`; the daemon says RFC 3339 in UTC."""
        value = self.text(name)
        return f"{value[:10]} {value[11:19]}Z" if len(value) > 19 and value[10] == "T" else value
