"""The rules of edge/amtp: mail, times, sending, messages, views, info, service."""

import json

import fakes
import pytest
from edge.amtp.team import error_of, team
from hypothesis import given
from hypothesis import strategies as st

from ampd.core.agents import Profile
from ampd.edge import readiness
from ampd.edge.amtp.mail import as_v7
from ampd.edge.amtp.times import as_sent, parse_time
from ampd.model.errors import StorageError
from ampd.storage.store import Store

V4 = "6ba7b810-9dad-41d1-80b4-00c04fd430c8"
KEY = "0b0c6f1e-91b8-4b5c-9a3f-2f3f0a3d9c11"


async def got(us, name, token):
    return (await us.inbox(name, token))["messages"]


# --- mail.py -----------------------------------------------------------------------------------


async def test_ma1_a_context_says_nothing_that_is_proved_otherwise(us, alice):
    mallory = await us.here.node.agent("mallory")
    forged = {
        "version": "2.0", "sender": "bob@here.local", "recipients": ["nobody@here.local"],
        "message_id": V4, "subject": "forged", "in_reply_to": V4, "headers": {"x": 1},
    }  # fmt: skip
    context = json.dumps({"amtp": forged})
    sent = await us.here.node.send(mallory, "alice", "hi", subject="mine", context=context)
    (message,) = await got(us, "alice", alice)
    assert (message["sender"], message["subject"]) == ("mallory@localhost", "mine")
    assert (message["message_id"], message["recipients"]) == (sent.id, ["alice@localhost"])
    assert (message["version"], message["headers"]) == ("1.0", {"x": 1})
    assert "in_reply_to" not in message


@pytest.mark.parametrize(
    "context",
    ['{"amtp":1}', '{"amtp":{}}', "[]", '{"amtp":{"headers":[]}}', '{"amtp":{"schema":"x"}}',
     '{"amtp":{"attachments":[1]}}', '{"amtp":{"idempotency_key":"x"}}'],
)  # fmt: skip
async def test_ma1_a_context_that_is_no_message_of_amtp_is_passed_over(us, alice, context):
    native = await us.here.node.agent("native")
    await us.here.node.send(native, "alice", "hi", subject="s", context=context)
    (message,) = await got(us, "alice", alice)
    assert (message["sender"], message["recipients"]) == ("native@localhost", ["alice@localhost"])
    assert (message["subject"], message["payload"]) == ("s", {"text": "hi"})


async def test_ma1_all_members_come_back_on_another_node(us, alice, tmp_path):
    async with fakes.node(tmp_path / "far", "there") as there:
        carol = await there.agent("carol")
        await us.here.node.meet(there)
        await us.send(
            "alice", "carol@there.local", headers={"a": {"b": 1}}, payload={"n": 1},
            schema="agntcy:a.b.v1", response_type="x",
        )  # fmt: skip
        draft = us.here.node.outbox()
        assert len(draft) == 1 and carol.address.name == "carol"
    seq = us.here.node.store.view.execute("SELECT max(seq) FROM messages").fetchone()[0]
    full = us.here.node.reading.full(us.here.node.agents.named("alice"), seq)
    members = json.loads(full.context)["amtp"]
    assert members == {
        "schema": "agntcy:a.b.v1", "headers": {"a": {"b": 1}}, "response_type": "x",
    }  # fmt: skip
    assert full.payload == '{"n":1}'


async def test_ma2_an_answer_to_the_id_that_others_were_told_finds_its_message(us, alice, bob):
    await us.send("alice", "bob", message_id=V4, payload={})
    assert as_v7(V4) == "6ba7b810-9dad-71d1-80b4-00c04fd430c8"
    await us.send("bob", "alice", in_reply_to=as_v7(V4), payload={})
    (summary,) = us.here.node.inbox(us.here.node.agents.named("alice"))
    assert (summary.in_reply_to, summary.thread) == (V4, V4)


async def test_ma3_native_mail_reads_as_a_message_of_amtp(us, alice):
    native = await us.here.node.agent("native")
    await us.here.node.send(native, "alice", "hello", subject="s", priority="high")
    await us.here.node.send(native, "alice", "", payload='{"n":1.50}')
    first, second = await got(us, "alice", alice)
    assert (first["sender"], first["recipients"]) == ("native@localhost", ["alice@localhost"])
    assert first["timestamp"] == "2027-01-15T08:00:00.000Z"
    assert (first["payload"], first["headers"]) == ({"text": "hello"}, {"priority": "high"})
    assert second["payload"] == {"n": 1.5}


async def test_ma4_a_long_subject_is_cut_in_native_lists_only(us, alice, bob):
    await us.send("alice", "bob", subject="x" * 1000, payload={})
    (summary,) = us.here.node.inbox(us.here.node.agents.named("bob"))
    assert len(summary.subject) == 256
    assert (await got(us, "bob", bob))[0]["subject"] == "x" * 1000


