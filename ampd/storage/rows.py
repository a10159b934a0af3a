"""The rows that records share: whom they speak of, and what they killed.

`holders` has a row for every key that a record names, `senders` one for every address; both are
made when they are missing. What is killed goes into `garbage` with the number of its killer.

Not here: which record does what (applying.py).
"""

import sqlite3
from typing import Any, Final

from ampd.model.encoding import decode_own

PREVIEW: Final = 120  # characters: one line of a wide terminal
SENT: Final = 4  # what is counted of a holder, after the four States
_LAST: Final = 5
_COUNT: Final = (
    "UPDATE holders SET unread=unread+?, read=read+?, acked=acked+?, quarantined=quarantined+?,"
    " sent=sent+?, last=max(last,?) WHERE id=?"
)
_SENDERS_CACHED: Final = 4096  # a few hundred KiB; the rest is looked up


class Rows:
    """Rows behind one connection, within the caller's transaction."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        self._holders: dict[bytes, int] = {}
        self._senders: dict[str, int] = {}
        self._counts: dict[int, list[int]] = {}
        self._orders: dict[tuple[bytes, bytes], tuple[bytes, int]] = {}

    def count(self, row: int, what: int, number: int = 0) -> None:
        """A message came with this mailbox number; `what`: its State, or SENT. See `settle`."""
        counts = self._counts.get(row)
        if counts is None:
            counts = self._counts[row] = [0] * 6
        counts[what] += 1
        counts[_LAST] = max(counts[_LAST], number)

    def order(self, sender: bytes, recipient: bytes, epoch: bytes, number: int) -> None:
        """The last order number of a pair. See `settle`."""
        self._orders[sender, recipient] = (epoch, number)

    def settle(self) -> None:
        """Write down what was counted: once a record, and once a thousand in a rebuild."""
        if self._counts:
            self._db.executemany(_COUNT, [(*counts, row) for row, counts in self._counts.items()])
            self._counts.clear()
        if self._orders:
            self._db.executemany(
                "INSERT OR REPLACE INTO pairs_out VALUES(?,?,?,?)",
                [(*pair, *last) for pair, last in self._orders.items()],
            )
            self._orders.clear()

    def forget_cache(self) -> None:
        """After a rollback, what was remembered may not exist."""
        self._counts.clear()
        self._orders.clear()
        self._holders.clear()
        self._senders.clear()

    def holder(self, key: bytes) -> int:
        """The row of a key; made when it is missing."""
        found = self._holders.get(key)
        if found is None:
            row = self._db.execute("SELECT id FROM holders WHERE key=?", (key,)).fetchone()
            if row is None:
                self._db.execute("INSERT INTO holders(key) VALUES(?)", (key,))
                return self.holder(key)
            found = self._holders[key] = row[0]
        return found

    def sender(self, address: str) -> int:
        """The row of an address; made when it is missing."""
        found = self._senders.get(address)
        if found is None:
            row = self._db.execute("SELECT id FROM senders WHERE address=?", (address,)).fetchone()
            if row is None:
                self._db.execute("INSERT INTO senders(address) VALUES(?)", (address,))
                return self.sender(address)
            if len(self._senders) >= _SENDERS_CACHED:
                self._senders.clear()
            found = self._senders[address] = row[0]
        return found

    def drop_if_unheld(self, message: int, killer: int) -> None:
        """A message that is in no mailbox and in no sent list goes."""
        held = self._db.execute(
            "SELECT 1 FROM messages WHERE seq=? AND by IS NOT NULL"
            " UNION ALL SELECT 1 FROM boxes WHERE message=? LIMIT 1",
            (message, message),
        ).fetchone()
        if held is not None:
            return
        self._db.execute(
            "INSERT OR REPLACE INTO garbage SELECT seq, size, ?, id FROM messages WHERE seq=?",
            (killer, message),
        )
        for table, column in (
            ("messages", "seq"), ("deliveries", "message"), ("receipts", "message"),
            ("places", "seq"),
        ):  # fmt: skip
            self._db.execute(f"DELETE FROM {table} WHERE {column}=?", (message,))  # noqa: S608

    def kill_items(self, where: str, values: tuple[Any, ...], killer: int) -> None:
        """Letters leave the outbox."""
        self._db.execute(
            "INSERT OR REPLACE INTO garbage"  # noqa: S608
            f" SELECT item, size, ?, NULL FROM outbox WHERE {where}",
            (killer, *values),
        )
        self._db.execute(
            f"DELETE FROM places WHERE seq IN (SELECT item FROM outbox WHERE {where})",  # noqa: S608
            values,
        )
        self._db.execute(f"DELETE FROM outbox WHERE {where}", values)  # noqa: S608


def read_signed(signed: bytes) -> tuple[bytes, dict[str, Any]]:
    """The signer's key and the members of a COSE_Sign1's payload.

    Only for bytes that were verified when they came and lay in the journal since.
    """
    outer: Any = decode_own(signed)
    payload: Any = decode_own(outer[2])
    return outer[0][-32:], payload


def read_payload(signed: bytes) -> bytes:
    """The signed bytes inside a COSE_Sign1; the same caution."""
    outer: Any = decode_own(signed)
    payload: bytes = outer[2]
    return payload


def preview(body: str) -> str:
    """The first words of a body, on one line."""
    words = " ".join(body[: 2 * PREVIEW].split())
    if len(words) < PREVIEW < len(body) / 2:  # much white space: look further
        words = " ".join(body[: 4 * PREVIEW].split())
    return words[:PREVIEW]
