"""The stores that the relay's contract suite is run against, each as a place with a clock."""

import itertools
from contextlib import asynccontextmanager

import trio

from ampd.model.message import Envelope
from ampd.storage.relay_store.jetstream import JetStreamRelayStore
from ampd.storage.relay_store.port import Limits
from ampd.storage.relay_store.sqlite import SqliteRelayStore

NOW = 1_800_000_000_000
ALICE, BOB = bytes([1]) * 16, bytes([2]) * 16
NODE, OTHER = bytes([3]) * 32, bytes([4]) * 32
SMALL = Limits(mailbox_messages=5, mailbox_bytes=4000, total_bytes=6000, message_bytes=2000)


def letter(number, size=100, mailbox=ALICE, expires=None):
    """A sealed envelope; the same for the same arguments."""
    sealed = number.to_bytes(4, "big") + bytes(size - 4)
    return Envelope(mailbox, NOW + 10_000_000 if expires is None else expires, sealed)


def numbers(held):
    return [int.from_bytes(each.envelope.sealed[:4], "big") for each in held]


@asynccontextmanager
async def serving(store):
    """The store, open until the block ends."""
    async with trio.open_nursery() as nursery:
        await nursery.start(store.run)
        yield store
        nursery.cancel_scope.cancel()


class SqliteSite:
    """A file that stores are opened on, one after the other."""

    def __init__(self, folder):
        self.path = folder / "relay" / "relay.sqlite"
        self.clock = NOW

    def store(self, limits=SMALL):
        return serving(SqliteRelayStore(self.path, limits, lambda: self.clock))

    async def pass_time(self, store, milliseconds, left):
        self.clock += milliseconds
        await store.expire(self.clock)
        assert await store.count() == left


class JetStreamSite:
    """Streams of their own on servers that tests share."""

    _names = itertools.count(1)

    def __init__(self, urls):
        self.urls = urls
        self.name = f"T{next(self._names)}"
        self.clock = NOW

    def store(self, limits=SMALL):
        return serving(JetStreamRelayStore(self.urls, limits, lambda: self.clock, self.name))

    async def pass_time(self, store, milliseconds, left):
        self.clock += milliseconds
        with trio.fail_after(15 + milliseconds / 1000):
            while await store.count() != left:  # noqa: ASYNC110 - the servers have their own clock
                await trio.sleep(0.1)
