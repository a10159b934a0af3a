"""Workflows of the agents here: ampd/edge/amtp/workflows.py, answers.py and workflow_views.py."""

import json
import uuid

import pytest
import trio.testing
from edge.amtp.team import error_of
from edge.amtp.world import Wire, Zone, bring, town, two_towns

from ampd.core.submission import Draft
from ampd.edge.amtp import answers, workflows
from ampd.model.message import id_from_text
from ampd.protocol.amtp.coordination import Answered

PARALLEL = {"type": "parallel", "timeout": 60}


async def people(us, *names):
    for name in names:
        await us.register(name)


async def begin(us, *to, coordination=PARALLEL, sender="boss", **members):
    """The id of a workflow that was begun."""
    answer = await us.write(sender, *to, coordination=coordination, **members)
    assert answer["workflow_id"] == answer["message_id"]
    return answer["workflow_id"]


async def reply(us, sender, workflow, payload, to="boss", kind="workflow_response", **members):
    await us.write(sender, to, payload=payload, in_reply_to=workflow, response_type=kind, **members)


async def shown(us, workflow):
    found = await us.as_admin("GET", f"/v1/workflows/{workflow}")
    assert found.status == 200, found.text
    return found.json


async def notice(us, name="boss"):
    """The payload of the node's message on the end of a workflow."""
    count = 1
    while True:
        found = await us.mail(name, count)
        for each in found:
            if each["sender"].startswith("ampd@") and "results" in each["payload"]:
                return each
        count = len(found) + 1


async def test_wf1_the_message_s_id_is_the_workflow_s(tmp_path):
    async with town(tmp_path) as us:
        await people(us, "boss", "ann", "bob")
        workflow = await begin(us, "ann", "bob", payload={"order": 7})

        [at_ann], [at_bob] = await us.mail("ann"), await us.mail("bob")
        for each in (at_ann, at_bob):
            assert each["message_id"] == each["workflow_id"] == workflow
            assert each["payload"] == {"order": 7}
            assert each["coordination"]["requires_response"] is True
        assert (await shown(us, workflow))["status"] == "in_progress"


async def test_wf1_nobody_turns_the_answers_of_a_workflow_aside(tmp_path):
    async with town(tmp_path) as us:
        await people(us, "boss", "ann", "eve")
        workflow = await begin(us, "ann")
        same = f"{workflow[:14]}4{workflow[15:]}"  # the same id to gateways that know version 7
        body = {
            "version": "1.0", "sender": us.full("eve"), "recipients": [us.full("eve")],
            "message_id": same, "coordination": PARALLEL,
        }  # fmt: skip
        refused = await us.here.post("/v1/messages", body)
        assert (refused.status, error_of(refused)) == (409, "VALIDATION_FAILED")
        await reply(us, "ann", workflow, {"done": 1})
        assert (await notice(us))["payload"]["status"] == "completed"


async def test_wf1_an_agent_has_so_many_workflows_and_no_more(tmp_path, monkeypatch):
    monkeypatch.setattr(workflows, "MOST_OPEN", 2)
    async with town(tmp_path) as us:
        await people(us, "boss", "ann")
        await begin(us, "ann")
        await begin(us, "ann")
        body = {"version": "1.0", "sender": us.full("boss"), "recipients": [us.full("ann")]}
        refused = await us.here.post("/v1/messages", body | {"coordination": PARALLEL})
        assert (refused.status, error_of(refused)) == (429, "RATE_LIMIT_EXCEEDED")
        await begin(us, "ann", sender="ann")  # others are not held up


async def test_wf6_whoever_has_the_name_later_hears_nothing_of_it(tmp_path):
    async with town(tmp_path) as us:
        await people(us, "boss", "ann")
        workflow = await begin(us, "ann")
        await reply(us, "ann", workflow, {"secret": "for the first boss"})
        await us.succeed("boss")
        us.here.clock.time += 3_600_000
        us.here.amtp.transport.workflows._woken.set()
        await begin(us, "ann")
        await trio.testing.wait_all_tasks_blocked(0.05)

        shown_to = await us.here.get(f"/v1/workflows/{workflow}", token=us.keys["boss"])
        assert shown_to.status == 404
        texts = json.dumps((await us.inbox("boss", us.keys["boss"]))["messages"])
        assert "secret" not in texts and workflow not in texts


