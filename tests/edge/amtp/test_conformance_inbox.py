"""AMTP 1.0, sections 3.4, 5.2.3 and 12.1.5: inboxes, and who is there.

One test for a row of the checklist of AMTP 1.0; the number is the row's.
"""

import fakes
from edge.amtp.team import error_of

from ampd.core.agents import Profile
from ampd.edge.amtp.inbox import MAX_PAGE
from ampd.model.address import Address


async def discovered(us, query="", **options):
    reply = await us.here.get(f"/v1/discovery/agents{query}", **options)
    assert reply.status == 200, reply.text
    return [each["address"] for each in reply.json["agents"]]


async def test_row_011_agents_are_listed(us, alice):
    answer = (await us.here.get("/v1/discovery/agents")).json
    assert set(answer) == {"agents", "agent_count", "domain", "timestamp"}
    assert (answer["agent_count"], answer["domain"]) == (1, "localhost")
    (line,) = answer["agents"]
    assert (line["address"], line["delivery_mode"]) == ("alice@localhost", "pull")
    assert (await us.here.get("/v1/discovery/agents/localhost")).json["agents"] == [line]
    other = await us.here.get("/v1/discovery/agents/other.example")
    assert (other.status, error_of(other)) == (404, "DOMAIN_NOT_FOUND")


async def test_row_012_agents_are_filtered_by_mode_and_activity(us, alice):
    await us.register("carol", delivery_mode="push", push_target="http://127.0.0.1:9/x")
    assert await discovered(us, "?delivery_mode=push") == ["carol@localhost"]
    us.here.clock.time += 31 * fakes.DAY
    assert (await us.here.get("/v1/inbox/alice@localhost", token=alice)).status == 200
    assert await discovered(us, "?active_only=true") == ["alice@localhost"]
    assert await discovered(us) == ["alice@localhost", "carol@localhost"]


async def test_row_013_an_address_can_be_validated(us, alice, bob):
    answer = (await us.here.get("/v1/discovery/agents?address=bob@localhost")).json
    assert answer["agent_count"] == 1
    assert answer["agents"][0]["address"] == "bob@localhost"
    assert answer["agents"][0]["active"] is True
    assert await discovered(us, "?address=nobody@localhost") == []


async def test_row_014_agents_are_filtered_by_role_capability_and_schema(us, alice):
    await us.register(
        "sales", role="sales", description="Sells", capabilities=["demos"],
        supported_schemas=["agntcy:commerce.inquiry.*"],
    )  # fmt: skip
    for query in (
        "?role=sales", "?capability=demos", "?schema=agntcy:commerce.*",
        "?schema=agntcy:commerce.inquiry.v1", "?schema=agntcy:commerce.inquiry.*",
    ):  # fmt: skip
        assert await discovered(us, query) == ["sales@localhost"], query
    for query in ("?role=x", "?capability=x", "?schema=agntcy:support.*"):
        assert await discovered(us, query) == [], query
    (line,) = (await us.here.get("/v1/discovery/agents?role=sales")).json["agents"]
    assert (line["description"], line["capabilities"]) == ("Sells", ["demos"])


async def test_row_039_an_inbox_is_read_with_the_agents_key(us, alice, bob):
    await us.send("alice", "bob", payload={"n": 1})
    answer = await us.inbox("bob", bob)
    assert [each["payload"] for each in answer["messages"]] == [{"n": 1}]


async def test_row_040_an_agent_reaches_its_own_inbox_only(us, alice, bob):
    sent = (await us.send("alice", "bob", payload={})).json["message_id"]
    for token in (alice, "wrong", us.admin):
        reply = await us.here.get("/v1/inbox/bob@localhost", token=token)
        assert (reply.status, error_of(reply)) == (403, "ACCESS_DENIED")
        assert (await us.ack("bob", token, sent)).status == 403
    gone = await us.here.get("/v1/inbox/nobody@localhost", token=alice)
    assert (gone.status, error_of(gone)) == (403, "ACCESS_DENIED")
    none = await us.here.get("/v1/inbox/bob@localhost")
    assert (none.status, error_of(none)) == (401, "MISSING_AUTHORIZATION")
    empty = await us.here.get("/v1/inbox/bob@localhost", headers={"Authorization": "Bearer "})
    assert (empty.status, error_of(empty)) == (401, "EMPTY_API_KEY")
    assert (await us.inbox("bob", bob))["count"] == 1


