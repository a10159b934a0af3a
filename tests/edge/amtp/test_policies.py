"""Which senders are let in: ampd/edge/amtp/policies.py."""

import uuid

import pytest
from edge.amtp.team import error_of
from edge.amtp.world import Wire, bring, town


def rule(pattern, action="allow", **more):
    return {"sender_pattern": pattern, "action": action, **more}


async def put(us, *rules, default="deny"):
    body = {"default_policy": default, "rules": list(rules)}
    reply = await us.as_admin("PUT", "/v1/admin/policies", body)
    assert reply.status == 200, reply.text
    return reply.json


async def attempt(us, sender="orders@sender.example", **members):
    """The status of what this sender brings, each time something new."""
    identifier = str(uuid.uuid4())
    reply = await bring(
        us, sender=sender, message_id=identifier, idempotency_key=identifier, **members
    )
    return reply.status


async def test_dp1_the_first_rule_that_fits_decides(tmp_path):
    async with town(tmp_path) as us:
        await us.register("bob")
        await put(us, rule("evil@sender.example", "deny"), rule("*.partner.example"),
                  rule("Sender.Example"))  # fmt: skip

        assert await attempt(us) == 202
        assert await attempt(us, "evil@sender.example") == 403
        assert await attempt(us, "a@x.partner.example") == 202
        assert await attempt(us, "a@partner.example") == 403
        assert await attempt(us, "a@notsender.example") == 403


async def test_dp2_a_rule_with_schemas_allows_these_only(tmp_path):
    async with town(tmp_path) as us:
        await us.register("bob")
        await put(us, rule("sender.example", schemas=["agntcy:commerce.*"]))

        assert await attempt(us, schema="agntcy:commerce.order.v1") == 202
        assert await attempt(us, schema="agntcy:law.contract.v1") == 403
        assert await attempt(us) == 403


@pytest.mark.parametrize(
    ("settings", "status"),
    [
        ({"federation": "open"}, 202),
        ({"federation": "closed"}, 403),
        ({"federation": "closed", "federation_allow": ("sender.example",)}, 403),
        ({"federation": "allowlist"}, 403),
        ({"federation": "allowlist", "federation_allow": ("Sender.example",)}, 202),
        ({"federation": "allowlist", "resolve": {"sender.example": "http://127.0.0.1:9"}}, 202),
    ],
)
async def test_dp3_until_a_default_is_set_the_settings_decide(tmp_path, settings, status):
    async with town(tmp_path, **settings) as us:
        await us.register("bob")
        assert await attempt(us) == status


async def test_dp3_a_default_that_is_set_goes_before_the_settings(tmp_path):
    async with town(tmp_path, federation="open") as us:
        await us.register("bob")
        await put(us)
        reply = await bring(us)
        assert (reply.status, error_of(reply)) == (403, "ACCESS_DENIED")


async def test_dp4_who_was_written_to_may_answer(tmp_path):
    wire = Wire()
    wire.script = lambda *_: 200
    resolve = {"sender.example": "http://away"}
    async with town(tmp_path, http=wire, resolve=resolve) as us:
        await us.register("bob")
        await put(us)
        assert await attempt(us) == 403

        await us.write("bob", "orders@sender.example")
        assert await attempt(us) == 202
        assert await attempt(us, "other@sender.example") == 403
        await put(us, rule("sender.example", "deny"))
        assert await attempt(us) == 403


async def test_a_rate_is_kept_for_each_domain(tmp_path, autojump_clock):
    autojump_clock.autojump_threshold = 0.05  # longer than the registry's thread takes
    async with town(tmp_path) as us:
        await us.register("bob")
        await put(us, rule("*", rate_limit="2/hour"))

        found = [await attempt(us) for _ in range(3)]
        assert found == [202, 202, 429]
        assert await attempt(us, "a@other.example") == 202
        reply = await bring(us)
        assert 0 < int(reply.headers["retry-after"]) <= 3600
        autojump_clock.jump(3600)
        assert await attempt(us) == 202


@pytest.mark.parametrize(
    "body",
    [
        [], {"default_policy": "maybe"}, {"rules": {}}, {"rules": [rule("a", "perhaps")]},
        {"rules": [rule("")]}, {"rules": [rule("*" * 9)]}, {"rules": [rule("a", schemas="x")]},
        {"rules": [rule("a", rate_limit="fast")]}, {"rules": [5]},
    ],
)  # fmt: skip
async def test_what_is_no_policy_changes_nothing(tmp_path, body):
    async with town(tmp_path) as us:
        reply = await us.as_admin("PUT", "/v1/admin/policies", body)
        assert (reply.status, error_of(reply)) == (400, "INVALID_REQUEST_FORMAT")
        shown = (await us.as_admin("GET", "/v1/admin/policies")).json
        assert shown == {"default_policy": "allow", "rules": []}


async def test_only_administrators_see_and_change_it(tmp_path):
    async with town(tmp_path) as us:
        assert (await us.here.get("/v1/admin/policies")).status == 401
        assert (await us.here.request("PUT", "/v1/admin/policies", {})).status == 401
        await put(us, rule("a.example"))
        shown = (await us.as_admin("GET", "/v1/admin/policies")).json
        assert shown["rules"] == [rule("a.example")]
