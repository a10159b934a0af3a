"""The HTTP server on trio's sockets: HTTP/1.1 (http1.py), and hypercorn's HTTP/2 and WebSockets.

  S1  It listens on loopback only, unless it has a certificate, or the owner said that plain HTTP
      may go over the network. TLS is 1.3.
  S2  A caller has HEAD_WITHIN for the head of a request, which has at most HEAD_BYTES; a connection
      on which nothing happens as long is closed. An answer that nobody takes for SEND_WITHIN
      closes it, too.
  S3  At most CONNECTIONS are open, and PER_HOST of one host that is not this machine; one more is
      closed unheard.
  S4  When it is cancelled it takes nothing new, and what is being answered has DRAIN_WITHIN.
  S5  A bug that a connection finds in the server ends that connection only.
  S6  HTTP/2 is spoken where TLS agreed on it, and nowhere else: an upgrade in the clear (h2c) is
      how requests get past a proxy unseen, and hypercorn 0.18 never ends such a connection.

What TLS agreed on to be HTTP/2, and what becomes a WebSocket, runs hypercorn's own protocol code;
listening is ours, for that port 0, the limits and a clean end are not to be had from its `serve`.

Not here: what an HTTP request means (app.py).
"""

import errno
import logging
import math
import socket
import ssl
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import trio
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config
from hypercorn.events import Event, RawData, Updated
from hypercorn.protocol import ProtocolWrapper
from hypercorn.protocol.h11 import H11Protocol
from hypercorn.trio.task_group import TaskGroup
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import EventWrapper, WorkerContext
from hypercorn.typing import ConnectionState

from ampd.edge.bugs import BugError, contained
from ampd.edge.http.app import HEAD_BYTES, App
from ampd.edge.http.http1 import Ends, Heads, Http1
from ampd.edge.http.words import AnswerBroken
from ampd.model.errors import Invalid, Unavailable
from ampd.model.values import value

HEAD_WITHIN: Final = 10.0  # seconds
SEND_WITHIN: Final = 30.0  # seconds without a byte taken
DRAIN_WITHIN: Final = 1.5  # seconds: within what the daemon itself has to stop
CONNECTIONS: Final = 500  # of the 1,024 files that a process may have by default
PER_HOST: Final = 100
SOCKET_TEXT: Final = 4 << 20  # bytes of one WebSocket message: the largest message there is
_PING_EVERY: Final = 30.0  # seconds, as AI Maestro does
_BACKLOG: Final = 128


@value
class Tls:
    """PEM files."""

    certificate: Path
    key: Path

    def context(self) -> ssl.SSLContext:
        """For a server; Invalid names what is wrong with the files."""
        made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        made.minimum_version = ssl.TLSVersion.TLSv1_3  # AMTP 1.0, section 9.1
        made.set_alpn_protocols(["h2", "http/1.1"])
        try:
            made.load_cert_chain(self.certificate, self.key)
        except (OSError, ssl.SSLError) as exc:
            raise Invalid(
                f"gateway.certificate and gateway.key cannot be used: {exc}",
                hint="they are PEM files: a certificate with its chain, and its private key",
            ) from None
        return made


