"""Mail for other gateways: ampd/edge/amtp/outbound.py, with core/abroad.py behind it.

Time is trio's jumping clock, which a test gets by naming `autojump_clock` itself.
"""

import json

import fakes
import pytest
from edge.amtp.world import Wire, key_file, town
from trio.testing import wait_all_tasks_blocked

from ampd.core import abroad
from ampd.edge.http.client import Reply
from ampd.model.address import Address
from ampd.model.errors import Unavailable

AWAY = {"away.example": "http://away"}


@pytest.fixture
def clock(autojump_clock):
    return fakes.JumpingClock(autojump_clock)


@pytest.fixture
def wire():
    made = Wire()
    made.script = lambda *_: 200
    return made


def said(http, /, **body):
    return Reply(http, {}, json.dumps(body).encode())


def bodies(wire):
    return [json.loads(body) for _, _, body, _ in wire.log]


async def test_ou1_one_delivery_for_each_recipient_with_the_same_ids(tmp_path, wire):
    async with town(tmp_path, http=wire, resolve=AWAY) as us:
        await us.register("alice")

        sent = await us.write(
            "alice", "bob@away.example", "eve@away.example", subject="s", payload={"n": 1},
            schema="agntcy:a.b.v1", headers={"h": 1}, response_type="x",
        )  # fmt: skip
        await wire.heard(2)

        assert sorted(each["recipients"][0] for each in bodies(wire)) == [
            "bob@away.example", "eve@away.example",
        ]  # fmt: skip
        for body in bodies(wire):
            assert body["message_id"] == sent["message_id"] and len(body["recipients"]) == 1
            assert body["version"] == "1.0" and body["sender"] == "alice@home.example"
            assert body["idempotency_key"][14] == "4" and body["timestamp"]
            assert (body["subject"], body["payload"], body["headers"]) == ("s", {"n": 1}, {"h": 1})
            assert body["workflow_id"] == "" and "signature" not in body
        method, url, _, headers = wire.log[0]
        assert (method, url) == ("POST", "http://away/v1/messages")
        assert headers["X-AMTP-Version"] == "1.0"


@pytest.mark.parametrize(("scheme", "size"), [("ES256", 86), ("RS256", 342)])
async def test_ou1_it_is_signed_when_there_is_a_key(tmp_path, wire, scheme, size):
    path, _ = key_file(tmp_path, scheme)
    async with town(
        tmp_path, http=wire, resolve=AWAY, amtp_signing_key=path, amtp_selector="k1"
    ) as us:
        await us.register("alice")
        await us.write("alice", "bob@away.example")
        await wire.heard(1)

        signature = bodies(wire)[0]["signature"]
        assert (signature["algorithm"], signature["keyid"]) == (scheme, "k1")
        assert len(signature["value"]) == size


@pytest.mark.parametrize(
    "answer",
    [
        200, 202, said(200, status="delivered"),
        said(202, status="x", recipients=[{"address": "bob@away.example", "status": "delivered"}]),
    ],
)  # fmt: skip
async def test_ou2_a_success_is_theirs(tmp_path, wire, answer):
    wire.script = lambda *_: answer
    async with town(tmp_path, http=wire, resolve=AWAY) as us:
        await us.register("alice")
        sent = await us.write("alice", "bob@away.example")

        assert (await us.ended(sent["message_id"]))["status"] == "delivered"
        assert len(wire.log) == 1


async def test_ou2_what_they_only_hold_is_on_its_way(tmp_path, wire):
    wire.script = lambda *_: said(202, status="queued")
    async with town(tmp_path, http=wire, resolve=AWAY) as us:
        await us.register("alice")
        sent = await us.write("alice", "bob@away.example")
        agent = us.here.rooms.agents.named("alice")
        while us.here.node.status(agent, sent["message_id"]) != "relayed":
            await us.here.rooms.store.changed(("sent", agent.key)).wait()

        found = (await us.as_admin("GET", f"/v1/messages/{sent['message_id']}/status")).json
        assert found["status"] == "delivering"


