"""The rules of edge/amtp: accounts.py, admin_keys.py and admin.py."""

import stat

import pytest
from edge.amtp.team import error_of, key_in, team

from ampd.core.agents import Profile
from ampd.edge.amtp.accounts import AGENT, hash_of
from ampd.edge.amtp.admin_keys import AdminKeys
from ampd.model.errors import Unavailable

ELSEWHERE = "192.0.2.1"


async def code(reply):
    return reply.status, error_of(reply)


# --- accounts.py -------------------------------------------------------------------------------


async def test_ac1_an_account_is_nobodys_once_its_agent_is_gone(us, alice):
    await us.here.node.agents.remove("alice", purge=True)
    assert (await us.here.get("/v1/inbox/alice@localhost", token=alice)).status == 403
    await us.here.node.agents.create("alice", Profile())  # somebody else, by `amp init`
    assert (await us.here.get("/v1/inbox/alice@localhost", token=alice)).status == 403
    assert (await us.send("alice", "alice", payload={}, token=alice)).status == 403
    listed = (await us.as_admin("GET", "/v1/admin/agents")).json
    assert listed["count"] == 0


async def test_ac2_keys_are_kept_as_hashes_and_no_two_agents_share_one(us, alice):
    assert us.here.shared.registry.get(AGENT, "alice")["key"] == hash_of(alice)
    reply = await us.as_admin("POST", "/v1/admin/agents", {"address": "bob", "api_key": alice})
    assert await code(reply) == (400, "AGENT_REGISTRATION_FAILED")
    assert alice not in reply.text
    assert us.here.amtp.accounts.of("bob") is None
    assert [each.name for each in us.here.node.agents] == ["alice"]


async def test_ac3_an_agent_acts_for_itself_only(us, alice):
    bob = await us.register("bob")
    assert (await us.send("alice", "bob", payload={}, token=bob)).status == 403
    assert (await us.here.get("/v1/inbox/alice@localhost", token=bob)).status == 403
    assert (await us.send("alice", "bob", payload={}, token=us.admin)).status == 202


@pytest.mark.parametrize("peer", ["127.0.0.1", "::1", "127.8.8.8", "::ffff:127.0.0.1"])
async def test_ac4_a_program_on_this_machine_needs_no_key_to_send(us, alice, peer):
    assert (await us.send("alice", "alice", payload={}, peer=peer)).status == 202


async def test_ac4_everybody_else_does(us, alice):
    sent = (await us.send("alice", "alice", payload={})).json["message_id"]
    refused = (401, "LOCAL_SENDER_AUTH_REQUIRED")
    assert await code(await us.send("alice", "alice", payload={}, peer=ELSEWHERE)) == refused
    proxied = {"X-Forwarded-For": ELSEWHERE}
    assert await code(await us.send("alice", "alice", payload={}, said=proxied)) == refused
    assert (await us.status(sent)).status == 200
    assert (await us.status(sent, peer=ELSEWHERE)).status == 401
    assert (await us.status(sent, peer=ELSEWHERE, token=alice)).status == 200
    assert (await us.status(sent, token="wrong")).status == 403


async def test_ac4_a_proxy_here_that_says_nothing_of_itself_is_known_by_the_name_it_passes_on(
    tmp_path,
):
    async with team(tmp_path, hosts=("amtp.example",)) as us:
        alice = await us.register("alice")
        for said in ({"Host": "amtp.example"}, {"X-Forwarded-Proto": "https"}):
            reply = await us.send("alice", "alice", payload={}, said=said)
            assert await code(reply) == (401, "LOCAL_SENDER_AUTH_REQUIRED")
        assert (await us.send("alice", "alice", payload={}, token=alice)).status == 202


async def test_ac4_nobody_is_without_a_key_where_the_setting_says_agent(tmp_path):
    async with team(tmp_path, amtp_auth="agent") as us:
        alice = await us.register("alice")
        reply = await us.send("alice", "alice", payload={})
        assert await code(reply) == (401, "LOCAL_SENDER_AUTH_REQUIRED")
        sent = (await us.send("alice", "alice", payload={}, token=alice)).json["message_id"]
        assert (await us.status(sent)).status == 401
        assert (await us.status(sent, token=alice)).status == 200