async def test_ma5_a_plain_message_takes_no_more_room_than_a_native_one(us, alice, bob):
    await us.send("alice", "bob", subject="s", payload={"text": "hi"})
    await us.send("alice", "bob", idempotency_key=KEY, timestamp="2027-01-15T08:00:00Z")
    contexts = [
        us.here.node.reading.full(us.here.node.agents.named("bob"), each.seq).context
        for each in us.here.node.inbox(us.here.node.agents.named("bob"))
    ]
    assert contexts[0] is None
    first = us.here.node.inbox(us.here.node.agents.named("bob"))[0]
    full = us.here.node.reading.full(us.here.node.agents.named("bob"), first.seq)
    assert (full.body, full.payload) == ("hi", None)
    assert (await got(us, "bob", bob))[0]["payload"] == {"text": "hi"}
    assert json.loads(contexts[1]) == {
        "amtp": {"idempotency_key": KEY, "timestamp": "2027-01-15T08:00:00Z"}
    }


@pytest.mark.parametrize("payload", [{"text": ""}, {"text": "a", "b": 1}, "a", {"message": "a"}])
async def test_ma5_every_other_payload_comes_back_as_it_was(us, alice, bob, payload):
    await us.send("alice", "bob", payload=payload)
    assert (await got(us, "bob", bob))[0]["payload"] == payload


# --- times.py ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    ["2027-01-15T08:00:00Z", "2027-01-15T09:00:00+01:00", "2027-01-15t08:00:00.000000000z"],
)
def test_times_of_every_form_are_read(text):
    assert parse_time(text) == fakes.START


@pytest.mark.parametrize(
    "text", ["", "now", "2027-01-15", "2027-13-01T00:00:00Z", "2027-01-15T08:00:00", "0000-00-00"]
)
def test_what_is_no_time_is_none(text):
    assert parse_time(text) is None
    assert as_sent(text, fakes.START) == "2027-01-15T08:00:00.000Z"


@given(st.text(max_size=40))
def test_any_text_is_a_time_or_none(text):
    parse_time(text)


# --- sending.py --------------------------------------------------------------------------------


async def test_se1_a_repeat_reaches_only_who_did_not_have_it(us, alice, bob):
    carol = await us.register("carol")
    first = await us.send("alice", "bob", idempotency_key=KEY, message_id=V4, payload={})
    again = await us.send("alice", "carol", idempotency_key=KEY, message_id=V4, payload={})
    assert first.json["message_id"] == again.json["message_id"] == V4
    assert [e["address"] for e in again.json["recipients"]] == ["carol@localhost"]
    assert (len(await got(us, "bob", bob)), len(await got(us, "carol", carol))) == (1, 1)


async def test_se1_repeats_at_the_same_moment_are_one(us, alice, bob):
    import trio

    replies = []

    async def once(*to):
        replies.append(await us.send("alice", *to, idempotency_key=KEY, payload={}))

    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(once, "bob")
            nursery.start_soon(once, "bob", "alice")
    assert {reply.status for reply in replies} == {202}
    assert len(await got(us, "bob", bob)) == len(await got(us, "alice", alice)) == 1


async def test_se2_the_same_words_said_twice_are_two_messages(us, alice, bob):
    one, two = [(await us.send("alice", "bob", payload={"text": "ok"})).json for _ in "12"]
    assert one["message_id"] != two["message_id"]
    assert len(await got(us, "bob", bob)) == 2


async def test_se2_a_message_id_is_the_key_if_there_is_no_other(us, alice, bob):
    for _ in "12":
        reply = await us.send("alice", "bob", message_id=V4, payload={"n": 1})
        assert (reply.status, reply.json["message_id"]) == (202, V4)
    assert len(await got(us, "bob", bob)) == 1
    other = await us.send("alice", "bob", message_id=V4, idempotency_key=KEY, payload={"n": 2})
    assert other.status == 409


async def test_se3_a_failure_is_not_the_answer_to_a_retry(us, alice):
    members = {"idempotency_key": KEY, "message_id": V4, "payload": {}}
    first = await us.send("alice", "bob", **members)
    assert (first.status, error_of(first)) == (400, "AGENT_UNKNOWN")
    bob = await us.register("bob")
    again = await us.send("alice", "bob", **members)
    assert (again.status, again.json["status"]) == (202, "delivered")
    assert (await us.status(V4)).json["status"] == "delivered"
    assert len(await got(us, "bob", bob)) == 1


