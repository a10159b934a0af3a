"""Stand-ins of the peer protocol's tests: doors that keep promises, links without a network."""

from contextlib import asynccontextmanager

import trio
from trio.testing import memory_stream_pair

from ampd.core.ports import deliver_each
from ampd.crypto.keys import SigningKey
from ampd.edge.peer_budget import Budget
from ampd.edge.peer_connection import PeerConnection
from ampd.edge.peer_offers import Offers
from ampd.edge.peer_sockets import prove
from ampd.model.errors import Refused, Unavailable
from ampd.model.message import Delivery, Envelope
from ampd.protocol.events import Hello
from ampd.protocol.handshake import Handshake
from ampd.protocol.session import ENVELOPE_BYTES, Session

ALICE = SigningKey(b"alice's node key: 32 bytes long!")
BOB = SigningKey(b"and bob's node key: 32 bytes too")
HELLO = Hello(1, "alice.local", b"epoch--a", 4160, ENVELOPE_BYTES)
THEIR_HELLO = Hello(1, "bob.local", b"epoch--b", 0, ENVELOPE_BYTES, ("later",))
STATIC = {ALICE: b"a" * 32, BOB: b"b" * 32}


def letter(number=0, size=16):
    """An envelope like no other."""
    return Envelope(b"mailbox of bob..", 2_000_000_000_000, number.to_bytes(4, "big") * (size // 4))


LETTER = letter()


class Shelf:
    """A door that keeps everything, or answers what it was told to; it can be made to wait."""

    def __init__(self, answer=None, cards=()):
        self.answer = Delivery("delivered", b"a receipt") if answer is None else answer
        self.called, self.kept, self.learned, self.left_by = [], [], [], []
        self.may_answer = trio.Event()
        self.may_answer.set()
        self._cards = list(cards)
        self._turn = trio.Lock()

    async def deliver(self, envelope, node):
        self.called.append(envelope)
        await self.may_answer.wait()
        if isinstance(self.answer, Exception):
            raise self.answer
        await trio.lowlevel.checkpoint()
        if envelope not in self.kept:
            self.kept.append(envelope)
        return self.answer

    async def deliver_run(self, run, node):
        await deliver_each(self.deliver, self._turn, run, node)

    def cards(self):
        return list(self._cards)

    async def cards_for(self, addresses, node):
        self.asked_for = addresses
        await trio.lowlevel.checkpoint()
        return list(self._cards)

    async def join(self, token, node):
        await trio.lowlevel.checkpoint()
        raise Refused("this node is no relay", code="forbidden")

    async def collect(self, cards, node):
        await trio.lowlevel.checkpoint()
        raise Refused("this node is no relay", code="forbidden")

    async def left(self, node):
        self.left_by.append(node)

    async def learn(self, cards, node):
        self.learned += cards


def shaken(caller=ALICE, answerer=BOB, **options):
    """Both sides of a handshake that went through."""
    here = Handshake.calling(caller, STATIC[caller], **options)
    there = Handshake.answering(answerer, STATIC[answerer])
    here_says = here.start()
    while here_says:
        there_says = there.receive(here_says)
        here_says = here.receive(there_says) if there_says else b""
    return here, there


class Pair:
    """Two sessions and the wire between them. Every word passes through both."""

    def __init__(self, *, greeted=True):
        self.alice, self.bob = Session(), Session()
        if greeted:
            self.alice_says(HELLO)
            self.bob_says(THEIR_HELLO)

    def alice_says(self, *events):
        for event in events:
            assert self.bob.receive(self.alice.send(event)) == [event]

    def bob_says(self, *events):
        for event in events:
            assert self.alice.receive(self.bob.send(event)) == [event]


class Near:
    """The calling end of a session over any stream: what PeerTcp does for one node, and no more."""

    def __init__(self):
        self.offers = Offers()
        self.budget = Budget()
        self.connection = None
        self.ended = False

    async def run(self, stream, door, key=ALICE, hello=HELLO, *, calling=True):
        try:
            if calling:
                handshake = Handshake.calling(key, STATIC[key])
            else:
                handshake = Handshake.answering(key, STATIC[key])
            await prove(stream, handshake)
            self.connection = PeerConnection(stream, handshake, door, self.offers, self.budget)
            await self.connection.greet(hello)
            await self.connection.run()
        finally:
            self.ended = True
            await trio.aclose_forcefully(stream)
            self.offers.give_up("the session ended")

    async def deliver(self, envelope):
        if self.ended:
            raise Unavailable("the session ended")
        offer = self.offers.make(envelope)
        if self.connection is not None:
            self.connection.admit()
        return await self.offers.outcome(offer)


@asynccontextmanager
async def in_memory(shelf, near_shelf=None):
    """Two connections over an in-memory stream: (the calling end, the other end)."""
    here, there = memory_stream_pair()
    near, far = Near(), Near()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(near.run, here, near_shelf or Shelf())
        nursery.start_soon(lambda: far.run(there, shelf, BOB, THEIR_HELLO, calling=False))
        await trio.testing.wait_all_tasks_blocked()
        yield near, far
        nursery.cancel_scope.cancel()
