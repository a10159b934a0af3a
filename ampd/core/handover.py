"""To a relay of the recipient: what its own nodes did not take at once.

Y1  The direct way has a head start of HEAD_START; then a relay gets the letter too. The second copy
    is recognised by its reader (mailbox.py, B2).
Y2  "relayed" is written when a relay has it on disk. The letter stays in the outbox: if the
    recipient's node comes into sight before the relay's copy was read, it goes there directly.
Y3  The relays of the recipient's card are tried in their order; the next one when one is away,
    full, or does not let us in.
Y4  Letters for one recipient are left in the order in which they were queued (offering.py).
Y5  A relay's refusal ends nothing: only the recipient's node, or the expiry, does.
Y6  A relay that takes nothing is tried again when something changes (a session, a network, a new
    letter), and otherwise after 1 s doubling to 15 min, with full jitter.
Y7  What was left with a relay and not answered by a receipt is left there again once a day: a
    relay that has it, or had it, says so and keeps it once; one that was restored from an old copy
    has it then.
Y9  Relays that only a stranger's card names are not called: what is for somebody whom no agent here
    wrote to, and whom the user did not add (receipts), is left with this node's own relays, if they
    are the stranger's too.
Y8  Who says anything else than "relayed" is no relay: it is tried again as in Y6, and not at once.
"""

import logging
import random
from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import Final

import trio

from ampd.core.contacts import Contacts
from ampd.core.letters import FIRST_PAUSE, Attempts, Letters, Waiting
from ampd.core.offering import AT_ONCE, Flow
from ampd.core.ports import Carrier
from ampd.core.whereabouts import Whereabouts
from ampd.model.address import NodeUri
from ampd.model.errors import AmpdError, StorageError, Unavailable
from ampd.model.message import Envelope
from ampd.storage.records import Dropped, Progress, Queued
from ampd.storage.store import Store, Transaction

HEAD_START: Final = 3000  # milliseconds (wire: "Delivery")
LONGEST_PAUSE: Final = 900.0  # seconds: 15 min to a relay
AGAIN_FIRST: Final = 60.0  # seconds after the start; by then there are sessions
AGAIN_EVERY: Final = 86400.0  # seconds

log = logging.getLogger("ampd.handover")


