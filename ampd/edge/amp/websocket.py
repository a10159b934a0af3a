"""WebSockets of AMP (sections 05 and 08): mail as it comes, frames of JSON both ways.

    client                             server
    {type: auth, token}                {type: connected, data: {address, pending_count}}
    {type: ping}                       {type: pong, timestamp}
    {type: route, data}                {type: routed, data}      data is what POST /route answers
    {type: ack | message.ack, id}      nothing; it is out of the queue
                                       {type: message.new, data: {id, envelope, payload, ...}}
                                       {type: message.delivered | message.read, data}
                                       {type: error, error, message}

  WS1  The first frame proves who it is, within AUTH_WITHIN; else an error and the end: 4001 no
       frame came, 4002 another frame, 4003 a token that is not valid. A key in the URL counts for
       nothing.
  WS2  What waits is sent at once, oldest first, then what comes. Sending takes nothing out of the
       queue: only an ack does.
  WS3  A connection that says nothing for IDLE_FOR, or does not read for WRITE_WITHIN, is closed
       (4008), and loses nothing.
  WS4  A key that was revoked ends its connections before the next frame in either direction.
  WS5  A frame that cannot be understood is answered by an error; MAX_ERRORS of them end it.
  WS6  Frames carry their facts on the top level too, where AI Maestro's clients look for them.

Not here: the Origin header (http/guard.py), what a route does (route.py).
"""

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final

import trio

from ampd.core.agents import Agent
from ampd.core.lists import Filter, Summary
from ampd.edge.amp.ports import Account, Document, Mail
from ampd.edge.amp.receipts import Receipts
from ampd.edge.bugs import contained
from ampd.edge.documents import time_text
from ampd.edge.http.words import SocketClosed, WebSocket
from ampd.edge.methods import Rooms
from ampd.model.errors import AmpdError, Invalid, Refused, Unavailable
from ampd.protocol import raw_json

AUTH_WITHIN: Final = 10.0  # seconds (AMP section 05)
IDLE_FOR: Final = 300.0
WRITE_WITHIN: Final = 30.0  # a client that reads nothing for so long holds up its own mail only
MAX_SOCKETS: Final = 16  # of one agent: more than one program has tasks that listen
MAX_ERRORS: Final = 20
_PAGE: Final = 50
_SUBPROTOCOL: Final = "amp.v1"

# What a recipient took: the agent, the message, the method.
Took = Callable[[Agent, Summary, str], Awaitable[None]]

log = logging.getLogger("ampd.amp.websocket")


@dataclass(slots=True, eq=False)
class _Connection:
    """One WebSocket whose agent is known."""

    socket: WebSocket
    token: str
    account: Account
    agent: Agent
    writing: trio.Lock = field(default_factory=trio.Lock)
    errors: int = 0

    async def send(self, frame: Document) -> None:
        """One frame. Raises SocketClosed, or TooSlowError (WS3)."""
        async with self.writing:
            with trio.fail_after(WRITE_WITHIN):
                await self.socket.send(raw_json.write(frame))


