"""This module is who is on this network: it announces this node by mDNS and hears of others.

The service is `_amp._tcp.local.` (RFC 6762, RFC 6763). An instance is named after
the node's key in lower-case base32, so a name belongs to one node and is never in
conflict (which is why nothing is probed before it is announced). The TXT record
has `v` (1), `id` (the key again) and `features`; SRV has the port. No agent is named.

Anybody on the network can announce anything. So:

M1 All that is believed is "node X might be at host:port"; who dials finds out.
M2 What is not exactly of the form above, is our own, or is over a limit is ignored.
M3 At most 512 nodes are kept. A flood of names takes neither a node that is kept nor
   its addresses away: older endpoints stay behind the newer ones, eight in all. After a node
   had to be turned away, it starts afresh (M5): invented nodes answer nothing and make room.
M4 A goodbye is believed after 3 s of silence: the node is asked, and if it answers it
   never left. A node that dies without one stays for its time to live (19 minutes).
M5 Every change of this host's addresses, and every wake, starts afresh: new sockets, a
   new announcement, a new query. Who has not answered 30 s after that is lost.
M6 No network is no error: it waits for one. Loopback is used when there is nothing else.
M7 `run` ends at most 1 s after it is cancelled, with the goodbyes sent or abandoned.

zeroconf is an asyncio library: a `_Station` runs it in a thread with a loop of its
own, and hands what it hears to trio with `TrioToken.run_sync_soon`. Nothing else knows.

Not here: the nodes themselves (core/whereabouts.py), dialling (edge/peer_tcp.py), and the
watching of addresses and sleep (edge/network.py).
"""

import asyncio
import contextlib
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import trio
from zeroconf import (  # type: ignore[attr-defined]  # two are public, but not in __all__
    DNSOutgoing,
    DNSQuestion,
    Error,
    IPVersion,
    ServiceStateChange,
    Zeroconf,
)
from zeroconf.asyncio import AsyncServiceBrowser, AsyncServiceInfo, AsyncZeroconf

from ampd.core.whereabouts import MAX_ENDPOINTS, Endpoint, Whereabouts
from ampd.edge.network import HostAddress, Moment, NetworkWatch, choose, nearest_first, why_none
from ampd.model.address import key_from_text, key_text
from ampd.model.errors import Invalid
from ampd.model.values import value

SERVICE: Final = "_amp._tcp.local."
VERSION: Final = b"1"
FEATURES: Final = "direct"
FOUND_BY: Final = "mdns"

MAX_NODES: Final = 512  # wire.md: more than any home or office; about 200 KiB
MAX_FRESH: Final = 5  # endpoints of one announcement; the rest of MAX_ENDPOINTS is for older ones
MAX_ADDRESSES: Final = 16  # of one announcement that are looked at; more has only a router
MAX_ASKED: Final = 16  # nodes whose records we ask for at once
# New names until zeroconf's cache and timers are thrown away: 5 MiB of them.
MAX_HEARD: Final = 2048
SILENCE: Final = 3.0  # seconds, M4: a question waits 1 s, an answer 1.2 s (RFC 6762, 6)
BETWEEN_QUESTIONS: Final = 1.0  # seconds: no faster, however many goodbyes are forged
UNHEARD: Final = 30.0  # seconds, M5: startup queries go out at 0, 1, 5 and 14 s
FAREWELL: Final = 1.0  # seconds, M7: three goodbyes take 0.25 s
RETRY: Final = 10.0  # seconds until sockets are tried again that could not be opened
ASK_FOR: Final = 3000  # milliseconds
HOST_TTL: Final = 120  # seconds (RFC 6762, 10)
OTHER_TTL: Final = 1125  # seconds; the least that zeroconf believes, so the dead go soonest

# DNS numbers (RFC 1035, 3.2 and 4.1.1) that zeroconf keeps to itself
_QUERY: Final = 0x0000
_PTR: Final = 12
_IN: Final = 1
_NAME: Final = re.compile(r"([a-z2-7]{52})\._amp\._tcp\.local\.")

log = logging.getLogger(__name__)


@value
class MdnsStatus:
    """What `amp status` and `amp doctor` say about it."""

    on_air: bool
    interfaces: tuple[str, ...]  # addresses that are announced and listened on
    nodes: int  # others that are heard now
    error: str  # why it is not on the air, or ""


@dataclass(slots=True)
class _Sighting:
    """What was heard of one node, and in which run of the station."""

    endpoints: list[Endpoint]
    station: int
    doubted: bool = False  # a goodbye came since


