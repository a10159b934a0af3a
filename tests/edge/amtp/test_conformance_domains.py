"""AMTP 1.0 row by row: domains, transport security, schemas, workflows, reliability, signatures.

The rows are those of the project's checklist of the draft; the sections are the draft's.
"""

import json
import ssl
import uuid

import fakes
import pytest
from edge.amtp.team import error_of
from edge.amtp.test_workflows import begin, notice, people, reply, shown
from edge.amtp.world import (
    Wire,
    Zone,
    bring,
    foreign_message,
    key_file,
    name_server,
    town,
    two_towns,
)
from edge.http.serving import certificate, serving
from trio.testing import wait_all_tasks_blocked

from ampd.core import abroad
from ampd.crypto.foreign_keys import ForeignSigner
from ampd.edge.amtp.inbound import REPEATS_FOR
from ampd.edge.http.client import HttpClient
from ampd.edge.http.dns import Dns
from ampd.edge.http.server import Tls
from ampd.model.address import Address
from ampd.model.errors import Invalid, Unavailable
from ampd.protocol.amtp.dns_record import DEFAULT_MAX_SIZE, KeyRecord, gateway_record, key_record
from ampd.protocol.amtp.domain_signature import sign

AWAY = {"away.example": "http://away"}
SIGNER = ForeignSigner.generate("ES256")
KEY = "k1._amtpkey.sender.example"


def signed(signer=SIGNER, **members):
    message = foreign_message(**members)
    return message | {"signature": sign(message, signer, "k1")}


def zone(record=None):
    made = Zone()
    made.records[KEY] = [record or str(KeyRecord("ES256", SIGNER.public))]
    return made


async def result(us, message):
    reply = await us.here.post("/v1/messages", message, peer="192.0.2.7")
    assert reply.status == 202, reply.text
    path = f"/v1/messages/{reply.json['message_id']}/status"
    return (await us.as_admin("GET", path)).json["sender_verification"]["result"]


# --- 3.2 and 3.3: the DNS -----------------------------------------------------------------------


async def test_row_002_a_gateway_record_needs_its_version_and_url():
    assert gateway_record(["v=amtp1;gateway=https://a.example"]) is not None
    assert (
        gateway_record(["v=amtp1", "gateway=https://a.example", "v=amtp2;gateway=https://b"])
        is None
    )


async def test_row_003_the_record_may_name_ways_of_authentication():
    found = gateway_record(["v=amtp1;gateway=https://a.example;auth=cert,oauth,apikey"])
    assert found.auth == ("cert", "oauth", "apikey")


async def test_row_004_the_largest_message_is_ten_megabytes_unless_the_record_says_another():
    assert gateway_record(["v=amtp1;gateway=https://a.example"]).max_size == DEFAULT_MAX_SIZE
    assert gateway_record(["v=amtp1;gateway=https://a.example;max-size=5"]).max_size == 5


async def test_row_005_the_txt_record_leads_to_the_gateway(tmp_path):
    async with name_server() as names:
        options = {"dns": Dns(names.address), "plain_http": True, "resolve": {}}
        options["webhook_hosts"] = ("127.0.0.1",)
        async with two_towns(tmp_path, here=options) as (home, away):
            names.records["_amtp.away.example"] = (60, [f"v=amtp1;gateway={away.url}"])
            await people(home, "alice")
            await people(away, "bob")
            await home.write("alice", "bob@away.example")
            assert len(await away.mail("bob")) == 1


async def test_row_007_an_answer_is_kept_as_long_as_its_record_says(autojump_clock):
    async with name_server() as names:
        dns = Dns(names.address)
        names.records["_amtp.away.example"] = (120, ["v=amtp1;gateway=https://a.example"])
        autojump_clock.autojump_threshold = 1000  # the clock is moved by hand
        assert (await dns.txt("_amtp.away.example"))[1] == 120
        autojump_clock.jump(119)
        await dns.txt("_amtp.away.example")
        assert len(names.asked) == 1
        autojump_clock.jump(2)
        await dns.txt("_amtp.away.example")
        assert len(names.asked) == 2


