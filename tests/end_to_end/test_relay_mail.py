"""Mail between nodes that are never online at the same time: a real `ampd relay` between them."""

import json
import os
import re
import signal
import subprocess
from contextlib import contextmanager
from pathlib import Path

import pytest
from lan import AMPD, PATIENCE, Local, eventually

OFFLINE = {"discovery_mdns": False}


class Relay:
    """A relay as a process: `ampd relay`, its store and its key in a home of its own."""

    def __init__(self, home, *flags):
        self.home = Path(home)
        self.flags = flags
        self.process = None
        self.port = 0

    def command(self, *words):
        environ = {k: v for k, v in os.environ.items() if not k.startswith("AMPD_")}
        return subprocess.run(
            [*AMPD, "relay", "--home", str(self.home), *self.flags, *words],
            env=environ, capture_output=True, text=True, check=True, timeout=PATIENCE,
        ).stdout.strip()  # fmt: skip

    def start(self):
        listen = f"127.0.0.1:{self.port}"
        environ = {k: v for k, v in os.environ.items() if not k.startswith("AMPD_")}
        log = (self.home / "relay.log").open("ab")
        self.process = subprocess.Popen(
            [*AMPD, "relay", "--home", str(self.home), "--listen", listen, "--log-format", "json",
             *self.flags],
            env=environ, stderr=log, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        log.close()
        seen = len(self.ready_lines())
        eventually(lambda: len(self.ready_lines()) > seen or self._answers(), what="the relay")
        self.port = int(self.ready_lines()[-1]["uri"].rpartition(":")[2])
        return self

    def ready_lines(self):
        lines = (self.home / "relay.log").read_text().splitlines()
        return [json.loads(line) for line in lines if '"ready"' in line]

    def _answers(self):
        assert self.process.poll() is None, (self.home / "relay.log").read_text()
        return any(line.get("pid") == self.process.pid for line in self.ready_lines())

    @property
    def uri(self):
        return self.ready_lines()[-1]["uri"]

    def end(self, with_signal=signal.SIGTERM):
        self.process.send_signal(with_signal)
        self.process.wait(PATIENCE)

    def everything_it_keeps(self):
        return b"".join(p.read_bytes() for p in sorted(self.home.rglob("*")) if p.is_file())


@contextmanager
def running(tmp_path, *flags):
    home = tmp_path / "relay"
    home.mkdir(parents=True)
    relay = Relay(home, *flags).start()
    try:
        yield relay
    finally:
        if relay.process.poll() is None:
            relay.end()


@pytest.fixture
def relay(tmp_path):
    with running(tmp_path, "--open") as relay:
        yield relay


@pytest.fixture
def machine():
    with Local() as machine:
        yield machine


def laptop(machine, name, relay, **settings):
    """A node that knows nobody but a relay."""
    return machine.node(name, peer_listen="", relay_servers=[relay.uri], **OFFLINE, **settings)


def knows(node, address):
    found = node.json("discover", address.partition("@")[2])["agents"]
    return any(each["address"] == address for each in found)


def bodies(node):
    listed = node.json("inbox", "--limit", "1000")["messages"]
    return [m["subject"] for m in listed if m["type"] != "system"]


def test_two_laptops_that_are_never_online_together_exchange_mail(machine, relay):
    a, b = laptop(machine, "a", relay), laptop(machine, "b", relay)
    a.amp("init", "alice")
    b.amp("init", "bob")
    eventually(lambda: knows(a, "bob@b.local"), what="bob's card at the relay")
    b.terminate()

    sent = [a.json("send", "bob@b.local", f"secret subject {n}", f"secret body {n}")["id"]
            for n in range(20)]  # fmt: skip
    eventually(lambda: relay.command("--count") == "20", what="all with the relay")
    assert a.json("status", sent[0])["status"] == "relayed"
    relay.end(signal.SIGKILL)
    relay.start()
    a.terminate()

    kept = relay.everything_it_keeps()
    for word in (b"secret subject", b"secret body"):
        assert word not in kept

    b.start()
    eventually(lambda: len(bodies(b)) == 20, what="all mail at bob")
    assert bodies(b) == [f"secret subject {n}" for n in range(20)]
    read = b.json("read", "1")["messages"][0]
    assert (read["via"], read["body"], read["encrypted"]) == ("relay", "secret body 0", True)
    eventually(lambda: relay.command("--count") != "20", what="the relay's memory")
    b.terminate()

    a.start()
    eventually(lambda: a.json("status", sent[0])["status"] == "read", what="the receipts at alice")
    last = a.json("status", sent[-1])["recipients"][0]
    assert (last["status"], last["via"]) == ("delivered", "relay")
    eventually(lambda: relay.command("--count") == "0", what="an empty relay")


def test_an_agent_that_was_never_met_is_found_by_its_address(machine, relay):
    a, b = laptop(machine, "a", relay), laptop(machine, "b", relay)
    a.amp("init", "alice")
    b.amp("init", "bob")
    eventually(lambda: knows(a, "bob@b.local"), what="bob's card")
    a.amp("send", "bob@b.local", "Hello", "never met")
    assert b.json("wait", "--timeout", "20")["messages"][0]["body"] == "never met"
    b.amp("reply", "1", "nor I you")
    assert a.json("wait", "--timeout", "20")["messages"][0]["body"] == "nor I you"


def test_without_an_invitation_a_node_is_not_let_in(machine, tmp_path):
    with running(tmp_path) as relay:
        a = laptop(machine, "a", relay)
        a.amp("init", "alice")
        refused = eventually(
            lambda: next((r for r in a.json("relay", "list")["relays"] if r["last_error"]), None),
            what="the refusal",
        )
        assert "invitation" in refused["last_error"]


def test_an_invitation_lets_one_node_in(machine, tmp_path):
    with running(tmp_path) as relay:
        invitation = re.sub(r":\d+\?", f":{relay.port}?", relay.command("invite")).replace(
            os.uname().nodename.lower(), "127.0.0.1"
        )
        a = machine.node("a", peer_listen="", **OFFLINE)
        a.amp("init", "alice")
        a.amp("relay", "add", invitation)
        eventually(
            lambda: a.json("relay", "list")["relays"][0]["state"] == "collecting",
            what="being let in",
        )
        b = machine.node("b", peer_listen="", **OFFLINE)
        b.amp("init", "bob")
        b.amp("relay", "add", invitation)
        eventually(lambda: b.json("relay", "list")["relays"][0]["last_error"], what="the refusal")
        b.amp("relay", "remove", relay.uri)
        assert b.json("relay", "list")["relays"] == []


def test_a_relay_that_is_away_is_passed_over_for_the_next_one(machine, tmp_path):
    with running(tmp_path / "1", "--open") as first, running(tmp_path / "2", "--open") as second:
        both = [first.uri, second.uri]
        a = machine.node("a", peer_listen="", relay_servers=both, **OFFLINE)
        b = machine.node("b", peer_listen="", relay_servers=both, **OFFLINE)
        a.amp("init", "alice")
        b.amp("init", "bob")
        eventually(lambda: knows(a, "bob@b.local"), what="bob's card")
        first.end()
        a.amp("send", "bob@b.local", "Hello", "by the second")
        assert b.json("wait", "--timeout", "20")["messages"][0]["body"] == "by the second"


def test_mail_travels_on_a_stick(machine, tmp_path):
    a = machine.node("a", peer_listen="", **OFFLINE)
    b = machine.node("b", peer_listen="", **OFFLINE)
    a.amp("init", "alice")
    b.amp("init", "bob")
    stick = str(tmp_path / "mail.ampd")
    b.amp("bundle", "write", stick)  # bob's card
    assert a.json("bundle", "read", stick)["cards"] == 1
    sent = a.json("send", "bob@b.local", "Hello", "on a stick")["id"]
    assert a.json("bundle", "write", stick)["envelopes"] == 1
    assert b.json("bundle", "read", stick)["messages"] == 1
    assert b.json("bundle", "read", stick)["known"] == 1
    assert b.json("read", "1")["messages"][0]["body"] == "on a stick"
    assert a.json("status", sent)["status"] == "queued"
    b.amp("bundle", "write", stick)
    assert a.json("bundle", "read", stick)["receipts"] == 2
    assert a.json("status", sent)["status"] == "read"
    Path(stick).write_bytes(Path(stick).read_bytes()[:-5])
    assert b.amp("bundle", "read", stick, check=False).returncode == 1
