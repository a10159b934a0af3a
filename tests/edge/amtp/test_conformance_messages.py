"""AMTP 1.0, sections 4, 5 and 12.1: sending, and asking how far a message got.

One test for a row of the checklist of AMTP 1.0; the number is the row's.
"""

import json
import uuid
from pathlib import Path

import fakes
import pytest
from edge.amtp.team import error_of, team
from edge.gateway_harness import BASE

from ampd.edge.amtp.messages import largest
from ampd.protocol.amtp.message import is_uuid

V4 = "6ba7b810-9dad-41d1-80b4-00c04fd430c8"
KEY = "0b0c6f1e-91b8-4b5c-9a3f-2f3f0a3d9c11"
FILE = {
    "filename": "invoice.pdf", "content_type": "application/pdf", "size": 1024000,
    "hash": "sha256:" + "ab" * 32, "url": "https://files.example/xyz",
}  # fmt: skip


async def only(us, bob):
    (message,) = (await us.inbox("bob", bob))["messages"]
    return message


async def test_row_001_addresses_are_a_local_part_and_a_domain(us, alice, bob):
    assert (await us.send("alice", "bob@LOCALHOST", payload={})).json["status"] == "delivered"
    for wrong in ("bob", "@localhost", "bob@", "a@b@c", "Bob <bob@localhost>", "bob localhost"):
        body = {"sender": "alice@localhost", "recipients": [wrong], "payload": {}}
        reply = await us.here.post("/v1/messages", body)
        assert (reply.status, error_of(reply)) == (400, "VALIDATION_FAILED"), wrong


async def test_row_009_the_gateway_serves_the_three_endpoints(us, alice, bob):
    assert (await us.send("alice", "bob", payload={})).status == 202
    assert (await us.here.get("/v1/discovery/agents")).json["agent_count"] == 2
    assert (await us.inbox("bob", bob))["count"] == 1
    assert (await us.here.get("/v1/inbox/bob%40localhost", token=bob)).status == 200


async def test_row_015_the_version_is_1_0_and_no_other(us, alice, bob):
    reply = await us.send("alice", "bob", version="2.0", payload={})
    assert (reply.status, error_of(reply)) == (400, "UNSUPPORTED_VERSION")
    assert (await us.send("alice", "bob", version="1.0", payload={})).status == 202
    assert (await only(us, bob))["version"] == "1.0"


async def test_row_016_a_sender_is_required(us, bob):
    reply = await us.here.post("/v1/messages", {"recipients": ["bob@localhost"], "payload": {}})
    assert (reply.status, error_of(reply)) == (400, "VALIDATION_FAILED")


async def test_row_017_recipients_are_a_list_that_is_not_empty(us, alice):
    body = {"sender": "alice@localhost", "payload": {}}
    for recipients in ([], None):
        reply = await us.here.post("/v1/messages", body | {"recipients": recipients})
        assert (reply.status, error_of(reply)) == (400, "VALIDATION_FAILED")
    for recipients in ("bob@localhost", {"to": "bob@localhost"}, [7]):
        reply = await us.here.post("/v1/messages", body | {"recipients": recipients})
        assert (reply.status, error_of(reply)) == (400, "INVALID_REQUEST_FORMAT")


@pytest.mark.parametrize(
    "payload",
    ['{"b":1,"a":[1.50,1E+5,12345678901234567890]}', '"text"', "0.10", "true", "[]", '""',
     '{"text":"\\u0000\\u2028<b>&"}'],
)  # fmt: skip
async def test_row_018_a_payload_is_any_json_and_comes_back_as_it_was(us, alice, bob, payload):
    head = '{"sender":"alice@localhost","recipients":["bob@localhost"],"payload":'
    reply = await us.here.post(
        "/v1/messages", body=(head + payload + "}").encode(),
        headers={"Content-Type": "application/json"},
    )  # fmt: skip
    assert reply.status == 202, reply.text
    raw = (await us.here.get("/v1/inbox/bob@localhost", token=bob)).text
    found = raw.partition('"payload":')[2].partition(',"status"')[0]
    assert json.loads(found) == json.loads(payload)
    if "\\u" not in payload:
        assert found == payload


