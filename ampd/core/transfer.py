"""On, to the next host: every queued letter, until its recipient's node has it.

D1  A letter stays in the outbox until a receipt, a refusal or its expiry; the number of
    attempts ends nothing.
D2  Letters for one node are offered in the order in which they were queued, several at a time,
    until one of them has to be offered again (offering.py).
D3  A node that is away is tried again when something changes (a session, a sighting, a network,
    a new letter), and otherwise after 1 s doubling to 5 min, with full jitter.
D4  A refusal and an expiry go back to the sender as a message, with the reason.
D5  A letter that was sealed before the newest card of its recipient came is sealed again to
    that one when it is offered, and keeps its place; a refusal as stale brings such a card.
D6  "delivered" is written only with a receipt that the recipient's key signed, for the bytes
    that were sent; another one is not believed, and the letter stays.
D9  A recipient whose mailbox is full (Unavailable with "quota_exceeded") holds up no other
    recipient at its node.
D7  What goes wrong with one letter, one node or this disk ends nothing else.
D8  What waits for a key that the user has replaced by another fails, and its sender is told.
"""

import logging
import random
from collections.abc import Callable, Collection
from functools import partial
from typing import Final

import trio

from ampd.core.agents import Agents
from ampd.core.contacts import Contacts
from ampd.core.letters import FIRST_PAUSE, Attempts, Letters, Waiting
from ampd.core.notices import notify
from ampd.core.offering import AT_ONCE, Flow
from ampd.core.ports import Carrier
from ampd.core.routing import routes
from ampd.core.settling import Settled, Settling
from ampd.core.whereabouts import Whereabouts
from ampd.crypto.keys import open1
from ampd.model.errors import AmpdError, Refused, StaleKey, StorageError, Unavailable
from ampd.model.message import RECEIPT_CONTEXT, Delivery, Receipt
from ampd.storage.records import Dropped, Progress
from ampd.storage.store import Store, Transaction

LONGEST_PAUSE: Final = 300.0  # seconds
SWEEP_EVERY: Final = 15.0  # seconds between looks for what has expired: a clock may be set
SWEEP_PAUSE: Final = 0.5  # seconds at least, also when letters come and go all the time
_ROUNDS_OF_STALE: Final = 3  # a card that is stale as soon as it is shown is not believed forever

log = logging.getLogger("ampd.transfer")


