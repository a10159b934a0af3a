"""A node's discovery and nothing else, as a program: the tests run it inside network namespaces.

    python mdns_program.py SEED PORT [--interface NAME]...

Standard output has one JSON document a line: {"event": "sighted", "node", "endpoints"},
{"event": "lost", "node"}, and {"event": "status", ...} first and whenever `status` is read from
standard input. Nodes are named by the first byte of their key. SIGTERM ends it with a goodbye.
"""

import argparse
import dataclasses
import json
import logging
import signal
import sys

import trio

from ampd.core.whereabouts import Whereabouts
from ampd.edge.mdns import Mdns
from ampd.edge.network import NetworkWatch


def say(event, **facts):
    print(json.dumps({"event": event, **facts}), flush=True)


class ToldWhereabouts(Whereabouts):
    """Whereabouts that say aloud what they are told."""

    def sighted(self, node, endpoints, found_by):
        super().sighted(node, endpoints, found_by)
        say("sighted", node=node[0], endpoints=[list(end) for end in self.endpoints(node)])

    def lost(self, node, found_by):
        super().lost(node, found_by)
        say("lost", node=node[0])


async def obey(mdns, whereabouts):
    commands = trio.lowlevel.FdStream(sys.stdin.fileno())
    async for _ in commands:
        status = dataclasses.asdict(mdns.status())
        say("status", **status, known=sorted(node[0] for node in whereabouts.nodes()))


async def main(arguments):
    whereabouts, network = ToldWhereabouts(), NetworkWatch()
    node = bytes([arguments.seed]) * 32
    mdns = Mdns(node, arguments.port, whereabouts, network, interfaces=arguments.interface)
    with trio.open_signal_receiver(signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(network.run)
            await nursery.start(mdns.run)
            nursery.start_soon(obey, mdns, whereabouts)
            say("ready")
            async for _ in signals:
                nursery.cancel_scope.cancel()
                break


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("seed", type=int)
    parser.add_argument("port", type=int)
    parser.add_argument("--interface", action="append", default=[])
    logging.basicConfig(level=logging.INFO)
    trio.run(main, parser.parse_args())