def check_exposure(listen: tuple[str, int], *, tls: bool, plain_http: bool) -> None:
    """Invalid unless S1 holds."""
    if tls or plain_http or is_loopback(listen[0]):
        return
    raise Invalid(
        f"gateway.listen is {listen[0]}, which others can reach, and there is no TLS: API keys and"
        " mail would be readable on the network",
        hint="set gateway.certificate and gateway.key, or gateway.plain_http = true behind a proxy",
    )


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches what listens there."""
    return host in ("localhost", "::1") or host.startswith("127.")


def bind(listen: tuple[str, int]) -> socket.socket:
    """A listening socket; Unavailable if the port is taken."""
    host, port = listen
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((host, port))
        bound.listen(_BACKLOG)
    except OSError as exc:
        bound.close()
        taken = exc.errno == errno.EADDRINUSE
        raise Unavailable(
            f"the gateway cannot listen on {host}:{port}: {exc.strerror}",
            hint="another program listens there; set gateway.listen to another port"
            if taken
            else "set gateway.listen to an address of this machine",
        ) from None
    bound.setblocking(False)
    return bound


class Server:
    """Serves one App on one listening socket."""

    def __init__(self, app: App, bound: socket.socket, tls: ssl.SSLContext | None = None) -> None:
        self._app = app
        self._tls = tls
        self._bound = bound
        self.address: tuple[str, int] = bound.getsockname()[:2]
        self._config = _config()
        self._terminated = EventWrapper()
        self._heads = Heads(HEAD_WITHIN)
        self._hosts: Counter[str] = Counter()
        self._accepting = trio.CancelScope()

    @property
    def open(self) -> int:
        """How many connections there are."""
        return self._hosts.total()

    def stop(self) -> None:
        """Take nothing new, and finish what is being answered (S4)."""
        self._accepting.cancel()

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled, and then finish what is being answered (S4)."""
        accepting = self._accepting
        async with trio.open_nursery() as outer:
            outer.start_soon(_until_cancelled, accepting.cancel)
            with trio.CancelScope(shield=True) as all_of_it:
                async with trio.open_nursery() as connections:
                    with accepting:
                        listener = trio.SocketListener(trio.socket.from_stdlib_socket(self._bound))
                        task_status.started()
                        await trio.serve_listeners(
                            self._connection, [listener], handler_nursery=connections
                        )
                    all_of_it.deadline = trio.current_time() + DRAIN_WITHIN
                    self._heads.end()  # idle connections close themselves
                    await self._terminated.set()
                    await self._app.close_sockets()
            outer.cancel_scope.cancel()

    async def _connection(self, stream: trio.SocketStream) -> None:
        try:
            host = str(stream.socket.getpeername()[0])
        except OSError:
            await trio.aclose_forcefully(stream)
            return
        most = CONNECTIONS if is_loopback(host) else PER_HOST
        if self._hosts[host] >= most or self.open >= CONNECTIONS:
            await trio.aclose_forcefully(stream)
            return
        self._hosts[host] += 1
        try:
            await self._speak(_Impatient(stream))
        finally:
            self._hosts[host] -= 1
            if not self._hosts[host]:
                del self._hosts[host]
            await trio.aclose_forcefully(stream)

    async def _speak(self, stream: "_Impatient") -> None:
        wire: Any = stream
        if self._tls is not None:
            wire = trio.SSLStream(stream, self._tls, server_side=True, https_compatible=True)
        try:
            with contained("an HTTP connection"):
                await self._serve(wire, stream.socket)
        except BugError:
            return  # contained has logged it (S5)

    async def _serve(self, wire: Any, bound: trio.socket.SocketType) -> None:
        agreed = await self._agreed(wire) if self._tls is not None else "http/1.1"
        if agreed == "h2":
            await self._hypercorn(wire).run()
        elif agreed:
            try:
                ends = Ends(bound.getpeername()[:2], bound.getsockname()[:2], self._tls is not None)
            except OSError:
                return  # it is gone
            first = await Http1(self._app, wire, ends, self._heads).serve()
            if first is not None:
                await self._hypercorn(_Replayed(wire, first)).run()
                return
            with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                if self._tls is None:
                    await wire.send_eof()
                await wire.aclose()

    async def _agreed(self, wire: Any) -> str:
        """The protocol that TLS agreed on; "" if there was no agreement."""
        try:
            with trio.fail_after(HEAD_WITHIN):
                await wire.do_handshake()
        except (trio.BrokenResourceError, trio.TooSlowError):
            return ""
        return wire.selected_alpn_protocol() or "http/1.1"

    def _hypercorn(self, wire: Any) -> "_Connection":
        context = _Context(self._terminated)

        async def app(scope: Any, receive: Any, send: Any) -> None:
            try:
                await self._app(scope, receive, send)
            except AnswerBroken:  # hypercorn would leave the caller waiting for the rest
                await trio.aclose_forcefully(wire)

        wrapped = ASGIWrapper(app)
        server = _Connection(wrapped, self._config, context, ConnectionState({}), wire)
        server.idle_task = _Idle(self._terminated)
        return server


