"""AMTP 1.0, sections 5.2.1, 10.2 and 12.2.1: agents that are pushed to.

One test for a row of the checklist of AMTP 1.0; the number is the row's.
"""

import json
from contextlib import asynccontextmanager

import fakes
import pytest
import trio
from edge.amtp.team import error_of, team

from ampd.edge.http.client import Reply
from ampd.model.errors import Unavailable
from ampd.storage.records import State

TARGET = "http://127.0.0.1:9000/amtp/receive"


class Target:
    """The server of a pushed agent; `script` has its answers, the last one for good."""

    def __init__(self, *script):
        self.script = list(script) or [(200, b"")]
        self.got = []

    async def send(self, method, url, *, headers=None, body=b"", **options):
        await trio.lowlevel.checkpoint()
        self.got.append((url, dict(headers), json.loads(body), options))
        answer = self.script[0] if len(self.script) == 1 else self.script.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return Reply(answer[0], {}, answer[1])

    @property
    def bodies(self):
        return [each[2] for each in self.got]

    async def aclose(self):
        await trio.lowlevel.checkpoint()


@asynccontextmanager
async def pushed(tmp_path, target, clock=None, **more):
    """A team with alice, who reads, and echo, who is pushed to."""
    now = fakes.JumpingClock(clock) if clock else None
    async with team(tmp_path, http=target, clock=now) as us:
        us.alice = await us.register("alice")
        await us.register("echo", delivery_mode="push", push_target=TARGET, **more)
        yield us


async def until(look):
    """What `look` finds, once it finds something; the clock jumps meanwhile."""
    for seconds in range(2000):
        if found := await look():
            return found
        await trio.sleep(seconds)
    raise AssertionError("it never came")


async def settled(us, identifier, word):
    """The status of a message, once it is `word`."""

    async def look():
        status = (await us.status(identifier)).json
        return status if status["status"] == word else None

    return await until(look)


async def mail_of(us, sender):
    """What alice has from somebody, once there is any."""

    async def look():
        found = (await us.inbox("alice", us.alice))["messages"]
        return [each for each in found if each["sender"] == sender]

    return await until(look)


async def test_row_030_200_comes_with_the_reply_of_the_recipient(tmp_path):
    said = json.dumps({"status": "accepted", "response": {"order_status": "confirmed"}}).encode()
    async with pushed(tmp_path, Target((200, said))) as us:
        reply = await us.send("alice", "echo", subject="Order", payload={"n": 1})
        assert (reply.status, reply.json["status"]) == (200, "delivered")
        assert reply.json["response"] == {"order_status": "confirmed"}
        assert reply.json["reply"]["in_reply_to"] == reply.json["message_id"]
    async with pushed(tmp_path / "two", Target((200, b""))) as us:
        assert (await us.send("alice", "echo", payload={})).status == 202


async def test_row_043_what_failed_for_good_is_dead_mail(tmp_path, autojump_clock):
    async with pushed(tmp_path, Target((410, b"")), autojump_clock) as us:
        sent = (await us.send("alice", "echo", payload={})).json["message_id"]
        await settled(us, sent, "failed")
        letters = await us.as_admin("GET", "/v1/dead-letters")
        assert letters.status == 200 and sent in letters.text


async def test_row_070_agents_pull_or_are_pushed_to(tmp_path, autojump_clock):
    target = Target()
    async with pushed(tmp_path, target, autojump_clock) as us:
        sent = (await us.send("alice", "alice", "echo", payload={"n": 1})).json["message_id"]
        status = await settled(us, sent, "delivered")
        assert [each["delivery_mode"] for each in status["recipients"]] == ["pull", "push"]
        assert (await us.inbox("alice", us.alice))["count"] == 1
        assert [each["payload"] for each in target.bodies] == [{"n": 1}]


async def test_row_071_an_unknown_local_part_is_a_structured_error(tmp_path):
    async with team(tmp_path) as us:
        await us.register("alice")
        reply = await us.send("alice", "nobody", payload={})
        assert (reply.status, error_of(reply)) == (400, "AGENT_UNKNOWN")
        (copy,) = reply.json["recipients"]
        assert (copy["status"], copy["error_code"]) == ("failed", "AGENT_UNKNOWN")
        again = await us.status(reply.json["message_id"])
        assert again.json["recipients"][0]["error_code"] == "AGENT_UNKNOWN"


async def test_row_072_a_target_that_is_away_is_tried_again(tmp_path, autojump_clock):
    target = Target(*[Unavailable("refused"), (503, b"")] * 3, (200, b""))
    async with pushed(tmp_path, target, autojump_clock) as us:
        sent = (await us.send("alice", "echo", payload={})).json["message_id"]
        status = await settled(us, sent, "retrying")
        assert status["next_retry"] and status["attempts"] >= 1
        await settled(us, sent, "delivered")
        assert len(target.got) == 7


