"""Whether everything is still as it was written: journal, signatures, index, end to end.

H1  Every byte of the journal is read and proved: checksums, numbers, the keyed chain. A damage
    names the messages that went with it, as far as the index knew them.
H2  The signature of every kept message is verified again.
H3  An index made anew from the journal must say the same as the one in use (P10).
H4  Repair makes the index anew, and writes off what the journal lost: a record of the damage and
    its messages goes into the journal, and their rows leave the lists; the numbers that they had
    stay taken. An agent whose record was lost is written down again by its signed card. The damage
    is reported by that run, and by no later one; its bytes stay where they are, for whoever wants
    to mend them by hand.
H5  A check takes little memory, however large the mailbox is, and holds nobody up.
"""

import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import Any, Final

import trio

from ampd.crypto.keys import open1
from ampd.model.card import CARD_CONTEXT
from ampd.model.errors import AmpdError
from ampd.model.message import MESSAGE_CONTEXT, Message, id_text
from ampd.model.values import value
from ampd.storage import index as indexes
from ampd.storage.cleaning import counters
from ampd.storage.index import Index
from ampd.storage.journal import Damage, Position
from ampd.storage.records import Agent, Kept, Lost, Record
from ampd.storage.store import Store
from ampd.storage.transaction import Transaction

IN_MEMORY: Final = 32 << 20  # bytes of index that are compared in memory when the disk is full
_INDEX_BYTES: Final = "SELECT page_count * page_size FROM pragma_page_count, pragma_page_size"
MAX_IDS: Final = 1000  # of one damage: a lost segment holds thousands

# What must be the same, whatever the rows' own ids are: those follow the order of first mention,
# which compaction may change.
_AGENT: Final = "(SELECT key FROM holders WHERE id={column})"
_TABLES: Final = {
    "holders": "key, name, created, card, removed, last, unread, read, acked, quarantined, sent",
    "messages": "seq, id, sender, sender_key, [by], recipients, sent, at, expires, thread, re,"
    " priority, type, subject, preview, size, via, encrypted, gap, receipt, key",
    "boxes": "message, number, [agent], state, reason, read_at, acked_at",
    "deliveries": "message, recipient, address, key, status, via, at, relayed_at, delivered_at,"
    " read_at, acked_at, error",
    "receipts": "message, recipient, stage, at, signed",
    "outbox": "item, what, message, recipient, [by], address, key, mailbox, expires, at, status",
    "seen": "sender, id, agent, at, until",
    "pairs_out": "sender, recipient, epoch, last",
    "pairs_in": "recipient, sender, epoch, last, age",
    "gaps": "recipient, sender, epoch, number, upto, at",
    "cards": "key, address, number, signed, node, at, withdrawn",
    "contacts": "address, key, state, blocked, since, source, relays, note",
    "relays": "uri, token",
    "lost": "segment, offset, first, last, reason",
}


@value
class Fault:
    """One thing that is wrong. `segment` 0 means the index."""

    segment: int
    offset: int
    size: int
    ids: tuple[str, ...]
    reason: str


@value
class CheckReport:
    """What was found; `ok` says how things are now, so after a repair.

    `compared` is False when a full disk had no room to compare the index with the journal.
    """

    ok: bool
    records: int
    messages: int
    damage: tuple[Fault, ...]
    repaired: bool
    compared: bool = True


@dataclass(slots=True)
class _Found:
    """What one pass saw."""

    records: int = 0
    messages: int = 0
    faults: list[Fault] = field(default_factory=list)
    lost: list[Lost] = field(default_factory=list)
    compared: bool = True


