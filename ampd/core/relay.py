"""For whom else we keep mail: the door of a relay, and the pushing of what it holds.

  E1  Who may use a relay is its members: nodes that redeemed an invitation, or are listed, or
      everybody if it is open. Others are refused, and told how to be let in.
  E2  "relayed" is answered when the store has the envelope on its disk (or on its cluster's).
  E3  A mailbox is handed only to a node that a card names, signed by the key whose hash the
      mailbox is (model/card.py, C4). The relay takes nobody's word.
  E4  What is held is pushed in the order of its deposit, and removed when the collector has
      accepted or finally refused it; what was not answered is pushed again.
  E5  A card is kept if its own key signed it and it is newer than the one held; a relay cannot
      make one, and what it withholds shows as a gap in the order numbers.

A relay sees mailbox ids, sizes, times, node keys, and the cards that its members show it.
"""

import logging
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

import trio

from ampd.core.ports import Carrier
from ampd.crypto.keys import open1
from ampd.model.card import CARD_CONTEXT, Card, mailbox_of
from ampd.model.errors import Refused, Unavailable
from ampd.model.message import Delivery, Envelope, digest
from ampd.storage.relay_store.port import Held, RelayStore

AT_ONCE: Final = 32  # envelopes under way to one collector: half a session's window
MAX_CLAIMS: Final = 256  # mailboxes of one node
MAX_ANSWER: Final = 200  # cards in one answer
FIRST_PAUSE: Final = 1.0  # seconds, when a collector cannot take mail now
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
    """One node that collects: a task for each of its mailboxes."""

    pushing: dict[bytes, trio.CancelScope] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Allowance:
    """Who may use this relay besides those that hold an invitation (E1)."""

    everybody: bool = False
    nodes: frozenset[bytes] = frozenset()


class RelayDoor:
    """Implements ports.Door for a relay."""

    def __init__(
        self, store: RelayStore, now: Callable[[], int], rng: random.Random, allowance: Allowance
    ) -> None:
        self._store = store
        self._now = now
        self._rng = rng
        self.allowance = allowance
        self.counters = Counters()
        self._collectors: dict[bytes, _Collector] = {}
        self._members: set[bytes] = set()  # found in the store; members are never many
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
                except Unavailable as exc:
                    log.warning("nothing can be expired now", extra={"why": str(exc)})

    # --- the door -------------------------------------------------------------------------

    async def deliver(self, envelope: Envelope, node: bytes) -> Delivery:
        """Keep an envelope for its mailbox (E2)."""
        try:
            await self._admit(node)
            if await self._store.deposit(envelope):
                self.counters.deposited += 1
            else:
                self.counters.repeated += 1
        except (Refused, Unavailable):
            self.counters.refused += 1
            raise
        return Delivery("relayed")

    def cards(self) -> list[bytes]:
        """A relay is no agent."""
        return []

    async def cards_for(self, addresses: Sequence[str], node: bytes) -> list[bytes]:
        """The cards of these addresses, of whole domains (`@domain`), or of everybody ("")."""
        await self._admit(node)
        found: dict[bytes, None] = {}
        for pattern in addresses:
            for card in await self._store.cards(pattern, MAX_ANSWER):
                found[card] = None
        return list(found)[:MAX_ANSWER]

    async def learn(self, cards: list[bytes], node: bytes) -> None:
        """Keep the cards that a member shows, its own or others' (E5)."""
        try:
            await self._admit(node)
        except Refused:
            return  # a stranger's session shows its cards like any other; they are passed over
        for signed in cards:
            try:
                key, card = _opened(signed)
            except Refused:
                continue
            await self._store.put_card(
                key, str(card.address), card.number, signed, withdrawn=card.withdrawn
            )

    async def join(self, token: bytes, node: bytes) -> None:
        """Make a node a member by its invitation (E1)."""
        if not await self._store.redeem(digest(token), node, self._now()):
            raise Refused(
                "this invitation is unknown, used or past its time", hint="ampd relay invite"
            )
        self._members.add(node)

    async def collect(self, cards: list[bytes], node: bytes) -> None:
        """Push the mail of the mailboxes that these cards let this node collect (E3)."""
        await self._admit(node)
        wanted = [self._claim(signed, node) for signed in cards[:MAX_CLAIMS]]
        for signed, (key, card) in zip(cards, wanted, strict=False):
            await self._store.put_card(
                key, str(card.address), card.number, signed, withdrawn=card.withdrawn
            )
        mailboxes = {card.mailbox for _, card in wanted if not card.withdrawn}
        collector = self._collectors.setdefault(node, _Collector())
        for gone in set(collector.pushing) - mailboxes:
            collector.pushing.pop(gone).cancel()
        for mailbox in mailboxes - set(collector.pushing):
            scope = collector.pushing[mailbox] = trio.CancelScope()
            if self._nursery is not None:
                self._nursery.start_soon(self._push, node, mailbox, scope)

    def _claim(self, signed: bytes, node: bytes) -> tuple[bytes, Card]:
        key, card = _opened(signed)
        if node not in card.nodes:
            raise Refused("a card that does not name the node that collects", code="forbidden")
        return key, card

    async def left(self, node: bytes) -> None:
        """The session with this node ended."""
        collector = self._collectors.pop(node, None)
        for scope in collector.pushing.values() if collector else ():
            scope.cancel()
        await trio.lowlevel.checkpoint()

    async def _admit(self, node: bytes) -> None:
        if self.allowance.everybody or node in self.allowance.nodes or node in self._members:
            return
        if await self._store.is_member(node):
            self._members.add(node)
            return
        raise Refused(
            "this relay does not know your node: ask its owner for an invitation",
            hint="amp relay add URI, with the URI that `ampd relay invite` printed",
        )

    # --- pushing --------------------------------------------------------------------------

    async def _push(self, node: bytes, mailbox: bytes, scope: trio.CancelScope) -> None:
        """E4, for one mailbox, as long as its collector is there."""
        pause = FIRST_PAUSE
        held: Sequence[Held] = ()
        with scope:
            while True:
                changed = self._store.changed(mailbox)
                try:
                    held = await self._store.after(mailbox, None, AT_ONCE)
                    if not held:
                        await changed.wait()
                        continue
                    taken = await self._offer(node, held)
                    await self._store.remove(mailbox, [each.token for each in taken])
                    self.counters.pushed += len(taken)
                except Unavailable as exc:
                    log.warning("a mailbox cannot be pushed now", extra={"why": str(exc)})
                    taken = []
                if len(taken) == len(held):
                    pause = FIRST_PAUSE
                else:
                    await trio.sleep(pause / 2 + self._rng.uniform(0, pause))
                    pause = min(2 * pause, LONGEST_PAUSE)

    async def _offer(self, node: bytes, held: Sequence[Held]) -> list[Held]:
        """Those that the collector has taken, or refused for good."""
        taken: list[Held] = []
        failed: list[Held] = []
        async with trio.open_nursery() as nursery:
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


def _opened(signed: bytes) -> tuple[bytes, Card]:
    """A card that holds, and whose mailbox is its key's (E3, E5); Refused otherwise."""
    key, payload = open1(signed, CARD_CONTEXT)
    card = Card.from_bytes(payload)
    if card.mailbox != mailbox_of(key):
        raise Refused("a card that claims a mailbox which is not its key's", code="forged")
    return key, card