@pytest.mark.parametrize(
    "answer",
    [
        said(400, error={"code": "AGENT_UNKNOWN", "message": "no bob"}),
        said(400, recipients=[{"status": "failed", "error_message": "AGENT_UNKNOWN"}]),
        said(403, error={"code": "AGENT_UNKNOWN"}),
        said(200, status="failed", error={"code": "AGENT_UNKNOWN", "message": ""}),
    ],
)  # fmt: skip
async def test_ou2_a_refusal_is_for_good_and_its_reason_is_told(tmp_path, wire, answer):
    wire.script = lambda *_: answer
    async with town(tmp_path, http=wire, resolve=AWAY) as us:
        await us.register("alice")
        sent = await us.write("alice", "bob@away.example")

        found = await us.ended(sent["message_id"])
        assert found["status"] == "failed"
        assert "AGENT_UNKNOWN" in found["recipients"][0]["error_message"]
        assert len(wire.log) == 1


@pytest.mark.parametrize("trouble", [408, 425, 429, 500, 503, 302, Unavailable("silence")])
async def test_ou2_trouble_is_tried_again_until_it_is_over(
    tmp_path, wire, clock, autojump_clock, trouble
):
    def script(*_):
        if len(wire.log) > 3:
            return 200
        if isinstance(trouble, int):
            return trouble
        raise trouble

    wire.script = script
    async with town(tmp_path, http=wire, resolve=AWAY, clock=clock) as us:
        await us.register("alice")
        sent = await us.write("alice", "bob@away.example")

        found = await us.ended(sent["message_id"])
        assert found["status"] == "delivered" and len(wire.log) == 4


async def test_ou3_what_is_too_large_for_them_is_not_sent(tmp_path, wire):
    resolve = {"away.example": "v=amtp1;gateway=http://away;max-size=2000"}
    async with town(tmp_path, http=wire, resolve=resolve) as us:
        await us.register("alice")
        sent = await us.write("alice", "bob@away.example", payload="x" * 2000)

        found = await us.ended(sent["message_id"])
        assert found["status"] == "failed" and wire.log == []
        assert "2000" in found["recipients"][0]["error_message"]


async def test_ou4_each_try_is_remembered(tmp_path, wire, clock, autojump_clock):
    wire.script = lambda *_: 503 if len(wire.log) < 4 else 400
    async with town(tmp_path, http=wire, resolve=AWAY, clock=clock) as us:
        await us.register("alice")
        sent = await us.write("alice", "bob@away.example")
        await us.ended(sent["message_id"])

        tries = us.here.amtp.transport.attempts_of(sent["message_id"], "bob@away.example")
        assert tries[0] == 4 and tries[2] - tries[1] >= 7000 * 0.75, "after 1, 2 and 4 seconds"


async def test_a_domain_that_has_no_gateway_any_more_is_waited_for(
    tmp_path, wire, clock, autojump_clock
):
    async with town(tmp_path, http=wire, resolve=AWAY, clock=clock) as us:
        await us.register("alice")
        gateways = us.here.amtp.transport.gateways
        record = gateways._resolve.pop("away.example")
        await us.here.shared.foreign.introduce(Address("bob", "away.example"), "amtp")

        sent = await us.write("alice", "bob@away.example")
        key = us.here.shared.foreign.key_of(Address("bob", "away.example"))
        while key not in us.abroad.attempts or not us.abroad.attempts[key].count:
            await wait_all_tasks_blocked(0.05)
        gateways._resolve["away.example"] = record
        assert (await us.ended(sent["message_id"]))["status"] == "delivered"


async def test_after_the_last_try_it_has_failed_and_its_sender_is_told(
    tmp_path, wire, clock, autojump_clock, monkeypatch
):
    assert abroad.MOST_TRIES == 168, "AMTP 1.0, section 5.3.2"
    monkeypatch.setattr(abroad, "MOST_TRIES", 9)
    wire.script = lambda *_: 503
    async with town(tmp_path, http=wire, resolve=AWAY, clock=clock) as us:
        await us.register("alice")
        sent = await us.write("alice", "bob@away.example", payload={"order": 7})

        assert (await us.ended(sent["message_id"]))["status"] == "failed"
        [notice] = await us.mail("alice")
        report = notice["payload"]
        assert report["message_type"] == "delivery_failure" and report["retry_count"] == 9
        assert report["original_message_id"] == sent["message_id"]
        assert len(wire.log) == 9