async def test_row_019_any_uuid_is_a_message_id_and_a_missing_one_is_made(us, alice, bob):
    reply = await us.send("alice", "bob", message_id=V4, payload={})
    assert reply.json["message_id"] == V4 == (await only(us, bob))["message_id"]
    made = (await us.send("alice", "bob", payload={})).json["message_id"]
    assert uuid.UUID(made).version == 7
    reply = await us.send("alice", "bob", message_id="mine", payload={})
    assert (reply.status, error_of(reply)) == (400, "VALIDATION_FAILED")


async def test_row_020_an_idempotency_key_is_kept_and_a_missing_one_is_made(us, alice, bob):
    await us.send("alice", "bob", idempotency_key=KEY, payload={})
    assert (await only(us, bob))["idempotency_key"] == KEY
    await us.send("alice", "bob", payload={})
    made = (await us.inbox("bob", bob))["messages"][1]["idempotency_key"]
    assert is_uuid(made) and uuid.UUID(made).version == 4
    reply = await us.send("alice", "bob", idempotency_key="once", payload={})
    assert (reply.status, error_of(reply)) == (400, "MESSAGE_VALIDATION_FAILED")


async def test_row_021_a_timestamp_is_kept_or_added(us, alice, bob):
    await us.send("alice", "bob", timestamp="2027-01-15T07:59:59.123456+00:00", payload={})
    await us.send("alice", "bob", timestamp="yesterday", payload={})
    await us.send("alice", "bob", payload={})
    times = [each["timestamp"] for each in (await us.inbox("bob", bob))["messages"]]
    assert times == ["2027-01-15T07:59:59.123456+00:00", *["2027-01-15T08:00:00.000Z"] * 2]


async def test_row_022_subject_and_headers_arrive(us, alice, bob):
    headers = {"priority": "urgent", "custom": {"deep": [1, "x"]}}
    await us.send("alice", "bob", subject="s" * 300, headers=headers, payload={})
    message = await only(us, bob)
    assert (message["subject"], message["headers"]) == ("s" * 300, headers)


async def test_row_023_in_reply_to_arrives_and_joins_the_thread(us, alice, bob):
    first = (await us.send("alice", "bob", payload={})).json["message_id"]
    await us.send("bob", "alice", in_reply_to=first, payload={})
    (reply,) = (await us.inbox("alice", alice))["messages"]
    assert reply["in_reply_to"] == first
    node = us.here.node
    agent = node.agents.named("alice")
    (summary,) = node.inbox(agent)
    assert (summary.in_reply_to, summary.thread) == (first, first)


async def test_row_024_the_schema_arrives(us, alice, bob):
    await us.send("alice", "bob", schema="agntcy:commerce.order.v2", payload={})
    assert (await only(us, bob))["schema"] == "agntcy:commerce.order.v2"


async def test_row_025_attachments_are_references(us, alice, bob):
    await us.send("alice", "bob", attachments=[FILE], payload={})
    assert (await only(us, bob))["attachments"] == [FILE]
    reply = await us.send("alice", "bob", attachments=[FILE | {"hash": "x"}], payload={})
    assert (reply.status, error_of(reply)) == (400, "VALIDATION_FAILED")


async def test_row_027_what_is_too_large_is_refused_and_the_limit_is_told(us, alice, bob):
    own = (await us.here.get("/v1/capabilities/localhost")).json
    assert own["max_size"] == us.here.shared.values.message_bytes
    reply = await us.send("alice", "bob", payload={"text": "x" * fakes.LIMIT})
    assert (reply.status, error_of(reply)) == (413, "PAYLOAD_TOO_LARGE")
    assert (await us.inbox("bob", bob))["count"] == 0


async def test_row_028_the_immediate_path_delivers_at_once(us, alice, bob):
    reply = await us.send("alice", "bob", payload={"text": "now"})
    (copy,) = reply.json["recipients"]
    assert (copy["status"], copy["inbox_delivered"]) == ("delivered", True)