async def test_row_041_an_acknowledged_message_is_gone_and_others_stay(us, alice, bob):
    first = (await us.send("alice", "bob", payload={})).json["message_id"]
    second = (await us.send("alice", "bob", payload={})).json["message_id"]
    assert (await us.ack("bob", bob, first)).status == 200
    assert [m["message_id"] for m in (await us.inbox("bob", bob))["messages"]] == [second]
    again = await us.ack("bob", bob, first)
    assert (again.status, error_of(again)) == (404, "MESSAGE_NOT_FOUND")
    assert (await us.ack("bob", bob, "no-id")).status == 404
    await us.as_admin("DELETE", "/v1/admin/agents/bob")
    successor = await us.register("bob")
    assert (await us.inbox("bob", successor))["count"] == 0


async def test_row_078_an_inbox_is_read_page_by_page_and_filtered(us, alice, bob):
    ids = []
    for n in range(5):
        us.here.clock.time += 60_000
        ids.append((await us.send("alice", "bob", payload={"n": n})).json["message_id"])

    async def got(query):
        return [m["message_id"] for m in (await us.inbox("bob", bob, query))["messages"]]

    assert await got("?limit=2") == ids[:2]
    assert await got("?status=unread&limit=1") == [ids[2]]
    assert await got("?limit=2&offset=3") == ids[3:]
    last = await us.inbox("bob", bob, "?limit=2&offset=3")
    assert (last["count"], last["has_more"]) == (2, False)
    assert await got("?status=read&limit=4&offset=1") == ids[1:]
    assert await got("?since=2027-01-15T08:04:00Z") == ids[3:]
    assert await got("?since=2027-01-15T09:04:00%2B01:00") == ids[3:]
    for query in ("limit=0", "limit=1001", "offset=x", "since=x", "status=acked"):
        reply = await us.here.get(f"/v1/inbox/bob@localhost?{query}", token=bob)
        assert reply.status == 400, query


async def test_row_079_the_answer_of_an_inbox_has_both_shapes(us, alice, bob):
    empty = await us.inbox("bob", bob)
    assert (empty["messages"], empty["count"], empty["has_more"]) == ([], 0, False)
    for _ in range(3):
        await us.send("alice", "bob", payload={})
    page = await us.inbox("bob", bob, "?limit=2")
    assert page["recipient"] == "bob@localhost"
    assert (page["count"], page["message_count"], page["has_more"]) == (2, 2, True)
    assert [each["status"] for each in page["messages"]] == ["unread"] * 2
    again = await us.inbox("bob", bob, "?limit=3")
    assert [each["status"] for each in again["messages"]] == ["read", "read", "unread"]
    assert again["has_more"] is False
    assert all(m["sender"] and m["recipients"] and m["timestamp"] for m in again["messages"])


async def test_row_080_the_answer_to_an_acknowledgement_has_both_shapes(us, alice, bob):
    sent = (await us.send("alice", "bob", payload={})).json["message_id"]
    answer = (await us.ack("bob", bob, sent)).json
    assert (answer["message_id"], answer["status"]) == (sent, "acknowledged")
    assert answer["timestamp"] == "2027-01-15T08:00:00.000Z"
    assert (answer["message"], answer["recipient"]) == (
        "Message acknowledged successfully", "bob@localhost",
    )  # fmt: skip
    (copy,) = (await us.status(sent)).json["recipients"]
    assert (copy["acknowledged"], copy["acknowledged_at"]) == (True, answer["timestamp"])


async def test_di1_agents_with_an_account_are_listed_for_everybody(us, alice):
    await us.here.node.agents.create("native", Profile())
    assert await discovered(us, peer="192.0.2.7") == ["alice@localhost"]


