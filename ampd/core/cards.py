"""The cards that others show: which are kept, and how much of strangers' is.

A stranger here is a key that no agent of this node wrote to and that the user has not added: what
it costs to be one is a key pair. Nothing below holds back the card of somebody who is wanted.

  CD1  A card is kept if its own key signed it, mail for it can be sealed, its mailbox is its key's,
       and it is newer than the one known (model/card.py, C1, C4). An agent of this node has its
       card from here.
  CD2  At most MAX_STRANGERS contacts are made by sight alone; the user's own are not counted. One
       node makes no more of them than it leaves room for: one neighbour takes half at most, two a
       third each, so that none of them keeps the others from being seen.
  CD3  One node shows NODE_BYTES of strangers' cards at once, and as much again in a day; all of
       them together ALL_BYTES. A card that is known already costs nothing; one that finds no room
       is passed over, and is shown again with the next session.
  CD4  What is passed over costs little: a stranger for whom there is no room is dropped before its
       signature is looked at and before the store has any work. Strangers are counted once for
       what came together, and again only when contacts or cards have changed.
  CD5  That somebody is gone is of no interest who never was here.

Not here: which key an address is pinned to (contacts.py, N1), what strangers' letters may bring,
their cards included (mailbox.py, B11).
"""

import logging
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Final

import trio

from ampd.core.agents import Agents
from ampd.core.meters import Meters
from ampd.core.trust import known_at
from ampd.crypto.keys import check_sealing, open1
from ampd.model.card import CARD_CONTEXT, Card, mailbox_of
from ampd.model.errors import Refused
from ampd.model.values import value
from ampd.storage.records import CardSeen, Contact
from ampd.storage.store import Store, Transaction
from ampd.storage.view import Reader

MAX_STRANGERS: Final = 10_000  # ten LANs of 50 nodes with 20 agents each
MAX_SHOWN: Final = 1000  # cards of one node at once; the rest is passed over
NODE_BYTES: Final = 4 << 20  # 50 changes a day of 20 agents with cards of 4 KiB
ALL_BYTES: Final = 64 << 20  # node keys cost nothing: this is what a crowd of them writes in a day
_AT_ONCE: Final = 8  # cards verified before others get their turn: about 1 ms

log = logging.getLogger("ampd.cards")


@lru_cache(maxsize=512)  # each letter carries its sender's card, most of them the same again
def read_card(signed: bytes) -> tuple[bytes, Card]:
    """The signer and the card of a signed card; Refused if it is none (C1).

    So is one to which nobody could answer: reading its holder's mail would fail at the receipt.
    """
    key, payload = open1(signed, CARD_CONTEXT)
    card = Card.from_bytes(payload)
    check_sealing(card.inbox)
    check_sealing(card.fallback)
    return key, card


def signed_by(signed: bytes) -> bytes:
    """The key that a COSE_Sign1 names, unproved: where to look it up."""
    start = 7  # array(4), bytes(39), map(2), 1: -8, 4: bytes(32)
    return signed[start + 2 : start + 34]


def wanted(db: Reader, key: bytes) -> bool:
    """Whether the user has added the holder of a key, or an agent here has written to it."""
    sql = "SELECT 1 FROM contacts WHERE key=? AND state='verified'"
    return written_to(db, key) or db.execute(sql, (key,)).fetchone() is not None


def written_to(db: Reader, key: bytes) -> bool:
    """Whether an agent here has written to a key."""
    sql = "SELECT 1 FROM agents a JOIN pairs_out p ON p.sender=a.key AND p.recipient=? LIMIT 1"
    return db.execute(sql, (key,)).fetchone() is not None


@value
class Strangers:
    """How many contacts were made by sight alone, and by which node."""

    total: int
    by_node: dict[bytes, int]

    def crowded(self, node: bytes, more: int = 0) -> bool:
        """Whether `node`, which has just made `more`, may make no other (CD2)."""
        return self.by_node.get(node, 0) + more >= MAX_STRANGERS - self.total - more


def count_strangers(db: Reader) -> Strangers:
    """Those that there are: a few milliseconds for MAX_STRANGERS."""
    rows = db.execute(
        "SELECT d.node, count(*) FROM contacts c LEFT JOIN cards d ON d.key=c.key"
        " WHERE c.state IN ('seen','conflict') GROUP BY d.node"
    ).fetchall()
    return Strangers(sum(row[1] for row in rows), {row[0]: row[1] for row in rows})


@value
class _Known:
    """What is known of contacts, until something is written of them (CD4)."""

    changed: trio.Event
    strangers: Strangers
    verified: frozenset[bytes]  # keys that the user has added
    cardless: frozenset[bytes]  # keys of contacts that no card was seen of

    def crowded(self, node: bytes) -> bool:
        """CD2."""
        return self.strangers.crowded(node)


@value
class _Fresh:
    """A card that held up, to be kept."""

    signed: bytes
    key: bytes
    card: Card
    wanted: bool