async def test_row_081_the_callback_has_its_shape_and_its_answer_becomes_a_message(
    tmp_path, autojump_clock
):
    said = json.dumps({"status": "accepted", "response": {"ok": True}}).encode()
    target = Target((202, said))
    async with pushed(tmp_path, target, autojump_clock, headers={"X-Secret": "s"}) as us:
        coordination = {"type": "parallel", "timeout": 60}
        reply = await us.send(
            "alice", "echo", subject="Order", schema="agntcy:commerce.order.v2",
            payload={"n": 1}, coordination=coordination,
        )  # fmt: skip
        assert (reply.status, reply.json["workflow_id"]) == (202, reply.json["message_id"])
        found = await mail_of(us, "echo@localhost")
        url, headers, body, _ = target.got[0]
        assert (url, headers["X-Secret"], headers["X-AMTP-Local-Delivery"]) == (TARGET, "s", "true")
        assert (body["sender"], body["recipient"]) == ("alice@localhost", "echo@localhost")
        assert (body["subject"], body["schema"]) == ("Order", "agntcy:commerce.order.v2")
        assert body["payload"] == {"n": 1}
        assert body["coordination"]["requires_response"] is True
        assert body["coordination"]["workflow_id"] == reply.json["message_id"]
        assert (found[0]["payload"], found[0]["response_type"]) == (
            {"ok": True}, "workflow_response",
        )  # fmt: skip


async def test_pu1_a_message_is_acknowledged_when_its_target_took_it(tmp_path, autojump_clock):
    target = Target(*[Unavailable("away")] * 6, (200, b""))
    async with pushed(tmp_path, target, autojump_clock) as us:
        agent = us.here.node.agents.named("echo")
        sent = (await us.send("alice", "echo", payload={})).json["message_id"]
        await settled(us, sent, "retrying")
        assert [each.id for each in us.here.node.inbox(agent)] == [sent]
        await settled(us, sent, "delivered")
        assert us.here.node.inbox(agent) == []
        assert {each["message_id"] for each in target.bodies} == {sent}


async def test_pu2_tries_are_spread_over_a_week_and_then_it_failed(tmp_path, autojump_clock):
    target = Target((503, b""))
    async with pushed(tmp_path, target, autojump_clock) as us:
        sent = (await us.send("alice", "echo", payload={})).json["message_id"]
        started = trio.current_time()
        status = await settled(us, sent, "failed")
        assert len(target.got) == status["attempts"] == 168
        assert 0.75 * 6 * 86_400 < trio.current_time() - started < 1.25 * 7 * 86_400


async def test_pu2_messages_of_one_agent_keep_their_order(tmp_path, autojump_clock):
    target = Target(Unavailable("away"), (200, b""))
    async with pushed(tmp_path, target, autojump_clock) as us:
        for n in range(3):
            sent = (await us.send("alice", "echo", payload={"n": n})).json["message_id"]
        await settled(us, sent, "delivered")
        assert [each["payload"]["n"] for each in target.bodies] == [0, 0, 1, 2]


async def test_pu3_what_is_refused_does_not_hold_up_the_rest(tmp_path, autojump_clock):
    target = Target((400, b""), (200, b""))
    async with pushed(tmp_path, target, autojump_clock) as us:
        first = (await us.send("alice", "echo", payload={"n": 1})).json["message_id"]
        second = (await us.send("alice", "echo", payload={"n": 2})).json["message_id"]
        await settled(us, second, "delivered")
        (copy,) = (await us.status(first)).json["recipients"]
        assert (copy["status"], copy["error_code"]) == ("failed", "DELIVERY_FAILED")
        assert first in json.dumps(await mail_of(us, "ampd@localhost"))


async def test_pu4_an_answer_is_sent_once_although_the_push_is_repeated(tmp_path, autojump_clock):
    said = json.dumps({"status": "accepted", "response": "yes"}).encode()
    target = Target((200, said))
    async with pushed(tmp_path, target, autojump_clock) as us:
        sent = (await us.send("alice", "echo", payload={})).json["message_id"]
        await settled(us, sent, "delivered")
        agent = us.here.node.agents.named("echo")
        await us.here.rooms.marks.set(agent, ["1"], State.UNREAD)  # lost in a crash
        await settled(us, sent, "delivered")
        assert len(target.got) == 2
        found = (await us.inbox("alice", us.alice))["messages"]
        assert [(each["payload"], each["in_reply_to"]) for each in found] == [("yes", sent)]


@pytest.mark.parametrize("answer", [b"no json", b"[]", b'{"status":"ok"}', b'{"response":null}'])
async def test_pu4_other_answers_are_no_messages(tmp_path, autojump_clock, answer):
    async with pushed(tmp_path, Target((200, answer)), autojump_clock) as us:
        sent = (await us.send("alice", "echo", payload={})).json["message_id"]
        await settled(us, sent, "delivered")
        assert (await us.inbox("alice", us.alice))["count"] == 0


async def test_pu5_a_target_that_the_admin_named_may_be_anywhere(tmp_path, autojump_clock):
    target = Target()
    async with pushed(tmp_path, target, autojump_clock) as us:
        sent = (await us.send("alice", "echo", payload={})).json["message_id"]
        await settled(us, sent, "delivered")
        assert target.got[0][3]["anywhere"] is True
        for peer in ("127.0.0.1", "192.0.2.1"):
            reply = await us.here.post(
                "/v1/admin/agents",
                {"address": "x", "push_target": TARGET},
                token=us.alice,
                peer=peer,
            )
            assert reply.status == 403
