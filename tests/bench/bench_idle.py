"""What a daemon costs while nothing happens: five peers connected, no mail."""

import contextlib
import json
import time

from nodes import PATIENCE, Node
from table import Row

PEERS = 5
WATCHED = 25.0  # seconds: a ping of every session, and a sweep of the outbox


def run(options):
    """The rows of this benchmark."""
    with contextlib.ExitStack() as stack:
        others = [stack.enter_context(Node(f"peer{n}")) for n in range(PEERS)]
        for other in others:
            other.start()
        hub = stack.enter_context(Node("hub", peer_static=json.dumps([o.uri() for o in others])))
        hub.start()
        client = hub.connect()
        client.call("agent.create", name="alice")
        until = time.monotonic() + PATIENCE
        while sum(p["state"] == "connected" for p in client.call("peer.list")["peers"]) < PEERS:
            if time.monotonic() > until:
                raise RuntimeError("the peers do not connect")
            time.sleep(0.2)
        time.sleep(2)
        before, begin = hub.cpu(), time.monotonic()
        time.sleep(WATCHED)
        share = (hub.cpu() - before) / (time.monotonic() - begin) * 100
        note = f"{hub.memory():.0f} MiB"
        return [Row("idle with five peers, of a core", "<=", 0.5, share, "%", note)]
