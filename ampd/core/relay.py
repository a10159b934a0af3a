"""For whom else we keep mail: the door of a relay, and the pushing of what it holds.

  E1  Who may use a relay is its members: nodes that redeemed an invitation, or are listed, or
      everybody if it is open. Others are refused, and told how to be let in. Who was removed is
      out within LOOK_AGAIN, also in the middle of a session.
  E2  "relayed" is answered when the store has the envelope on its disk (or on its cluster's).
  E3  A mailbox is handed only to a node that its newest card names, signed by the key whose hash
      the mailbox is (model/card.py, C4). The relay takes nobody's word.
  E4  What is held is pushed in the order of its deposit, and removed when the collector has
      accepted or finally refused it; what was not answered is pushed again.
  E5  A card is kept if its own key signed it, it names the member that shows it, and it is newer
      than the one held. A relay cannot make one.
  E6  No member fills the relay for the others: it deposits NODE_BYTES at once, and as much again
      in a day; nor a mailbox: half of what it may hold, until that was collected. What a deposit
      costs the others is one place in the next sync: a session's window bounds how many a node
      has under way.
  E7  A mailbox is pushed while the session that asked for it is there, and no longer; idle, it
      waits for the store's event, holds no mail and asks for none.
  E8  An answer to who somebody is holds MAX_ANSWER cards, and the relay opens no more for it, in
      whatever way it is asked.

A relay sees mailbox ids, sizes, times, node keys, and the cards that its members show it.
"""

import logging
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final
from weakref import WeakValueDictionary

import trio

from ampd.core.meters import Meters
from ampd.core.ports import Carrier, Run, deliver_each
from ampd.core.relay_directory import CardBook
from ampd.crypto.keys import open1
from ampd.model.card import CARD_CONTEXT, Card, mailbox_of
from ampd.model.errors import Refused, Unavailable
from ampd.model.message import Delivery, Envelope, digest
from ampd.model.values import value
from ampd.storage.relay_store.port import RETRY_MAILBOX, Full, Held, Limits, RelayStore

AT_ONCE: Final = 32  # envelopes under way from one mailbox: what they hold in memory
MAX_CLAIMS: Final = 256  # mailboxes of one node
MAX_ANSWER: Final = 200  # cards in one answer
NODE_BYTES: Final = 1 << 30  # a tenth of what a relay keeps
OVERHEAD: Final = 512  # bytes that an envelope costs beside what is sealed
MAILBOX_SHARE: Final = Limits().mailbox_messages // 2  # of one depositor, until it is collected
MAX_METERED: Final = 4096  # nodes, or mailboxes; then the one that was counted first is forgotten
LOOK_AGAIN: Final = 60.0  # seconds that a member is taken for one without asking the store
FIRST_PAUSE: Final = 0.1  # seconds, when a collector cannot take mail now: rubbish costs as much
LONGEST_PAUSE: Final = 60.0
EXPIRE_EVERY: Final = 60.0  # seconds

log = logging.getLogger("ampd.relay")


@dataclass(slots=True)
class Counters:
    """What a relay did since it was started, for its metrics."""

    deposited: int = 0
    repeated: int = 0
    refused: int = 0
    pushed: int = 0
    expired: int = 0


@dataclass(slots=True)
class _Collector:
    """One node that collects: a task for each of its mailboxes.

    `turn` is held while a batch is offered, so that what goes out together is of one mailbox: the
    collector keeps it by one work, and answers its senders by one letter.
    """

    pushing: dict[bytes, trio.CancelScope] = field(default_factory=dict)
    asked: int = 0  # how often it said what it collects
    turn: trio.Lock = field(default_factory=trio.Lock)

    def stop(self) -> None:
        for scope in self.pushing.values():
            scope.cancel()


@value
class Allowance:
    """Who may use this relay besides those that hold an invitation (E1)."""

    everybody: bool = False
    nodes: frozenset[bytes] = frozenset()


