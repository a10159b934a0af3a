"""Mail that goes to other providers: carrying.py and departing.py, by their rules."""

import base64
import json

import fakes
import pytest
import trio
from edge.amp.two_gateways import Stranger, net, register

from ampd.crypto.foreign_keys import ForeignKey
from ampd.edge.amp import departing
from ampd.edge.http.client import Reply
from ampd.model.address import Address

BOB = "bob@default.b.example"


async def two_providers(network, **values):
    """Alice's provider and Bob's, which trust each other."""
    found = {"federation": "open", **values}
    here = await network.gateway("a", **{"amp_domain": "a.example", **found})
    there = await network.gateway("b", amp_domain="b.example", federation="open")
    return await register(here, "alice"), await register(there, "bob")


def taking(network, answer):
    """A provider that answers every delivery so, and notes what came."""
    found = Stranger(network, "taking.example")
    serve, came = network.wires.hosts[found.domain], []

    def script(method, url, headers, body):
        if method == "GET":
            return serve(method, url, headers, body)
        came.append((url, headers, json.loads(body), body))
        reply = answer[0] if isinstance(answer, list) and len(answer) == 1 else answer
        if isinstance(answer, list) and len(answer) > 1:
            reply = answer.pop(0)
        return reply

    network.wires.hosts[found.domain] = script
    return found, came


def reply(status, /, **document):
    return Reply(status, {}, json.dumps(document).encode())


async def test_a_message_to_another_provider_gets_there_and_back(tmp_path):
    async with net(tmp_path) as network:
        alice, bob = await two_providers(network)
        sent = await alice.route(BOB, "Hello Bob")
        assert sent.status == 200, sent.text
        (found,) = await bob.news()
        assert found["envelope"]["id"] == sent.json["id"]
        assert (found["envelope"]["from"], found["payload"]["message"]) == (
            "alice@default.a.example", "Hello Bob",
        )  # fmt: skip
        assert found["sender_public_key"] == alice.signer.public.raw.hex()
        assert found["local"]["security"]["trust"] == "external"
        answer = await bob.route(alice.address, "Hello Alice", in_reply_to=found["id"])
        assert answer.status == 200
        (back,) = await alice.news()
        assert back["envelope"]["in_reply_to"] == sent.json["id"]


async def test_cr2_the_request_is_signed_by_the_providers_key(tmp_path):
    async with net(tmp_path) as network:
        alice, _ = await two_providers(network)
        _, came = taking(network, reply(200, accepted=True, delivered=True, id="x"))
        await alice.route("eve@acme.taking.example")
        ((url, headers, document, body),) = came
        assert url == "https://taking.example/api/v1/federation/deliver"
        assert headers["X-AMP-Provider"] == "a.example"
        signed = f"{headers['X-AMP-Timestamp']}.".encode() + body
        key = alice.place.amp.transport.provider.signer.public
        signature = base64.b64decode(headers["X-AMP-Signature"])
        assert key.verify(signature, signed, "Ed25519")
        assert list(document) == ["envelope", "payload", "sender_public_key"]
        assert ForeignKey.from_pem(document["sender_public_key"]) == alice.signer.public


async def test_dp1_what_the_agents_program_signed_goes_as_it_was_signed(tmp_path):
    async with net(tmp_path) as network:
        alice, _ = await two_providers(network)
        _, came = taking(network, reply(200, accepted=True))
        body = alice.message("eve@acme.taking.example", "Zahl")
        await alice.place.post("/api/v1/route", body, token=alice.token)
        document = came[0][2]
        assert (
            document["envelope"].items()
            >= {
                name: value for name, value in body["envelope"].items() if value is not None
            }.items()
        )
        assert document["payload"] == body["payload"]


async def test_dp1_an_agent_without_an_account_is_signed_for_by_its_node(tmp_path):
    async with net(tmp_path) as network:
        alice, bob = await two_providers(network)
        node = alice.place.node
        nora = await node.agent("nora")
        await alice.place.abroad.find([BOB])
        await node.send(nora, BOB, "from amp send")
        (found,) = await bob.news()
        assert found["envelope"]["from"] == "nora@default.a.example"
        assert found["payload"]["message"] == "from amp send"
        assert found["local"]["security"]["trust"] == "external"
        key = alice.place.amp.transport.provider.signer_of(nora).public
        assert found["sender_public_key"] == key.raw.hex()


async def test_dp1_each_of_several_recipients_has_an_envelope_of_its_own(tmp_path):
    async with net(tmp_path) as network:
        alice, bob = await two_providers(network)
        carol = await register(bob.place, "carol")
        node = alice.place.node
        nora = await node.agent("nora")
        await alice.place.abroad.find([BOB, carol.address])
        await node.send(nora, (BOB, carol.address), "to both")
        for person in (bob, carol):
            (found,) = await person.news()
            assert found["envelope"]["to"] == person.address


