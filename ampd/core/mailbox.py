"""The one door in: what came from anywhere, to stay in the mailbox of an agent here.

    deliver   opened, checked, judged, kept: then the receipt is true

  B1  Nothing is kept but what its sender's key signed, for this agent's key, not expired, and not
      dated more than a day ahead (P6).
  B2  A message is kept once, however often and by whichever way it comes (P2); a repeated one is
      answered with a receipt again. The mark as seen outlives the message.
  B3  A receipt goes out only after the sync that holds the message and its mark (P1), and only for
      the bytes that were kept: others under the same id are refused, also after a deletion.
  B4  A key that differs from the one known for an address is quarantined, never shown as that
      address's mail (contacts.py, N2).
  B5  What was sealed to a key that is gone is refused with the newer card.
  B6  A receipt counts only if the key signed it that the message was addressed to (receipts.py).
  B7  What only a clock says against (expired, dated ahead) is refused for now, with the reason: the
      sender's own clock, which made the times, decides in the end. What a carrier brought is
      refused for good: it would hold up what lies behind it, and its sender keeps it.
  B8  What a relay or a stick brought is answered by a receipt that travels as mail does.

Not here: lists (lists.py), marks (marks.py), what goes out (submission.py, transfer.py).
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Final

import trio

from ampd.core import json_text
from ampd.core.agents import Agent, Agents
from ampd.core.contacts import Contacts, next_number, read_card
from ampd.core.receipts import note_receipt, queue_receipt, receipt_for
from ampd.core.safety import flags
from ampd.crypto.keys import open1
from ampd.model.card import MAX_CARD, Card
from ampd.model.errors import Invalid, Refused, StaleKey, Unavailable
from ampd.model.message import (
    MESSAGE_CONTEXT,
    RECEIPT_CONTEXT,
    Delivery,
    Envelope,
    Letter,
    Message,
    Receipt,
    digest,
)
from ampd.storage.records import Kept, State
from ampd.storage.store import MAX_BATCH, Store, Transaction

LONGEST_EXPIRY: Final = 30 * 86_400_000  # the mark as seen is kept 31 days
AHEAD: Final = 86_400_000  # a clock may be wrong by a day (wire: "Envelope")


@dataclass(frozen=True, slots=True)
class Opened:
    """A letter that held up to every check that needs no memory."""

    message: Message
    signed: bytes
    key: bytes
    card: tuple[bytes, Card] | None  # the sender's, if it was in the letter and is its own


@dataclass(frozen=True, slots=True)
class Taken:
    """What came: "message", "known" (it was here before) or "receipt"; and our receipt for it."""

    what: str
    receipt: bytes


class Mailbox:
    """Implements ports.Door."""

    def __init__(
        self,
        store: Store,
        agents: Agents,
        contacts: Contacts,
        now: Callable[[], int],
        message_bytes: int,
        relays: Collection[bytes] = (),
    ) -> None:
        """`relays` holds the node keys of this node's relays, as they are at the moment."""
        self._relays = relays
        self._store = store
        self._agents = agents
        self._contacts = contacts
        self._now = now
        self.message_bytes = message_bytes
        self._unsettled: dict[int, bytes] = {}  # record -> hash of what it keeps

    async def deliver(self, envelope: Envelope, node: bytes) -> Delivery:
        """Return once the message, or the receipt, is safe here (B1-B6)."""
        taken = await self.take(envelope, node, "relay" if node in self._relays else "direct")
        return Delivery("delivered", taken.receipt)

    async def take(self, envelope: Envelope, node: bytes, via: str) -> Taken:
        """The same, for what came by the way `via`, with what it was."""
        agent = self._agents.of_mailbox(envelope.mailbox)
        if agent is None:
            raise Refused("there is no such mailbox here", code="recipient_unknown")
        if len(envelope.sealed) > 2 * (self.message_bytes + MAX_CARD):  # a letter and its padding
            raise self._too_large()
        plain = agent.keys.open(envelope.sealed)
        if plain is None:
            raise StaleKey("sealed to a key that is gone", agent.signed_card)
        letter = Letter.from_bytes(plain)
        if letter.kind == "receipt":
            return await self._take_receipt(letter, agent, via)
        if letter.kind != "message":
            raise Invalid(f"a letter of kind {letter.kind!r}")
        opened = self._check(letter, agent)
        at, fresh = await self._store.write(lambda tx: self._keep(tx, agent, opened, node, via))
        receipt = receipt_for(agent, opened.message, opened.signed, "delivered", at)
        return Taken("message" if fresh else "known", receipt)

    def cards(self) -> list[bytes]:
        """The signed cards of this node's agents."""
        return self._agents.cards()

    async def learn(self, cards: list[bytes], node: bytes) -> None:
        """Keep the cards that a peer showed."""
        await self._contacts.learn(cards, node, "lan")

    async def cards_for(self, addresses: Sequence[str], _node: bytes) -> list[bytes]:
        """The cards of our agents at these addresses; "@domain" and "" as ports.Door says."""
        asked = {address.lower() for address in addresses}
        await trio.lowlevel.checkpoint()
        return [
            agent.signed_card
            for agent in self._agents
            if asked & {"", f"@{agent.address.domain}", str(agent.address)}
        ]

    async def join(self, _token: bytes, _node: bytes) -> None:
        """A relay is another program."""
        await trio.lowlevel.checkpoint()
        raise Refused("this node keeps no mail for others: it is no relay", code="forbidden")

    async def collect(self, _cards: list[bytes], _node: bytes) -> None:
        """A relay is another program."""
        await trio.lowlevel.checkpoint()
        raise Refused("this node keeps no mail for others: it is no relay", code="forbidden")

    async def left(self, _node: bytes) -> None:
        """Nothing here hangs on a session."""
        await trio.lowlevel.checkpoint()

    def _check(self, letter: Letter, agent: Agent) -> Opened:
        """Everything about a message that needs no memory (B1)."""
        if len(letter.signed) > self.message_bytes:
            raise self._too_large()
        key, payload = open1(letter.signed, MESSAGE_CONTEXT)
        message = Message.from_bytes(payload)
        if all(to.key != agent.key for to in message.to):
            raise Refused("not addressed to this agent", code="forged")
        for text in (message.payload, message.context):
            if text is not None:
                json_text.to_value(text)
        return Opened(message, letter.signed, key, _own_card(letter.card, key, message))

    def _too_large(self) -> Refused:
        return Refused(f"a message of more than {self.message_bytes} bytes", code="too_large")

    def _keep(
        self, tx: Transaction, agent: Agent, opened: Opened, node: bytes, via: str
    ) -> tuple[int, bool]:
        """Within the store's work: judge and append; when it was kept, and whether it is new."""
        message, key = opened.message, opened.key
        before = self._held_at(tx, agent, opened)
        if before:
            return before, False  # B2, also when it has expired since
        self._check_times(message, tx.now, via)
        reason = self._contacts.judge(tx, message.sender, key, via)
        if opened.card is not None:  # whoever wrote is no stranger by sight (contacts.py, N4)
            signed, card = opened.card
            self._contacts.take_card(tx, signed, key, card, node, via)
        state = State.QUARANTINED if reason else State.UNREAD
        found = flags(message.subject, message.body, message.payload or "", message.context or "")
        box = (agent.key, next_number(tx, agent.key), int(state), reason)
        self._remember(
            tx.append(Kept(opened.signed, tx.now, via, True, b"", (box,), found)), opened
        )
        if via != "direct":
            self._send_receipt(tx, agent, opened)
        return tx.now, True

    def _held_at(self, tx: Transaction, agent: Agent, opened: Opened) -> int:
        """When this agent got this message, or 0. Refused if only the id is the same (B3)."""
        at, seq, known = held_at(tx, agent.key, opened.key, opened.message.id)
        settled = tx.db.execute("SELECT 1 FROM places WHERE seq=?", (seq,)).fetchone()
        if settled:
            kept = self._store.payload_at(tx.db, seq)
            known = digest(kept.signed) if isinstance(kept, Kept) else b""
        elif seq:  # it came in this very moment, by another way: nothing can be read yet
            known = self._unsettled.get(seq, b"")
        if known and known != digest(opened.signed):
            raise Refused("another message of this sender has the same id", code="forged")
        return at

    def _remember(self, seq: int, opened: Opened) -> None:
        """What cannot be read before its sync; a batch of the store is the most that can be."""
        self._unsettled[seq] = digest(opened.signed)
        if len(self._unsettled) > MAX_BATCH:
            del self._unsettled[next(iter(self._unsettled))]

    def _check_times(self, message: Message, now: int, via: str) -> None:
        """B1, B7: refused for now to who offers it itself, for good to a carrier."""
        late = now - message.expires
        ahead = max(message.sent - now, message.expires - now - LONGEST_EXPIRY) - AHEAD
        if late < 0 and ahead < 0:
            return
        words = "expired" if late >= 0 else "dated ahead"
        if via != "direct":
            raise Refused(f"by this node's clock it is {words}", code="expired")
        raise Unavailable(
            f"by the clock of the recipient's node it is {words}: one of the two clocks is"
            f" wrong (here it is {now // 1000} s since 1970)"
        )

    def _send_receipt(self, tx: Transaction, agent: Agent, opened: Opened) -> None:
        """Whoever brought this cannot take the receipt back: it travels as mail does (B3)."""
        row = tx.db.execute("SELECT signed FROM cards WHERE key=?", (opened.key,)).fetchone()
        if row is not None:
            queue_receipt(tx, agent, opened.signed, row[0], "delivered")

    async def _take_receipt(self, letter: Letter, agent: Agent, via: str) -> Taken:
        key, payload = open1(letter.signed, RECEIPT_CONTEXT)
        receipt = Receipt.from_bytes(payload)

        def work(tx: Transaction) -> None:
            note_receipt(tx, self._store, self._agents, agent.key, key, receipt, letter.signed, via)

        await self._store.write(work)
        return Taken("receipt", b"")


def _own_card(signed: bytes, key: bytes, message: Message) -> tuple[bytes, Card] | None:
    """The card in a letter, if it is the sender's own; another one is passed over."""
    if not signed:
        return None
    try:
        signer, card = read_card(signed)
    except Refused:
        return None
    return (signed, card) if signer == key and card.address == message.sender else None


def held_at(
    tx: Transaction, agent: bytes, sender: bytes, identifier: bytes
) -> tuple[int, int, bytes]:
    """When this agent got this message, and where it lies; if it deleted it, 0 and the hash of its
    signed bytes. Zeros if it never came."""
    row = tx.db.execute(
        "SELECT m.at, m.seq, x'' FROM messages m JOIN boxes b ON b.message=m.seq"
        " JOIN agents a ON a.id=b.agent WHERE m.id=? AND m.sender_key=? AND a.key=?"
        " UNION ALL SELECT at, 0, digest FROM seen WHERE sender=? AND id=? AND agent=? LIMIT 1",
        (identifier, sender, agent, sender, identifier, agent),
    ).fetchone()
    return (int(row[0]), int(row[1]), bytes(row[2])) if row else (0, 0, b"")