async def test_wf1_later_messages_name_the_workflow(tmp_path):
    async with town(tmp_path) as us:
        await people(us, "boss", "ann", "bob")
        sequence = [us.full("ann"), us.full("bob")]
        workflow = await begin(
            us, "ann", coordination={"type": "sequential", "timeout": 60, "sequence": sequence},
            payload={"order": 7}, subject="Do it", schema="agntcy:a.b.v1",
        )  # fmt: skip
        await us.mail("ann")
        assert (await us.inbox("bob", us.keys["bob"]))["count"] == 0

        await reply(us, "ann", workflow, {"done": 1})
        [leg] = await us.mail("bob")

        assert leg["message_id"] != workflow and leg["workflow_id"] == workflow
        assert uuid.UUID(leg["message_id"]).version == 7
        assert (leg["payload"], leg["subject"], leg["schema"]) == (
            {"order": 7}, "Do it", "agntcy:a.b.v1",
        )  # fmt: skip
        await reply(us, "bob", leg["message_id"], {"done": 2})
        ended = await notice(us)
        assert ended["payload"]["status"] == "completed"


async def test_wf2_it_goes_on_after_a_restart(tmp_path):
    async with town(tmp_path) as us:
        await people(us, "boss", "ann", "bob")
        sequence = [us.full("ann"), us.full("bob")]
        workflow = await begin(
            us, "ann", coordination={"type": "sequential", "timeout": 60, "sequence": sequence}
        )
        keys = us.keys
    async with town(tmp_path, run=False) as us:  # the answer comes while nobody looks
        us.keys = keys
        await reply(us, "ann", workflow, 1)
    async with town(tmp_path) as us:
        us.keys = keys
        await us.mail("bob")
        await reply(us, "bob", workflow, 2)
        assert (await notice(us))["payload"]["status"] == "completed"
        listed = us.here.node.inbox(us.here.rooms.agents.named("bob"), box="all")
        assert len(listed) == 1


async def test_wf2_what_was_cut_off_before_it_was_sent_is_sent_again(tmp_path, monkeypatch):
    async with town(tmp_path) as us:
        await people(us, "boss", "ann")
        workflows = us.here.amtp.transport.workflows
        identifier = str(uuid.uuid4())
        members = {"message_id": identifier, "idempotency_key": str(uuid.uuid4())}

        async def cut_off(agent, message):
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(workflows, "_send", cut_off)
            agent = us.here.rooms.agents.named("boss")
            message = {
                "version": "1.0", "sender": us.full("boss"), "recipients": [us.full("ann")],
                "coordination": PARALLEL, "payload": 1, "timestamp": "2027-01-15T08:00:00Z",
                **members,
            }  # fmt: skip
            with pytest.raises(KeyboardInterrupt):
                await workflows.begin(agent, message)

        assert await begin(us, "ann", payload=1, **members) == identifier
        assert len(await us.mail("ann")) == 1


async def test_wf2_a_workflow_that_cannot_begin_leaves_nothing(tmp_path):
    async with town(tmp_path) as us:
        await people(us, "boss")
        members = {"message_id": str(uuid.uuid4()), "coordination": PARALLEL, "payload": 1}

        refused = await us.here.post(
            "/v1/messages",
            {
                "sender": us.full("boss"), "recipients": [us.full("boss"), "a@b.example"],
                **members,
                "coordination": {**PARALLEL, "required_responses": ["ghost@nowhere.example"]},
            },
        )  # fmt: skip

        assert 400 <= refused.status < 500, refused.text
        path = f"/v1/workflows/{members['message_id']}"
        assert (await us.as_admin("GET", path)).status == 404


async def test_wf3_answers_name_the_workflow_by_either_member(tmp_path):
    async with town(tmp_path) as us:
        await people(us, "boss", "ann", "bob")
        workflow = await begin(us, "ann", "bob")

        await us.write("ann", "boss", payload=1, workflow_id=workflow,
                       response_type="workflow_response")  # fmt: skip
        await reply(us, "bob", workflow, 2)

        ended = await notice(us)
        assert ended["payload"]["results"] == [
            {"address": us.full("ann"), "status": "completed", "payload": 1},
            {"address": us.full("bob"), "status": "completed", "payload": 2},
        ]
        assert ended["in_reply_to"] == ended["workflow_id"] == workflow


