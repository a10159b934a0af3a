"""Answers in pieces: nothing is whole in memory, nothing stays open, no part is the whole."""

import ssl
from contextlib import asynccontextmanager

import pytest
import trio
from edge.gateway_harness import Nothing, scope
from edge.http.serving import certificate, exchange, serving, statuses
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived, ResponseReceived, StreamEnded

from ampd.edge.http.app import App
from ampd.edge.http.guard import Guard
from ampd.edge.http.sending import PIECE_WITHIN, STREAM_WITHIN
from ampd.edge.http.server import Tls
from ampd.edge.http.words import Answer, AnswerBroken, Route
from ampd.model.errors import StorageError

PIECE = bytes(range(256)) * 256
COUNT = 400  # pieces of what nobody takes: 25 MiB, more than what all buffers on the way hold
SOME = 20


class Depot(Nothing):
    """Gives out a long body; knows which pieces were asked for, and whether it is open."""

    def __init__(self):
        super().__init__("echo")
        self.given = 0
        self.open = 0
        self.began = trio.Event()

    def routes(self):
        return (
            Route("GET", "/long", self._long),
            Route("GET", "/some", self._some),
            Route("GET", "/large", self._large),
            Route("GET", "/hello", self._hello),
            Route("GET", "/{how}", self._broken),
        )

    def failure(self, request, exc):
        return Answer.text(503, str(exc))

    async def _hello(self, _request):
        return Answer.text(200, "hello")

    async def _long(self, _request):
        return Answer(200, stream=self._pieces(COUNT), stream_size=COUNT * len(PIECE))

    async def _some(self, _request):
        return Answer(200, stream=self._pieces(SOME), stream_size=SOME * len(PIECE))

    async def _large(self, _request):
        return Answer(200, PIECE * COUNT)

    async def _broken(self, request):
        count, after = {"unread": (0, StorageError("gone")), "torn": (2, StorageError("gone")),
                        "short": (2, None), "longer": (4, None), "bug": (2, KeyError("x")),
                        "empty": (0, None)}[request.params["how"]]  # fmt: skip
        size = 0 if request.params["how"] == "empty" else 3 * len(PIECE)
        return Answer(200, stream=self._pieces(count, after), stream_size=size)

    async def _pieces(self, count, after=None):
        self.open += 1
        self.began.set()
        try:
            for _ in range(count):
                self.given += 1
                yield PIECE
                await trio.lowlevel.checkpoint()
            if after is not None:
                raise after
        finally:
            self.open -= 1


async def ask(depot, path, send, method="GET"):
    app = App([depot], lambda _method, segments, _bearer: ("echo", tuple(segments)), Guard())
    events = [{"type": "http.request", "body": b"", "more_body": False}]

    async def receive():
        await trio.lowlevel.checkpoint()
        return events.pop() if events else {"type": "http.disconnect"}

    await app(scope("http", method, path, {"Host": "localhost"}), receive, send)


def get(path, method=b"GET"):
    return method + b" /" + path + b" HTTP/1.1\r\nHost: localhost\r\n\r\n"


def bodies(heard):
    return [part.partition(b"\r\n\r\n")[2] for part in heard.split(b"HTTP/1.1 ")[1:]]


async def test_sn1_pieces_are_taken_as_they_go():
    depot, sent = Depot(), []

    async def send(event):
        await trio.lowlevel.checkpoint()
        sent.append((event["type"], len(event.get("body", b"")), depot.given))

    await ask(depot, "/some", send)
    assert sent[:2] == [
        ("http.response.start", 0, 1), ("http.response.body", len(PIECE), 1)
    ]  # fmt: skip
    assert sent[2][2] == 2
    assert sum(size for _, size, _ in sent) == SOME * len(PIECE)
    assert depot.open == 0


async def test_sn1_a_stream_has_its_length_and_the_connection_goes_on():
    async with serving(service=Depot()) as server:
        heard = await exchange(server, get(b"some") + get(b"empty") + get(b"hello"))
        assert statuses(heard) == [200, 200, 200]
        assert b"content-length: %d\r\n" % (SOME * len(PIECE)) in heard
        assert bodies(heard) == [PIECE * SOME, b"", b"hello"]


async def test_sn1_head_has_the_same_head_and_begins_nothing():
    async with serving(service=Depot()) as server:
        heard = await exchange(server, get(b"some", b"HEAD") + get(b"hello"))
        assert statuses(heard) == [200, 200]
        assert b"content-length: %d\r\n" % (SOME * len(PIECE)) in heard
        assert bodies(heard) == [b"", b"hello"]
        assert server.service.given == 0


async def test_sn1_what_cannot_be_read_at_all_is_an_error():
    async with serving(service=Depot()) as server:
        heard = await exchange(server, get(b"unread") + get(b"hello"))
        assert statuses(heard) == [503, 200]
        assert bodies(heard)[1] == b"hello"


@pytest.mark.parametrize("how", [b"torn", b"short", b"longer", b"bug"])
async def test_sn3_what_breaks_off_ends_its_connection(how, caplog):
    async with serving(service=Depot()) as server:
        heard = await exchange(server, get(how) + get(b"hello"))
        assert statuses(heard) == [200]
        assert len(bodies(heard)[0]) == (3 if how == b"longer" else 2) * len(PIECE)
        assert server.service.open == 0
    logged = {"ampd.http", "ampd.bugs"} if how == b"bug" else {"ampd.http"}
    assert {each.name for each in caplog.records} == logged


