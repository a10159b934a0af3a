"""The ASGI side: from a connection's events to a service's route, and its answer back.

  H1  Every answer has X-Request-ID, Content-Length, and the headers that tell a browser to leave it
      alone; over TLS also Strict-Transport-Security (RFC 6797).
  H2  No body is larger than its route allows: refused by Content-Length alone where there is one,
      else when the bytes that came are too many.
  H3  A path is matched segment by segment before it is decoded: %2F is no slash. Names stand before
      parameters. An unknown path is `no_route`, a known one with another method `no_method`; HEAD
      is answered as GET, OPTIONS with 204.
  H4  A body must have come within BODY_WITHIN, of a stream each piece, and all of it within
      STREAM_WITHIN; a bug in a route is logged
      and answered 500.
  H5  A request whose length is said twice, by Content-Length and by Transfer-Encoding, is refused
      (RFC 9112, section 6.3): a proxy before us may have read another one (request smuggling).
  H6  When the server stops, every open WebSocket is closed with 1001.
  H7  What cannot be done now is said without the files and commands of this machine, which the log
      has (words.py, `outward`).

Written against the ASGI specification 3.0 (HTTP & WebSocket message format 2.3) without a web
framework: what we need of one is the table of routes.

Not here: the listening socket, TLS, HTTP's own syntax (server.py); sending (sending.py).
"""

import re
import uuid
from collections.abc import (
    AsyncGenerator,
    Callable,
    Mapping,
    MutableMapping,
    Sequence,
)
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final
from urllib.parse import parse_qsl, unquote

import trio

from ampd.edge.bugs import contained
from ampd.edge.http.guard import Guard, check_type
from ampd.edge.http.memory import Memory, Share
from ampd.edge.http.sending import Receive, Send, beside, left, send_answer, send_stream
from ampd.edge.http.sockets import AsgiSocket
from ampd.edge.http.words import (
    Answer,
    HttpRefused,
    Request,
    Route,
    Service,
    SocketRoute,
    outward,
)
from ampd.model.errors import AmpdError

BODY_WITHIN: Final = 30.0  # seconds: a megabyte over a slow line; slower callers tie up memory
STREAM_WITHIN: Final = 900.0  # seconds: 25 MiB at a quarter of a megabit
HEAD_BYTES: Final = 16 << 10  # ours and the clients' heads have under 2 KiB
DEFAULT_LIMIT: Final = 1 << 20  # bytes of a body where neither route nor service says more
_LAST: Final = frozenset(
    ("too_large", "too_slow", "incomplete", "ambiguous", "head_too_large", "busy")
)
_DRAIN_WITHIN: Final = 2.0  # seconds in which who sends too much may finish, and hear why

Scope = Mapping[str, Any]
Pick = Callable[[str, Sequence[str], str], tuple[str, tuple[str, ...]]]

_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}")


class Table:
    """The routes of one service, by method and path (H3)."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self._routes = [(_segments(each.path), each) for each in service.routes()]
        self._sockets = [(_segments(each.path), each) for each in service.sockets()]
        self._routes.sort(key=lambda each: _generality(each[0]))
        self._sockets.sort(key=lambda each: _generality(each[0]))

    def route(self, method: str, path: tuple[str, ...]) -> tuple[Route, dict[str, str]]:
        """The route of a path, and its parameters; HttpRefused if there is none."""
        allowed = []
        for pattern, route in self._routes:
            params = _match(pattern, path)
            if params is None:
                continue
            if route.method == method or (method == "HEAD" and route.method == "GET"):
                return route, params
            allowed.append(route.method)
        if allowed:
            raise HttpRefused(
                f"{method} is not for this path",
                code="no_method",
                headers={"Allow": ", ".join(sorted({*allowed, "OPTIONS"}))},
            )
        raise HttpRefused("there is nothing at this path", code="no_route")

    def socket(self, path: tuple[str, ...]) -> SocketRoute | None:
        """The WebSocket route of a path."""
        for pattern, route in self._sockets:
            if _match(pattern, path) is not None:
                return route
        return None


def _segments(path: str) -> tuple[str, ...]:
    return tuple(each for each in path.split("/") if each)


def _generality(pattern: tuple[str, ...]) -> tuple[bool, ...]:
    """Sorts names before parameters, from the left; one that takes the rest comes last."""
    rest = bool(pattern) and pattern[-1].endswith(":path}")
    return (rest, *(each.startswith("{") for each in pattern))


def _match(pattern: tuple[str, ...], path: tuple[str, ...]) -> dict[str, str] | None:
    if len(pattern) != len(path) and not (pattern and pattern[-1].endswith(":path}")):
        return None
    params = {}
    for number, each in enumerate(pattern):
        if each.endswith(":path}"):
            params[each[1:-6]] = "/".join(path[number:])
            return params
        if number >= len(path):
            return None
        if each.startswith("{"):
            params[each[1:-1]] = path[number]
        elif each != path[number]:
            return None
    return params


@dataclass(slots=True)
class _Head:
    """What is known of a request before its body."""

    scope: Scope
    request: Request
    table: Table
    path: tuple[str, ...]
    read: bool = False  # the body was read to its end

    def failure(self, exc: AmpdError) -> Answer:
        """An error in the service's words (H7)."""
        return self.table.service.failure(self.request, outward(exc, self.request.path))

    @property
    def is_http1(self) -> bool:
        """Whether its connection is HTTP/1.0 or HTTP/1.1."""
        return str(self.scope.get("http_version")).startswith("1")


