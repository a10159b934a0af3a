"""Sending on one node: durable messages a second, and how soon a subscriber sees one.

The floor is what the promise costs at the least: sign, encode, append, one fdatasync for each 64,
in a plain loop of this interpreter, into the same file system. Floor and daemon take turns, so that
a busy machine hits both alike; the ratio is the median of the turns. The client is this process.
"""

import json
import os
import statistics
import tempfile
import time
from pathlib import Path

from nodes import Node, bodies, sends
from table import Row

from ampd.crypto.keys import SigningKey
from ampd.model.address import Address
from ampd.model.message import MESSAGE_CONTEXT, Message, Recipient, new_id

TURN = 512  # messages of the floor, and of the daemon, before the other has its turn
GROUP = 64


class Floor:
    """The plain loop."""

    def __init__(self):
        self._key = SigningKey.generate()
        self._other = SigningKey.generate().public
        self._from, self._to = Address("alice", "a.local"), Address("bob", "a.local")
        self._fd, path = tempfile.mkstemp(prefix="ampd-bench-")
        Path(path).unlink()
        self._texts = bodies()

    def turn(self, count):
        """The seconds, and those of CPU, that `count` messages took."""
        begin, cpu = time.perf_counter(), time.process_time()
        for number in range(count):
            self._one(number)
            if number % GROUP == GROUP - 1:
                os.fdatasync(self._fd)
        return time.perf_counter() - begin, time.process_time() - cpu

    def _one(self, number):
        now = time.time_ns() // 1_000_000
        identifier = new_id(now, os.urandom(10))
        message = Message(
            id=identifier, sender=self._from, to=(Recipient(self._to, self._other, number + 1),),
            epoch=b"12345678", sent=now, expires=now + 1000, thread=identifier, subject="State",
            body=self._texts[number % len(self._texts)],
        )  # fmt: skip
        os.write(self._fd, self._key.sign1(MESSAGE_CONTEXT, message.to_bytes()))


def rate(turns):
    """Durable sends against the floor."""
    floor = Floor()
    with Node("a", peer_listen="") as node:
        node.start()
        node.connect().call("agent.create", name="alice")
        node.connect().call("agent.create", name="bob")
        client = node.connect("alice")
        lines = sends("bob")
        todo = [lines[i % len(lines)] for i in range(TURN)]
        client.pipelined(todo)
        floor.turn(TURN)
        walls, cpus = [], []
        rates = []
        for _ in range(turns):
            wall, cpu = floor.turn(TURN)
            before, begin = node.cpu(), time.perf_counter()
            client.pipelined(todo)
            mine = time.perf_counter() - begin
            walls.append(wall / mine)
            rates.append((TURN / mine, TURN / wall))
            cpus.append((node.cpu() - before, cpu))
        reached, least = (statistics.median(each) for each in zip(*rates, strict=True))
        each = [statistics.median(some) / TURN * 1e6 for some in zip(*cpus, strict=True)]
        note = f"{reached:,.0f}/s; floor {least:,.0f}/s; CPU {each[0]:.0f} and {each[1]:.0f} us"
        return Row("send, durable, 1 KiB: of the floor's rate", ">=", 0.5,
                   statistics.median(walls), "", note)  # fmt: skip


def seen(count):
    """From a send to another connection's notification."""
    with Node("a", peer_listen="") as node:
        node.start()
        for name in ("alice", "bob"):
            node.connect().call("agent.create", name=name)
        sender, reader = node.connect("alice"), node.connect("bob")
        reader.call("inbox.subscribe")
        line = sends("bob")[0]
        took, cpu = [], node.cpu()
        for _ in range(count):
            begin = time.perf_counter()
            sender.socket.sendall(line)
            pushed = reader.lines.readline()
            took.append(time.perf_counter() - begin)
            sender.lines.readline()
            assert json.loads(pushed)["method"] == "message.new"
        took.sort()
        cpu = (node.cpu() - cpu) / count * 1e3
        note = f"with its body; least {took[0] * 1e3:.1f}, p99 {took[count * 99 // 100] * 1e3:.1f}"
        note += f" ms; {cpu:.1f} ms of CPU"
        return Row("send until a subscriber has it, p50", "<=", 2.0,
                   statistics.median(took) * 1e3, "ms", note)  # fmt: skip


def run(options):
    """The rows of this benchmark."""
    return [rate(options.turns), seen(options.turns * 25)]