async def test_row_008_a_gateway_of_the_dns_is_https_with_a_valid_certificate(tmp_path):
    assert gateway_record(["v=amtp1;gateway=http://a.example"]) is None
    cert, key, trust = certificate(tmp_path)
    async with serving(Tls(cert, key).context()) as server:
        url = f"https://localhost:{server.address[1]}/hello"
        stranger, friend = HttpClient(Dns()), HttpClient(Dns(), tls=trust)
        with pytest.raises(Unavailable, match="certificate"):
            await stranger.send("GET", url, anywhere=True)
        assert (await friend.send("GET", url, anywhere=True)).status == 200
        await stranger.aclose()
        await friend.aclose()


# --- 4.2 and 5.3: signature, retries ------------------------------------------------------------


async def test_row_026_a_signature_is_carried_to_its_reader(tmp_path):
    async with town(tmp_path, dns=zone()) as us:
        await people(us, "bob")
        message = signed()
        await us.here.post("/v1/messages", message)
        [got] = await us.mail("bob")
        assert got["signature"] == message["signature"]


async def test_row_044_a_second_doubling_to_an_hour_168_times_with_jitter():
    assert (abroad.FIRST_PAUSE, abroad.LONGEST_PAUSE) == (1.0, 3600.0)
    assert (abroad.MOST_TRIES, abroad.JITTER) == (168, 0.25)


# --- 6: schemas ---------------------------------------------------------------------------------


async def test_row_045_a_schema_s_id_is_agntcy_domain_entity_version(tmp_path):
    async with town(tmp_path) as us:
        await people(us, "bob")
        assert (await bring(us, schema="agntcy:commerce.order.v2")).status == 202
        for wrong in ("commerce.order.v2", "agntcy:order.v2", "agntcy:commerce.order.2"):
            assert (await bring(us, schema=wrong)).status == 400


async def test_row_046_a_payload_is_held_against_the_registry(tmp_path):
    async with town(tmp_path) as us:
        await people(us, "bob")
        schema = {"id": "agntcy:a.b.v1", "definition": {"type": "object", "required": ["x"]}}
        await us.as_admin("POST", "/v1/admin/schemas", schema)
        refused = await bring(us, schema="agntcy:a.b.v1", payload={"y": 1})
        assert error_of(refused) == "SCHEMA_VALIDATION_FAILED"
        assert (await bring(us, schema="agntcy:a.b.v1", payload={"x": 1})).status == 202


async def test_row_047_no_schema_is_fetched_so_none_is_unsigned(tmp_path):
    async with town(tmp_path) as us:
        body = {"id": "agntcy:a.b.v1", "definition": {"$ref": "https://schemas.example/x"}}
        assert (await us.as_admin("POST", "/v1/admin/schemas", body)).status == 400


async def test_row_048_an_unsupported_schema_is_answered_with_those_that_are(tmp_path):
    async with town(tmp_path) as us:
        await us.register("bob", supported_schemas=["agntcy:commerce.*"])
        refused = await bring(us, schema="agntcy:law.contract.v1")
        assert refused.status == 400
        assert refused.json["error"]["details"]["supported_schemas"] == ["agntcy:commerce.*"]


# --- 7: workflows -------------------------------------------------------------------------------


async def test_row_049_parallel_asks_all_and_waits_for_the_required(tmp_path):
    async with town(tmp_path) as us:
        await people(us, "boss", "ann", "bob")
        plan = {"type": "parallel", "timeout": 9, "required_responses": [us.full("ann")],
                "optional_responses": [us.full("bob")]}  # fmt: skip
        workflow = await begin(us, "ann", "bob", coordination=plan)
        await us.mail("bob")
        await reply(us, "ann", workflow, 1)
        assert (await notice(us))["payload"]["status"] == "completed"


async def test_row_050_sequential_goes_one_by_one_and_stops_on_failure(tmp_path):
    async with town(tmp_path) as us:
        await people(us, "boss", "ann", "bob")
        plan = {"type": "sequential", "timeout": 9, "stop_on_failure": True,
                "sequence": [us.full("ann"), us.full("bob")]}  # fmt: skip
        workflow = await begin(us, "ann", coordination=plan)
        await reply(us, "ann", workflow, "no", kind="workflow_error")
        assert (await notice(us))["payload"]["status"] == "failed"
        assert (await us.inbox("bob", us.keys["bob"]))["count"] == 0