async def test_row_029_a_message_is_on_disk_before_it_is_accepted(tmp_path):
    async with team(tmp_path) as us:
        await us.register("alice")
        bob = await us.register("bob")
        sent = (await us.send("alice", "bob", payload={"n": 1})).json["message_id"]
        image = _copied(tmp_path / "here", tmp_path / "crash" / "here")  # as a SIGKILL leaves it
    async with team(image) as again:
        assert [m["message_id"] for m in (await again.inbox("bob", bob))["messages"]] == [sent]
        assert (await again.status(sent)).json["status"] == "delivered"


def _copied(source: Path, to: Path) -> Path:
    for path in source.rglob("*"):
        if path.is_file():
            there = to / path.relative_to(source)
            there.parent.mkdir(parents=True, exist_ok=True)
            there.write_bytes(path.read_bytes())
            there.chmod(path.stat().st_mode)
    return to.parent


async def test_row_031_an_accepted_message_is_202(us, alice, bob):
    reply = await us.send("alice", "bob", payload={})
    assert (reply.status, reply.json["status"]) == (202, "delivered")
    assert await _to_another_node(us) == (202, "queued")


async def _to_another_node(us):
    """A message for an agent of a node that is known and away."""
    async with fakes.node(us.here.node.folder.parent / "far", "there") as there:
        carol = await there.agent("carol")
        await us.here.node.meet(there)
        reply = await us.send("alice", str(carol.address), payload={})
        return reply.status, reply.json["status"]


async def test_row_032_a_wrong_format_is_400(us, alice):
    for body in (b"{", b"[]", b"\xff", b'{"sender":1}', b'{"sender":"a@b","sender":"a@b"}', b""):
        reply = await us.here.post(
            "/v1/messages", body=body, headers={"Content-Type": "application/json"}
        )
        assert (reply.status, error_of(reply)) == (400, "INVALID_REQUEST_FORMAT"), body


async def test_row_033_a_key_is_required_where_it_is_needed(us, alice, bob):
    assert (await us.here.get("/v1/inbox/bob@localhost")).status == 401
    assert (await us.here.get("/v1/messages")).status == 401
    assert (await us.here.get("/v1/admin/agents")).status == 401
    assert (await us.send("alice", "bob", payload={}, peer="192.0.2.1")).status == 401
    assert (await us.send("alice", "bob", payload={}, peer="192.0.2.1", token=alice)).status == 202


async def test_row_034_too_large_is_413(us, alice):
    reply = await us.here.post(
        "/v1/messages",
        body=b" " * (largest(us.here.shared.values) + 1),
        headers={"Content-Type": "application/json"},
    )
    assert (reply.status, error_of(reply)) == (413, "PAYLOAD_TOO_LARGE")


async def test_row_035_too_many_requests_are_429(tmp_path):
    async with team(tmp_path, limits={"amtp": 2}) as us:
        await us.register("alice")
        await us.register("bob")
        assert [(await us.send("alice", "bob", payload={})).status for _ in "12"] == [202, 202]
        reply = await us.send("alice", "bob", payload={})
        assert (reply.status, error_of(reply)) == (429, "RATE_LIMIT_EXCEEDED")
        assert int(reply.headers["retry-after"]) > 0
        assert (await us.send("bob", "alice", payload={})).status == 202


async def test_row_036_what_cannot_be_done_now_is_503(us, alice, bob):
    us.here.shared.values.admin_keys.unlink()
    reply = await us.as_admin("GET", "/v1/admin/agents")
    assert (reply.status, error_of(reply)) == (503, "TEMPORARY_FAILURE")
    assert "retry-after" in reply.headers


async def test_row_037_the_version_header_is_honoured(us, alice, bob):
    reply = await us.send("alice", "bob", payload={}, said={"X-AMTP-Version": "2.0"})
    assert (reply.status, error_of(reply)) == (400, "UNSUPPORTED_VERSION")
    good = await us.send("alice", "bob", payload={}, said={"X-AMTP-Version": "1.0"})
    assert good.status == 202


