"""A network in memory, for tests of edge/peer_tcp.py: no socket, so the clock may jump.

An endpoint is a node that answers, or one of REFUSES (nobody listens) and SILENT (no answer ever).
"""

import errno
from contextlib import asynccontextmanager

import trio
from contracts.carriers import tcp_node
from trio.testing import memory_stream_pair

from ampd.edge import peer_calls

REFUSES, SILENT = "refuses", "silent"


class _Socket:
    def __init__(self, host):
        self._host = host

    def getpeername(self):
        return (self._host, 50000)


class Link(trio.abc.HalfCloseableStream):
    """One end of a connection. `cut` stops every byte, and nobody is told."""

    def __init__(self, stream, host):
        self._stream = stream
        self.socket = _Socket(host)
        self.cut = False
        self.delay = 0  # seconds, of each write

    def setsockopt(self, *_):
        pass

    async def send_all(self, data):
        if self.delay:
            await trio.sleep(self.delay)
        if not self.cut:
            await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self):
        await self._stream.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes=None):
        return await self._stream.receive_some(max_bytes)

    async def send_eof(self):
        if not self.cut:
            await self._stream.send_eof()

    async def aclose(self):
        if self.cut:
            await trio.lowlevel.checkpoint()
        else:
            await self._stream.aclose()


class Network:
    """Knows who is where, and what was tried when."""

    def __init__(self, nursery):
        self.places = {}
        self.calls = []  # (time, endpoint)
        self.under_way = self.most_under_way = 0
        self.links = []
        self.delay = lambda: 0  # of the next connection
        self._nursery = nursery

    async def connect(self, endpoint):
        self.calls.append((trio.current_time(), endpoint))
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            with trio.fail_after(5):
                return await self._connect(endpoint)
        finally:
            self.under_way -= 1

    async def _connect(self, endpoint):
        there = self.places.get(endpoint, REFUSES)
        if there is SILENT:
            await trio.sleep_forever()
        await trio.sleep(0.001)
        if there is REFUSES:
            raise OSError(errno.ECONNREFUSED, "Connection refused")
        here, far = (Link(end, "10.0.0.1") for end in memory_stream_pair())
        here.delay = far.delay = self.delay()
        self.links += [here, far]
        self._nursery.start_soon(self._answer, there, far)
        return here

    async def _answer(self, node, stream):
        try:
            await node._answer(stream)
        finally:
            await trio.aclose_forcefully(stream)

    def times(self, endpoint):
        return [at for at, called in self.calls if called == endpoint]

    def cut(self):
        for link in self.links:
            link.cut = True


@asynccontextmanager
async def network(monkeypatch):
    async with trio.open_nursery() as nursery:
        net = Network(nursery)
        monkeypatch.setattr(peer_calls, "connect", net.connect)
        yield net
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def at(net, endpoint, key, door, seed=1):
    """A node that listens at `endpoint` of the network."""
    async with tcp_node(key, door, listen="", seed=seed) as node:
        node.port = endpoint[1]
        net.places[endpoint] = node
        yield node
        net.places.pop(endpoint, None)