class Cards:
    """Takes in what others show."""

    def __init__(self, store: Store, agents: Agents, now: Callable[[], int]) -> None:
        self._store = store
        self._agents = agents
        self._now = now
        self._of_node, self._of_all = Meters(NODE_BYTES), Meters(ALL_BYTES)
        self._known: _Known | None = None

    async def learn(self, cards: Sequence[bytes], node: bytes, source: str) -> None:
        """Keep the valid, newer ones of the signed cards that somebody showed."""
        fresh: list[_Fresh] = []
        looked_at = 0
        for signed in cards[:MAX_SHOWN]:
            wanted = self._worth_a_look(signed, node)
            if wanted is None:
                continue
            looked_at += 1
            if looked_at % _AT_ONCE == 0:
                await trio.lowlevel.checkpoint()  # local programs have their turn
            try:
                fresh.append(_Fresh(signed, *read_card(signed), wanted))
            except Refused:
                continue  # not a card: nobody's word, and nothing to tell
        if fresh:
            await self._store.write(lambda tx: self._take_all(tx, fresh, node, source))

    def _worth_a_look(self, signed: bytes, node: bytes) -> bool | None:
        """Whether a card is of somebody who is wanted; None if it is passed over unread."""
        key, view = signed_by(signed), self._store.view
        row = view.execute(
            "SELECT d.signed, c.state FROM cards d LEFT JOIN contacts c USING(key, address)"
            " WHERE d.key=?",
            (key,),
        ).fetchone()
        known, state = row or (None, None)
        if state is not None and known == signed:
            return None
        if state == "verified" or written_to(view, key):
            return True
        if state is None and not self._is_contact(key) and self._contacts().crowded(node):
            return None  # CD4
        if self._of_node.wait(node, len(signed), self._now() / 1000):  # CD3
            log.debug("a node shows too many cards", extra={"peer": node.hex()[:16]})
            return True if key in self._contacts().verified else None
        return False

    def _is_contact(self, key: bytes) -> bool:
        """Whether a key is a contact, though not at the address of a card that was seen."""
        return key in self._contacts().verified or key in self._contacts().cardless

    def _contacts(self) -> _Known:
        if self._known is None or self._known.changed.is_set():
            changed, view = self._store.changed("contacts"), self._store.view
            verified = view.execute("SELECT key FROM contacts WHERE state='verified'").fetchall()
            cardless = view.execute(
                "SELECT c.key FROM contacts c LEFT JOIN cards d ON d.key=c.key WHERE d.key IS NULL"
            ).fetchall()
            self._known = _Known(
                changed, count_strangers(view), frozenset(row[0] for row in verified),
                frozenset(row[0] for row in cardless),
            )  # fmt: skip
        return self._known

    # --- within the store's work ----------------------------------------------------------

    def taking(self, tx: Transaction, node: bytes, source: str) -> "Taking":
        """What one work takes of the cards that `node` showed, or brought with letters."""
        return Taking(self._agents, tx, node, source)

    def _take_all(self, tx: Transaction, fresh: Sequence[_Fresh], node: bytes, source: str) -> None:
        taking = self.taking(tx, node, source)
        for each in fresh:
            if each.wanted or self._has_room(tx, each):
                taking.take(each.signed, each.key, each.card)

    def _has_room(self, tx: Transaction, each: _Fresh) -> bool:
        """CD3, for all strangers together."""
        wait = self._of_all.wait(b"", len(each.signed), tx.now / 1000)
        return not wait or wanted(tx.db, each.key)


class Taking:
    """Takes cards within one work; strangers are counted at most once (CD4)."""

    def __init__(self, agents: Agents, tx: Transaction, node: bytes, source: str) -> None:
        self._agents = agents
        self._tx = tx
        self._node = node
        self._source = source
        self._strangers: Strangers | None = None
        self._made = 0

    def take(self, signed: bytes, key: bytes, card: Card) -> bool:
        """Keep a card if it is newer than the one known (CD1); whether it was.

        Its key is pinned to its address, if that has none (contacts.py, N1): also when the card
        is the one known and the contact was removed since.
        """
        tx = self._tx
        if self._agents.of_key(key) is not None or card.mailbox != mailbox_of(key):
            return False
        row = tx.db.execute("SELECT number, signed FROM cards WHERE key=?", (key,)).fetchone()
        newer = row is None or row[0] < card.number
        if not newer and row[1] != signed:
            return False
        known = known_at(tx.db, str(card.address))
        stranger = not any(contact.key == key for contact in known)
        if stranger and ((row is None and card.withdrawn) or self._crowded()):
            return False  # CD5, CD2
        if newer:
            tx.append(CardSeen(signed, self._node, tx.now))
        if stranger and not card.withdrawn:
            claimed = bool(known) or self._agents.claims(card.address)
            state = "conflict" if claimed else "seen"
            tx.append(Contact(str(card.address), key, state, False, tx.now, self._source))
            self._made += 1
        return newer

    def _crowded(self) -> bool:
        if self._strangers is None:
            self._strangers, self._made = count_strangers(self._tx.db), 0
        return self._strangers.crowded(self._node, self._made)
