"""Which records are dead, and how the journal gets rid of them.

    Kept       when no mailbox and no sent list has its message
    Queued     when its item left the outbox
    Progress   when its message is gone          Marked, Released   when all its boxes are
    CardSeen, Contact, Agent, Epoch, Counters    when a later one says the same thing's news
    Deleted    when its `until` has passed, and its message lies nowhere in the journal
    Dropped    when its item lies nowhere in the journal
    Void, Lost, and a contact's removal: never; they are few and small

  K1  Nothing dies before what it killed is gone from the disk: otherwise a rebuild would bring
      that back. `garbage` says what is still there, and who killed it.
  K2  Numbers that must not run backwards (mailbox numbers, order numbers, gaps) are written as
      Counters, durably, before the first record that they come from is dropped.
  K3  What is dead stays dead, so it may be looked for beside the writing thread, which is held up
      for the rewriting of one segment (SEGMENT in writer.py) at a time.
  K4  A crash at any point costs nothing: places are hints, and a segment is the old or the new one.

A segment is rewritten when half of it is dead, so that each byte written wins at least one; and
also when it holds a deleted message for longer than DELETED_WITHIN, because a deleted message is to
be gone. The last segment is ended for that, if need be. At most ROUND segments at a time.
"""

import sqlite3
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Final

import trio

from ampd.model.values import value
from ampd.storage.groups import counted
from ampd.storage.journal import WORTH_IT
from ampd.storage.records import (
    Agent,
    CardSeen,
    Contact,
    Counters,
    Deleted,
    Dropped,
    Epoch,
    Kept,
    Marked,
    Progress,
    Queued,
    Record,
    Released,
)
from ampd.storage.rows import read_signed
from ampd.storage.transaction import Transaction
from ampd.storage.writer import Writer

DELETED_WITHIN: Final = 86_400_000  # milliseconds; a day, so that few segments end early
ROUND: Final = 16  # 32 MiB: a minute of a slow disk's time at most

Seen = tuple[bytes, bytes, bytes]
Write = Callable[[Callable[[Transaction], Any]], Awaitable[Any]]
Chore = Callable[[Callable[[], Any]], Awaitable[Any]]


@value
class Dead:
    """What is dead in one segment, and the marks as seen that end with it."""

    seqs: frozenset[int]
    seen: list[Seen]


async def clean(
    writer: Writer,
    write: Write,
    chore: Chore,
    reader: Callable[[], sqlite3.Connection],
    now: int,
    deleted_within: int,
) -> int:
    """One round; how many segments were rewritten."""
    db = reader()
    try:
        due = _deletions_due(db, now, deleted_within)
        if due and _garbage(db, writer.journal.sealed[-1][1] if writer.journal.sealed else 1):
            await chore(writer.rotate)
        chosen = _chosen(writer, db, due=due)
        if not chosen:
            return 0
        await write(lambda tx: tx.append(counters(tx.db)))  # K2
        done = 0
        for first, until in chosen:
            dead = await trio.to_thread.run_sync(_find, writer, db, first, until, now)
            done += await chore(partial(_rewrite, writer, first, until, dead))
        if due:
            await chore(lambda: _note_cleaned(writer, now))
        return done
    finally:
        db.close()


def _deletions_due(db: sqlite3.Connection, now: int, deleted_within: int) -> bool:
    row = db.execute("SELECT value FROM meta WHERE name='cleaned_at'").fetchone()
    return row is None or now - row[0] >= deleted_within or now < row[0]


def _garbage(db: sqlite3.Connection, first: int, until: int = 1 << 62) -> bool:
    """Whether deleted messages lie in these records."""
    row = db.execute(
        "SELECT 1 FROM garbage WHERE seq>=? AND seq<? AND id IS NOT NULL LIMIT 1", (first, until)
    ).fetchone()
    return row is not None


def _chosen(writer: Writer, db: sqlite3.Connection, *, due: bool) -> list[tuple[int, int]]:
    """The segments that are worth it, or due, those with the most dead bytes first."""
    found = []
    for first, until, size in writer.journal.sealed:
        row = db.execute(
            "SELECT coalesce(sum(size),0), count(id) FROM garbage WHERE seq>=? AND seq<?",
            (first, until),
        ).fetchone()
        if row[0] >= WORTH_IT * size or (due and row[1]):
            found.append((row[0], first, until))
    return [(first, until) for _, first, until in sorted(found, reverse=True)[:ROUND]]


