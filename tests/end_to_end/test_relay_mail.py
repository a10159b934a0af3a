"""Mail between nodes that are never online at the same time: a real `ampd relay` between them."""

import signal
from pathlib import Path

import pytest
from lan import PATIENCE, Lan, Local, eventually
from relay_process import OFFLINE, Relay, knows, laptop, running, subjects

pytestmark = pytest.mark.slow


@pytest.fixture
def relay(tmp_path):
    with running(tmp_path, "--open") as relay:
        yield relay


@pytest.fixture
def machine():
    with Local() as machine:
        yield machine


@pytest.fixture
def lan():
    with Lan(multicast=False) as lan:
        yield lan


def meet_at(relay, a, b):
    """alice and bob, each known to the other by the relay's directory."""
    a.amp("init", "alice")
    b.amp("init", "bob")
    eventually(lambda: knows(a, "bob@b.local"), what="bob's card at the relay")


@pytest.mark.lan
@pytest.mark.parametrize(("flags", "count"), [(["--open"], 20), ([], 200)])
def test_two_laptops_that_are_never_online_together_exchange_mail(lan, tmp_path, flags, count):
    with running(tmp_path, *flags, host=lan.host("hub")) as relay:
        a, b = laptop(lan, "a"), laptop(lan, "b")
        for node in (a, b):
            node.amp("relay", "add", relay.uri if flags else relay.invitation())
        meet_at(relay, a, b)
        b.terminate()

        sends = [
            {"to": ["bob@b.local"], "subject": f"Secret subject {n}", "text": f"secret body {n}"}
            for n in range(count)
        ]
        sent = [a.call("message.send", agent="alice", **each)["id"] for each in sends]
        eventually(lambda: relay.held == count, what="all with the relay")
        assert a.json("status", sent[0])["status"] == "relayed"
        relay.end(signal.SIGKILL)
        relay.start()
        a.terminate()

        kept = relay.everything_it_keeps()
        for word in (b"ecret", b"alice", b"bob", b"b.local", b"a.local"):
            assert word not in kept, word

        b.start()
        eventually(lambda: len(subjects(b)) == count, what="all mail at bob")
        assert subjects(b) == [each["subject"] for each in sends]
        read = b.json("read", "1")["messages"][0]
        assert (read["via"], read["body"], read["encrypted"]) == ("relay", "secret body 0", True)
        assert b.json("status")["warnings"] == [] and b.json("check")["ok"]
        # all are delivered, and the first one is read
        eventually(lambda: b.json("status")["outbox"] == 0, what="the receipts at the relay")
        assert 1 < relay.held < count  # several in one letter
        b.terminate()

        a.start()
        eventually(lambda: a.json("status", sent[0])["status"] == "read", what="the receipts")
        eventually(
            lambda: a.json("status", sent[-1])["status"] == "delivered", what="the last receipt"
        )
        last = a.json("status", sent[-1])["recipients"][0]
        assert last["via"] == "relay"
        eventually(lambda: relay.held == 0, what="an empty relay")
        eventually(lambda: a.json("status")["outbox"] == 0, what="an empty outbox")
        assert a.json("check")["ok"]


def test_an_agent_that_was_never_met_is_found_by_its_address(machine, relay):
    a, b = laptop(machine, "a", relay.uri), laptop(machine, "b", relay.uri)
    meet_at(relay, a, b)
    a.amp("send", "bob@b.local", "Hello", "never met")
    assert b.json("wait", "--timeout", "20")["messages"][0]["body"] == "never met"
    b.amp("reply", "1", "nor I you")
    assert a.json("wait", "--timeout", "20")["messages"][0]["body"] == "nor I you"


def test_without_an_invitation_a_node_is_not_let_in(machine, tmp_path):
    with running(tmp_path) as relay:
        a = laptop(machine, "a", relay.uri)
        a.amp("init", "alice")
        refused = eventually(
            lambda: next((r for r in a.json("relay", "list")["relays"] if r["last_error"]), None),
            what="the refusal",
        )
        assert "invitation" in refused["last_error"]


