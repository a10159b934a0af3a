"""Peer sessions over real sockets, on loopback only."""

import socket
import struct
from contextlib import suppress

import pytest
import trio
from contracts.carriers import tcp_node
from protocol.harness import ALICE, BOB, LETTER, STATIC, Shelf, letter

from ampd.edge import peer_tcp
from ampd.edge.peer_sockets import (
    MAX_HALF_OPEN,
    MAX_HALF_OPEN_EACH,
    HalfOpen,
    open_listeners,
    parse_listen,
    prove,
)
from ampd.model.encoding import encode
from ampd.model.errors import Invalid, Unavailable
from ampd.model.message import Delivery
from ampd.protocol.framing import frame, record
from ampd.protocol.handshake import OPENING, Handshake

DELIVERED = Delivery("delivered", b"a receipt")
HAS_IPV6 = socket.has_ipv6


async def call(node, host="127.0.0.1"):
    return await trio.open_tcp_stream(host, node.port)


async def all_that_comes(stream):
    """Every byte until the other side closes."""
    heard = b""
    async with stream:
        with trio.fail_after(20), suppress(trio.BrokenResourceError):
            while data := await stream.receive_some():
                heard += data
    return heard


async def test_two_nodes_that_call_each_other_at_once_keep_one_session():
    async with tcp_node(ALICE, Shelf()) as alice, tcp_node(BOB, Shelf()) as bob:
        alice.whereabouts.sighted(BOB.public, [("127.0.0.1", bob.port)], "mdns")
        bob.whereabouts.sighted(ALICE.public, [("127.0.0.1", alice.port)], "mdns")
        async with trio.open_nursery() as nursery:
            for number in range(50):
                nursery.start_soon(alice.deliver, BOB.public, letter(number))
                nursery.start_soon(bob.deliver, ALICE.public, letter(number))
        assert len(bob.door.kept) == len(alice.door.kept) == 50
        with trio.fail_after(20):
            while alice._budget.sessions != 1 or bob._budget.sessions != 1:
                await trio.lowlevel.checkpoint()


@pytest.mark.parametrize("listen", ["0.0.0.0:0", "[::]:0"])
async def test_every_address_of_both_families_is_listened_on_with_one_port(listen):
    async with tcp_node(BOB, Shelf(), listen=listen) as bob:
        async with tcp_node(ALICE, Shelf()) as alice:
            alice.whereabouts.sighted(BOB.public, [("127.0.0.1", bob.port)], "static")
            assert await alice.deliver(BOB.public, LETTER) == DELIVERED
        if HAS_IPV6:
            async with tcp_node(ALICE, Shelf()) as alice:
                alice.whereabouts.sighted(BOB.public, [("::1", bob.port)], "static")
                assert await alice.deliver(BOB.public, letter(2)) == DELIVERED


async def test_a_node_that_listens_nowhere_calls_all_the_same():
    async with tcp_node(ALICE, Shelf(), listen="") as alice, tcp_node(BOB, Shelf()) as bob:
        assert alice.port == 0
        alice.whereabouts.sighted(BOB.public, [("127.0.0.1", bob.port)], "static")
        assert await alice.deliver(BOB.public, LETTER) == DELIVERED
        assert await bob.deliver(ALICE.public, LETTER) == DELIVERED
        assert bob.whereabouts.endpoints(ALICE.public) == []


async def test_a_port_that_is_taken_is_an_error_that_names_the_setting():
    async with tcp_node(ALICE, Shelf()) as alice:
        with pytest.raises(Unavailable, match="cannot listen on") as taken:
            await open_listeners(f"127.0.0.1:{alice.port}")
    assert "AMPD_PEER_LISTEN" in taken.value.hint


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("0.0.0.0:4160", ("0.0.0.0", 4160)),
        ("[::]:4160", ("::", 4160)),
        ("[fe80::1%eth0]:1", ("fe80::1%eth0", 1)),
        ("laptop.local:0", ("laptop.local", 0)),
        (":4160", ("", 4160)),
    ],
)
def test_a_place_to_listen_is_a_host_and_a_port(text, place):
    assert parse_listen(text) == place


@pytest.mark.parametrize("text", ["4160", "::1:4160", "host:", "host:65536", "host:-1", "host:x"])
def test_anything_else_is_an_error_that_shows_the_form(text):
    with pytest.raises(Invalid) as invalid:
        parse_listen(text)
    assert "HOST:PORT" in invalid.value.hint


GARBAGE = {
    "a browser": b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "TLS": bytes.fromhex("160301020001"),
    "zeros": bytes(4096),
    "another version": b"ampd/9\n" + bytes(64),
    "a first message that is too long": OPENING + record(bytes(33)),
    "a kibibyte and more": OPENING + bytes(2000),
}