@pytest.mark.parametrize("kind", ["workflow_error", "error"])
async def test_wf3_an_error_is_an_answer_too(tmp_path, kind):
    async with town(tmp_path) as us:
        await people(us, "boss", "ann")
        workflow = await begin(us, "ann")

        await reply(us, "ann", workflow, {"why": "no"}, kind=kind)

        ended = (await notice(us))["payload"]
        assert ended["status"] == "failed"
        assert ended["error_code"] == "REQUIRED_RESPONSE_MISSING"


async def test_wf3_forged_answers_change_nothing(tmp_path):
    async with town(tmp_path) as us:
        await people(us, "boss", "ann", "eve")
        workflow = await begin(us, "ann")

        await reply(us, "eve", workflow, {"forged": 1})
        await bring(us, recipients=[us.full("boss")], in_reply_to=workflow,
                    response_type="workflow_response")  # fmt: skip
        await us.write("ann", "boss", in_reply_to=workflow, payload="a question")
        await us.mail("boss", 3)
        assert (await shown(us, workflow))["participants"][0]["status"] == "pending"

        await reply(us, "ann", workflow, {"true": 1})
        assert (await notice(us))["payload"]["results"][0]["payload"] == {"true": 1}


async def test_wf3_an_answer_with_a_bad_signature_answers_nothing(tmp_path):
    wire = Wire()
    wire.script = lambda *_: 200
    resolve = {"sender.example": "http://away"}
    async with town(tmp_path, http=wire, dns=Zone(), resolve=resolve) as us:
        await people(us, "boss")
        workflow = await begin(us, "orders@sender.example")
        answer = {
            "recipients": [us.full("boss")], "in_reply_to": workflow,
            "response_type": "workflow_response",
        }  # fmt: skip
        bad = {"algorithm": "ES256", "keyid": "k1", "value": "A" * 86}

        assert (await bring(us, **answer, payload="forged", signature=bad)).status == 202
        await us.mail("boss")
        ids = {name: str(uuid.uuid4()) for name in ("message_id", "idempotency_key")}
        assert (await bring(us, **answer, **ids, payload="theirs")).status == 202

        assert (await notice(us))["payload"]["results"][0]["payload"] == "theirs"


async def test_wf3_nobody_answers_the_workflow_of_another(tmp_path):
    async with town(tmp_path) as us:
        await people(us, "boss", "ann", "eve")
        workflow = await begin(us, "ann")
        own = await begin(us, "ann", sender="eve")

        await reply(us, "ann", workflow, 1, to="eve")
        await reply(us, "ann", own, 2, to="eve")

        assert (await notice(us, "eve"))["payload"]["workflow_id"] == own
        assert (await shown(us, workflow))["status"] == "in_progress"


async def test_wf3_an_agent_that_speaks_no_amtp_answers_with_a_plain_reply(tmp_path):
    async with town(tmp_path) as us:
        await people(us, "boss")
        node = us.here.node
        native = await node.agent("nat")
        workflow = await begin(us, "nat@home.example")
        identifier = id_from_text(workflow)

        draft = Draft(("boss@home.local",), text="done", in_reply_to=identifier, thread=identifier)
        await node.submission.send(native, draft)

        assert (await notice(us))["payload"]["results"] == [
            {"address": "nat@home.example", "status": "completed", "payload": {"text": "done"}}
        ]


async def test_wf3_of_a_very_long_answer_the_workflow_keeps_the_id(tmp_path, monkeypatch):
    monkeypatch.setattr(answers, "MAX_REPLY", 1000)
    async with town(tmp_path) as us:
        await people(us, "boss", "ann")
        workflow = await begin(us, "ann")
        await reply(us, "ann", workflow, "x" * 1000)

        kept = (await notice(us))["payload"]["results"][0]["payload"]
        listed = {each["message_id"] for each in await us.mail("boss", 2)}
        assert kept["message_id"] in listed and kept["bytes"] == 1002


async def test_wf4_mail_that_cannot_be_delivered_is_the_participant_s_failure(tmp_path):
    wire = Wire()
    wire.script = lambda *_: 400
    async with town(tmp_path, http=wire, resolve={"away.example": "http://away"}) as us:
        await people(us, "boss", "ann")
        plan = {**PARALLEL, "required_responses": ["bob@away.example"]}
        workflow = await begin(us, "ann", coordination=plan)

        assert (await notice(us))["payload"]["status"] == "failed"
        [bob] = [e for e in (await shown(us, workflow))["participants"] if "away" in e["address"]]
        assert bob["status"] == "failed" and "400" in bob["error"]


