"""Whether everything is still as it was written: journal, signatures, index, end to end.

H1  Every byte of the journal is read and proved: checksums, numbers, the keyed chain.
H2  The signature of every kept message is verified again.
H3  An index made anew from the journal must say the same as the one in use (P10).
H4  Repair makes the index anew. What the journal lost cannot be made again: it is named.
"""

import json
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import trio

from ampd.crypto.keys import open1
from ampd.model.errors import AmpdError
from ampd.model.message import MESSAGE_CONTEXT, Message, id_text
from ampd.storage import index as indexes
from ampd.storage.index import Index
from ampd.storage.records import Kept, from_bytes
from ampd.storage.store import Store

_TABLES: Final = (
    "agents", "messages", "boxes", "deliveries", "receipts", "outbox", "seen", "pairs_out",
    "pairs_in", "gaps", "cards", "contacts", "idempotency",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong. `segment` 0 means the index."""

    segment: int
    offset: int
    size: int
    ids: tuple[str, ...]
    reason: str


@dataclass(frozen=True, slots=True)
class CheckReport:
    """What was found."""

    ok: bool
    records: int
    messages: int
    damage: tuple[Fault, ...]
    repaired: bool


class Checkup:
    """Checks a store while it is in use."""

    def __init__(self, store: Store, folder: Path) -> None:
        self._store = store
        self._folder = folder

    async def run(
        self, *, repair: bool, progress: Callable[[int, int], None] | None = None
    ) -> CheckReport:
        """Check everything, in a thread of its own; with `repair`, make a bad index anew."""
        report = await trio.to_thread.run_sync(self._check, progress)
        if repair and any(fault.segment == 0 for fault in report.damage):
            await self._store.rebuild()
            again = await trio.to_thread.run_sync(self._check, progress)
            return CheckReport(again.ok, again.records, again.messages, again.damage, True)
        return report

    def _check(self, progress: Callable[[int, int], None] | None) -> CheckReport:
        found = self._store.journal.check(progress)
        faults = [
            Fault(d.segment, d.offset, d.size, _numbers(d.first_seq, d.last_seq), d.reason)
            for d in found.damage
        ]
        scratch = self._folder / "check.sqlite"
        indexes.remove(scratch)
        fresh = Index(scratch)
        db = indexes.connect(self._store.index_path, read_only=True)
        try:
            db.execute("ATTACH ? AS fresh", (str(scratch),))
            messages = self._against(db, fresh, faults)
        except sqlite3.DatabaseError as exc:
            messages = 0
            faults.append(Fault(0, 0, 0, (), f"the index cannot be read: {exc}"))
        finally:
            db.close()
            fresh.db.close()
            indexes.remove(scratch)
        return CheckReport(not faults, found.records, messages, tuple(faults), repaired=False)

    def _against(self, db: sqlite3.Connection, fresh: Index, faults: list[Fault]) -> int:
        """H2 and H3, on one snapshot of the index; how many messages there are."""
        db.execute("BEGIN")
        row = db.execute("SELECT value FROM main.meta WHERE name='checkpoint'").fetchone()
        upto = int(json.loads(row[0])[0]) if row else 0
        messages = self._replay(fresh, upto, faults)
        for table in _TABLES:
            differing = sum(
                db.execute(
                    f"SELECT count(*) FROM (SELECT * FROM {one} EXCEPT SELECT * FROM {two})"  # noqa: S608
                ).fetchone()[0]
                for one, two in (
                    (f"main.{table}", f"fresh.{table}"),
                    (f"fresh.{table}", f"main.{table}"),
                )
            )
            if differing:
                reason = f"the index differs from the journal in {differing} rows of {table}"
                faults.append(Fault(0, 0, 0, (), reason))
        db.execute("COMMIT")
        return messages

    def _replay(self, fresh: Index, upto: int, faults: list[Fault]) -> int:
        messages = 0
        fresh.db.execute("BEGIN")
        for record in self._store.journal.scan():
            if record.seq > upto:
                break
            value = from_bytes(record.payload)
            if isinstance(value, Kept):
                messages += 1
                place = (record.position.segment, record.position.offset, len(record.payload))
                faults += _signature(value, *place)
            fresh.apply(record.seq, value)
        fresh.db.execute("COMMIT")
        return messages


def _signature(record: Kept, segment: int, offset: int, size: int) -> list[Fault]:
    try:
        _, payload = open1(record.signed, MESSAGE_CONTEXT)
        Message.from_bytes(payload)
    except AmpdError as exc:
        return [Fault(segment, offset, size, (id_text(bytes(16)),), str(exc))]
    return []


def _numbers(first: int, last: int) -> tuple[str, ...]:
    """Which records a damage took: their numbers in the journal (the ids are lost with them)."""
    return (f"records {first} to {last}",) if last > first else (f"record {first}",)