class App:
    """An ASGI application over the services."""

    def __init__(
        self,
        services: Sequence[Service],
        pick: Pick,
        guard: Guard,
        limits: Mapping[str, int] | None = None,
    ) -> None:
        """`pick` names the service of a request; `limits` has each service's largest body."""
        self._tables = {each.name: Table(each) for each in services}
        self._pick = pick
        self._guard = guard
        self._limits = limits or {}
        self._open: set[AsgiSocket] = set()
        self.memory = Memory()

    async def __call__(self, scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
        """Serve one request or WebSocket."""
        if scope["type"] == "http":
            with self.memory.share() as share:
                await self._serve(self._head(scope), receive, send, share)
        elif scope["type"] == "websocket":
            await self._socket(self._head(scope), receive, send)

    async def _serve(self, head: _Head, receive: Receive, send: Send, share: Share) -> None:
        answer = await self._answer(head, receive, share)
        try:
            share.holds(len(answer.body))
        except HttpRefused as exc:
            answer = head.table.service.failure(head.request, exc)
        head.request = replace(head.request, body=b"")

        async def say() -> None:
            if answer.stream is None:
                await send_answer(send, head.request, answer)
            else:
                await send_stream(send, head.request, answer, head.failure)

        if not head.is_http1:
            await beside(say, partial(left, receive))
        elif head.read:
            await say()
        else:  # the server waits until somebody takes it
            await beside(say, partial(_drained, receive))

    async def close_sockets(self) -> None:
        """Close every open WebSocket: the server goes away (H6)."""
        for each in list(self._open):
            await each.close(1001, "going away")

    def _head(self, scope: Scope) -> _Head:
        headers: dict[str, str] = {}
        for name, value in scope["headers"]:
            key, text = name.decode("latin-1").lower(), value.decode("latin-1")
            headers[key] = f"{headers[key]}, {text}" if key in headers else text
        raw = scope["raw_path"].decode("latin-1")
        secure = scope["scheme"] in ("https", "wss")
        wanted = headers.get("x-request-id", "")
        request = Request(
            method=scope.get("method", "GET"),
            path="",
            raw_path=raw,
            params={},
            query=dict(parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)),
            headers=headers,
            body=b"",
            peer=scope["client"][0] if scope.get("client") else "",
            id=wanted if _REQUEST_ID.fullmatch(wanted) else str(uuid.uuid4()),
            secure=secure,
            base=f"{'https' if secure else 'http'}://{headers.get('host', 'localhost')}",
            peer_port=scope["client"][1] if scope.get("client") else 0,
        )
        segments = [unquote(each) for each in raw.split("/") if each]
        name, path = self._pick(request.method, segments, request.bearer)
        return _Head(scope, request, self._tables[name], path)

    async def _answer(self, head: _Head, receive: Receive, share: Share) -> Answer:
        service = head.table.service
        try:
            self._check(head)
            if head.request.method == "OPTIONS":
                return Answer(204)
            route, params = head.table.route(head.request.method, head.path)
            body = _Body(head, self._largest(head, route), receive)
            whole = b"" if route.stream else await body.whole(share)
        except HttpRefused as exc:
            with trio.move_on_after(0 if head.read else _DRAIN_WITHIN):
                await _drain(receive)
            return _closing(service.failure(head.request, exc), head, exc)
        pieces = body.pieces() if route.stream else None
        head.request = request = _whole(head, params, whole, pieces)
        answer = await self._asked(route, request, whole, service)
        return answer if head.read else await _cut(answer, head, receive)

    async def _asked(self, route: Route, request: Request, body: bytes, service: Service) -> Answer:
        try:
            if body and not route.any_type:
                check_type(request.method, request.headers)
            with contained(f"{route.method} {route.path}"):
                return await route.handle(request)
        except AmpdError as exc:
            return service.failure(request, outward(exc, request.path))

    def _check(self, head: _Head) -> None:
        headers = head.request.headers
        server = head.scope.get("server")
        self._guard.check(headers, reached=server[0] if server else "", secure=head.request.secure)
        if _size(head) > HEAD_BYTES:
            raise HttpRefused(f"the head is over {HEAD_BYTES} bytes", code="head_too_large")
        if "transfer-encoding" in headers and "content-length" in headers:
            raise HttpRefused("the body's length is said twice", code="ambiguous")

    def _largest(self, head: _Head, route: Route) -> int:
        """The bytes that a body may have; HttpRefused if it announces more (H2)."""
        limit = route.limit
        if limit is None:
            limit = self._limits.get(head.table.service.name, DEFAULT_LIMIT)
        announced = head.request.headers.get("content-length", "")
        if announced.isdecimal() and int(announced[:20]) > limit:
            raise _too_large(limit)
        return limit

    async def _socket(self, head: _Head, receive: Receive, send: Send) -> None:
        route = head.table.socket(head.path)
        try:
            self._check(head)
            if route is None:
                raise HttpRefused("there is no WebSocket at this path", code="no_route")
        except HttpRefused as exc:
            answer = head.table.service.failure(head.request, exc)
            await send_answer(send, head.request, answer, "websocket.http")
            return
        socket = AsgiSocket(head.request, receive, send)
        self._open.add(socket)
        try:
            await socket.run(route)
        finally:
            self._open.discard(socket)