@pytest.mark.parametrize(("approve", "asked"), [(True, "doer"), (False, "refuser")])
async def test_row_051_conditional_asks_whom_the_reply_chooses(tmp_path, approve, asked):
    async with town(tmp_path) as us:
        await people(us, "boss", "ann", "doer", "refuser")
        branch = {"if": f"{us.full('ann')} responds with approve=true",
                  "then": [us.full("doer")], "else": [us.full("refuser")]}  # fmt: skip
        plan = {"type": "conditional", "timeout": 9, "conditions": [branch]}
        workflow = await begin(us, "ann", coordination=plan)
        await reply(us, "ann", workflow, {"approve": approve})
        assert (await us.mail(asked))[0]["workflow_id"] == workflow


async def test_row_052_the_state_is_kept_with_participants_and_deadlines(tmp_path):
    async with town(tmp_path) as us:
        await people(us, "boss", "ann")
        workflow = await begin(us, "ann")
        found = await shown(us, workflow)
        assert {"workflow_id", "status", "created_at", "updated_at"} <= set(found)
        [ann] = found["participants"]
        assert (ann["status"], bool(ann["deadline"])) == ("pending", True)


async def test_row_053_an_answer_names_the_workflow_in_in_reply_to(tmp_path):
    async with town(tmp_path) as us:
        await people(us, "boss", "ann")
        workflow = await begin(us, "ann")
        await reply(us, "ann", workflow, {"status": "approved"})
        [done] = (await notice(us))["payload"]["results"]
        assert done["payload"] == {"status": "approved"}


# --- 8: reliability -----------------------------------------------------------------------------


async def test_row_054_an_answer_that_is_lost_means_another_try_and_one_message(tmp_path):
    wire = Wire()
    lost = []

    def script(method, url, body):
        if not lost:
            lost.append(body)
            raise Unavailable("the answer was lost")

    wire.script = script
    async with (
        town(tmp_path, "away", http=wire) as away,
        town(tmp_path, "home", http=wire, resolve=AWAY) as home,
    ):
        wire.towns["away"] = away.here
        await people(home, "alice")
        await people(away, "bob")
        sent = await home.write("alice", "bob@away.example")
        await wire.heard(1)
        delivered = await away.here.post(
            "/v1/messages", json.loads(wire.log[0][2]), peer="192.0.2.7"
        )
        home.abroad.wake()
        found = await home.ended(sent["message_id"])

        assert delivered.status == 202 and found["status"] == "delivered"
        assert len(await away.mail("bob")) == 1


async def test_row_055_one_key_is_one_message(tmp_path):
    async with town(tmp_path) as us:
        await people(us, "bob")
        for number in range(3):
            again = await bring(us, message_id=str(uuid.UUID(int=number + 1, version=4)))
            assert again.status == 202
        assert len(await us.mail("bob")) == 1


async def test_row_056_the_window_is_longer_than_seven_days_and_outlives_a_restart(tmp_path):
    assert REPEATS_FOR >= 7 * 86_400_000
    async with town(tmp_path) as us:
        await people(us, "bob")
        await bring(us)
        keys, clock = us.keys, us.here.clock
    clock.time += 7 * 86_400_000
    async with town(tmp_path, clock=clock) as us:
        us.keys = keys
        await bring(us)
        assert len(await us.mail("bob")) == 1


async def test_row_057_a_delivery_that_failed_is_tried_again(tmp_path, autojump_clock):
    wire = Wire()
    wire.script = lambda *_: 503 if len(wire.log) < 3 else 200
    clock = fakes.JumpingClock(autojump_clock)
    async with town(tmp_path, http=wire, resolve=AWAY, clock=clock) as us:
        await people(us, "alice")
        sent = await us.write("alice", "bob@away.example")
        assert (await us.ended(sent["message_id"]))["status"] == "delivered"
        assert len(wire.log) == 3


