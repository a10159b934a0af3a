"""Every command of `amp` as a process of its own, against a daemon of its own.

The daemon is the one that the first command starts; it listens to nobody and announces nothing.
"""

import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import pytest

import ampd.client.trio
from ampd.client import connect
from ampd.model.errors import Refused
from ampd.protocol.local import APPLICATION_ERROR, LINE_LIMIT, METHOD_NOT_FOUND, PARSE_ERROR

AMP = [sys.executable, "-c", "from amp_cli.main import main; main()"]
FAR = "amp://26hhfoeio3rzenagvghde5epoyk7ol6oeyz7hclsqe232jkw5lxq/bob@far.local"


class Said(NamedTuple):
    code: int
    out: str
    err: str


class Node:
    """A home of its own, and `amp` as somebody who lives there."""

    def __init__(self, folder):
        self.folder = Path(folder)
        kept = {name: value for name, value in os.environ.items() if not name.startswith("AMP")}
        self.environ = {
            **kept,
            "AMPD_HOME": folder,
            "AMPD_NODE_DOMAIN": "desk.local",
            "AMPD_PEER_LISTEN": "",
            "AMPD_DISCOVERY_MDNS": "false",
        }
        self.socket = str(self.folder / "run" / "ampd.sock")

    def start(self, *words, **environ):
        return subprocess.Popen(
            [*AMP, *words],
            env={**self.environ, **environ},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def amp(self, *words, stdin="", **environ):
        process = self.start(*words, **environ)
        out, err = process.communicate(stdin, timeout=60)
        return Said(process.returncode, out, err)

    def json(self, *words, **environ):
        said = self.amp(*words, "--json", **environ)
        assert said.code == 0, said.err
        return json.loads(said.out)

    def pid(self):
        """Of the daemon that started last."""
        return next(json.loads(line)["pid"] for line in self.log() if '"ready"' in line)

    def log(self):
        return reversed((self.folder / "ampd.log").read_text().splitlines())


@contextmanager
def ended(process):
    """A process that is gone at the end, also when a test fails before it could end it."""
    with process:
        try:
            yield process
        finally:
            process.kill()


def home():
    return tempfile.TemporaryDirectory(prefix="amp")


@pytest.fixture(scope="module")
def house():
    """A node with alice and bob, for the whole module."""
    with home() as folder:
        node = Node(folder)
        for name in ("alice", "bob"):
            assert node.amp("init", name).code == 0
        yield node
        assert node.amp("daemon", "stop").code == 0


@pytest.fixture
def fresh():
    """A node nobody has used."""
    with home() as folder:
        node = Node(folder)
        yield node
        node.amp("daemon", "stop")


@pytest.fixture
def alice(house):
    """alice, her inbox empty."""
    house.amp("ack", "--all", AMP_AGENT="alice")
    return lambda *words, **more: house.amp(*words, AMP_AGENT="alice", **more)


@pytest.fixture
def bob(house):
    house.amp("ack", "--all", AMP_AGENT="bob")
    return lambda *words, **more: house.amp(*words, AMP_AGENT="bob", **more)


def test_a_first_message_takes_three_commands(fresh):
    assert "alice@desk.local" in fresh.amp("init", "alice").out
    assert "delivered to alice@desk.local (local)" in fresh.amp("send", "alice", "Hi", "Me").out
    assert "\n* 1  " in fresh.amp("inbox").out


def test_init_twice_changes_nothing_and_says_so(house):
    before = house.json("whoami", AMP_AGENT="alice")
    said = house.amp("init", "alice", "--alias", "Other")
    assert said.code == 0
    assert "exists already" in said.err
    after = house.json("whoami", AMP_AGENT="alice")
    assert (after["fingerprint"], after["created"]) == (before["fingerprint"], before["created"])


def test_a_message_is_listed_read_answered_and_acknowledged(alice, bob):
    sent = alice("send", "bob", "Review", "Please look.", "--priority", "high").out
    identity = sent.split()[0]
    line = bob("inbox").out.splitlines()[-1]
    assert line.startswith("* ") and line.endswith("alice@desk.local  Review [high]")
    number = line.split()[1]
    shown = bob("read", number).out
    assert f"{number}  {identity}\n" in shown and shown.endswith("\n\nPlease look.\n")
    assert f"{identity}  read" in alice("status", identity).out
    assert "delivered to alice" in bob("reply", number, "Done.").out
    assert "Re: Review" in alice("inbox", "--unread").out
    thread = json.loads(bob("thread", identity, "--json").out)["messages"]
    assert "Review" in [each["subject"] for each in thread]
    assert bob("ack", number).code == 0
    assert bob("inbox").out == "bob@desk.local: no messages\n"
    assert "Review" in bob("inbox", "--all").out


def test_an_id_may_be_shortened_at_either_end(alice, bob):
    identity = alice("--quiet", "send", "bob", "S", "T").out.strip()
    assert identity in alice("status", identity[-8:]).out
    assert bob("read", identity, "--raw").out == "T\n"


def test_a_part_of_an_id_that_is_digits_only_is_not_taken_for_a_number(house):
    with connect("alice", house.socket) as amp:
        sent = amp.send("bob", "S", "T")
        while not sent.id[-6:].isdecimal():  # one in seventeen is
            sent = amp.send("bob", "S", "T")
        assert amp.status_of(sent.id[-6:]).id == sent.id
        with pytest.raises(Refused, match="no message 99999"):
            amp.status_of(99999)


def test_the_documents_have_the_fields_that_scripts_rely_on(house, bob):
    sent = house.json("send", "bob", "S", "T", "--payload", '{"a":[1]}', AMP_AGENT="alice")
    assert {"id", "thread_id", "status", "recipients"} <= sent.keys()
    assert {"address", "status", "via", "error"} <= sent["recipients"][0].keys()
    inbox = house.json("inbox", AMP_AGENT="bob")
    assert {"agent", "unread", "total", "messages"} <= inbox.keys()
    [message] = house.json("read", sent["id"], AMP_AGENT="bob")["messages"]
    assert (message["body"], message["payload"], message["trust"]) == ("T", {"a": [1]}, "verified")
    status = house.json("status", sent["id"], "--proof", AMP_AGENT="alice")
    assert {"attempts", "delivered_at", "read_at"} <= status["recipients"][0].keys()
    assert {receipt["stage"] for receipt in status["receipts"]} >= {"delivered"}
    assert {"steps", "waiting_for"} <= house.json("trace", sent["id"], AMP_AGENT="alice").keys()
    node = house.json("status")
    assert {"version", "node", "agents", "peers", "relays", "outbox", "mailbox"} <= node.keys()
    assert house.json("peers") == {"peers": []}
    assert {"agents"} == house.json("discover", AMP_AGENT="alice").keys()
    assert house.json("check")["ok"] is True
    assert house.json("doctor")["ok"] is True
    assert len(house.json("agents")["agents"]) == 2


def test_a_text_comes_out_as_it_went_in(alice, bob):
    text = "é\t\U0001f600\n\n  - list \u202e end\x1b[2J"
    identity = alice("--quiet", "send", "bob", "S", "-", stdin=text).out.strip()
    assert json.loads(bob("read", identity, "--json").out)["messages"][0]["body"] == text
    shown = bob("read", identity, "--raw").out
    assert shown == "é\t\U0001f600\n\n  - list \\u202e end\\x1b[2J\n"


def test_a_long_inbox_is_paged_by_the_commands_it_names(house, bob):
    with connect("alice", house.socket) as amp:
        for number in range(23):
            amp.send("bob", f"Subject {number}", "T")
    lines = bob("inbox", "--unread").out.splitlines()
    assert lines[1].endswith("Subject 3") and lines[-2].endswith("Subject 22")
    command = lines[-1].partition(": amp ")[2].split()
    assert [line[-9:] for line in bob(*command).out.splitlines()[1:]] == [
        "Subject 0",
        "Subject 1",
        "Subject 2",
    ]


def test_wait_returns_when_a_message_comes_and_6_when_none_does(house, alice, bob):
    assert bob("wait", "--timeout", "0.05").code == 6
    waiting = house.start("wait", "--from", "alice", "--timeout", "30", AMP_AGENT="bob")
    alice("send", "bob", "Now", "T")
    assert "subject: Now" in waiting.communicate(timeout=30)[0]
    assert waiting.returncode == 0


def test_watch_shows_messages_across_a_restart_each_once(house, alice, bob):
    with ended(house.start("watch", "--json", AMP_AGENT="bob")) as watching:
        assert watching.stderr.readline() == "amp: watching\n"
        alice("send", "bob", "One", "T")
        assert json.loads(watching.stdout.readline())["subject"] == "One"
        assert house.amp("daemon", "restart").code == 0
        alice("send", "bob", "Two", "T")
        assert json.loads(watching.stdout.readline())["subject"] == "Two"
        watching.send_signal(signal.SIGINT)
        watching.communicate(timeout=30)
        assert watching.returncode == 130


BOB = {"AMP_AGENT": "bob"}
STOPPED = "amp: the daemon was stopped, waiting for it to start\n"


def test_a_daemon_that_was_stopped_stays_so_until_somebody_starts_it(fresh):
    fresh.amp("init", "bob")
    watching, waiting = (
        fresh.start("watch", "--json", **BOB),
        fresh.start("wait", "--from", "zed", **BOB),
    )
    with ended(watching), ended(waiting):
        assert watching.stderr.readline() == "amp: watching\n"
        assert waiting.stderr.readline().startswith("nobody known is called zed")
        assert fresh.amp("daemon", "stop").code == 0
        assert watching.stderr.readline() == waiting.stderr.readline() == STOPPED
        assert fresh.amp("daemon", "status").code == 4, "nobody who was running started it"
        assert fresh.amp("init", "zed").code == 0
        fresh.amp("send", "bob", "Back", "T", "--agent", "zed")
        assert json.loads(watching.stdout.readline())["subject"] == "Back"
        assert "subject: Back" in waiting.communicate(timeout=30)[0]
        assert waiting.returncode == 0
    assert not (fresh.folder / "run" / "stopped").exists()


def test_a_restart_with_a_setting_that_is_wrong_ends_nothing(fresh):
    fresh.amp("init", "alice")
    (fresh.folder / "config.toml").write_text('[node]\ndomian = "x"\n')
    said = fresh.amp("daemon", "restart")
    assert said.code == 2
    assert "left running" in said.err and "config.toml:2: there is no key domian" in said.err
    assert fresh.amp("daemon", "status").code == 0
    assert "could not start again" in fresh.amp("doctor").out
    assert fresh.amp("daemon", "stop").code == 0


def test_who_acts_must_be_clear(house):
    said = house.amp("inbox")
    assert said.code == 3
    assert "alice, bob" in said.err and "--agent NAME" in said.err


def test_l2_nothing_is_sent_as_somebody_who_is_not_there(house, bob):
    said = house.amp("send", "bob", "Nobody", "T", "--agent", "carol")
    assert said.code == 3
    assert "Nobody" not in bob("inbox").out


def spoken(house, *lines):
    """What a program that speaks to the socket by hand gets back until the daemon hangs up."""
    with socket.socket(socket.AF_UNIX) as plain:
        plain.settimeout(30)
        plain.connect(house.socket)
        with suppress(BrokenPipeError, ConnectionResetError):
            plain.sendall(b"".join(lines))
            plain.shutdown(socket.SHUT_WR)
        with plain.makefile("rb") as answers:
            return [json.loads(line) for line in answers]


def request(method, identifier=1, **params):
    line = {"jsonrpc": "2.0", "id": identifier, "method": method, "params": params}
    return json.dumps(line).encode() + b"\n"


def test_l1_a_line_over_the_limit_is_an_error_and_the_end(house):
    long = request("message.send", text="x" * LINE_LIMIT)
    [answer] = spoken(house, long, request("system.status", 2))
    assert answer["error"]["code"] < 0


def test_l3_an_error_has_the_code_of_json_rpc_or_a_word_of_ours(house):
    noise, unknown, refused = spoken(
        house,
        b"{\n",
        request("no.such.method", 2),
        request("agent.show", 3, name="nobody"),
    )
    assert (noise["error"]["code"], unknown["error"]["code"]) == (PARSE_ERROR, METHOD_NOT_FOUND)
    assert refused["error"]["code"] == APPLICATION_ERROR
    assert refused["error"]["data"]["code"] == "agent_unknown"


def test_l4_only_who_asked_is_notified(house):
    acting = request("system.hello", 1, agent="bob")
    sending = request("message.send", 2, to=["bob"], subject="S", text="T")
    assert all("method" not in each for each in spoken(house, acting, sending))


def test_a_sandbox_with_one_agents_socket_is_that_agent_and_no_other(house, alice, bob):
    sandbox = {"AMP_SOCKET": str(house.folder / "run" / "agents" / "alice.sock")}
    shown = house.amp("whoami", **sandbox).out
    assert "alice@desk.local" in shown and "unread: 0\n" in shown
    assert "\ndata: " not in shown and "\nconfig: " not in shown
    assert house.amp("doctor", **sandbox).code == 0
    assert house.amp("send", "bob", "From the box", "T", **sandbox).code == 0
    assert "From the box" in bob("inbox").out
    assert house.amp("inbox", "--agent", "bob", **sandbox).code == 5
    assert house.amp("init", "carol", **sandbox).code == 5
    assert house.amp("daemon", "stop", **sandbox).code == 5


def test_what_is_not_there_is_exit_3(alice):
    for words in (("read", "999"), ("send", "nobody", "S", "T"), ("contact", "show", "nobody")):
        said = alice(*words)
        assert said.code == 3
        assert said.err.startswith("amp: error: ")


def test_a_message_over_the_limit_is_exit_5_and_says_the_limit(alice, tmp_path):
    (tmp_path / "big").write_text("x" * 600_000)
    said = alice("send", "bob", "Big", "--file", str(tmp_path / "big"))
    assert said.code == 5
    assert "524288" in said.err


def test_contacts_are_added_verified_blocked_and_removed(alice):
    assert "bob@far.local" in alice("contact", "add", FAR).out
    assert "bob@far.local" in alice("contact", "list").out
    assert "blocked" in alice("contact", "block", "bob@far.local").out
    assert alice("contact", "unblock", "bob@far.local").code == 0
    assert alice("contact", "verify", "bob@far.local", "SHA256:wrong").code != 0
    assert alice("contact", "remove", "bob@far.local").code == 0
    assert "far.local" not in alice("contact", "list").out


def test_a_card_is_a_contact_link(alice):
    assert alice("card").out.startswith("amp://")


def test_delete_and_unregister_take_away_what_they_name(fresh):
    fresh.amp("init", "alice")
    fresh.amp("send", "alice", "S", "T")
    assert fresh.amp("delete", "1").code == 0
    assert fresh.amp("read", "1").code == 3
    assert fresh.amp("unregister", "alice", "--purge").code == 0
    assert fresh.json("agents") == {"agents": []}


def test_twenty_first_commands_at_the_same_moment_start_one_daemon(fresh):
    commands = [fresh.start("agents") for _ in range(20)]
    for command in commands:
        out, err = command.communicate(timeout=60)
        assert command.returncode == 0, err
        assert out == "no agents on this node\n"
    assert sum('"ready"' in line for line in fresh.log()) == 1


def test_a_setting_that_is_wrong_is_named_by_the_command_that_needed_the_daemon(fresh):
    (fresh.folder / "config.toml").write_text('[node]\ndomian = "x"\n')
    said = fresh.amp("init", "alice")
    assert said.code == 4
    assert "config.toml:2: there is no key domian in [node]" in said.err


GATEWAY = {"AMPD_GATEWAY_LISTEN": "127.0.0.1:0"}


def test_a_start_counts_when_the_gateway_is_open_and_says_why_it_cannot_be(fresh):
    said = fresh.amp("daemon", "start", **GATEWAY, AMPD_GATEWAY_ADMIN_KEYS="/nonexistent/x")
    assert said.code == 4
    assert "the daemon ended at once (exit 2): AMPD_GATEWAY_ADMIN_KEYS: " in said.err


def test_what_a_start_answers_has_the_open_gateway(fresh):
    assert fresh.json("daemon", "start", **GATEWAY)["gateway"]["url"].startswith("http://127.0.0.1")


def test_doctor_says_why_no_daemon_can_start(fresh):
    (fresh.folder / "config.toml").write_text('[node]\ndomian = "x"\n')
    said = fresh.amp("doctor")
    assert said.code == 1
    assert "cannot start: " in said.out
    assert "config.toml:2: there is no key domian in [node]" in said.out


def test_doctor_does_not_wait_for_a_daemon_that_hangs(fresh):
    fresh.amp("init", "alice")
    os.kill(fresh.pid(), signal.SIGSTOP)
    said = fresh.amp("doctor")
    assert said.code == 1
    assert "the daemon does not answer" in said.out
    assert f"daemon: kill -9 {fresh.pid()}, then amp daemon start" in said.out
    os.kill(fresh.pid(), signal.SIGKILL)


def test_mail_goes_from_node_to_node_in_a_bundle(fresh, tmp_path):
    with home() as folder:
        far = Node(folder)
        far.environ["AMPD_NODE_DOMAIN"] = "far.local"
        try:
            assert far.amp("init", "bob").code == 0
            fresh.amp("init", "alice")
            assert fresh.amp("contact", "add", far.amp("card").out.strip()).code == 0
            assert "queued" in fresh.amp("send", "bob@far.local", "On a stick", "T").out
            assert "  queued  bob@far.local  On a stick" in fresh.amp("outbox").out
            stick = str(tmp_path / "mail.ampd")
            assert "1 envelope," in fresh.amp("bundle", "write", stick).out
            assert "1 message" in far.amp("bundle", "read", stick).out
            assert "On a stick" in far.amp("inbox").out
            assert "1 known" in far.amp("bundle", "read", stick).out
        finally:
            far.amp("daemon", "stop")


def test_when_stop_returns_the_home_is_free(fresh):
    fresh.amp("init", "alice")
    assert fresh.amp("daemon", "stop").out == "stopped\n"
    with (fresh.folder / "ampd.lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_relays_are_added_listed_and_removed(fresh):
    uri = "amp://26hhfoeio3rzenagvghde5epoyk7ol6oeyz7hclsqe232jkw5lxq@127.0.0.1:9"
    assert uri in fresh.amp("relay", "add", uri).out
    assert fresh.json("relay", "list")["relays"][0]["uri"] == uri
    assert fresh.amp("relay", "remove", uri).out == "no relays\n"


def test_mail_survives_the_daemon_being_killed(fresh):
    fresh.amp("init", "alice")
    fresh.amp("send", "alice", "Kept", "T")
    os.kill(fresh.pid(), signal.SIGKILL)
    assert "Kept" in fresh.amp("inbox").out


def test_python_programs_speak_to_the_same_daemon(house, alice, bob):
    with connect("alice", house.socket) as amp:
        assert amp.whoami().address == "alice@desk.local"
        messages = amp.subscribe()
        with connect("bob", house.socket) as other:
            sent = other.send("alice", "From Python", "T", payload={"a": 1})
            assert sent.status == "delivered"
        message = next(messages)
        assert (message.subject, message.payload) == ("From Python", {"a": 1})
        assert amp.reply(message, "Got it.").status == "delivered"
        assert amp.ack(message) == [message.id]
        assert [each.subject for each in amp.inbox()] == []
        assert amp.wait(timeout=0.05) is None
        with pytest.raises(Refused):
            amp.read("nothing-like-it")


async def test_trio_programs_speak_to_the_same_daemon(house, alice, bob):
    async with ampd.client.trio.connect("bob", house.socket) as amp:
        sent = await amp.send("alice", "From trio", "T", key="once")
        again = await amp.send("alice", "From trio", "T", key="once")
        assert sent.id == again.id
        assert (await amp.status_of(sent)).status == "delivered"
        async with ampd.client.trio.connect("alice", house.socket) as other:
            assert [each.subject for each in await other.inbox(unread=True)] == ["From trio"]
            messages = other.subscribe(after=0)
            assert (await anext(messages)).sender in ("bob@desk.local", "alice@desk.local")
