"""What is known of an address and a key, and how far it is trusted (contacts.py, N3)."""

import json
import sqlite3
from typing import Final, Protocol

from ampd.model.values import value
from ampd.storage.view import Reader

# How the index tells trust, for any query that has messages as m.
TRUST_JOIN: Final = (
    " LEFT JOIN contacts c ON c.address=m.sender AND c.key=m.sender_key"
    " LEFT JOIN agents la ON la.key=m.sender_key"
)
TRUST: Final = (
    "CASE WHEN la.outside=0 OR m.via='system' OR c.state='verified' THEN 'verified'"
    " WHEN la.outside=1 OR c.state IN ('seen','pinned') THEN 'external' ELSE 'untrusted' END"
)


@value
class Known:
    """One contact, as the user sees it."""

    address: str
    key: bytes
    state: str
    blocked: bool
    since: int
    source: str
    relays: tuple[str, ...]
    note: str

    @property
    def trust(self) -> str:
        """N3."""
        known = {"verified": "verified", "seen": "external", "pinned": "external"}
        return known.get(self.state, "untrusted")


class Shadows(Protocol):
    """Addresses without a key of their own (foreign.py)."""

    def held(self, text: str) -> Known | None:
        """The contact that an address can be made, of which mail is held back that nobody proved.

        None if there is no such mail, or if the address is a contact with a key of its own.
        """

    def unproved_of(self, contact: Known) -> bytes | None:
        """The key of what came unproved from the address of a contact; None if it has its own."""


def known_of(row: sqlite3.Row) -> Known:
    """The contact that a row of the index is."""
    return Known(
        row["address"], row["key"], row["state"], bool(row["blocked"]), row["since"],
        row["source"], tuple(json.loads(row["relays"])), row["note"],
    )  # fmt: skip


def known_at(db: Reader, address: str) -> list[Known]:
    """All contacts of one address, the pinned key first."""
    rows = db.execute("SELECT * FROM contacts WHERE address=?", (address,)).fetchall()
    order = ("verified", "pinned", "seen", "pending", "conflict")
    return sorted((known_of(row) for row in rows), key=lambda known: order.index(known.state))