async def test_row_038_status_has_each_recipient_its_attempts_and_the_next_retry(us, alice, bob):
    sent = (await us.send("alice", "bob", "nobody", payload={})).json["message_id"]
    status = (await us.status(sent)).json
    assert (status["message_id"], status["status"]) == (sent, "failed")
    assert (status["attempts"], status["next_retry"]) == (1, None)
    copies = {each["address"]: each for each in status["recipients"]}
    assert copies["bob@localhost"]["status"] == "delivered"
    assert copies["nobody@localhost"]["error_code"] == "AGENT_UNKNOWN"
    assert all(each["timestamp"] for each in copies.values())
    assert error_of(await us.status("x")) == "INVALID_MESSAGE_ID"
    assert error_of(await us.status(V4)) == "MESSAGE_NOT_FOUND"


async def test_row_042_what_cannot_go_out_now_waits(us, alice):
    assert await _to_another_node(us) == (202, "queued")
    assert len(us.here.node.outbox()) == 1


async def test_row_055_a_repeated_key_is_one_message_for_each_recipient(us, alice, bob):
    carol = await us.register("carol")
    one = await us.send("alice", "bob", idempotency_key=KEY, payload={"n": 1})
    two = await us.send("alice", "bob", idempotency_key=KEY, payload={"n": 1})
    assert two.json["message_id"] == one.json["message_id"]
    more = await us.send("alice", "bob", "carol", idempotency_key=KEY, payload={"n": 1})
    assert [each["status"] for each in more.json["recipients"]] == ["delivered"] * 2
    other = await us.send("bob", "carol", idempotency_key=KEY, payload={"n": 2})
    assert other.json["message_id"] != one.json["message_id"]
    assert (await us.inbox("bob", bob))["count"] == 1
    got = [each["payload"] for each in (await us.inbox("carol", carol))["messages"]]
    assert got == [{"n": 1}, {"n": 2}]


async def test_row_056_a_key_is_known_for_seven_days_and_over_a_restart(tmp_path):
    clock = fakes.Clock()
    async with team(tmp_path, clock=clock) as us:
        await us.register("alice")
        bob = await us.register("bob")
        first = await us.send("alice", "bob", idempotency_key=KEY, payload={})
        await us.ack("bob", bob, first.json["message_id"])
    clock.time += 7 * fakes.DAY - 1000
    async with team(tmp_path, clock=clock) as us:
        again = await us.send("alice", "bob", idempotency_key=KEY, payload={})
        assert again.json["message_id"] == first.json["message_id"]
        assert (await us.inbox("bob", bob))["count"] == 0


async def test_row_064_api_keys_say_who_asks(us, alice, bob):
    assert (await us.send("alice", "bob", payload={}, token=alice)).status == 202
    reply = await us.send("alice", "bob", payload={}, token=bob)
    assert (reply.status, error_of(reply)) == (403, "SENDER_CREDENTIAL_MISMATCH")
    kept = us.here.node.folder.joinpath("gateway.db").read_bytes()
    assert alice.encode() not in kept and bob.encode() not in kept


async def test_row_074_the_answer_to_a_send(us, alice, bob):
    reply = await us.send("alice", "bob", "alice", payload={})
    assert set(reply.json) == {"message_id", "status", "recipients"}
    assert [each["address"] for each in reply.json["recipients"]] == [
        "bob@localhost", "alice@localhost",
    ]  # fmt: skip
    assert reply.headers["content-type"].startswith("application/json")


async def test_row_075_a_message_can_be_asked_for_with_its_status(us, alice, bob):
    sent = (await us.send("alice", "bob", subject="hi", payload={"n": 1})).json["message_id"]
    view = (await us.here.get(f"/v1/messages/{sent}")).json
    (copy,) = view["recipients"]
    assert (view["status"], copy["attempts"]) == ("delivered", 1)
    assert view["created_at"] and view["delivered_at"] and copy["delivered_at"]
    assert "payload" not in view and "message" not in view
    for token in (alice, bob):
        whole = (await us.here.get(f"/v1/messages/{sent}", token=token)).json
        assert (whole["payload"], whole["message"]["recipients"]) == ({"n": 1}, ["bob@localhost"])
    stranger = await us.register("carol")
    assert (await us.here.get(f"/v1/messages/{sent}", token=stranger)).status == 404


