"""From one node to another over loopback: on both disks before the status says "delivered".

Two daemons, no mDNS, one knows the other by peer.static. A message counts as delivered when the
sender's subscription says so: the recipient's node has synced it, its signed receipt has come back,
and the sender's node has synced that.
"""

import contextlib
import json
import statistics
import time

from nodes import Node, sends
from table import Row

COUNT = 1500  # messages of the pipelined part


@contextlib.contextmanager
def pair():
    """Connections of alice on one node and bob on the other, once alice knows bob."""
    with Node("b") as there, Node("a", peer_static="") as here:
        there.start()
        there.connect().call("agent.create", name="bob")
        here.env["AMPD_PEER_STATIC"] = json.dumps([there.uri()])
        here.start()
        here.connect().call("agent.create", name="alice")
        sender = here.connect("alice")
        while True:
            with contextlib.suppress(RuntimeError):
                sender.call("message.send", to=["bob@b.local"], subject="First", text="Hello")
                break
            time.sleep(0.05)
        yield here, there, sender


def delivered(lines):
    """The ids of messages as they are said to be delivered; one may be said more than once."""
    while True:
        params = json.loads(lines.readline())["params"]
        if params.get("status") == "delivered":
            yield params["id"]


def one_at_a_time(here, there, sender, count):
    listener = here.connect("alice")
    listener.call("inbox.subscribe")
    line, said = sends("bob@b.local")[0], delivered(listener.lines)
    took, before = [], here.cpu() + there.cpu()
    for _ in range(count):
        begin = time.perf_counter()
        sender.socket.sendall(line)
        sent = json.loads(sender.lines.readline())["result"]["id"]
        while next(said) != sent:  # what is said late of the one before it is not this one's
            pass
        took.append(time.perf_counter() - begin)
    took.sort()
    cpu = (here.cpu() + there.cpu() - before) / count * 1e3
    note = f"least {took[0] * 1e3:.1f}, p99 {took[count * 99 // 100] * 1e3:.1f} ms"
    note += f"; CPU of both nodes {cpu:.1f} ms"
    return Row("node to node, one at a time, p50", "<=", 5.0,
               statistics.median(took) * 1e3, "ms", note)  # fmt: skip


def pipelined(here, there, sender, count):
    listener = here.connect("alice")
    listener.call("inbox.subscribe")
    lines = sends("bob@b.local")
    before, begin = here.cpu() + there.cpu(), time.perf_counter()
    sender.pipelined(lines[i % len(lines)] for i in range(count))
    queued = time.perf_counter() - begin
    said, done = delivered(listener.lines), set()
    while len(done) < count:
        done.add(next(said))
    took = time.perf_counter() - begin
    cpu = (here.cpu() + there.cpu() - before) / count * 1e6
    note = f"queued at {count / queued:,.0f}/s; CPU of both nodes {cpu:,.0f} us a message"
    return Row("node to node, pipelined, 1 KiB", ">=", 800, count / took, "/s", note)


def run(options):
    """The rows of this benchmark."""
    with pair() as (here, there, sender):
        one = one_at_a_time(here, there, sender, options.turns * 15)
        many = [pipelined(here, there, sender, COUNT) for _ in range(3)]
    return [one, sorted(many, key=lambda row: row.reached)[1]]
