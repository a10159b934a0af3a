"""What an agent, or somebody who is none, may try against the AMP provider."""

import pytest
from edge.amp.amp_client import AmpClient, provider

from ampd.core.submission import Draft
from ampd.edge.amp.accounts import KEY, MAX_KEYS
from ampd.edge.amp.rendering import carrying
from ampd.protocol import raw_json
from ampd.protocol.amp.ids import is_message_id, native_id


@pytest.fixture
async def here(tmp_path):
    async with provider(tmp_path, limits={"register": 0, "api": 0}) as found:
        found.amp.registration.is_own_user = lambda request: False
        yield found


async def test_rg6_strangers_make_no_more_agents_than_the_node_can_bear(here):
    here.amp.registration.most_agents = lambda: len(here.node.agents) + 1
    await here.client("alice")
    here.amp.registration.most_agents = lambda: len(here.node.agents)
    refused = await AmpClient(here, "bob").register()
    assert (refused.status, refused.json["error"]) == (507, "quota_exceeded")
    here.shared.values.admin_keys.write_text("an-admin-key\n")
    user_key = (await here.get("/v1/auth/user-key", token="an-admin-key")).json["user_key"]
    assert (await AmpClient(here, "bob").register(token=user_key)).status == 201


async def test_ac2_a_thief_who_renews_a_key_a_thousand_times_loses_it_when_it_is_revoked(here):
    alice = await here.client("alice")
    stolen = [alice.token]
    for _ in range(MAX_KEYS + 5):
        reply = await here.post("/v1/auth/rotate-key", {}, token=stolen[-1])
        stolen.append(reply.json["api_key"])
        here.clock.time += 1000
    assert here.shared.registry.count(KEY, owner="alice") <= MAX_KEYS
    assert (await here.get("/v1/agents/me", token=stolen[-2])).status == 200  # for a day more
    assert (await here.delete("/v1/auth/revoke-key", token=stolen[-1])).status == 200
    for token in stolen:
        assert (await here.get("/v1/agents/me", token=token)).status == 401


@pytest.mark.parametrize("number", ["1e999", "-1e999", "9" * 5000])
async def test_a_number_that_nobody_can_hold_is_refused_and_not_kept(here, number):
    alice = await here.client("alice")
    text = f'{{"metadata": {{"n": {number}}}}}'
    reply = await here.request(
        "PATCH", "/v1/agents/me", body=text.encode(), token=alice.token,
        headers={"content-type": "application/json"},
    )  # fmt: skip
    assert reply.status == 400, reply.text
    assert (await alice.get("/v1/agents/me")).json["metadata"] == {}


async def test_am2_an_id_that_is_no_id_names_no_file_of_a_client(here):
    alice = await here.client("alice")
    carol = await here.node.agent("carol")
    evil = "../../../.bashrc"
    payload = {"type": "request", "message": "hi", "context": None}
    envelope = {
        "id": evil, "from": "carol@default.aimaestro.local", "to": alice.address,
        "subject": "s", "thread_id": evil,
    }  # fmt: skip
    draft = Draft(
        to=("alice@here.local",), subject="s", text="hi", payload=raw_json.write(payload),
        context=carrying(envelope, ""), id=native_id(evil),
    )  # fmt: skip
    await here.rooms.submission.send(carol, draft)
    (item,) = (await alice.get("/v1/messages/pending")).json["messages"]
    assert is_message_id(item["id"]) and is_message_id(item["envelope"]["thread_id"])
    assert item["payload"]["message"] == "hi"