class Handover:
    """Leaves the outbox's letters with relays."""

    def __init__(
        self,
        store: Store,
        contacts: Contacts,
        letters: Letters,
        carrier: Carrier,
        whereabouts: Whereabouts,
        now: Callable[[], int],
        rng: random.Random,
        own: Collection[bytes] = (),
    ) -> None:
        """`own` holds the node keys of this node's own relays, as they are at the moment."""
        self._own = own
        self._store = store
        self._contacts = contacts
        self._letters = letters
        self._carrier = carrier
        self._whereabouts = whereabouts
        self._now = now
        self._rng = rng
        self._pauses: dict[bytes, trio.CancelScope | None] = {}  # of the recipients that are served
        self._flows: dict[bytes, Flow] = {}  # by the recipient's key
        self._newest = 0  # the last letter that was looked at
        self.attempts: dict[bytes, Attempts] = {}  # by the recipient's key

    def attempts_for(self, address: str) -> Attempts | None:
        """What is remembered of leaving mail for an address."""
        row = self._store.view.execute(
            "SELECT key FROM outbox WHERE address=? LIMIT 1", (address,)
        ).fetchone()
        return self.attempts.get(row[0]) if row else None

    async def run(self) -> None:
        """Until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._leave_again)
            while True:
                changed = self._store.changed("outbox")
                try:
                    soonest = self._look(nursery)
                except StorageError as exc:
                    log.warning("the outbox cannot be read now", extra={"why": str(exc)})
                    soonest = FIRST_PAUSE
                with trio.move_on_after(soonest):
                    await changed.wait()

    def _look(self, nursery: trio.Nursery) -> float:
        """Serve those whose letters waited long enough; in how many seconds the next ones will."""
        now, before = self._now(), self._newest
        soonest = float("inf")
        for key, first, newest in self._store.view.execute(
            "SELECT key, min(at), max(item) FROM outbox WHERE status='queued' GROUP BY key"
        ):
            self._newest = max(self._newest, newest)
            relays, head_start = self._relays(key)
            left = first + head_start - now
            if relays and left > 0:
                soonest = min(soonest, left / 1000)
            elif relays and key not in self._pauses:
                self._pauses[key] = None
                nursery.start_soon(self._serve, key)
            elif newest > before:
                self._wake(key)
        return soonest

    def _wake(self, key: bytes) -> None:
        """There is a new letter: try again at once (Y6)."""
        if (flow := self._flows.get(key)) is not None:
            flow.look()
        if (pause := self._pauses.get(key)) is not None:
            pause.cancel()

    def _relays(self, key: bytes) -> tuple[Sequence[NodeUri], int]:
        """Where a recipient's mail may be left, the best first, and the head start (Y1)."""
        card = self._contacts.card(key)
        if card is None:
            return self._contacts.relays_said_by_user(key), 0
        if card.withdrawn:
            return [], 0
        near = any(self._whereabouts.endpoints(node) for node in card.nodes)
        relays = [NodeUri.parse(text) for text in card.relays]
        if not self._contacts.wanted(self._store.view, key):
            relays = [relay for relay in relays if relay.key in self._own]  # Y9
        return relays, HEAD_START if near else 0

    async def _serve(self, key: bytes) -> None:
        """Leave one recipient's letters, until none waits."""
        tried = self.attempts.setdefault(key, Attempts())
        while True:
            generation = self._whereabouts.generation
            try:
                if not self._items(key):
                    break
                done = await self._leave(key, tried)
            except StorageError as exc:
                tried.last_error, done = str(exc), False
            if done:
                tried.in_a_row, tried.next_at = 0, 0
            else:
                await self._pause(key, tried, generation)
        del self._pauses[key], self.attempts[key]
        self._flows.pop(key, None)  # there is none if no relay was known

    def _items(self, key: bytes, _full: Collection[bytes] = ()) -> list[Waiting]:
        """The first letters for this recipient that had their head start."""
        before = self._now() - self._relays(key)[1]
        return self._letters.waiting(
            "WHERE o.key=? AND o.status='queued' AND o.at<=? AND o.expires>?"
            " ORDER BY o.item LIMIT ?",
            key, before, self._now(), AT_ONCE,
        )  # fmt: skip

    async def _pause(self, key: bytes, tried: Attempts, generation: int) -> None:
        """Y6."""
        pause = tried.failed_at_random(self._now(), LONGEST_PAUSE, self._rng)
        with trio.move_on_after(pause) as self._pauses[key]:
            await self._whereabouts.changed(generation)
            tried.in_a_row = 0
        self._pauses[key] = None

    async def _leave(self, key: bytes, tried: Attempts) -> bool:
        """Whether one relay has taken all of them (Y3)."""
        for relay in self._relays(key)[0]:
            if not self._whereabouts.endpoints(relay.key):
                self._whereabouts.sighted(relay.key, [(relay.host, relay.port)], "relay")
            flow = self._flows[key] = Flow(tried, partial(self._items, key))
            await flow.run(partial(self._offer, relay.key, flow))
            if not flow.later:
                return True
        return False

    async def _offer(self, relay: bytes, flow: Flow, item: Waiting) -> None:
        try:
            delivery = await self._carrier.deliver(relay, self._letters.envelope(item))
            if delivery.status != "relayed":  # a receipt comes by the direct way (transfer.py, D6)
                raise Unavailable(f"what should be a relay says {delivery.status!r}")
            await self._note(item)
        except AmpdError as exc:  # refused or away: the next relay, or later (Y5)
            flow.wait(exc)

    async def _note(self, item: Waiting) -> None:
        """Y2. A receipt has no receipt of its own: with the relay it is out of our hands."""

        def work(tx: Transaction) -> None:
            row = tx.db.execute("SELECT status FROM outbox WHERE item=?", (item.item,)).fetchone()
            if row is None:
                return
            if item.what == "receipt":
                tx.append(Dropped(item.item, tx.now))
            elif row[0] == "queued":
                tx.append(
                    Progress(item.message, item.by, item.recipient, "relayed", "relay", tx.now)
                )

        await self._store.write(work, urgent=True)

    # --- once a day (Y7) ------------------------------------------------------------------

    async def _leave_again(self) -> None:
        await trio.sleep(AGAIN_FIRST)
        while True:
            try:
                for (key,) in self._store.view.execute(
                    "SELECT DISTINCT key FROM outbox WHERE status='relayed'"
                ).fetchall():
                    await self._leave_all_again(key)
            except StorageError as exc:
                log.warning("the outbox cannot be read now", extra={"why": str(exc)})
            await trio.sleep(AGAIN_EVERY)

    async def _leave_all_again(self, key: bytes) -> None:
        relays = [relay.key for relay in self._relays(key)[0]]
        last = 0
        while items := self._relayed(key, last):
            last = items[-1].item
            for relay in relays:
                if await self._offer_again(relay, items):
                    break
            else:
                return  # none is there: tomorrow

    def _relayed(self, key: bytes, after: int) -> list[Waiting]:
        return self._letters.waiting(
            "WHERE o.key=? AND o.status='relayed' AND o.item>? AND o.expires>?"
            " ORDER BY o.item LIMIT ?",
            key, after, self._now(), AT_ONCE,
        )  # fmt: skip

    async def _offer_again(self, relay: bytes, items: list[Waiting]) -> bool:
        """The bytes as they were sealed first: newly sealed ones would be kept a second time."""
        for item in items:
            record = self._store.payload(item.item)
            if isinstance(record, Queued):
                envelope = Envelope(item.mailbox, item.expires, record.sealed)
                try:
                    await self._carrier.deliver(relay, envelope)
                except StorageError:
                    raise
                except AmpdError as exc:
                    log.info("letters are not left again", extra={"why": str(exc)})
                    return False
        return True
