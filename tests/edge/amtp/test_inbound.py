"""What other gateways bring: ampd/edge/amtp/inbound.py, verification.py and gateways.py."""

import uuid

import pytest
import trio
from edge.amtp.team import error_of
from edge.amtp.world import Zone, bring, foreign_message, town

from ampd.crypto.foreign_keys import ForeignSigner
from ampd.edge.amtp.gateways import Gateways
from ampd.model.errors import Invalid, Unavailable
from ampd.protocol import raw_json
from ampd.protocol.amtp.dns_record import KeyRecord
from ampd.protocol.amtp.domain_signature import sign

SIGNER = ForeignSigner.generate("ES256")
RECORD = str(KeyRecord("ES256", SIGNER.public))
NAME = "k1._amtpkey.sender.example"


@pytest.fixture
def zone():
    made = Zone()
    made.records[NAME] = [RECORD]
    return made


def signed(signer=SIGNER, **members):
    message = foreign_message(**members)
    return message | {"signature": sign(message, signer, "k1")}


async def count(us, name="bob"):
    return (await us.inbox(name, us.keys[name]))["count"]


async def result_of(us, message):
    """What a status says of the sender of a message that was brought."""
    reply = await us.here.post("/v1/messages", message, peer="192.0.2.7")
    assert reply.status == 202, reply.text
    found = await us.as_admin("GET", f"/v1/messages/{reply.json['message_id']}/status")
    return found.json["sender_verification"]["result"]


# --- keeping ------------------------------------------------------------------------------------


async def test_in1_rules_come_first_then_the_signature_then_the_schema(tmp_path, zone):
    async with town(tmp_path, dns=zone, amtp_signatures="reject", federation="closed") as us:
        await us.register("bob", supported_schemas=["agntcy:law.*"])
        message = {"schema": "agntcy:a.b.v1", "payload": 1}

        assert error_of(await bring(us, **message)) == "ACCESS_DENIED"
        await us.as_admin("PUT", "/v1/admin/policies", {"default_policy": "allow"})
        assert error_of(await bring(us, **message)) == "SIGNATURE_REQUIRED"
        reply = await us.here.post("/v1/messages", signed(**message))
        assert error_of(reply) == "UNSUPPORTED_SCHEMA"
        assert await count(us) == 0


async def test_in2_a_message_is_kept_once_for_each_recipient(tmp_path):
    async with town(tmp_path) as us:
        await us.register("bob")
        await us.register("carol")

        first = await bring(us)
        again = await bring(us)
        other = await bring(us, recipients=["carol@home.example"])

        assert first.json == again.json and first.status == again.status == 202
        assert other.json["recipients"][0]["status"] == "delivered"
        assert (await count(us), await count(us, "carol")) == (1, 1)


async def test_in2_the_key_counts_and_not_the_id_of_a_second_try(tmp_path):
    async with town(tmp_path) as us:
        await us.register("bob")
        first = await bring(us)

        again = await bring(us, message_id=str(uuid.UUID(int=77, version=4)))

        assert again.json["message_id"] == first.json["message_id"]
        assert await count(us) == 1


async def test_in2_what_nobody_proved_stands_in_no_signed_message_s_way(tmp_path, zone):
    async with town(tmp_path, dns=zone) as us:
        await us.register("bob")
        await bring(us, payload={"text": "forged, under the ids of what is on its way"})

        await us.here.post("/v1/messages", signed(), peer="192.0.2.7")

        found = (await us.inbox("bob", us.keys["bob"]))["messages"]
        assert [each["security"]["trust"] for each in found] == ["untrusted", "external"]


async def test_in2_keys_of_different_senders_never_meet(tmp_path):
    async with town(tmp_path) as us:
        await us.register("bob")
        await bring(us)

        await bring(us, sender="other@sender.example", payload={"text": "mine"})

        assert await count(us) == 2


async def test_in2_it_is_so_after_eight_days_and_a_restart(tmp_path):
    async with town(tmp_path) as us:
        await us.register("bob")
        await bring(us)
        keys, clock = us.keys, us.here.clock
    clock.time += 8 * 86_400_000
    async with town(tmp_path, clock=clock) as us:
        us.keys = keys
        assert (await bring(us)).status == 202
        assert await count(us) == 1