async def test_row_058_what_failed_for_good_is_a_dead_letter(tmp_path):
    wire = Wire()
    wire.script = lambda *_: 400
    async with town(tmp_path, http=wire, resolve=AWAY) as us:
        await people(us, "alice")
        sent = await us.write("alice", "bob@away.example", payload={"n": 1})
        await us.ended(sent["message_id"])
        await wait_all_tasks_blocked(0.2)
        [one] = (await us.as_admin("GET", "/v1/dead-letters")).json["dead_letters"]
        assert {"message_id", "original_message", "failure_reason", "attempts", "first_attempt",
                "last_attempt", "dlq_timestamp"} <= set(one)  # fmt: skip
        assert one["original_message"]["payload"] == {"n": 1}


async def test_row_059_its_sender_has_a_delivery_failure_report(tmp_path):
    wire = Wire()
    wire.script = lambda *_: 400
    async with town(tmp_path, http=wire, resolve=AWAY) as us:
        await people(us, "alice")
        sent = await us.write("alice", "bob@away.example")
        [got] = await us.mail("alice")
        report = got["payload"]
        assert report["message_type"] == "delivery_failure"
        assert report["original_message_id"] == sent["message_id"]
        assert {"failed_recipients", "error_code", "error_message", "retry_count",
                "final_attempt"} <= set(report)  # fmt: skip


# --- 9.1 and 9.2: TLS ---------------------------------------------------------------------------


async def test_row_060_tls_is_1_3_and_nothing_older(tmp_path):
    cert, key, trust = certificate(tmp_path)
    old = ssl.create_default_context(cafile=str(cert))
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    async with serving(Tls(cert, key).context()) as server:
        url = f"https://localhost:{server.address[1]}/hello"
        newer, older = HttpClient(Dns(), tls=trust), HttpClient(Dns(), tls=old)
        assert (await newer.send("GET", url, anywhere=True)).status == 200
        with pytest.raises(Unavailable):
            await older.send("GET", url, anywhere=True)
        await newer.aclose()
        await older.aclose()


async def test_row_061_the_certificate_must_be_valid_for_the_gateway_s_name(tmp_path):
    cert, key, trust = certificate(tmp_path, "other.example")
    async with serving(Tls(cert, key).context()) as server:
        client = HttpClient(Dns(), tls=trust)
        with pytest.raises(Unavailable, match="localhost"):
            await client.send("GET", f"https://localhost:{server.address[1]}/hello", anywhere=True)
        await client.aclose()


async def test_row_062_over_tls_browsers_are_told_to_stay_there(tmp_path):
    async with town(tmp_path) as us:
        assert "strict-transport-security" in (await us.here.get("/health", secure=True)).headers
        assert "strict-transport-security" not in (await us.here.get("/health")).headers


async def test_row_063_a_domain_is_known_by_the_certificate_of_its_gateway(tmp_path):
    cert, key, trust = certificate(tmp_path)
    assert trust.verify_mode is ssl.CERT_REQUIRED and trust.check_hostname
    async with serving(Tls(cert, key).context()) as server:
        url = f"https://localhost:{server.address[1]}"
        async with town(tmp_path, http=HttpClient(Dns()), resolve={"away.example": url}) as us:
            await people(us, "alice")
            sent = await us.write("alice", "bob@away.example")
            alice = us.here.rooms.agents.named("alice")
            key_of = us.here.shared.foreign.key_of
            shadow = key_of(Address("bob", "away.example"))
            while not (us.abroad.attempts.get(shadow) and us.abroad.attempts[shadow].count):
                await wait_all_tasks_blocked(0.02)
            assert us.here.node.status(alice, sent["message_id"]) == "queued"
            assert "certificate" in us.abroad.attempts[shadow].last_error


async def test_row_064_an_api_key_says_who_asks(tmp_path):
    async with town(tmp_path, amtp_auth="agent") as us:
        await people(us, "alice", "bob")
        body = {"sender": us.full("alice"), "recipients": [us.full("bob")], "payload": 1}
        assert (await us.here.post("/v1/messages", body)).status == 401
        assert (await us.here.post("/v1/messages", body, token=us.keys["bob"])).status == 403
        assert (await us.here.post("/v1/messages", body, token=us.keys["alice"])).status == 202


