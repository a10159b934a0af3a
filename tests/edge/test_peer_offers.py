"""Order: what is offered to one node is taken there in that order, whatever happens to sessions."""

import random
from collections import defaultdict

import pytest
import trio
from edge.peer_network import at, network
from protocol.harness import ALICE, BOB, LETTER, Shelf, letter
from trio.testing import wait_all_tasks_blocked

from ampd.edge.peer_offers import Offers
from ampd.model.errors import AmpdError, Refused, StaleKey, Unavailable
from ampd.model.message import Delivery, Envelope

HERE, THERE = ("10.0.0.1", 4160), ("10.0.0.2", 4160)
DELIVERED = Delivery("delivered", b"")
OLD, NEW = "the older session", "the newer session"
FULL = Unavailable("the disk is full")


def to(mailbox, number):
    return Envelope(mailbox * 16, 2_000_000_000_000, number.to_bytes(4, "big"))


@pytest.fixture
def offers():
    return Offers()


def say(offers, session):
    """Everything that `session` may say now, said."""
    said = []
    while offers.next(session) is not None:
        said.append(offers.begin(session))
    return said


def test_o1_offers_go_out_in_the_order_in_which_they_were_made(offers):
    made = [offers.make(letter(number)) for number in range(5)]
    assert say(offers, OLD) == made


def test_o1_a_newer_session_waits_for_the_answers_of_the_older_one(offers):
    first, second = offers.make(letter(1)), offers.make(letter(2))
    offers.next(OLD)
    assert offers.begin(OLD) is first
    assert offers.next(NEW) is None and offers.next(OLD) is second
    offers.answer(OLD, first, DELIVERED)
    assert offers.next(NEW) is second


def test_o2_what_is_open_and_what_waits_is_unavailable_when_a_session_breaks(offers):
    first, second = offers.make(to(b"a", 1)), offers.make(to(b"b", 2))
    offers.next(OLD)
    offers.begin(OLD)
    offers.broke(OLD, [first], "the link broke")
    assert first.is_there and second.is_there and offers.next(NEW) is None


def test_o2_what_only_waits_waits_for_the_next_session(offers):
    first = offers.make(letter(1))
    offers.broke(OLD, [], "the link broke")
    assert offers.next(NEW) is first


@pytest.mark.parametrize("answer", [FULL, StaleKey("renewed", b"card")])
def test_o3_what_waits_behind_one_that_is_to_be_offered_again_is_unavailable(offers, answer):
    first, same, other = (offers.make(to(*each)) for each in ((b"a", 1), (b"a", 2), (b"b", 3)))
    offers.next(OLD)
    offers.begin(OLD)
    offers.answer(OLD, first, answer)
    assert same.is_there and not other.is_there
    assert offers.next(OLD) is other


async def test_o3_its_mailbox_is_stopped_until_all_is_answered_and_everybody_has_heard(offers):
    first, second = offers.make(letter(1)), offers.make(letter(2))
    say(offers, OLD)
    offers.answer(OLD, first, FULL)
    with pytest.raises(Unavailable):
        await offers.outcome(first)
    with pytest.raises(Unavailable, match="the disk is full"):
        offers.make(letter(3))
    offers.answer(OLD, second, FULL)
    with pytest.raises(Unavailable):
        offers.make(letter(3))
    with pytest.raises(Unavailable):
        await offers.outcome(second)
    assert not offers
    assert offers.make(letter(1)) is offers.next(OLD)


async def test_o3_a_refusal_for_good_stops_nothing(offers):
    first, second = offers.make(letter(1)), offers.make(letter(2))
    say(offers, OLD)
    offers.answer(OLD, first, Refused("no"))
    third = offers.make(letter(3))
    assert not second.is_there and offers.next(OLD) is third


async def test_o3_nobody_is_held_up_by_one_that_waits_no_more(offers):
    first = offers.make(letter(1))
    with trio.move_on_after(0):
        await offers.outcome(first)
    second = offers.make(letter(2))
    assert offers.next(OLD) is second
    with trio.move_on_after(0):
        offers.begin(OLD)
        await offers.outcome(second)
    offers.answer(OLD, second, FULL)
    assert not offers and offers.make(letter(3))


# The whole: two nodes, a queue that is carried as core/transfer.py does it, and misfortunes.


class Scripted(Shelf):
    """A door that is full now and then, in the middle of what is under way, and keeps its promise:
    what is called for a mailbox while an earlier call fails, fails too."""

    def __init__(self, rng):
        super().__init__()
        self._rng = rng
        self._under_way = defaultdict(list)
        self.refuses = 0.0

    async def deliver(self, envelope, node):
        mine = {"failed": False}
        under_way = self._under_way[envelope.mailbox]
        under_way.append(mine)
        fails = self._rng.random() < self.refuses
        first = under_way[-2] if len(under_way) > 1 else None
        done = mine["done"] = trio.Event()
        try:
            await trio.sleep(self._rng.choice([0, 0, 0.001, 0.01]))
            if first is not None:
                await first["done"].wait()
            if fails or mine["failed"]:
                for later in under_way[under_way.index(mine) :]:
                    later["failed"] = True
                raise self._rng.choice([FULL, StaleKey("renewed", b"")])
            if envelope not in self.kept:
                self.kept.append(envelope)
            return DELIVERED
        finally:
            done.set()
            under_way.remove(mine)


