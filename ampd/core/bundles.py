"""Mail on a stick: undelivered letters and cards as items of a file that a person carries.

L1  An item is one CBOR map, {v: 1, kind: "envelope", envelope} or {v: 1, kind: "card", card}; its
    envelope is sealed and its card signed, so the carrier can read and change nothing.
L2  Writing changes nothing here: what was written is still queued, and goes by any other way too.
L3  Reading is idempotent; what is for an agent here is kept as any mail is, and its signed receipt
    is queued: it comes back with the next session, relay or bundle.
L4  One item that is refused, is for somebody else, or is damaged or of a kind of the future, is
    counted and keeps no other from being taken; only a disk that fails ends the reading.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from ampd.core.agents import Agents
from ampd.core.cards import read_card
from ampd.core.contacts import Contacts
from ampd.core.mailbox import Mailbox
from ampd.model.card import MAX_CARD
from ampd.model.encoding import decode, encode
from ampd.model.errors import Invalid, Refused, StaleKey, StorageError, Unavailable
from ampd.model.fields import Fields
from ampd.model.message import MAX_ENVELOPE, Envelope
from ampd.model.values import value
from ampd.storage.records import Queued
from ampd.storage.store import Store

PAGE_BYTES: Final = 2 << 20  # a quarter of what one line of the socket may hold
_LARGEST: Final = 2 * MAX_ENVELOPE
# To whom has no key that fits, both look the same.
_UNREADABLE: Final = "it does not open: damaged on its way, or sealed to a key that is gone"


@value
class Page:
    """Some items of a bundle, and where to go on (0: it was the last)."""

    items: tuple[bytes, ...]
    envelopes: int
    cards: int
    next: int


@dataclass(slots=True)
class Taken:
    """What reading did."""

    messages: int = 0
    receipts: int = 0
    known: int = 0
    elsewhere: int = 0
    refused: int = 0
    cards: int = 0
    reason: str = ""  # why the first one was refused

    def refuse(self, reason: str) -> None:
        """L4."""
        self.refused += 1
        self.reason = self.reason or reason


class Bundles:
    """Writes and reads bundles."""

    def __init__(self, store: Store, agents: Agents, contacts: Contacts, mailbox: Mailbox) -> None:
        self._store = store
        self._agents = agents
        self._contacts = contacts
        self._mailbox = mailbox

    def write(self, to: Sequence[str], after: int) -> Page:
        """The items behind the cursor `after`: first all cards, then queued letters (L2)."""
        items: list[bytes] = []
        size = envelopes = 0
        cards = 0
        if not after:
            items = [encode({"v": 1, "kind": "card", "card": c}) for c in self._agents.cards()]
            cards = len(items)
        targets = [str(self._contacts.resolve(text).address) for text in to]
        where = f" AND address IN ({','.join('?' * len(targets))})" if targets else ""
        rows = self._store.view.execute(
            f"SELECT item, mailbox, expires FROM outbox WHERE item>?{where} ORDER BY item",  # noqa: S608
            (after, *targets),
        )
        for item, mailbox, expires in rows:
            record = self._store.payload(item)
            if not isinstance(record, Queued):
                continue
            envelope = Envelope(mailbox, expires, record.sealed)
            data = encode({"v": 1, "kind": "envelope", "envelope": envelope.to_wire()})
            items.append(data)
            envelopes += 1
            size += len(data)
            if size >= PAGE_BYTES:
                return Page(tuple(items), envelopes, cards, item)
        return Page(tuple(items), envelopes, cards, 0)

    async def read(self, items: Sequence[bytes]) -> Taken:
        """Take in items (L3); what is not for an agent here is passed over and counted."""
        taken = Taken()
        for item in items:
            try:
                await self._read(item, taken)
            except Refused as exc:
                taken.refuse(str(exc))
        return taken

    async def _read(self, item: bytes, taken: Taken) -> None:
        """One item. Raises Refused (or Invalid) for what it is."""
        fields = Fields(decode(item, limit=_LARGEST), "item of a bundle")
        fields.version(1)
        kind = fields.text("kind", 16)
        if kind == "card":
            signed = fields.some_data("card", MAX_CARD)
            read_card(signed)
            await self._contacts.learn([signed], b"", "bundle")
            taken.cards += 1
        elif kind == "envelope":
            await self._take(Envelope.from_wire(fields.items("envelope", 3)), taken)
        else:
            raise Invalid(f"an item of kind {kind!r}: a newer ampd wrote it")

    async def _take(self, envelope: Envelope, taken: Taken) -> None:
        if self._agents.of_mailbox(envelope.mailbox) is None:
            taken.elsewhere += 1
            return
        (came,) = await self._mailbox.take([envelope], b"", "bundle")
        if isinstance(came, StorageError):
            raise came
        if isinstance(came, Refused | Unavailable):  # it is still in its sender's outbox
            taken.refuse(_UNREADABLE if isinstance(came, StaleKey) else str(came))
        elif came.what == "receipt":
            taken.receipts += 1
        elif came.what == "known":
            taken.known += 1
        else:
            taken.messages += 1
