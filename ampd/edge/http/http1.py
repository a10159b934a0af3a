"""HTTP/1.1 on one connection: requests one after another, each answered in one write.

hypercorn could do it, and does so for HTTP/2 and WebSockets; but a task, two channels and three
writes for every request are half of what a small request costs. h11 keeps the protocol's rules.

  T1  A caller has HEAD_WITHIN from the last answer, or the connection's begin, to the end of the
      next head; then the connection is closed.
  T2  What breaks the rules of HTTP/1.1 is answered with the status that h11 names, and ends the
      connection; so does a body that nobody read to its end.
  T3  Requests that were sent ahead (pipelined) are answered in their order.
  T4  `Expect: 100-continue` is answered once the route wants the body.
  T5  A GET that asks for a WebSocket ends `serve`, which gives back the bytes that were read: the
      next one to read from the connection begins with them. One with a body, or with frames
      before it was answered, is refused (RFC 6455, section 4.1: a client waits).

Not here: sockets, TLS, limits (server.py); what a request means (app.py).
"""

import math
import time
from contextlib import suppress
from email.utils import formatdate
from functools import lru_cache
from typing import Any, Final, Protocol

import h11
import trio

from ampd.edge.http.app import HEAD_BYTES, App
from ampd.edge.http.words import AnswerBroken
from ampd.model.values import value

_RECEIVE: Final = 1 << 16  # bytes read at once
_OF_BODIES: Final = (b"content-length", b"transfer-encoding")
_JOINED: Final = 1 << 16  # bytes of a body that is copied to be in one write with its head


class Stream(Protocol):
    """What the bytes come from, and go to."""

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        """Some bytes; none at the end."""

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """All of them."""


@value
class Ends:
    """The two ends of a connection, as ASGI has them."""

    client: tuple[str, int]
    server: tuple[str, int]
    secure: bool


