"""When the network of this host is another one, and who hears of it."""

import socket

import pytest
import trio

from ampd.edge.network import (
    Clocks,
    HostAddress,
    Moment,
    NetworkWatch,
    read_addresses,
    read_clocks,
    why_none,
)

LO = HostAddress("lo", 1, "127.0.0.1", 8)
ETH = HostAddress("eth0", 2, "192.168.7.5", 24)
START = Clocks(1000.0, 1000.0, 1.7e9)


class Host:
    """Addresses and clocks that the test moves."""

    def __init__(self):
        self.addresses = (LO,)
        self.clocks = START
        self.watch = NetworkWatch(addresses=self._addresses, clocks=lambda: self.clocks)

    def _addresses(self):
        if self.addresses is None:
            raise OSError(24, "Too many open files")
        return self.addresses

    def pass_time(self, ran, *, slept=0.0, set_by=0.0):
        now = self.clocks
        self.clocks = Clocks(
            now.monotonic + ran, now.boottime + ran + slept, now.wall + ran + slept + set_by
        )


@pytest.fixture
def host():
    return Host()


async def test_an_address_that_comes_is_told_to_all_who_wait(host, nursery, autojump_clock):
    nursery.start_soon(host.watch.run)
    told = []

    async def wait():
        told.append(await host.watch.changed(since=Moment((LO,))))

    async with trio.open_nursery() as waiting:
        waiting.start_soon(wait)
        waiting.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        host.addresses = (LO, ETH)
    assert told == [Moment((LO, ETH))] * 2
    assert trio.current_time() <= 2


async def test_who_comes_late_hears_of_it_at_once(host):
    before = host.watch.now
    host.addresses = (LO, ETH)
    host.watch.look()
    assert await host.watch.changed(since=before) == Moment((LO, ETH))


async def test_several_changes_are_one(host):
    before = host.watch.now
    host.addresses = (LO, ETH)
    host.watch.look()
    host.addresses = (ETH,)
    host.watch.look()
    after = await host.watch.changed(since=before)
    assert after == Moment((ETH,))
    with trio.move_on_after(0):
        await host.watch.changed(since=after)
        pytest.fail("nothing changed since")


@pytest.mark.parametrize(
    ("times", "wakes"),
    [
        ({"ran": 2.0}, 0),
        ({"ran": 4.0}, 0),  # a busy machine
        ({"ran": 2.0, "slept": 600.0}, 1),  # the lid was closed
        ({"ran": 600.0}, 1),  # SIGSTOP, and a while later SIGCONT
        ({"ran": 2.0, "set_by": 3600.0}, 1),
        ({"ran": 2.0, "set_by": -3600.0}, 1),
        ({"ran": 2.0, "set_by": 0.001}, 0),  # NTP slews
    ],
    ids=str,
)
def test_a_sleep_a_stop_and_a_set_clock_are_wakes(host, times, wakes):
    host.pass_time(**times)
    host.watch.look()
    assert host.watch.now.wakes == wakes


def test_two_sleeps_are_two_moments(host):
    for _ in range(2):
        host.pass_time(2.0, slept=100.0)
        host.watch.look()
    assert host.watch.now == Moment((LO,), wakes=2)


def test_addresses_that_cannot_be_read_are_as_they_were(host, caplog):
    host.addresses = None
    host.watch.look()
    assert host.watch.now == Moment((LO,))
    assert "Too many open files" in caplog.text


def test_a_host_with_nothing_but_loopback_is_alone():
    assert Moment((LO,)).alone
    assert not Moment((LO, ETH)).alone


def test_an_address_reaches_its_own_network_on_its_own_link_only():
    link = HostAddress("eth0", 2, "fe80::5", 64)
    assert ETH.reaches("192.168.7.200")
    assert not ETH.reaches("192.168.8.1")
    assert link.reaches("fe80::9%2")
    assert link.reaches("fe80::9%eth0")
    assert not link.reaches("fe80::9%3")
    assert not ETH.reaches("fe80::9")


def test_every_address_of_this_host_can_be_bound():
    for address in read_addresses():
        family = socket.AF_INET if address.version == 4 else socket.AF_INET6
        found = socket.getaddrinfo(address.scoped, 0, family, socket.SOCK_STREAM)
        with socket.socket(family, socket.SOCK_STREAM) as bound:
            bound.bind(found[0][4])


def test_the_clocks_of_this_host_say_that_it_is_awake():
    before = read_clocks()
    assert not read_clocks().woke_since(before)


def test_why_there_is_no_address_names_the_interface_that_does_not_exist():
    assert why_none(["nope0", "lo"]) == "there is no interface nope0"
    assert why_none(["lo"]) == "no usable address on lo"
    assert why_none([]) == "no usable address on any interface"
