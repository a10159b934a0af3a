"""What the gateways must remember beside the mail: accounts, API keys, schemas, jobs to be done.

  GR1  A change is on disk and synced when its call returns (SQLite, WAL, synchronous=FULL), and a
       batch is all or nothing: what its work raises leaves nothing.
  GR2  Batches run one after the other: what a work reads cannot change before it is done, so
       `add` says of two callers to one only that the entry is new.
  GR3  What has expired is not there, for nobody, whether or not it was swept away yet.
  GR4  The file is its owner's alone (0600): it holds the keys by which foreign providers know
       agents of this node, in clear, because they have to be used.
  GR5  A file that is damaged, or was written by a newer version, is never used and never replaced:
       StorageError says so, and what can be done.
  GR6  What `get` read is remembered in memory until the next change of anything: a request asks
       for the same few accounts and keys as the one before it.

An entry is a JSON object under a kind ("amp.account") and a key; `owner` is the name of the agent
here that it belongs to, or "". Times are milliseconds since 1970. The schema, version 1:

    entries(kind TEXT, key TEXT, value TEXT, owner TEXT, at INTEGER, expires INTEGER or NULL)

Changes are made in a worker thread, one at a time; reading is done at once, by a connection of its
own, in the caller's thread: a few microseconds from memory.

Not here: mail (the journal), what a kind means (edge/amp, edge/amtp).
"""

import json
import os
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar

import trio

from ampd.model.errors import Invalid, StorageError
from ampd.model.values import value
from ampd.storage.disk import Disk

T = TypeVar("T")
Value = dict[str, Any]  # what JSON can say

MAX_VALUE: Final = 1 << 20  # bytes of JSON: a schema or a workflow, not a file
_VERSION: Final = 1
_WAIT: Final = 10.0  # seconds for another process's transaction (a person with sqlite3)
_REMEMBERED: Final = 4096  # values, of at most as many characters each: 16 MiB at the worst
_SWEEP: Final = 1000  # entries swept in one transaction: others wait for it
_LAST: Final = "\U0010ffff"  # behind every character that a key may have after a prefix
_SCHEMA: Final = (
    """CREATE TABLE IF NOT EXISTS entries(kind TEXT NOT NULL, key TEXT NOT NULL,
        value TEXT NOT NULL, owner TEXT NOT NULL, at INTEGER NOT NULL, expires INTEGER,
        PRIMARY KEY(kind, key)) WITHOUT ROWID""",
    "CREATE INDEX IF NOT EXISTS entries_owner ON entries(owner, kind, key)",
    "CREATE INDEX IF NOT EXISTS entries_expires ON entries(expires) WHERE expires IS NOT NULL",
)


@value
class Entry:
    """One thing that is remembered; `at` is when it was put there."""

    kind: str
    key: str
    value: Value
    owner: str
    at: int
    expires: int | None


class Row(NamedTuple):
    """A value as it is kept; "" if there is none."""

    text: str
    expires: int | None

    def is_there(self, now: int) -> bool:
        """GR3."""
        return bool(self.text) and (self.expires is None or self.expires > now)


_NOTHING: Final = Row("", None)


