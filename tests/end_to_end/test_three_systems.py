"""One conversation over AMP, AMTP and this protocol, on two nodes: real daemons, real HTTP."""

import signal
from pathlib import Path

import pytest
from foreign_clients import AmpClient, AmtpClient
from lan import Local, eventually

pytestmark = pytest.mark.slow


@pytest.fixture
def machine():
    with Local() as machine:
        yield machine


def office(machine, **settings):
    """A node whose gateway is open."""
    return machine.node("a", gateway_listen="127.0.0.1:0", **settings)


def doors(node):
    """The gateway's URL, and an admin key."""
    found = node.json("status")["gateway"]
    lines = Path(found["admin_keys"]).read_text().splitlines()
    return found["url"], next(line for line in lines if line and not line.startswith("#"))


def first(mailbox, what):
    """The first message that a mailbox shows, once there is one."""
    return eventually(lambda: next(iter(mailbox()), None), what=what)


def test_one_thread_goes_through_all_three_and_comes_back(machine):
    b = machine.node("b")
    b.amp("init", "carol")
    a = office(machine, peer_static=[b.uri()])
    url, key = doors(a)
    alice, walter = AmpClient(url, "alice"), AmtpClient(url, "walter", key)

    start = alice.send("walter@default.aimaestro.local", "Build 7", "Is it green?")
    assert start["status"] in ("delivered", "queued")
    asked = first(walter.inbox, "alice's message at walter")
    assert asked["payload"]["message"] == "Is it green?" and asked["subject"] == "Build 7"

    eventually(
        lambda: any(e["address"] == "carol@b.local" for e in a.json("discover")["agents"]),
        what="carol in sight",
    )
    walter.send("carol@b.local", "Build 7", {"text": "alice asks"}, asked["message_id"])
    walter.acknowledge(asked["message_id"])
    assert walter.inbox() == []
    passed = b.json("wait", "--timeout", "20")["messages"][0]
    assert passed["body"] == "alice asks" and passed["from"] == "walter@a.local"

    eventually(
        lambda: any(e["address"] == "alice@a.local" for e in b.json("discover")["agents"]),
        what="alice in sight",
    )
    b.amp("send", "alice@a.local", "Build 7", "It is green", "--reply-to", passed["id"])
    answer = first(alice.pending, "carol's answer at alice")
    assert answer["payload"]["message"] == "It is green"
    assert answer["envelope"]["from"] == "carol@b.local"
    assert answer["envelope"]["thread_id"] == start["id"]
    alice.acknowledge(answer["id"])
    assert alice.pending() == []


def test_what_a_client_was_told_is_sent_outlives_a_crash(machine):
    a = office(machine)
    url, key = doors(a)
    alice, walter = AmpClient(url, "alice"), AmtpClient(url, "walter", key)
    ids = [
        alice.send("walter@default.aimaestro.local", f"{n}", f"text {n}")["id"] for n in range(9)
    ]
    back = [walter.send("alice@localhost", f"{n}", {"text": f"back {n}"}) for n in range(9)]
    a.kill()
    a.start()
    url = doors(a)[0]
    alice.url = walter.url = url  # a free port was asked for, and it is another one now
    assert [m["subject"] for m in walter.inbox()] == [str(n) for n in range(9)]
    assert [m["payload"]["message"] for m in alice.pending()] == [f"back {n}" for n in range(9)]
    assert len(set(ids)) == 9
    assert walter.status(back[0]["message_id"])["recipients"][0]["status"] == "delivered"


def test_who_came_by_http_is_an_agent_like_others(machine):
    a = office(machine)
    url, key = doors(a)
    AmpClient(url, "alice"), AmtpClient(url, "walter", key)
    a.amp("init", "nora")
    assert {each["name"] for each in a.json("agents")["agents"]} == {"alice", "walter", "nora"}
    shown = {each["address"] for each in a.json("discover")["agents"]}
    assert {"alice@a.local", "walter@a.local", "nora@a.local"} <= shown
    a.amp("send", "--agent", "nora", "alice", "Hello", "from the command line")
    listed = a.json("inbox", "--agent", "alice")["messages"]
    assert [each["subject"] for each in listed] == ["Hello"]


def test_a_daemon_that_stops_lets_its_gateway_answer_first(machine):
    a = office(machine)
    url, _ = doors(a)
    AmpClient(url, "alice")
    a.process.send_signal(signal.SIGTERM)
    assert a.process.wait(10) == 0
