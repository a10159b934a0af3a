"""A WebSocket as a service sees it, over ASGI's events.

Texts only: a binary message closes the socket with 1003 (RFC 6455, section 7.4.1). What a handler
raises ends its socket and nothing else: SocketClosed is the usual end, any other error closes it
with 1011.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from ampd.edge.bugs import contained
from ampd.edge.http.words import Request, SocketClosed, SocketRoute
from ampd.model.errors import AmpdError

_MAX_REASON: Final = 123  # bytes: a control frame has 125 (RFC 6455, section 5.5), the code takes 2


class AsgiSocket:
    """One WebSocket."""

    def __init__(
        self,
        request: Request,
        receive: Callable[[], Awaitable[Mapping[str, Any]]],
        send: Callable[[dict[str, Any]], Awaitable[None]],
    ) -> None:
        self.headers = request.headers
        self.query = request.query
        self.peer = request.peer
        self._receive = receive
        self._send = send
        self._accepted = False
        self._closed = 0  # the close code, once it is closed

    async def run(self, route: SocketRoute) -> None:
        """Let the route have it until it returns; it is closed afterwards."""
        code = 1011
        try:
            with contained(f"WebSocket {route.path}"):
                await route.handle(self)
            code = 1000
        except SocketClosed:
            code = 1000
        except AmpdError:
            code = 1011
        finally:
            await self.close(code)

    async def accept(self, subprotocol: str | None = None) -> None:
        """Open it."""
        event = await self._receive()
        if event["type"] != "websocket.connect":
            self._closed = 1006
            raise SocketClosed
        await self._send({"type": "websocket.accept", "subprotocol": subprotocol, "headers": []})
        self._accepted = True

    async def receive(self) -> str:
        """The next text; SocketClosed when there will be none."""
        if self._closed:
            raise SocketClosed(self._closed)
        event = await self._receive()
        if event["type"] == "websocket.disconnect":
            self._closed = self._closed or int(event.get("code") or 1005)
            raise SocketClosed(self._closed)
        text = event.get("text")
        if text is None:
            await self.close(1003, "texts only")
            raise SocketClosed(1003)
        return str(text)

    async def send(self, text: str) -> None:
        """Send one text; SocketClosed if it is closed."""
        if self._closed:
            raise SocketClosed(self._closed)
        await self._send({"type": "websocket.send", "text": text})

    async def close(self, code: int = 1000, reason: str = "") -> None:
        """End it; once is enough."""
        if self._closed:
            return
        self._closed = code
        short = reason.encode()[:_MAX_REASON].decode(errors="ignore")
        await self._send({"type": "websocket.close", "code": code, "reason": short})
