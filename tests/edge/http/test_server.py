"""The server on real sockets: hostile bytes, limits, TLS, WebSockets, and a clean end."""

import socket
import ssl

import pytest
import trio
from edge.http.serving import certificate, exchange, hear, serving, statuses, websocket
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import ResponseReceived, StreamEnded
from trio_websocket import ConnectionClosed

from ampd.edge.http import server as server_module
from ampd.edge.http.app import HEAD_BYTES
from ampd.edge.http.server import Tls, bind, check_exposure
from ampd.model.errors import Invalid, Unavailable

GET = b"GET /hello HTTP/1.1\r\nHost: localhost\r\n\r\n"
POST = b"POST /echo HTTP/1.1\r\nHost: localhost\r\n"


async def test_a_request_is_answered_and_the_connection_kept():
    async with serving() as server:
        heard = await exchange(server, GET + GET)
        assert statuses(heard) == [200, 200]
        assert b"hello 127.0.0.1 http://localhost" in heard
        assert b"server:" not in heard


async def test_chunks_are_put_together_and_counted():
    async with serving() as server:
        chunked = POST + b"Transfer-Encoding: chunked\r\n\r\n"
        heard = await exchange(server, chunked + b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n")
        assert heard.endswith(b"abcde")
        too_many = b"10000\r\n" + bytes(65536) + b"\r\n"
        heard = await exchange(server, chunked + too_many * 17 + b"0\r\n\r\n")
        assert statuses(heard) == [413]


async def test_who_announces_too_much_hears_it_though_all_of_it_comes():
    async with serving() as server:
        size = 3 << 20
        heard = await exchange(server, POST + b"Content-Length: %d\r\n\r\n" % size + bytes(size))
        assert statuses(heard) == [413]


SMUGGLED = GET.replace(b"/hello", b"/smuggled")


@pytest.mark.parametrize(
    "said",
    {
        "two lengths of different kinds":
            POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + SMUGGLED,
        "two lengths": POST + b"Content-Length: 0\r\nContent-Length: 44\r\n\r\n" + SMUGGLED,
        "a length with a sign": POST + b"Content-Length: +44\r\n\r\n" + SMUGGLED,
        "a length with a blank": POST + b"Content-Length: 4 4\r\n\r\n" + SMUGGLED,
        "a coding that is not known": POST + b"Transfer-Encoding: xchunked\r\n\r\n" + SMUGGLED,
        "chunked, but not last": POST + b"Transfer-Encoding: chunked, gzip\r\n\r\n" + SMUGGLED,
        "chunked, twice":
            POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n\r\n" + SMUGGLED,
        "a chunk without a size": POST + b"Transfer-Encoding: chunked\r\n\r\nxyz\r\n" + SMUGGLED,
        "a chunk with a sign": POST + b"Transfer-Encoding: chunked\r\n\r\n-1\r\n" + SMUGGLED,
        "a chunk that is longer than it says":
            POST + b"Transfer-Encoding: chunked\r\n\r\n1\r\nabc\r\n0\r\n\r\n" + SMUGGLED,
        "a blank before the colon":
            POST + b"Transfer-Encoding : chunked\r\nContent-Length: 44\r\n\r\n" + SMUGGLED,
        "a zero byte": b"GET /hello HTTP/1.1\r\nHost: localhost\r\nX: a\0b\r\n\r\n" + SMUGGLED,
        "two hosts": b"GET /hello HTTP/1.1\r\nHost: localhost\r\nHost: evil\r\n\r\n" + SMUGGLED,
        "no host": b"GET /hello HTTP/1.1\r\n\r\n" + SMUGGLED,
        "no HTTP at all": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n" + SMUGGLED,
    }.items(),
    ids=lambda pair: pair[0],
)  # fmt: skip
async def test_what_two_readers_could_read_differently_is_refused_and_ends_the_connection(said):
    async with serving() as server:
        heard = await exchange(server, said[1])
        found = statuses(heard)
        assert len(found) <= 1, heard
        assert all(400 <= status < 500 or status == 501 for status in found), heard


async def test_lines_that_end_with_lf_alone_are_read_in_one_way_only():
    """h11 takes a bare LF as an end of a line everywhere, as RFC 9112, section 2.2, allows."""
    async with serving() as server:
        heard = await exchange(server, GET.replace(b"\r\n", b"\n"))
        assert statuses(heard) == [200]
        chunked = POST + b"Transfer-Encoding: chunked\r\n\r\n1\na\n0\n\n" + SMUGGLED
        assert 404 not in statuses(await exchange(server, chunked))


async def test_s1_what_others_reach_needs_tls_or_the_owners_word():
    for host in ("127.0.0.1", "::1", "localhost", "127.5.5.5"):
        check_exposure((host, 1), tls=False, plain_http=False)
    for host in ("0.0.0.0", "::", "10.0.0.7", "gateway.example"):
        with pytest.raises(Invalid, match="no TLS") as caught:
            check_exposure((host, 1), tls=False, plain_http=False)
        assert "plain_http" in caught.value.hint
        check_exposure((host, 1), tls=True, plain_http=False)
        check_exposure((host, 1), tls=False, plain_http=True)


async def test_s1_tls_is_1_3_and_speaks_http_1_and_2(tmp_path):
    cert, key, trust = certificate(tmp_path)
    trust.set_alpn_protocols(["h2"])
    async with serving(Tls(cert, key).context()) as server:
        async with await trio.open_tcp_stream(*server.address) as plain:
            stream = trio.SSLStream(plain, trust, server_hostname="localhost")
            await stream.do_handshake()
            assert (stream.version(), stream.selected_alpn_protocol()) == ("TLSv1.3", "h2")
        trust.set_alpn_protocols(["http/1.1"])
        async with await trio.open_tcp_stream(*server.address) as plain:
            stream = trio.SSLStream(
                plain, trust, server_hostname="localhost", https_compatible=True
            )
            await stream.send_all(GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
            heard = await hear(stream)
            assert b"https://localhost" in heard
            assert b"strict-transport-security: max-age=31536000" in heard


async def test_s1_an_older_tls_is_refused(tmp_path):
    cert, key, trust = certificate(tmp_path)
    trust.maximum_version = ssl.TLSVersion.TLSv1_2
    async with serving(Tls(cert, key).context()) as server:
        plain = await trio.open_tcp_stream(*server.address)
        stream = trio.SSLStream(plain, trust, server_hostname="localhost")
        with pytest.raises(trio.BrokenResourceError):
            await stream.do_handshake()
        await plain.aclose()


def test_s1_files_that_are_no_certificate_are_named(tmp_path):
    (tmp_path / "c").write_text("no PEM")
    with pytest.raises(Invalid, match=r"gateway\.certificate"):
        Tls(tmp_path / "c", tmp_path / "missing").context()


async def test_s2_a_head_has_a_size():
    async with serving() as server:
        fits = GET[:-2] + b"X: " + b"a" * (HEAD_BYTES - len(GET) - 100) + b"\r\n\r\n"
        assert statuses(await exchange(server, fits)) == [200]
        over = GET[:-2] + b"X: " + b"a" * (2 * HEAD_BYTES) + b"\r\n\r\n"
        assert statuses(await exchange(server, over)) == [431]


async def test_s2_who_does_not_finish_a_head_is_hung_up_on(monkeypatch):
    monkeypatch.setattr(server_module, "HEAD_WITHIN", 0.05)
    async with serving() as server:
        async with await trio.open_tcp_stream(*server.address) as stream:
            await stream.send_all(GET[:20])
            assert await hear(stream) == b""
        async with await trio.open_tcp_stream(*server.address) as stream:
            assert await hear(stream) == b""  # and who says nothing
        async with await trio.open_tcp_stream(*server.address) as stream:
            await stream.send_all(GET)
            assert statuses(await hear(stream)) == [200]  # and who is done


async def test_s2_who_takes_no_answer_is_hung_up_on(monkeypatch):
    monkeypatch.setattr(server_module, "SEND_WITHIN", 0.05)
    async with serving() as server, await trio.open_tcp_stream(*server.address) as stream:
        await stream.send_all(GET.replace(b"/hello", b"/large"))
        while server.open:
            await trio.lowlevel.checkpoint()


async def test_s3_there_are_only_so_many_connections(monkeypatch):
    monkeypatch.setattr(server_module, "CONNECTIONS", 2)
    async with serving() as server:
        first = await trio.open_tcp_stream(*server.address)
        second = await trio.open_tcp_stream(*server.address)
        while server.open < 2:
            await trio.lowlevel.checkpoint()
        async with await trio.open_tcp_stream(*server.address) as third:
            assert await hear(third) == b""
        await first.aclose()
        await second.aclose()
        while server.open:
            await trio.lowlevel.checkpoint()
        assert statuses(await exchange(server, GET)) == [200]


async def reaches(server):
    """Whether somebody listens there."""
    try:
        await (await trio.open_tcp_stream(*server.address)).aclose()
    except OSError:
        return False
    return True


async def test_s4_what_is_being_answered_is_finished_when_it_stops():
    async with serving() as server, await trio.open_tcp_stream(*server.address) as stream:
        await stream.send_all(GET.replace(b"/hello", b"/slow"))
        await server.service.arrived.wait()
        server.stop()
        while await reaches(server):
            await trio.lowlevel.checkpoint()
        server.service.go_on.set()
        heard = await hear(stream)
        assert statuses(heard) == [200]
        assert heard.endswith(b"at last")


async def test_s4_what_is_not_finished_in_time_is_left(monkeypatch):
    monkeypatch.setattr(server_module, "DRAIN_WITHIN", 0.05)
    async with serving() as server, await trio.open_tcp_stream(*server.address) as stream:
        await stream.send_all(GET.replace(b"/hello", b"/slow"))
        await server.service.arrived.wait()
        server.stop()
        assert statuses(await hear(stream)) == []


async def test_s4_open_websockets_are_told():
    async with serving() as server, websocket(server) as client:
        await client.send_message("hello")
        assert await client.get_message() == "hello"
        server.stop()
        with pytest.raises(ConnectionClosed) as caught:
            await client.get_message()
        assert caught.value.reason.code == 1001


async def test_s5_a_bug_in_one_connection_ends_that_one_only(monkeypatch, caplog):
    async def broken(self):
        while await self._more():
            pass
        raise LookupError("a bug")

    async with serving() as server:
        with monkeypatch.context() as patched:
            patched.setattr("ampd.edge.http.http1.Http1.serve", broken)
            assert await exchange(server, GET) == b""
        assert "this is a bug of ampd" in caplog.text
        assert statuses(await exchange(server, GET)) == [200]


async def test_a_websocket_carries_large_texts_and_answers_pings():
    async with serving() as server, websocket(server) as client:
        await client.send_message("ä" * 400_000)
        assert await client.get_message() == "ä" * 400_000
        await client.ping()
        await client.aclose()


async def test_a_websocket_takes_no_binary():
    async with serving() as server, websocket(server) as client:
        await client.send_message(b"\0")
        with pytest.raises(ConnectionClosed) as caught:
            await client.get_message()
        assert caught.value.reason.code == 1003


UPGRADE = b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"


@pytest.mark.parametrize(
    ("lines", "status"),
    [
        (b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nOrigin: http://evil.example\r\n", 403),
        (b"", 400),
    ],
)
async def test_a_websocket_that_may_not_be_is_refused_with_http(lines, status):
    async with serving() as server:
        asked = GET.replace(b"/hello", b"/ws")[:-2] + UPGRADE + lines + b"\r\n"
        assert statuses(await exchange(server, asked)) == [status]


@pytest.mark.parametrize(
    "said",
    [
        GET[:-2] + b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"
        b"HTTP2-Settings: \r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ],
)  # fmt: skip
async def test_s6_nothing_leads_to_http_2_without_tls(said):
    async with serving() as server:
        heard = await exchange(server, said)
        assert set(statuses(heard)) <= {200, 400, 421}
        assert heard == b"" or heard.startswith(b"HTTP/1.1")
        while server.open:
            await trio.lowlevel.checkpoint()


async def test_s6_http_2_over_tls_is_answered(tmp_path):
    cert, key, trust = certificate(tmp_path)
    trust.set_alpn_protocols(["h2"])
    async with serving(Tls(cert, key).context()) as server:
        plain = await trio.open_tcp_stream(*server.address)
        async with trio.SSLStream(plain, trust, server_hostname="localhost") as stream:
            speaker = H2Connection(H2Configuration(header_encoding="utf-8"))
            speaker.initiate_connection()
            headers = await ask(speaker, stream, authority="localhost")
            assert headers[":status"] == "200"
            assert headers["x-content-type-options"] == "nosniff"
            assert (await ask(speaker, stream, authority="evil.example"))[":status"] == "421"


async def ask(speaker, stream, authority):
    """The headers of the answer to one request over HTTP/2."""
    number = speaker.get_next_available_stream_id()
    head = [
        (":method", "GET"),
        (":scheme", "https"),
        (":authority", authority),
        (":path", "/hello"),
    ]
    speaker.send_headers(number, head, end_stream=True)
    found = {}
    while True:
        await stream.send_all(speaker.data_to_send())
        for event in speaker.receive_data(await stream.receive_some(65536)):
            if isinstance(event, ResponseReceived):
                found = dict(event.headers)
            if isinstance(event, StreamEnded) and event.stream_id == number:
                return found


def test_a_port_that_is_taken_is_a_clear_error():
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(Unavailable, match=f"cannot listen on 127.0.0.1:{port}") as caught:
            bind(("127.0.0.1", port))
        assert "gateway.listen" in caught.value.hint


def test_an_address_of_another_machine_is_a_clear_error():
    with pytest.raises(Unavailable, match=r"cannot listen on 192\.0\.2\.1:1") as caught:
        bind(("192.0.2.1", 1))
    assert "address of this machine" in caught.value.hint
