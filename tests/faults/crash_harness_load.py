"""The load under which the daemon is struck: senders and receivers, each a thread with a line.

Each writes its intent into the ledger before it asks, and the outcome after the answer. A worker
ends when its connection does.
"""

import threading
from contextlib import suppress
from random import Random

from faults.crash_harness_node import Told, Unknown
from faults.crash_harness_oracle import BOXES, SENDERS, request

SIZES = (1, 100, 1_000, 4_000, 60_000, 500_000)
WEIGHTS = (5, 40, 30, 15, 9, 1)
RECEIVERS = 2


class Load:
    """Senders and receivers against one run of the daemon."""

    def __init__(self, node, oracle, run, *, sends=10_000):
        """`run` names this run: it seeds the choices and stands in the keys."""
        self._node = node
        self._oracle = oracle
        self._ledger = oracle.ledger
        self._run = run
        self._sends = sends
        self._over = threading.Event()
        self.acknowledged = threading.Event()  # the first answer to a send came
        self._threads = [
            threading.Thread(target=self._work, args=(self._sender, who)) for who in SENDERS
        ]
        self._threads += [
            threading.Thread(target=self._work, args=(self._receiver, f"r{n}"))
            for n in range(RECEIVERS)
        ]

    def __enter__(self):
        for each in self._threads:
            each.start()
        return self

    def __exit__(self, *_):
        self.finish()

    def finish(self):
        """Let each worker end what it is at; wait for them."""
        self._over.set()
        for each in self._threads:
            each.join()

    def _work(self, what, who):
        rng = Random(f"{self._ledger.seed}/{self._run}/{who}")
        with suppress(Unknown, Told), self._node.line() as line:
            what(line, who, rng)
        self.acknowledged.set()  # nobody waits for a worker that is gone

    def _sender(self, line, who, rng):
        line.call("system.hello", agent=who)
        for n in range(self._sends):
            if self._over.is_set():
                return
            size = rng.choices(SIZES, WEIGHTS)[0]
            send = self._ledger.intend(f"{who}-{self._run}-{n}", who, rng.choice(BOXES), size)
            try:
                found = line.call("message.send", **request(self._ledger.seed, send))
            except Told as exc:
                self._ledger.outcome(send, "error", why=f"{exc.code}: {exc}")
                self._refused(send.key, exc)
            except Unknown:
                self._ledger.outcome(send, "unknown")
                raise
            else:
                self._ledger.outcome(send, "ok", found["id"])
                self.acknowledged.set()

    def _receiver(self, line, _who, rng):
        while not self._over.is_set():
            box = rng.choice(BOXES)
            with suppress(Told):  # two receivers meet in one box: one is late
                line.call("system.hello", agent=box)
                found = line.call("message.list", box="all", limit=20, after=0)["messages"]
                if not found:
                    continue
                ids = [each["id"] for each in found]
                for each in line.call("message.get", ids=ids, raw=True, peek=rng.random() < 0.5)[
                    "messages"
                ]:
                    self._oracle.proved(each)
                self._mark(line, box, [i for i in ids if rng.random() < 0.5], "acked")
                self._mark(line, box, [i for i in ids if rng.random() < 0.4], "deleted")

    def _mark(self, line, box, ids, verb):
        if not ids:
            return
        self._ledger.mark(box, ids, verb, "intent")
        method = {"acked": "message.ack", "deleted": "message.delete"}[verb]
        try:
            done = line.call(method, ids=ids)["done"]
        except Told:
            self._ledger.mark(box, ids, verb, "unknown")
        except Unknown:
            self._ledger.mark(box, ids, verb, "unknown")
            raise
        else:
            self._ledger.mark(box, [each for each in ids if each in done], verb, "ok")

    def _refused(self, key, exc):
        if not self._ledger.errors_are_unknown:
            self._ledger.breach("refused", f"{key}: {exc.code}: {exc}")
