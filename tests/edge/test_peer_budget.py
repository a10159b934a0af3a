"""What peers may take of this node in all: sessions and memory."""

import trio
from contracts.carriers import tcp_node
from protocol.harness import ALICE, BOB, Shelf, letter

from ampd.crypto.keys import SigningKey
from ampd.edge.peer_budget import Budget, Limits
from ampd.edge.peer_sockets import prove
from ampd.model.encoding import encode
from ampd.model.errors import RemoteProtocolError
from ampd.protocol.events import Deliver, Hello, to_wire
from ampd.protocol.framing import frame
from ampd.protocol.handshake import Handshake
from ampd.protocol.session import Session

THERE = ("10.0.0.2", 4160)


class Session1:
    def __init__(self, source):
        self.source, self.ended = source, ""

    def end(self, why):
        self.ended = why


def test_m1_beyond_the_budget_the_largest_session_of_the_greediest_address_ends():
    budget = Budget(max_held=100)
    many = [Session1("10.0.0.1") for _ in range(6)]
    one = Session1("10.0.0.2")
    for session in many:
        budget.hold(session, 12)
    budget.hold(many[3], 13)
    budget.hold(one, 40)
    assert [session.ended != "" for session in many] == [False, False, False, True, False, False]
    assert not one.ended and budget.held == 100


def test_m1_what_is_let_go_is_room_again():
    budget, first, second = Budget(max_held=100), Session1("a"), Session1("b")
    budget.hold(first, 100)
    budget.hold(first, 0)
    budget.hold(second, 100)
    assert not first.ended and not second.ended


def test_m2_an_address_strangers_and_all_together_have_a_limit():
    budget = Budget(Limits(sessions=5, strangers=3, each=2))
    for _ in range(2):
        budget.open("10.0.0.1", stranger=True)
    assert "from this address" in budget.refuses("10.0.0.1", stranger=True)
    assert budget.refuses("10.0.0.2", stranger=True) == ""
    budget.open("10.0.0.2", stranger=True)
    assert "that nobody knows" in budget.refuses("10.0.0.3", stranger=True)
    assert budget.refuses("10.0.0.3", stranger=False) == ""
    budget.open("", stranger=False)
    budget.open("", stranger=False)
    assert "there are 5 sessions" in budget.refuses("10.0.0.4", stranger=False)
    budget.close("10.0.0.1", stranger=True)
    assert budget.refuses("10.0.0.1", stranger=True) == ""


async def session_with(node, key):
    """A peer that has said Hello, or None if it was not let in."""
    stream = await trio.open_tcp_stream("127.0.0.1", node.port)
    try:
        channel = await prove(stream, Handshake.calling(key, bytes(31) + key.public[:1]))
        session = Session()
        hello = session.send(Hello(1, "x.local", bytes(8), 0, 1 << 20))
        await stream.send_all(channel.seal(hello))
        with trio.fail_after(20):
            if await stream.receive_some():
                return stream, channel, session
    except (trio.BrokenResourceError, RemoteProtocolError):
        pass
    await trio.aclose_forcefully(stream)
    return None


async def test_m2_one_host_opens_so_many_sessions_and_no_more(monkeypatch):
    async with tcp_node(BOB, Shelf(), limits=Limits(each=3)) as bob:
        opened = [await session_with(bob, SigningKey(bytes([n]) * 32)) for n in range(1, 6)]
        assert [each is not None for each in opened] == [True, True, True, False, False]
        await opened[0][0].aclose()
        with trio.fail_after(20):
            while bob._budget.sessions == 3:
                await trio.lowlevel.checkpoint()
        again = await session_with(bob, ALICE)
        assert again is not None
        for stream, *_ in (again, *opened[1:3]):
            await trio.aclose_forcefully(stream)


async def test_m1_peers_that_send_half_a_word_each_are_cut_when_it_is_too_much():
    async with tcp_node(BOB, Shelf()) as bob:
        bob._budget._max_held = 1 << 20
        half = frame(encode(to_wire(Deliver(1, letter(1, 1 << 20)))))[: 1 << 19]
        peers = [await session_with(bob, SigningKey(bytes([n]) * 32)) for n in range(1, 5)]
        for stream, channel, _ in peers:
            await stream.send_all(channel.seal(half))
        with trio.fail_after(20):
            while bob._budget.sessions > 2:
                await trio.lowlevel.checkpoint()
        assert bob._budget.held <= 1 << 20
        for stream, *_ in peers:
            await trio.aclose_forcefully(stream)
