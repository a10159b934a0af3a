"""This module is the relay's store that needs no set-up: one SQLite file.

  RQ1  WAL and synchronous=FULL: what was answered survives SIGKILL and power loss. Deposits that
       come at the same time share a COMMIT (writer.py).
  RQ2  The file is readable by its owner only. Several processes may have it open (`--count`, an
       invitation); only one of them serves a relay.
  RQ3  Counts are kept in tables, in the transaction that changes them.
  RQ4  Deposits stop while less than `Limits.spare_bytes` of the disk is free; that is for removing.

Tables: `mail` in the order of deposit; `marks` of what was deposited, until its end (RS1); `boxes`
with what lies in each mailbox; one row of `totals`; cards, invitations and members (members.py).
What is removed leaves room in the file, which new mail takes; `expire` gives some of it back.

Reading has a connection of its own, in a worker thread, one reader at a time.

Not here: what the methods promise (port.py).
"""

import os
import shutil
import sqlite3
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

import trio

from ampd.model.errors import StorageError, Unavailable
from ampd.model.message import Envelope
from ampd.storage.relay_store import members
from ampd.storage.relay_store.port import (
    PAGE_BYTES,
    RETRY_STORE,
    Full,
    Held,
    Limits,
    Token,
    Usage,
    check_room,
    lasts_until,
    mark,
)
from ampd.storage.relay_store.writer import Writer, storage_error

T = TypeVar("T")

_VERSION: Final = 1
_WAIT: Final = 10.0  # seconds for another process's transaction
_STEP: Final = 500  # messages that expire in one transaction: deposits wait for it
_WAL_PAGES: Final = 4000  # 16 MiB between checkpoints: each costs two syncs
_GIVE_BACK: Final = 1000  # free pages returned to the file system at a time
_SCHEMA: Final = (
    """CREATE TABLE IF NOT EXISTS mail(token INTEGER PRIMARY KEY AUTOINCREMENT,
        mailbox BLOB NOT NULL, expires INTEGER NOT NULL, until INTEGER NOT NULL,
        size INTEGER NOT NULL, sealed BLOB NOT NULL)""",
    "CREATE INDEX IF NOT EXISTS mail_box ON mail(mailbox, token)",
    "CREATE INDEX IF NOT EXISTS mail_until ON mail(until)",
    """CREATE TABLE IF NOT EXISTS marks(mark BLOB PRIMARY KEY, until INTEGER NOT NULL)
        WITHOUT ROWID""",
    "CREATE INDEX IF NOT EXISTS marks_until ON marks(until)",
    """CREATE TABLE IF NOT EXISTS boxes(mailbox BLOB PRIMARY KEY, messages INTEGER NOT NULL,
        bytes INTEGER NOT NULL) WITHOUT ROWID""",
    """CREATE TABLE IF NOT EXISTS totals(one INTEGER PRIMARY KEY CHECK(one = 1),
        messages INTEGER NOT NULL, bytes INTEGER NOT NULL)""",
    "INSERT OR IGNORE INTO totals VALUES(1, 0, 0)",
    *members.SCHEMA,
)