class Batch:
    """What a work of `change` may do; also how everything is read."""

    def __init__(self, db: sqlite3.Connection, now: int) -> None:
        self._db = db
        self.now = now

    def get(self, kind: str, key: str) -> Value | None:
        """The value, or None (GR3)."""
        if not _can_be_kept(kind, key):
            return None
        found = self.row(kind, key)
        return _value(found.text) if found.is_there(self.now) else None

    def row(self, kind: str, key: str) -> "Row":
        """The entry as it stands there, expired or not."""
        row = self._db.execute(
            "SELECT value, expires FROM entries WHERE kind=? AND key=?", (kind, key)
        ).fetchone()
        return Row(*row) if row else _NOTHING

    def find(
        self, kind: str, *, owner: str | None = None, prefix: str = "", after: str = "",
        limit: int = 1000,
    ) -> list[Entry]:  # fmt: skip
        """The entries whose key begins with `prefix` and comes behind `after`, in their order."""
        if not _can_be_kept(kind, prefix, after, owner or ""):
            return []
        mine = "" if owner is None else " AND owner=:owner"
        rows = self._db.execute(
            "SELECT kind, key, value, owner, at, expires FROM entries"  # noqa: S608
            " WHERE kind=:kind AND key>=:prefix AND key<:end AND key>:after"
            f"{mine} AND (expires IS NULL OR expires>:now) ORDER BY key LIMIT :limit",
            {
                "kind": kind, "prefix": prefix, "end": prefix + _LAST, "after": after,
                "owner": owner, "now": self.now, "limit": limit,
            },
        )  # fmt: skip
        return [Entry(row[0], row[1], _value(row[2]), *row[3:]) for row in rows]

    def count(self, kind: str, *, owner: str | None = None) -> int:
        """How many there are."""
        if not _can_be_kept(kind, owner or ""):
            return 0
        mine = "" if owner is None else " AND owner=:owner"
        row = self._db.execute(
            f"SELECT count(*) FROM entries WHERE kind=:kind{mine}"  # noqa: S608
            " AND (expires IS NULL OR expires>:now)",
            {"kind": kind, "owner": owner, "now": self.now},
        ).fetchone()
        return int(row[0])

    def put(
        self, kind: str, key: str, value: Value, *, owner: str = "", expires: int | None = None
    ) -> None:
        """From now on this is the value. Invalid if it is too large or cannot be written."""
        if not key or not _can_be_kept(kind, key, owner):
            raise Invalid("a key that is empty, or has a character that no text may carry")
        text = json.dumps(value, separators=(",", ":"))  # ASCII: any string can be kept
        if len(text) > MAX_VALUE:
            raise Invalid(f"{kind}: {len(text)} bytes, over {MAX_VALUE}", code="too_large")
        self._db.execute(
            "INSERT OR REPLACE INTO entries VALUES(?,?,?,?,?,?)",
            (kind, key, text, owner, self.now, expires),
        )

    def add(
        self, kind: str, key: str, value: Value, *, owner: str = "", expires: int | None = None
    ) -> bool:
        """Put it, unless there is one: then False (GR2)."""
        if self.get(kind, key) is not None:
            return False
        self.put(kind, key, value, owner=owner, expires=expires)
        return True

    def delete(self, kind: str, key: str) -> bool:
        """Whether it was there."""
        found = self.get(kind, key) is not None
        if _can_be_kept(kind, key):
            self._db.execute("DELETE FROM entries WHERE kind=? AND key=?", (kind, key))
        return found

    def delete_owned(self, owner: str) -> int:
        """Everything that belongs to an agent; how many there were. Nobody's entries stay."""
        if not owner or not _can_be_kept(owner):
            return 0
        return self._db.execute("DELETE FROM entries WHERE owner=?", (owner,)).rowcount


