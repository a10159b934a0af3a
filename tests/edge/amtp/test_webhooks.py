"""Webhooks: ampd/edge/amtp/webhooks.py and outcomes.py."""

import json

import pytest
import trio
import trio.testing
from edge.amtp.team import error_of
from edge.amtp.world import Wire, town

from ampd.edge.amp.webhooks import verify
from ampd.edge.amtp import webhooks as module
from ampd.edge.amtp.webhooks import EVENTS

HOOK = {"url": "https://app.example/hook", "events": ["message.delivered", "message.failed"]}
SECRET = "a secret of ours"


class App(Wire):
    """A wire at whose end somebody takes webhooks; what is no webhook goes to `away`."""

    def __init__(self, *answers, away=200):
        super().__init__()
        self.answers = list(answers)
        self.got = []
        self.came = trio.Event()
        self.script = lambda _method, url, _body: (
            away if "app.example" not in url else self.answers.pop(0) if self.answers else 200
        )

    async def send(self, method, url, **options):
        if "app.example" in url:
            self.got.append((json.loads(options["body"]), options["headers"], options["body"]))
            self.came.set()
            self.came = trio.Event()
        return await super().send(method, url, **options)

    async def events(self, count):
        while len(self.got) < count:
            await self.came.wait()
        return [each[0]["event"] for each in self.got]


async def make(us, token="", **more):
    reply = await us.here.post("/v1/webhooks", HOOK | {"secret": SECRET} | more, token=token)
    assert reply.status == 201, reply.text
    return reply.json


def away(app, **more):
    return {"http": app, "resolve": {"away.example": "http://away"}, **more}


async def test_wk1_whoever_has_the_name_later_is_not_overheard(tmp_path):
    app = App()
    async with town(tmp_path, http=app) as us:
        await us.register("alice")
        await us.register("bob")
        old = await make(us, us.keys["alice"])
        await us.succeed("alice")

        assert (await us.here.get("/v1/webhooks", token=us.keys["alice"])).json["webhooks"] == []
        path = f"/v1/webhooks/{old['webhook_id']}"
        assert (await us.here.delete(path, token=us.keys["alice"])).status == 404
        await us.write("alice", "bob")
        await make(us, us.keys["bob"], url="https://app.example/second")
        await us.write("bob", "bob")
        await app.events(1)

        assert [each[0]["sender"] for each in app.got] == [us.full("bob")]


async def test_wk1_an_agent_hears_of_its_own_mail_and_an_administrator_of_all(tmp_path):
    app = App()
    async with town(tmp_path, http=app) as us:
        for name in ("alice", "bob"):
            await us.register(name)
        await make(us, us.keys["alice"])
        reply = await us.as_admin("POST", "/v1/webhooks", HOOK)
        assert reply.status == 201 and reply.json["secret"]

        await us.write("bob", "alice")
        await app.events(1)
        sent = await us.write("alice", "bob")
        await app.events(3)

        body = app.got[-1][0]
        assert {each[0]["sender"] for each in app.got} == {us.full("alice"), us.full("bob")}
        assert body["message_id"] == sent["message_id"] and body["event"] == "message.delivered"
        assert body["recipient"] == us.full("bob") and body["status"] == "delivered"


async def test_wk1_without_a_key_there_is_none(tmp_path):
    async with town(tmp_path) as us:
        await us.register("alice")
        hook = await make(us, us.keys["alice"])

        for method, path in (("POST", ""), ("GET", ""), ("DELETE", f"/{hook['webhook_id']}")):
            reply = await us.here.request(method, f"/v1/webhooks{path}", HOOK)
            assert reply.status == 401
        await us.register("eve")
        path = f"/v1/webhooks/{hook['webhook_id']}"
        assert (await us.here.delete(path, token=us.keys["eve"])).status == 404
        assert (await us.here.delete(path, token=us.keys["alice"])).status == 200


async def test_wk2_an_event_that_was_not_brought_is_brought_after_a_restart(tmp_path):
    app = App(*[503] * 100)
    async with town(tmp_path, http=app) as us:
        await us.register("alice")
        await make(us, us.keys["alice"])
        await us.write("alice", "alice")
        await app.events(1)
    again = App()
    async with town(tmp_path, http=again):
        await again.events(1)

    ids = [each[1]["X-AMTP-Event-Id"] for each in (*app.got, *again.got)]
    assert len(set(ids)) == 1


async def test_wk2_the_older_comes_first(tmp_path):
    app = App()
    async with town(tmp_path, http=app) as us:
        await us.register("alice")
        await make(us, us.keys["alice"])
        sent = []
        for number in range(5):
            sent.append((await us.write("alice", "alice", payload=number))["message_id"])
            await app.events(number + 1)

        assert [each[0]["message_id"] for each in app.got] == sent


@pytest.mark.parametrize("trouble", [503, 429, 408])
async def test_wk3_trouble_is_tried_again(tmp_path, monkeypatch, trouble):
    monkeypatch.setattr(module, "_LONGEST_PAUSE", 0.001)
    app = App(trouble, trouble)
    async with town(tmp_path, http=app) as us:
        await us.register("alice")
        await make(us, us.keys["alice"])
        await us.write("alice", "alice")

        assert await app.events(3) == ["message.delivered"] * 3


async def test_wk3_a_refusal_drops_the_event_and_the_next_one_comes(tmp_path, caplog):
    app = App(410)
    async with town(tmp_path, http=app) as us:
        await us.register("alice")
        await make(us, us.keys["alice"])
        await us.write("alice", "alice")
        await app.events(1)
        await us.write("alice", "alice", payload=2)
        await app.events(2)

        assert app.got[0][0]["message_id"] != app.got[1][0]["message_id"]
        assert any("refuses" in each.message for each in caplog.records)


