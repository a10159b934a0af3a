"""The LAN in a box keeps its promises, so that a red test means the product and not the box."""

import contextlib
import json
import os
import subprocess
import sys

import lan as harness
import pytest
from lan import Lan, LocalHost, Node, ip

pytestmark = pytest.mark.lan

SERVER = """
import json, socket
with socket.create_server(("", 4000)) as server:
    print(json.dumps({"event": "listening"}), flush=True)
    while True:
        connection, address = server.accept()
        connection.close()
        print(json.dumps({"event": "called", "by": address[0]}), flush=True)
"""


def call(host, address):
    """Whether a TCP connection from the host to the address comes about."""
    code = f"import socket; socket.create_connection(({address!r}, 4000), timeout=0.3).close()"
    return host.run([sys.executable, "-c", code], check=False).returncode == 0


def namespaces():
    return {line.split()[0] for line in ip("netns", "list").splitlines()}


def test_hosts_reach_each_other_until_the_cable_is_pulled_and_after():
    with Lan() as lan:
        one, two = lan.host("one"), lan.host("two")
        server = two.talk([sys.executable, "-c", SERVER])
        server.hear(event="listening")
        assert call(one, two.address)
        assert server.hear(event="called")["by"] == one.address
        two.cut()
        assert not call(one, two.address)
        two.heal()
        harness.eventually(lambda: call(one, two.address), what="a connection after the heal")


def test_a_host_that_moved_is_at_the_new_address_only():
    with Lan() as lan:
        one, two = lan.host("one"), lan.host("two")
        two.talk([sys.executable, "-c", SERVER]).hear(event="listening")
        old = two.address
        two.change_address()
        assert not call(one, old)
        assert call(one, two.address)


def test_nothing_is_left_when_a_test_fails():
    before = namespaces()
    with contextlib.suppress(KeyError), Lan() as lan:
        process = lan.host("one").popen(["sleep", "1000"])
        assert namespaces() > before
        raise KeyError
    assert namespaces() == before
    assert process.poll() is not None


def test_what_a_killed_run_left_behind_goes_with_the_next_run():
    with subprocess.Popen(["true"]) as gone:
        gone.wait()
    left = f"ampd-{gone.pid}-1-left"
    ip("netns", "add", left)
    with Lan():
        assert left not in namespaces()


def test_a_node_knows_its_own_home_and_nothing_of_the_daemon_of_this_user(monkeypatch):
    monkeypatch.setenv("AMP_SOCKET", "/run/user/0/ampd/ampd.sock")
    monkeypatch.setenv("AMPD_NODE_DOMAIN", "wrong.local")
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/0")
    node = Node(LocalHost(), "desk.local", peer_static=["amp://KEY@10.0.0.1:4160"])
    show = "import os, json; print(json.dumps(dict(os.environ)))"
    seen = json.loads(node.host.run([sys.executable, "-c", show], env=node.env).stdout)
    node.close()
    ours = {key: text for key, text in seen.items() if key.startswith(("AMP", "XDG_"))}
    assert ours == {
        "AMPD_HOME": str(node.home),
        "AMPD_NODE_DOMAIN": "desk.local",
        "AMPD_PEER_LISTEN": "0.0.0.0:4160",
        "AMPD_PEER_STATIC": '["amp://KEY@10.0.0.1:4160"]',
        "AMP_AUTOSTART": "0",
    }
    assert not node.home.exists()


def test_without_root_the_test_is_skipped_and_says_why(monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(pytest.skip.Exception, match="need root"), Lan():
        pass
