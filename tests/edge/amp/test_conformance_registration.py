"""AMP sections 02 and 03, row by row of the checklist: addresses, registering, keys."""

import json

import pytest
from edge.amp.amp_client import AmpClient, b64, holds, provider, when

from ampd.crypto.foreign_keys import ForeignKey, ForeignSigner
from ampd.edge.amp.owners import owner_in

DAY = 86_400_000


@pytest.fixture
async def here(tmp_path):
    async with provider(tmp_path, limits={"register": 100}) as found:
        found.amp.registration.is_own_user = lambda request: False
        yield found


def admin(here, key="the-admin-key-of-this-node"):
    """An owner's session token."""
    path = here.shared.values.admin_keys
    path.write_text(f"# keys\n{key}\n")
    return key


async def refused(here, name="alice", **changes):
    reply = await AmpClient(here, name).register(**changes)
    return reply.status, reply.json["error"], reply.json.get("field")


async def test_row_001_an_address_keeps_to_the_grammar(here):
    for name in ("a" * 63, "back-end_2", "7"):
        assert (await AmpClient(here, name).register()).status == 201
    for name in ("a" * 64, "a.b", "a b", "a@b", "", "ä"):
        assert (await refused(here, name))[0] == 400
    assert await refused(here, tenant="a.b") == (400, "invalid_field", "tenant")
    assert await refused(here, tenant="a" * 64) == (400, "invalid_field", "tenant")
    alice = await here.client("alice")
    reply = await alice.route(alice.message("bob@" + "x" * 300))
    assert (reply.status, reply.json["field"]) == (400, "to")


async def test_row_002_addresses_are_kept_and_compared_in_lower_case(here):
    bob = AmpClient(here, "Bob", "Acme")
    assert (await bob.register()).json["address"] == "bob@acme.aimaestro.local"
    assert (await refused(here, "BOB"))[:2] == (409, "name_taken")
    alice = await here.client("alice", "acme")
    await alice.send("BOB@ACME.AIMaestro.Local")
    assert (await bob.one())["envelope"]["to"] == "BOB@ACME.AIMaestro.Local"


async def test_row_003_an_address_exists_once(here):
    await here.client("alice")
    for tenant in ("default", "other"):
        assert (await AmpClient(here, "alice", tenant).register()).status == 409
    await here.node.agent("native")
    assert (await refused(here, "native"))[:2] == (409, "name_taken")
    assert (await refused(here, "ampd"))[:2] == (409, "name_taken")


async def test_row_004_a_name_that_is_taken_comes_with_suggestions_that_are_free(here):
    await here.client("alice")
    reply = await AmpClient(here, "alice").register()
    assert (reply.status, reply.json["error"]) == (409, "name_taken")
    assert len(reply.json["suggestions"]) == 3
    for name in reply.json["suggestions"]:
        assert name.startswith("alice-")
        assert (await AmpClient(here, name).register()).status == 201


async def test_row_005_short_addresses_are_of_the_senders_tenant(here):
    alice, bob = await here.client("alice", "acme"), await here.client("bob", "acme")
    for short in ("bob", "bob@acme", "Bob"):
        await alice.send(short)
    assert len((await bob.pending())["messages"]) == 3
    carol = await here.client("carol", "other")
    assert (await carol.route(carol.message("bob"))).status == 404
    assert (await carol.route(carol.message("bob@acme"))).status == 200


async def test_row_006_scoped_addresses_are_made_and_reached(here):
    scope = {"platform": "GitHub", "repo": "agents-web"}
    bob = await here.client("bob", "acme", scope=scope)
    full = "bob@agents-web.github.acme.aimaestro.local"
    assert bob.registered["address"] == full
    assert bob.registered["short_address"] == "bob@acme.aimaestro.local"
    alice = await here.client("alice", "acme")
    await alice.send(full)
    assert (await bob.one())["envelope"]["to"] == full
    wrong = await alice.route(alice.message("bob@other.github.acme.aimaestro.local"))
    assert wrong.status == 404
    assert await refused(here, "x", scope={"repo": "a"}) == (400, "missing_field", "scope.platform")