class Sockets:
    """The WebSockets that are open."""

    def __init__(self, rooms: Rooms, mail: Mail, now: Callable[[], int], took: Took) -> None:
        """`took` is told of every message that was sent to its recipient."""
        self._rooms = rooms
        self._mail = mail
        self._now = now
        self._took = took
        self._open: dict[str, set[_Connection]] = {}
        self.receipts = Receipts(rooms, mail, self.tell)

    def online(self, name: str) -> bool:
        """Whether the agent of this name is connected."""
        return name in self._open

    @property
    def count(self) -> int:
        """How many agents are connected."""
        return len(self._open)

    async def tell(self, name: str, frame: Document) -> None:
        """Send a frame to every connection of an agent; who does not take it is on its way out."""
        for connection in list(self._open.get(name, ())):
            try:
                await connection.send(frame)
            except (SocketClosed, trio.TooSlowError):
                continue

    async def handle(self, socket: WebSocket) -> None:
        """One connection, from its first frame to its end."""
        offered = socket.headers.get("sec-websocket-protocol", "").replace(" ", "").split(",")
        await socket.accept(_SUBPROTOCOL if _SUBPROTOCOL in offered else None)
        try:
            connection = await self._authenticated(socket)
            if connection is not None:
                await self._serve(connection)
        except SocketClosed:
            return

    # --- the first frame -------------------------------------------------------------------

    async def _authenticated(self, socket: WebSocket) -> _Connection | None:
        """WS1."""
        text = None
        with trio.move_on_after(AUTH_WITHIN):
            text = await socket.receive()
        if text is None:
            await _end(socket, 4001, f"no auth frame within {AUTH_WITHIN:.0f} s")
            return None
        try:
            frame = _frame(text)
        except Invalid as exc:
            await _end(socket, 4002, str(exc))
            return None
        token = frame.get("token")
        if frame["type"] != "auth" or not isinstance(token, str):
            await _end(socket, 4002, "the first frame must be auth, with a token")
            return None
        try:
            account = self._mail.account_of_token(token)
            agent = self._rooms.agents.named(account.name)
        except Refused:
            await _end(socket, 4003, "Invalid or expired API key")
            return None
        if len(self._open.get(account.name, ())) >= MAX_SOCKETS:
            await _end(socket, 1013, f"more than {MAX_SOCKETS} connections", "rate_limited")
            return None
        return _Connection(socket, token, account, agent)

    async def _serve(self, connection: _Connection) -> None:
        name = connection.account.name
        self._open.setdefault(name, set()).add(connection)
        log.info("an agent is connected", extra={"agent": name, "peer": connection.socket.peer})
        try:
            await self._connected(connection)
        finally:
            self._open[name].discard(connection)
            if not self._open[name]:
                del self._open[name]
            log.info("an agent has left", extra={"agent": name})

    async def _connected(self, connection: _Connection) -> None:
        code, reason = 1000, ""
        try:
            async with trio.open_nursery() as nursery:
                await self._greet(connection)
                nursery.start_soon(self._push, connection)
                nursery.start_soon(
                    self.receipts.follow, connection.agent, self._guarded(connection)
                )
                await self._hear(connection)
                nursery.cancel_scope.cancel()
        except* trio.TooSlowError:
            code, reason = 4008, "idle for too long, or nothing was read"
        except* SocketClosed:
            code = 0
        except* _GoneError:
            code, reason = 4003, "the API key is not valid any more"
        except* AmpdError as group:
            log.warning("a WebSocket ends", extra={"why": str(group.exceptions[0])})
            code, reason = 1013, "not now: connect again"
        if code:
            await connection.socket.close(code, reason)

    async def _greet(self, connection: _Connection) -> None:
        waiting = self._rooms.lists.listing(connection.agent, Filter(limit=1)).total
        data = {"address": connection.account.address, "pending_count": waiting}
        await connection.send({"type": "connected", "data": data, **data})

    def _check(self, connection: _Connection) -> None:
        """WS4."""
        try:
            account = self._mail.account_of_token(connection.token)
            agent = self._rooms.agents.named(account.name)
        except Refused as exc:
            raise _GoneError from exc
        if agent.key != connection.agent.key:
            raise _GoneError

    def _guarded(self, connection: _Connection) -> Callable[[Document], Awaitable[None]]:
        async def send(frame: Document) -> None:
            self._check(connection)
            await connection.send(frame)

        return send

    # --- mail ------------------------------------------------------------------------------

    async def _push(self, connection: _Connection) -> None:
        """WS2."""
        number, agent = 0, connection.agent
        while True:
            changed = self._rooms.store.changed(("box", agent.key))
            wanted = Filter(after=str(number), oldest=True, limit=_PAGE)
            found = self._rooms.lists.listing(agent, wanted).messages
            for summary in found:
                number = summary.number or number
                self._check(connection)
                frame = self._new(agent, summary)
                if frame is not None:
                    await connection.send(frame)
                    await self._took(agent, summary, "websocket")
            if not found:
                await changed.wait()

    def _new(self, agent: Agent, summary: Summary) -> Document | None:
        """The frame of a message, or None if it cannot be shown: it hides no other."""
        try:
            with contained("message.new"):
                item = self._mail.item(agent, self._rooms.reading.full(agent, summary.seq))
        except AmpdError as exc:
            log.warning("a message is not shown", extra={"id": summary.id, "why": str(exc)})
            return None
        return {**item, "type": "message.new", "data": item}

    # --- what the client says ---------------------------------------------------------------

    async def _hear(self, connection: _Connection) -> None:
        while True:
            with trio.fail_after(IDLE_FOR):
                text = await connection.socket.receive()
            self._check(connection)
            frame: Document = {}
            try:
                frame = _frame(text)
                with contained("a frame"):
                    answer = await self._answer(connection, frame)
            except AmpdError as exc:
                answer = {**self._mail.failure_of(exc), "type": "error"}
                connection.errors += 1
            if answer is not None:
                echo = {"request_id": frame["request_id"]} if "request_id" in frame else {}
                await connection.send({**answer, **echo})
            if connection.errors >= MAX_ERRORS:
                raise Unavailable("too many frames that were not understood")

    async def _answer(self, connection: _Connection, frame: Document) -> Document | None:
        match frame["type"]:
            case "ping":
                return {"type": "pong", "timestamp": time_text(self._now())}
            case "pong":
                return None
            case "route":
                data = await self._mail.route(connection.account, frame.get("data"))
                return {"type": "routed", "data": data}
            case "ack" | "message.ack":
                await self._acknowledge(connection, frame)
                return None
        raise Invalid(f"no frame of the type {frame['type'][:40]!r}")

    async def _acknowledge(self, connection: _Connection, frame: Document) -> None:
        data = frame.get("data")
        identifier = frame.get("id") or (data.get("id") if isinstance(data, dict) else None)
        if not isinstance(identifier, str):
            raise Invalid("an ack must name the message: id")
        if not await self._mail.acknowledge(connection.account, identifier):
            raise Refused(f"no message {identifier[:80]} is waiting", code="message_unknown")


class _GoneError(Exception):
    """The token of a connection is not valid any more (WS4)."""


def _frame(text: str) -> Document:
    """A frame is an object with a type."""
    frame = raw_json.parse(text)
    if not isinstance(frame, dict) or type(frame.get("type")) is not str:
        raise Invalid("a frame must be an object with a type")
    return frame


async def _end(socket: WebSocket, code: int, message: str, error: str = "unauthorized") -> None:
    """Say why, and close (WS1)."""
    frame = {"type": "error", "error": error, "message": message}
    with trio.move_on_after(WRITE_WITHIN):
        await socket.send(raw_json.write(frame))
        await socket.close(code, message[:100])