class _Body:
    """The body of a request, which has at most `limit` bytes (H2, H4)."""

    __slots__ = ("_head", "_limit", "_receive", "_size")

    def __init__(self, head: _Head, limit: int, receive: Receive) -> None:
        self._head = head
        self._limit = limit
        self._receive = receive
        self._size = 0

    async def whole(self, share: Share) -> bytes:
        """All of it."""
        parts = []
        with trio.move_on_after(BODY_WITHIN):
            while not self._head.read:
                parts.append(await self._piece())
                share.holds(self._size)
            return b"".join(parts)
        raise _too_slow()

    async def pieces(self) -> AsyncGenerator[bytes, None]:
        """It, as it comes."""
        ends = trio.current_time() + STREAM_WITHIN
        while not self._head.read:
            part = None
            with trio.move_on_after(BODY_WITHIN):
                part = await self._piece()
            if part is None or trio.current_time() > ends:
                raise _too_slow()
            yield part

    async def _piece(self) -> bytes:
        event = await self._receive()
        if event["type"] == "http.disconnect":
            self._head.read = True  # and nothing more will come
            raise HttpRefused("the body did not come to its end", code="incomplete")
        part: bytes = event.get("body", b"")
        self._size += len(part)
        if self._size > self._limit:
            raise _too_large(self._limit)
        self._head.read = not event.get("more_body")
        return part


async def _cut(answer: Answer, head: _Head, receive: Receive) -> Answer:
    """The answer to a stream that was not read to its end: the last on its connection."""
    with trio.move_on_after(_DRAIN_WITHIN):
        await _drain(receive)
        head.read = True
    if not head.is_http1:
        return answer
    return replace(answer, headers={**answer.headers, "Connection": "close"})


def _too_slow() -> HttpRefused:
    return HttpRefused("the body took too long to come", code="too_slow")


def _whole(
    head: _Head, params: dict[str, str], body: bytes, stream: AsyncGenerator[bytes, None] | None
) -> Request:
    old = head.request
    return Request(
        old.method, "/" + "/".join(head.path), old.raw_path, params, old.query, old.headers, body,
        old.peer, old.id, old.secure, old.base, old.peer_port, stream,
    )  # fmt: skip


def _too_large(limit: int) -> HttpRefused:
    return HttpRefused(f"the body is over {limit} bytes", code="too_large")


def _size(head: _Head) -> int:
    """Bytes of the request line and the headers, about: h11 lets pass what comes in one piece."""
    lines = sum(len(name) + len(value) + 4 for name, value in head.scope["headers"])
    return lines + len(head.scope["raw_path"]) + len(head.scope["query_string"])


def _closing(answer: Answer, head: _Head, exc: HttpRefused) -> Answer:
    """The same, as the last on its connection, if what follows there cannot be trusted."""
    if exc.code not in _LAST or not head.is_http1:
        return answer
    return replace(answer, headers={**answer.headers, "Connection": "close"})


async def _drain(receive: Receive) -> None:
    """Read the rest and drop it: a socket closed over unread bytes loses the answer on its way."""
    while (await receive()).get("more_body"):
        pass


async def _drained(receive: Receive) -> None:
    """The same, and no end: nothing is over because all has come."""
    await _drain(receive)
    await trio.sleep_forever()
