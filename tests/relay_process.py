"""A real `ampd relay` as a process, on this machine or on a host of a LAN, and nodes that use it.

with running(tmp_path, "--open") as relay:          # on loopback, a free port
with running(tmp_path, host=lan.host("hub")) as relay:
    relay.uri, relay.command("--count"), relay.end(signal.SIGKILL), relay.start()
"""

import json
import signal
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

from lan import AMPD, PATIENCE, LocalHost, eventually

OFFLINE = {"discovery_mdns": False}


class Relay:
    """Its store and its key lie in a home of its own; it keeps its port over restarts."""

    def __init__(self, home, *flags, host=None):
        self.home = Path(home)
        self.flags = flags
        self.host = host or LocalHost("relay")
        self.process = None
        self.port = 0
        self._log = self.home.parent / f"{self.home.name}.log"  # what it says is none of its files

    def command(self, *words, check=True):
        """Run `ampd relay` with these words beside it; what it printed."""
        return self.run(*words, check=check).stdout.strip()

    def run(self, *words, check=True):
        argv = [*AMPD, "relay", "--home", str(self.home), *self.flags, *words]
        return self.host.run(argv, check=check)

    def start(self):
        listen = f"{self.host.address}:{self.port}"
        seen = len(self.ready_lines())
        with self._log.open("ab") as log:
            self.process = self.host.popen(
                [*AMPD, "relay", "--home", str(self.home), "--listen", listen,
                 "--log-format", "json", *self.flags],
                stderr=log,
            )  # fmt: skip
        eventually(lambda: self._answers(seen), what="the start of a relay")
        self.port = int(self.uri.rpartition(":")[2])
        return self

    def ready_lines(self):
        lines = self._log.read_text().splitlines() if self._log.exists() else []
        return [json.loads(line) for line in lines if '"ready"' in line]

    def _answers(self, seen):
        assert self.process.poll() is None, self._log.read_text()
        return len(self.ready_lines()) > seen

    @property
    def uri(self):
        return self.ready_lines()[-1]["uri"]

    @property
    def held(self):
        """How many messages it holds."""
        return int(self.command("--count"))

    def invitation(self, *words):
        """A URI that lets one node in."""
        return self.command("--listen", f"{self.host.address}:{self.port}", "invite", *words)

    def end(self, with_signal=signal.SIGTERM):
        """Send a signal and wait for the end; the seconds it took."""
        begin = time.monotonic()
        self.process.send_signal(with_signal)
        self.process.wait(PATIENCE)
        return time.monotonic() - begin

    def everything_it_keeps(self):
        return b"".join(p.read_bytes() for p in sorted(self.home.rglob("*")) if p.is_file())


@contextmanager
def running(folder, *flags, host=None):
    """A relay, started; ended with the block."""
    folder.mkdir(parents=True, exist_ok=True)
    relay = Relay(tempfile.mkdtemp(prefix="relay-", dir=folder), *flags, host=host).start()
    try:
        yield relay
    finally:
        if relay.process.poll() is None:
            relay.end()


def laptop(machine, name, *uris, **settings):
    """A node that knows nobody but relays, and cannot be called."""
    return machine.node(name, peer_listen="", relay_servers=list(uris), **OFFLINE, **settings)


def knows(node, address):
    """Whether `discover` shows this address."""
    found = node.json("discover", address.partition("@")[2])["agents"]
    return any(each["address"] == address for each in found)


def subjects(node):
    """Of the mail in the inbox, in its order; no notices of the node itself."""
    listed = node.json("inbox", "--limit", "1000")["messages"]
    return [m["subject"] for m in listed if m["type"] != "system"]
