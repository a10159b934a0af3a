"""Reading the index: every query whole, and a damaged index told apart from a busy one.

I1  A query's rows are fetched at once: no cursor is left open beside the writer.
I2  A damaged or missing index raises StorageError, and `on_damage` is called, so that it is made
    anew. One that is busy or cannot be read now raises StorageError and nothing else happens.
"""

import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from ampd.model.errors import StorageError
from ampd.storage.index import connect, is_damage

Values = Sequence[Any] | Mapping[str, Any]


class Rows:
    """The rows of one query."""

    __slots__ = ("_rows",)

    def __init__(self, rows: list[sqlite3.Row]) -> None:
        self._rows = rows

    def fetchone(self) -> Any:
        """The first row, or None."""
        return self._rows[0] if self._rows else None

    def fetchall(self) -> list[sqlite3.Row]:
        """All rows."""
        return self._rows

    def __iter__(self) -> Iterator[sqlite3.Row]:
        return iter(self._rows)


class Reader(Protocol):
    """What can be asked: the view of the trio thread, or a transaction's connection."""

    def execute(self, sql: str, values: Any = (), /) -> Any:
        """The rows that `sql` finds."""
        ...


class View:
    """The reading end of the index, for one thread."""

    def __init__(self, path: Path, on_damage: Callable[[str], None]) -> None:
        self._path = path
        self._on_damage = on_damage
        self._db: sqlite3.Connection | None = None

    def execute(self, sql: str, values: Values = (), /) -> Rows:
        """The rows that `sql` finds (I1); StorageError if the index cannot say (I2)."""
        try:
            if self._db is None:
                self._db = connect(self._path, read_only=True)
            return Rows(self._db.execute(sql, values).fetchall())
        except sqlite3.Error as exc:
            if not is_damage(exc) and self._path.exists():
                raise StorageError(
                    f"the index cannot be read now: {exc}", hint="try again"
                ) from exc
            self._on_damage(str(exc))
            raise StorageError(
                f"the index is damaged and is being made anew: {exc}", hint="try again"
            ) from exc

    def close(self) -> None:
        """Let the file go; the next query opens it again."""
        if self._db is not None:
            self._db.close()
            self._db = None
