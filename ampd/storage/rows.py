"""The rows that records share: whom they speak of, how far they counted, what they killed.

`holders` has a row for every key that a record names, `senders` one for every address; both are
made when they are missing. What is killed goes into `garbage` with the number of its killer.

  H1  What every message asks (a mailbox's last number, a pair's last order number, the epoch) is
      read once and remembered until a rollback, or until a record changes it in another way.
  H2  Of a recipient and a sender, EPOCHS epochs are counted, those that came first go first: who
      makes up epochs makes no more rows than that. `age` orders them: the record in which an epoch
      came, or, of those in a snapshot (Counters), its place there less how many there are.

Not here: which record does what (applying.py).
"""

import sqlite3
from dataclasses import dataclass
from typing import Any, Final

from ampd.model.encoding import decode_own
from ampd.storage.pending import Pending

PREVIEW: Final = 120  # characters: one line of a wide terminal
EPOCHS: Final = 16  # of a pair: a store gets a new one when it is restored or copied
_CACHED: Final = 4096  # of a kind: a few hundred KiB; the rest is looked up


@dataclass(slots=True)
class Holder:
    """What is remembered of a key."""

    id: int
    last: int  # number in its mailbox
    removed: str  # the name that it had as an agent of this node, or ""


class Rows:
    """Rows behind one connection, within the caller's transaction."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        self._pending = Pending(db)
        self._holders: dict[bytes, Holder] = {}
        self._senders: dict[str, int] = {}
        self._orders: dict[tuple[bytes, bytes], tuple[bytes, int]] = {}
        self._came: dict[tuple[bytes, bytes, bytes], int] = {}
        self._store_epoch: bytes | None = None

    def forget_cache(self) -> None:
        """After a rollback, what was remembered may not exist."""
        self._pending.clear()
        self._forget_counts()
        self._senders.clear()

    def _forget_counts(self) -> None:
        self._holders.clear()
        self._orders.clear()
        self._came.clear()
        self._store_epoch = None

    def flush(self) -> None:
        """What waits goes into the tables, for whoever reads them (W1)."""
        if self._pending:
            self._pending.flush()

    # --- whom records speak of ---------------------------------------------------------------

    def holder(self, key: bytes) -> int:
        """The row of a key; made when it is missing."""
        return (self._holders.get(key) or self._known(key)).id

    def _known(self, key: bytes) -> Holder:
        found = self._holders.get(key)
        if found is None:
            self.flush()
            row = self._db.execute(
                "SELECT id, last, CASE WHEN removed THEN name END FROM holders WHERE key=?", (key,)
            ).fetchone()
            if row is None:
                self._db.execute("INSERT INTO holders(key) VALUES(?)", (key,))
                return self._known(key)
            if len(self._holders) >= _CACHED:
                self._holders.clear()
            found = self._holders[key] = Holder(row[0], row[1], row[2] or "")
        return found

    def removed(self, agent: bytes) -> str:
        """The name of an agent that was removed; "" of one that is here."""
        return self._known(agent).removed

    # --- how far it was counted (H1) ---------------------------------------------------------

    @property
    def epoch(self) -> bytes:
        """Of this store, since it was made or copied."""
        if self._store_epoch is None:
            row = self._db.execute("SELECT value FROM meta WHERE name='epoch'").fetchone()
            self._store_epoch = row[0] if row else b""
        return self._store_epoch

    def next_number(self, agent: bytes) -> int:
        """The next number of an agent's mailbox."""
        return self._known(agent).last + 1

    def next_order(self, sender: bytes, recipient: bytes) -> int:
        """The next order number of a pair in this epoch."""
        found = self._orders.get((sender, recipient))
        if found is None:
            self.flush()
            found = self._db.execute(
                "SELECT epoch, last FROM pairs_out WHERE sender=? AND recipient=?",
                (sender, recipient),
            ).fetchone() or (b"", 0)
            self._ordered(sender, recipient, *found)
        return found[1] + 1 if found[0] == self.epoch else 1

    def _ordered(self, sender: bytes, recipient: bytes, epoch: bytes, order: int) -> None:
        if len(self._orders) >= _CACHED:
            self._orders.clear()
        self._orders[sender, recipient] = epoch, order

    def last_received(self, pair: tuple[bytes, bytes, bytes]) -> int:
        """The last order number that came of a recipient, a sender and an epoch; 0 if none did."""
        found = self._came.get(pair)
        if found is None:
            self.flush()
            row = self._db.execute(
                "SELECT last FROM pairs_in WHERE recipient=? AND sender=? AND epoch=?", pair
            ).fetchone()
            if len(self._came) >= _CACHED:
                self._came.clear()
            found = self._came[pair] = row[0] if row else 0
        return found

    def received(self, pair: tuple[bytes, bytes, bytes], order: int, seq: int) -> None:
        """This one came with record `seq`, behind the last."""
        self._came[pair] = order
        first = self._pending.received.get(pair)
        self._pending.received[pair] = order, first[1] if first else seq

    def make_room(self, recipient: bytes, sender: bytes) -> None:
        """For one more epoch of a pair: of EPOCHS that are there, the oldest goes (H2)."""
        self.flush()
        row = self._db.execute(
            "SELECT count(*), min(age) FROM pairs_in WHERE recipient=? AND sender=?",
            (recipient, sender),
        ).fetchone()
        if row[0] >= EPOCHS:
            self._forget_epochs("recipient=? AND sender=? AND age=?", (recipient, sender, row[1]))

    def forget_epochs_over(self) -> None:
        """What a journal of before H2 counted beyond it."""
        newer = (
            "SELECT count(*) FROM pairs_in n WHERE n.recipient=p.recipient AND n.sender=p.sender"
            " AND n.age>p.age"
        )
        self._forget_epochs(
            "(recipient, sender, epoch) IN"  # noqa: S608
            f" (SELECT recipient, sender, epoch FROM pairs_in p WHERE ({newer})>=?)",
            (EPOCHS,),
        )

    def _forget_epochs(self, where: str, values: tuple[Any, ...]) -> None:
        pairs = self._db.execute(
            f"SELECT recipient, sender, epoch FROM pairs_in WHERE {where}",  # noqa: S608
            values,
        ).fetchall()
        for pair in map(tuple, pairs):
            for table in ("pairs_in", "gaps"):
                self._db.execute(
                    f"DELETE FROM {table} WHERE recipient=? AND sender=? AND epoch=?",  # noqa: S608
                    pair,
                )
            self._came.pop(pair, None)

    # --- rows --------------------------------------------------------------------------------

    def sender(self, address: str) -> int:
        """The row of an address; made when it is missing."""
        found = self._senders.get(address)
        if found is None:
            row = self._db.execute("SELECT id FROM senders WHERE address=?", (address,)).fetchone()
            if row is None:
                self._db.execute("INSERT INTO senders(address) VALUES(?)", (address,))
                return self.sender(address)
            if len(self._senders) >= _CACHED:
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
