"""A relay as its users meet it: deposits over sessions, a mailbox that catches up, idle collectors.

The relay and the nodes are processes of their own; eight senders and a thousand collectors are
sessions of this one. Deposits are 1 KiB each, durable when they are answered.
"""

import contextlib
import json
import os
import random
import select
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import trio
from nodes import PATIENCE, Node, request, sends
from table import Row

from ampd.core.whereabouts import Whereabouts
from ampd.crypto.keys import SigningKey
from ampd.edge.peer_state import LocalNode
from ampd.edge.peer_tcp import PeerTcp
from ampd.model.address import Address, NodeUri
from ampd.model.card import CARD_CONTEXT, Card, mailbox_of
from ampd.model.errors import Unavailable
from ampd.model.message import Envelope

SENDERS, DEPOSITS = 8, 8000
AGENTS, EACH = 20, 500  # a mailbox holds a thousand, half of them of one sender
COLLECTORS = 1000
FAR = 2**45


class Relay:
    """`ampd relay --open` in a home of its own."""

    def __init__(self):
        self.home = Path(tempfile.mkdtemp(prefix="ampd-bench-relay-"))
        self.log = self.home.with_suffix(".log")

    def __enter__(self):
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("AMPD_")}
        self.command = [sys.executable, "-m", "ampd", "relay", "--home", str(self.home)]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [*self.command, "--listen", "127.0.0.1:0", "--open", "--log-format", "json"],
                env=inherited, stderr=log,
            )  # fmt: skip
        while b'"ready"' not in self.log.read_bytes():
            time.sleep(0.01)
        ready = next(x for x in self.log.read_text().splitlines() if '"ready"' in x)
        self.uri = json.loads(ready)["uri"]
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait(PATIENCE)
        shutil.rmtree(self.home)
        self.log.unlink()

    def held(self):
        done = subprocess.run([*self.command, "--count"], capture_output=True, check=True)
        return int(done.stdout)

    def memory(self):
        """The resident set, in KiB."""
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1])
        raise RuntimeError("no VmRSS")


class NoDoor:
    """The door of a node that only deposits, or waits for mail that never comes."""

    def cards(self):
        return []

    async def learn(self, cards, node):
        pass

    async def left(self, node):
        pass


async def session(nursery, uri):
    """A node of its own with a session to the relay."""
    key = SigningKey.generate()
    whereabouts = Whereabouts()
    me = LocalNode(key, "bench", key.public[:8], "")
    node = PeerTcp(me, whereabouts, NoDoor(), lambda: round(time.time() * 1000), random.Random())
    node.key = key
    await nursery.start(node.serve)
    whereabouts.sighted(uri.key, [(uri.host, uri.port)], "relay")
    while not node.session_id(uri.key):  # noqa: ASYNC110 - it tells its door only
        await trio.sleep(0.01)
    return node


async def deposits(uri):
    """Deposits a second of all senders together."""
    each = DEPOSITS // SENDERS

    async def send(node, number):
        envelope = Envelope(bytes([number % 64]) * 16, FAR, os.urandom(1024))
        await node.deliver(uri.key, envelope)

    async def send_all(node):
        for start in range(0, each, 50):
            async with trio.open_nursery() as window:
                for n in range(start, min(each, start + 50)):
                    window.start_soon(send, node, n)

    async with trio.open_nursery() as nursery:
        nodes = [await session(nursery, uri) for _ in range(SENDERS)]
        begin = time.perf_counter()
        async with trio.open_nursery() as sending:
            for node in nodes:
                sending.start_soon(send_all, node)
        took = time.perf_counter() - begin
        nursery.cancel_scope.cancel()
    return DEPOSITS / took


async def collectors(relay, uri):
    """KiB of the relay's memory for each idle collector."""

    async def come(nursery):
        node = await session(nursery, uri)
        key = SigningKey.generate()
        card = Card(
            Address("bob", f"{key.public.hex()[:20]}.local"), 1, 1, mailbox_of(key.public),
            (node.key.public,), b"i" * 32, FAR, b"f" * 32,
        )  # fmt: skip
        with contextlib.suppress(Unavailable):
            await node.collect(uri.key, [key.sign1(CARD_CONTEXT, card.to_bytes())])

    async with trio.open_nursery() as nursery:
        for _ in range(20):
            await come(nursery)
        before = relay.memory()
        for _ in range(COLLECTORS):
            await come(nursery)
        await trio.sleep(1)
        after = relay.memory()
        nursery.cancel_scope.cancel()
    return (after - before) / COLLECTORS


def catch_up(relay):
    """Seconds until a node that comes online has 10,000, and its socket's p99 meanwhile, in ms."""
    with (
        Node("b", peer_listen="", relay_servers=relay.uri) as there,
        Node("a", peer_listen="", relay_servers=relay.uri) as here,
    ):
        there.start()
        here.start()
        bob = there.connect()
        for n in range(AGENTS):
            bob.call("agent.create", name=f"bob{n}")
        here.connect().call("agent.create", name="alice")
        sender = here.connect("alice")
        while len(sender.call("directory.list", domain="b.local")["agents"]) < AGENTS:
            time.sleep(0.1)
        there.stop()
        for n in range(AGENTS):
            lines = sends(f"bob{n}@b.local")
            sender.pipelined(lines[i % len(lines)] for i in range(EACH))
        while relay.held() < AGENTS * EACH:
            time.sleep(0.5)
        here.stop()
        return watch(there)


def watch(there):
    begin = time.perf_counter()
    there.start()
    connection = there.connect()
    hello, took, messages = request("system.hello"), [], 0
    while messages < AGENTS * EACH:
        for _ in range(50):
            asked = time.perf_counter()
            connection.socket.sendall(hello)
            connection.lines.readline()
            took.append(time.perf_counter() - asked)
            select.select([], [], [], 0.01)  # often enough for a p99, and no load of its own
        messages = connection.call("system.status")["mailbox"]["messages"]
        if time.perf_counter() - begin > 4 * PATIENCE:
            raise RuntimeError(f"only {messages} came")
    took.sort()
    return time.perf_counter() - begin, took[len(took) * 99 // 100] * 1000


def run(options):
    """The rows of this benchmark."""
    with Relay() as relay:
        rate = trio.run(deposits, NodeUri.parse(relay.uri))
    yield Row("relay, deposits over 8 sessions, 1 KiB", ">=", 1000, rate, "/s")
    with Relay() as relay:
        each = trio.run(collectors, relay, NodeUri.parse(relay.uri))
    yield Row("relay, memory of an idle collector", "<=", 40, each, "KiB", f"of {COLLECTORS}")
    with Relay() as relay:
        seconds, p99 = catch_up(relay)
    yield Row(
        "catch-up of 10,000 from a relay", "<=", 10, seconds, "s", "start of the node included"
    )
    yield Row("its socket meanwhile, p99", "<=", 50, p99, "ms")