class Mdns:
    """Announces `node` at `port` and tells `whereabouts` who else is there."""

    def __init__(
        self,
        node: bytes,
        port: int,
        whereabouts: Whereabouts,
        network: NetworkWatch,
        *,
        interfaces: Sequence[str] = (),
    ) -> None:
        """`port` 0 listens to others and announces nothing.

        `interfaces` are names or addresses to use; empty: all that are up.
        """
        self._name = f"{key_text(node)}.{SERVICE}"
        self._port = port
        self._whereabouts = whereabouts
        self._network = network
        self._interfaces = frozenset(interfaces)
        self._heard: dict[bytes, _Sighting] = {}
        self._turned_away = False
        self._stations = 0
        self._chosen: tuple[HostAddress, ...] = ()
        self._error = "not started"

    def status(self) -> MdnsStatus:
        """As it is at this moment."""
        used = tuple(address.scoped for address in self._chosen)
        on_air = bool(used) and not self._error
        return MdnsStatus(on_air, used, len(self._heard), self._error)

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Until cancelled (M7). Started at once: finding a network may take days (M6)."""
        task_status.started()
        async with trio.open_nursery() as nursery:
            self._doubts = nursery
            await self._follow_the_network()

    async def _follow_the_network(self) -> None:
        moment = self._network.now
        while True:
            self._chosen = choose(moment, self._interfaces)
            if self._chosen:
                await self._on_air(moment)
            else:
                self._say_why_not()
                await self._network.changed(moment)
            moment = self._network.now

    def _say_why_not(self) -> None:
        self._error = f"{why_none(self._interfaces)}; waiting for one"
        log.warning("discovery: %s", self._error)

    async def _on_air(self, moment: Moment) -> None:
        """Announce and listen until the network is another one, or the station gave up."""
        self._stations += 1
        self._error = ""
        station = _Station(self._name, self._port, self._chosen, self._hear)
        farewell = True
        ended = trio.CancelScope()
        async with trio.open_nursery() as nursery:
            thread = trio.CancelScope(shield=True)
            nursery.start_soon(self._keep_on_air, station, thread, ended)
            nursery.start_soon(self._forget_the_unheard, ended)
            try:
                with ended:
                    await self._network.changed(moment)
                farewell = False  # we are still here, only elsewhere
            finally:
                station.stop(farewell=farewell)
                thread.deadline = trio.current_time() + FAREWELL
                nursery.cancel_scope.cancel()

    async def _keep_on_air(
        self, station: "_Station", life: trio.CancelScope, ended: trio.CancelScope
    ) -> None:
        """Run the station; when its time is over it is left to itself (M7)."""
        try:
            with life:
                await station.run()
        except (OSError, RuntimeError, Error) as exc:
            self._error = f"mDNS failed: {exc or type(exc).__name__}"
            log.warning("discovery: %s; next try in %.0f s", self._error, RETRY)
            await trio.sleep(RETRY)
        ended.cancel()

    def _hear(self, node: bytes, addresses: tuple[str, ...], port: int) -> None:
        """A node was announced at these addresses, or, with none, it left."""
        known = self._heard.get(node)
        if not addresses:
            if known is not None and not known.doubted:
                known.doubted = True
                self._doubts.start_soon(self._lose_unless_heard, node, known)
            return
        if known is None and len(self._heard) >= MAX_NODES:
            self._turned_away = True
            return
        found = [(host, port) for host in nearest_first(addresses, self._chosen)][:MAX_FRESH]
        if not found:
            return
        older = [end for end in known.endpoints if end not in found] if known else []
        self._heard[node] = _Sighting((found + older)[:MAX_ENDPOINTS], self._stations)
        self._whereabouts.sighted(node, self._heard[node].endpoints, FOUND_BY)

    async def _lose_unless_heard(self, node: bytes, doubted: _Sighting) -> None:
        """M4; the station has asked."""
        await trio.sleep(SILENCE)
        if self._heard.get(node) is doubted:
            self._lose(node)

    async def _forget_the_unheard(self, station_ends: trio.CancelScope) -> None:
        """M5, and M3 where it made room too late for somebody."""
        while True:
            await trio.sleep(UNHEARD)
            for node, sighting in list(self._heard.items()):
                if sighting.station != self._stations:
                    self._lose(node)
            if self._turned_away:
                self._turned_away = False
                station_ends.cancel()

    def _lose(self, node: bytes) -> None:
        del self._heard[node]
        self._whereabouts.lost(node, FOUND_BY)


def node_of(name: str) -> bytes | None:
    """The node that an instance is named after; None for any other name (M2)."""
    found = _NAME.fullmatch(name.lower())
    try:
        return key_from_text(found[1]) if found else None
    except Invalid:
        return None


def speaks(facts: Mapping[bytes, bytes | None], node: bytes) -> bool:
    """Whether a TXT record is one of our protocol, and of this node (M2)."""
    return facts.get(b"v") == VERSION and facts.get(b"id") == key_text(node).encode()


class _Station:
    """One run of zeroconf on one set of addresses, in a thread of its own."""

    def __init__(
        self,
        name: str,
        port: int,
        addresses: Sequence[HostAddress],
        hear: Callable[[bytes, tuple[str, ...], int], None],
    ) -> None:
        self._name = name
        self._port = port
        self._addresses = addresses
        self._hear = hear
        self._trio = trio.lowlevel.current_trio_token()
        self._loop = asyncio.new_event_loop()
        self._stopped = asyncio.Event()
        self._farewell = False
        self._heard = 0
        self._asking: set[asyncio.Task[None]] = set()
        self._question: asyncio.TimerHandle | None = None
        self._last_question = -BETWEEN_QUESTIONS

    async def run(self) -> None:
        """Until stopped; left to itself when cancelled.

        Raises OSError, RuntimeError or zeroconf.Error where no sockets are to be had.
        """
        own = trio.CapacityLimiter(1)  # never behind the disk's threads
        await trio.to_thread.run_sync(self._thread, abandon_on_cancel=True, limiter=own)

    def stop(self, *, farewell: bool) -> None:
        """Ask it to end, with a goodbye to the network or without."""
        self._farewell = farewell
        with contextlib.suppress(RuntimeError):  # it has ended already
            self._loop.call_soon_threadsafe(self._stopped.set)

    def _thread(self) -> None:
        self._loop.set_exception_handler(_log_exception)
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._main())

    async def _main(self) -> None:
        self._zeroconf = AsyncZeroconf(*_sockets(self._addresses))
        try:
            if self._port:
                # A name derived from a key needs no probing: 1.65 s saved.
                await self._zeroconf.async_register_service(
                    self._info(), cooperating_responders=True
                )
            browser = AsyncServiceBrowser(
                self._zeroconf.zeroconf, SERVICE, handlers=[self._on_change]
            )
            await self._stopped.wait()
            await browser.async_cancel()
        finally:
            for task in self._asking:
                task.cancel()
            if not self._farewell:
                self._zeroconf.zeroconf.generate_unregister_all_services()  # and send it to nobody
            await self._zeroconf.async_close()

    def _info(self) -> AsyncServiceInfo:
        key = self._name.removesuffix(f".{SERVICE}")
        return AsyncServiceInfo(
            SERVICE,
            self._name,
            port=self._port,
            properties={"v": VERSION, "id": key, "features": FEATURES},
            server=f"{key}.local.",
            host_ttl=HOST_TTL,
            other_ttl=OTHER_TTL,
            parsed_addresses=[address.ip for address in self._addresses],
        )

    def _on_change(
        self,
        zeroconf: Zeroconf,  # noqa: ARG002 (zeroconf passes it by name)
        service_type: str,  # noqa: ARG002
        name: str,
        state_change: ServiceStateChange,
    ) -> None:
        """Something was announced, renewed, changed or withdrawn: believe none of it (M1)."""
        if state_change is ServiceStateChange.Added:
            self._heard += 1
        if self._heard > MAX_HEARD:  # zeroconf keeps a timer for every name it ever heard
            self._stopped.set()
        node = node_of(name)
        if node is None or name.lower() == self._name:
            return
        if state_change is ServiceStateChange.Removed:
            self._leave(node)
        else:
            self._look_at(AsyncServiceInfo(SERVICE, name))

    def _look_at(self, info: AsyncServiceInfo) -> None:
        """Pass the node on if its records are here, else ask for them, for a few at a time."""
        if info.load_from_cache(self._zeroconf.zeroconf):
            self._pass_on(info)
        elif len(self._asking) < MAX_ASKED:
            task = self._loop.create_task(self._ask(info))
            self._asking.add(task)
            task.add_done_callback(self._asking.discard)

    async def _ask(self, info: AsyncServiceInfo) -> None:
        if await info.async_request(self._zeroconf.zeroconf, ASK_FOR):
            self._pass_on(info)

    def _pass_on(self, info: AsyncServiceInfo) -> None:
        node = node_of(info.name)
        addresses = tuple(info.parsed_scoped_addresses()[:MAX_ADDRESSES])
        if node is not None and addresses and info.port and speaks(info.properties, node):
            self._tell(node, addresses, info.port)

    def _leave(self, node: bytes) -> None:
        """M4: report it, and ask everybody who is there."""
        self._tell(node, (), 0)
        if self._question is None:
            wait = max(0.0, self._last_question + BETWEEN_QUESTIONS - self._loop.time())
            self._question = self._loop.call_later(wait, self._ask_all)

    def _ask_all(self) -> None:
        self._question, self._last_question = None, self._loop.time()
        question = DNSOutgoing(_QUERY)
        question.add_question(DNSQuestion(SERVICE, _PTR, _IN))
        self._zeroconf.zeroconf.async_send(question)

    def _tell(self, node: bytes, addresses: tuple[str, ...], port: int) -> None:
        with contextlib.suppress(trio.RunFinishedError):  # we were abandoned (M7)
            self._trio.run_sync_soon(self._hear, node, addresses, port)


def _sockets(addresses: Sequence[HostAddress]) -> tuple[list[str | int], bool, IPVersion]:
    """What AsyncZeroconf takes: IPv4 by address, IPv6 by link; no unicast."""
    v4: list[str | int] = [address.ip for address in addresses if address.version == 4]
    v6: list[str | int] = sorted({address.index for address in addresses if address.version == 6})
    if v4 and v6:
        return v4 + v6, False, IPVersion.All
    version = IPVersion.V6Only if v6 else IPVersion.V4Only
    return v4 + v6, False, version


def _log_exception(_: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
    """What went wrong in zeroconf's thread is a line in the log, and the thread goes on."""
    error = context.get("exception")
    trace = error if isinstance(error, BaseException) else None
    log.error("discovery: %s", context.get("message"), exc_info=trace)
