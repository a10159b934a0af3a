"""On, to the next host: every queued letter, until its recipient's node has it.

D1  A letter stays in the outbox until a receipt, a refusal or its expiry; the number of
    attempts ends nothing.
D2  Letters for one node are offered in the order in which they were queued, several at a time.
D3  A node that is away is tried again when something changes (a session, a sighting, a network,
    a new letter), and otherwise after 1 s doubling to 5 min, with full jitter.
D4  A refusal and an expiry go back to the sender as a message, with the reason.
D5  A letter sealed to a stale key is sealed again to the newer card's, in its place.
D6  "delivered" is written only with a receipt that the recipient's key signed.
"""

import logging
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import trio

from ampd.core.agents import Agents
from ampd.core.contacts import Contacts
from ampd.core.notices import notify
from ampd.core.ports import Carrier
from ampd.core.receipts import note_receipt
from ampd.core.routing import routes
from ampd.core.whereabouts import Whereabouts
from ampd.crypto.keys import open1, seal
from ampd.model.card import CARD_CONTEXT, Card
from ampd.model.errors import AmpdError, Refused, StaleKey, StorageError, Unavailable
from ampd.model.message import RECEIPT_CONTEXT, Delivery, Envelope, Letter, Receipt
from ampd.storage.records import Dropped, Kept, Progress, Queued
from ampd.storage.store import Store, Transaction

FIRST_PAUSE: Final = 1.0  # seconds
LONGEST_PAUSE: Final = 300.0
AT_ONCE: Final = 64  # letters under way to one node: a session's window
SWEEP_EVERY: Final = 15.0  # seconds between looks for what has expired
_ROUNDS_OF_STALE: Final = 3  # a card that is stale as soon as it is shown is not believed forever

log = logging.getLogger("ampd.transfer")


@dataclass(frozen=True, slots=True)
class Waiting:
    """One row of the outbox."""

    item: int
    what: str
    message: bytes
    recipient: int
    by: bytes
    address: str
    key: bytes
    mailbox: bytes
    expires: int
    at: int


@dataclass(slots=True)
class Attempts:
    """What is remembered of one destination, in memory only."""

    count: int = 0
    next_at: int = 0  # milliseconds; 0: as soon as something changes
    last_error: str = ""


