"""Durable deposits of 1 KiB from eight senders: into SQLite, and into JetStream on three servers.

The floor of SQLite is one insert a transaction of eight into a plain table with the same settings,
in a plain loop: what eight senders who always wait together can reach at most in one thread. The
floor of JetStream is its own client, eight publishers with the same bodies, on a stream with the
same replicas. Store and floor take turns, so that a busy machine hits both alike; a ratio is the
median of the turns'.
"""

import asyncio
import os
import sqlite3
import statistics
import tempfile
import time
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import nats
import trio
from nats_server import running
from table import Row

from ampd.model.message import Envelope
from ampd.storage.relay_store.jetstream import JetStreamRelayStore
from ampd.storage.relay_store.port import DAY, Limits
from ampd.storage.relay_store.sqlite import SqliteRelayStore

SENDERS = 8
TURN = 1600  # deposits of the store, and of the floor, before the other has its turn
LIMITS = Limits()
BOXES = 64  # of them none gets full
NOW = 1_800_000_000_000


def bodies(count):
    return [os.urandom(1024) for _ in range(count)]


async def deposits(store):
    """Seconds for TURN deposits."""
    envelopes = [
        Envelope(bytes([n % BOXES]) * 16, NOW + DAY, b) for n, b in enumerate(bodies(TURN))
    ]

    async def send(mine):
        for envelope in mine:
            await store.deposit(envelope)

    begin = time.perf_counter()
    async with trio.open_nursery() as nursery:
        for sender in range(SENDERS):
            nursery.start_soon(send, envelopes[sender::SENDERS])
    return time.perf_counter() - begin


@asynccontextmanager
async def serving(store):
    async with trio.open_nursery() as nursery:
        await nursery.start(store.run)
        yield store
        nursery.cancel_scope.cancel()


def plain_inserts(path):
    """A function that takes a turn of the floor."""
    db = sqlite3.connect(path, isolation_level=None)
    db.execute("PRAGMA journal_mode=WAL")
    db.execute("PRAGMA synchronous=FULL")
    db.execute("CREATE TABLE mail(token INTEGER PRIMARY KEY, sealed BLOB)")

    def turn():
        todo = bodies(TURN)
        begin = time.perf_counter()
        for start in range(0, TURN, SENDERS):
            db.execute("BEGIN IMMEDIATE")
            for body in todo[start : start + SENDERS]:
                db.execute("INSERT INTO mail(sealed) VALUES(?)", (body,))
            db.execute("COMMIT")
        return time.perf_counter() - begin

    turn.end = db.close
    return turn


def published(urls):
    """A function that takes a turn of JetStream's own client, in a loop of its own."""
    loop = asyncio.new_event_loop()

    async def connect():
        client = await nats.connect(urls)
        stream = client.jetstream()
        await stream.add_stream(name="FLOOR", subjects=["floor.*"], num_replicas=3)
        return client, stream

    client, stream = loop.run_until_complete(connect())

    async def send(mine):
        for number, body in enumerate(mine):
            await stream.publish(f"floor.{number % BOXES}", body)

    async def all_send():
        todo = bodies(TURN)
        begin = time.perf_counter()
        await asyncio.gather(*(send(todo[sender::SENDERS]) for sender in range(SENDERS)))
        return time.perf_counter() - begin

    def turn():
        return loop.run_until_complete(all_send())

    def end():
        loop.run_until_complete(client.close())
        loop.close()

    turn.end = end
    return turn


async def compare(store, make_floor, turns):
    """Deposits a second of the store and of the floor, and the median of their ratios."""
    async with serving(store):
        await deposits(store)
        floor = make_floor()
        floor()
        pairs = [(await deposits(store), floor()) for _ in range(turns)]
        floor.end()
    mine, least = (TURN / statistics.median(each) for each in zip(*pairs, strict=True))
    return mine, least, statistics.median(floor / mine for mine, floor in pairs)


def sqlite(turns):
    """Against plain inserts."""
    with tempfile.TemporaryDirectory(prefix="ampd-bench-") as folder:
        store = SqliteRelayStore(Path(folder, "relay.sqlite"), LIMITS, lambda: NOW)
        floor = partial(plain_inserts, Path(folder, "floor.sqlite"))
        mine, least, ratio = trio.run(compare, store, floor, turns)
    note = f"floor {least:,.0f}/s, ratio {ratio:.2f}"
    return Row("relay deposit, SQLite, 8 senders", ">=", 1000, mine, "/s", note)


def jetstream(turns):
    """Against the client of NATS itself."""
    folder = tempfile.TemporaryDirectory(prefix="ampd-bench-")
    with folder, running(Path(folder.name), 3) as cluster:
        store = JetStreamRelayStore(cluster.urls, LIMITS, lambda: NOW)
        mine, least, ratio = trio.run(compare, store, partial(published, cluster.urls), turns)
    note = f"{mine:,.0f}/s; its client {least:,.0f}/s"
    return Row("relay deposit, JetStream R3: of its client", ">=", 0.5, ratio, "", note)


def run(options):
    """The rows of this benchmark."""
    return [sqlite(options.turns), jetstream(options.turns)]
