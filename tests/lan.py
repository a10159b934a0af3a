"""A LAN in a box: hosts as network namespaces on a switch, and real daemons on them.

    @pytest.fixture
    def lan():
        with Lan() as lan:              # skips the test, and says why, where it cannot be built
            yield lan

    pytestmark = pytest.mark.lan

    def test_a_message_crosses_the_cable(lan):
        alice, bob = lan.node("laptop"), lan.node("desk")         # daemons, started and answering
        alice.amp("init", "alice"), bob.amp("init", "bob")
        alice.amp("discover", "--wait", "3")
        alice.amp("send", "bob@desk.local", "Hello", "text", "--wait", "10")
        assert bob.json("inbox")["unread"] == 1

        bob.host.cut()                  # pull the cable ... bob.host.heal() puts it back
        bob.kill()                      # SIGKILL ... bob.start() is the next boot
        assert bob.terminate() < 3      # SIGTERM; the seconds it took
        bob.host.change_address()       # DHCP gave another one

    def test_without_namespaces():      # loopback of this machine, no root, no mDNS
        with Local() as machine:
            desk = machine.node("desk")
            laptop = machine.node("laptop", peer_static=[desk.uri()])

What the pieces are:

- `Lan(multicast=True)` is a switch. `lan.host(name)` plugs a host into it: eth0 with 10.x IPv4
  and link-local IPv6, lo up. `lan.host(name, plugged=False)` has lo and nothing else.
  With `multicast=False` the switch drops multicast, as many office networks do.
- `host.run(argv)`, `host.popen(argv)` run a program on that host; `host.talk(argv)` runs one that
  prints JSON lines, `.hear(event=...)` waits for one of them, `.say(text)` writes to it.
- `lan.node(name)` is a host with a running daemon: a home of its own under /tmp (short, because
  of the 108 bytes of a socket's path), domain NAME.local. Keywords are settings:
  `peer_static=[...]` is AMPD_PEER_STATIC. `.amp(*arguments)` runs the real command there and
  returns the finished process; `.json(...)` adds --json and parses; `.call(method, agent=...,
  **parameters)` speaks to the socket.
- Names carry the pid, so runs do not collide. Everything goes when the `with` ends; what a killed
  run left behind goes when the next one starts.
- To wait, use what the product has (`amp wait`, `send --wait`, `discover --wait`). `eventually`
  is for the rest: the only place that polls.
"""

import contextlib
import itertools
import json
import os
import queue
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
AMPD = [sys.executable, "-m", "ampd"]
AMP = [sys.executable, "-c", "import sys; from amp_cli.main import main; sys.exit(main())"]
PATIENCE = 20.0  # seconds until something that must happen is called failed; the machine is busy
PORT = 4160

_count = itertools.count(1)
_ours = re.compile(r"ampd-(\d+)-\d+-\w+")


def eventually(question, within=PATIENCE, what="it"):
    """Ask until the answer is true, and return it. For what gives no event to wait for."""
    end = time.monotonic() + within
    while not (answer := question()):
        if time.monotonic() > end:
            pytest.fail(f"{what} did not happen within {within} s")
        time.sleep(0.02)
    return answer


def ip(*arguments):
    """Run the `ip` command; its output, or RuntimeError with what it said."""
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout


class Talker:
    """A program that prints JSON lines."""

    def __init__(self, process):
        self.process = process
        self.heard = []
        self._lines = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self):
        for line in self.process.stdout:
            self._lines.put(json.loads(line))
        self._lines.put(None)

    def hear(self, *, within=PATIENCE, **wanted):
        """The next document that has all these fields; fails if none comes."""
        end = time.monotonic() + within
        while True:
            try:
                said = self._lines.get(timeout=max(0.0, end - time.monotonic()))
            except queue.Empty:
                pytest.fail(f"{wanted} was not said within {within} s, only {self.heard[-5:]}")
            if said is None:
                pytest.fail(f"the program ended and never said {wanted}")
            self.heard.append(said)
            if wanted.items() <= said.items():
                return said

    def say(self, text):
        self.process.stdin.write(text + "\n")
        self.process.stdin.flush()

    def end(self, with_signal=signal.SIGTERM):
        """Send a signal and wait for the end; the seconds it took."""
        begin = time.monotonic()
        self.process.send_signal(with_signal)
        self.process.wait(PATIENCE)
        return time.monotonic() - begin