class Transfer:
    """Carries the outbox."""

    def __init__(
        self,
        store: Store,
        agents: Agents,
        contacts: Contacts,
        carrier: Carrier,
        whereabouts: Whereabouts,
        now: Callable[[], int],
        rng: random.Random,
    ) -> None:
        self._store = store
        self._agents = agents
        self._contacts = contacts
        self._carrier = carrier
        self._whereabouts = whereabouts
        self._now = now
        self._rng = rng
        self._busy: set[bytes] = set()
        self.attempts: dict[bytes, Attempts] = {}  # by node
        self._stale: dict[int, int] = {}

    def attempts_for(self, address: str) -> Attempts | None:
        """What is remembered of the ways to an address."""
        row = self._store.view.execute(
            "SELECT key FROM outbox WHERE address=? LIMIT 1", (address,)
        ).fetchone()
        if row is None:
            return None
        found = routes(self._contacts.card(row[0]), self._agents.node.public)
        return next((self.attempts[r.node] for r in found if r.node in self.attempts), None)

    async def run(self) -> None:
        """Until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._sweep)
            while True:
                changed = self._store.changed("outbox")
                for node in self._destinations():
                    if node not in self._busy:
                        self._busy.add(node)
                        nursery.start_soon(self._serve, node)
                await changed.wait()

    def _destinations(self) -> set[bytes]:
        """The nodes that something is queued for."""
        keys = self._store.view.execute("SELECT DISTINCT key FROM outbox").fetchall()
        found = set()
        for (key,) in keys:
            for route in routes(self._contacts.card(key), self._agents.node.public):
                found.add(route.node)
        return found

    async def _serve(self, node: bytes) -> None:
        """Offer what is queued for one node, until nothing is."""
        try:
            tried = self.attempts.setdefault(node, Attempts())
            while items := self._items(node):
                generation = self._whereabouts.generation
                if await self._offer_all(node, items, tried):
                    tried.count, tried.next_at = 0, 0
                else:
                    await self._pause(tried, generation)
            self.attempts.pop(node, None)
        finally:
            self._busy.discard(node)

    def _items(self, node: bytes) -> list[Waiting]:
        """The first letters for agents whose card names this node, in order (D2)."""
        rows = self._store.view.execute(
            "SELECT o.item, o.what, o.message, o.recipient, a.key AS by, o.address, o.key,"
            " o.mailbox, o.expires, o.at FROM outbox o JOIN agents a ON a.id=o.by"
            " JOIN cards c ON c.key=o.key AND c.withdrawn=0 WHERE instr(c.signed, ?)"
            " ORDER BY o.item LIMIT ?",
            (node, AT_ONCE),
        ).fetchall()
        return [Waiting(*row) for row in rows]

    async def _pause(self, tried: Attempts, generation: int) -> None:
        """D3."""
        longest = min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** min(tried.count, 20))
        pause = FIRST_PAUSE / 2 + self._rng.uniform(0, longest)
        tried.count += 1
        tried.next_at = self._now() + round(pause * 1000)
        with trio.move_on_after(pause):
            await self._whereabouts.changed(generation)
            tried.count = 0

    async def _offer_all(self, node: bytes, items: list[Waiting], tried: Attempts) -> bool:
        """Whether every letter was answered, one way or the other."""
        answered: list[bool] = []
        async with trio.open_nursery() as nursery:
            for item in items:
                nursery.start_soon(self._offer, node, item, tried, answered)
                # Trio runs what became ready together in any order: one round for each keeps D2.
                await trio.lowlevel.checkpoint()
                if not all(answered):
                    break  # what comes behind it must not come before it
        return all(answered)

    async def _offer(
        self, node: bytes, item: Waiting, tried: Attempts, answered: list[bool]
    ) -> None:
        try:
            envelope = self._envelope(item)
            delivery = await self._carrier.deliver(node, envelope)
            await self._settle(item, delivery)
        except StaleKey as exc:
            answered.append(await self._seal_again(item, exc, tried))
        except Refused as exc:
            await self._give_up(item, "failed", str(exc))
            answered.append(True)
        except StorageError as exc:
            log.warning("a letter cannot be carried now: %s", exc)
            tried.last_error = str(exc)
            answered.append(False)
        except Unavailable as exc:
            tried.last_error = str(exc)
            answered.append(False)
        else:
            answered.append(True)

    def _envelope(self, item: Waiting) -> Envelope:
        record = self._store.payload(item.item)
        if not isinstance(record, Queued):
            raise StorageError("the outbox points to another record", hint="amp check --repair")
        return Envelope(item.mailbox, item.expires, record.sealed)

    async def _settle(self, item: Waiting, delivery: Delivery) -> None:
        if item.what == "receipt":
            await self._store.write(lambda tx: tx.append(Dropped(item.item, tx.now)), urgent=True)
            return
        key, payload = open1(delivery.receipt, RECEIPT_CONTEXT)
        receipt = Receipt.from_bytes(payload)
        if key != item.key or receipt.message != item.message:
            raise Unavailable("the peer's receipt is not the recipient's: not believed")

        def work(tx: Transaction) -> None:
            note_receipt(tx, self._agents, item.by, key, receipt, delivery.receipt, "direct")
            row = tx.db.execute("SELECT 1 FROM outbox WHERE item=?", (item.item,)).fetchone()
            if row is not None:
                tx.append(Dropped(item.item, tx.now))

        await self._store.write(work, urgent=True)

    async def _give_up(self, item: Waiting, status: str, reason: str) -> None:
        def work(tx: Transaction) -> None:
            row = tx.db.execute("SELECT 1 FROM outbox WHERE item=?", (item.item,)).fetchone()
            if row is None:
                return
            if item.what == "receipt":
                tx.append(Dropped(item.item, tx.now))
                return
            tx.append(Progress(item.message, item.by, item.recipient, status, "", tx.now, reason))
            notify(tx, self._agents, item.by, item.message, item.address, status, reason)

        await self._store.write(work, urgent=True)

    async def _seal_again(self, item: Waiting, stale: StaleKey, tried: Attempts) -> bool:
        """D5. Whether the letter is on its way again."""
        if item.what == "receipt":
            await self._give_up(item, "failed", "sealed to a stale key")
            return True
        rounds = self._stale.pop(item.item, 0) + 1
        try:
            key, payload = open1(stale.card, CARD_CONTEXT)
            card = Card.from_bytes(payload)
            if key != item.key or rounds > _ROUNDS_OF_STALE:
                raise Unavailable("the peer says its key is stale, and shows no card that helps")
            await self._contacts.learn([stale.card], b"", "lan")
            replacement = self._sealed_to(item, card)
        except AmpdError as exc:
            tried.last_error = str(exc)
            return False
        fresh = await self._store.write(lambda tx: tx.append(replacement))
        self._stale[fresh] = rounds
        return True

    def _sealed_to(self, item: Waiting, card: Card) -> Queued:
        row = self._store.view.execute(
            "SELECT m.seq FROM messages m JOIN agents a ON a.id=m.by WHERE m.id=? AND a.key=?",
            (item.message, item.by),
        ).fetchone()
        agent = self._agents.of_key(item.by)
        record = self._store.payload(row[0]) if row else None
        if agent is None or not isinstance(record, Kept):
            raise Unavailable("what was sealed to a stale key is not here any more")
        letter = Letter("message", record.signed, agent.signed_card).to_bytes()
        return Queued(
            item.what, item.message, item.recipient, item.by, item.address, item.key,
            card.mailbox, item.expires, seal(card.seal_to(self._now()), letter), item.at, item.item,
        )  # fmt: skip

    async def _sweep(self) -> None:
        """Expire what is past its time."""
        while True:
            rows = self._store.view.execute(
                "SELECT o.item, o.what, o.message, o.recipient, a.key AS by, o.address, o.key,"
                " o.mailbox, o.expires, o.at FROM outbox o JOIN agents a ON a.id=o.by"
                " WHERE o.expires<=? ORDER BY o.item LIMIT 1000",
                (self._now(),),
            ).fetchall()
            for row in rows:
                item = Waiting(*row)
                reason = "no node of the recipient took it in time"
                try:
                    await self._give_up(item, "expired", reason)
                except StorageError as exc:
                    log.warning("an expiry cannot be written now: %s", exc)
            await trio.sleep(SWEEP_EVERY)
