"""The rules that the parts of the AMP provider state, beside what the checklist asks."""

import dataclasses
import hashlib
import json
import re
import socket
from random import Random
from urllib.parse import quote

import fakes
import pytest
from edge.amp.amp_client import AmpClient, b64, provider, when
from edge.http.serving import exchange, statuses

from ampd.core.lists import Filter
from ampd.edge.amp import loopback
from ampd.edge.amp.owners import Owners, owner_in
from ampd.edge.http.server import Server, bind
from ampd.edge.http.words import Request
from ampd.protocol.amp.faults import Fault
from ampd.protocol.amp.ids import native_id

DAY = 86_400_000


@pytest.fixture
async def here(tmp_path):
    async with provider(tmp_path, limits={"register": 0}) as found:
        found.amp.registration.is_own_user = lambda request: False
        yield found


def admin(here, *keys):
    here.shared.values.admin_keys.write_text("\n".join(keys) + "\n")
    return keys[0]


async def status(client, path="/v1/agents/me"):
    return (await client.get(path)).status


async def test_ac1_nothing_of_an_api_key_is_kept_but_its_hash(here):
    alice = await here.client("alice")
    file = (here.node.folder / "gateway.db").read_bytes()
    file += (here.node.folder / "gateway.db-wal").read_bytes()
    assert alice.token.encode() not in file
    assert alice.token.removeprefix("amp_live_sk_").encode() not in file
    assert hashlib.sha256(alice.token.encode()).hexdigest().encode() in file


async def test_ac2_replacing_a_key_again_gives_an_older_one_no_more_time(here):
    alice = await here.client("alice")
    oldest = alice.token
    alice.token = (await alice.post("/v1/auth/rotate-key")).json["api_key"]
    here.clock.time += DAY // 2
    alice.token = (await alice.post("/v1/auth/rotate-key")).json["api_key"]
    here.clock.time += DAY // 2
    assert (await here.get("/v1/agents/me", token=oldest)).status == 401
    assert await status(alice) == 200


async def test_ac4_a_user_key_says_why_it_is_no_api_key(here):
    key = (await here.get("/v1/auth/user-key", token=admin(here, "k"))).json["user_key"]
    reply = await here.get("/v1/agents/me", token=key)
    assert reply.status == 401 and "user key" in reply.json["message"]


async def test_lb1_the_kernel_says_whose_a_connection_over_loopback_is():
    with socket.create_server(("127.0.0.1", 0)) as server:
        with socket.create_connection(server.getsockname()) as client:
            host, port = client.getsockname()
            ours = _request(host, port)
            assert loopback.is_own_user(ours)
            for changes in (
                {"peer": "10.0.0.9"}, {"base": "http://mail.example"}, {"peer_port": 0},
                {"headers": {"x-forwarded-for": "203.0.113.9"}},
                {"headers": {"via": "1.1 proxy"}},
            ):  # fmt: skip
                assert not loopback.is_own_user(dataclasses.replace(ours, **changes)), changes
        assert not loopback.is_own_user(_request(host, 1))


def _request(host, port):
    return Request(
        method="POST", path="/register", raw_path="/register", params={}, query={}, headers={},
        body=b"", peer=host, peer_port=port, id="", secure=False, base="http://localhost:23000",
    )  # fmt: skip


async def test_lb1_the_connections_of_another_user_are_not_ours(monkeypatch):
    server = socket.create_server(("127.0.0.1", 0))
    with server, socket.create_connection(server.getsockname()) as client:
        ours = _request(*client.getsockname())
        monkeypatch.setattr(loopback.os, "getuid", lambda: 54321)
        assert not loopback.is_own_user(ours)


async def test_ow1_a_user_key_stays_the_same_and_only_this_node_can_make_it(here, tmp_path):
    admin(here, "k")
    path, registry = here.shared.values.admin_keys, here.shared.registry
    one, again = (Owners(path, b"secret", registry, here.clock) for _ in range(2))
    other = Owners(path, b"another", registry, here.clock)
    owner = one.session("k")
    assert one.user_key(owner) == again.user_key(owner) != other.user_key(owner)
    assert owner_in(one.user_key(owner)) == owner
    with pytest.raises(Fault):
        one.of_user_key(other.user_key(owner))