class LocalHost:
    """This machine: programs run on it as they are."""

    address = "127.0.0.1"
    prefix = ()

    def __init__(self, name="localhost"):
        self.name = name
        self._started = []

    def run(self, argv, *, env=None, stdin="", check=True, within=60.0):
        """Run a program to its end; its output as text."""
        done = subprocess.run(
            [*self.prefix, *argv],
            env=_environment(env),
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
            timeout=within,
        )
        if check and done.returncode:
            pytest.fail(f"{argv} on {self.name} ended with {done.returncode}: {done.stderr}")
        return done

    def popen(self, argv, *, env=None, **streams):
        """Start a program; it is killed when the `with` ends, if it still runs."""
        process = subprocess.Popen(
            [*self.prefix, *argv], env=_environment(env), text=True, **streams
        )
        self._started.append(process)
        return process

    def talk(self, argv, *, env=None):
        """Start a program that prints JSON lines."""
        return Talker(self.popen(argv, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE))

    def close(self):
        for process in self._started:
            if process.poll() is None:
                process.kill()
            process.wait(PATIENCE)
            for stream in (process.stdin, process.stdout, process.stderr):
                if stream is not None:
                    with contextlib.suppress(BrokenPipeError):
                        stream.close()


class Host(LocalHost):
    """A network namespace with one cable, eth0."""

    def __init__(self, lan, name, number):
        super().__init__(name)
        self._lan = lan
        self._number = number
        self._port = f"port{number}"
        self._addresses = 0
        self.address = ""
        self.namespace = lan.namespace(name)
        self.prefix = ("ip", "netns", "exec", self.namespace)
        ip("-n", self.namespace, "link", "set", "lo", "up")

    def plug(self):
        """Put a cable between this host and the switch."""
        cable = ["type", "veth", "peer", "name", "eth0", "netns", self.namespace]
        ip("-n", self._lan.switch, "link", "add", self._port, *cable)
        ip("-n", self._lan.switch, "link", "set", self._port, "master", "switch")
        if not self._lan.multicast:
            flood = ["type", "bridge_slave", "mcast_flood", "off"]
            ip("-n", self._lan.switch, "link", "set", self._port, *flood)
        ip("-n", self.namespace, "link", "set", "eth0", "up")
        self.change_address()
        self.heal()

    def change_address(self):
        """Take another IPv4 address, as after a new DHCP lease."""
        self._addresses += 1
        self.address = f"10.83.{self._addresses}.{self._number}"
        ip("-n", self.namespace, "addr", "flush", "dev", "eth0", "scope", "global")
        ip("-n", self.namespace, "addr", "add", f"{self.address}/16", "dev", "eth0")

    def cut(self):
        """Pull the cable: eth0 keeps its address and loses its carrier."""
        ip("-n", self._lan.switch, "link", "set", self._port, "down")

    def heal(self):
        """Put the cable back."""
        ip("-n", self._lan.switch, "link", "set", self._port, "up")


class Node:
    """A real daemon on a host, and the real `amp` beside it."""

    def __init__(self, host, domain, **settings):
        self.host = host
        self.domain = domain
        self.home = Path(tempfile.mkdtemp(prefix="ampd-"))
        self.socket = self.home / "run" / "ampd.sock"
        self.process = None
        settings = {"node_domain": domain, "peer_listen": f"0.0.0.0:{PORT}", **settings}
        self.env = {
            "AMPD_HOME": str(self.home),
            "AMP_AUTOSTART": "0",
            **{f"AMPD_{key.upper()}": _setting(value) for key, value in settings.items()},
        }

    def start(self):
        """Start the daemon and wait until it answers; the seconds that took."""
        begin = time.monotonic()
        with (self.home / "daemon.log").open("a") as out:
            self.process = self.host.popen(AMPD, env=self.env, stdout=out, stderr=out)
        eventually(self._answers, what=f"the start of {self.domain}")
        return time.monotonic() - begin

    def _answers(self):
        if self.process.poll() is not None:
            pytest.fail(f"{self.domain} ended with {self.process.returncode}:\n{self.log}")
        with contextlib.suppress(FileNotFoundError, ConnectionRefusedError):
            return self.call("system.hello")
        return None

    @property
    def log(self):
        """What the daemon has written, of all its lives."""
        return (self.home / "daemon.log").read_text()

    def amp(self, *arguments, stdin="", check=True, env=None):
        """Run `amp` here; the finished process, its output as text."""
        environment = {**self.env, **(env or {})}
        argv = [*AMP, *map(str, arguments)]
        return self.host.run(argv, env=environment, stdin=stdin, check=check)

    def json(self, *arguments, stdin=""):
        """Run `amp --json` here; the document it printed."""
        return json.loads(self.amp("--json", *arguments, stdin=stdin).stdout)

    def call(self, method, *, agent=None, **params):
        """One request on the daemon's socket, as `agent` if named; the result or RuntimeError."""
        hello = {"jsonrpc": "2.0", "id": 0, "method": "system.hello", "params": {"agent": agent}}
        asked = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
        requests = [hello, asked] if agent else [asked]
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(PATIENCE)
            connection.connect(str(self.socket))
            with connection.makefile("rw") as lines:
                lines.write("".join(json.dumps(request) + "\n" for request in requests))
                lines.flush()
                for _ in requests:
                    answer = json.loads(lines.readline())
                    if "error" in answer:
                        raise RuntimeError(f"{method}: {answer['error']}")
        return answer["result"]

    def uri(self):
        """amp://NODEKEY@HOST:PORT, for `peer_static` of another node."""
        node = self.call("system.status")["node"]
        return f"amp://{node['key']}@{self.host.address}:{node['listen'].rpartition(':')[2]}"

    def kill(self):
        """SIGKILL: no goodbye, nothing flushed."""
        self.process.kill()
        self.process.wait(PATIENCE)

    def terminate(self):
        """SIGTERM; the seconds it took. Fails when it did not end with 0."""
        begin = time.monotonic()
        self.process.terminate()
        code = self.process.wait(PATIENCE)
        if code:
            pytest.fail(f"{self.domain} ended with {code}:\n{self.log}")
        return time.monotonic() - begin

    def restart(self):
        """SIGTERM and a new start."""
        self.terminate()
        self.start()

    def close(self):
        self.host.close()
        if self.process is not None:  # pytest shows it where the test failed
            print(f"--- what the daemon of {self.domain} wrote\n{self.log}")
        shutil.rmtree(self.home)


