"""This module is the part of a relay's SQLite store that knows people: cards, invitations, members.

Plain functions on a connection inside a transaction of the caller; what they promise is RS6 and RS7
of port.py. A member that was removed stays as a row that says so, which is why an old invitation
does not bring it back.

Not here: when they run (sqlite.py), how a batch is made durable (writer.py).
"""

import sqlite3
from typing import Final

from ampd.model.values import value
from ampd.storage.relay_store.port import RETRY_STORE, Full, check_uses

SCHEMA: Final = (
    """CREATE TABLE IF NOT EXISTS cards(key BLOB PRIMARY KEY, address TEXT NOT NULL,
        domain TEXT NOT NULL, number INTEGER NOT NULL, signed BLOB NOT NULL,
        withdrawn INTEGER NOT NULL) WITHOUT ROWID""",
    "CREATE INDEX IF NOT EXISTS cards_address ON cards(address, withdrawn)",
    "CREATE INDEX IF NOT EXISTS cards_domain ON cards(domain, withdrawn)",
    """CREATE TABLE IF NOT EXISTS invitations(hash BLOB PRIMARY KEY, until INTEGER NOT NULL,
        uses INTEGER NOT NULL) WITHOUT ROWID""",
    """CREATE TABLE IF NOT EXISTS members(node BLOB PRIMARY KEY, member INTEGER NOT NULL)
        WITHOUT ROWID""",
)


@value
class CardRow:
    """What the directory knows of a card beside its signed bytes."""

    key: bytes
    address: str
    number: int
    signed: bytes
    withdrawn: bool
    renew: bool = False


def put_card(db: sqlite3.Connection, card: CardRow, most: int) -> bool:
    """Keep it if it is newer than the kept one of its key (with `renew`, as new); Full when it
    would be one too many."""
    kept = db.execute("SELECT number FROM cards WHERE key=?", (card.key,)).fetchone()
    if kept is not None and kept[0] >= card.number + card.renew:
        return False
    if kept is None and db.execute("SELECT count(*) FROM cards").fetchone()[0] >= most:
        raise Full(f"the relay's directory is full: {most} cards", RETRY_STORE)
    domain = card.address.rpartition("@")[2]
    db.execute(
        "INSERT OR REPLACE INTO cards VALUES(?,?,?,?,?,?)",
        (card.key, card.address, domain, card.number, card.signed, card.withdrawn),
    )
    return True


def card(db: sqlite3.Connection, key: bytes) -> bytes | None:
    """The newest of a key."""
    row = db.execute("SELECT signed FROM cards WHERE key=?", (key,)).fetchone()
    return bytes(row[0]) if row else None


def cards(db: sqlite3.Connection, pattern: str, limit: int) -> list[bytes]:
    """Of an address, of "@domain", or of everybody (""); the withdrawn ones last."""
    name, _, domain = pattern.rpartition("@")
    where, value = ("address", pattern) if name else ("domain", domain)
    some = f"WHERE {where}=?1" if pattern else ""
    query = f"SELECT signed FROM cards {some} ORDER BY withdrawn, address, key LIMIT ?2"  # noqa: S608
    return [row[0] for row in db.execute(query, (value, limit))]


def add_invitation(db: sqlite3.Connection, token_hash: bytes, until: int, uses: int) -> None:
    """A new one, or new terms for a known one."""
    check_uses(uses)
    db.execute("INSERT OR REPLACE INTO invitations VALUES(?,?,?)", (token_hash, until, uses))


def redeem(db: sqlite3.Connection, token_hash: bytes, node: bytes, now: int) -> bool:
    """Make a node that was never here a member, and use up one use."""
    row = db.execute("SELECT member FROM members WHERE node=?", (node,)).fetchone()
    if row is not None:
        return bool(row[0])
    used = db.execute(
        "UPDATE invitations SET uses=uses-1 WHERE hash=? AND until>? AND uses>0", (token_hash, now)
    ).rowcount
    if used:
        set_member(db, node, member=True)
    return used == 1


def is_member(db: sqlite3.Connection, node: bytes) -> bool:
    """Whether it is in, now."""
    query = "SELECT 1 FROM members WHERE node=? AND member=1"
    return db.execute(query, (node,)).fetchone() is not None


def set_member(db: sqlite3.Connection, node: bytes, *, member: bool) -> None:
    """In or out, from now on."""
    db.execute("INSERT OR REPLACE INTO members VALUES(?,?)", (node, member))


def expire(db: sqlite3.Connection, now: int) -> None:
    """Forget invitations that ended."""
    db.execute("DELETE FROM invitations WHERE until<=?", (now,))