async def test_row_007_ed25519_rsa_and_p256_keys_register_and_sign(here):
    bob = await here.client("bob")
    for name, scheme, algorithm in (
        ("ed", "Ed25519", "Ed25519"), ("rsa", "RS256", "RSA"), ("ec", "ES256", "ECDSA"),
    ):  # fmt: skip
        client = AmpClient(here, name, signer=ForeignSigner.generate(scheme))
        assert (await client.register(key_algorithm=algorithm)).status == 201
        await client.send("bob", name)
        body = client.message("bob", name)
        body["subject"] = "changed"
        assert (await client.route(body)).status == 403
    assert len((await bob.pending())["messages"]) == 3
    info = (await here.get("/v1/info")).json
    assert set(info["key_algorithms"]) == {"Ed25519", "RSA", "ECDSA"}


async def test_row_008_an_address_resolves_to_a_key(here):
    alice, bob = await here.client("alice"), await here.client("bob", alias="Bob the Builder")
    for path in ("/v1/agents/resolve/", "/api/v1/agents/", "/v1/agents/resolve/%20"):
        found = (await alice.get(path.replace("%20", "") + bob.address)).json
        assert found["address"] == bob.address
        assert found["alias"] == "Bob the Builder"
        assert ForeignKey.from_pem(found["public_key"]) == bob.signer.public
        assert found["key_algorithm"] == "Ed25519"
        assert found["fingerprint"] == bob.signer.public.fingerprint
        assert found["online"] is False
    assert (await alice.get("/v1/agents/resolve/nobody@default.aimaestro.local")).status == 404


async def test_row_009_registering_needs_no_key_but_tenant_name_and_public_key(here):
    for field in ("tenant", "name", "public_key", "key_algorithm"):
        assert await refused(here, **{field: None}) == (400, "missing_field", field)
    assert (await AmpClient(here, "alice").register()).status == 201


async def test_row_010_the_answer_has_all_that_a_client_keeps(here):
    alice = await here.client("alice", "acme")
    found = alice.registered
    assert found["address"] == found["short_address"] == "alice@acme.aimaestro.local"
    assert found["local_name"] == "alice"
    assert found["tenant"] == "acme" and found["tenant_id"]
    assert found["agent_id"].startswith("agt_")
    assert found["fingerprint"] == alice.signer.public.fingerprint
    assert found["registered_at"] == when(here.clock())
    assert set(found["provider"]) == {"name", "endpoint", "route_url"}


async def test_row_011_the_route_url_is_where_messages_go(here):
    alice, bob = await here.client("alice"), await here.client("bob")
    url = alice.registered["provider"]["route_url"]
    path = url.removeprefix("http://localhost:23000")
    assert path != url
    assert (await alice.post(path, alice.message("bob"))).status == 200
    assert await bob.one()


async def test_row_012_an_api_key_has_the_form_and_is_shown_once(here):
    alice = await here.client("alice")
    word, environment, kind, random = alice.token.split("_")
    assert (word, environment, kind, len(random)) == ("amp", "live", "sk", 64)
    for path in ("/v1/agents/me", "/v1/agents", "/v1/agents/resolve/alice"):
        assert alice.token not in (await alice.get(path)).text


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"public_key": "no key"}, "public_key"),
        ({"key_algorithm": "DSA"}, "key_algorithm"),
        ({"key_algorithm": "RSA"}, "key_algorithm"),
        ({"name": "a.b"}, "name"), ({"name": ["x"]}, "name"), ({"tenant": "a b"}, "tenant"),
        ({"scope": "x"}, "scope"), ({"delivery": "x"}, "delivery"),
        ({"delivery": {"webhook_url": "ftp://x"}}, "delivery.webhook_url"),
        ({"metadata": []}, None), ({"metadata": "x"}, "metadata"), ({"alias": 5}, "alias"),
    ],
)  # fmt: skip
async def test_row_013_a_bad_field_is_named(here, changes, field):
    reply = await AmpClient(here, "alice").register(**changes)
    if field is None:  # an empty list says as much as nothing
        assert reply.status == 201
        return
    assert reply.status == 400
    assert reply.json["error"] in ("invalid_field", "invalid_request")
    assert reply.json["message"]
    assert reply.json["field"] == field


async def test_row_014_a_tenant_that_is_not_allowed_is_refused(tmp_path):
    async with provider(tmp_path, tenants=("acme", "beta")) as here:
        assert await refused(here, tenant="other") == (403, "tenant_access_denied", "tenant")
        assert (await AmpClient(here, "alice", "beta").register()).status == 201


