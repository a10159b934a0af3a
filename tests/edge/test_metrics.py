"""Figures, /healthz and /readyz over HTTP; of a daemon and of a relay, both real."""

import urllib.error
import urllib.request

import pytest
import trio
from contracts.carriers import FakeCarrier
from lan import Local, eventually
from protocol.harness import Shelf

from ampd.edge.metrics import Metrics
from ampd.edge.node_figures import CountedCarrier, CountedDoor
from ampd.model.errors import Invalid, Refused, Unavailable
from ampd.model.message import Envelope

NODE = b"n" * 32
pytest.importorskip("prometheus_client")


def get(port, path, method="GET"):
    """The status and the body."""
    asked = urllib.request.Request(f"http://127.0.0.1:{port}{path}", method=method)
    try:
        with urllib.request.urlopen(asked, timeout=20) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as exc:
        with exc:
            return exc.code, exc.read().decode()


def figures(port):
    lines = get(port, "/metrics")[1].splitlines()
    return {name: float(value) for name, value in (x.split() for x in lines if x[0] != "#")}


@pytest.fixture
def served():
    state = {"reason": "", "figures": {"sent_total": 3, "waiting": 1.5}}
    metrics = Metrics(("127.0.0.1", 0), "x", lambda: state["figures"], lambda: state["reason"])
    metrics.start()
    yield metrics.port, state
    metrics.stop()


def test_a_counter_is_one_whose_name_says_total_and_the_rest_are_gauges(served):
    port, _ = served
    text = get(port, "/metrics")[1]
    assert "# TYPE x_sent_total counter\n" in text and "# TYPE x_waiting gauge\n" in text
    assert figures(port) == {"x_sent_total": 3.0, "x_waiting": 1.5}


def test_figures_are_those_of_the_moment(served):
    port, state = served
    state["figures"] = {"waiting": 9}
    assert figures(port) == {"x_waiting": 9.0}


def test_alive_and_ready_are_two_things(served):
    port, state = served
    assert get(port, "/readyz") == (200, "ready\n")
    state["reason"] = "the store is away"
    assert get(port, "/readyz") == (503, "the store is away\n")
    assert get(port, "/healthz") == (200, "alive\n")


def test_other_paths_and_methods_are_told_so(served):
    port, _ = served
    assert get(port, "/secrets")[0] == 404
    assert get(port, "/metrics", "POST")[0] == 405


def test_an_address_that_is_taken_is_an_error_that_names_it(served):
    port, _ = served
    with pytest.raises(Unavailable, match=f"127.0.0.1:{port}"):
        Metrics(("127.0.0.1", port), "x", dict, str)


def test_without_the_package_the_error_says_what_to_install(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    with pytest.raises(Invalid) as caught:
        Metrics(("127.0.0.1", 0), "x", dict, str)
    assert caught.value.hint == "pip install 'ampd-node[metrics]'"


async def test_what_comes_and_goes_is_counted_by_what_became_of_it():
    from collections import Counter

    counts = Counter()
    shelf = Shelf()
    door, carrier = CountedDoor(shelf, counts), CountedCarrier(FakeCarrier(shelf), counts)
    envelope = Envelope(b"m" * 16, 2**41, b"sealed")
    usual = shelf.answer
    for answer in (usual, Refused("no"), Unavailable("later")):
        shelf.answer = answer
        for way in (lambda e: door.deliver(e, NODE), lambda e: carrier.deliver(NODE, e)):
            try:
                await way(envelope)
            except (Refused, Unavailable):
                await trio.lowlevel.checkpoint()
    came = ("received_total", "received_refused_total", "received_deferred_total")
    went = ("delivered_total", "refused_total", "deferred_total")
    assert counts == dict.fromkeys((*came, *went), 1)


@pytest.mark.slow
def test_a_daemon_shows_its_figures_on_request_and_no_words_of_mail():
    with Local() as machine:
        from nats_server import free_ports

        (port,) = free_ports(1)
        node = machine.node("desk", metrics_listen=f"127.0.0.1:{port}")
        node.amp("init", "alice")
        node.amp("send", "alice", "Secret subject", "body")
        assert get(port, "/readyz") == (200, "ready\n")
        text = get(port, "/metrics")[1]
        assert "Secret" not in text and "alice" not in text
        found = figures(port)
        assert found["ampd_inbox_messages"] == found["ampd_inbox_unread"] == 1
        assert found["ampd_outbox_queued"] == found["ampd_received_total"] == 0
        assert found["ampd_journal_bytes"] > 0
        assert node.terminate() < 3


@pytest.mark.slow
def test_a_relay_counts_what_it_takes_and_what_it_pushes(tmp_path):
    from nats_server import free_ports
    from relay_process import knows, laptop, running

    (port,) = free_ports(1)
    with running(tmp_path, "--open", "--metrics", f"127.0.0.1:{port}") as relay, Local() as machine:
        assert get(port, "/readyz") == (200, "ready\n")
        a, b = laptop(machine, "a", relay.uri), laptop(machine, "b", relay.uri)
        a.amp("init", "alice")
        b.amp("init", "bob")
        eventually(lambda: figures(port)["ampd_relay_collectors"] == 2, what="two collectors")
        eventually(lambda: knows(a, "bob@b.local"), what="bob's card")
        a.amp("send", "bob@b.local", "Hello", "text", "--wait", "20")
        found = eventually(
            lambda: (f := figures(port))["ampd_relay_pushed_total"] >= 2 and f, what="the receipt"
        )
        assert found["ampd_relay_deposited_total"] >= 2
        assert found["ampd_relay_sessions"] == 2
        relay.end()
