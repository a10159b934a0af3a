"""Discovery between hosts with cables: found, lost, moved, cut off, lied to."""

import signal
import sys
from pathlib import Path

import pytest
from lan import Lan

pytestmark = pytest.mark.lan

HERE = Path(__file__).parent
PORT = 4160


@pytest.fixture
def lan():
    with Lan() as lan:
        yield lan


def discover(host, seed, *, port=PORT, interfaces=()):
    """Run discovery for the node `seed` on a host."""
    options = [word for interface in interfaces for word in ("--interface", interface)]
    program = [sys.executable, str(HERE / "mdns_program.py"), str(seed), str(port), *options]
    talker = host.talk(program)
    talker.hear(event="ready")
    return talker


def lie(host, what, seed):
    host.run([sys.executable, str(HERE / "mdns_forger.py"), host.address, what, str(seed)])


def status(talker):
    talker.say("status")
    return talker.hear(event="status")


def test_nodes_find_each_other_within_three_seconds_of_start(lan):
    one, two = lan.host("one"), lan.host("two")
    first = discover(one, 1)
    second = discover(two, 2)
    sighted_two = first.hear(event="sighted", node=2, within=3)
    sighted_one = second.hear(event="sighted", node=1, within=3)
    assert sighted_two["endpoints"][0] == [two.address, PORT]
    assert sighted_one["endpoints"][0] == [one.address, PORT]


def test_a_goodbye_is_sent_at_the_end_and_believed(lan):
    stays, goes = discover(lan.host("one"), 1), discover(lan.host("two"), 2)
    stays.hear(event="sighted", node=2)
    assert goes.end() < 2, "M7: the goodbye does not hold up the end of the daemon"
    stays.hear(event="lost", node=2, within=8)


def test_a_node_that_dies_without_goodbye_stays_a_hint(lan):
    stays, dies = discover(lan.host("one"), 1), discover(lan.host("two"), 2)
    stays.hear(event="sighted", node=2)
    dies.end(signal.SIGKILL)
    assert status(stays)["known"] == [2]


def test_a_changed_address_is_announced_and_comes_before_the_old_one(lan):
    one, two = lan.host("one"), lan.host("two")
    first, _ = discover(one, 1), discover(two, 2)
    old = two.address
    first.hear(event="sighted", node=2)
    two.change_address()
    endpoints = []
    while [two.address, PORT] not in endpoints:
        endpoints = first.hear(event="sighted", node=2)["endpoints"]
    assert endpoints[0] == [two.address, PORT]
    assert [old, PORT] not in endpoints[:1]


def test_a_cable_that_was_pulled_and_put_back_brings_the_nodes_together_again(lan):
    one, two = lan.host("one"), lan.host("two")
    two.cut()
    first, second = discover(one, 1), discover(two, 2)
    assert status(second)["interfaces"] == ["127.0.0.1"], "it makes do with what there is"
    two.heal()
    first.hear(event="sighted", node=2)
    second.hear(event="sighted", node=1)


def test_no_network_at_the_start_is_waited_for_and_is_no_error(lan):
    one, late = lan.host("one"), lan.host("late", plugged=False)
    first, second = discover(one, 1), discover(late, 2, interfaces=["eth0"])
    waiting = status(second)
    assert not waiting["on_air"]
    assert "eth0" in waiting["error"]
    late.plug()
    first.hear(event="sighted", node=2)
    second.hear(event="sighted", node=1)
    assert status(second)["on_air"]


@pytest.mark.parametrize("interfaces", [[], ["lo"], ["127.0.0.1"]], ids=str)
def test_two_nodes_on_a_host_with_only_loopback_find_each_other(lan, interfaces):
    alone = lan.host("alone", plugged=False)
    first = discover(alone, 1, port=4001, interfaces=interfaces)
    second = discover(alone, 2, port=4002, interfaces=interfaces)
    assert first.hear(event="sighted", node=2, within=3)["endpoints"] == [["127.0.0.1", 4002]]
    assert second.hear(event="sighted", node=1, within=3)["endpoints"] == [["127.0.0.1", 4001]]


def test_two_nodes_on_one_host_with_a_network_find_each_other(lan):
    host = lan.host("one")
    first, second = discover(host, 1, port=4001), discover(host, 2, port=4002)
    assert first.hear(event="sighted", node=2)["endpoints"][0] == [host.address, 4002]
    assert second.hear(event="sighted", node=1)["endpoints"][0] == [host.address, 4001]


def test_nodes_that_were_told_to_use_loopback_keep_to_it(lan):
    host, other = lan.host("one"), lan.host("two")
    outside, first = discover(other, 3), discover(host, 1, port=4001, interfaces=["lo"])
    discover(host, 2, port=4002, interfaces=["127.0.0.1"])
    assert first.hear(event="sighted", node=2)["endpoints"] == [["127.0.0.1", 4002]]
    assert status(outside)["known"] == []
    assert status(first)["known"] == [2]


def test_a_node_that_listens_on_no_port_hears_and_is_not_announced(lan):
    silent, other = discover(lan.host("one"), 1, port=0), discover(lan.host("two"), 2)
    silent.hear(event="sighted", node=2)
    discover(lan.host("three"), 3)
    other.hear(event="sighted", node=3)
    assert status(other)["known"] == [3]


def test_where_the_network_drops_multicast_nobody_is_found_and_nothing_fails():
    with Lan(multicast=False) as lan:
        one, two = lan.host("one"), lan.host("two")
        first, second = discover(one, 1), discover(two, 2)
        one.run(["ping", "-c", "1", two.address], check=False)
        assert status(first)["known"] == status(second)["known"] == []
        assert status(first)["error"] == ""


def test_m2_malformed_announcements_are_ignored(lan):
    one, liar = lan.host("one"), lan.host("liar")
    first = discover(one, 1)
    lie(liar, "malformed", 40)
    first.hear(event="sighted", node=49)
    assert status(first)["known"] == [49]


def test_a_goodbye_for_somebody_else_is_not_believed(lan):
    one, two, liar = lan.host("one"), lan.host("two"), lan.host("liar")
    first, _ = discover(one, 1), discover(two, 2)
    first.hear(event="sighted", node=2)
    lie(liar, "goodbye", 2)
    first.hear(event="sighted", node=2, within=5)  # it was asked, and answered
    lie(liar, "malformed", 40)
    first.hear(event="sighted", node=49)
    assert status(first)["known"] == [2, 49]


def test_a_forged_address_does_not_take_the_true_one_away(lan):
    one, two, liar = lan.host("one"), lan.host("two"), lan.host("liar")
    first, _ = discover(one, 1), discover(two, 2)
    first.hear(event="sighted", node=2)
    lie(liar, "address", 2)
    endpoints = []
    while ["10.66.6.6", 666] not in endpoints:
        endpoints = first.hear(event="sighted", node=2)["endpoints"]
    assert [two.address, PORT] in endpoints


def test_a_flood_fills_no_more_than_its_share_and_takes_nothing_away(lan):
    one, two, liar = lan.host("one"), lan.host("two"), lan.host("liar")
    first, _ = discover(one, 1), discover(two, 2)
    first.hear(event="sighted", node=2)
    lie(liar, "flood", 0)
    after = status(first)
    assert after["nodes"] == 512
    assert 2 in after["known"]
    assert after["error"] == ""
    assert ("lost", 2) not in [(said["event"], said.get("node")) for said in first.heard]
