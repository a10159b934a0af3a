"""Bodies that a route takes as they come, without a socket and over one."""

import hashlib
from contextlib import aclosing

import trio
from edge.gateway_harness import Nothing, scope
from edge.http.serving import exchange, serving, statuses

from ampd.edge.http.app import BODY_WITHIN, App
from ampd.edge.http.guard import Guard
from ampd.edge.http.words import Answer, Route

LIMIT = 1 << 20


class Depot(Nothing):
    """Takes a stream, and says its hash; or nothing of it."""

    def __init__(self):
        super().__init__("echo")
        self.pieces = []

    def routes(self):
        return (
            Route("PUT", "/taken", self._take, LIMIT, any_type=True, stream=True),
            Route("PUT", "/refused", self._refuse, LIMIT, any_type=True, stream=True),
        )

    async def _take(self, request):
        hashed = hashlib.sha256()
        async with aclosing(request.stream) as pieces:
            async for piece in pieces:
                self.pieces.append(len(piece))
                hashed.update(piece)
        return Answer.text(200, hashed.hexdigest())

    async def _refuse(self, _request):
        await trio.lowlevel.checkpoint()
        return Answer(403)


async def put(depot, path, pieces, **headers):
    """The answer's status; a piece may be an event, too."""
    app = App([depot], lambda _method, segments, _bearer: ("echo", tuple(segments)), Guard())
    sent, events = [], [{"type": "http.request", "body": p, "more_body": True} for p in pieces]
    events.append({"type": "http.request", "body": b"", "more_body": False})

    async def receive():
        await trio.lowlevel.checkpoint()
        if not events:
            await trio.sleep_forever()
        return events.pop(0)

    async def send(event):
        await trio.lowlevel.checkpoint()
        sent.append(event)

    if headers.pop("stuck", None):
        del events[1:]
    await app(scope("http", "PUT", path, {"Host": "localhost", **headers}), receive, send)
    return sent[0]["status"], b"".join(each.get("body", b"") for each in sent[1:])


async def test_a_stream_comes_piece_by_piece():
    depot = Depot()
    pieces = [b"one", b"two", b"three"]
    status, said = await put(depot, "/taken", pieces)
    assert (status, said.decode()) == (200, hashlib.sha256(b"".join(pieces)).hexdigest())
    assert depot.pieces == [3, 3, 5, 0]


async def test_h2_a_stream_is_no_longer_than_its_route_allows():
    status, _ = await put(Depot(), "/taken", [bytes(LIMIT), b"x"])
    assert status == 413
    status, _ = await put(Depot(), "/taken", [], **{"Content-Length": str(LIMIT + 1)})
    assert status == 413


async def test_h4_each_piece_of_a_stream_must_come_in_time(autojump_clock):
    began = trio.current_time()
    status, _ = await put(Depot(), "/taken", [b"one"], stuck=True)
    assert status == 408
    assert BODY_WITHIN <= trio.current_time() - began < BODY_WITHIN + 5


async def test_a_stream_that_nobody_reads_is_answered_and_is_the_last_on_its_connection():
    async with serving(service=Depot()) as server:
        host = f"Host: localhost\r\nContent-Length: {LIMIT}\r\n\r\n".encode()
        asked = b"PUT /refused HTTP/1.1\r\n" + host + bytes(LIMIT)
        heard = await exchange(server, asked)
        assert statuses(heard) == [403]
        taken = await exchange(server, b"PUT /taken HTTP/1.1\r\n" + host + bytes(LIMIT))
        assert statuses(taken) == [200]
        assert hashlib.sha256(bytes(LIMIT)).hexdigest().encode() in taken