async def test_ow2_a_user_key_ends_with_the_admin_key_it_belongs_to(here):
    session = admin(here, "first", "second")
    key = (await here.get("/v1/auth/user-key", token=session)).json["user_key"]
    assert (await here.get("/v1/agents/owned", token=key)).status == 200
    admin(here, "second")
    assert (await here.get("/v1/agents/owned", token=key)).status == 401
    assert (await here.get("/v1/auth/user-key", token=session)).status == 401


async def test_ow3_an_invitation_is_kept_as_a_hash_and_opens_once(here):
    code, until = await here.amp.owners.invite()
    assert until == here.clock() + 7 * DAY
    kept = here.shared.registry.find("amp.invite")
    assert code not in str(kept)
    await here.amp.owners.use_invite(code)
    with pytest.raises(Fault):
        await here.amp.owners.use_invite(code)


async def test_rg1_who_asks_for_a_name_that_is_taken_changes_nothing_of_its_holder(here):
    alice = await here.client("alice")
    before = here.amp.accounts.of("alice")
    for tenant in ("default", "evil"):
        asked = AmpClient(here, "alice", tenant)
        await asked.register(alias="Eve", delivery={"webhook_url": "https://eve.example/"})
        assert asked.token == ""
    assert here.amp.accounts.of("alice") == before
    assert await status(alice) == 200


async def test_rg1_the_mail_of_a_removed_agent_waits_for_nobody_who_registers(here):
    alice = await here.client("alice")
    await here.node.agent("carol")
    await alice.send("carol", "secret")
    await here.rooms.agents.remove("carol", purge=False)
    assert (await AmpClient(here, "carol").register()).status == 409
    await here.rooms.agents.remove("carol", purge=True)
    carol = await here.client("carol")
    assert (await carol.pending())["messages"] == []


async def test_rg1_an_agent_of_another_node_in_the_same_domain_has_its_name(here):
    from ampd.storage.records import Contact

    contact = Contact("dave@here.local", b"k" * 32, "seen", False, here.clock(), "mdns")
    await here.node.store.write(lambda tx: tx.append(contact))
    assert (await AmpClient(here, "dave").register()).status == 409


async def test_rg2_an_owners_user_key_opens_its_own_agents_and_no_other(here):
    admin(here, "mine", "yours")
    mine, yours = [
        (await here.get("/v1/auth/user-key", token=key)).json["user_key"]
        for key in ("mine", "yours")
    ]
    alice = AmpClient(here, "alice")
    assert (await alice.register(token=mine)).status == 201
    assert (await alice.register(token=yours)).status == 409
    assert (await alice.register(token=mine)).status == 200


async def test_rg3_a_held_name_opens_for_nobody_who_only_knows_the_public_key(here):
    alice = await here.client("alice")
    await alice.delete("/v1/agents/me")
    assert (await AmpClient(here, "alice", signer=alice.signer).register()).status == 409
    at = when(here.clock())
    text = f"ampd/amp-register|alice|aimaestro.local|{at}"
    proof = b64(alice.signer.sign(text.encode()))
    assert (await alice.register(proof=proof, timestamp=at)).status == 201
    assert (await alice.pending())["messages"] == []


async def test_rg4_the_user_key_of_an_owner_opens_every_mode_but_no_tenant(tmp_path):
    values = {"registration": "owner", "tenants": ("acme",)}
    async with provider(tmp_path, **values) as here:
        key = (await here.get("/v1/auth/user-key", token=admin(here, "k"))).json["user_key"]
        assert (await AmpClient(here, "a").register(token=key, tenant="other")).status == 403
        reply = await AmpClient(here, "a").register(token=key, tenant=None)
        assert (reply.status, reply.json["tenant"]) == (201, "acme")


async def test_rt1_an_agent_may_call_itself_by_each_of_its_addresses(here):
    alice = await here.client("alice", "acme", scope={"platform": "github"})
    await here.client("bob", "acme")
    for said, expected in (
        ("alice@github.acme.aimaestro.local", 200), ("ALICE@acme.aimaestro.local", 200),
        ("alice@default.aimaestro.local", 200), ("alice@here.local", 200),
        ("alice@gitlab.acme.aimaestro.local", 403), ("bob@acme.aimaestro.local", 403),
        ("alice@acme.crabmail.ai", 403), ("alice", 200), ("not an address", 403),
    ):  # fmt: skip
        reply = await alice.route(alice.message("bob", **{"from": said}))
        assert reply.status == expected, said


