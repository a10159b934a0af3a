"""What a whole `amp` process costs, as a multiple of `python3 -c pass` of the same interpreter.

    python tests/bench/bench_cli.py [AMP] [--runs N]

AMP is a console script made by pip (default: the one beside this interpreter; an editable
install adds what its .pth file costs). The bound is 2.5 for `amp inbox` and `amp send`, the aim
1.6 (interface contract). CPU time, user and system, of child processes; a run of `pass` and one
of each command alternate, so that a busy machine hits all of them alike. Exit 1 over the bound.
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))
from cli.fake_daemon import FakeDaemon
from table import Row

BOUND = 2.5
COMMANDS = {
    "amp inbox": ["inbox"],
    "amp send": ["send", "bob", "Hello", "A message of some forty characters' size."],
    "amp read": ["read", "1"],
    "amp status": ["status"],
}


def cpu(command, environ):
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, env=environ, stdout=subprocess.DEVNULL, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def run(_options):
    """The rows for run.py."""
    costs = measured(str(Path(sys.executable).parent / "amp"), 15)
    base = statistics.median(costs["pass"])
    return [
        Row(
            f"{name}, CPU, times `python -c pass`",
            "<=",
            BOUND,
            statistics.median(costs[name]) / base,
        )
        for name in ("amp inbox", "amp send")
    ]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("amp", nargs="?", default=str(Path(sys.executable).parent / "amp"))
    parser.add_argument("--runs", type=int, default=30)
    asked = parser.parse_args()
    return report(measured(asked.amp, asked.runs))


def measured(amp, runs):
    """Seconds of CPU of every run of every command."""
    python = Path(amp).read_text().splitlines()[0].removeprefix("#!")
    commands = {
        "pass": [python, "-c", "pass"],
        "script that passes": [],
        **{name: [amp, *words] for name, words in COMMANDS.items()},
    }
    costs = {name: [] for name in commands}
    with tempfile.TemporaryDirectory() as folder:
        empty = Path(folder, "script")  # what any console script costs: a file instead of -c
        empty.write_text(Path(amp).read_text().partition("from amp_cli")[0])
        commands["script that passes"] = [python, str(empty)]
        with FakeDaemon(Path(folder, "ampd.sock")) as daemon:
            for _ in range(20):
                daemon.message()
            environ = {**os.environ, "AMP_SOCKET": daemon.path, "AMP_AGENT": "alice"}
            for _ in range(runs):
                for name, command in commands.items():
                    costs[name].append(cpu(command, environ))
    return costs


def report(costs):
    base = statistics.median(costs["pass"])
    worst = 0.0
    for name, seconds in costs.items():
        middle, least = statistics.median(seconds), min(seconds)
        ratio, least_ratio = middle / base, least / min(costs["pass"])
        median = f"{middle * 1e3:6.1f} ms  x{ratio:.2f}"
        print(f"{name:20} {median}  (least {least * 1e3:.1f} ms, x{least_ratio:.2f})")
        if name in ("amp inbox", "amp send"):
            worst = max(worst, ratio)
    print(f"bound {BOUND}: {'kept' if worst <= BOUND else 'broken'}")
    return 0 if worst <= BOUND else 1


if __name__ == "__main__":
    sys.exit(main())
