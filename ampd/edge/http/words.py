"""What the HTTP server and the services behind it say to each other.

A service is a foreign protocol: it names its routes, and turns a Request into an Answer. What goes
wrong on the way it says in its own words (`failure`), also what went wrong before one of its routes
was found: HttpRefused says which status such a thing has in HTTP.

Not here: sockets and ASGI (app.py, server.py); which service gets a request (gateway.py).
"""

import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from dataclasses import field
from typing import Final, Protocol

from ampd.model.errors import (
    AmpdError,
    Invalid,
    Refused,
    StorageError,
    Unavailable,
    in_one_line,
)
from ampd.model.values import value
from ampd.protocol import raw_json

JSON: Final = "application/json; charset=utf-8"
TEXT: Final = "text/plain; charset=utf-8"

log = logging.getLogger("ampd.http")

# code -> status, of what the server refuses by itself
STATUS: Final = {
    "no_route": 404,
    "no_method": 405,  # there is the path, and not with this method; `headers` has Allow
    "too_large": 413,
    "media_type": 415,
    "misdirected": 421,  # the Host header names somebody else (RFC 9110, section 15.5.20)
    "foreign_origin": 403,
    "too_slow": 408,
    "busy": 503,
    "incomplete": 400,
    "head_too_large": 431,
    "ambiguous": 400,
}


class HttpRefused(Refused):
    """Refused by the server before a route was asked; `status` and `headers` are HTTP's."""

    def __init__(
        self, message: str, *, code: str, hint: str = "", headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message, hint=hint, code=code)
        self.status = STATUS[code]
        self.headers: Mapping[str, str] = headers or {}


@value
class Request:
    """One request, read to its end unless its route takes a stream."""

    method: str
    path: str  # as the service's routes see it, decoded
    raw_path: str  # as it came
    params: Mapping[str, str]  # the {names} of the route, decoded
    query: Mapping[str, str]  # of a name that stands twice, the last
    headers: Mapping[str, str]  # lower-case names; several of one name joined by ", "
    body: bytes
    peer: str  # the host that is at the other end of the connection
    id: str  # X-Request-ID, or a new UUID
    secure: bool  # over TLS
    base: str  # by which we were reached: "http://localhost:23000"
    peer_port: int = 0  # of the connection's other end; 0: not known
    stream: AsyncGenerator[bytes, None] | None = None  # the body as it comes, of a Route.stream

    @property
    def bearer(self) -> str:
        """The token of `Authorization: Bearer TOKEN`; "" if there is none."""
        scheme, _, token = self.headers.get("authorization", "").partition(" ")
        return token.strip() if scheme.lower() == "bearer" else ""

    def json(self) -> raw_json.Value:
        """The body's values; Invalid with the code `json` if it is no JSON text."""
        try:
            return raw_json.parse(self.body)
        except Invalid as exc:
            raise Invalid(str(exc), hint=exc.hint, code="json") from None


@value
class Answer:
    """What the server sends back; it adds Content-Length and what every answer carries."""

    status: int
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    stream: AsyncGenerator[bytes, None] | None = None  # a body in pieces, instead of `body`;
    stream_size: int = 0  # its bytes

    @property
    def size(self) -> int:
        """Bytes of the body."""
        return len(self.body) if self.stream is None else self.stream_size

    @classmethod
    def json(
        cls, status: int, value: raw_json.Value, headers: Mapping[str, str] | None = None
    ) -> "Answer":
        """An answer in JSON."""
        text = raw_json.write(value).encode()
        return cls(status, text, {"Content-Type": JSON, **(headers or {})})

    @classmethod
    def text(cls, status: int, text: str, headers: Mapping[str, str] | None = None) -> "Answer":
        """An answer in plain text."""
        return cls(status, text.encode(), {"Content-Type": TEXT, **(headers or {})})


def outward(exc: AmpdError, where: str) -> AmpdError:
    """An error as a caller may read it: it names no file of this machine; the log has all of it."""
    stored = isinstance(exc, StorageError)
    if not stored and not (isinstance(exc, Unavailable) and exc.hint):
        return exc
    why = {"where": where[:80], "why": in_one_line(str(exc), exc.hint)}
    log.warning("what was asked over HTTP cannot be done now", extra=why)
    text = "this node cannot store or read that now: try again later" if stored else str(exc)
    return Unavailable(text, code=exc.code)  # a hint is a command for who sits at this machine


class AnswerBroken(AmpdError):
    """The head of an answer was sent, and its body cannot be: its connection must end."""


class SocketClosed(AmpdError):
    """The other side left, or we closed; `status` is the close code of RFC 6455, section 7.4."""

    def __init__(self, status: int = 1006) -> None:
        super().__init__(f"the WebSocket is closed ({status})")
        self.status = status


class WebSocket(Protocol):
    """A WebSocket that was asked for; it is open once it was accepted."""

    headers: Mapping[str, str]
    query: Mapping[str, str]
    peer: str

    async def accept(self, subprotocol: str | None = None) -> None:
        """Open it."""

    async def receive(self) -> str:
        """The next text; SocketClosed when there will be none. A binary message closes it."""

    async def send(self, text: str) -> None:
        """Send one text; SocketClosed if nobody is there any more."""

    async def close(self, code: int = 1000, reason: str = "") -> None:
        """End it; before it was accepted: refuse it with 403."""


@value
class Route:
    """One method of one path: `/v1/messages/{id}`; a last `{rest:path}` takes all that follows."""

    method: str
    path: str
    handle: Callable[[Request], Awaitable[Answer]]
    limit: int | None = None  # bytes of the largest body; None: the service's
    any_type: bool = False  # takes bodies that are no JSON
    stream: bool = False  # the body is not read before: Request.stream has it, within `limit`


@value
class SocketRoute:
    """One path at which a WebSocket opens."""

    path: str
    handle: Callable[[WebSocket], Awaitable[None]]


class Service(Protocol):
    """One foreign protocol behind the server."""

    name: str

    def routes(self) -> Sequence[Route]:
        """Every method of every path."""

    def sockets(self) -> Sequence[SocketRoute]:
        """Every path of a WebSocket."""

    def failure(self, request: Request, exc: AmpdError) -> Answer:
        """An error in this protocol's words."""

    async def run(self) -> None:
        """What it does without being asked, until cancelled."""