async def test_wf5_its_sender_hears_once_how_it_ended(tmp_path):
    async with town(tmp_path) as us:
        await people(us, "boss", "ann", "bob")
        workflow = await begin(us, "ann", "bob")
        workflows, boss = us.here.amtp.transport.workflows, us.here.rooms.agents.named("boss")
        await workflows.take(boss, workflow, Answered(us.full("ann"), 1, '{"n":1}'))

        us.here.clock.time += 60_000
        workflows._woken.set()  # it looks at the clock every half minute
        ended = await notice(us)
        await workflows.take(boss, workflow, Answered(us.full("bob"), 2, '{"late":1}'))
        await workflows._look_at(boss, workflow)

        assert ended["payload"]["status"] == "timeout"
        assert ended["payload"]["error_code"] == "WORKFLOW_TIMEOUT"
        assert [each["status"] for each in ended["payload"]["results"]] == ["completed", "timeout"]
        listed = us.here.node.inbox(boss, box="all")
        assert len([each for each in listed if each.type == "system"]) == 1


async def test_wv1_only_its_sender_and_administrators_are_shown_it(tmp_path):
    async with town(tmp_path) as us:
        await people(us, "boss", "ann")
        workflow = await begin(us, "ann")
        path = f"/v1/workflows/{workflow}"

        assert (await us.here.get(path)).status == 401
        assert (await us.here.get(path, token="wrong")).status in (401, 403)
        other = await us.here.get(path, token=us.keys["ann"])
        assert (other.status, error_of(other)) == (404, "WORKFLOW_NOT_FOUND")
        mine = await us.here.get(path, token=us.keys["boss"])
        assert mine.json == await shown(us, workflow) | {}
        assert mine.json["participants"] == [
            {"address": us.full("ann"), "status": "pending",
             "deadline": "2027-01-15T08:01:00.000Z"}
        ]  # fmt: skip


async def test_a_condition_decides_who_is_asked(tmp_path):
    async with town(tmp_path) as us:
        await people(us, "boss", "ann", "doer", "refuser")
        sentence = f"{us.full('ann')} responds with approve=true"
        branch = {"if": sentence, "then": [us.full("doer")], "else": [us.full("refuser")]}
        plan = {"type": "conditional", "timeout": 60, "conditions": [branch]}
        workflow = await begin(us, "ann", coordination=plan)

        await reply(us, "ann", workflow, {"approve": True})
        [asked] = await us.mail("doer")
        await reply(us, "doer", asked["workflow_id"], {"did": "it"})

        assert (await notice(us))["payload"]["status"] == "completed"
        assert (await us.inbox("refuser", us.keys["refuser"]))["count"] == 0


async def test_a_workflow_over_two_gateways(tmp_path):
    async with two_towns(tmp_path) as (home, away):
        await people(home, "boss", "ann")
        await people(away, "bob")
        plan = {**PARALLEL, "required_responses": [home.full("ann"), "bob@away.example"]}
        workflow = await begin(home, "ann", coordination=plan, payload={"n": 1})

        [asked] = await away.mail("bob")
        await reply(away, "bob", asked["message_id"], {"b": 2}, to="boss@home.example")
        await reply(home, "ann", workflow, {"a": 1})

        ended = (await notice(home))["payload"]
        assert {e["address"]: e["payload"] for e in ended["results"]} == {
            "ann@home.example": {"a": 1}, "bob@away.example": {"b": 2},
        }  # fmt: skip
        assert json.loads(json.dumps(ended))["status"] == "completed"


@pytest.mark.parametrize(
    "plan",
    [{"type": "race", "timeout": 5}, {"type": "parallel"}, {"type": "sequential", "timeout": 5}],
)
async def test_what_is_no_plan_is_refused(tmp_path, plan):
    async with town(tmp_path) as us:
        await people(us, "boss", "ann")
        body = {"sender": us.full("boss"), "recipients": [us.full("ann")], "coordination": plan}

        refused = await us.here.post("/v1/messages", body | {"payload": 1})

        assert (refused.status, error_of(refused)) == (400, "VALIDATION_FAILED")