def test_an_invitation_lets_one_node_in(machine, tmp_path):
    with running(tmp_path) as relay:
        invitation = relay.invitation()
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


# The command


def test_show_uri_makes_the_key_once_and_names_where_it_listens(tmp_path):
    relay = Relay(tmp_path / "relay", "--listen", "relay.example:4161")
    first = relay.command("--show-uri")
    assert first.startswith("amp://") and first.endswith("@relay.example:4161")
    assert relay.command("--show-uri") == first
    assert relay.held == 0


def test_a_file_of_members_is_read_again_on_request(machine, tmp_path):
    members = tmp_path / "members"
    members.write_text("# nobody yet\n")
    with running(tmp_path, "--members", str(members)) as relay:
        a = laptop(machine, "a", relay.uri)
        a.amp("init", "alice")
        state = lambda: a.json("relay", "list")["relays"][0]  # noqa: E731
        eventually(lambda: state()["last_error"], what="the refusal")
        members.write_text(a.json("status")["node"]["key"] + "  # the laptop\n")
        relay.process.send_signal(signal.SIGHUP)
        a.restart()  # it would ask again within half a minute
        eventually(lambda: state()["state"] == "collecting", what="being let in")


def test_a_bad_line_in_the_file_of_members_is_named(tmp_path):
    (tmp_path / "members").write_text("\nnot a key\n")
    relay = Relay(tmp_path / "relay", "--members", str(tmp_path / "members"), "--listen", "[::1]:0")
    done = relay.run(check=False)
    assert done.returncode == 2
    assert f"{tmp_path}/members:2: " in done.stderr and "Traceback" not in done.stderr


def test_a_second_relay_on_the_same_home_says_who_has_it(relay):
    done = Relay(relay.home, "--listen", "127.0.0.1:0").run(check=False)
    assert done.returncode == 1
    assert "another relay is running" in done.stderr


def test_it_ends_within_three_seconds_and_what_it_acknowledged_is_there(machine, relay):
    a, b = laptop(machine, "a", relay.uri), laptop(machine, "b", relay.uri)
    meet_at(relay, a, b)
    b.terminate()
    ids = [
        a.call("message.send", agent="alice", to=["bob@b.local"], text=str(n))["id"]
        for n in range(100)
    ]
    assert relay.end() < 3  # in the middle of it
    statuses = [a.json("status", each)["status"] for each in (ids[0], ids[-1])]
    relayed = a.call("message.list", agent="alice", box="sent", limit=200)["messages"]
    assert len(relayed) == 100 and set(statuses) <= {"queued", "relayed"}
    relay.start()
    eventually(lambda: relay.held == 100, within=2 * PATIENCE, what="the rest")


@pytest.mark.parametrize("store", ["sqlite", "mysql://x", "nats:x", "sqlite:"])
def test_a_store_that_is_none_is_an_error_that_shows_the_forms(tmp_path, store):
    done = Relay(tmp_path / "relay", "--store", store).run("--count", check=False)
    assert done.returncode == 2
    assert "use sqlite:PATH or nats://HOST:PORT" in done.stderr


def test_two_relays_on_one_cluster_are_one_relay_for_their_users(machine, tmp_path):
    from nats_server import running as cluster

    with cluster(tmp_path / "nats", 3) as servers:
        store = "nats://" + ",".join(url.removeprefix("nats://") for url in servers.urls)
        flags = ("--open", "--store", store)
        with running(tmp_path, *flags) as first, running(tmp_path, *flags) as second:
            a, b = laptop(machine, "a", first.uri), laptop(machine, "b", second.uri)
            meet_at(first, a, b)
            a.amp("send", "bob@b.local", "Hello", "from one to the other")
            got = b.json("wait", "--timeout", "20")["messages"][0]
            assert (got["body"], got["via"]) == ("from one to the other", "relay")
            servers.servers[0].kill()
            b.amp("reply", "1", "one of three is gone")
            assert (
                a.json("wait", "--timeout", "30")["messages"][0]["body"] == "one of three is gone"
            )
            assert first.end() < 3 and second.end() < 3