async def test_se4_one_recipient_that_is_unknown_holds_up_no_other(us, alice, bob):
    reply = await us.send("alice", "nobody", "bob", "x@far.example", payload={})
    assert (reply.status, reply.json["status"]) == (202, "failed")
    found = [(e["status"], e.get("error_code")) for e in reply.json["recipients"]]
    assert found == [
        ("failed", "AGENT_UNKNOWN"), ("delivered", None), ("failed", "RECIPIENT_NOT_FOUND"),
    ]  # fmt: skip
    assert len(await got(us, "bob", bob)) == 1


async def test_se5_nothing_is_said_that_is_not_on_disk(us, alice, bob, monkeypatch):
    async def fails(self, run, *, urgent=False):
        raise StorageError("the disk is full")

    monkeypatch.setattr(Store, "write", fails)
    reply = await us.send("alice", "bob", payload={})
    assert (reply.status, error_of(reply)) == (503, "TEMPORARY_FAILURE")


async def test_an_agent_that_takes_no_such_schema_refuses_and_says_what_it_takes(us, alice):
    await us.register("shop", supported_schemas=["agntcy:commerce.*"])
    reply = await us.send("alice", "shop", schema="agntcy:support.ticket.v1", payload={})
    assert reply.status == 400 and "agntcy:commerce.*" in reply.text
    good = await us.send("alice", "shop", schema="agntcy:commerce.order.v1", payload={})
    assert good.status == 202


# --- messages.py -------------------------------------------------------------------------------


async def test_me1_only_a_send_that_nobody_got_is_an_error(us, alice, bob):
    assert (await us.send("alice", "bob", payload={})).status == 202
    assert (await us.send("alice", "bob", "nobody", payload={})).status == 202
    reply = await us.send("alice", "nobody", payload={})
    assert reply.status == 400
    assert {"message_id", "status", "recipients", "error"} == set(reply.json)


async def test_me2_without_a_key_a_message_is_not_shown(us, alice, bob):
    sent = (await us.send("alice", "bob", subject="s", payload={"n": 1})).json["message_id"]
    open_view = await us.here.get(f"/v1/messages/{sent}")
    assert open_view.status == 200 and "subject" not in open_view.text
    assert (await us.here.get(f"/v1/messages/{sent}", peer="192.0.2.1")).status == 401
    assert (await us.here.get(f"/v1/messages/{sent}", token=us.admin)).json["payload"] == {"n": 1}


@pytest.mark.parametrize("version", ["2.0", "1", "1.1"])
async def test_me3_another_version_is_refused(us, alice, version):
    reply = await us.send("alice", "alice", payload={}, said={"X-AMTP-Version": version})
    assert error_of(reply) == "UNSUPPORTED_VERSION"


@pytest.mark.parametrize(
    "sender",
    ["nobody@localhost", "nobody@here.local", "x@aimaestro.local", "x@default.aimaestro.local"],
)
async def test_me4_nobody_elsewhere_speaks_for_this_node(us, alice, sender):
    body = {"sender": sender, "recipients": ["alice@localhost"], "payload": {}}
    reply = await us.here.post("/v1/messages", body)
    assert (reply.status, error_of(reply)) == (403, "SENDER_CREDENTIAL_MISMATCH")


async def test_native_and_amtp_agents_write_to_each_other(us, alice):
    native = await us.here.node.agent("native")
    for address in ("native@localhost", "native@here.local", "NATIVE@Localhost"):
        assert (await us.send("alice", address, payload={"text": "hi"})).status == 202
    assert us.here.node.bodies(native) == ["hi"] * 3
    await us.here.node.send(native, "alice", "back")
    assert [m["payload"] for m in await got(us, "alice", alice)] == [{"text": "back"}]


# --- views.py ----------------------------------------------------------------------------------


async def test_vi1_an_agent_sees_its_own_messages_and_the_owner_sees_all(us, alice, bob):
    carol = await us.register("carol")
    sent = (await us.send("alice", "bob", payload={})).json["message_id"]
    for token, status in ((alice, 200), (bob, 200), (carol, 404), (us.admin, 200)):
        assert (await us.status(sent, token=token)).status == status
    lists = [
        (await us.here.get("/v1/messages", token=token)).json["total"]
        for token in (alice, bob, carol, us.admin)
    ]
    assert lists == [1, 1, 0, 1]


async def test_vi2_a_queued_copy_says_that_it_waits(us, alice, tmp_path):
    async with fakes.node(tmp_path / "far", "there") as there:
        await there.agent("carol")
        await us.here.node.meet(there)
    sent = (await us.send("alice", "carol@there.local", payload={})).json["message_id"]
    (copy,) = (await us.status(sent)).json["recipients"]
    assert (copy["address"], copy["status"], copy["attempts"]) == ("carol@there.local", "queued", 0)
    listed = await us.here.get("/v1/messages?status=pending", token=alice)
    assert [each["message_id"] for each in listed.json["messages"]] == [sent]