async def test_ac5_an_agent_without_an_account_cannot_be_acted_for(us, alice):
    await us.here.node.agents.create("native", Profile())
    for token in ("", us.admin):
        reply = await us.send("native", "alice", payload={}, token=token)
        assert await code(reply) == (403, "SENDER_CREDENTIAL_MISMATCH")
    assert (await us.send("alice", "native", payload={})).status == 202


async def test_ac6_who_shows_wrong_keys_too_often_has_to_wait(tmp_path):
    async with team(tmp_path, limits={"amtp_denied": 3}) as us:
        alice = await us.register("alice")
        wrong = [await us.here.get("/v1/inbox/alice@localhost", token="x" * n) for n in range(1, 6)]
        assert [each.status for each in wrong] == [403, 403, 403, 429, 429]
        denied = await us.here.get("/v1/admin/agents", headers={"X-Admin-Key": "wrong"})
        assert denied.status == 429 and int(denied.headers["retry-after"]) > 0
        other = await us.here.get("/v1/inbox/alice@localhost", token="x", peer="192.0.2.9")
        assert other.status == 403
        assert (await us.inbox("alice", alice))["count"] == 0


# --- admin_keys.py -----------------------------------------------------------------------------


def test_ak1_the_file_is_made_once_and_for_its_owner_alone(tmp_path):
    path = tmp_path / "admin.keys"
    AdminKeys(path).make()
    first = key_in(path)
    AdminKeys(path).make()
    assert key_in(path) == first and len(first) == 43
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_ak2_it_is_read_every_time(tmp_path):
    path = tmp_path / "admin.keys"
    keys = AdminKeys(path)
    keys.make()
    first = key_in(path)
    path.write_text("# two\n\n  second  \nthird\n")
    assert keys.holds("second") and keys.holds("third") and not keys.holds(first)
    path.unlink()
    with pytest.raises(Unavailable):
        keys.holds("second")


def test_ak3_nothing_but_a_whole_line_is_a_key(tmp_path):
    path = tmp_path / "admin.keys"
    path.write_text("# comment\nfirst\n\nzweiter Schlüssel\n")
    keys = AdminKeys(path)
    for wrong in ("", "fir", "firstt", "# comment", "comment", "FIRST", "first\n"):
        assert not keys.holds(wrong), wrong
    assert keys.holds("zweiter Schlüssel")


# --- admin.py ----------------------------------------------------------------------------------


async def test_ad1_a_registration_makes_an_agent_and_takes_nobodys_name(us, alice):
    assert [each.name for each in us.here.node.agents] == ["alice"]
    await us.here.node.agents.create("native", Profile())
    await us.here.node.agents.create("gone", Profile())
    await us.here.node.agents.remove("gone", purge=False)  # its mail waits for it to come back
    for taken in ("alice", "native", "ALICE", "alice@localhost", "ampd", "gone"):
        reply = await us.as_admin("POST", "/v1/admin/agents", {"address": taken})
        assert await code(reply) == (400, "AGENT_REGISTRATION_FAILED"), taken
    assert (await us.here.get("/v1/inbox/alice@localhost", token=alice)).status == 200


@pytest.mark.parametrize(
    "body",
    [
        {}, {"address": ""}, {"address": "-x"}, {"address": "a b"}, {"address": "x@other.example"},
        {"address": "x" * 64}, {"address": 7}, {"address": "x", "delivery_mode": "odd"},
        {"address": "x", "delivery_mode": "push"}, {"address": "x", "api_key": "with blank"},
        {"address": "x", "api_key": "amp_live_sk_x"},
        {"address": "x", "delivery_mode": "push", "push_target": "file:///etc/passwd"},
        {"address": "x", "supported_schemas": ["nothing"]}, {"address": "x", "headers": ["a"]},
        {"address": "x", "headers": {"X-A": "b\r\nX-C: d"}},
        {"address": "x", "headers": {"Host": "h"}},
    ],
    ids=str,
)  # fmt: skip
async def test_ad1_what_cannot_be_registered_leaves_nothing(us, body):
    reply = await us.as_admin("POST", "/v1/admin/agents", body)
    assert await code(reply) == (400, "AGENT_REGISTRATION_FAILED")
    assert reply.json["error"]["details"]["error"]
    assert len(us.here.node.agents) == 0


