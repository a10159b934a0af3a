"""Rows of kept messages that wait for SQLite, so that many of them go in by one statement.

  W1  What waits is seen by nobody: whoever reads tables that it belongs to calls `flush` first.
  W2  A work's rows are in before the work ends (writer.py), so what a rollback takes away and what
      is dropped by `clear` are the same records.
  W3  How often it is flushed changes nothing of what is in the tables in the end.

Not here: which rows a record makes (applying.py).
"""

import sqlite3
from typing import Any, Final

STATES: Final = ("unread", "read", "acked", "quarantined")
MOST: Final = 1000  # messages that wait during a rebuild: about a MiB

_MESSAGE: Final = f"INSERT INTO messages VALUES({','.join('?' * 21)})"
_BOX: Final = "INTO boxes(agent,number,message,sender,state,reason) VALUES(?,?,?,?,?,?)"
_DELIVERY: Final = (
    "INSERT INTO deliveries(message,recipient,address,key,status,via,at,delivered_at)"
    " VALUES(?,?,?,?,?,?,?,?)"
)
_ORDER: Final = "INSERT OR REPLACE INTO pairs_out VALUES(?,?,?,?)"
_RECEIVED: Final = (
    "INSERT INTO pairs_in VALUES(?,?,?,?,?) ON CONFLICT DO UPDATE SET last=excluded.last"
)
_SENT: Final = "UPDATE holders SET sent=sent+? WHERE id=?"
_CAME: Final = tuple(
    f"UPDATE holders SET last=max(last,?), {column}={column}+? WHERE id=?"  # noqa: S608
    for column in STATES
)


class Pending:
    """What `_kept` of the applier made and SQLite does not have yet."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        self.messages: list[tuple[Any, ...]] = []
        self.deliveries: list[tuple[Any, ...]] = []
        # by recipient, sender, epoch: the last number, and the record in which the epoch came
        self.received: dict[tuple[bytes, bytes, bytes], tuple[int, int]] = {}
        self._boxes: list[tuple[Any, ...]] = []
        self._orders: dict[tuple[bytes, bytes], tuple[bytes, int]] = {}
        self._sent: dict[int, int] = {}
        self._came: dict[tuple[int, int], tuple[int, int]] = {}  # holder, state: number, how many

    def __bool__(self) -> bool:
        return bool(self.messages or self._boxes or self.deliveries)

    def box(self, holder: int, number: int, message: int, sender: int, *rest: Any) -> None:
        """A message in a mailbox; `rest` is its state and the reason."""
        self._boxes.append((holder, number, message, sender, *rest))
        last, count = self._came.get((holder, rest[0]), (0, 0))
        self._came[holder, rest[0]] = max(last, number), count + 1

    def order(self, sender: bytes, recipient: bytes, epoch: bytes, order: int) -> None:
        """The last order number of a pair."""
        self._orders[sender, recipient] = epoch, order

    def sent(self, holder: int) -> None:
        """One more that this holder sent."""
        self._sent[holder] = self._sent.get(holder, 0) + 1

    def flush(self) -> None:
        """All of it into the tables."""
        run = self._db.executemany
        run(_MESSAGE, self.messages)
        if self._boxes:
            self._flush_boxes()
        if self.received:
            run(_RECEIVED, [(*pair, *last) for pair, last in self.received.items()])
        if self.deliveries:
            run(_DELIVERY, self.deliveries)
            run(_ORDER, [(*pair, *last) for pair, last in self._orders.items()])
            run(_SENT, [(count, holder) for holder, count in self._sent.items()])
        self.clear()

    def _flush_boxes(self) -> None:
        try:
            self._db.executemany(f"INSERT {_BOX}", self._boxes)
        except sqlite3.IntegrityError:  # a Void was lost, and its number given out again (A2)
            self._db.executemany(f"INSERT OR REPLACE {_BOX}", self._boxes)
        for (holder, state), (last, count) in self._came.items():
            self._db.execute(_CAME[state], (last, count, holder))

    def clear(self) -> None:
        """Nothing waits any more."""
        self.messages.clear()
        self.deliveries.clear()
        self.received.clear()
        self._boxes.clear()
        self._orders.clear()
        self._sent.clear()
        self._came.clear()
