"""What discovery makes of what it hears. Hosts with cables are in test_mdns_lan.py."""

import asyncio

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from ampd.core.whereabouts import Whereabouts
from ampd.edge import mdns as module
from ampd.edge.mdns import MAX_NODES, SERVICE, Mdns, node_of, speaks
from ampd.edge.network import Clocks, HostAddress, Moment, NetworkWatch, choose, nearest_first
from ampd.model.address import key_text

US, THEM = b"\1" * 32, b"\2" * 32
LO = HostAddress("lo", 1, "127.0.0.1", 8)
LO6 = HostAddress("lo", 1, "::1", 128)
ETH = HostAddress("eth0", 2, "192.168.7.5", 24)
ETH6 = HostAddress("eth0", 2, "fe80::5", 64)
WIFI = HostAddress("wlan0", 3, "10.1.2.3", 16)


def node(number):
    return number.to_bytes(2, "big") * 16


class StationThatHearsWhatItIsTold:
    """A station without sockets: `hear` is the network's voice. `fails` are its next ends."""

    running = None
    started = 0
    deaf = False
    fails = ()

    def __init__(self, name, port, addresses, hear):
        self.addresses = addresses
        self.hear = hear
        self.stopped = trio.Event()
        self.farewell = None
        type(self).running = self
        type(self).started += 1

    async def run(self):
        if self.fails:
            raise self.fails.pop()
        await self.stopped.wait()

    def stop(self, *, farewell):
        self.farewell = farewell
        if not self.deaf:
            self.stopped.set()


class Air:
    """Discovery on a network that the test makes up."""

    def __init__(self, station):
        self.station_type = station
        self.addresses = (LO, ETH)
        self.clocks = Clocks(0.0, 0.0, 0.0)
        self.network = NetworkWatch(addresses=lambda: self.addresses, clocks=lambda: self.clocks)
        self.whereabouts = Whereabouts()
        self.mdns = Mdns(US, 4160, self.whereabouts, self.network)

    @property
    def station(self):
        return self.station_type.running

    def announce(self, who, *hosts):
        self.station.hear(who, hosts or ("192.168.7.9",), 4160)

    def withdraw(self, who):
        self.station.hear(who, (), 0)

    def move_to(self, *addresses):
        self.addresses = addresses
        self.network.look()

    def sleep(self, seconds):
        self.clocks = Clocks(0.0, seconds, seconds)
        self.network.look()


@pytest.fixture
def station(monkeypatch):
    fresh = type("Station", (StationThatHearsWhatItIsTold,), {"fails": []})
    monkeypatch.setattr(module, "_Station", fresh)
    return fresh


@pytest.fixture
async def air(station, nursery):
    air = Air(station)
    await nursery.start(air.mdns.run)
    await trio.testing.wait_all_tasks_blocked()
    return air


async def test_m1_a_sighting_is_a_place_to_look_and_nothing_more(air, autojump_clock):
    air.announce(THEM, "192.168.7.9")
    assert air.whereabouts.endpoints(THEM) == [("192.168.7.9", 4160)]
    assert air.whereabouts.found_by(THEM) == "mdns"


@given(st.binary(min_size=32, max_size=32))
def test_m2_a_name_and_its_record_say_one_key_and_no_other(key):
    text = key_text(key)
    assert node_of(f"{text}.{SERVICE}") == key
    assert node_of(f"{text.upper()}.{SERVICE}") == key
    assert speaks({b"v": b"1", b"id": text.encode()}, key)
    assert not speaks({b"v": b"1", b"id": text.encode()}, THEM)


@given(st.one_of(st.text(), st.text("abc234567.", max_size=60).map(lambda t: f"{t}.{SERVICE}")))
def test_m2_any_other_name_is_nobody(name):
    assert node_of(name) is None


@given(st.dictionaries(st.binary(max_size=8), st.none() | st.binary(max_size=60)))
def test_m2_any_other_record_is_not_ours(facts):
    assert not speaks(facts, THEM)