@pytest.mark.parametrize("what", GARBAGE)
async def test_p5_garbage_at_the_port_gets_no_answer(what):
    async with tcp_node(BOB, Shelf()) as bob:
        stream = await call(bob)
        await stream.send_all(GARBAGE[what])
        assert await all_that_comes(stream) == b""
        async with tcp_node(ALICE, Shelf()) as alice:
            alice.whereabouts.sighted(BOB.public, [("127.0.0.1", bob.port)], "static")
            assert await alice.deliver(BOB.public, LETTER) == DELIVERED


async def test_p5_a_first_message_of_low_order_ends_the_handshake():
    async with tcp_node(BOB, Shelf()) as bob:
        stream = await call(bob)
        await stream.send_all(OPENING + record(bytes(32)))
        assert await all_that_comes(stream) == b""


async def test_p5_a_caller_that_proves_its_key_and_then_breaks_the_protocol_is_forgotten():
    async with tcp_node(BOB, Shelf()) as bob, await call(bob) as stream:
        handshake = Handshake.calling(ALICE, STATIC[ALICE])
        channel = await prove(stream, handshake)
        await stream.send_all(channel.seal(frame(encode([2, 1]))))
        await all_that_comes(stream)
        assert bob.peers() == []


async def test_more_than_a_window_of_large_envelopes_passes():
    async with tcp_node(ALICE, Shelf()) as alice, tcp_node(BOB, Shelf()) as bob:
        alice.whereabouts.sighted(BOB.public, [("127.0.0.1", bob.port)], "static")
        async with trio.open_nursery() as nursery:
            for number in range(24):
                nursery.start_soon(alice.deliver, BOB.public, letter(number, 1 << 19))
        assert len(bob.door.kept) == 24


async def test_p5_callers_that_reset_the_connection_disturb_nobody():
    async with tcp_node(BOB, Shelf()) as bob:
        for said in (b"", OPENING, OPENING + record(b"x" * 32)):
            for _ in range(5):
                stream = await call(bob)
                await stream.send_all(said or b"a")
                stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                await trio.aclose_forcefully(stream)
        async with tcp_node(ALICE, Shelf()) as alice:
            alice.whereabouts.sighted(BOB.public, [("127.0.0.1", bob.port)], "static")
            assert await alice.deliver(BOB.public, LETTER) == DELIVERED


async def test_who_speaks_too_slowly_is_closed_without_an_answer(monkeypatch):
    monkeypatch.setattr(peer_tcp, "HANDSHAKE_WITHIN", 0.2)
    async with tcp_node(BOB, Shelf()) as bob:
        silent, slow = await call(bob), await call(bob)
        await slow.send_all(OPENING[:3])
        assert await all_that_comes(silent) == b""
        assert await all_that_comes(slow) == b""


async def test_so_many_handshakes_of_one_address_are_under_way_and_no_more():
    async with tcp_node(BOB, Shelf()) as bob:
        waiting = [await call(bob) for _ in range(MAX_HALF_OPEN_EACH)]
        for stream in waiting:
            await stream.send_all(OPENING[:1])
        with trio.fail_after(20):
            while bob._half_open._by_source.total() < MAX_HALF_OPEN_EACH:
                await trio.lowlevel.checkpoint()
        assert await all_that_comes(await call(bob)) == b"", "one too many"
        for stream in waiting:
            await stream.aclose()
        with trio.fail_after(20):
            while bob._half_open._by_source.total() == MAX_HALF_OPEN_EACH:
                await trio.lowlevel.checkpoint()
        async with tcp_node(ALICE, Shelf()) as alice:
            alice.whereabouts.sighted(BOB.public, [("127.0.0.1", bob.port)], "static")
            assert await alice.deliver(BOB.public, LETTER) == DELIVERED


def test_half_open_handshakes_are_counted_by_address_and_in_all():
    half_open = HalfOpen()
    assert all(half_open.admit("10.0.0.1") for _ in range(MAX_HALF_OPEN_EACH))
    assert not half_open.admit("10.0.0.1")
    others = [f"10.0.1.{number}" for number in range(MAX_HALF_OPEN - MAX_HALF_OPEN_EACH)]
    assert all(half_open.admit(host) for host in others)
    assert not half_open.admit("10.0.2.1"), "all in all"
    half_open.release("10.0.0.1")
    assert half_open.admit("10.0.2.1")


def test_an_ipv6_network_counts_as_one_address():
    half_open = HalfOpen()
    for number in range(MAX_HALF_OPEN_EACH):
        assert half_open.admit(f"2001:db8::{number}")
    assert not half_open.admit("2001:db8::ffff")
    assert half_open.admit("2001:db8:0:1::1")
    assert half_open.admit("fe80::1%eth0")