async def test_row_015_who_may_register_is_said_and_held_to(tmp_path):
    for mode, said in (("open", "open"), ("invite", "invite"), ("owner", "admin")):
        (tmp_path / mode).mkdir()
        async with provider(tmp_path / mode, registration=mode) as here:
            assert (await here.get("/v1/info")).json["registration_modes"] == [said]
            status = 201 if mode == "open" else 403
            assert (await AmpClient(here, "alice").register()).status == status


async def test_row_016_an_invite_code_opens_once(tmp_path):
    async with provider(tmp_path, registration="invite") as here:
        session = admin(here)
        assert (await here.post("/v1/auth/invites", token="wrong")).status == 401
        code = (await here.post("/v1/auth/invites", token=session)).json["invite_code"]
        assert (await refused(here, invite_code="inv_wrong"))[0] == 403
        assert (await AmpClient(here, "alice").register(invite_code=code)).status == 201
        assert (await refused(here, "bob", invite_code=code))[0] == 403
        late = (await here.post("/v1/auth/invites", token=session)).json["invite_code"]
        here.clock.time += 8 * DAY
        assert (await refused(here, "bob", invite_code=late))[0] == 403


async def test_row_017_an_owner_registers_agents_with_its_user_key(here):
    session = admin(here)
    key = (await here.get("/v1/auth/user-key", token=session)).json["user_key"]
    alice = AmpClient(here, "alice")
    reply = await alice.register(token=key, tenant=None)
    assert reply.status == 201
    assert reply.json["tenant"] == "default"
    assert reply.json["owner_id"] == owner_in(key) != ""
    forged = "uk_" + b64(f"{owner_in(key)}:{'0' * 40}".encode())
    for wrong in (forged, "uk_x", "uk_" + b64(owner_in(key).encode())):
        assert (await AmpClient(here, "bob").register(token=wrong)).status == 401


async def test_row_018_a_user_key_is_no_api_key(here):
    key = (await here.get("/v1/auth/user-key", token=admin(here))).json["user_key"]
    await AmpClient(here, "alice").register(token=key)
    for method, path in (
        ("POST", "/v1/route"),
        ("GET", "/v1/messages/pending"),
        ("GET", "/v1/agents/me"),
    ):
        body = {"to": "x"} if method == "POST" else None
        assert (await here.request(method, path, body, token=key)).status == 401


async def test_row_019_an_owner_sees_and_removes_its_agents(here):
    session = admin(here)
    answer = (await here.get("/v1/auth/user-key", token=session)).json
    assert answer["user_key"].startswith("uk_") and answer["agent_count"] == 0
    mine = AmpClient(here, "mine")
    await mine.register(token=answer["user_key"])
    others = await here.client("others")
    for token in (session, answer["user_key"]):
        owned = (await here.get("/v1/agents/owned", token=token)).json
        assert [each["address"] for each in owned["agents"]] == [mine.address]
    other = others.registered["agent_id"]
    assert (await here.delete(f"/v1/agents/owned/{other}", token=session)).status == 404
    identifier = owned["agents"][0]["id"]
    assert (await here.delete(f"/v1/agents/owned/{identifier}", token="x")).status == 401
    gone = await here.delete(f"/v1/agents/owned/{identifier}", token=session)
    assert gone.json == {"deleted": True, "agent_id": identifier}
    assert (await mine.get("/v1/agents/me")).status == 401
    assert (await others.get("/v1/agents/me")).status == 200


async def test_row_020_registrations_without_an_owner_are_limited(tmp_path):
    async with provider(tmp_path, limits={"register": 3}) as here:
        statuses = [(await AmpClient(here, f"a{n}").register()).status for n in range(5)]
        assert statuses == [201, 201, 201, 429, 429]


