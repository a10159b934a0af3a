"""The SQLite view of the journal: made from its records, and from nothing else.

  X1  Deleted, damaged, or of another VERSION, it is made anew from the journal, and the same
      answers come back (P10).
  X2  It is never ahead of the journal: what is applied is committed after the journal's sync.
  X3  `checkpoint` says up to which record it knows; it is written in the same transaction.

Write-ahead logging with synchronous=NORMAL: a power failure can set the view back to an earlier
checkpoint, from which it catches up, but cannot tear it (https://sqlite.org/pragma.html). A new one
is built beside the old one, with no log at all, and takes its place whole: synced, then renamed.

Not here: what a record does (applying.py), what may be asked (core), when it is committed
(writer.py).
"""

import os
import sqlite3
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from ampd.storage import schema
from ampd.storage.applying import Applier
from ampd.storage.journal import Checkpoint, Journal, Position
from ampd.storage.rows import preview, read_payload, read_signed

__all__ = [
    "Index", "IndexUnusableError", "connect", "is_damage", "is_full", "preview", "read_payload",
    "read_signed", "remove",
]  # fmt: skip

_WAL_PAGES: Final = 1000  # 4 MiB of log, then it is written into the file and used again
_NO_SUCH: Final = ("no such table", "no such column", "malformed")
_DAMAGED: Final = frozenset((sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB))
_NO_ROOM_FOR_SHM: Final = 4874  # SQLITE_IOERR_SHMSIZE
_SHORT_READ: Final = 522  # SQLITE_IOERR_SHORT_READ: the file ends where a page should be


class IndexUnusableError(Exception):
    """The file is no index of this version, or is damaged: make it anew."""


def is_damage(error: BaseException) -> bool:
    """Whether the error says that the file is broken, rather than busy, full or unreadable now."""
    if not isinstance(error, sqlite3.Error):
        return False
    code = getattr(error, "sqlite_errorcode", 0) or 0
    if code == _SHORT_READ or code & 0xFF in _DAMAGED:
        return True
    return code == sqlite3.SQLITE_ERROR and str(error).startswith(_NO_SUCH)


def is_full(error: BaseException) -> bool:
    """Whether the error says that the disk has no room."""
    if not isinstance(error, sqlite3.Error):
        return False
    code = getattr(error, "sqlite_errorcode", 0) or 0
    return code & 0xFF == sqlite3.SQLITE_FULL or code == _NO_ROOM_FOR_SHM


def connect(path: Path | None, *, read_only: bool = False) -> sqlite3.Connection:
    """A connection to the index; every thread has its own, for one writer and any readers.

    A reader never makes the file: sqlite3.OperationalError when it is not there. Without a path it
    is in memory.
    """
    mode = "rw" if read_only else "rwc"
    connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode={mode}" if path else ":memory:",
        uri=True, isolation_level=None, check_same_thread=False, cached_statements=256, timeout=10,
    )  # fmt: skip
    connection.row_factory = sqlite3.Row
    connection.execute("PRAGMA cache_size=-4096")  # 4 MiB: memory must not grow with the mailbox
    if read_only:
        connection.execute("PRAGMA query_only=1")
    return connection


