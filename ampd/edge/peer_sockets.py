"""The sockets of peer sessions: where to listen, and how to call a node that has several addresses.

Not here: what is said then (peer_connection.py), whom to call and when (peer_tcp.py).
"""

import errno
import ipaddress
import socket
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypeVar

import trio

from ampd.model.errors import Invalid, ProtocolError, RemoteProtocolError, Unavailable
from ampd.protocol.handshake import MAX_UNPROVED, Channel, Handshake

Endpoint = tuple[str, int]
Called = TypeVar("Called")

HANDSHAKE_WITHIN: Final = 10.0  # seconds; and as long again for the peer's Hello
STAGGER: Final = 0.25  # seconds; RFC 8305, section 5: connection attempt delay
CONNECT_WITHIN: Final = 5.0  # seconds; three SYNs of a LAN host are lost by then
BACKLOG: Final = 128
MAX_HALF_OPEN: Final = 64  # handshakes under way, in all: 64 x 1 KiB, 10 s
MAX_HALF_OPEN_EACH: Final = 8  # from one address, or from one /64 of IPv6
_CALL_FAILED: Final = (
    OSError,
    UnicodeError,  # a host name that cannot be looked up
    ProtocolError,
    trio.TooSlowError,
    trio.BrokenResourceError,
)
_ANY: Final = {"0.0.0.0", "::", ""}  # noqa: S104  what a user wrote: all addresses of this host


class CannotListenError(Unavailable):
    """An address or a port that cannot be had; `taken`: another program has it."""

    def __init__(
        self, place: str, exc: OSError, setting: str = "peer.listen (AMPD_PEER_LISTEN)"
    ) -> None:
        super().__init__(
            f"cannot listen on {place}: {exc.strerror or exc}", hint=_other(exc, setting)
        )
        self._place, self._exc = place, exc
        self.taken = exc.errno == errno.EADDRINUSE

    def naming(self, setting: str) -> "CannotListenError":
        """The same, for where the address was said."""
        return type(self)(self._place, self._exc, setting)


def _other(exc: OSError, setting: str) -> str:
    if exc.errno == errno.EADDRINUSE:
        return f"another program listens there: choose another port with {setting}"
    if exc.errno == errno.EACCES:
        return f"this user may not listen there: choose a port above 1023 with {setting}"
    return f"set {setting} to an address of this machine, or to 0.0.0.0:PORT for all of them"


def check_listen(endpoint: Endpoint, setting: str) -> None:
    """CannotListenError unless somebody could listen there now; `setting` says so."""
    host, port = endpoint
    try:
        for family, *_, address in socket.getaddrinfo(
            "0.0.0.0" if host in _ANY else host,  # noqa: S104  IPv6 is had only where it is free
            port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE,
        ):  # fmt: skip
            _bound(family, address).close()
    except OSError as exc:
        raise CannotListenError(endpoint_text(endpoint), exc, setting) from None


def parse_listen(text: str) -> Endpoint:
    """The host and port of `HOST:PORT` or `[HOST]:PORT`; Invalid if it is neither."""
    host, colon, port = text.rpartition(":")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    ambiguous = ":" in host and bare == host
    if not colon or ambiguous or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise Invalid(
            f"cannot listen on {text[:80]!r}",
            hint='peer.listen must be "HOST:PORT" or "[HOST]:PORT", e.g. "0.0.0.0:4160"',
        )
    return bare, int(port)


async def open_listeners(text: str) -> list[trio.SocketListener]:
    """Listen on `text`; both families where it names every address, with one port for both.

    Raises CannotListenError, with what to change, if the address or the port cannot be had.
    """
    host, port = parse_listen(text)
    try:
        if host not in _ANY:
            return [_listener(*found) for found in await _resolve(host, port)]
        first = _listener(socket.AF_INET, ("0.0.0.0", port))  # noqa: S104  as the user asked
        port = first.socket.getsockname()[1]
        return [first, *_listener_on_ipv6(port)]
    except OSError as exc:
        raise CannotListenError(text, exc) from None


def _listener_on_ipv6(port: int) -> list[trio.SocketListener]:
    """One, or none where the host has no IPv6 or the port is taken there."""
    try:
        return [_listener(socket.AF_INET6, ("::", port))]
    except OSError as exc:
        if exc.errno in {errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL, errno.EADDRINUSE}:
            return []
        raise


async def _resolve(host: str, port: int) -> list[tuple[int, tuple[object, ...]]]:
    found = await trio.socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
    return list(dict.fromkeys((family, address) for family, *_, address in found))