def test_what_goes_wrong_in_the_thread_of_zeroconf_is_logged_and_ends_nothing(caplog):
    def explode():
        raise ValueError("a packet that nobody thought of")

    with asyncio.Runner() as runner:
        loop = runner.get_loop()
        loop.set_exception_handler(module._log_exception)
        loop.call_soon(explode)
        runner.run(asyncio.sleep(0))
    assert "a packet that nobody thought of" in caplog.text


async def test_m3_the_table_is_full_at_512_and_what_is_in_it_stays(air, autojump_clock):
    for number in range(MAX_NODES + 100):
        air.announce(node(number))
    assert air.mdns.status().nodes == MAX_NODES
    assert set(air.whereabouts.nodes()) == {node(number) for number in range(MAX_NODES)}


async def test_m3_who_was_turned_away_gets_the_place_of_a_node_that_answers_nothing(
    air, autojump_clock
):
    air.announce(THEM)
    for number in range(1000, 1000 + MAX_NODES):
        air.announce(node(number))
    late = node(9)
    for _ in range(3):  # the true ones answer whenever they are asked
        air.announce(THEM)
        air.announce(late)
        await trio.sleep(31)
    assert set(air.whereabouts.nodes()) == {THEM, late}


async def test_m3_older_endpoints_stay_behind_the_newer_ones(air, autojump_clock):
    air.announce(THEM, "192.168.7.9")
    air.announce(THEM, "192.168.7.66")
    assert air.whereabouts.endpoints(THEM) == [("192.168.7.66", 4160), ("192.168.7.9", 4160)]


async def test_m3_one_announcement_with_many_addresses_does_not_push_the_older_out(
    air, autojump_clock
):
    air.announce(THEM, "192.168.7.9")
    air.announce(THEM, *(f"192.168.7.{last}" for last in range(100, 116)))
    endpoints = air.whereabouts.endpoints(THEM)
    assert ("192.168.7.9", 4160) in endpoints
    assert len(endpoints) <= 8


async def test_m4_a_goodbye_is_believed_after_three_seconds_of_silence(air, autojump_clock):
    air.announce(THEM)
    air.withdraw(THEM)
    await trio.sleep(2.9)
    assert air.whereabouts.endpoints(THEM)
    await trio.sleep(0.2)
    assert not air.whereabouts.endpoints(THEM)


async def test_m4_a_node_that_answers_never_left(air, autojump_clock):
    air.announce(THEM)
    air.withdraw(THEM)
    await trio.sleep(1)
    air.announce(THEM)
    await trio.sleep(10)
    assert air.whereabouts.endpoints(THEM)


async def test_m4_a_goodbye_is_not_forgotten_when_the_network_changes(air, autojump_clock):
    air.announce(THEM)
    air.withdraw(THEM)
    air.move_to(LO, WIFI)
    await trio.sleep(4)
    assert not air.whereabouts.endpoints(THEM)


async def test_m4_a_goodbye_of_nobody_is_nothing(air, autojump_clock):
    air.withdraw(THEM)
    await trio.sleep(10)
    assert air.whereabouts.nodes() == []


async def test_m5_another_network_is_a_new_start_without_a_goodbye(air, autojump_clock):
    first = air.station
    air.move_to(LO, WIFI)
    await trio.sleep(1)
    assert first.farewell is False
    assert air.station.addresses == (WIFI,)


async def test_m5_a_host_that_slept_starts_afresh(air, autojump_clock):
    air.sleep(600)
    await trio.sleep(1)
    assert air.station_type.started == 2


async def test_m5_who_does_not_answer_after_a_new_start_is_lost_after_30_seconds(
    air, autojump_clock
):
    air.announce(THEM)
    air.announce(node(3))
    air.move_to(LO, WIFI)
    await trio.sleep(1)
    air.announce(node(3))
    await trio.sleep(28)
    assert set(air.whereabouts.nodes()) == {THEM, node(3)}
    await trio.sleep(2)
    assert air.whereabouts.nodes() == [node(3)]


