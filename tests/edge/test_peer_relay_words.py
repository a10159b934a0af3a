"""Join and Collect, and cards by address: what a relay and its users say to each other."""

import pytest
import trio
from edge.peer_network import at, network
from protocol.harness import ALICE, BOB, LETTER, Shelf, letter
from trio.testing import wait_all_tasks_blocked

from ampd.model.errors import Refused, Unavailable
from ampd.model.message import Delivery
from ampd.protocol.session import WINDOW

HERE, RELAY = ("10.0.0.1", 4160), ("10.0.0.2", 4161)


class Relay(Shelf):
    """A door that lets those in who know the word, and remembers who collects what."""

    def __init__(self):
        super().__init__(Delivery("relayed"), cards=[b"card %d" % n for n in range(300)])
        self.members, self.collecting = [], {}

    async def join(self, token, node):
        await self.may_answer.wait()
        if token != b"friend":
            raise Refused("this invitation is used")
        self.members.append(node)

    async def collect(self, cards, node):
        await self.may_answer.wait()
        if node not in self.members:
            raise Refused("this relay does not know your node")
        self.collecting[node] = cards

    async def left(self, node):
        await super().left(node)
        self.collecting.pop(node, None)


@pytest.fixture
async def net(monkeypatch, autojump_clock):
    async with network(monkeypatch) as net:
        yield net


@pytest.fixture
async def relay(net):
    async with at(net, RELAY, BOB, Relay()) as node:
        yield node


@pytest.fixture
async def user(net, relay):
    async with at(net, HERE, ALICE, Shelf()) as node:
        node.whereabouts.sighted(BOB.public, [RELAY], "relay")
        await trio.sleep(1)
        yield node


async def test_a_node_joins_and_collects(user, relay, autojump_clock):
    await user.join(BOB.public, b"friend")
    await user.collect(BOB.public, [b"card of alice", b"card of ann"])
    assert relay.door.collecting == {ALICE.public: [b"card of alice", b"card of ann"]}


async def test_the_newest_collect_replaces_the_earlier_one(user, relay, autojump_clock):
    await user.join(BOB.public, b"friend")
    async with trio.open_nursery() as nursery:
        for number in range(20):
            nursery.start_soon(user.collect, BOB.public, [b"card %d" % number])
            await trio.lowlevel.checkpoint()
    assert relay.door.collecting == {ALICE.public: [b"card 19"]}


async def test_a_refusal_of_the_relay_comes_with_its_reason(user, relay, autojump_clock):
    with pytest.raises(Refused, match="this invitation is used"):
        await user.join(BOB.public, b"stranger")
    with pytest.raises(Refused, match="does not know your node"):
        await user.collect(BOB.public, [b"card"])


async def test_a_node_that_is_no_relay_says_so(user, relay, autojump_clock):
    for request in (relay.join(ALICE.public, b"friend"), relay.collect(ALICE.public, [b"card"])):
        with pytest.raises(Refused) as refused:
            await request
        assert refused.value.code == "forbidden"


async def test_mail_is_left_with_a_relay_and_pushed_by_it(user, relay, autojump_clock):
    assert await user.deliver(BOB.public, LETTER) == Delivery("relayed")
    assert await relay.deliver(ALICE.public, letter(2)) == Delivery("delivered", b"a receipt")
    assert user.door.kept == [letter(2)]


async def test_requests_go_before_a_queue_of_mail(user, relay, autojump_clock):
    relay.door.may_answer = trio.Event()
    async with trio.open_nursery() as nursery:
        for number in range(3 * WINDOW):
            nursery.start_soon(user.deliver, BOB.public, letter(number))
        await wait_all_tasks_blocked()
        nursery.start_soon(user.join, BOB.public, b"friend")
        await wait_all_tasks_blocked()
        relay.door.may_answer.set()
        while not relay.door.members:
            await trio.lowlevel.checkpoint()
        assert len(relay.door.called) < 3 * WINDOW
    assert len(relay.door.kept) == 3 * WINDOW


async def test_a_relay_hears_that_the_last_session_has_ended(user, relay, autojump_clock):
    await user.join(BOB.public, b"friend")
    await user.collect(BOB.public, [b"card"])
    user._peers[BOB.public].connection.end("it broke")
    await wait_all_tasks_blocked()
    assert relay.door.left_by == [ALICE.public] and relay.door.collecting == {}


async def test_a_newer_session_is_no_end_of_the_older_one(user, relay, net, autojump_clock):
    await user.join(BOB.public, b"friend")
    user.whereabouts.lost(BOB.public, "relay")  # the node that was here before calls nobody again
    async with at(net, HERE, ALICE, Shelf()) as restarted:
        restarted.whereabouts.sighted(BOB.public, [RELAY], "relay")
        await trio.sleep(1)
        await restarted.collect(BOB.public, [b"card"])
        await trio.sleep(1)
        assert relay.door.left_by == [] and relay.door.collecting == {ALICE.public: [b"card"]}


async def test_who_asks_while_there_is_no_session_hears_so(user, relay, autojump_clock):
    user._peers[BOB.public].connection.end("it broke")
    await wait_all_tasks_blocked()
    for request in (user.join(BOB.public, b"friend"), user.collect(BOB.public, [b"card"])):
        with pytest.raises(Unavailable):
            await request


@pytest.mark.parametrize("how", ["end", "retire"])
async def test_who_waits_for_an_answer_hears_of_the_end(user, relay, how, autojump_clock):
    relay.door.may_answer = trio.Event()
    ended = []

    async def ask(request):
        with pytest.raises(Unavailable):
            await request
        ended.append(1)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask, user.join(BOB.public, b"friend"))
        nursery.start_soon(ask, user.collect(BOB.public, [b"card"]))
        await wait_all_tasks_blocked()
        getattr(user._peers[BOB.public].connection, how)("the test wants it")
    assert ended == [1, 1]


@pytest.mark.parametrize(
    "cards", [[b"x"] * 257, [bytes(16384)] * 64 + [b"x"], [bytes(16385)], [b""]]
)
async def test_what_cannot_be_said_is_refused_here(user, relay, cards, autojump_clock):
    with pytest.raises(Refused):
        await user.collect(BOB.public, cards)
    for token in (b"", bytes(65)):
        with pytest.raises(Refused):
            await user.join(BOB.public, token)


async def test_cards_are_asked_for_by_address_and_are_not_too_many(user, relay, autojump_clock):
    user.door.learned.clear()
    await user.want_cards(BOB.public, ["bob@bob.local", "@carol.local", ""])
    assert relay.door.asked_for == ("bob@bob.local", "@carol.local", "")
    assert user.door.learned == relay.door._cards[:256]


async def test_who_may_not_ask_for_cards_is_shown_none(user, relay, monkeypatch, autojump_clock):
    async def cards_for(addresses, node):
        raise Refused("this relay does not know your node")

    user.door.learned.clear()
    monkeypatch.setattr(relay.door, "cards_for", cards_for)
    await user.want_cards(BOB.public, [""])
    assert user.door.learned == []