class Transfer:
    """Carries the outbox."""

    def __init__(
        self,
        store: Store,
        agents: Agents,
        contacts: Contacts,
        letters: Letters,
        carrier: Carrier,
        whereabouts: Whereabouts,
        now: Callable[[], int],
        rng: random.Random,
    ) -> None:
        self._store = store
        self._agents = agents
        self._contacts = contacts
        self._letters = letters
        self._carrier = carrier
        self._whereabouts = whereabouts
        self._settling = Settling(store, agents)
        self._now = now
        self._rng = rng
        self._pauses: dict[bytes, trio.CancelScope | None] = {}  # of the nodes that are served
        self._flows: dict[bytes, Flow] = {}  # by node
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
            item = card = -1
            while True:
                changed = self._store.changed("outbox")
                try:
                    item, card = self._look(nursery, item, card)
                except StorageError as exc:
                    log.warning("the outbox cannot be read now", extra={"why": str(exc)})
                    await trio.sleep(FIRST_PAUSE)
                    continue
                await changed.wait()

    def _look(self, nursery: trio.Nursery, item: int, card: int) -> tuple[int, int]:
        """Serve the nodes that letters after `item` are for; all, if there are other cards.

        Answers how far it looked.
        """
        last_item, last_card = self._store.view.execute(
            "SELECT coalesce(max(item),0), (SELECT coalesce(max(seq),0) FROM cards) FROM outbox"
        ).fetchone()
        after = item if last_card == card else -1
        keys = self._store.view.execute(
            "SELECT key, max(item) FROM outbox WHERE item>? GROUP BY key", (after,)
        )
        for key, newest in keys:
            for route in routes(self._contacts.card(key), self._agents.node.public):
                self._serve_soon(nursery, route.node, wake=newest > item)
                if after >= 0:
                    self._carrier.wake(route.node)  # a new letter: it need not wait for a pause
        return max(item, last_item), last_card

    def _serve_soon(self, nursery: trio.Nursery, node: bytes, *, wake: bool) -> None:
        if node not in self._pauses:
            self._pauses[node] = None
            nursery.start_soon(self._serve, node)
        elif wake:
            if (flow := self._flows.get(node)) is not None:
                flow.look()
            if (pause := self._pauses[node]) is not None:
                pause.cancel()  # a new letter: try again at once (D3)

    async def _serve(self, node: bytes) -> None:
        """Offer what is queued for one node, until nothing is."""
        tried = self.attempts.setdefault(node, Attempts())
        while True:
            generation = self._whereabouts.generation
            flow = self._flows[node] = Flow(tried, partial(self._items, node))
            if not await flow.run(partial(self._offer, node, flow)):
                break
            if flow.later:
                await self._pause(node, tried, generation)
            else:
                tried.count, tried.in_a_row, tried.next_at = 0, 0, 0
        del self._pauses[node], self.attempts[node], self._flows[node]

    def _items(self, node: bytes, full: Collection[bytes] = ()) -> list[Waiting]:
        """The first letters for agents whose card names this node, in order (D2, D9)."""
        marks = ",".join("?" * len(full))
        return self._letters.waiting(
            "JOIN cards c ON c.key=o.key AND c.withdrawn=0 WHERE instr(c.signed, ?)"
            f" AND o.expires>? AND o.key NOT IN ({marks}) ORDER BY o.item LIMIT ?",
            node, self._now(), *full, AT_ONCE,
        )  # fmt: skip

    async def _pause(self, node: bytes, tried: Attempts, generation: int) -> None:
        """D3."""
        pause = tried.failed_at_random(self._now(), LONGEST_PAUSE, self._rng)
        with trio.move_on_after(pause) as self._pauses[node]:
            await self._whereabouts.changed(generation)
            tried.in_a_row = 0
        self._pauses[node] = None

    async def _offer(self, node: bytes, flow: Flow, item: Waiting) -> None:
        try:
            await self._answer(node, item)
        except StaleKey as exc:
            flow.halted = True  # first of all: nothing behind it may pass, newly sealed
            await self._renew(item, exc, flow)
        except AmpdError as exc:  # not now: all that is for good was answered (D7)
            if exc.code == "quota_exceeded":
                flow.is_full(item.key, exc)
            else:
                flow.wait(exc)

    async def _renew(self, item: Waiting, stale: StaleKey, flow: Flow) -> None:
        try:
            await self._learn_newer(item, stale)
        except AmpdError as exc:
            flow.wait(exc)

    async def _answer(self, node: bytes, item: Waiting) -> None:
        """Offer one letter, and write down what became of it. Raises StaleKey or Unavailable."""
        envelope, sent = self._letters.letter(item)
        try:
            delivery = await self._carrier.deliver(node, envelope)
        except StaleKey:
            raise
        except Refused as exc:
            await self._give_up(item, "failed", str(exc), said_by=item.address)
        else:
            await self._settle(item, delivery, sent)

    async def _learn_newer(self, item: Waiting, stale: StaleKey) -> None:
        """D5: take in the newer card. Raises Unavailable if it does not help."""
        if item.what == "receipt":  # its words were not kept, and the reader lost little
            await self._give_up(item, "failed", "sealed to a stale key")
            return
        known = self._contacts.card(item.key)
        rounds = self._stale[item.item] = self._stale.get(item.item, 0) + 1
        if rounds <= _ROUNDS_OF_STALE:
            await self._contacts.learn([stale.card], b"", "lan")
        if self._contacts.card(item.key) == known:
            raise Unavailable("the peer says its key is stale, and shows no card that helps")

    async def _settle(self, item: Waiting, delivery: Delivery, sent: bytes) -> None:
        """D6."""
        self._stale.pop(item.item, None)
        if item.what == "receipt":
            await self._settling.settle(Settled(item))
            return
        receipt = self._believed(item, delivery.receipt, sent)
        await self._settling.settle(Settled(item, receipt, delivery.receipt))

    def _believed(self, item: Waiting, signed: bytes, sent: bytes) -> Receipt:
        """The words of a receipt that is the recipient's, for these bytes; else Unavailable."""
        try:
            key, payload = open1(signed, RECEIPT_CONTEXT)
            receipt = Receipt.from_bytes(payload)
        except Refused as exc:
            raise Unavailable(f"the peer's receipt is not believed: {exc}") from None
        named = (key, receipt.message, receipt.digest) == (item.key, item.message, sent)
        if not named or receipt.stage == "refused":
            raise Unavailable("the peer's receipt is not the recipient's: not believed")
        return receipt

    async def _give_up(self, item: Waiting, status: str, reason: str, *, said_by: str = "") -> None:
        """D4."""

        def work(tx: Transaction) -> None:
            row = tx.db.execute("SELECT 1 FROM outbox WHERE item=?", (item.item,)).fetchone()
            if row is None:
                return
            if item.what == "receipt":
                tx.append(Dropped(item.item, tx.now))
                return
            tx.append(Progress(item.message, item.by, item.recipient, status, "", tx.now, reason))
            notify(tx, self._agents, item.by, item.message, item.address, status, reason, said_by)

        self._stale.pop(item.item, None)
        await self._store.write(work, urgent=True)

    async def _sweep(self) -> None:
        """Expire what is past its time, soon after it is."""
        while True:
            changed = self._store.changed("outbox")
            within = SWEEP_EVERY
            try:
                for item in self._expired():
                    reason = "no node of the recipient took it in time"
                    await self._give_up(item, "expired", reason)
                for item in self._to_replaced_keys():
                    reason = "another key was accepted for this address: send it again"
                    await self._give_up(item, "failed", reason)
                within = self._until_next_expiry()
            except StorageError as exc:
                log.warning("an expiry cannot be written now", extra={"why": str(exc)})
            await trio.sleep(SWEEP_PAUSE)
            with trio.move_on_after(within):
                await changed.wait()

    def _until_next_expiry(self) -> float:
        row = self._store.view.execute("SELECT min(expires) FROM outbox").fetchone()
        left = SWEEP_EVERY if row[0] is None else (row[0] - self._now()) / 1000
        return max(0.0, min(SWEEP_EVERY, left))

    def _to_replaced_keys(self) -> list[Waiting]:
        """D8."""
        known = "SELECT 1 FROM contacts c WHERE c.address=o.address AND c.state IN"
        return self._letters.waiting(
            f"WHERE o.what='message' AND EXISTS({known} ('pinned','verified') AND c.key<>o.key)"
            f" AND NOT EXISTS({known} ('seen','pinned','verified') AND c.key=o.key) LIMIT 1000"
        )

    def _expired(self) -> list[Waiting]:
        return self._letters.waiting("WHERE o.expires<=? ORDER BY o.item LIMIT 1000", self._now())
