"""Requests one after another on one connection of HTTP/1.1, and where it ends."""

import trio
from edge.http.serving import exchange, hear, serving, statuses, websocket
from edge.http.test_server import GET, POST

from ampd.edge.http import server as server_module


async def answer(stream, until):
    heard = b""
    while until not in heard:
        heard += await stream.receive_some(65536)
    return heard


async def test_t1_between_requests_a_caller_has_a_while(monkeypatch):
    monkeypatch.setattr(server_module, "HEAD_WITHIN", 0.05)
    async with serving() as server, await trio.open_tcp_stream(*server.address) as stream:
        await stream.send_all(GET)
        assert statuses(await hear(stream)) == [200]


async def test_t1_an_answer_that_takes_long_is_no_idle_time(monkeypatch):
    monkeypatch.setattr(server_module, "HEAD_WITHIN", 0.05)
    async with serving() as server, await trio.open_tcp_stream(*server.address) as stream:
        await stream.send_all(GET.replace(b"/hello", b"/slow"))
        await server.service.arrived.wait()
        await trio.sleep(0.1)
        server.service.go_on.set()
        assert b"at last" in await hear(stream)


async def test_t2_what_is_no_http_is_answered_once_and_ends_the_connection():
    async with serving() as server:
        heard = await exchange(server, b"hello there\r\n\r\n" + GET)
        assert statuses(heard) == [400]
        assert b"connection: close" in heard.lower()


async def test_t2_a_body_that_ends_too_soon_is_the_last_of_its_connection():
    async with serving() as server:
        assert statuses(await exchange(server, POST + b"Content-Length: 9\r\n\r\nabc")) == [400]


async def test_t2_who_wants_no_more_is_hung_up_on():
    async with serving() as server:
        last = GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
        assert statuses(await exchange(server, last + GET)) == [200]
        old = GET.replace(b"HTTP/1.1", b"HTTP/1.0")
        assert statuses(await exchange(server, old + GET)) == [200]


async def test_t3_requests_sent_ahead_are_answered_in_their_order():
    async with serving() as server:
        posts = [POST + b"Content-Length: 3\r\n\r\n%03d" % number for number in range(50)]
        heard = await exchange(server, b"".join(posts) + GET)
        assert statuses(heard) == [200] * 51
        bodies = [part.partition(b"\r\n\r\n")[2] for part in heard.split(b"HTTP/1.1 ")[1:]]
        assert bodies[:50] == [b"%03d" % number for number in range(50)]


async def test_t4_who_asks_first_is_told_to_go_on():
    async with serving() as server, await trio.open_tcp_stream(*server.address) as stream:
        await stream.send_all(POST + b"Content-Length: 3\r\nExpect: 100-continue\r\n\r\n")
        assert statuses(await answer(stream, b"\r\n\r\n")) == [100]
        await stream.send_all(b"abc")
        assert statuses(await answer(stream, b"abc")) == [200]


async def test_t4_who_announces_too_much_is_not_told_to_go_on():
    async with serving() as server, await trio.open_tcp_stream(*server.address) as stream:
        size = b"Content-Length: %d\r\n" % (3 << 20)
        await stream.send_all(POST + size + b"Expect: 100-continue\r\n\r\n")
        await stream.send_eof()
        assert statuses(await hear(stream))[-1] == 413


async def test_t5_a_connection_that_had_requests_becomes_a_websocket():
    upgrade = (
        b"GET /ws HTTP/1.1\r\nHost: localhost\r\nConnection: keep-alive, Upgrade\r\n"
        b"Upgrade: WebSocket\r\nSec-WebSocket-Version: 13\r\n"
        b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    )
    async with serving() as server, await trio.open_tcp_stream(*server.address) as stream:
        await stream.send_all(GET + upgrade)
        heard = await answer(stream, b"sec-websocket-accept")
        assert statuses(heard) == [200, 101]
        await stream.send_all(b"\x81\x82" + bytes(4) + b"hi")
        assert b"hi" in await answer(stream, b"\x81\x02hi")
    async with serving() as server, websocket(server) as client:
        await client.send_message("and so does a fresh one")
        assert await client.get_message() == "and so does a fresh one"


async def test_t5_a_websocket_that_does_not_wait_for_its_answer_is_refused(caplog):
    upgrade = (
        b"GET /ws HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\n"
        b"Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
        b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
    )
    async with serving() as server:
        for rest in (b"\r\n\xff\xff", b"Content-Length: 3\r\n\r\nabc"):
            assert statuses(await exchange(server, upgrade + rest)) == [400]
        assert statuses(await exchange(server, GET)) == [200]
    assert not caplog.records  # no bug of ours


async def test_an_answer_to_head_has_the_length_of_its_body_and_none():
    async with serving() as server:
        heard = await exchange(server, GET.replace(b"GET", b"HEAD") + GET)
        assert statuses(heard) == [200, 200]
        first = heard.split(b"HTTP/1.1 ")[1]
        assert first.endswith(b"\r\n\r\n") and b"content-length: 0" not in first
        options = GET.replace(b"GET", b"OPTIONS")
        assert statuses(await exchange(server, options + GET)) == [204, 200]
