"""Two AMP providers on loopback: real sockets, found by gateway.resolve, one over TLS."""

from edge.amp.two_gateways import net, register
from edge.http.serving import certificate

from ampd.edge.http.client import HttpClient
from ampd.edge.http.dns import Dns
from ampd.edge.http.server import Server, Tls, bind
from ampd.model.address import Address


async def serve(place, bound, tls=None):
    """It listens when this returns."""
    await place.nursery.start(Server(place.app, bound, tls).run)


async def test_two_providers_bring_each_other_mail_over_http_where_resolve_says_so(tmp_path):
    one, two = bind(("127.0.0.1", 0)), bind(("127.0.0.1", 0))
    urls = [f"http://127.0.0.1:{each.getsockname()[1]}" for each in (one, two)]
    resolve = {"a.example": urls[0], "b.example": urls[1]}
    http = HttpClient(Dns())
    trusted = {"federation": "allowlist", "resolve": resolve}
    async with net(tmp_path, http=http) as network:
        here = await network.gateway(
            "a", amp_domain="a.example", federation_allow=("b.example",), **trusted
        )
        there = await network.gateway(
            "b", amp_domain="b.example", federation_allow=("a.example",), **trusted
        )
        await serve(here, one)
        await serve(there, two)
        alice, bob = await register(here, "alice"), await register(there, "bob")
        sent = await alice.route(bob.address, "Hello Bob")
        assert sent.json["status"] == "queued", sent.text  # the other provider holds it
        (found,) = await bob.news()
        assert found["local"]["security"]["trust"] == "external"
        await bob.route(alice.address, "Hello Alice", in_reply_to=found["id"])
        await alice.news()
        assert await alice.texts() == ["Hello Alice"]
    await http.aclose()


async def test_row_077_over_tls_the_certificate_must_be_the_hosts(tmp_path):
    *files, trust = certificate(tmp_path, "localhost")
    bound = bind(("127.0.0.1", 0))
    port = bound.getsockname()[1]
    resolve = {"b.example": f"https://localhost:{port}", "c.example": f"https://127.0.0.1:{port}"}
    http = HttpClient(Dns(), tls=trust)
    async with net(tmp_path, http=http) as network:
        here = await network.gateway(
            "a", amp_domain="a.example", federation="open", resolve=resolve
        )
        there = await network.gateway("b", amp_domain="b.example", federation="open")
        await serve(there, bound, Tls(*files).context())
        assert await here.amp.find(Address("bob", "acme.b.example"))
        alice = await register(here, "alice")
        assert (await alice.route("bob@acme.c.example")).status == 404
    await http.aclose()
