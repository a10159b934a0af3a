"""The crash harness: a real daemon under load is struck at random, again and again, and looked at.

    python tests/faults/crash_harness.py --cycles 1000 --seed 7
    python tests/faults/crash_harness.py --cycles 200 --faults power --disk xfs
    python tests/faults/crash_harness.py --cycles 50 --source COPY   # a copy with a planted bug

Exit code 1 when the oracle saw anything; the home, the daemon's log and the ledger then stay in the
folder that is named. Threads make two runs of one seed alike, not equal.
"""

import argparse
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from random import Random

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent.parent))

from faults.crash_harness_load import Load
from faults.crash_harness_node import Node, NotReady, Told, Unknown, listed, pause
from faults.crash_harness_oracle import BOXES, BREACHES, SENDERS, Ledger, Oracle
from faults.crash_harness_warm import Warm

FAULTS = ("kill", "sync", "recovery", "early", "term", "twice", "frozen")
SEGMENT_BYTES = (0, 65536)  # as it is, and so small that segments change all the time


class Harness:
    """One home, its ledger and its oracle, cycle after cycle."""

    def __init__(self, work, seed, *, source=None, disk=None, longest=0.3):
        """`longest`: seconds of load in a cycle at most. `disk` is where the power can fail."""
        self.work = Path(work)
        self.seed = seed
        self.rng = Random(seed)
        self.disk = disk
        self._longest = longest
        home = (disk.folder if disk else self.work) / "home"
        self.node = Node(home, self.work / "daemon.log", source=source)
        self.node.warm = Warm(self.node.environ, self.node.log)
        self.ledger = Ledger(self.work / "ledger.jsonl", seed)
        self.ledger.errors_are_unknown = disk is not None
        self.oracle = Oracle(self.ledger, self.rng)
        self.restarts = []
        self.cycles = 0

    def set_up(self):
        """The agents; what was answered here must survive everything, too."""
        self.node.start()
        with self.node.line() as line:
            for name in (*BOXES, *SENDERS):
                line.call("agent.create", name=name)
        if self.disk:
            self.disk.cut_power()
            self.node.kill()
            self.disk.power_on()
        else:
            self.node.kill()
        self.restart()

    def run(self, cycles, faults):
        """So many cycles, each with one fault; then a thorough look."""
        for _ in range(cycles):
            self.cycle(self.rng.choice(faults))
        self.oracle.look(self.node, thorough=True)
        self._end_in_order()

    def cycle(self, fault):
        """Load, one fault, restart, look."""
        self.cycles += 1
        self.ledger.counts[f"fault {fault}"] += 1
        getattr(self, f"_{fault}")()
        self.restart()
        self.oracle.look(self.node, thorough=self.cycles % 25 == 0)
        self.oracle.retry(self.node)

    def restart(self):
        """It starts by itself, whatever happened."""
        try:
            self.restarts.append(self.node.start(segment_bytes=self.rng.choice(SEGMENT_BYTES)))
        except NotReady as exc:
            self.ledger.breach("recovery", str(exc))
            raise

    def _begin(self, wrapper=()):
        if self.node.process is not None:
            self.node.kill()
        self.node.begin(segment_bytes=self.rng.choice(SEGMENT_BYTES), wrapper=wrapper)

    def _load(self):
        return Load(self.node, self.oracle, self.cycles)

    def _struck(self, strike):
        """Load, and `strike` at a random time after the first answer."""
        with self._load() as load:
            load.acknowledged.wait()
            pause(self.rng.uniform(0.01, self._longest))
            strike()

    # --- faults ---------------------------------------------------------------------------

    def _kill(self):
        self._struck(self.node.kill)

    def _power(self):
        def strike():
            # A sync that is under way may then say that it went well: jbd2 takes a transaction that
            # it has thrown away for one that was committed. Without power nobody hears of it.
            self.node.signal(signal.SIGSTOP)
            self.disk.cut_power()
            self.node.kill()

        self._struck(strike)
        self.disk.power_on()

    def _frozen(self):
        """Stopped for a while, as by a laptop's lid, then killed."""

        def strike():
            self.node.signal(signal.SIGSTOP)
            pause(self.rng.uniform(0.1, 1.0))
            self.node.kill()

        self._struck(strike)

    def _sync(self):
        """Killed exactly before the n-th time that it syncs."""
        self._begin(_killing("fdatasync", self.rng.randint(2, 40)))
        try:
            self.node.ready()
        except NotReady:
            return
        with self._load():
            self.node.ended()

    def _early(self):
        """Killed at the n-th change that recovery makes, then once more anywhere in it."""
        call = self.rng.choice(("fdatasync", "fsync", "pwrite64", "ftruncate", "unlink", "rename"))
        self._begin(_killing(call, self.rng.randint(1, 4)))
        try:
            self.node.ready()
        except NotReady:
            return
        self.node.kill()

    def _recovery(self):
        """Killed in its work, and then again and again while it recovers."""
        self._kill()
        for _ in range(self.rng.randint(1, 3)):
            self._begin()
            self.node.recovering()
            pause(self.rng.uniform(0, 0.2))
            self.node.kill()

    def _term(self):
        """SIGTERM in full work: an end in good order, and nothing half known."""
        before = dict(self.ledger.sends)
        self._struck(self._end_in_order)
        self.restart()
        self.oracle.look(self.node)
        shown = [self._shown(box) for box in BOXES]
        open_ends = [
            send.key
            for key, send in self.ledger.sends.items()
            if key not in before and send.outcome == "unknown" and send.present
        ]
        for key in open_ends:
            self.ledger.breach(
                "recovery", f"SIGTERM left {key} kept, and its sender without a word"
            )
        self._end_in_order()
        self.restart()
        if [self._shown(box) for box in BOXES] != shown:
            self.ledger.breach("unstable", "a list differs after a restart in good order")
        self.node.kill()

    def _shown(self, box):
        with self.node.line(box) as line:
            return listed(line, "all")

    def _end_in_order(self):
        try:
            code = self.node.stop(within=3.0)
        except subprocess.TimeoutExpired:
            self.ledger.breach("recovery", "no end within 3 s of SIGTERM")
            self.node.kill()
        else:
            if code != 0:
                self.ledger.breach("recovery", f"exit code {code} after SIGTERM")

    def _twice(self):
        """A second daemon is refused and harms nothing."""

        def strike():
            second = Node(self.node.home, self.work / "second.log")
            second.begin()
            code = second.ended()
            if code != 1 or str(self.node.process.pid) not in second.last_words():
                self.ledger.breach("recovery", f"a second daemon: {code} {second.last_words()}")
            self.node.kill()

        self._struck(strike)

    # --- report ---------------------------------------------------------------------------

    def report(self, seconds):
        """The counters, one a line."""
        counts, times = self.ledger.counts, sorted(self.restarts) or [0.0]
        lines = [f"seed {self.seed}, cycles {self.cycles}, {seconds:.0f} s"]
        lines += [f"  {name}: {counts[name]}" for name in sorted(counts) if name not in BREACHES]
        spots = (times[len(times) // 2], times[len(times) * 99 // 100], times[-1])
        lines.append("  restart p50 {:.2f} s, p99 {:.2f} s, max {:.2f} s".format(*spots))
        lines.append("  " + ", ".join(f"{name} {counts[name]}" for name in BREACHES))
        return "\n".join(lines + self.ledger.breaches[:20])


def _killing(call, nth):
    return (
        "strace", "-D", "-f", "-qq", "-o", "/dev/null", "-e", f"trace={call}",
        "-e", f"inject={call}:signal=SIGKILL:when={nth}",
    )  # fmt: skip


def run(work, seed, cycles, faults, **options):
    """A harness that did so many cycles; its breaches are in `ledger.breaches`."""
    harness = Harness(work, seed, **options)
    try:
        harness.set_up()
        harness.run(cycles, faults)
    except (NotReady, Unknown, Told) as exc:
        harness.ledger.breach("recovery", f"the daemon does not answer: {exc}")
    finally:
        if harness.node.process is not None:
            harness.node.kill()
        harness.node.warm.close()
        harness.ledger.close()
    return harness


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    parser.add_argument("--cycles", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--faults", default=",".join(FAULTS), help="of these, or: power")
    parser.add_argument("--longest", type=float, default=1.0, help="seconds of load in a cycle")
    parser.add_argument("--disk", choices=("ext4", "xfs"), help="a loop disk; needs root")
    parser.add_argument("--source", help="a folder with a copy of the package ampd")
    flags = parser.parse_args()
    from faults.power_loss import LoopDisk

    work = Path(tempfile.mkdtemp(prefix="amp"))
    faults = tuple(flags.faults.split(","))
    kind = flags.disk or ("ext4" if "power" in faults else None)
    disk = LoopDisk(work, kind) if kind else None
    began = time.monotonic()
    try:
        options = {"source": flags.source, "disk": disk, "longest": flags.longest}
        harness = run(work, flags.seed, flags.cycles, faults, **options)
    finally:
        if disk:
            disk.close()
    print(harness.report(time.monotonic() - began))
    if harness.ledger.breaches:
        print(f"what is left of it: {work}")
        return 1
    shutil.rmtree(work)
    return 0


if __name__ == "__main__":
    sys.exit(main())
