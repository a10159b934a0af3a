"""The ways to another host that keep the promises of a Carrier (ampd/core/ports.py).

Each is `async with way(door) as carrier`: what is delivered to NODE goes through `door`, and what
the door says comes back. FakeCarrier is the one for tests of other rooms.
"""

import random
from contextlib import asynccontextmanager

import trio
from protocol.harness import ALICE, BOB, Shelf, in_memory

from ampd.core.whereabouts import Whereabouts
from ampd.edge.peer_state import LocalNode
from ampd.edge.peer_tcp import PeerTcp

NODE = BOB.public
START = 1_800_000_000_000


class FakeCarrier:
    """A carrier without a wire: the door of the other host is called, unless `away` is set."""

    def __init__(self, door):
        self.door = door
        self.away = None

    async def deliver(self, node, envelope):
        await trio.lowlevel.checkpoint()
        if self.away is not None:
            raise self.away
        return await self.door.deliver(envelope, ALICE.public)

    def wake(self, node):
        pass


@asynccontextmanager
async def fake(door):
    yield FakeCarrier(door)


class OverASession:
    def __init__(self, near):
        self._near = near

    async def deliver(self, node, envelope):
        return await self._near.deliver(envelope)

    def wake(self, node):
        pass


@asynccontextmanager
async def over_a_session(door):
    async with in_memory(door) as (near, _):
        yield OverASession(near)


@asynccontextmanager
async def tcp_node(key, door, *, listen="127.0.0.1:0", seed=1, **me):
    """A running PeerTcp; `.whereabouts` is how it learns of others."""
    whereabouts = Whereabouts()
    me = LocalNode(key, key.public.hex()[:8] + ".local", key.public[:8], listen, **me)
    node = PeerTcp(me, whereabouts, door, lambda: START, random.Random(seed))
    node.whereabouts, node.key, node.door = whereabouts, key, door
    async with trio.open_nursery() as nursery:
        await nursery.start(node.serve)
        yield node
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def over_tcp(door):
    async with tcp_node(ALICE, Shelf()) as here, tcp_node(BOB, door) as there:
        here.whereabouts.sighted(NODE, [("127.0.0.1", there.port)], "static")
        yield here
