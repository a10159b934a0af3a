"""The rows that records share: whom they speak of, and what they killed.

`holders` has a row for every key that a record names, `senders` one for every address; both are
made when they are missing. What is killed goes into `garbage` with the number of its killer.

Not here: which record does what (applying.py).
"""

import sqlite3
from typing import Any, Final

from ampd.model.encoding import decode_own

PREVIEW: Final = 120  # characters: one line of a wide terminal
_SENDERS_CACHED: Final = 4096  # a few hundred KiB; the rest is looked up


class Rows:
    """Rows behind one connection, within the caller's transaction."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        self._holders: dict[bytes, int] = {}
        self._senders: dict[str, int] = {}

    def forget_cache(self) -> None:
        """After a rollback, what was remembered may not exist."""
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
    return " ".join(body[: 4 * PREVIEW].split())[:PREVIEW]