async def test_row_021_optional_fields_are_kept(here):
    delivery = {
        "webhook_url": "https://hooks.example/x", "webhook_secret": "whsec_1",
        "prefer_websocket": True,
    }  # fmt: skip
    scope = {"platform": "github", "repo": "web"}
    metadata = {"description": "d", "n": 1.5, "deep": {"x": [None]}}
    alice = await here.client(
        "alice", alias="Alice A", scope=scope, delivery=delivery, metadata=metadata
    )
    me = (await alice.get("/v1/agents/me")).json
    assert me["address"] == "alice@web.github.default.aimaestro.local"
    assert me["alias"] == "Alice A"
    assert me["metadata"] == metadata
    assert me["delivery"] == {"webhook_url": "https://hooks.example/x", "prefer_websocket": True}
    kept = here.amp.accounts.of("alice").delivery
    assert kept["webhook_secret"] == "whsec_1"


async def test_row_022_a_rotated_api_key_works_for_24_hours_more(here):
    alice = await here.client("alice")
    old = alice.token
    answer = (await alice.ask("POST", "/v1/auth/rotate-key")).json
    alice.token = answer["api_key"]
    assert answer["previous_key_valid_until"] == when(here.clock() + DAY)
    here.clock.time += DAY - 1
    assert (await here.get("/v1/agents/me", token=old)).status == 200
    here.clock.time += 1
    assert (await here.get("/v1/agents/me", token=old)).status == 401
    assert (await alice.get("/v1/agents/me")).status == 200


async def test_row_023_a_revoked_api_key_is_dead_at_once(here):
    alice = await here.client("alice")
    old = alice.token
    alice.token = (await alice.ask("POST", "/v1/auth/rotate-key")).json["api_key"]
    assert (await alice.delete("/v1/auth/revoke-key")).json["revoked"] is True
    for token in (old, alice.token):
        assert (await here.get("/v1/agents/me", token=token)).status == 401


async def test_row_024_a_new_key_pair_needs_a_proof_by_the_old_one(here):
    alice, bob = await here.client("alice"), await here.client("bob")
    new = ForeignSigner.generate("Ed25519")
    pem = new.public.pem()
    body = {"new_public_key": pem, "key_algorithm": "Ed25519"}
    for proof in (
        None,
        "",
        "AAAA",
        b64(new.sign(pem.encode())),
        b64(bob.signer.sign(pem.encode())),
    ):
        reply = await alice.post("/v1/auth/rotate-keys", body | {"proof": proof})
        assert reply.status == (401 if proof else 400)
    proof = b64(alice.signer.sign(pem.encode()))
    reply = await alice.post("/v1/auth/rotate-keys", body | {"proof": proof})
    assert reply.json["rotated"] is True
    assert reply.json["fingerprint"] == new.public.fingerprint
    assert (await alice.route(alice.message("bob"))).status == 403
    alice.signer = new
    await alice.send("bob")
    assert holds(await bob.one(), new.public)


async def test_row_025_only_alias_delivery_and_metadata_can_be_changed(here):
    alice = await here.client("alice", delivery={"webhook_url": "https://a.example/"})
    for field in ("name", "public_key", "tenant"):
        reply = await alice.ask("PATCH", "/v1/agents/me", {field: "x"})
        assert (reply.status, reply.json["field"]) == (400, field)
    changes = {"alias": "New", "delivery": {"prefer_websocket": True}, "metadata": {"a": 1}}
    reply = await alice.ask("PATCH", "/v1/agents/me", changes)
    assert reply.json == {"updated": True, "address": alice.address}
    me = (await alice.get("/v1/agents/me")).json
    assert (me["alias"], me["metadata"]) == ("New", {"a": 1})
    assert me["delivery"] == {"webhook_url": "https://a.example/", "prefer_websocket": True}
    await alice.ask("PATCH", "/v1/agents/me", {"delivery": {"webhook_url": None}})
    assert (await alice.get("/v1/agents/me")).json["delivery"]["webhook_url"] is None


async def test_row_026_who_leaves_is_gone_with_its_mail_and_its_name_is_held(here):
    alice, bob = await here.client("alice"), await here.client("bob")
    await alice.send("bob", "secret")
    answer = (await bob.delete("/v1/agents/me")).json
    assert answer["deregistered"] is True and answer["address"] == bob.address
    assert (await bob.get("/v1/messages/pending")).status == 401
    assert (await alice.route(alice.message("bob"))).status == 404
    here.clock.time += 30 * DAY - 1
    assert (await refused(here, "bob"))[:2] == (409, "name_taken")
    here.clock.time += 1
    other = await here.client("bob")
    assert (await other.pending())["messages"] == []


