"""This module is what the host's network looks like, and when it changes.

A `NetworkWatch` looks every 2 s, since neither POSIX nor zeroconf tells of a new
address, and since a sleep can only be seen afterwards. It promises:

1. `now` is the last `Moment` seen: the usable addresses, and a count of wakes.
2. `changed(since)` returns as soon as the newest moment differs from `since`.
   Several changes in between are one: who waits sees the newest, never a queue.
3. A wake is counted when the clocks say that this program did not run for a
   while or that the wall clock was set: the host slept (CLOCK_BOOTTIME ran
   ahead of CLOCK_MONOTONIC), was stopped or paused, or got another time.

Usable is an address of an interface that is up and has a carrier, and which is
no longer being probed (an IPv6 address is tentative for a second or two).

Not here: what to do about it. mdns announces anew, peer_tcp and transfer try
at once; none of them knows of the others.
"""

import fcntl
import ipaddress
import logging
import socket
import struct
import sys
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import ifaddr
import trio

from ampd.model.values import value

LOOK_EVERY: Final = 2.0  # seconds; one look costs about 0.5 ms
# A tick that comes this much late was not a busy machine: half of what a peer waits for us.
GAP: Final = 10.0  # seconds
# The wall clock may be slewed by NTP at 500 ppm; a step is more than that.
STEP: Final = 2.0  # seconds

_SIOCGIFFLAGS: Final = 0x8913  # linux/sockios.h
_IFF_UP: Final = 0x1
_IFF_RUNNING: Final = 0x40  # has a carrier (RFC 2863, ifOperStatus)
_IF_INET6: Final = Path("/proc/net/if_inet6")
_IFA_F_TENTATIVE: Final = 0x40  # linux/if_addr.h
_IFA_F_DADFAILED: Final = 0x08

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, order=True)
class HostAddress:
    """One usable address of this host, with the network behind it."""

    interface: str
    index: int
    ip: str  # without a scope
    prefix: int  # bits of the network

    @property
    def loopback(self) -> bool:
        return ipaddress.ip_address(self.ip).is_loopback

    @property
    def version(self) -> int:
        return ipaddress.ip_address(self.ip).version

    @property
    def scoped(self) -> str:
        """As `connect` wants it: a link-local IPv6 address names its link (RFC 4007, 11)."""
        link_local = self.version == 6 and ipaddress.ip_address(self.ip).is_link_local
        return f"{self.ip}%{self.index}" if link_local else self.ip

    def reaches(self, ip: str) -> bool:
        """Whether `ip` (perhaps with a scope) lies in the network behind this address."""
        bare, _, scope = ip.partition("%")
        if scope and scope not in {str(self.index), self.interface}:
            return False
        network = ipaddress.ip_network(f"{self.ip}/{self.prefix}", strict=False)
        return ipaddress.ip_address(bare) in network


@value
class Moment:
    """The network at one time. Two moments differ when something has to be done."""

    addresses: tuple[HostAddress, ...]  # sorted
    wakes: int = 0  # how often this host was found to have slept

    @property
    def alone(self) -> bool:
        """No address but loopback."""
        return all(address.loopback for address in self.addresses)


@value
class Clocks:
    """The three clocks of one look, in seconds."""

    monotonic: float  # stands still while the host sleeps
    boottime: float  # goes on
    wall: float  # may be set

    def woke_since(self, earlier: "Clocks") -> bool:
        """Rule 3."""
        ran = self.monotonic - earlier.monotonic
        slept = (self.boottime - earlier.boottime) - ran
        stepped = abs((self.wall - earlier.wall) - ran)
        return ran > GAP or slept > STEP or stepped > STEP


def read_clocks() -> Clocks:
    """The clocks now; where there is no CLOCK_BOOTTIME, the wall clock tells of a sleep."""
    monotonic = time.monotonic()
    boottime = time.clock_gettime(time.CLOCK_BOOTTIME) if sys.platform == "linux" else monotonic
    return Clocks(monotonic, boottime, time.time())


def read_addresses() -> tuple[HostAddress, ...]:
    """The usable addresses of this host now, sorted. Never raises for a vanished interface."""
    unsettled = _unsettled()
    found = {
        HostAddress(
            adapter.name, adapter.index or 0, ip.ip if isinstance(ip.ip, str) else ip.ip[0], bits
        )
        for adapter in ifaddr.get_adapters()
        if _is_up(adapter.name)
        for ip in adapter.ips
        for bits in [ip.network_prefix]
    }
    return tuple(sorted(address for address in found if address.ip not in unsettled))


