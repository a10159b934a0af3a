"""Both protocols on one port, and the way out to their other servers."""

import fakes
import pytest
import trio
from edge.gateway_harness import Nothing, gateway

from ampd.core.ports import Parcel
from ampd.edge.gateway import Gateway
from ampd.edge.gateway_app import application
from ampd.edge.gateway_paths import AMP, AMTP
from ampd.edge.http.server import bind
from ampd.model.address import Address
from ampd.model.errors import Refused


def nobody(shared):
    """For a test that makes its own Gateway of what the services are given."""
    return [Nothing(AMP), Nothing(AMTP)]


async def status(port, path):
    """The status line of a real request."""
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        await stream.send_all(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        return (await stream.receive_some(9 + 3)).decode()


async def test_w1_both_protocols_answer_on_one_port_as_long_as_it_runs(tmp_path):
    async with gateway(tmp_path, services=nobody) as here, trio.open_nursery() as nursery:
        bound = bind(("127.0.0.1", 0))
        port = bound.getsockname()[1]
        await nursery.start(Gateway(here.shared).run, bound)
        assert await status(port, "/health") == "HTTP/1.1 200"  # AMTP's
        assert await status(port, "/v1/health") == "HTTP/1.1 200"  # AMP's
        nursery.cancel_scope.cancel()
    with pytest.raises(OSError, match="all attempts"):
        await trio.open_tcp_stream("127.0.0.1", port)


async def test_w2_an_address_that_nobody_reaches_has_no_protocol(tmp_path):
    async with gateway(tmp_path, services=nobody, federation="closed") as here:
        assert await Gateway(here.shared).find(Address("bob", "nowhere.invalid")) == ""


async def test_w2_a_parcel_for_a_protocol_that_is_gone_is_refused_for_good(tmp_path):
    async with gateway(tmp_path, services=nobody) as here:
        alice = await here.node.agent("alice")
        bob = Address("bob", "b.example")
        parcel = Parcel(alice, bob, fakes.message(alice, alice), b"", 0)
        with pytest.raises(Refused, match=r"no way to bob@b\.example"):
            await Gateway(here.shared).carry("uucp", parcel)


async def test_the_names_of_the_settings_are_welcome_in_the_host_header(tmp_path):
    async with gateway(tmp_path, services=nobody, hosts=("amp.example:443",)) as here:
        here.app = application(here.shared.values, nobody(here.shared))
        for name in ("here.local", "aimaestro.local", "localhost", "amp.example"):
            assert (await here.get("/health", headers={"Host": name})).status == 404
        assert (await here.get("/health", headers={"Host": "evil.example"})).status == 421