class Registry:
    """gateway.db."""

    def __init__(self, path: Path, now: Callable[[], int]) -> None:
        """Open the file, or make it. Raises StorageError (GR5)."""
        self._path = path
        self._now = now
        self._one = trio.CapacityLimiter(1)
        self._in_use = threading.Lock()  # the writing connection: never closed under a change
        self._closed = False
        self._remembered: dict[tuple[str, str], Row] = {}  # GR6
        self._shared: dict[Row, Value] = {}
        try:
            _make(path)
            self._writing = _connect(path)
            self._reading = _connect(path)
            self._reading.execute("PRAGMA query_only=ON")
        except OSError as exc:
            raise StorageError(f"{path}: {exc.strerror}", hint=f"ls -l {path}") from exc
        except sqlite3.Error as exc:
            raise self._error(exc) from exc

    # --- reading ---------------------------------------------------------------------------

    def get(self, kind: str, key: str) -> Value | None:
        """The value under this key, or None."""
        found = self._row(kind, key)
        return _value(found.text) if found.is_there(self._now()) else None

    def shared(self, kind: str, key: str) -> Value | None:
        """The same, but not to be changed: until the next change all get one object (GR6)."""
        found = self._row(kind, key)
        if not found.is_there(self._now()):
            return None
        value = self._shared.get(found)
        if value is None:
            value = _value(found.text)
            if len(self._shared) < _REMEMBERED and len(found.text) <= _REMEMBERED:
                self._shared[found] = value
        return value

    def _row(self, kind: str, key: str) -> Row:
        found = self._remembered.get((kind, key))
        if found is None:
            if not _can_be_kept(kind, key):
                return _NOTHING
            found = self._read(lambda batch: batch.row(kind, key))
            if len(found.text) <= _REMEMBERED:
                if len(self._remembered) >= _REMEMBERED:
                    self._remembered.clear()
                self._remembered[kind, key] = found
        return found

    def find(
        self, kind: str, *, owner: str | None = None, prefix: str = "", after: str = "",
        limit: int = 1000,
    ) -> list[Entry]:  # fmt: skip
        """The entries of a kind, by key; `after` is the last key of the page before."""
        return self._read(
            lambda batch: batch.find(kind, owner=owner, prefix=prefix, after=after, limit=limit)
        )

    def count(self, kind: str, *, owner: str | None = None) -> int:
        """How many entries of a kind there are."""
        return self._read(lambda batch: batch.count(kind, owner=owner))

    def _read(self, query: Callable[[Batch], T]) -> T:
        try:
            return query(Batch(self._reading, self._now()))
        except sqlite3.Error as exc:
            raise self._error(exc) from exc

    # --- changing --------------------------------------------------------------------------

    async def put(
        self, kind: str, key: str, value: Value, *, owner: str = "", expires: int | None = None
    ) -> None:
        """From now on this is the value; `expires` is a time in milliseconds since 1970."""
        await self.change(lambda batch: batch.put(kind, key, value, owner=owner, expires=expires))

    async def add(
        self, kind: str, key: str, value: Value, *, owner: str = "", expires: int | None = None
    ) -> bool:
        """Put it, unless there is one: then False (GR2)."""
        return await self.change(
            lambda batch: batch.add(kind, key, value, owner=owner, expires=expires)
        )

    async def delete(self, kind: str, key: str) -> bool:
        """Forget an entry; whether there was one."""
        return await self.change(lambda batch: batch.delete(kind, key))

    async def delete_owned(self, owner: str) -> int:
        """Forget what belongs to an agent of this name; how many entries there were."""
        return await self.change(lambda batch: batch.delete_owned(owner))

    async def change(self, work: Callable[[Batch], T]) -> T:
        """Run `work` in the writing thread; its result once it is on disk (GR1, GR2).

        StorageError: nothing of it was kept.
        """
        now = self._now()
        try:
            return await trio.to_thread.run_sync(self._commit, work, now, limiter=self._one)
        finally:
            self._remembered.clear()
            self._shared.clear()

    def _commit(self, work: Callable[[Batch], T], now: int) -> T:
        db = self._writing
        with self._in_use:
            if self._closed:
                raise StorageError(f"{self._path} is closed: the daemon is stopping")
            try:
                db.execute("BEGIN IMMEDIATE")
                try:
                    result = work(Batch(db, now))
                    db.execute("COMMIT")
                finally:
                    if db.in_transaction:
                        db.execute("ROLLBACK")
            except sqlite3.Error as exc:
                raise self._error(exc) from exc
            return result

    async def sweep(self) -> int:
        """Remove what has expired; how many entries that were."""
        swept = 0
        while step := await self.change(_sweep):
            swept += step
        return swept

    def close(self) -> None:
        """A change that is under way is finished first; one that comes later is refused."""
        with self._in_use:
            self._closed = True
            self._reading.close()
            self._writing.close()

    def _error(self, exc: sqlite3.Error) -> StorageError:
        kind = getattr(exc, "sqlite_errorcode", 0) & 0xFF
        if kind in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR):
            return StorageError(f"{self._path} cannot be written: {exc}", hint="df -h")
        if kind in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            return StorageError(
                f"{self._path} is damaged: {exc}",
                hint="put back a copy of it, or move it away: then the programs that registered"
                " over HTTP have to do so again; no mail is lost",
            )
        return StorageError(f"{self._path}: {exc}", hint="ls -l " + str(self._path.parent))


def _make(path: Path) -> None:
    """An empty file that only its owner reads, and its entry in the folder on disk (GR4)."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    there = path.exists()
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(path, flags, 0o600)
    try:
        os.fchmod(descriptor, 0o600)
    finally:
        os.close(descriptor)
    if not there:
        Disk().sync_folder(path.parent)


def _connect(path: Path) -> sqlite3.Connection:
    db = sqlite3.connect(path, timeout=_WAIT, isolation_level=None, check_same_thread=False)
    db.execute("PRAGMA journal_mode=WAL")
    db.execute("PRAGMA synchronous=FULL")
    version = db.execute("PRAGMA user_version").fetchone()[0]
    if version > _VERSION:
        db.close()
        raise sqlite3.DatabaseError("it was written by a newer ampd")
    found = db.execute("PRAGMA quick_check(1)").fetchone()[0]
    if found != "ok":
        db.close()
        raise _damage(str(found))
    if version < _VERSION:
        for statement in _SCHEMA:
            db.execute(statement)
        db.execute(f"PRAGMA user_version={_VERSION}")
    return db


def _damage(what: str) -> sqlite3.DatabaseError:
    error = sqlite3.DatabaseError(what)
    error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
    return error


def _sweep(batch: Batch) -> int:
    return batch._db.execute(  # noqa: SLF001 - the other half of this module
        "DELETE FROM entries WHERE (kind, key) IN"
        " (SELECT kind, key FROM entries WHERE expires<=? LIMIT ?)",
        (batch.now, _SWEEP),
    ).rowcount


def _value(text: str) -> Value:
    value: Value = json.loads(text)
    return value


def _can_be_kept(*texts: str) -> bool:
    """SQLite keeps UTF-8: a lone surrogate names nothing; _LAST is a noncharacter, and ours."""
    try:
        return not any(_LAST.encode() in text.encode() for text in texts)
    except UnicodeEncodeError:
        return False