async def test_dp2_a_body_over_the_limit_is_refused_and_not_cut(tmp_path, monkeypatch):
    monkeypatch.setattr(departing, "MAX_BODY", 1000)  # fakes.LIMIT allows no 64 KiB of text
    async with net(tmp_path) as network:
        alice, bob = await two_providers(network)
        node = alice.place.node
        nora = await node.agent("nora")
        await alice.place.abroad.find([BOB])
        sent = await node.send(nora, BOB, "ü" * 501)
        await settled(node, nora, sent.id, "failed")
        assert await bob.pending() == []
        assert "at most 1000 bytes" in node.bodies(nora)[0]


async def settled(node, agent, identifier, status):
    """Wait until a message that was sent has this status."""
    while True:
        changed = node.store.changed(("sent", agent.key))
        if node.status(agent, identifier) == status:
            return
        await changed.wait()


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        (reply(200, accepted=True, delivered=True), "delivered"),
        (reply(200, accepted=True, delivered=False), "relayed"),
        (reply(200, id="x", status="delivered", method="local"), "delivered"),
        (reply(200, id="x", status="queued", method="relay"), "relayed"),
        (reply(409, accepted=False, error="duplicate_message"), "relayed"),
        (reply(200, accepted=False, error="odd"), "failed"),
        (reply(404, accepted=False, error="recipient_not_found"), "failed"),
        (reply(403, accepted=False, error="provider_not_trusted"), "failed"),
    ],
)
async def test_cr4_dp3_what_an_answer_means(tmp_path, answer, status):
    async with net(tmp_path) as network:
        alice, _ = await two_providers(network)
        taking(network, answer)
        sent = await alice.route("eve@acme.taking.example")
        words = {"relayed": "queued", "delivered": "delivered", "failed": "failed"}
        assert sent.json["status"] == words[status]
        agent = alice.place.node.agents.named("alice")
        found = alice.place.node.lists.listing(agent, fakes.Filter(box="sent")).messages
        assert found[0].status == status


@pytest.mark.parametrize("first", [reply(503), reply(429, error="rate_limited"), 421])
async def test_dp3_what_may_pass_is_offered_again(tmp_path, autojump_clock, first):
    async with net(tmp_path, fakes.JumpingClock(autojump_clock)) as network:
        alice, _ = await two_providers(network)
        _, came = taking(network, [first, reply(200, accepted=True, delivered=True)])
        sent = await alice.route("eve@acme.taking.example")
        assert sent.json["status"] in ("delivered", "queued")
        agent = alice.place.node.agents.named("alice")
        (found,) = alice.place.node.lists.listing(agent, fakes.Filter(box="sent")).messages
        await settled(alice.place.node, agent, found.id, "delivered")
        assert len(came) == 2


async def test_cr1_cr3_a_provider_of_this_network_cannot_federate(tmp_path):
    async with net(tmp_path) as network:
        alice, _ = await two_providers(network, amp_domain="aimaestro.local")
        answer = await alice.route(BOB)
        assert answer.status == 404
        assert not await alice.place.amp.find(Address("bob", "default.b.example"))
        assert network.wires.asked == []
        assert (await alice.place.get("/api/v1/health")).json["federation"] is False


async def test_cr3_who_is_closed_sends_nothing_either(tmp_path):
    async with net(tmp_path) as network:
        alice, _ = await two_providers(network, federation="closed")
        assert (await alice.route(BOB)).status == 404
        assert network.wires.asked == []


async def test_a_provider_that_is_away_gets_it_later(tmp_path, autojump_clock):
    async with net(tmp_path, fakes.JumpingClock(autojump_clock)) as network:
        alice, bob = await two_providers(network)
        await alice.route(BOB, "first")
        await bob.news()
        network.wires.down.add("b.example")
        said = (await alice.route(BOB, "second")).json
        assert (said["status"], said["method"]) == ("queued", "relay")
        await trio.sleep(3600)
        network.wires.down.clear()
        await bob.news(2)
        assert await bob.texts() == ["first", "second"]


async def test_dp3_the_same_words_twice_within_minutes_come_twice_in_the_end(
    tmp_path, autojump_clock
):
    async with net(tmp_path, fakes.JumpingClock(autojump_clock)) as network:
        alice, bob = await two_providers(network)
        await alice.route(BOB, "ok")
        await bob.news()
        again = (await alice.route(BOB, "ok")).json  # signed alike, for Ed25519 signs no time
        assert again["status"] == "queued"
        await bob.news(2)
        assert await bob.texts() == ["ok", "ok"]


async def test_gateway_resolve_finds_a_provider_without_dns_over_http(tmp_path):
    async with net(tmp_path) as network:
        place = await network.gateway(
            "a", amp_domain="a.example", federation="open", hosts=("192.0.2.1",),
            resolve={"b.example": "http://192.0.2.2:23001"},
        )  # fmt: skip
        there = await network.gateway(
            "b", amp_domain="b.example", federation="allowlist", hosts=("192.0.2.2",),
            federation_allow=("a.example",), resolve={"a.example": "http://192.0.2.1:23001"},
        )  # fmt: skip
        network.wires.hosts = {"192.0.2.1": place, "192.0.2.2": there}
        alice, bob = await register(place, "alice"), await register(there, "bob")
        assert (await alice.route(BOB, "by resolve")).status == 200
        await bob.news()
        assert await bob.texts() == ["by resolve"]
