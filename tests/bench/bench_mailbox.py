"""A large mailbox: the newest 20, the first answer after a start, memory.

The mailbox is written by the store itself while no daemon runs: records made in bulk, each signed,
into journal and index.
"""

import itertools
import statistics
import time

import trio
from nodes import Node, bodies
from table import Row

from ampd.crypto.keyfiles import node_key
from ampd.crypto.keys import SigningKey
from ampd.daemon import journal_key
from ampd.model.address import Address
from ampd.model.message import MESSAGE_CONTEXT, Message, Recipient, new_id
from ampd.storage.records import Kept
from ampd.storage.store import Store

STEP = 1000  # messages in one work


def now():
    return time.time_ns() // 1_000_000


def fill(node, count):
    """`count` received messages into bob's mailbox."""
    key = journal_key(node_key(node.home / "keys" / "node.key"))
    store = Store(node.home, key, now)
    bob = store.view.execute("SELECT key FROM agents WHERE name='bob'").fetchone()[0]
    kept = _kept(bob)

    async def write():
        async with trio.open_nursery() as nursery:
            await nursery.start(store.run)
            for _ in range(count // STEP):
                some = list(itertools.islice(kept, STEP))
                await store.write(lambda tx, some=some: [tx.append(record) for record in some])
            nursery.cancel_scope.cancel()

    trio.run(write)
    store.close()


def _kept(bob):
    sender, address = SigningKey.generate(), Address("carol", "far.local")
    texts = bodies(512)
    for number in itertools.count(1):
        at = now()
        identifier = new_id(at, number.to_bytes(10, "big"))
        message = Message(
            id=identifier, sender=address,
            to=(Recipient(Address("bob", "a.local"), bob, number),), epoch=b"12345678", sent=at,
            expires=at + 86_400_000, thread=identifier, subject=f"Report {number}",
            body=texts[number % len(texts)],
        )  # fmt: skip
        signed = sender.sign1(MESSAGE_CONTEXT, message.to_bytes())
        yield Kept(signed, at, "direct", True, b"", ((bob, number, 0, ""),))


def measure(count):
    """Milliseconds of a list, seconds of a start, MiB of memory."""
    with Node("a", peer_listen="") as node:
        node.start()
        node.connect().call("agent.create", name="bob")
        node.stop()
        begin = time.perf_counter()
        fill(node, count)
        filled = time.perf_counter() - begin
        starts = []
        for _ in range(3):
            starts.append(node.start())
            client = node.connect("bob")
            lists = []
            for _ in range(100):
                begin = time.perf_counter()
                answer = client.call("message.list", limit=20)
                lists.append(time.perf_counter() - begin)
            assert len(answer["messages"]) == min(20, count)
            for message in answer["messages"]:
                client.call("message.get", ids=[message["id"]], peek=True)
            memory = node.memory()
            node.stop()
        return statistics.median(lists) * 1e3, statistics.median(starts), memory, filled


def run(options):
    """The rows of this benchmark."""
    empty = measure(0)
    shown, start, memory, filled = measure(100_000)
    rows = [
        Row("start to first answer, empty mailbox", "", None, empty[1], "s", f"{empty[2]:.0f} MiB"),
        Row("newest 20 of 100,000, p50", "<=", 3.0, shown, "ms",
            f"filled in {filled:.0f} s"),
        Row("start to first answer, 100,000", "<=", 1.0, start, "s"),
        Row("memory, 100,000", "<=", 80, memory, "MiB"),
    ]  # fmt: skip
    if options.full:
        more, later, larger, filled = measure(1_000_000)
        rows += [
            Row("newest 20 of 1,000,000, to those of 100,000", "<=", 1.5, more / shown, "",
                f"{more:.2f} ms; filled in {filled:.0f} s"),
            Row("memory, 1,000,000 to 100,000", "<=", 1.2, larger / memory, "",
                f"{larger:.0f} MiB"),
            Row("start to first answer, 1,000,000", "", None, later, "s"),
        ]  # fmt: skip
    return rows
