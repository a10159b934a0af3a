"""Every benchmark with its goal, in one table.

    python tests/bench/run.py [--only WORD] [--turns N] [--full]

Goals are ratios in one run where they can be; the absolute ones are for a machine that is
otherwise idle. `--full` adds the mailbox of 1,000,000 messages, which takes minutes to build.
Exit 1 when a goal is missed.
"""

import argparse
import os
import sys

import bench_between
import bench_cli
import bench_gateway
import bench_idle
import bench_mailbox
import bench_relay
import bench_relay_store
import bench_send

BENCHMARKS = {
    "send": bench_send.run,
    "between": bench_between.run,
    "mailbox": bench_mailbox.run,
    "idle": bench_idle.run,
    "relay": bench_relay.run,
    "relay-store": bench_relay_store.run,
    "gateway": bench_gateway.run,
    "cli": bench_cli.run,
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=BENCHMARKS, action="append")
    parser.add_argument("--turns", type=int, default=15, help="repetitions; medians are taken")
    parser.add_argument("--full", action="store_true", help="with the mailbox of 1,000,000")
    options = parser.parse_args()
    load = os.getloadavg()[0]
    print(f"{os.cpu_count()} cores, load {load:.1f}, Python {sys.version.split()[0]}", flush=True)
    kept = True
    for name, run in BENCHMARKS.items():
        if options.only and name not in options.only:
            continue
        for row in run(options):
            print(row.line(), flush=True)
            kept = kept and row.kept
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