class _Connection(TCPServer):
    """hypercorn's, without the ways from HTTP/1.1 to HTTP/2 that need no TLS (S6).

    It also ends when its caller is gone: hypercorn's waits until its idle time and the pause before
    the next ping have passed, and so long its place is taken (S3).
    """

    context: "_Context"
    idle_task: "_Idle"  # type: ignore[assignment]

    async def _read_data(self) -> None:
        await super()._read_data()
        self.context.gone.set()
        self.idle_task.end()

    async def _idle_timeout(self) -> None:
        with trio.CancelScope(shield=True):
            await self._initiate_server_close()

    async def protocol_send(self, event: Event) -> None:
        if self.context.gone.is_set() and isinstance(event, Updated):
            return
        if isinstance(event, RawData) and not event.data:
            return  # the end of a body whose length was said
        await super().protocol_send(event)

    @property
    def protocol(self) -> ProtocolWrapper:
        return self._protocol

    @protocol.setter
    def protocol(self, made: ProtocolWrapper) -> None:
        if isinstance(made.protocol, H11Protocol):
            made.protocol = _Upgraded(
                made.app, made.config, made.context, made.task_group, made.state, made.ssl,
                made.client, made.server, made.send,
            )  # fmt: skip
        self._protocol = made


class _Context(WorkerContext):
    """What a connection knows of the server."""

    def __init__(self, terminated: EventWrapper) -> None:
        super().__init__(None)
        self.terminated = terminated
        self.gone = trio.Event()  # the caller is

    async def sleep(self, wait: float) -> None:  # type: ignore[override]
        with trio.move_on_after(wait):
            await self.gone.wait()


class _Idle:
    """When a connection is idle for too long (S2): hypercorn starts a task anew at every request.

    What is slept towards is never later than the deadline, for that only moves on.
    """

    def __init__(self, terminated: EventWrapper) -> None:
        self._terminated = terminated
        self._deadline = math.inf
        self._scope: trio.CancelScope | None = None

    async def restart(self, tasks: TaskGroup, close: Callable[[], Awaitable[None]]) -> None:
        self._deadline = trio.current_time() + HEAD_WITHIN
        if self._scope is None:
            self._scope = trio.CancelScope()
            tasks.spawn(self._watch, close)

    async def stop(self) -> None:
        self._deadline = math.inf

    def end(self) -> None:
        if self._scope is not None:
            self._scope.cancel()

    async def _watch(self, close: Callable[[], Awaitable[None]]) -> None:
        assert self._scope is not None  # noqa: S101 - restart made it
        with self._scope:
            while trio.current_time() < self._deadline and not self._terminated.is_set():
                with trio.move_on_at(min(self._deadline, trio.current_time() + HEAD_WITHIN)):
                    await self._terminated.wait()
            if self._deadline < math.inf:  # what is busy closes itself when it is done
                await close()


class _Upgraded(H11Protocol):
    async def _check_protocol(self, event: object) -> None:
        """Nothing here asks for another protocol."""


async def _until_cancelled(then: Callable[[], None]) -> None:
    try:
        await trio.sleep_forever()
    finally:
        then()


def _config() -> Config:
    config = Config()
    config.h11_max_incomplete_size = HEAD_BYTES
    config.h2_max_header_list_size = HEAD_BYTES
    config.h2_max_concurrent_streams = 32
    config.keep_alive_timeout = HEAD_WITHIN
    config.keep_alive_max_requests = 1_000_000  # nothing is gained by another handshake
    config.ssl_handshake_timeout = HEAD_WITHIN
    config.include_server_header = False
    config.websocket_max_message_size = SOCKET_TEXT
    config.websocket_ping_interval = _PING_EVERY
    config.accesslog = None
    config.errorlog = logging.getLogger("ampd.http")
    return config


class _Replayed:
    """A stream that begins with bytes that were read from it before."""

    def __init__(self, wire: Any, first: bytes) -> None:
        self._wire = wire
        self._first = first

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        if self._first:
            first, self._first = self._first, b""
            return first
        more: bytes = await self._wire.receive_some(max_bytes)
        return more

    def __getattr__(self, name: str) -> Any:
        return getattr(self._wire, name)


class _Impatient(trio.abc.HalfCloseableStream):
    """A TCP stream whose other side must take what is sent (S2): hypercorn waits for ever."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self.socket = stream.socket

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        with trio.move_on_after(SEND_WITHIN):
            await self._stream.send_all(data)
            return
        await trio.aclose_forcefully(self._stream)  # who reads from it hears of it, too
        raise trio.BrokenResourceError("the other side takes nothing")

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        return await self._stream.receive_some(max_bytes)

    async def send_eof(self) -> None:
        await self._stream.send_eof()

    async def aclose(self) -> None:
        await self._stream.aclose()