class Queue:
    """Carries a queue of envelopes: in rounds, in order, each mailbox until its first failure."""

    def __init__(self, node, queue):
        self._node = node
        self.left = list(queue)

    async def run(self):
        while self.left:
            failed = set()
            async with trio.open_nursery() as nursery:
                for envelope in self.left[:64]:
                    nursery.start_soon(self._offer, envelope, failed)
                    await trio.lowlevel.checkpoint()
            if failed:
                await trio.sleep(0.3)

    async def _offer(self, envelope, failed):
        if envelope.mailbox in failed:
            return
        try:
            await self._node.deliver(BOB.public, envelope)
        except AmpdError:
            failed.add(envelope.mailbox)
        else:
            self.left.remove(envelope)


async def misfortunes(rng, node, there, door):
    for _ in range(30):
        await trio.sleep(rng.choice([0, 0.001, 0.01, 0.1, 1]))
        for side in (node, there):
            for peer in list(side._peers.values()):
                if peer.connection is not None and rng.random() < 0.3:
                    peer.connection.end("it broke")
                elif peer.connection is not None and rng.random() < 0.3:
                    peer.connection.retire("an hour")
        door.refuses = rng.choice([0, 0, 0.1, 0.5])
        if rng.random() < 0.3:
            there.whereabouts.sighted(ALICE.public, [HERE], "mdns")
    door.refuses = 0.0


@pytest.mark.parametrize("seed", range(16))
async def test_what_is_kept_first_is_what_was_queued_first(monkeypatch, autojump_clock, seed):
    rng = random.Random(seed)
    queue = [
        Envelope(rng.choice([b"a", b"b"]) * 16, 2_000_000_000_000, number.to_bytes(4, "big") * size)
        for number, size in enumerate(rng.choices([1, 100, 50_000], k=200))
    ]
    door = Scripted(rng)
    async with (
        network(monkeypatch) as net,
        at(net, HERE, ALICE, Shelf(), seed=seed) as here,
        at(net, THERE, BOB, door, seed=seed + 1) as there,
    ):
        net.delay = lambda: rng.choice([0, 0.01, 0.2])
        here.whereabouts.sighted(BOB.public, [THERE], "static")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(misfortunes, rng, here, there, door)
            nursery.start_soon(Queue(here, queue).run)
    for mailbox in (b"a" * 16, b"b" * 16):
        kept = [envelope for envelope in door.kept if envelope.mailbox == mailbox]
        assert kept == [envelope for envelope in queue if envelope.mailbox == mailbox]


async def test_a_newer_session_begins_when_the_older_one_is_answered(monkeypatch, autojump_clock):
    door = Shelf()
    door.may_answer = trio.Event()
    async with (
        network(monkeypatch) as net,
        at(net, HERE, ALICE, Shelf()) as here,
        at(net, THERE, BOB, door),
        trio.open_nursery() as nursery,
    ):
        here.whereabouts.sighted(BOB.public, [THERE], "static")
        await trio.sleep(1)
        nursery.start_soon(here.deliver, BOB.public, letter(1))
        await wait_all_tasks_blocked()
        here._peers[BOB.public].connection.retire("an hour")
        await trio.sleep(5)
        nursery.start_soon(here.deliver, BOB.public, letter(2))
        await trio.sleep(5)
        assert door.called == [letter(1)]
        door.may_answer.set()
        await trio.sleep(1)
    assert door.kept == [letter(1), letter(2)]


async def test_an_older_session_that_is_not_answered_holds_the_newer_one_up_for_a_minute_at_most(
    monkeypatch, autojump_clock
):
    door = Shelf()
    door.may_answer = trio.Event()
    failed = []

    async def offer(node, envelope):
        try:
            await node.deliver(BOB.public, envelope)
        except Unavailable:
            failed.append(envelope)

    async with (
        network(monkeypatch) as net,
        at(net, HERE, ALICE, Shelf()) as here,
        at(net, THERE, BOB, door),
    ):
        here.whereabouts.sighted(BOB.public, [THERE], "static")
        await trio.sleep(1)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(offer, here, letter(1))
            await wait_all_tasks_blocked()
            here._peers[BOB.public].connection.retire("an hour")
            await trio.sleep(5)
            nursery.start_soon(offer, here, letter(2))
            began = trio.current_time()
        assert len(failed) == 2 and trio.current_time() - began <= 61
        door.may_answer.set()
        assert await here.deliver(BOB.public, LETTER) == Delivery("delivered", b"a receipt")