def remove(path: Path) -> None:
    """Take the index off the disk; the journal has everything."""
    for suffix in ("", "-wal", "-shm", "-journal"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


class Index:
    """The writing end of the view. One thread uses it at a time."""

    def __init__(self, path: Path | None, *, building: bool = False) -> None:
        """Open the index in `path`, or make an empty one; IndexUnusableError if it is neither.

        `building` is for a file that nobody else opens and that may be lost: no log, no sync.
        """
        self._db = connect(path)
        self.rows = Applier(self._db)
        self.apply = self.rows.apply
        self.forget_cache = self.rows.forget_cache
        try:
            mode = ("OFF", "OFF") if building else ("WAL", "NORMAL")
            self.db.execute(f"PRAGMA journal_mode={mode[0]}")
            self.db.execute(f"PRAGMA synchronous={mode[1]}")
            self.db.execute(f"PRAGMA wal_autocheckpoint={_WAL_PAGES}")
            if not self.db.execute("SELECT 1 FROM sqlite_master").fetchone():
                indexes = "" if building else schema.INDEXES
                self.db.executescript(f"BEGIN;{schema.TABLES}{indexes}COMMIT;")
                self.set_meta("version", schema.VERSION)
            version = self.meta("version")
        except sqlite3.DatabaseError as exc:
            self.db.close()
            if is_full(exc):
                raise
            raise IndexUnusableError(str(exc)) from exc
        if version != schema.VERSION:
            self.db.close()
            raise IndexUnusableError(f"version {version!r}")

    @property
    def db(self) -> sqlite3.Connection:
        """The connection, with all that was applied in the tables (pending.py, W1)."""
        self.rows.flush()
        return self._db

    def meta(self, name: str) -> Any:
        """A value that `set_meta` kept, or None."""
        row = self.db.execute("SELECT value FROM meta WHERE name=?", (name,)).fetchone()
        return row[0] if row else None

    def set_meta(self, name: str, value: object) -> None:
        """Keep one value by its name."""
        self.db.execute("INSERT OR REPLACE INTO meta VALUES(?,?)", (name, value))

    @property
    def checkpoint(self) -> Checkpoint | None:
        """The journal as it was when this index last knew all of it (X3)."""
        return read_checkpoint(self.db)

    def note_checkpoint(self, now: Checkpoint, identity: str) -> None:
        """Within the transaction that applied everything up to it; `identity` is its segment's."""
        place = now.position
        self.set_meta(
            "checkpoint", f"{now.seq} {place.segment} {place.offset} {now.chain.hex()} {identity}"
        )

    def is_of(self, journal: Journal) -> bool:
        """Whether the journal is the one that this index followed, and none that was restored.

        Of its last segment, that is: others are written anew by compactions.
        """
        kept = self.checkpoint
        if kept is None:
            return True
        identity = self.meta("checkpoint").rpartition(" ")[2]
        is_last = kept.position.segment == journal.checkpoint.position.segment
        return journal.checkpoint_held and (not is_last or identity == journal.identity)

    def note_places(self, places: Iterable[tuple[int, Position]]) -> None:
        """Where the records lie that are read back: kept messages and queued letters."""
        self.db.executemany(
            "INSERT OR REPLACE INTO places VALUES(?,?,?)",
            [(seq, place.segment, place.offset) for seq, place in places],
        )

    def finish(self) -> None:
        """All records are in: what only questions need comes last."""
        self.db.executescript(f"BEGIN;{schema.INDEXES}COMMIT;")

    def rollback(self) -> None:
        """Leave the transaction, if there is one."""
        if self._db.in_transaction:
            self._db.execute("ROLLBACK")
        self.forget_cache()

    def close(self) -> None:
        """Write the log into the file first, so that a reader that closes later changes nothing."""
        try:
            self.db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        finally:
            self.db.close()


def read_checkpoint(db: sqlite3.Connection) -> Checkpoint | None:
    """The checkpoint of an index, by any connection."""
    row = db.execute("SELECT value FROM meta WHERE name='checkpoint'").fetchone()
    if row is None:
        return None
    seq, segment, offset, chain, _identity = row[0].split(" ")
    return Checkpoint(int(seq), Position(int(segment), int(offset)), bytes.fromhex(chain))


def stamp_of(path: Path) -> str:
    """What changes when anybody writes to the index."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return "none"
    return f"{found.st_ino} {found.st_size} {found.st_mtime_ns}"


def put_in_place(new: Path, path: Path) -> None:
    """The built index takes the place of the old one; whatever happens, one of both is there."""
    fd = os.open(new, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fdatasync(fd)
    finally:
        os.close(fd)
    for suffix in ("-wal", "-shm"):  # they belong to the file that goes
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    new.replace(path)