# --- what clients of today need ----------------------------------------------------------------


async def test_k02_the_providers_name_is_its_domain_and_addresses_end_with_it(here):
    alice = await here.client("alice")
    assert alice.registered["provider"]["name"] == "aimaestro.local"
    assert alice.registered["address"] == "alice@default.aimaestro.local"


async def test_k03_the_endpoint_is_where_the_client_reached_us(here):
    here.host = "127.0.0.1:23000"
    alice = await here.client("alice")
    assert alice.registered["provider"]["endpoint"] == "http://127.0.0.1:23000/api/v1"


async def test_k04_the_organization_is_the_tenant_of_this_host(tmp_path):
    async with provider(tmp_path, tenants=("acme", "beta")) as here:
        reply = await here.get("/api/organization")
        assert (reply.status, reply.json) == (200, {"organization": "acme"})


async def test_k11_the_same_name_and_key_get_one_more_api_key_if_it_is_them(here):
    alice = await here.client("alice")
    old = alice.token
    stranger = AmpClient(here, "alice", signer=alice.signer)  # knows the public key, as all may
    reply = await stranger.register()
    assert (reply.status, stranger.token) == (409, "")
    assert (await stranger.register(token="amp_live_sk_" + "0" * 64)).status == 409
    assert (await alice.register(token=old)).status == 200
    here.amp.registration.is_own_user = lambda request: True
    again = AmpClient(here, "alice", signer=alice.signer)
    assert (await again.register()).status == 200
    assert again.registered["address"] == alice.address
    for token in (old, alice.token, again.token):
        assert (await here.get("/v1/agents/me", token=token)).status == 200
    assert (await AmpClient(here, "alice").register()).status == 409


async def test_k11_a_proof_with_the_private_key_is_as_good(here):
    alice = await here.client("alice")

    async def prove(signer, at, name="alice"):
        text = f"ampd/amp-register|{name}|aimaestro.local|{when(at)}"
        proof = b64(signer.sign(text.encode()))
        return (await alice.register(proof=proof, timestamp=when(at))).status

    now = here.clock()
    assert await prove(alice.signer, now) == 200
    assert await prove(ForeignSigner.generate("Ed25519"), now) == 409
    assert await prove(alice.signer, now - 301_000) == 409
    assert await prove(alice.signer, now, "bob") == 409


@pytest.mark.parametrize("form", ["PEM", "PEM and newline", "hex"])
async def test_k14_the_proof_may_be_over_any_form_that_clients_sign(here, form):
    alice = await here.client("alice")
    new = ForeignSigner.generate("Ed25519").public
    bare = new.pem().rstrip("\n")
    text = {"PEM": bare, "PEM and newline": bare + "\n", "hex": new.raw.hex()}[form]
    body = {
        "new_public_key": bare, "key_algorithm": "Ed25519",
        "proof": b64(alice.signer.sign(text.encode())),
    }  # fmt: skip
    assert (await alice.post("/api/v1/auth/rotate-keys", body)).json["rotated"] is True


async def test_k15_odd_ids_pems_without_a_newline_and_empty_posts_are_taken(here):
    alice = await here.client("al_ice-1", agent_id="7d3af363-6e61-48e8-9aa32-beeff981f760")
    assert not alice.asks()["public_key"].endswith("\n")
    bob = AmpClient(here, "bob")
    assert (await bob.register(public_key=bob.signer.public.pem())).status == 201
    answer = await alice.send("bob")
    assert (await bob.ask("POST", f"/api/v1/inbox/{answer['id']}/ack")).status == 200
    assert (await alice.ask("POST", "/v1/auth/rotate-key")).status == 200


async def test_no_secret_of_an_account_lies_in_the_registry_or_the_log(here, caplog):
    caplog.set_level("DEBUG")
    alice = await here.client("alice", "acme")
    await alice.ask("POST", "/v1/auth/rotate-key")
    secret = (await alice.ask("POST", "/v1/auth/rotate-key")).json["api_key"]
    rows = [each for kind in ("amp.account", "amp.key") for each in here.shared.registry.find(kind)]
    kept = json.dumps([(each.key, each.value) for each in rows])
    for token in (alice.token, secret):
        assert token not in kept and token.removeprefix("amp_live_sk_") not in kept
        assert token not in caplog.text