class RelayDoor:
    """Implements ports.Door for a relay."""

    def __init__(
        self,
        store: RelayStore,
        book: CardBook,
        now: Callable[[], int],
        rng: random.Random,
        allowance: Allowance,
    ) -> None:
        self._store = store
        self._book = book
        self._now = now
        self._rng = rng
        self.allowance = allowance
        self.counters = Counters()
        self._collectors: dict[bytes, _Collector] = {}
        self._members: dict[bytes, float] = {}  # until when they are taken for members
        self._turns: WeakValueDictionary[bytes, trio.Lock] = WeakValueDictionary()
        self._meters = Meters(NODE_BYTES, MAX_METERED)
        self._left_by: dict[bytes, Counter[bytes]] = {}  # mailbox -> node -> since it was empty
        self._carrier: Carrier | None = None
        self._nursery: trio.Nursery | None = None

    @property
    def collectors(self) -> int:
        """How many nodes collect now."""
        return len(self._collectors)

    async def run(
        self, carrier: Carrier, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Push and expire until cancelled."""
        async with trio.open_nursery() as nursery:
            self._carrier, self._nursery = carrier, nursery
            task_status.started()
            while True:
                await trio.sleep(EXPIRE_EVERY)
                try:
                    self.counters.expired += await self._store.expire(self._now())
                    await self._put_out()
                except Unavailable as exc:
                    log.warning("nothing can be expired now", extra={"why": str(exc)})

    async def _put_out(self) -> None:
        """Bring no more mail to those that are members no longer (E1)."""
        now = trio.current_time()
        self._members = {node: until for node, until in self._members.items() if until > now}
        for node in list(self._collectors):
            try:
                await self._admit(node)
            except Refused:
                await self.left(node)

    # --- the door -------------------------------------------------------------------------

    async def deliver(self, envelope: Envelope, node: bytes) -> Delivery:
        """Keep an envelope for its mailbox (E2)."""
        try:
            await self._admit(node)
            self._meter(node, envelope)
            if await self._store.deposit(envelope):
                self.counters.deposited += 1
                self._count_left(node, envelope.mailbox)
            else:
                self.counters.repeated += 1
        except (Refused, Unavailable):
            self.counters.refused += 1
            raise
        return Delivery("relayed")

    async def deliver_run(self, run: Run, node: bytes) -> None:
        """The same for many: those that are under way together share a sync of the store."""
        turn = self._turns.setdefault(node, trio.Lock())
        await deliver_each(self.deliver, turn, run, node)

    def cards(self) -> list[bytes]:
        """A relay is no agent."""
        return []

    async def cards_for(self, addresses: Sequence[str], node: bytes) -> list[bytes]:
        """The cards of these addresses, of whole domains (`@domain`), or of everybody ("") (E8)."""
        await self._admit(node)
        found: list[bytes] = []
        for pattern in _apart(addresses):
            found += await self._book.find(pattern, MAX_ANSWER - len(found))
            if len(found) >= MAX_ANSWER:
                break
        return found

    async def learn(self, cards: list[bytes], node: bytes) -> None:
        """Keep the cards of a member's own agents (E5)."""
        try:
            await self._admit(node)
            for signed in cards[:MAX_CLAIMS]:
                await self._keep(signed, node)
        except (Refused, Unavailable) as exc:
            # A stranger shows its cards like any other, and a member will show them again.
            log.debug("cards are not kept", extra={"why": str(exc)})

    async def _keep(self, signed: bytes, node: bytes) -> None:
        try:
            key, card = _opened(signed)
        except Refused:
            return
        if node in card.nodes:
            await self._book.put(key, card, signed)

    async def join(self, token: bytes, node: bytes) -> None:
        """Make a node a member by its invitation (E1)."""
        if not await self._store.redeem(digest(token), node, self._now()):
            raise Refused(
                "this invitation is unknown, used or past its time", hint="ampd relay invite"
            )
        self._members[node] = trio.current_time() + LOOK_AGAIN

    async def collect(self, cards: list[bytes], node: bytes) -> None:
        """Push the mail of the mailboxes that these cards let this node collect (E3)."""
        await self._admit(node)
        claims = [(signed, *_claim(signed, node)) for signed in cards[:MAX_CLAIMS]]
        collector = self._collectors.setdefault(node, _Collector())
        collector.asked += 1
        asked = collector.asked
        newest = [card for signed, key, card in claims if await self._is_newest(signed, key, card)]
        if self._collectors.get(node) is not collector or collector.asked != asked:
            raise Unavailable("the session that asked for this has ended")  # E7
        self._push_only(node, collector, {c.mailbox for c in newest if not c.withdrawn})

    async def _is_newest(self, signed: bytes, key: bytes, card: Card) -> bool:
        """Whether no newer card of this key says otherwise; it is kept, if there is room (E3)."""
        try:
            if await self._book.put(key, card, signed):
                return True
        except Full as exc:
            log.warning("a card is not kept", extra={"why": str(exc)})
            return True  # there is none of this key
        if signed == await self._book.of(key):
            return True
        log.info("a mailbox is claimed by a card that is not the newest")
        return False

    def _push_only(self, node: bytes, collector: _Collector, mailboxes: set[bytes]) -> None:
        for gone in set(collector.pushing) - mailboxes:
            collector.pushing.pop(gone).cancel()
        for mailbox in mailboxes - set(collector.pushing):
            scope = collector.pushing[mailbox] = trio.CancelScope()
            if self._nursery is not None:
                self._nursery.start_soon(self._push, node, mailbox, scope, collector.turn)

    async def left(self, node: bytes) -> None:
        """The session with this node ended."""
        collector = self._collectors.pop(node, None)
        if collector is not None:
            collector.stop()
        await trio.lowlevel.checkpoint()

    async def _admit(self, node: bytes) -> None:
        """Refused, unless it is a member (E1)."""
        if self.allowance.everybody or node in self.allowance.nodes:
            return
        if self._members.get(node, 0.0) > trio.current_time():
            return
        if await self._store.is_member(node):
            self._members[node] = trio.current_time() + LOOK_AGAIN
            return
        raise Refused(
            "this relay does not know your node: ask its owner for an invitation",
            hint="amp relay add URI, with the URI that `ampd relay invite` printed",
        )

    def _meter(self, node: bytes, envelope: Envelope) -> None:
        """E6."""
        size = len(envelope.sealed) + OVERHEAD
        left = self._left_by.get(envelope.mailbox)
        if left is not None and left[node] >= MAILBOX_SHARE:
            raise Full("your node has left half of what this mailbox may hold", RETRY_MAILBOX)
        if wait := self._meters.wait(node, size, trio.current_time()):
            raise Full("your node has left too much mail here for a day", wait)

    def _count_left(self, node: bytes, mailbox: bytes) -> None:
        """E6: it is in the mailbox until that was found empty."""
        self._left_by.setdefault(mailbox, Counter())[node] += 1
        if len(self._left_by) > MAX_METERED:
            del self._left_by[next(iter(self._left_by))]

    # --- pushing --------------------------------------------------------------------------

    async def _push(
        self, node: bytes, mailbox: bytes, scope: trio.CancelScope, turn: trio.Lock
    ) -> None:
        """E4, for one mailbox, as long as its collector is there."""
        pause = FIRST_PAUSE
        with scope:
            while True:
                changed = self._store.changed(mailbox)
                left, progress = await self._push_some(node, mailbox, changed, turn)
                if progress:
                    pause = FIRST_PAUSE
                if left:
                    await trio.sleep(pause / 2 + self._rng.uniform(0, pause))
                    pause = min(2 * pause, LONGEST_PAUSE)

    async def _push_some(
        self, node: bytes, mailbox: bytes, changed: trio.Event, turn: trio.Lock
    ) -> tuple[bool, bool]:
        """Push what lies first, or wait for some; whether any was left for later, or went."""
        try:
            held = await self._store.after(mailbox, None, AT_ONCE)
            taken = await self._offer(node, held, turn)
            if taken:
                await self._store.remove(mailbox, [each.token for each in taken])
                self.counters.pushed += len(taken)
        except Unavailable as exc:
            log.warning("a mailbox cannot be pushed now", extra={"why": str(exc)})
            return True, False
        left, progress = len(taken) < len(held), bool(taken)
        if not held:
            self._left_by.pop(mailbox, None)
            del held, taken  # whoever waits holds no mail (E7)
            await changed.wait()
        return left, progress

    async def _offer(self, node: bytes, held: Sequence[Held], turn: trio.Lock) -> list[Held]:
        """Those that the collector has taken, or refused for good."""
        taken: list[Held] = []
        failed: list[Held] = []
        async with trio.open_nursery() as nursery, turn:
            for each in held:
                if failed:
                    break
                nursery.start_soon(self._offer_one, node, each, taken, failed)
                # Trio runs what became ready together in any order: one round for each keeps E4.
                await trio.lowlevel.checkpoint()
        return taken

    async def _offer_one(
        self, node: bytes, held: Held, taken: list[Held], failed: list[Held]
    ) -> None:
        assert self._carrier is not None  # noqa: S101 - run() has set it
        if failed:
            return  # one before it failed since this was started (E4)
        try:
            await self._carrier.deliver(node, held.envelope)
        except Refused as exc:
            log.info("a collector refused mail", extra={"code": exc.code})
            taken.append(held)
        except Unavailable:
            failed.append(held)
        else:
            taken.append(held)


def _apart(addresses: Sequence[str]) -> list[str]:
    """The same question, in patterns that find no card twice."""
    patterns = dict.fromkeys(address.lower() for address in addresses)
    if "" in patterns:
        return [""]
    return [p for p in patterns if p.startswith("@") or f"@{p.rpartition('@')[2]}" not in patterns]


def _opened(signed: bytes) -> tuple[bytes, Card]:
    """A card that holds, and whose mailbox is its key's (E3, E5); Refused otherwise."""
    key, payload = open1(signed, CARD_CONTEXT)
    card = Card.from_bytes(payload)
    if card.mailbox != mailbox_of(key):
        raise Refused("a card that claims a mailbox which is not its key's", code="forged")
    return key, card


def _claim(signed: bytes, node: bytes) -> tuple[bytes, Card]:
    """The key and the card by which `node` wants to collect; Refused if it does not name it."""
    key, card = _opened(signed)
    if node not in card.nodes:
        raise Refused("a card that does not name the node that collects", code="forbidden")
    return key, card
