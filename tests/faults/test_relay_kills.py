"""A relay that is killed under load: what it acknowledged is held, once.

AMPD_RELAY_KILLS=50 is the long form.
"""

import os
import random
import signal
from collections import Counter

import pytest
import trio
from contracts.carriers import START, tcp_node
from protocol.harness import ALICE, Shelf
from relay_process import running

from ampd.model.address import NodeUri
from ampd.model.errors import Unavailable
from ampd.model.message import Envelope
from ampd.storage.relay_store.port import DAY, Limits
from ampd.storage.relay_store.sqlite import SqliteRelayStore

KILLS = int(os.environ.get("AMPD_RELAY_KILLS", "10"))
BOXES = [bytes([n]) * 16 for n in range(200)]
pytestmark = pytest.mark.slow


class Load:
    """A node that leaves new mail all the time, and again what was not acknowledged."""

    def __init__(self, sender, relay):
        self._sender, self._relay = sender, relay
        self.acknowledged = set()
        self.more = trio.Event()

    async def run(self, number):
        rng = random.Random(number)
        while True:
            expires = START + 100_000 * DAY
            letter = Envelope(rng.choice(BOXES), expires, rng.randbytes(rng.randint(50, 2000)))
            while letter.id not in self.acknowledged:
                try:
                    await self._sender.deliver(self._relay, letter)
                except Unavailable:
                    self._sender.wake(self._relay)
                    await trio.sleep(0.05)
                else:
                    self.acknowledged.add(letter.id)
                    self.more.set()
                    self.more = trio.Event()

    async def at_least(self, count):
        with trio.fail_after(30):
            while len(self.acknowledged) < count:
                await self.more.wait()


async def strike(relay, load, rng):
    for _ in range(KILLS):
        await load.at_least(len(load.acknowledged) + rng.randint(20, 120))
        await trio.sleep(rng.uniform(0, 0.02))
        await trio.to_thread.run_sync(relay.end, signal.SIGKILL)
        await trio.to_thread.run_sync(relay.start)


async def held(path):
    store = SqliteRelayStore(path, Limits(), lambda: 0)  # nothing has expired
    found = Counter()
    async with trio.open_nursery() as nursery:
        await nursery.start(store.run)
        for box in BOXES:
            found.update(each.envelope.id for each in await store.after(box, None, 10_000))
        nursery.cancel_scope.cancel()
    return found


async def test_what_a_killed_relay_acknowledged_is_there_once(tmp_path):
    with running(tmp_path, "--open") as relay:
        uri = NodeUri.parse(relay.uri)
        async with tcp_node(ALICE, Shelf(), listen="") as sender, trio.open_nursery() as nursery:
            sender.whereabouts.sighted(uri.key, [(uri.host, uri.port)], "static")
            load = Load(sender, uri.key)
            for number in range(16):
                nursery.start_soon(load.run, number)
            await strike(relay, load, random.Random(7))
            await load.at_least(len(load.acknowledged) + 20)
            nursery.cancel_scope.cancel()
        relay.end()
        found = await held(relay.home / "relay.sqlite")
        assert load.acknowledged <= set(found)
        assert max(found.values()) == 1
        assert len(load.acknowledged) > 20 * KILLS
