"""Schemas: ampd/edge/amtp/schemas.py, schema_routes.py, schema_process.py and schema_worker.py."""

from pathlib import Path

import pytest
import trio
from edge.amtp.team import error_of, team

from ampd.edge.amtp import schema_process
from ampd.edge.amtp.schema_process import SchemaProcess
from ampd.edge.amtp.schema_worker import MAX_ERRORS, MEMORY, answer
from ampd.edge.amtp.schemas import fits, schema_id
from ampd.model.errors import Unavailable
from ampd.protocol import raw_json

ORDER = "agntcy:commerce.order.v2"
DEFINITION = {
    "type": "object",
    "required": ["items"],
    "properties": {
        "items": {
            "type": "array",
            "items": {"properties": {"price": {"type": "number", "minimum": 0}}},
        },
        "buyer": {"type": "string", "format": "email"},
    },
}
GOOD = {"items": [{"price": 1.5}], "buyer": "ann@shop.example"}
BAD = {"items": [{"price": -1}], "buyer": "nobody"}


async def registered(us, identifier=ORDER, definition=DEFINITION, **more):
    return await us.as_admin(
        "POST", "/v1/admin/schemas", {"id": identifier, "definition": definition, **more}
    )


# --- the worker ---------------------------------------------------------------------------------


def errors(definition, payload):
    return answer({"definition": definition, "payload": payload})["errors"]


def test_a_payload_is_told_where_it_is_wrong():
    found = errors(DEFINITION, BAD)

    assert {(each["field"], each["code"]) for each in found} == {
        ("items[0].price", "minimum"), ("buyer", "format"),
    }  # fmt: skip
    assert errors(DEFINITION, GOOD) == []


@pytest.mark.parametrize(
    "reference",
    ["https://a.example/s", "http://json-schema.org/draft-07/schema", "file:///etc/passwd", "b"],
)
def test_x1_nothing_is_fetched(reference):
    assert "leads out" in answer({"definition": {"allOf": [{"$ref": reference}]}})["broken"]


def test_x1_a_reference_within_the_schema_is_followed():
    definition = {"$defs": {"id": {"type": "string"}}, "properties": {"a": {"$ref": "#/$defs/id"}}}

    assert errors(definition, {"a": 1})[0]["field"] == "a"


def test_x1_a_reference_to_nowhere_is_said_and_no_crash():
    found = answer({"definition": {"$ref": "#/$defs/none"}, "payload": 1})

    assert "broken" in found


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("email", "ann@shop.example", "ann"),
        ("uri", "https://shop.example/x?y=1", "shop example"),
        ("date", "2027-01-15", "2027-13-01"),
        ("date-time", "2027-01-15T08:00:00.5Z", "2027-01-15 08:00"),
        ("date-time", "2016-12-31T23:59:60Z", "2027-02-30T00:00:00Z"),
        ("time", "08:00:00+01:00", "25:00:00Z"),
        ("uuid", "0198f000-0000-7000-8000-000000000001", "0198"),
        ("ipv4", "192.0.2.1", "192.0.2.256"),
        ("ipv6", "2001:db8::1", "2001:db8::g"),
        ("regex", "^a+$", "("),
    ],
)
def test_x2_formats_are_checked(name, good, bad):
    assert errors({"format": name}, good) == []
    assert errors({"format": name}, bad)[0]["code"] == "format"
    assert errors({"format": name}, 5) == []


def test_x3_so_many_errors_and_no_more():
    found = errors({"items": {"type": "string"}}, [{"x": "y" * 1000}] * (MAX_ERRORS + 5))

    assert len(found) == MAX_ERRORS and all(len(each["message"]) <= 300 for each in found)


@pytest.mark.parametrize("definition", [{"type": "strange"}, {"pattern": "("}, {"minimum": "1"}])
def test_what_is_no_json_schema_is_broken(definition):
    assert "broken" in answer({"definition": definition})


# --- the process --------------------------------------------------------------------------------