async def test_wk3_a_url_of_this_machine_is_not_asked(tmp_path, caplog):
    async with town(tmp_path, run=False) as us:
        await us.register("alice")
        hook = await make(us, us.keys["alice"], url="http://127.0.0.1:1/x", events=list(EVENTS))
        webhooks = us.here.amtp.transport.webhooks
        over = {"workflow_id": "w", "coordination_type": "parallel", "status": "failed"}
        await webhooks.ended(us.here.rooms.agents.named("alice"), over)

        entry = webhooks._next(hook["webhook_id"])
        await webhooks._bring("h", {"url": hook["url"], "secret": "s"}, entry)

    assert any("this machine" in getattr(each, "why", "") for each in caplog.records)


async def test_wk4_the_secret_is_shown_to_nobody_after_it_was_set(tmp_path):
    app = App()
    async with town(tmp_path, http=app) as us:
        await us.register("alice")
        made = await make(us, us.keys["alice"])
        listed = await us.here.get("/v1/webhooks", token=us.keys["alice"])

        assert "secret" not in made and listed.json["count"] == 1
        assert SECRET not in listed.text
        assert listed.json["webhooks"][0]["events"] == HOOK["events"]


async def test_what_comes_is_signed_with_the_secret(tmp_path):
    app = App()
    async with town(tmp_path, http=app) as us:
        await us.register("alice")
        await make(us, us.keys["alice"])
        await us.write("alice", "alice")
        await app.events(1)
        _, headers, body = app.got[0]

        given, at = headers["X-AMTP-Signature"], headers["X-AMTP-Timestamp"]
        now = us.here.clock() // 1000
        assert verify(SECRET, at, body, given, now)
        assert not verify(SECRET, at, body + b" ", given, now)
        assert not verify("another", at, body, given, now)


async def test_a_failure_is_told_with_its_reason(tmp_path):
    app = App(away=400)
    async with town(tmp_path, **away(app)) as us:
        await us.register("alice")
        await make(us, us.keys["alice"])
        await us.write("alice", "bob@away.example")

        assert await app.events(1) == ["message.failed"]
        body = app.got[0][0]
        assert body["recipient"] == "bob@away.example" and "400" in body["error_message"]


async def test_the_end_of_a_workflow_is_an_event(tmp_path):
    app = App()
    async with town(tmp_path, http=app) as us:
        await us.register("alice")
        await us.register("bob")
        await make(us, us.keys["alice"], events=["workflow.completed"])
        plan = {"type": "parallel", "timeout": 9}
        workflow = (await us.write("alice", "bob", coordination=plan))["workflow_id"]
        await us.write("bob", "alice", in_reply_to=workflow, response_type="workflow_response")

        assert await app.events(1) == ["workflow.completed"]
        assert app.got[0][0]["workflow_id"] == workflow


@pytest.mark.parametrize(
    "change",
    [
        {"url": None}, {"url": "ftp://x"}, {"url": 5}, {"events": []}, {"events": ["all"]},
        {"events": "message.failed"}, {"secret": ""}, {"secret": "x" * 300}, {"secret": 5},
    ],
)  # fmt: skip
async def test_what_is_no_webhook_is_refused(tmp_path, change):
    async with town(tmp_path) as us:
        await us.register("alice")
        reply = await us.here.post("/v1/webhooks", HOOK | change, token=us.keys["alice"])
        assert (reply.status, error_of(reply)) == (400, "VALIDATION_FAILED")


async def test_there_are_not_endlessly_many(tmp_path):
    async with town(tmp_path) as us:
        await us.register("alice")
        for _ in range(20):
            await make(us, us.keys["alice"])
        assert (await us.here.post("/v1/webhooks", HOOK, token=us.keys["alice"])).status == 400


async def test_oc1_each_outcome_is_told_once_also_after_a_restart(tmp_path):
    app = App()
    async with town(tmp_path, http=app) as us:
        await us.register("alice")
        await make(us, us.keys["alice"])
        await us.write("alice", "alice")
        await app.events(1)
        await trio.testing.wait_all_tasks_blocked(0.05)  # and it is noted that it was taken
        keys = us.keys
    again = App()
    async with town(tmp_path, http=again) as us:
        us.keys = keys
        [message] = await us.mail("alice")
        await us.ack("alice", keys["alice"], message["message_id"])
        sent = await us.write("alice", "alice", payload=2)
        await again.events(1)

        assert [each[0]["message_id"] for each in again.got] == [sent["message_id"]]


async def test_oc2_what_happened_before_it_looked_is_not_told(tmp_path):
    app = App()
    async with town(tmp_path, http=app, run=False) as us:
        await us.register("alice")
        await us.write("alice", "alice")
        await make(us, us.keys["alice"])
        keys = us.keys
    async with town(tmp_path, http=app) as us:
        us.keys = keys
        await trio.testing.wait_all_tasks_blocked(0.02)  # it has looked
        sent = await us.write("alice", "alice", payload=2)
        await app.events(1)
        assert app.got[0][0]["message_id"] == sent["message_id"]


async def test_oc3_what_nobody_wants_to_hear_of_is_not_written_down(tmp_path):
    async with town(tmp_path) as us:
        await us.register("alice")
        await us.write("alice", "alice")
        await trio.testing.wait_all_tasks_blocked(0.2)

        assert us.here.shared.registry.find("amtp.outcome.told") == []