async def test_di2_others_are_listed_for_those_who_are_known(us, alice, tmp_path):
    await us.here.node.agents.create("native", Profile())
    async with fakes.node(tmp_path / "far", "there") as there:
        await there.agent("carol")
        await us.here.node.meet(there)
    everybody = ["alice@localhost", "native@localhost", "carol@there.local"]
    assert await discovered(us) == everybody
    assert await discovered(us, peer="192.0.2.7", token=alice) == everybody
    assert await discovered(us, headers={"X-Forwarded-For": "192.0.2.7"}) == everybody[:1]


async def test_di3_filters_narrow_a_list_together(us, alice):
    await us.register("sales", role="sales", capabilities=["demos"])
    assert await discovered(us, "?role=sales&capability=demos") == ["sales@localhost"]
    assert await discovered(us, "?role=sales&capability=other") == []


async def test_di2_nobody_else_makes_this_node_ask_the_dns(us, alice):
    asked = []

    async def abroad(domain):
        asked.append(domain)

    (part,) = [each for each in us.here.amtp._parts if type(each).__name__ == "Discovery"]
    part._abroad = abroad
    path = "/v1/capabilities/other.example"
    assert (await us.here.get(path, peer="192.0.2.7")).status == 401
    assert asked == []
    assert (await us.here.get("/v1/capabilities/localhost", peer="192.0.2.7")).status == 200
    for options in ({"token": alice}, {}):
        assert (await us.here.get(path, **options)).status == 404
    assert asked == ["other.example"] * 2


async def test_di4_agents_of_another_domain_are_listed_if_they_are_known(us, tmp_path):
    async with fakes.node(tmp_path / "far", "there") as there:
        await there.agent("carol")
        await us.here.node.meet(there)
    reply = await us.here.get("/v1/discovery/agents/there.local")
    assert [each["address"] for each in reply.json["agents"]] == ["carol@there.local"]


async def test_in4_a_page_of_large_messages_is_a_short_one_and_nothing_is_left_out(us, alice, bob):
    text = "x" * (fakes.LIMIT - 2000)
    most = MAX_PAGE // fakes.LIMIT
    ids = [
        (await us.send("alice", "bob", payload={"blob": text, "n": n})).json["message_id"]
        for n in range(most + 10)
    ]
    first = await us.inbox("bob", bob)
    assert most <= first["count"] < most + 10 and first["has_more"]
    rest = await us.inbox("bob", bob, f"?offset={first['count']}")
    assert not rest["has_more"]
    assert [m["message_id"] for m in first["messages"] + rest["messages"]] == ids
    unread = await us.inbox("bob", bob, "?status=unread")
    assert unread["count"] == 0  # what was handed out is read, and nothing else


async def test_in1_a_page_is_at_most_a_thousand_and_a_hundred_unless_asked_for(us, alice, bob):
    for _ in range(101):
        await us.send("alice", "bob", payload={})
    page = await us.inbox("bob", bob)
    assert (page["count"], page["has_more"]) == (100, True)
    assert (await us.inbox("bob", bob, "?limit=1000"))["count"] == 101


async def test_in2_what_was_handed_out_is_read_and_stays(us, alice, bob):
    await us.send("alice", "bob", payload={})
    agent = us.here.node.agents.named("bob")
    assert [each.state for each in us.here.node.inbox(agent)] == ["unread"]
    await us.inbox("bob", bob)
    assert [each.state for each in us.here.node.inbox(agent)] == ["read"]
    assert (await us.inbox("bob", bob))["count"] == 1


async def test_in3_acknowledging_twice_is_not_found(us, alice, bob):
    sent = (await us.send("alice", "bob", payload={})).json["message_id"]
    assert [(await us.ack("bob", bob, sent)).status for _ in "12"] == [200, 404]


async def test_di4_so_are_those_of_other_gateways_that_somebody_wrote_to(us, alice):
    await us.here.shared.foreign.introduce(Address("carol", "far.example"), "amtp")
    assert await discovered(us) == ["alice@localhost", "carol@far.example"]
    reply = await us.here.get("/v1/discovery/agents/far.example")
    assert [each["address"] for each in reply.json["agents"]] == ["carol@far.example"]
    assert (await us.here.get("/v1/discovery/agents/r.example")).status == 404