async def test_row_076_messages_are_listed_page_by_page_and_filtered(us, alice, bob):
    ids = []
    for n in range(5):
        us.here.clock.time += 60_000
        ids.append((await us.send("alice", "bob", payload={"n": n})).json["message_id"])
    back = (await us.send("bob", "alice", payload={})).json["message_id"]

    async def listed(query, token=alice):
        reply = await us.here.get(f"/v1/messages{query}", token=token)
        assert reply.status == 200, reply.text
        return [m["message_id"] for m in reply.json["messages"]], reply.json["total"]

    assert await listed("") == ([back, *ids[::-1]], 6)
    assert await listed("?limit=2&offset=1") == ([ids[4], ids[3]], 6)
    assert await listed("?sender=bob@localhost") == ([back], 1)
    assert await listed("?recipient=bob@localhost&limit=1") == ([ids[4]], 5)
    assert await listed("?since=2027-01-15T08:04:00Z") == ([back, ids[4], ids[3]], 3)
    assert (await listed("?status=delivered"))[1] == 6
    assert await listed("?status=failed") == await listed("?status=pending") == ([], 0)
    assert await listed("", await us.register("carol")) == ([], 0)
    for query, word in (
        ("limit=0", "INVALID_LIMIT"), ("limit=1001", "INVALID_LIMIT"), ("limit=x", "INVALID_LIMIT"),
        ("offset=-1", "INVALID_OFFSET"), ("since=now", "INVALID_SINCE_FORMAT"),
        ("status=odd", "INVALID_STATUS"),
    ):  # fmt: skip
        reply = await us.here.get(f"/v1/messages?{query}", token=alice)
        assert (reply.status, error_of(reply)) == (400, word)


async def test_row_082_codes_are_those_of_the_standard(us, alice, bob):
    said = {
        error_of(await us.send("alice", "nobody", payload={})),
        error_of(await us.send("alice", "bob@unknown.example", payload={})),
        error_of(await us.send("alice", "bob", version="9", payload={})),
    }
    assert said == {"AGENT_UNKNOWN", "RECIPIENT_NOT_FOUND", "UNSUPPORTED_VERSION"}


async def test_row_083_every_error_has_the_same_body(us, alice):
    replies = [
        await us.here.get("/v1/inbox/alice@localhost"),
        await us.here.get("/v1/admin/agents"),
        await us.here.get("/v1/discovery/nothing"),
        await us.here.post("/v1/messages", {}, headers={"X-Request-ID": "req-7"}),
    ]
    for reply in replies:
        error = reply.json["error"]
        assert error["code"] and error["message"] and error["timestamp"].endswith("Z")
        assert error["request_id"] == reply.headers["x-request-id"]
    assert replies[-1].json["error"]["request_id"] == "req-7"


async def test_row_084_a_minimal_message_is_delivered(us, alice, bob):
    smallest = {
        "version": "1.0", "sender": "alice@localhost", "recipients": ["bob@localhost"],
        "payload": {"text": "Hello, World!"},
    }  # fmt: skip
    assert (await us.here.post("/v1/messages", smallest)).status == 202
    assert (await only(us, bob))["payload"] == {"text": "Hello, World!"}
    assert us.here.shared.values.base == BASE


async def test_row_086_who_asks_too_often_is_slowed_down_alone(tmp_path):
    async with team(tmp_path, limits={"amtp": 3}) as us:
        alice, bob = await us.register("alice"), await us.register("bob")
        statuses = [
            (await us.here.get("/v1/inbox/alice@localhost", token=alice)).status for _ in "1234"
        ]
        assert statuses == [200, 200, 200, 429]
        assert (await us.here.get("/v1/inbox/bob@localhost", token=bob)).status == 200