async def test_m6_no_network_is_waited_for(air, autojump_clock):
    air.move_to()
    await trio.sleep(1)
    status = air.mdns.status()
    assert not status.on_air
    assert "waiting" in status.error
    air.move_to(LO, ETH)
    await trio.sleep(1)
    assert air.mdns.status().on_air


async def test_m6_sockets_that_cannot_be_opened_are_tried_again_after_ten_seconds(
    station, nursery, autojump_clock
):
    station.fails = [OSError(98, "Address already in use"), RuntimeError("no adapter")]
    air = Air(station)
    await nursery.start(air.mdns.run)
    await trio.sleep(1)
    assert "no adapter" in air.mdns.status().error
    await trio.sleep(10)
    assert "already in use" in air.mdns.status().error
    await trio.sleep(10)
    assert air.mdns.status().on_air


async def test_m7_the_end_is_said_to_the_network(station, autojump_clock):
    air = Air(station)
    with trio.move_on_after(5):
        await air.mdns.run()
    assert air.station.farewell is True


async def test_m7_a_station_that_does_not_end_is_abandoned_after_a_second(station, autojump_clock):
    station.deaf = True
    air = Air(station)
    with trio.move_on_after(5):
        await air.mdns.run()
    assert trio.current_time() == 6


async def test_status_names_the_addresses_in_use(air, autojump_clock):
    air.announce(THEM)
    status = air.mdns.status()
    assert (status.on_air, status.interfaces, status.nodes) == (True, ("192.168.7.5",), 1)


@pytest.mark.parametrize(
    ("addresses", "wanted", "chosen"),
    [
        ((LO, LO6, ETH, WIFI), (), (ETH, WIFI)),
        ((LO, LO6), (), (LO,)),
        ((), (), ()),
        ((LO, ETH, WIFI), ("wlan0",), (WIFI,)),
        ((LO, ETH, WIFI), ("192.168.7.5", "wlan0"), (ETH, WIFI)),
        ((LO, LO6, ETH), ("lo",), (LO,)),
        ((LO, ETH), ("127.0.0.1",), (LO,)),
        ((LO, ETH), ("eth9",), ()),
        ((ETH, ETH6), ("fe80::5%2",), (ETH6,)),
    ],
)
def test_the_addresses_in_use_are_the_wanted_or_all_but_loopback_or_loopback(
    addresses, wanted, chosen
):
    assert choose(Moment(addresses), frozenset(wanted)) == chosen


@pytest.mark.parametrize(
    ("announced", "ours", "worth"),
    [
        (("10.9.9.9", "192.168.7.9"), (ETH,), ["192.168.7.9", "10.9.9.9"]),
        (("fe80::9%2", "192.168.7.9"), (ETH, ETH6), ["192.168.7.9", "fe80::9%2"]),
        (("10.9.9.9", "fe80::9%2"), (ETH, ETH6), ["fe80::9%2", "10.9.9.9"]),
        (("fe80::9",), (ETH, ETH6), ["fe80::9%2"]),
        (("fe80::9",), (ETH, WIFI), []),
        (("127.0.0.1", "192.168.7.9"), (ETH,), ["192.168.7.9"]),
        (("127.0.0.1", "192.168.7.9"), (LO,), ["127.0.0.1"]),
        (("224.0.0.1", "0.0.0.0", "ff02::1", "::"), (ETH,), []),
        (("192.168.7.9", "192.168.7.9"), (ETH,), ["192.168.7.9"]),
    ],
)
def test_the_nearest_addresses_come_first_and_the_useless_go(announced, ours, worth):
    assert nearest_first(announced, ours) == worth


@given(st.lists(st.ip_addresses().map(str), max_size=16))
def test_no_announced_address_is_invented_doubled_or_an_error(announced):
    worth = nearest_first(announced, (ETH, ETH6))
    assert len(set(worth)) == len(worth)
    assert {text.partition("%")[0] for text in worth} <= set(announced)