class Http1:
    """One connection."""

    def __init__(self, app: App, stream: Stream, ends: Ends, heads: "Heads") -> None:
        """`heads` bounds how long a request is waited for."""
        self._app = app
        self._stream = stream
        self._ends = ends
        self._heads = heads
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=HEAD_BYTES)
        self._came = b""  # of the head that is being read (T5)
        self._held = b""  # the head of an answer, until its body comes
        self._has_body = False  # the answer

    async def serve(self) -> bytes | None:
        """Answer requests until the connection ends (None), or wants to be a WebSocket (T5)."""
        try:
            while (request := await self._next_request()) is not None:
                if _wants_socket(request):
                    if self._is_bare(request):
                        return self._came
                    await self._refuse(400)
                    return None
                self._came = b""
                self._has_body = request.method != b"HEAD"
                await self._app(self._scope(request), self._receive, self._send)
                if not self._goes_on():
                    break
        except (trio.BrokenResourceError, trio.ClosedResourceError, AnswerBroken):
            return None  # the caller has left, or must not take a part for the whole
        except h11.RemoteProtocolError as exc:
            await self._refuse(exc.error_status_hint)
        return None

    async def _next_request(self) -> h11.Request | None:
        """The next head; None if there will be none (T1)."""
        self._came = self._http.trailing_data[0]
        event = self._http.next_event()
        if event is h11.NEED_DATA:
            scope = self._heads.awaited()
            try:
                with scope:
                    while event is h11.NEED_DATA:
                        self._came += await self._more()
                        event = self._http.next_event()
            finally:
                self._heads.done(scope)
        return event if isinstance(event, h11.Request) else None

    def _is_bare(self, request: h11.Request) -> bool:
        """Whether nothing came behind the head (T5)."""
        has_body = any(name in _OF_BODIES for name, _ in request.headers)
        return not has_body and not self._http.trailing_data[0]

    async def _more(self) -> bytes:
        data = bytes(await self._stream.receive_some(_RECEIVE))
        self._http.receive_data(data)
        return data

    def _scope(self, request: h11.Request) -> dict[str, Any]:
        path, _, query = request.target.partition(b"?")
        return {
            "type": "http",
            "http_version": request.http_version.decode(),
            "method": request.method.decode("ascii").upper(),
            "scheme": "https" if self._ends.secure else "http",
            "raw_path": path,
            "query_string": query,
            "headers": list(request.headers),
            "client": self._ends.client,
            "server": self._ends.server,
        }

    async def _receive(self) -> dict[str, Any]:
        """What has come of the body; `http.disconnect` if no more of it can."""
        if self._http.they_are_waiting_for_100_continue:  # T4
            await self._stream.send_all(
                self._http.send(h11.InformationalResponse(status_code=100, headers=[]))
            )
        parts: list[bytes] = []
        while True:
            try:
                event = self._http.next_event()
                if event is h11.NEED_DATA and not parts:
                    await self._more()
                    continue
            except (h11.RemoteProtocolError, trio.BrokenResourceError, trio.ClosedResourceError):
                return {"type": "http.disconnect"}
            if isinstance(event, h11.Data):
                parts.append(bytes(event.data))
            elif event is h11.NEED_DATA or isinstance(event, h11.EndOfMessage):
                more = event is h11.NEED_DATA
                return {"type": "http.request", "body": b"".join(parts), "more_body": more}
            else:
                return {"type": "http.disconnect"}

    async def _send(self, message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            status = message["status"]
            self._has_body = self._has_body and status not in (204, 304)
            self._held = self._http.send(
                h11.Response(status_code=status, headers=[*message["headers"], _date()])
            )
            return
        body = message["body"] if self._has_body else b""
        data = self._http.send(h11.Data(data=body)) if body else b""
        if len(data) > _JOINED:
            await self._stream.send_all(self._held)
            self._held = b""
        held, self._held = self._held, b""
        end = b"" if message.get("more_body") else self._http.send(h11.EndOfMessage())
        if held or data or end:
            await self._stream.send_all(held + data + end)

    def _goes_on(self) -> bool:
        """Whether another request may follow (T2)."""
        done = self._http.our_state is h11.DONE and self._http.their_state is h11.DONE
        if done and not self._heads.ended:
            self._http.start_next_cycle()
            return True
        return False

    async def _refuse(self, status: int) -> None:
        """T2."""
        if self._http.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            return
        headers = [(b"content-length", b"0"), (b"connection", b"close"), _date()]
        data = self._http.send(h11.Response(status_code=status, headers=headers))
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            await self._stream.send_all(data + self._http.send(h11.EndOfMessage()))


class Heads:
    """How long all connections of a server wait for requests (T1)."""

    def __init__(self, within: float) -> None:
        """`within` in seconds."""
        self.ended = False
        self._within = within
        self._waiting: set[trio.CancelScope] = set()

    def awaited(self) -> trio.CancelScope:
        """What is inside ends when its time is over, or the server's; to be `done` with."""
        within = -math.inf if self.ended else self._within
        scope = trio.CancelScope(deadline=trio.current_time() + within)
        self._waiting.add(scope)
        return scope

    def done(self, scope: trio.CancelScope) -> None:
        """The head is here, or will not come."""
        self._waiting.discard(scope)

    def end(self) -> None:
        """No connection waits for a request any more."""
        self.ended = True
        for scope in self._waiting:
            scope.cancel()


def _wants_socket(request: h11.Request) -> bool:
    said = dict(request.headers)
    tokens = said.get(b"connection", b"").lower().split(b",")
    return (
        said.get(b"upgrade", b"").strip().lower() == b"websocket"
        and b"upgrade" in [token.strip() for token in tokens]
        and request.method == b"GET"
    )


@lru_cache(maxsize=1)
def _date_of(second: int) -> tuple[bytes, bytes]:
    return b"date", formatdate(second, usegmt=True).encode("ascii")


def _date() -> tuple[bytes, bytes]:
    return _date_of(int(time.time()))
