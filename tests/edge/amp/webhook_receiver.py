"""A receiver of webhooks: a real server on loopback that keeps what it is sent."""

from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial

import trio


@dataclass
class Received:
    """One request as it came."""

    method: str
    path: str
    headers: dict
    body: bytes


@dataclass
class Receiver:
    """Answers each request with the next of `statuses`, the last one again and again."""

    port: int = 0
    statuses: list = field(default_factory=lambda: [200])
    got: list = field(default_factory=list)
    news: trio.Event = field(default_factory=trio.Event)

    @property
    def host(self):
        return f"127.0.0.1:{self.port}"

    @property
    def url(self):
        return f"http://{self.host}/hook?x=1"

    async def serve(self, stream):
        head, body = await _request(stream)
        first, *lines = head.decode().split("\r\n")
        method, path, _ = first.split(" ")
        headers = dict(line.split(": ", 1) for line in lines)
        self.got.append(Received(method, path, {k.lower(): v for k, v in headers.items()}, body))
        status = self.statuses.pop(0) if len(self.statuses) > 1 else self.statuses[0]
        answer = f"HTTP/1.1 {status} Said\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"
        await stream.send_all(answer.encode())
        await stream.aclose()
        self.news.set()
        self.news = trio.Event()

    async def requests(self, count=1):
        """The requests, once there are so many."""
        while len(self.got) < count:
            await self.news.wait()
        return self.got


async def _request(stream):
    data = b""
    while b"\r\n\r\n" not in data:
        data += await stream.receive_some(65536)
    head, _, body = data.partition(b"\r\n\r\n")
    length = next(
        int(line.split(b":")[1])
        for line in head.split(b"\r\n")
        if line.lower().startswith(b"content-length")
    )
    while len(body) < length:
        body += await stream.receive_some(65536)
    return head, body


@asynccontextmanager
async def receiver(*statuses):
    found = Receiver()
    if statuses:
        found.statuses = list(statuses)
    async with trio.open_nursery() as nursery:
        serve = partial(trio.serve_tcp, found.serve, 0, host="127.0.0.1")
        (listener,) = await nursery.start(serve)
        found.port = listener.socket.getsockname()[1]
        yield found
        nursery.cancel_scope.cancel()