async def test_row_067_rs256_signatures_are_made_and_checked(tmp_path):
    signer = ForeignSigner.generate("RS256")
    async with town(tmp_path, dns=zone(str(KeyRecord("RS256", signer.public)))) as us:
        await people(us, "bob")
        assert await result(us, signed(signer)) == "verified"


async def test_row_068_an_encrypted_payload_passes_as_it_is(tmp_path):
    sealed = {
        "encrypted": True, "algorithm": "AES-256-GCM", "encrypted_data": "AAAA",
        "recipients": [{"keyid": "receiver.com:pubkey1", "encrypted_key": "BBBB"}],
    }  # fmt: skip
    async with town(tmp_path) as us:
        await people(us, "bob")
        await bring(us, payload=sealed)
        assert (await us.mail("bob"))[0]["payload"] == sealed


async def test_row_069_rules_for_domains_with_patterns_schemas_rates_and_a_default(tmp_path):
    async with town(tmp_path) as us:
        await people(us, "bob")
        rules = [{"sender_pattern": "*.partner.example", "action": "allow",
                  "schemas": ["agntcy:commerce.*"], "rate_limit": "1/hour"}]  # fmt: skip
        policy = {"default_policy": "deny", "rules": rules}
        assert (await us.as_admin("PUT", "/v1/admin/policies", policy)).status == 200
        good = {"sender": "a@x.partner.example", "schema": "agntcy:commerce.order.v1"}
        assert (await bring(us)).status == 403
        assert (await bring(us, **good | {"schema": "agntcy:law.x.v1"})).status == 403
        assert (await bring(us, **good)).status == 202
        assert (await bring(us, **good)).status == 429


async def test_row_035_too_many_requests_are_answered_429(tmp_path):
    async with town(tmp_path, limits={"amtp_federation": 2}) as us:
        await people(us, "bob")
        found = [(await bring(us)).status for _ in range(3)]
        refused = await bring(us)
        assert found == [202, 202, 429] and error_of(refused) == "RATE_LIMIT_EXCEEDED"
        assert int(refused.headers["retry-after"]) > 0


async def test_row_086_rates_are_limited_for_each_host_and_each_agent(tmp_path):
    async with town(tmp_path, limits={"amtp_federation": 1, "amtp": 1}) as us:
        await people(us, "alice", "bob")
        assert [(await bring(us)).status for _ in range(2)] == [202, 429]
        assert (await bring(us, peer="192.0.2.8")).status == 202
        for sender in ("alice", "bob"):
            body = {"sender": us.full(sender), "recipients": [us.full("bob")], "payload": 1}
            found = [(await us.here.post("/v1/messages", body)).status for _ in range(2)]
            assert found == [202, 429]


async def test_row_077_a_webhook_is_told_what_was_delivered(tmp_path):
    wire = Wire()
    wire.script = lambda *_: 200
    async with town(tmp_path, http=wire) as us:
        await people(us, "alice")
        hook = {"url": "https://my-app.example/amtp-webhook", "secret": "webhook-secret-key",
                "events": ["message.delivered", "message.failed"]}  # fmt: skip
        made = await us.here.post("/v1/webhooks", hook, token=us.keys["alice"])
        await us.write("alice", "alice")
        await wire.heard(1)
        _, url, body, headers = wire.log[0]
        assert made.status == 201 and url == hook["url"]
        assert json.loads(body)["event"] == "message.delivered" and headers["X-AMTP-Signature"]


# --- the newer draft: domain signatures ---------------------------------------------------------


@pytest.mark.parametrize("name", ["version", "message_id", "idempotency_key", "timestamp"])
async def test_row_087_what_a_signed_delivery_lacks_is_not_filled_in(tmp_path, name):
    async with town(tmp_path, dns=zone()) as us:
        await people(us, "bob")
        message = signed()
        del message[name]
        assert await result(us, message) == "invalid"