async def test_rt2_open_lets_unsigned_mail_go_no_further_than_the_local_network(
    tmp_path, autojump_clock
):
    async with provider(tmp_path, amp_signatures="open") as here:
        alice = await here.client("alice")
        for address, expected in (("x@other.local", 200), ("x@other.example", 403)):
            await here.node.contacts.add(_link(address))
            assert (await alice.route(alice.message(address, signed=False))).status == expected


def _link(address):
    from ampd.crypto.keys import SigningKey
    from ampd.model.address import Address, ContactLink

    return str(ContactLink(SigningKey.generate().public, Address.parse(address)))


async def test_rt6_a_contact_whose_domain_lies_within_the_providers_is_found(here, autojump_clock):
    alice = await here.client("alice")
    await here.client("bob")
    message = alice.message("bob@other.aimaestro.local")
    assert (await alice.route(message)).status == 404
    await here.node.contacts.add(_link("bob@other.aimaestro.local"))
    assert (await alice.route(message)).json["status"] == "queued"
    agent = here.rooms.agents.named("alice")
    (sent,) = here.rooms.lists.listing(agent, Filter(box="sent")).messages
    assert sent.to == ("bob@other.aimaestro.local",)


async def test_rt4_agents_that_never_registered_have_no_such_limit(here):
    alice = await here.client("alice")
    carol = await here.node.agent("carol")
    assert (await alice.route(alice.message("carol"))).status == 200
    assert here.rooms.lists.listing(carol, Filter()).total == 1


async def test_rt5_nothing_waits_longer_than_30_days(here):
    alice, bob = await here.client("alice"), await here.client("bob")
    body = alice.message("bob", expires_at=when(here.clock() + 300 * DAY))
    assert (await alice.route(body)).status == 200
    assert (await bob.one())["expires_at"] == when(here.clock() + 30 * DAY)


async def test_rt6_nothing_is_sent_to_who_cannot_be_found(here):
    alice = await here.client("alice")
    assert (await alice.route(alice.message("nobody"))).status == 404
    agent = here.rooms.agents.named("alice")
    assert here.rooms.lists.listing(agent, Filter(box="sent")).total == 0


async def test_sv1_owners_routes_open_for_no_agent(here):
    admin(here, "k")
    alice = await here.client("alice")
    for method, path in (
        ("GET", "/v1/auth/user-key"), ("POST", "/v1/auth/invites"), ("GET", "/v1/agents/owned"),
        ("DELETE", "/v1/agents/owned/agt_1"),
    ):  # fmt: skip
        assert (await alice.ask(method, path)).status == 401


async def test_sv3_no_answer_repeats_a_key_or_a_body(here, caplog):
    caplog.set_level("DEBUG")
    alice = await here.client("alice")
    secret = "the body of a message"
    replies = [
        await here.get("/v1/agents/me", token=alice.token + "x"),
        await alice.route(alice.message("nobody", secret, secret)),
        await alice.route(alice.message("alice", secret, secret) | {"priority": "urgent"}),
        await alice.post("/v1/route", [secret]),
    ]  # fmt: skip
    for reply in replies:
        assert reply.status >= 400
        assert secret not in reply.text and alice.token not in reply.text
    assert secret not in caplog.text and alice.token not in caplog.text


async def test_cr1_a_key_pair_of_another_kind_can_take_over(here):
    from ampd.crypto.foreign_keys import ForeignSigner

    alice = await here.client("alice")
    new = ForeignSigner.generate("ES256")
    proof = b64(alice.signer.sign(new.public.pem().encode()))
    body = {"new_public_key": new.public.pem(), "key_algorithm": "ECDSA", "proof": proof}
    assert (await alice.post("/v1/auth/rotate-keys", body)).json["key_algorithm"] == "ECDSA"
    alice.signer = new
    assert (await alice.route(alice.message("alice"))).status == 200