def _is_up(interface: str) -> bool:
    """Up with a carrier. Where the kernel cannot be asked, an address is taken for a sign of it."""
    if sys.platform != "linux":
        return True
    name = interface.encode()[:15].ljust(16, b"\0")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        try:
            answer = fcntl.ioctl(asking, _SIOCGIFFLAGS, name + bytes(24))
        except OSError:  # it is gone since it was listed
            return False
    (flags,) = struct.unpack_from("H", answer, 16)
    return bool(flags & _IFF_UP and flags & _IFF_RUNNING)


def _unsettled() -> frozenset[str]:
    """The IPv6 addresses that cannot be bound yet, or never (a duplicate was found; RFC 4862)."""
    try:
        lines = _IF_INET6.read_text().splitlines()
    except OSError:  # no IPv6 here, or not Linux
        return frozenset()
    rows = (line.split() for line in lines)
    return frozenset(
        str(ipaddress.ip_address(bytes.fromhex(row[0])))
        for row in rows
        if int(row[4], 16) & (_IFA_F_TENTATIVE | _IFA_F_DADFAILED)
    )


def choose(moment: Moment, wanted: frozenset[str]) -> tuple[HostAddress, ...]:
    """The wanted interfaces' addresses; or all but loopback; or loopback where that is all.

    Never ::1: Linux has no route for IPv6 multicast on loopback.
    """
    usable = tuple(a for a in moment.addresses if a.version == 4 or not a.loopback)
    if wanted:
        return tuple(a for a in usable if wanted & {a.interface, a.ip, a.scoped})
    if moment.alone:
        return usable
    return tuple(a for a in usable if not a.loopback)


def why_none(wanted: Collection[str]) -> str:
    """Why no address can be used, of these interfaces or of any."""
    there = {name for _, name in socket.if_nameindex()}
    if absent := sorted(set(wanted) - there):
        return f"there is no interface {', '.join(absent)}"
    return f"no usable address on {', '.join(sorted(wanted)) or 'any interface'}"


def nearest_first(addresses: Sequence[str], ours: Sequence[HostAddress]) -> list[str]:
    """The addresses worth dialling: in our own networks first, IPv4 before IPv6 in each.

    Loopback means the announcer's own host, so it counts where we use nothing else, and
    nothing else counts there. A link-local IPv6 address is useless without its link: it gets
    ours when there is only one, and goes otherwise.
    """
    alone = all(address.loopback for address in ours)
    links = {address.index for address in ours}
    worth: list[str] = []
    for text in addresses:
        ip = ipaddress.ip_address(text)
        if ip.is_unspecified or ip.is_multicast or ip.is_loopback is not alone:
            continue
        if ip.version == 6 and ip.is_link_local and "%" not in text:
            if len(links) != 1:
                continue
            worth.append(f"{text}%{next(iter(links))}")
        else:
            worth.append(text)
    unique = dict.fromkeys(worth)
    return sorted(unique, key=lambda ip: (not any(our.reaches(ip) for our in ours), ":" in ip))


class NetworkWatch:
    """Looks at the network every 2 s, and tells everybody who waits."""

    def __init__(
        self,
        *,
        addresses: Callable[[], tuple[HostAddress, ...]] = read_addresses,
        clocks: Callable[[], Clocks] = read_clocks,
    ) -> None:
        self._read_addresses = addresses
        self._read_clocks = clocks
        self._clocks = clocks()
        self._change = trio.Event()
        self.now = Moment(self._look_at_addresses(()))

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await trio.sleep(LOOK_EVERY)
            self.look()

    def look(self) -> None:
        """Look now, and wake who waits if something is new."""
        before, self._clocks = self._clocks, self._read_clocks()
        woke = self._clocks.woke_since(before)
        moment = Moment(self._look_at_addresses(self.now.addresses), self.now.wakes + woke)
        if moment == self.now:
            return
        if woke:
            log.info("this host slept, or its clock was set: announcing and trying again")
        self.now = moment
        self._change.set()
        self._change = trio.Event()

    async def changed(self, since: Moment) -> Moment:
        """Wait until the newest moment is another one than `since`, and return it."""
        while self.now == since:
            await self._change.wait()
        await trio.lowlevel.checkpoint()
        return self.now

    def _look_at_addresses(self, fallback: tuple[HostAddress, ...]) -> tuple[HostAddress, ...]:
        """As they are now; as they were when the system could not say (out of descriptors)."""
        try:
            return self._read_addresses()
        except OSError as exc:
            log.warning("cannot read the addresses of this host, going on with the last: %s", exc)
            return fallback