async def test_row_088_one_recipient_each_and_the_same_ids_are_one_fan_out(tmp_path):
    async with two_towns(tmp_path) as (home, away):
        await people(home, "alice")
        await people(away, "ann", "bob", "carl")
        to = [f"{name}@away.example" for name in ("ann", "bob", "carl")]
        sent = await home.write("alice", *to)
        assert (await home.ended(sent["message_id"]))["status"] == "delivered"
        ids = {(await away.mail(name))[0]["message_id"] for name in ("ann", "bob", "carl")}
        assert ids == {sent["message_id"]}


async def test_row_089_exactly_one_key_record_counts():
    record = str(KeyRecord("ES256", SIGNER.public))
    assert key_record([record.replace(";p=", ";later=1;p=")]).algorithm == "ES256"
    for texts in ([record, record], ["v=amtpkey1"]):
        with pytest.raises(Invalid):
            key_record(texts)


async def test_row_090_any_member_that_is_changed_breaks_the_signature(tmp_path):
    async with town(tmp_path, dns=zone(), amtp_signatures="reject") as us:
        await people(us, "bob")
        for change in ({"subject": "x"}, {"unknown": 1}, {"payload": {"text": "hello "}}):
            refused = await us.here.post("/v1/messages", signed() | change)
            assert error_of(refused) == "SIGNATURE_INVALID"


async def test_row_091_es256_is_64_bytes_in_base64url(tmp_path):
    path, _ = key_file(tmp_path)
    wire = Wire()
    wire.script = lambda *_: 200
    async with town(tmp_path, http=wire, resolve=AWAY, amtp_signing_key=path) as us:
        await people(us, "alice")
        await us.write("alice", "bob@away.example")
        await wire.heard(1)
        found = json.loads(wire.log[0][2])["signature"]
        assert set(found) == {"algorithm", "keyid", "value"} and len(found["value"]) == 86


@pytest.mark.parametrize(
    ("policy", "status", "word"),
    [("accept", 202, ""), ("flag", 202, ""), ("reject", 403, "SIGNATURE_REQUIRED")],
)
async def test_row_092_the_policy_decides_before_anything_is_kept(tmp_path, policy, status, word):
    async with town(tmp_path, amtp_signatures=policy) as us:
        await people(us, "bob")
        reply = await bring(us)
        assert reply.status == status and (not word or error_of(reply) == word)
        assert (await us.inbox("bob", us.keys["bob"]))["count"] == (1 if status == 202 else 0)


async def test_row_093_a_local_sender_shows_its_own_key(tmp_path):
    async with town(tmp_path, amtp_auth="agent") as us:
        await people(us, "alice", "bob")
        body = {"sender": us.full("alice"), "recipients": [us.full("bob")], "payload": 1}
        none = await us.here.post("/v1/messages", body)
        other = await us.here.post("/v1/messages", body, token=us.keys["bob"])
        assert (none.status, error_of(none)) == (401, "LOCAL_SENDER_AUTH_REQUIRED")
        assert (other.status, error_of(other)) == (403, "SENDER_CREDENTIAL_MISMATCH")


async def test_row_094_a_replay_is_not_delivered_again(tmp_path):
    async with town(tmp_path, dns=zone()) as us:
        await people(us, "bob")
        message = signed()
        for _ in range(3):
            assert (await us.here.post("/v1/messages", message)).status == 202
        assert len(await us.mail("bob")) == 1


async def test_row_095_nothing_of_others_is_passed_on_or_signed_anew(tmp_path):
    wire = Wire()
    async with town(tmp_path, http=wire, resolve=AWAY) as us:
        refused = await bring(us, recipients=["bob@away.example"])
        assert (refused.status, error_of(refused)) == (400, "RECIPIENT_NOT_FOUND")
        assert wire.log == []


async def test_row_096_the_workflow_s_id_is_a_member_of_messages_and_answers(tmp_path):
    async with town(tmp_path) as us:
        await people(us, "boss", "ann")
        plan = {"type": "parallel", "timeout": 9}
        answer = await us.write("boss", "ann", coordination=plan)
        [asked] = await us.mail("ann")
        assert answer["workflow_id"] == asked["workflow_id"]
        await us.write("ann", "boss", workflow_id=asked["workflow_id"],
                       response_type="workflow_response")  # fmt: skip
        assert (await notice(us))["workflow_id"] == answer["workflow_id"]