class SqliteRelayStore:
    """RelayStore in one SQLite file."""

    def __init__(self, path: Path, limits: Limits, now: Callable[[], int]) -> None:
        self._path = path
        self._limits = limits
        self._now = now
        self._writer = Writer(self._connect)
        self._reader: sqlite3.Connection | None = None
        self._one_reader = trio.CapacityLimiter(1)
        self._waiting: weakref.WeakValueDictionary[bytes, trio.Event] = (
            weakref.WeakValueDictionary()
        )

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Open the file, or make it; serve until cancelled."""
        self._open()
        task_status.started()
        try:
            await trio.sleep_forever()
        finally:
            await self._writer.stop()
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(self._close_reader, limiter=self._one_reader)

    def _open(self) -> None:
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            os.close(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            self._writer.start()
            self._reader = self._connect()
            self._reader.execute("PRAGMA query_only=ON")
        except OSError as exc:
            raise StorageError(f"{self._path}: {exc.strerror}") from exc
        except sqlite3.Error as exc:
            raise storage_error(exc) from exc

    def _close_reader(self) -> None:
        if self._reader is not None:
            self._reader.close()
            self._reader = None

    def _connect(self) -> sqlite3.Connection:
        db = sqlite3.connect(
            self._path, timeout=_WAIT, isolation_level=None, check_same_thread=False
        )
        db.execute("PRAGMA auto_vacuum=INCREMENTAL")  # before the first table
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("PRAGMA synchronous=FULL")
        db.execute(f"PRAGMA wal_autocheckpoint={_WAL_PAGES}")
        if db.execute("PRAGMA user_version").fetchone()[0] > _VERSION:
            db.close()
            raise sqlite3.DatabaseError("written by a newer ampd")
        for statement in _SCHEMA:
            db.execute(statement)
        db.execute(f"PRAGMA user_version={_VERSION}")
        return db

    # --- mail ----------------------------------------------------------------------------

    async def deposit(self, envelope: Envelope) -> bool:
        """Keep an envelope, or raise (RS1, RS4)."""
        now = self._now()
        until = lasts_until(envelope, self._limits, now, self._limits.message_bytes)
        new = await self._writer.write(lambda db: self._keep(db, envelope, until))
        waiting = self._waiting.pop(envelope.mailbox, None) if new else None
        if waiting is not None:
            waiting.set()
        return new

    def _keep(self, db: sqlite3.Connection, envelope: Envelope, until: int) -> bool:
        known = mark(envelope)
        if db.execute("SELECT 1 FROM marks WHERE mark=?", (known,)).fetchone():
            return False
        size, box = len(envelope.sealed), envelope.mailbox
        self._check_room(db, box, size)
        db.execute("INSERT INTO marks VALUES(?,?)", (known, until))
        db.execute(
            "INSERT INTO mail(mailbox, expires, until, size, sealed) VALUES(?,?,?,?,?)",
            (box, envelope.expires, until, size, envelope.sealed),
        )
        _book(db, box, 1, size)
        return True

    def _check_room(self, db: sqlite3.Connection, mailbox: bytes, size: int) -> None:
        check_room(self._limits, size, _usage(db, mailbox), _total(db))
        free = shutil.disk_usage(self._path.parent).free
        if free - size < self._limits.spare_bytes:
            raise Full(f"the disk is full: {free} bytes left", RETRY_STORE, hint="df -h")

    async def after(self, mailbox: bytes, cursor: Token | None, limit: int) -> list[Held]:
        """Envelopes of a mailbox behind a cursor (RS3)."""
        now = self._now()
        return await self._read(lambda db: _after(db, mailbox, cursor or 0, limit, now))

    def changed(self, mailbox: bytes) -> trio.Event:
        """Set by the next deposit. Dropped with its last holder: waiting costs an event."""
        event = self._waiting.get(mailbox)
        if event is None:
            event = self._waiting[mailbox] = trio.Event()
        return event

    async def remove(self, mailbox: bytes, tokens: Sequence[Token]) -> None:
        """Forget mail; its marks stay."""
        if tokens:
            chosen = list(tokens)
            await self._writer.write(lambda db: _remove(db, mailbox, chosen))

    async def count(self) -> int:
        """Messages in all."""
        return (await self._read(_total)).messages

    async def usage(self, mailbox: bytes) -> Usage:
        """What lies in a mailbox."""
        return await self._read(lambda db: _usage(db, mailbox))

    async def expire(self, now: int) -> int:
        """Drop mail and marks that ended, a step at a time, so that deposits come in between."""
        dropped = 0
        while step := await self._writer.write(lambda db: _expire_mail(db, now)):
            dropped += step
        while await self._writer.write(lambda db: _expire_marks(db, now)):
            pass
        await self._writer.write(lambda db: members.expire(db, now))
        while await self._writer.write(_give_back):
            pass
        return dropped

    # --- cards and members ---------------------------------------------------------------

    async def put_card(
        self,
        key: bytes,
        address: str,
        number: int,
        signed: bytes,
        *,
        withdrawn: bool,
        renew: bool = False,
    ) -> bool:
        """Keep the newest card of a key (RS6)."""
        card = members.CardRow(key, address, number, signed, withdrawn, renew)
        return await self._writer.write(lambda db: members.put_card(db, card, self._limits.cards))

    async def card(self, key: bytes) -> bytes | None:
        """The newest card of a key."""
        return await self._read(lambda db: members.card(db, key))

    async def cards(self, pattern: str, limit: int = 1000) -> list[bytes]:
        """Signed cards."""
        return await self._read(lambda db: members.cards(db, pattern, limit))

    async def add_invitation(self, token_hash: bytes, until: int, uses: int) -> None:
        """See RS7."""
        await self._writer.write(lambda db: members.add_invitation(db, token_hash, until, uses))

    async def redeem(self, token_hash: bytes, node: bytes, now: int) -> bool:
        """See RS7."""
        return await self._writer.write(lambda db: members.redeem(db, token_hash, node, now))

    async def is_member(self, node: bytes) -> bool:
        """See RS7."""
        return await self._read(lambda db: members.is_member(db, node))

    async def add_member(self, node: bytes) -> None:
        """See RS7."""
        await self._writer.write(lambda db: members.set_member(db, node, member=True))

    async def remove_member(self, node: bytes) -> None:
        """See RS7."""
        await self._writer.write(lambda db: members.set_member(db, node, member=False))

    async def _read(self, query: Callable[[sqlite3.Connection], T]) -> T:
        def run() -> T:
            if self._reader is None:
                raise Unavailable("the relay's store is closed")
            try:
                return query(self._reader)
            except sqlite3.Error as exc:
                raise storage_error(exc) from exc

        return await trio.to_thread.run_sync(run, limiter=self._one_reader)


def _after(
    db: sqlite3.Connection, mailbox: bytes, cursor: Token, limit: int, now: int
) -> list[Held]:
    found: list[Held] = []
    size = 0
    for token, expires, sealed in db.execute(
        "SELECT token, expires, sealed FROM mail WHERE mailbox=? AND token>? AND until>?"
        " ORDER BY token LIMIT ?",
        (mailbox, cursor, now, limit),
    ):
        size += len(sealed)
        if found and size > PAGE_BYTES:
            break
        found.append(Held(token, Envelope(mailbox, expires, sealed)))
    return found


def _remove(db: sqlite3.Connection, mailbox: bytes, tokens: list[Token]) -> None:
    messages = size = 0
    for token in tokens:
        gone = db.execute(
            "DELETE FROM mail WHERE token=? AND mailbox=? RETURNING size", (token, mailbox)
        ).fetchall()
        messages += len(gone)
        size += sum(row[0] for row in gone)
    _book(db, mailbox, -messages, -size)


def _expire_mail(db: sqlite3.Connection, now: int) -> int:
    ended: list[tuple[int, bytes]] = db.execute(
        "SELECT token, mailbox FROM mail WHERE until<=? ORDER BY until LIMIT ?", (now, _STEP)
    ).fetchall()
    boxes: dict[bytes, list[Token]] = {}
    for token, mailbox in ended:
        boxes.setdefault(mailbox, []).append(token)
    for mailbox, tokens in boxes.items():
        _remove(db, mailbox, tokens)
    return len(ended)


def _expire_marks(db: sqlite3.Connection, now: int) -> int:
    return db.execute(
        "DELETE FROM marks WHERE mark IN (SELECT mark FROM marks WHERE until<=? LIMIT ?)",
        (now, _STEP),
    ).rowcount


def _give_back(db: sqlite3.Connection) -> bool:
    """Return some pages to the file system when most are free; False when that is not so."""
    (free,) = db.execute("PRAGMA freelist_count").fetchone()
    (pages,) = db.execute("PRAGMA page_count").fetchone()
    if free <= max(_GIVE_BACK, pages // 2):
        return False
    db.execute(f"PRAGMA incremental_vacuum({_GIVE_BACK})").fetchall()
    return True


def _book(db: sqlite3.Connection, mailbox: bytes, messages: int, size: int) -> None:
    """RQ3."""
    db.execute(
        "INSERT INTO boxes VALUES(?,?,?) ON CONFLICT DO UPDATE"
        " SET messages=messages+excluded.messages, bytes=bytes+excluded.bytes",
        (mailbox, messages, size),
    )
    if messages <= 0:
        db.execute("DELETE FROM boxes WHERE mailbox=? AND messages=0", (mailbox,))
    db.execute("UPDATE totals SET messages=messages+?, bytes=bytes+?", (messages, size))


def _usage(db: sqlite3.Connection, mailbox: bytes) -> Usage:
    row: tuple[Any, ...] | None = db.execute(
        "SELECT messages, bytes FROM boxes WHERE mailbox=?", (mailbox,)
    ).fetchone()
    return Usage(*row) if row else Usage(0, 0)


def _total(db: sqlite3.Connection) -> Usage:
    return Usage(*db.execute("SELECT messages, bytes FROM totals").fetchone())