async def test_sn2_a_piece_must_be_taken_in_time(autojump_clock):
    depot, began = Depot(), trio.current_time()

    async def send(event):
        if depot.given == 3:
            await trio.sleep_forever()
        await trio.lowlevel.checkpoint()

    with pytest.raises(AnswerBroken):
        await ask(depot, "/long", send)
    assert (trio.current_time() - began, depot.open) == (PIECE_WITHIN, 0)


async def test_sn2_pieces_do_not_drip_for_ever(autojump_clock):
    depot, began = Depot(), trio.current_time()

    async def send(event):
        await trio.sleep(PIECE_WITHIN - 1)

    with pytest.raises(AnswerBroken):
        await ask(depot, "/long", send)
    assert trio.current_time() - began <= STREAM_WITHIN + PIECE_WITHIN
    assert depot.open == 0


async def closed(server):
    """Wait until no connection is left, and what it sent."""
    while server.open:
        await trio.lowlevel.checkpoint()
    assert server.service.open == 0


async def test_sn4_who_hangs_up_in_the_middle_leaves_nothing(caplog):
    async with serving(service=Depot()) as server:
        async with await trio.open_tcp_stream(*server.address) as stream:
            await stream.send_all(get(b"long"))
            await stream.receive_some(1000)
            assert server.service.open == 1
        await closed(server)
        assert server.service.given < COUNT
    assert caplog.records == []


class Speaker:
    """A client of HTTP/2 that takes what it wants."""

    def __init__(self, stream):
        self.stream = stream
        self.h2 = H2Connection(H2Configuration(header_encoding="utf-8"))
        self.h2.initiate_connection()

    async def ask(self, path, method="GET"):
        number = self.h2.get_next_available_stream_id()
        head = {":method": method, ":scheme": "https", ":authority": "localhost", ":path": path}
        self.h2.send_headers(number, list(head.items()), end_stream=True)
        await self.flush()
        return number

    async def flush(self):
        await self.stream.send_all(self.h2.data_to_send())

    async def events(self):
        data = await self.stream.receive_some(65536)
        if not data:
            raise trio.BrokenResourceError
        found = self.h2.receive_data(data)
        await self.flush()
        return found

    async def answer(self, number):
        """The headers and the body of an answer; its window is opened as it comes."""
        head, body = {}, b""
        while True:
            for event in await self.events():
                if isinstance(event, ResponseReceived):
                    head = dict(event.headers)
                if isinstance(event, DataReceived):
                    body += event.data
                    if event.flow_controlled_length:
                        self.h2.acknowledge_received_data(event.flow_controlled_length, number)
                if isinstance(event, StreamEnded) and event.stream_id == number:
                    return head, body
            await self.flush()


@asynccontextmanager
async def over_http2(folder):
    cert, key, trust = certificate(folder)
    trust.set_alpn_protocols(["h2"])
    async with serving(Tls(cert, key).context(), Depot()) as server:
        plain = await trio.open_tcp_stream(*server.address)
        stream = trio.SSLStream(plain, trust, server_hostname="localhost", https_compatible=True)
        yield server, Speaker(stream)
        await trio.aclose_forcefully(plain)


async def test_sn1_http_2_carries_streams(tmp_path):
    async with over_http2(tmp_path) as (server, speaker):
        head, body = await speaker.answer(await speaker.ask("/some"))
        assert head[":status"] == "200"
        assert (int(head["content-length"]), body) == (SOME * len(PIECE), PIECE * SOME)
        head, body = await speaker.answer(await speaker.ask("/some", "HEAD"))
        assert (int(head["content-length"]), body) == (SOME * len(PIECE), b"")
        assert (await speaker.answer(await speaker.ask("/unread")))[0][":status"] == "503"
        assert server.service.open == 0


@pytest.mark.parametrize("how", ["/torn", "/short", "/bug"])
async def test_sn3_http_2_ends_what_breaks_off(tmp_path, how):
    async with over_http2(tmp_path) as (server, speaker):
        number = await speaker.ask(how)
        with pytest.raises((trio.BrokenResourceError, ssl.SSLError)):
            await speaker.answer(number)
        await closed(server)


@pytest.mark.parametrize("path", ["/long", "/large"])
async def test_sn4_who_hangs_up_over_http_2_leaves_nothing(tmp_path, path):
    async with over_http2(tmp_path) as (server, speaker):
        await speaker.ask(path)
        while not any(isinstance(each, DataReceived) for each in await speaker.events()):
            pass
        await trio.aclose_forcefully(speaker.stream.transport_stream)
        await closed(server)
        assert server.service.given < COUNT


async def test_sn4_who_wants_a_stream_no_more_over_http_2_gets_other_answers(tmp_path):
    async with over_http2(tmp_path) as (server, speaker):
        number = await speaker.ask("/long")
        while not any(isinstance(each, DataReceived) for each in await speaker.events()):
            pass
        speaker.h2.reset_stream(number)
        await speaker.flush()
        while server.service.open:
            await trio.lowlevel.checkpoint()
        assert server.service.given < COUNT
        assert (await speaker.answer(await speaker.ask("/hello")))[1] == b"hello"
