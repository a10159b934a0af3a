"""Daemons for benchmarks, and a client that costs little beside them.

A node runs in a home of its own below the system's folder for temporary files, which should be on
a real disk: what is "durable" in a benchmark on tmpfs says nothing.
"""

import contextlib
import itertools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PATIENCE = 60.0  # seconds until a benchmark gives up: no bound, the machine may be busy

_ENGLISH = (
    "The parser now keeps the line numbers, so an error names the place and not only the file.",
    "I ran the whole suite on both machines; two tests of the uploader are slow and none fails.",
    "Please look at the second commit before you merge, it changes how the queue counts retries.",
    "Costs of the last run: 41,200 tokens in, 3,950 out, 92 s; the table is in results/run-7.csv.",
    "Could you check whether the cache is warm after a restart? I measured 340 ms against 12.",
    "def total(rows): return sum(row.price * row.count for row in rows if not row.cancelled)",
    "Nothing blocks me. I go on with the export and write again when the first file is through.",
    "We agreed on Thursday: the schema stays as it is, and new members are optional.",
    "Question: do we want the dates in UTC, or as the customer's office writes them?",
)
_GERMAN = (
    "Die Anlage läuft seit heute früh ohne Fehler; ich sehe abends noch einmal nach.",
    "Für die Abrechnung fehlen noch drei Belege, die Kollegin sucht sie heraus.",
    "Die Übersetzung ist fertig \u2013 bitte lies vor allem die Seiten zur Installation.",
)
_TEXTS = (_ENGLISH, _ENGLISH, _GERMAN, _ENGLISH, _ENGLISH)


def bodies(size=1024, count=20):
    """Texts as agents write them, each of `size` characters; every fifth is not ASCII."""
    found = []
    for start in range(count):
        sentences = _TEXTS[start % len(_TEXTS)]
        words = itertools.cycle(sentences[start % len(sentences) :] + sentences)
        text = ""
        while len(text) < size:
            text += next(words) + " "
        found.append(text[:size])
    return found


def request(method, identifier=1, **params):
    """One line for the socket."""
    document = {"jsonrpc": "2.0", "id": identifier, "method": method, "params": params}
    return json.dumps(document, ensure_ascii=False).encode() + b"\n"


def sends(to, count=20):
    """Requests that send 1 KiB each, made beforehand so that the client costs little."""
    return [request("message.send", to=[to], subject="State", text=b) for b in bodies(count=count)]


class Connection:
    """A blocking connection to a node's socket."""

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(PATIENCE)
        self.socket.connect(str(path))
        self.lines = self.socket.makefile("rb", buffering=1 << 18)

    def call(self, method, **params):
        """One request and its result."""
        self.socket.sendall(request(method, **params))
        answer = json.loads(self.lines.readline())
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']}")
        return answer["result"]

    def pipelined(self, lines, window=192):
        """Send every line, `window` of them unanswered at most; all must be answered well."""
        waiting = 0
        todo = iter(lines)
        while True:
            some = list(itertools.islice(todo, window - waiting))
            if some:
                self.socket.sendall(b"".join(some))
                waiting += len(some)
            if not waiting:
                return
            for _ in range(min(waiting, 64)):
                line = self.lines.readline()
                if b'"error":{' in line or not line:
                    raise RuntimeError(line)
                waiting -= 1

    def close(self):
        self.lines.close()
        self.socket.close()


class Node:
    """A daemon in a home of its own."""

    def __init__(self, name, *, home=None, **settings):
        self.name = name
        self.home = Path(home or tempfile.mkdtemp(prefix="ampd-bench-"))
        self.socket = self.home / "run" / "ampd.sock"
        chosen = {
            "node_domain": f"{name}.local",
            "discovery_mdns": "false",
            "peer_listen": "127.0.0.1:0",
            "log_level": "warning",
            **settings,
        }
        foreign = ("AMPD_", "AMP_", "PYTHONDONTWRITEBYTECODE")  # which would compile at every start
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(foreign)}
        self.env = {
            **inherited,
            "AMPD_HOME": str(self.home),
            **{f"AMPD_{key.upper()}": value for key, value in chosen.items()},
        }
        self.process = None

    def start(self):
        """Start the daemon; the seconds until its first answer."""
        begin = time.perf_counter()
        with (self.home / "daemon.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "ampd"], env=self.env, stdout=log, stderr=log
            )
        while True:
            with contextlib.suppress(FileNotFoundError, ConnectionRefusedError):
                self.connect().close()
                return time.perf_counter() - begin
            if self.process.poll() is not None or time.perf_counter() - begin > PATIENCE:
                raise RuntimeError((self.home / "daemon.log").read_text())
            time.sleep(0.005)

    def connect(self, agent=None):
        """A connection that was answered once; it acts as `agent`."""
        connection = Connection(self.socket)
        connection.call("system.hello", **({"agent": agent} if agent else {}))
        return connection

    def uri(self):
        """amp://KEY@HOST:PORT for another node's peer.static."""
        node = self.connect().call("system.status")["node"]
        return f"amp://{node['key']}@127.0.0.1:{node['listen'].rpartition(':')[2]}"

    def cpu(self):
        """Seconds of CPU that the daemon's threads took since they started."""
        tasks = Path(f"/proc/{self.process.pid}/task").glob("*/schedstat")
        return sum(int(task.read_text().split()[0]) for task in tasks) / 1e9

    def memory(self):
        """The resident set, in MiB."""
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) / 1024
        raise RuntimeError("no VmRSS")

    def stop(self):
        """SIGTERM, and wait."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(PATIENCE)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()
        shutil.rmtree(self.home, ignore_errors=True)