WORDS = (
    "name", "tenant", "public_key", "key_algorithm", "to", "from", "subject", "payload", "type",
    "message", "context", "envelope", "id", "ids", "signature", "scope", "delivery", "metadata",
    "alias", "new_public_key", "proof", "address", "options", "timestamp", "thread_id",
)  # fmt: skip


def odd(random, depth=3):
    """A value that no client would send."""
    kind = random.randrange(9 if depth else 6)
    if kind < 6:
        return random.choice([None, True, "", "\x00", "é" * 300, -1, 1e300, "alice", "msg_1_a", 0])
    if kind < 7:
        return [odd(random, depth - 1) for _ in range(random.randrange(4))]
    return {random.choice(WORDS): odd(random, depth - 1) for _ in range(random.randrange(8))}


async def test_no_body_makes_the_provider_fail(tmp_path):
    no_limits = dict.fromkeys(("register", "route", "hourly", "api", "pending"), 0)
    async with provider(tmp_path, limits=no_limits) as here:
        alice = await here.client("alice")
        random = Random(1)
        routes = [
            route for route in here.amp.routes()
            if route.method != "GET" and route.path not in ("/agents/me", "/auth/revoke-key")
        ]  # fmt: skip
        for _ in range(20):
            for route in routes:
                path = "/v1" + re.sub(
                    r"\{\w+\}", random.choice(["x", "msg_1_a", "é", "%00"]), route.path
                )
                reply = await alice.ask(route.method, quote(path, safe="/%"), odd(random))
                assert reply.status < 500, (route.method, path, reply.text)
                if reply.status >= 400:
                    assert set(reply.json) >= {"error", "message"}


async def test_am2_an_agent_of_another_node_is_not_taken_for_its_namesake_here(
    here, tmp_path, autojump_clock
):
    """Both providers have the domain that clients take for local."""
    namesake, bob = await here.client("alice"), await here.client("bob")
    async with fakes.node(tmp_path, "there", clock=here.clock) as there:
        body = namesake.message("bob", "Hi", "text")
        payload = body.pop("payload")
        envelope = {
            **body, "from": namesake.address, "id": "msg_1_ab", "thread_id": "msg_1_ab",
        }  # fmt: skip
        letter = fakes.letter(
            await there.agent("alice"), here.rooms.agents.named("bob"), id=native_id("msg_1_ab"),
            subject="Hi", body="text", payload=json.dumps(payload),
            context=json.dumps({"amp": {"envelope": envelope}}), at=here.clock(),
        )  # fmt: skip
        await here.node.mailbox.deliver(letter, there.key.public)
    item = await bob.one()
    assert item["envelope"]["from"] == "alice@there.local"
    assert item["id"] != "msg_1_ab"
    assert item["local"]["security"]["trust"] == "external"
    answer = await bob.send(item["envelope"]["from"], "Re: Hi", in_reply_to=item["id"])
    assert (answer["status"], answer["method"]) == ("queued", "relay")
    assert (await namesake.pending())["messages"] == []


async def test_k11_over_a_real_connection_the_nodes_own_user_gets_a_lost_api_key_back(tmp_path):
    async with provider(tmp_path) as here:
        server = Server(here.app, bind(("127.0.0.1", 0)))
        await here.nursery.start(server.run)
        body = json.dumps(AmpClient(here, "alice").asks()).encode()

        async def register(headers=b""):
            head = b"POST /api/v1/register HTTP/1.1\r\nHost: localhost:%d\r\n" % server.address[1]
            head += b"Content-Type: application/json\r\nConnection: close\r\n" + headers
            head += b"Content-Length: %d\r\n\r\n" % len(body)
            return statuses(await exchange(server, head + body))

        assert await register() == [201]
        assert await register() == [200]
        assert await register(b"X-Forwarded-For: 203.0.113.9\r\n") == [409]


async def test_rg7_in_open_mode_who_is_not_the_nodes_own_user_is_trusted_as_a_stranger_is(here):
    stranger = await here.client("stranger")
    here.amp.registration.is_own_user = lambda request: True
    own = await here.client("own")
    nora = await here.node.agent("nora")
    for client, outside in ((stranger, True), (own, False)):
        assert here.node.agents.named(client.name).outside is outside
        await client.send("nora@default.aimaestro.local")
    assert [each.trust for each in here.node.inbox(nora)] == ["external", "verified"]