async def test_q1_a_pattern_that_takes_for_ever_is_ended_and_the_next_question_answered(
    monkeypatch,
):
    monkeypatch.setattr(schema_process, "ANSWER_WITHIN", 0.3)
    process = SchemaProcess()
    for _ in range(2):
        with pytest.raises(Unavailable):
            await process.ask(raw_json.Raw('{"pattern":"^(a+)+$"}'), "a" * 60 + "b")
    monkeypatch.setattr(schema_process, "ANSWER_WITHIN", 20.0)

    assert await process.ask(raw_json.Raw('{"type":"string"}'), "a") == {"errors": []}
    await process._end()


async def test_q2_it_answers_one_at_a_time_and_ends_when_nobody_asks(monkeypatch):
    monkeypatch.setattr(schema_process, "IDLE", 0.01)
    process = SchemaProcess()
    found = []
    async with trio.open_nursery() as nursery:

        async def ask(payload):
            found.append(await process.ask(raw_json.Raw('{"type":"string"}'), payload))

        for payload in ("a", 1, "b", 2):
            nursery.start_soon(ask, payload)
    child = process._process
    async with trio.open_nursery() as nursery:
        nursery.start_soon(process.run)
        assert await child.wait() != 0
        nursery.cancel_scope.cancel()

    assert sorted(len(each["errors"]) for each in found) == [0, 0, 1, 1]


async def test_x4_it_has_no_more_memory_than_it_is_given():
    process = SchemaProcess()
    await process.ask(raw_json.Raw("true"), 1)

    limits = Path(f"/proc/{process._process.pid}/limits").read_text()  # noqa: ASYNC240
    await process._end()
    assert f"Max address space         {MEMORY}" in limits


async def test_who_stops_waiting_leaves_no_half_answer_behind():
    process = SchemaProcess()
    await process.ask(raw_json.Raw("true"), 1)
    with trio.move_on_after(0):
        await process.ask(raw_json.Raw('{"type":"string"}'), 1)

    assert await process.ask(raw_json.Raw("true"), 1) == {"errors": []}
    await process._end()


# --- messages and agents ------------------------------------------------------------------------


async def test_c1_a_payload_is_held_against_a_schema_that_is_registered(tmp_path):
    async with team(tmp_path) as us:
        key = await us.register("bob")
        await us.register("alice")
        await registered(us)

        refused = await us.send("alice", "bob", schema=ORDER, payload=BAD)
        taken = await us.send("alice", "bob", schema=ORDER, payload=GOOD)

        assert (refused.status, error_of(refused)) == (400, "SCHEMA_VALIDATION_FAILED")
        assert refused.json["error"]["details"]["validation_errors"][0]["field"]
        assert taken.status == 202
        assert (await us.inbox("bob", key))["count"] == 1


async def test_c1_a_schema_that_nobody_registered_is_not_checked(tmp_path):
    async with team(tmp_path) as us:
        await us.register("bob")
        await us.register("alice")

        assert (await us.send("alice", "bob", schema=ORDER, payload=BAD)).status == 202


async def test_c2_who_supports_some_schemas_takes_no_others(tmp_path):
    async with team(tmp_path) as us:
        await us.register("alice")
        await us.register("bob", supported_schemas=["agntcy:commerce.*", "agntcy:a.b.v1"])

        other = await us.send("alice", "bob", schema="agntcy:law.contract.v1", payload=1)
        assert (await us.send("alice", "bob", schema=ORDER, payload=1)).status == 202
        assert (await us.send("alice", "bob", schema="agntcy:a.b.v1", payload=1)).status == 202

        assert (other.status, error_of(other)) == (400, "UNSUPPORTED_SCHEMA")
        assert other.json["error"]["details"]["supported_schemas"] == [
            "agntcy:a.b.v1", "agntcy:commerce.*",
        ]  # fmt: skip


async def test_c2_one_recipient_that_takes_it_is_enough(tmp_path):
    async with team(tmp_path) as us:
        await us.register("alice")
        await us.register("bob", supported_schemas=["agntcy:law.*"])
        await us.register("carol")

        assert (await us.send("alice", "bob", "carol", schema=ORDER, payload=1)).status == 202