def _listener(family: int, address: tuple[object, ...]) -> trio.SocketListener:
    return trio.SocketListener(trio.socket.from_stdlib_socket(_bound(family, address)))


def _bound(family: int, address: tuple[object, ...]) -> socket.socket:
    plain = socket.socket(family, socket.SOCK_STREAM)
    try:
        plain.setblocking(False)
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            plain.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        plain.bind(address)
        plain.listen(BACKLOG)
    except OSError:
        plain.close()
        raise
    return plain


async def connect(endpoint: Endpoint) -> trio.SocketStream:
    """A TCP connection, or OSError or trio.TooSlowError."""
    with trio.fail_after(CONNECT_WITHIN):
        stream = await trio.open_tcp_stream(*endpoint)
    keep_alive(stream)
    return stream


def keep_alive(stream: trio.SocketStream) -> None:
    """Let the kernel, too, notice a peer that is gone. (Trio has set TCP_NODELAY.)"""
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)


async def prove(stream: trio.abc.Stream, handshake: Handshake) -> Channel:
    """Run `handshake` over `stream`; RemoteProtocolError or a broken link if it fails."""
    if first := handshake.start():
        await stream.send_all(first)
    left = MAX_UNPROVED
    while handshake.channel is None:
        data = await stream.receive_some(left)
        if not data:
            raise RemoteProtocolError("it hung up during the handshake")
        left -= len(data)
        if answer := handshake.receive(bytes(data)):
            await stream.send_all(answer)
    return handshake.channel


async def first_to_answer(
    endpoints: Sequence[Endpoint], call: Callable[[Endpoint], Awaitable[Called]]
) -> tuple[Endpoint, Called]:
    """Call in turn, the next one after STAGGER or a failure; the first that succeeds, wins.

    The other calls are cancelled, so a dead address holds nobody up (after RFC 8305). Raises
    Unavailable with every reason when all have failed, or the ProtocolError that one of them met:
    somebody is there, and it is not who was meant.
    """
    won: list[tuple[Endpoint, Called]] = []
    failures: list[Exception] = []

    async def attempt(number: int, before: trio.Event) -> None:
        with trio.move_on_after(STAGGER if number else 0):
            await before.wait()
        failed = trio.Event()
        if number + 1 < len(endpoints):
            nursery.start_soon(attempt, number + 1, failed)
        try:
            answer = await call(endpoints[number])
        except _CALL_FAILED as exc:
            failures.append(_explained(endpoints[number], exc))
            failed.set()
        else:
            won.append((endpoints[number], answer))
            nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(attempt, 0, trio.Event())
    if won:
        return won[0]
    raise next((f for f in failures if isinstance(f, ProtocolError)), _all_failed(failures))


def _explained(endpoint: Endpoint, exc: Exception) -> Exception:
    place = endpoint_text(endpoint)
    if isinstance(exc, ProtocolError):
        return type(exc)(f"{place}: {exc}")
    if isinstance(exc, trio.TooSlowError):
        return Unavailable(f"{place}: no answer")
    reason = exc.strerror if isinstance(exc, OSError) and exc.strerror else "cannot be reached"
    return Unavailable(f"{place}: {reason}")


def _all_failed(failures: list[Exception]) -> Unavailable:
    return Unavailable("; ".join(str(failure) for failure in failures) or "no address is known")


def endpoint_text(endpoint: Endpoint) -> str:
    """`HOST:PORT`, with brackets around IPv6."""
    host, port = endpoint
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def far_end(stream: trio.SocketStream) -> str:
    """The address at the other end; OSError if it is gone already."""
    host, _port, *rest = stream.socket.getpeername()
    scope = rest[1] if rest and "%" not in host else 0
    return f"{host}%{scope}" if scope else str(host)


class HalfOpen:
    """Counts the handshakes under way, by where they come from."""

    def __init__(self) -> None:
        self._by_source: Counter[str] = Counter()

    def admit(self, host: str) -> bool:
        """Whether one more may begin; if so it is counted until `release`."""
        source = source_of(host)
        if self._by_source[source] >= MAX_HALF_OPEN_EACH:
            return False
        if self._by_source.total() >= MAX_HALF_OPEN:
            return False
        self._by_source[source] += 1
        return True

    def release(self, host: str) -> None:
        """One is over."""
        source = source_of(host)
        self._by_source[source] -= 1
        if not self._by_source[source]:
            del self._by_source[source]


def source_of(host: str) -> str:
    """What counts as one address: on IPv6, the /64 that a host has (RFC 4291, section 2.5.4)."""
    address = ipaddress.ip_address(host.partition("%")[0])
    if address.version == 4:
        return host
    return str(ipaddress.ip_network((address, 64), strict=False))