async def test_in2_many_at_once_are_one(tmp_path):
    async with town(tmp_path) as us:
        await us.register("bob")
        replies = []
        async with trio.open_nursery() as nursery:

            async def one():
                replies.append(await bring(us))

            for _ in range(12):
                nursery.start_soon(one)

        assert {each.status for each in replies} == {202}
        assert await count(us) == 1


async def test_in2_something_else_under_the_same_id_is_a_conflict(tmp_path):
    async with town(tmp_path) as us:
        await us.register("bob")
        await bring(us)

        other = await bring(us, idempotency_key=str(uuid.UUID(int=5, version=4)), payload=1)

        assert (other.status, error_of(other)) == (400, "IDEMPOTENCY_CONFLICT")


@pytest.mark.parametrize(
    ("recipient", "word"),
    [("nobody@home.example", "AGENT_UNKNOWN"), ("bob@third.example", "RECIPIENT_NOT_FOUND")],
)
async def test_in3_who_does_not_live_here_is_refused_and_nothing_passed_on(
    tmp_path, recipient, word
):
    async with town(tmp_path, resolve={"third.example": "http://127.0.0.1:9"}) as us:
        await us.register("bob")

        alone = await bring(us, recipients=[recipient])
        both = await bring(us, recipients=[recipient, "bob@home.example"])

        assert (alone.status, error_of(alone)) == (400, word)
        assert alone.json["status"] == "failed"
        assert both.status == 202
        by_name = {each["address"]: each for each in both.json["recipients"]}
        assert by_name[recipient]["error_code"] == word
        assert by_name["bob@home.example"]["status"] == "delivered"


async def test_in4_delivered_is_on_disk(tmp_path):
    async with town(tmp_path) as us:
        await us.register("bob")
        reply = await bring(us)
        keys = us.keys
        assert reply.json["recipients"][0]["status"] == "delivered"
    async with town(tmp_path) as us:
        us.keys = keys
        assert await count(us) == 1


async def test_a_sender_of_ours_is_nobody_elsewhere(tmp_path):
    async with town(tmp_path) as us:
        await us.register("bob")
        for sender in ("bob@home.example", "ghost@home.local"):
            reply = await bring(us, sender=sender)
            assert reply.status in (401, 403), reply.text
        assert await count(us) == 0


# --- signatures ---------------------------------------------------------------------------------


async def test_vf1_the_body_as_it_came_is_what_is_checked(tmp_path, zone):
    async with town(tmp_path, dns=zone) as us:
        await us.register("bob")

        assert await result_of(us, signed(unknown={"z": 1, "a": [1.50]})) == "verified"
        changed = signed(
            unknown=1, idempotency_key=str(uuid.UUID(int=9, version=4)),
            message_id=str(uuid.UUID(int=9, version=4)),
        )  # fmt: skip
        assert await result_of(us, changed | {"unknown": 2}) == "invalid"


@pytest.mark.parametrize(
    ("records", "result"),
    [
        ([], "key_unavailable"), (Unavailable("no answer"), "key_unavailable"),
        ([RECORD, RECORD], "invalid"), (["nonsense"], "invalid"), ([RECORD], "verified"),
    ],
)  # fmt: skip
async def test_vf1_what_the_dns_says_decides(tmp_path, zone, records, result):
    zone.records[NAME] = records
    async with town(tmp_path, dns=zone) as us:
        await us.register("bob")

        assert await result_of(us, signed()) == result


@pytest.mark.parametrize(
    ("message", "records", "status", "word"),
    [
        (foreign_message(), [RECORD], 403, "SIGNATURE_REQUIRED"),
        (signed(ForeignSigner.generate("ES256")), [RECORD], 403, "SIGNATURE_INVALID"),
        (signed() | {"subject": "new"}, [RECORD], 403, "SIGNATURE_INVALID"),
        (signed() | {"timestamp": ""}, [RECORD], 403, "SIGNATURE_INVALID"),
        (signed(), [], 503, "SIGNATURE_KEY_UNAVAILABLE"),
    ],
)
async def test_vf2_vf3_what_is_refused_leaves_nothing_behind(
    tmp_path, zone, message, records, status, word
):
    zone.records[NAME] = records
    async with town(tmp_path, dns=zone, amtp_signatures="reject") as us:
        await us.register("bob")

        reply = await us.here.post("/v1/messages", message)

        assert (reply.status, error_of(reply)) == (status, word)
        assert await count(us) == 0
        path = f"/v1/messages/{message['message_id']}/status"
        assert (await us.as_admin("GET", path)).status == 404


