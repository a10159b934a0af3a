"""Mail that will never arrive: ampd/edge/amtp/dead_letters.py."""

import json

import pytest
from edge.amtp.world import Wire, town
from trio.testing import wait_all_tasks_blocked

from ampd.edge.gateway_mail import GatewayMail


@pytest.fixture
def wire():
    made = Wire()
    made.script = lambda *_: 400
    return made


async def letters(us, query=""):
    await wait_all_tasks_blocked(0.2)  # the follower has written what it saw
    reply = await us.as_admin("GET", f"/v1/dead-letters{query}")
    assert reply.status == 200, reply.text
    return reply.json


async def dead(us, name="bob", **members):
    """A message that its gateway refused."""
    sent = await us.write("alice", f"{name}@away.example", **members)
    await us.ended(sent["message_id"])
    return sent["message_id"]


def away(wire):
    return {"http": wire, "resolve": {"away.example": "http://away"}}


async def test_dl1_what_failed_is_kept_with_its_reason(tmp_path, wire):
    async with town(tmp_path, **away(wire)) as us:
        await us.register("alice")
        identifier = await dead(us, payload={"order": 7}, subject="Order")

        found = await letters(us)
        [one] = found["dead_letters"]
        assert (found["count"], found["has_more"]) == (1, False)
        assert one["message_id"] == identifier and one["recipient"] == "bob@away.example"
        assert one["original_message"]["payload"] == {"order": 7}
        assert one["failure_reason"] and "400" in one["error_message"]
        assert one["attempts"] == 1
        assert one["first_attempt"] and one["last_attempt"] and one["dlq_timestamp"]


async def test_dl1_they_come_in_pages_and_can_be_forgotten(tmp_path, wire):
    async with town(tmp_path, **away(wire)) as us:
        await us.register("alice")
        ids = {await dead(us, payload=number) for number in range(3)}

        first = await letters(us, "?limit=2")
        assert (first["count"], first["has_more"]) == (2, True)
        rest = await letters(us, f"?limit=2&after={first['next']}")
        shown = [each["message_id"] for each in (*first["dead_letters"], *rest["dead_letters"])]
        assert set(shown) == ids and len(shown) == 3

        assert (await us.as_admin("DELETE", f"/v1/dead-letters/{shown[0]}")).status == 200
        assert (await us.as_admin("DELETE", f"/v1/dead-letters/{shown[0]}")).status == 404
        assert (await letters(us))["count"] == 2
        for query in ("?limit=0", "?limit=x", "?limit=1000"):
            assert (await us.as_admin("GET", f"/v1/dead-letters{query}")).status == 400


async def test_dl1_they_are_for_administrators_and_last(tmp_path, wire):
    async with town(tmp_path, **away(wire)) as us:
        await us.register("alice")
        await dead(us)
        await letters(us)
        assert (await us.here.get("/v1/dead-letters")).status == 401
        assert (await us.here.get("/v1/dead-letters", token=us.keys["alice"])).status in (401, 403)
    async with town(tmp_path, **away(wire)) as us:
        assert (await letters(us))["count"] == 1


async def test_dl2_its_sender_is_told_in_a_report(tmp_path, wire):
    async with town(tmp_path, **away(wire)) as us:
        await us.register("alice")
        identifier = await dead(us)

        [notice] = await us.mail("alice")
        report = notice["payload"]
        assert notice["sender"].startswith("ampd@") and notice["in_reply_to"] == identifier
        assert report["message_type"] == "delivery_failure"
        assert report["original_message_id"] == identifier
        assert report["failed_recipients"] == ["bob@away.example"]
        assert report["error_code"] and "400" in report["error_message"]
        assert report["retry_count"] == 1 and report["final_attempt"]


async def test_dl3_what_an_agent_here_could_not_be_pushed_is_buried(tmp_path):
    async with town(tmp_path) as us:
        await us.register("alice")
        await us.register("bob")
        sent = await us.write("alice", "bob", payload={"n": 1})
        bob = us.here.rooms.agents.named("bob")
        [piece] = GatewayMail(us.here.rooms).page(bob).pieces

        for _ in range(2):
            await us.here.amtp.transport.bury(
                bob, piece, "bob@home.example", "recipient_unavailable", "HTTP 410", 3, 1000, 2000
            )

        [one] = (await letters(us))["dead_letters"]
        assert one["message_id"] == sent["message_id"] and one["attempts"] == 3
        assert one["original_message"]["payload"] == {"n": 1}
        [notice] = await us.mail("alice")
        assert "HTTP 410" in json.dumps(notice["payload"])
