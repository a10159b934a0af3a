"""What a work of the store may do, and whom a record wakes.

Not here: when it runs, when it lasts (writer.py, store.py).
"""

import sqlite3
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, field
from typing import Any

import outcome

from ampd.model.errors import StorageError
from ampd.storage.index import Index
from ampd.storage.records import (
    Agent,
    CardSeen,
    Contact,
    Deleted,
    Dropped,
    Kept,
    Marked,
    Progress,
    Queued,
    Record,
    Released,
    to_bytes,
)
from ampd.storage.rows import Rows

Topic = Hashable


@dataclass(slots=True)
class Transaction:
    """What a work may do: read the index, append records."""

    index: Index
    next_seq: int
    now: int = 0
    payloads: list[bytes] = field(default_factory=list)
    bulk: list[int] = field(default_factory=list)  # numbers of the records that are read back
    topics: set[Topic] = field(default_factory=set)

    @property
    def db(self) -> sqlite3.Connection:
        """The index, with what this work appended."""
        return self.index.db

    @property
    def rows(self) -> Rows:
        """What sends must know, mostly without a query."""
        return self.index.rows

    def append(self, record: Record) -> int:
        """Keep `record`; its number in the journal. The index knows it at once."""
        seq = self.next_seq
        missing = self.index.apply(seq, record)
        self.payloads.append(to_bytes(record, missing))
        if isinstance(record, Kept | Queued):
            self.bulk.append(seq)
        self.next_seq += 1
        self.topics.update(topics_of(record))
        return seq


def topics_of(record: Record) -> Iterable[Topic]:
    """Whom a record wakes: followers of a mailbox, of an agent's sent mail, of the outbox."""
    match record:
        case Kept():
            yield from (("box", box[0]) for box in record.boxes)
            if record.by:
                yield ("sent", record.by)
            yield "kept"
        case Queued() | Dropped():
            yield "outbox"
        case Progress():
            yield ("sent", record.by)
            yield "outbox"
        case Marked() | Deleted() | Released():
            yield ("box", record.agent)
        case Agent():
            yield "agents"
        case CardSeen() | Contact():
            yield "contacts"
            yield "outbox"


class Work:
    """Something to be done within a transaction, and what came of it."""

    __slots__ = ("result", "run", "urgent")

    def __init__(self, run: Callable[[Transaction], Any], *, urgent: bool) -> None:
        self.run = run
        self.urgent = urgent
        self.result: outcome.Outcome[Any] = outcome.Error(StorageError("it was not done"))