class Checkup:
    """Checks a store while it is in use."""

    def __init__(self, store: Store, folder: Path, now: Callable[[], int] = lambda: 0) -> None:
        self._store = store
        self._folder = folder
        self._now = now
        self._one = trio.Lock()

    async def run(
        self, *, repair: bool, progress: Callable[[int, int], None] | None = None
    ) -> CheckReport:
        """Check everything, in a thread of its own; with `repair`, mend it (H4)."""
        async with self._one:
            first = await self._pass(progress)
            if not repair or not first.faults:
                return _report(first, first, repaired=False)
            if first.lost:
                await self._store.write(lambda tx: _write_off(tx, first.lost))
            await self._store.rebuild()
            return _report(first, await self._pass(progress), repaired=True)

    async def _pass(self, progress: Callable[[int, int], None] | None) -> _Found:
        try:
            db = self._store.reader()
        except sqlite3.Error as exc:
            fault = Fault(0, 0, 0, (), f"the index cannot be read: {exc}")
            return _Found(faults=[fault], lost=[])
        try:
            return await trio.to_thread.run_sync(self._check, db, progress)
        finally:
            db.close()

    def _check(self, db: sqlite3.Connection, progress: Callable[[int, int], None] | None) -> _Found:
        report = self._store.journal.check(progress)
        found = _Found(report.records, 0, [], [])
        try:
            self._damage(db, report.damage, found)
        except sqlite3.DatabaseError as exc:
            found.faults.append(Fault(0, 0, 0, (), f"the index cannot be read: {exc}"))
            return found
        for path in (self._folder / "check.sqlite", None):
            if path is None and db.execute(_INDEX_BYTES).fetchone()[0] > IN_MEMORY:
                found.compared = False
                break
            trial = _Found(found.records, 0, list(found.faults), found.lost)
            try:
                self._compare(db, path, trial)
            except sqlite3.DatabaseError as exc:
                if indexes.is_full(exc):
                    continue
                trial.faults.append(Fault(0, 0, 0, (), f"the index cannot be read: {exc}"))
            return trial
        return found

    def _compare(self, db: sqlite3.Connection, path: Path | None, found: _Found) -> None:
        """With an index made anew at `path`, or in memory."""
        if path is not None:
            indexes.remove(path)
        try:
            fresh = Index(path, building=True)
            try:
                self._against(db, fresh, found)
            finally:
                fresh.db.close()
        finally:
            if db.in_transaction:
                db.execute("ROLLBACK")
            if path is not None:
                indexes.remove(path)

    def _damage(self, db: sqlite3.Connection, damage: list[Damage], found: _Found) -> None:
        """H1, less what was written off (H4)."""
        for each in damage:
            place = (each.segment, each.offset, each.first_seq, each.last_seq)
            if db.execute(
                "SELECT 1 FROM lost WHERE segment=? AND offset=? AND first=? AND last=?", place
            ).fetchone():
                continue
            ids = _ids(db, each)
            reason = "; ".join(filter(None, (each.reason, _what(db, each, ids))))
            found.faults.append(Fault(each.segment, each.offset, each.size, ids, reason))
            found.lost.append(Lost(*place, each.reason, ids, self._now()))

    def _against(self, db: sqlite3.Connection, fresh: Index, found: _Found) -> None:
        """H2 and H3, on one snapshot of the index."""
        db.execute("BEGIN")
        kept = indexes.read_checkpoint(db)
        upto = kept.seq if kept else 0
        fresh.db.execute("BEGIN")
        for seq, record, position in self._store.records():
            if seq > upto:
                break
            self._signature(record, position, found)
            fresh.apply(seq, record)
        for table in _TABLES:
            differing = _differing(db, fresh.db, table)
            if differing:
                reason = f"the index differs from the journal in {differing} rows of {table}"
                found.faults.append(Fault(0, 0, 0, (), reason))
        fresh.db.execute("COMMIT")
        db.execute("COMMIT")

    def _signature(self, record: Record, position: Position, found: _Found) -> None:
        if not isinstance(record, Kept):
            return
        found.messages += 1
        try:
            _, payload = open1(record.signed, MESSAGE_CONTEXT)
            Message.from_bytes(payload)
        except AmpdError as exc:
            _, members = indexes.read_signed(record.signed)
            found.faults.append(
                Fault(
                    position.segment, position.offset, len(record.signed),
                    (id_text(members["id"]),), str(exc),
                )
            )  # fmt: skip


def _write_off(tx: Transaction, lost: list[Lost]) -> None:
    """First the numbers that must not be given out again, then what is lost, and who comes back."""
    tx.append(counters(tx.db))
    for each in lost:
        tx.append(each)
        for row in tx.db.execute(
            "SELECT key, name, created, card, removed FROM agents WHERE seq BETWEEN ? AND ?",
            (each.first, each.last),
        ).fetchall():
            if _is_signed(row["card"], row["key"]):
                key, name, created, card, removed = row
                tx.append(Agent(key, name, created, card, bool(removed)))


def _is_signed(card: bytes, key: bytes) -> bool:
    """The index is no witness, but a signature is."""
    try:
        return open1(card, CARD_CONTEXT)[0] == key
    except AmpdError:
        return False


def _report(first: _Found, last: _Found, *, repaired: bool) -> CheckReport:
    faults = list(dict.fromkeys([*first.faults, *last.faults]))
    return CheckReport(
        not last.faults, last.records, last.messages, tuple(faults), repaired, last.compared
    )


def _differing(db: sqlite3.Connection, fresh: sqlite3.Connection, table: str) -> int:
    """In how many rows two tables differ; both are read in one order, row by row (H5)."""
    ours, theirs = _rows(db, table), _rows(fresh, table)
    same = all(one == other for one, other in zip_longest(ours, theirs))
    if same:
        return 0
    left = {hash(row) for row in _rows(db, table)}
    right = {hash(row) for row in _rows(fresh, table)}
    return len(left ^ right) or 1


def _rows(db: sqlite3.Connection, table: str) -> Iterator[tuple[Any, ...]]:
    columns = _TABLES[table]
    for column in ("by", "agent"):
        key = _AGENT.format(column=f"{table}.{column}")
        columns = columns.replace(f"[{column}]", key)
    order = {"boxes": "message, 3", "holders": "key"}.get(table, ", ".join(_key(table)))
    for row in db.execute(f"SELECT {columns} FROM {table} ORDER BY {order}"):  # noqa: S608
        yield tuple(row)


def _key(table: str) -> list[str]:
    names = [name.strip() for name in _TABLES[table].split(",")]
    count = {"messages": 1, "outbox": 1, "cards": 1, "receipts": 3, "seen": 3, "pairs_in": 3}
    return names[: count.get(table, 4 if table in ("gaps", "lost") else 2)]


def _ids(db: sqlite3.Connection, damage: Damage) -> tuple[str, ...]:
    """The messages whose records were lost, or that waited in the outbox as one of them."""
    rows = db.execute(
        "SELECT id FROM messages WHERE seq BETWEEN ? AND ? UNION ALL"
        " SELECT message FROM outbox WHERE item BETWEEN ? AND ? LIMIT ?",
        (damage.first_seq, damage.last_seq, damage.first_seq, damage.last_seq, MAX_IDS),
    )
    return tuple(dict.fromkeys(id_text(row[0]) for row in rows))


def _what(db: sqlite3.Connection, damage: Damage, ids: tuple[str, ...]) -> str:
    """What a damage took, when no message says it."""
    first, last = damage.first_seq, damage.last_seq
    if not first or ids:
        return ""
    agents = db.execute("SELECT name FROM agents WHERE seq BETWEEN ? AND ?", (first, last))
    named = [f"the agent {row[0]}" for row in agents]
    return ", ".join(named or [f"records {first} to {last}" if last > first else f"record {first}"])