async def test_ad2_the_key_is_shown_once_where_both_clients_look(us):
    reply = await us.as_admin("POST", "/v1/admin/agents", {"address": "x", "delivery_mode": "pull"})
    found = reply.json
    assert found["api_key"] == found["agent"]["api_key"] and len(found["api_key"]) == 43
    assert found["address"] == found["agent"]["address"] == "x@localhost"
    assert found["agent"]["headers"] is None and found["agent"]["requires_schema"] is False
    listed = (await us.as_admin("GET", "/v1/admin/agents")).json
    assert listed["agents"]["x@localhost"]["api_key"] == "" and listed["count"] == 1
    chosen = await us.as_admin("POST", "/v1/admin/agents", {"address": "y", "api_key": "chosen"})
    assert chosen.json["api_key"] == "chosen"


async def test_ad3_the_next_owner_of_a_name_reads_nothing(us, alice):
    await us.send("alice", "alice", payload={"secret": 1})
    assert (await us.as_admin("DELETE", "/v1/admin/agents/alice")).status == 200
    again = await us.register("alice")
    assert (await us.inbox("alice", again))["count"] == 0
    assert (await us.here.get("/v1/inbox/alice@localhost", token=alice)).status == 403


async def test_ad3_an_agent_of_the_node_only_loses_its_account(us):
    await us.here.node.agents.create("native", Profile())
    reply = await us.as_admin("POST", "/v1/admin/agents/native/rotate-key")
    assert (await us.inbox("native", reply.json["api_key"]))["count"] == 0
    assert (await us.as_admin("DELETE", "/v1/admin/agents/native")).status == 200
    assert [each.name for each in us.here.node.agents] == ["native"]
    again = await us.as_admin("DELETE", "/v1/admin/agents/native")
    assert await code(again) == (400, "AGENT_UNREGISTRATION_FAILED")


async def test_ad4_an_agent_may_remove_itself_and_nobody_else(us, alice):
    bob = await us.register("bob")
    assert (await us.here.delete("/v1/admin/agents/bob", token=alice)).status == 403
    assert (await us.here.delete("/v1/admin/agents/bob")).status == 401
    assert (await us.here.get("/v1/admin/agents", token=alice)).status == 403
    assert (await us.here.delete("/v1/admin/agents/bob", token=bob)).status == 200
    assert [each.name for each in us.here.node.agents] == ["alice"]


async def test_ad4_an_admin_key_counts_in_its_header_and_as_a_bearer(us):
    for how in ({"token": us.admin}, {"headers": {"X-Admin-Key": us.admin}}):
        assert (await us.here.get("/v1/admin/agents", **how)).status == 200
    missing = await us.here.get("/v1/admin/agents")
    assert await code(missing) == (401, "ADMIN_AUTHENTICATION_REQUIRED")
    assert missing.json["error"]["details"]["required_header"] == "X-Admin-Key"
    wrong = await us.here.get("/v1/admin/agents", headers={"X-Admin-Key": "wrong"})
    assert await code(wrong) == (403, "ADMIN_ACCESS_DENIED")


async def test_ad5_a_new_key_makes_the_old_one_worthless(us, alice):
    path = "/v1/admin/agents/alice%40localhost/rotate-key"
    fresh = (await us.as_admin("POST", path)).json["api_key"]
    assert fresh != alice
    assert (await us.here.get("/v1/inbox/alice@localhost", token=alice)).status == 403
    assert (await us.here.get("/v1/inbox/alice@localhost", token=fresh)).status == 200
    assert (await us.here.post(path, token=fresh)).status == 403
    none = await us.as_admin("POST", "/v1/admin/agents/nobody/rotate-key")
    assert await code(none) == (404, "AGENT_UNKNOWN")


async def test_ad6_a_crash_in_a_registration_leaves_no_agent_behind(tmp_path):
    async with team(tmp_path, run=False) as us:
        await us.here.shared.registry.put("amtp.making", "half", {})
        await us.here.shared.registry.put("amtp.making", "never", {})
        await us.here.node.agents.create("half", Profile())
        await us.here.amtp._admin.clean()
        assert len(us.here.node.agents) == 0
        assert await us.register("half") and await us.register("never")