async def test_c2_what_may_stand_in_supported_schemas(tmp_path):
    async with team(tmp_path) as us:
        for each in ("agntcy:*", "agntcy:commerce", "commerce.order.v1", 5, "agntcy:a.b.v1*x"):
            body = {"address": "bob", "delivery_mode": "pull", "supported_schemas": [each]}
            assert (await us.as_admin("POST", "/v1/admin/agents", body)).status == 400


async def test_c3_a_schema_leads_nowhere_and_is_not_endless(tmp_path):
    async with team(tmp_path) as us:
        for definition in (
            {"$ref": "https://x.example/s"},
            {"type": 5},
            "text",
            {"x": "y" * 300_000},
        ):
            reply = await registered(us, definition=definition)
            assert (reply.status, error_of(reply)) == (400, "INVALID_SCHEMA_DEFINITION")


async def test_administrators_register_look_replace_and_forget(tmp_path):
    async with team(tmp_path) as us:
        assert (await registered(us)).status == 201
        again = await registered(us)
        assert (again.status, error_of(again)) == (409, "SCHEMA_ALREADY_EXISTS")
        assert (await registered(us, force=True)).status == 201
        await registered(us, "agntcy:law.contract.v1", {})

        listed = (await us.as_admin("GET", "/v1/admin/schemas?pattern=agntcy:commerce.*")).json
        assert listed["count"] == 1 and listed["schemas"][0] == {
            "domain": "commerce", "entity": "order", "version": "v2", "raw": ORDER,
        }  # fmt: skip
        stats = (await us.as_admin("GET", "/v1/admin/schemas/stats")).json["stats"]
        assert stats == {
            "total_schemas": 2, "domains": {"commerce": 1, "law": 1},
            "entities": {"order": 1, "contract": 1},
        }  # fmt: skip
        one = f"/v1/admin/schemas/{ORDER}"
        assert (await us.as_admin("GET", one)).json["schema"]["definition"] == DEFINITION
        said = (await us.as_admin("POST", f"{one}/validate", {"payload": BAD})).json
        assert not said["valid"] and len(said["errors"]) == 2
        assert (await us.as_admin("POST", f"{one}/validate", {"payload": GOOD})).json["valid"]
        assert (await us.as_admin("PUT", one, {"definition": {}})).status == 200
        assert (await us.as_admin("POST", f"{one}/validate", {"payload": BAD})).json["valid"]
        assert (await us.as_admin("DELETE", one)).status == 200
        for method, body in (("GET", None), ("PUT", {"definition": {}}), ("DELETE", None)):
            gone = await us.as_admin(method, one, body)
            assert (gone.status, error_of(gone)) == (404, "SCHEMA_NOT_FOUND")


async def test_only_administrators_do_and_only_with_a_good_id(tmp_path):
    async with team(tmp_path) as us:
        assert (await us.here.get("/v1/admin/schemas")).status == 401
        body = {"id": ORDER, "definition": {}}
        wrong = await us.here.post("/v1/admin/schemas", body, headers={"X-Admin-Key": "no"})
        assert wrong.status == 403
        for identifier in ("order", "agntcy:commerce.order", 5):
            reply = await registered(us, identifier)
            assert (reply.status, error_of(reply)) == (400, "INVALID_SCHEMA_ID")


async def test_a_schema_is_there_after_a_restart(tmp_path):
    async with team(tmp_path) as us:
        await registered(us)
    async with team(tmp_path) as us:
        assert (await us.as_admin("GET", f"/v1/admin/schemas/{ORDER}")).status == 200


def test_ids_and_patterns():
    assert schema_id(ORDER).entity == "order"
    assert schema_id("agntcy:a.b.c.v1") is None and schema_id(ORDER + "\n") is None
    assert fits("agntcy:commerce.*", ORDER) and fits(ORDER, ORDER)
    assert not fits("agntcy:law.*", ORDER) and not fits(ORDER, ORDER + "0")