class Local:
    """Daemons on this machine's loopback: no namespaces, no mDNS, free ports."""

    def __enter__(self):
        self._things = contextlib.ExitStack()
        return self

    def __exit__(self, *_):
        self._things.close()

    def node(self, name, *, start=True, **settings):
        """A daemon that listens on a free port of 127.0.0.1; others know it by `peer_static`."""
        settings = {"peer_listen": "127.0.0.1:0", "discovery_mdns": False, **settings}
        node = Node(LocalHost(name), f"{name}.local", **settings)
        self._things.callback(node.close)
        if start:
            node.start()
        return node


class Lan:
    """A switch, and what is plugged into it."""

    def __init__(self, *, multicast=True):
        self.multicast = multicast
        self._number = next(_count)
        self._hosts = itertools.count(1)
        self._things = contextlib.ExitStack()

    def __enter__(self):
        if os.geteuid() != 0:
            pytest.skip("network namespaces need root")
        if shutil.which("ip") is None:
            pytest.skip("network namespaces need the ip command (iproute2)")
        _sweep()
        try:
            self.switch = self.namespace("switch")
        except RuntimeError as exc:
            pytest.skip(f"no network namespaces here: {exc}")
        snooping = ["type", "bridge", "mcast_snooping", "0"]
        ip("-n", self.switch, "link", "add", "switch", *snooping)
        ip("-n", self.switch, "link", "set", "switch", "up")
        return self

    def __exit__(self, *_):
        self._things.close()

    def namespace(self, name):
        """Make a network namespace that goes when the LAN goes."""
        full = f"ampd-{os.getpid()}-{self._number}-{name}"
        ip("netns", "add", full)
        self._things.callback(ip, "netns", "del", full)
        return full

    def host(self, name, *, plugged=True):
        host = Host(self, name, next(self._hosts))
        self._things.callback(host.close)
        if plugged:
            host.plug()
        return host

    def node(self, name, *, start=True, host=None, domain="", **settings):
        """A host with a daemon of domain NAME.local on it."""
        node = Node(host or self.host(name), domain or f"{name}.local", **settings)
        self._things.callback(node.close)
        if start:
            node.start()
        return node


def _environment(extra):
    """This process's environment without what would point at another daemon."""
    foreign = ("AMP_", "AMPD_", "XDG_", "NOTIFY_SOCKET", "LISTEN_", "JOURNAL_STREAM")
    kept = {key: text for key, text in os.environ.items() if not key.startswith(foreign)}
    return {**kept, "PYTHONPATH": f"{ROOT}:{ROOT / 'cli'}", **(extra or {})}


def _setting(value):
    return value if isinstance(value, str) else json.dumps(value)


def _sweep():
    """Remove the namespaces of runs that were killed."""
    for line in ip("netns", "list").splitlines():
        found = _ours.match(line)
        if found and not Path(f"/proc/{found[1]}").exists():
            with contextlib.suppress(RuntimeError):  # another run was faster
                ip("netns", "del", found[0])