def counters(db: sqlite3.Connection) -> Counters:
    """The numbers as they stand (K2)."""

    def rows(sql: str) -> tuple[Any, ...]:
        return tuple(tuple(row) for row in db.execute(sql))

    return Counters(
        rows("SELECT key, last FROM holders WHERE last>0"),
        rows("SELECT sender, recipient, epoch, last FROM pairs_out"),
        rows("SELECT recipient, sender, epoch, last FROM pairs_in ORDER BY age"),  # rows.py, H2
        rows("SELECT recipient, sender, epoch, number, upto, at FROM gaps"),
    )


def _find(writer: Writer, db: sqlite3.Connection, first: int, until: int, now: int) -> Dead:
    """K3: read one segment and judge each of its records."""
    seqs: set[int] = set()
    seen: list[Seen] = []
    for seq, record, _ in counted(writer.journal, first - 1, until, void=seqs.add):
        if is_dead(db, seq, record, now):
            seqs.add(seq)
            if isinstance(record, Deleted):
                seen.append((record.sender, record.id, record.agent))
    return Dead(frozenset(seqs), seen)


def is_dead(  # noqa: PLR0911 - one return for each kind
    db: sqlite3.Connection, seq: int, record: Record, now: int
) -> bool:
    """Whether a rebuild without this record gives the same index."""

    def there(sql: str, *values: Any) -> bool:
        return db.execute(f"SELECT 1 FROM {sql} LIMIT 1", values).fetchone() is not None  # noqa: S608

    if there("garbage WHERE killer=?", seq):  # K1
        return False
    match record:
        case Deleted():
            return record.until <= now and not (
                there("messages WHERE id=?", record.id) or there("garbage WHERE id=?", record.id)
            )
        case Marked():
            return not any(_boxed(there, record.agent, number) for number in record.messages)
        case Released():
            return not _boxed(there, record.agent, record.new_number)
        case Contact():
            return _contact_is_dead(there, seq, record)
        case Epoch() | Counters():
            newest = "epoch_seq" if isinstance(record, Epoch) else "counters_seq"
            return there("meta WHERE name=? AND value>?", newest, seq)
        case _:
            needed = _needs(seq, record)
            return needed is not None and not there(*needed)


def _needs(  # noqa: PLR0911 - one return for each kind
    seq: int, record: Record
) -> tuple[Any, ...] | None:
    """The row without which the record says nothing; None if it never dies."""
    match record:
        case Kept():
            return ("messages WHERE seq=?", seq)
        case Queued():
            return ("outbox WHERE item=?", seq)
        case Dropped():
            return ("garbage WHERE killer=?", seq)
        case Progress():
            return ("messages WHERE id=?", record.message)
        case CardSeen():
            return ("cards WHERE key=? AND seq=?", read_signed(record.card)[0], seq)
        case Agent():
            return ("holders WHERE key=? AND seq=?", record.key, seq)
    return None


def _boxed(there: Callable[..., bool], agent: bytes, number: int) -> bool:
    return there(
        "boxes WHERE agent=(SELECT id FROM holders WHERE key=?) AND number=?", agent, number
    )


def _contact_is_dead(there: Callable[..., bool], seq: int, record: Contact) -> bool:
    known = there("contacts WHERE address=? AND key=?", record.address, record.key)
    if record.state == "removed":
        return known
    return not there(
        "contacts WHERE address=? AND key=? AND seq=?", record.address, record.key, seq
    )


def _rewrite(writer: Writer, first: int, until: int, dead: Dead) -> int:
    """In the writing thread: one segment, and what the index says of it."""
    before = writer.journal.size_bytes
    moved = writer.journal.compact(dead.seqs.__contains__, share=0, segments=[first])
    changed = writer.journal.size_bytes < before
    writer.compacted(
        moved, first, until, dead.seen if changed else [], changed=changed or not dead.seqs
    )
    return int(changed)


def _note_cleaned(writer: Writer, now: int) -> None:
    writer.index.set_meta("cleaned_at", now)