async def test_vi3_a_pushed_copy_is_delivering_until_its_target_took_it(tmp_path, autojump_clock):
    async with team(tmp_path, run=False) as us:
        alice = await us.register("alice")
        target = {"delivery_mode": "push", "push_target": "http://127.0.0.1:9/x"}
        await us.register("echo", **target)
        sent = (await us.send("alice", "echo", idempotency_key=KEY, payload={})).json
        assert sent["status"] == "delivering"
        repeated = await us.send("alice", "echo", idempotency_key=KEY, payload={})
        assert (repeated.status, repeated.json) == (202, sent)
        for status, total in (("delivered", 0), ("pending", 1)):
            listed = await us.here.get(f"/v1/messages?status={status}", token=alice)
            assert listed.json["total"] == total


async def test_vi4_a_status_names_those_who_were_not_found(us, alice, bob):
    sent = (await us.send("alice", "bob", "nobody", payload={})).json["message_id"]
    copies = (await us.status(sent)).json["recipients"]
    assert [e["address"] for e in copies] == ["bob@localhost", "nobody@localhost"]
    none = (await us.send("alice", "nobody", payload={})).json["message_id"]
    assert (await us.status(none, token=alice)).json["status"] == "failed"
    assert (await us.status(none, token=bob)).status == 404
    us.here.clock.time += 31 * fakes.DAY
    assert (await us.status(none)).status == 404


# --- info.py, service.py -----------------------------------------------------------------------


async def test_if1_health_and_readiness(us, monkeypatch):
    health = (await us.here.get("/health")).json
    assert (health["status"], health["healthy"], health["version"]) == ("healthy", True, "1.0")
    ready = await us.here.get("/ready")
    assert (ready.status, ready.json["ready"]) == (200, True)

    def fails(*_):
        raise StorageError("gone")

    monkeypatch.setattr(type(us.here.node.store.view), "execute", fails)
    ready = await us.here.get("/ready")
    assert (ready.status, ready.json["ready"]) == (503, False)
    assert ready.json["dependencies"]["store"]["error"] == "what is stored cannot be read now"
    assert (await us.here.get("/health")).status == 200


async def test_if1_a_full_disk_is_not_ready(us, monkeypatch):
    monkeypatch.setattr(readiness, "NOTHING", 1 << 62)
    ready = await us.here.get("/ready")
    assert (ready.status, ready.json["status"], ready.json["ready"]) == (503, "unavailable", False)
    assert "the disk is full" in ready.json["dependencies"]["store"]["error"]
    health = await us.here.get("/health")
    assert (health.status, health.json["status"]) == (200, "unhealthy")
    assert health.json["healthy"] is False
    assert health.json["components"]["store"]["status"] == "unhealthy"


async def test_if2_metrics_count_and_name_nobody(us, alice):
    await us.send("alice", "alice", payload={})
    await us.send("alice", "nobody", payload={})
    reply = await us.here.get("/metrics")
    assert reply.json["sent"] == {"delivered": 1} and reply.json["agents"] == 1
    assert reply.json["errors"] == {"AGENT_UNKNOWN": 1} and "alice" not in reply.text


async def test_sv1_an_error_says_what_and_when(us):
    reply = await us.here.get("/v1/messages/x", headers={"X-Request-ID": "r1"})
    assert reply.status == 400
    assert reply.json["error"] == {
        "code": "INVALID_MESSAGE_ID", "message": "Invalid message ID format",
        "timestamp": "2027-01-15T08:00:00.000Z", "request_id": "r1",
    }  # fmt: skip


async def test_every_route_is_described(us):
    described = (await us.here.get("/v1/openapi-amtp.json")).json
    said = {
        (method.upper(), path) for path, methods in described["paths"].items() for method in methods
    }
    assert described["openapi"].startswith("3.") and described["servers"][0]["url"]
    assert {(route.method, route.path) for route in us.here.amtp.routes()} == said


async def test_capabilities_of_this_gateway(us, alice):
    await us.register("shop", supported_schemas=["agntcy:commerce.*"])
    for domain in ("localhost", "here.local"):
        found = (await us.here.get(f"/v1/capabilities/{domain}")).json
        assert (found["version"], found["schemas"]) == ("1.0", ["agntcy:commerce.*"])
        assert found["gateway"] == "http://localhost:23000" and found["ttl"] == 300_000_000_000


async def test_a_profile_that_cannot_be_is_refused(us):
    assert Profile() == Profile()
    reply = await us.as_admin(
        "POST", "/v1/admin/agents", {"address": "x", "description": "d" * 100_000}
    )
    assert (reply.status, error_of(reply)) == (400, "AGENT_REGISTRATION_FAILED")
    assert len(us.here.node.agents) == 0