@pytest.mark.parametrize(("policy", "lines"), [("accept", 0), ("flag", 1)])
async def test_vf3_accept_takes_it_and_flag_says_so_in_the_log(tmp_path, caplog, policy, lines):
    async with town(tmp_path, amtp_signatures=policy) as us:
        await us.register("bob")
        caplog.clear()

        assert await result_of(us, foreign_message()) == "unsigned"
        assert len([each for each in caplog.records if each.name == "ampd.amtp"]) == lines


async def test_vf3_proved_and_unproved_mail_is_shown_as_what_it_is(tmp_path, zone):
    async with town(tmp_path, dns=zone) as us:
        await us.register("bob")
        await us.here.post("/v1/messages", signed())
        await bring(us, sender="other@sender.example")

        listed = us.here.node.inbox(us.here.rooms.agents.named("bob"))
        assert {each.sender: each.trust for each in listed} == {
            "orders@sender.example": "external", "other@sender.example": "untrusted",
        }  # fmt: skip


async def test_a_name_that_stands_twice_is_not_read_at_all(tmp_path, zone):
    async with town(tmp_path, dns=zone) as us:
        await us.register("bob")
        body = raw_json.write(signed()).replace('"version":"1.0"', '"version":"1","version":"1.0"')

        reply = await us.here.request(
            "POST", "/v1/messages", body=body.encode(), headers={"Content-Type": "application/json"}
        )

        assert reply.status == 400 and await count(us) == 0


# --- where gateways are -------------------------------------------------------------------------


async def test_gw1_the_settings_go_before_the_dns_and_may_be_plain(zone):
    zone.records["_amtp.sender.example"] = ["v=amtp1;gateway=https://dns.example"]
    resolve = {"Sender.Example": "http://127.0.0.1:8080", "b.example": "v=amtp1;gateway=http://b"}
    gateways = Gateways(zone, resolve, plain_http=False)

    assert (await gateways.of("sender.example")).record.gateway == "http://127.0.0.1:8080"
    assert (await gateways.of("b.example")).configured
    assert zone.asked == []
    for wrong in ("nonsense", "v=amtp1", "ftp://x"):
        with pytest.raises(Invalid):
            Gateways(zone, {"a.example": wrong}, plain_http=False)


async def test_gw1_what_the_dns_says_is_https_and_not_believed_to_be_anywhere(zone):
    zone.records["_amtp.plain.example"] = ["v=amtp1;gateway=http://127.0.0.1"]
    zone.records["_amtp.sender.example"] = ["v=amtp1;gateway=https://dns.example"]
    gateways = Gateways(zone, {}, plain_http=False)

    assert await gateways.of("plain.example") is None
    found = await gateways.of("sender.example")
    assert found.record.gateway == "https://dns.example" and not found.configured


async def test_gw1_plain_http_for_ourselves_lets_no_strangers_record_into_this_network(zone):
    zone.records["_amtp.plain.example"] = ["v=amtp1;gateway=http://169.254.169.254"]
    gateways = Gateways(zone, {}, plain_http=True)

    assert not (await gateways.of("plain.example")).configured


@pytest.mark.parametrize("domain", ["desk.local", "localhost", "a.internal", "box.home.arpa"])
async def test_gw2_names_of_this_network_are_asked_of_no_dns(zone, domain):
    gateways = Gateways(zone, {}, plain_http=False)

    assert await gateways.of(domain) is None
    with pytest.raises(Unavailable):
        await gateways.key("k1", domain)
    assert zone.asked == []


async def test_gw3_a_dns_that_does_not_answer_is_not_a_domain_without_a_gateway(zone):
    zone.records["_amtp.sender.example"] = Unavailable("no answer")
    gateways = Gateways(zone, {}, plain_http=False)

    with pytest.raises(Unavailable):
        await gateways.of("sender.example")
    assert await gateways.of("other.example") is None
