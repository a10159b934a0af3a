"""AMP sections 05, 08 and 09, row by row of the checklist: the queue, and a life over HTTP only."""

import pytest
import trio
import trio.testing
from edge.amp.amp_client import AmpClient, holds, provider, when
from edge.gateway_harness import gateway, only_amp

from ampd.core.submission import Draft
from ampd.crypto.foreign_keys import ForeignKey

DAY = 86_400_000


@pytest.fixture
async def here(tmp_path):
    async with provider(tmp_path, limits={"register": 0, "route": 0, "hourly": 0}) as found:
        yield found


def subjects(page):
    return [each["envelope"]["subject"] for each in page["messages"]]


async def test_row_059_a_message_waits_seven_days(here, alice, bob):
    await alice.send("bob")
    assert (await bob.one())["expires_at"] == when(here.clock() + 7 * DAY)
    here.clock.time += 7 * DAY - 1
    assert await bob.one()
    here.clock.time += 1
    assert (await bob.pending())["messages"] == []


async def test_row_060_at_most_1000_messages_wait_for_an_agent(here, alice, bob):
    drafts = [Draft(to=("bob",), subject=str(n), text="x", expires_in=DAY) for n in range(999)]
    submission = here.rooms.submission
    carol = await here.node.agent("carol")
    await submission.send_many(carol, [submission.prepare(carol, draft) for draft in drafts])
    assert (await alice.route(alice.message("bob", "the last"))).status == 200
    reply = await alice.route(alice.message("bob", "too many"))
    assert (reply.status, reply.json["error"]) == (507, "quota_exceeded")
    assert (await alice.route(alice.message("carol"))).status == 200
    here.clock.time += DAY  # what has expired takes no place
    assert (await alice.route(alice.message("bob", "again"))).status == 200


async def test_a_message_is_handed_out_the_same_way_as_often_as_it_is_asked_for(alice, bob):
    large = {"note": "x" * 5000}
    for context in (None, large):
        await alice.send("bob", context=context)
    first = (await bob.pending())["messages"]
    assert (await bob.pending())["messages"] == first
    assert first[1]["payload"]["context"] == large


async def test_row_061_pending_shows_messages_count_and_remaining(here, alice, bob):
    for n in range(3):
        await alice.send("bob", str(n))
    page = await bob.pending("?limit=2")
    assert (page["count"], page["remaining"]) == (2, 1)
    for item in page["messages"]:
        assert set(item) >= {"id", "envelope", "payload", "queued_at", "expires_at"}
        assert item["queued_at"] == when(here.clock())
    for wrong in ("0", "-1", "x", "1e3", "9" * 20):
        assert (await bob.get(f"/v1/messages/pending?limit={wrong}")).status == 400


async def test_row_062_a_message_is_acknowledged_by_its_path(alice, bob):
    answer = await alice.send("bob")
    path = f"/v1/messages/pending/{answer['id']}"
    assert (await alice.delete(path)).status == 404
    assert (await bob.delete(path)).json["acknowledged"] is True
    assert (await bob.pending())["messages"] == []
    assert (await bob.delete(path)).status == 200  # its first answer may have been lost
    assert (await bob.delete("/v1/messages/pending/msg_1_nothing")).status == 404


async def test_row_063_several_are_acknowledged_at_once(alice, bob):
    ids = [(await alice.send("bob", str(n)))["id"] for n in range(3)]
    reply = await bob.post("/v1/messages/pending/ack", {"ids": [*ids[:2], "msg_1_nothing"]})
    assert reply.json == {"acknowledged": 2}
    assert subjects(await bob.pending()) == ["2"]
    for wrong in ({}, {"ids": "x"}, {"ids": [1]}, [], {"ids": ["x"] * 1001}):
        assert (await bob.post("/v1/messages/pending/ack", wrong)).status == 400


async def test_row_064_first_in_first_out(here, alice, bob):
    for n in range(5):
        await alice.send("bob", str(n), priority="urgent" if n == 4 else "low")
        here.clock.time += 1000
    assert subjects(await bob.pending()) == ["0", "1", "2", "3", "4"]


async def test_row_065_the_queue_is_found_by_name_also_before_it_registers(here, alice):
    carol = await here.node.agent("carol")
    await alice.send("carol@default.aimaestro.local", "by address")
    await alice.send("carol", "by name")
    assert here.rooms.lists.listing(carol, _inbox()).total == 2


def _inbox():
    from ampd.core.lists import Filter

    return Filter()


async def test_row_101_ids_that_were_seen_survive_a_restart(tmp_path):
    async with provider(tmp_path) as here:
        alice, bob = await here.client("alice"), await here.client("bob")
        body = alice.envelope(bob.address, id="msg_1800000000_ab")
        assert (await alice.route(body)).status == 200
        await bob.delete("/v1/messages/pending/msg_1800000000_ab")
        clock = here.clock
    clock.time += 240_000
    async with gateway(tmp_path, services=only_amp, clock=clock) as again:
        for client in (alice, bob):
            client.here = again
        assert (await alice.route(body)).status == 200
        assert (await bob.pending())["messages"] == []


async def test_row_099_ids_are_remembered_for_a_day_and_more(here, alice, bob):
    body = alice.envelope(bob.address, id="msg_1800000000_ab")
    await alice.route(body)
    await bob.delete("/v1/messages/pending/msg_1800000000_ab")
    here.clock.time += 2 * DAY
    body["envelope"]["timestamp"] = when(here.clock())  # not among what is signed
    body["envelope"]["expires_at"] = None
    reply = await alice.route(body)
    assert reply.status in (200, 409)
    assert (await bob.pending())["messages"] == []


async def test_row_102_one_id_is_never_given_twice_to_a_recipient(here, alice, bob):
    body = alice.envelope(bob.address, id="msg_1_ab")
    for _ in range(3):
        assert (await alice.route(body)).status == 200
    eve = await here.client("eve")
    assert (await eve.route(eve.envelope(bob.address, id="msg_1_ab"))).status == 409
    assert (await bob.one())["id"] == "msg_1_ab"


async def test_row_111_lists_have_pages_that_miss_nothing(here, alice, bob):
    for n in range(7):
        await alice.send("bob", str(n))
    found, cursor = [], ""
    while True:
        page = await bob.pending(f"?limit=3&cursor={cursor}")
        found += subjects(page)
        assert page["total"] == 7
        if not page["has_more"]:
            break
        cursor = page["cursor"]
    assert found == [str(n) for n in range(7)]
    for n in range(5):
        await here.client(f"agent{n}")
    found, cursor = [], ""
    while True:
        page = (await alice.get(f"/v1/agents?limit=2&cursor={cursor}")).json
        found += [each["address"] for each in page["agents"]]
        assert page["total"] == 7
        if not page["has_more"]:
            break
        cursor = page["cursor"]
    assert len(found) == len(set(found)) == 7


async def test_row_116_the_other_forms_of_acknowledging_work_too(alice, bob):
    ids = [(await alice.send("bob", str(n)))["id"] for n in range(4)]
    assert (await bob.delete(f"/api/v1/messages/pending?id={ids[0]}")).status == 200
    reply = await bob.post("/api/v1/messages/pending", {"ids": ids[1:3]})
    assert reply.json == {"acknowledged": 2}
    assert subjects(await bob.pending()) == ["3"]
    assert (await bob.delete("/api/v1/messages/pending")).status == 400


async def test_row_117_a_pending_item_carries_the_senders_public_key(alice, bob):
    await alice.send("bob")
    item = await bob.one()
    key = ForeignKey.from_raw_ed25519(bytes.fromhex(item["sender_public_key"]))
    assert key == alice.signer.public
    assert holds(item, key)


async def test_row_118_a_whole_life_over_http_only(here):
    found = (await here.get("/.well-known/agent-messaging.json")).json
    api = found["endpoint"].removeprefix("http://localhost:23000")
    assert "registration" in found["capabilities"]
    alice, bob = AmpClient(here, "alice"), AmpClient(here, "bob")
    for client in (alice, bob):
        reply = await here.post(f"{api}/register", client.asks())
        client.token = reply.json["api_key"]
    sent = (await alice.post(f"{api}/route", alice.message(bob.address))).json
    (item,) = (await bob.get(f"{api}/messages/pending")).json["messages"]
    assert item["id"] == sent["id"]
    assert (await bob.delete(f"{api}/messages/pending/{item['id']}")).status == 200
    assert (await bob.get(f"{api}/messages/pending")).json["count"] == 0


# --- what clients of today need ----------------------------------------------------------------

PREFIXES = ("/v1", "/api/v1", "/api", "", "/api/v1/v1", "/v1/v1")


@pytest.mark.parametrize("prefix", PREFIXES)
async def test_k01_prefixes_of_api_and_v1_are_noise(alice, bob, prefix):
    answer = (await alice.post(f"{prefix}/route", alice.message("bob"))).json
    for path in ("/messages/pending", "/inbox"):
        (item,) = (await bob.get(prefix + path)).json["messages"]
        assert item["id"] == answer["id"]
    assert (await bob.delete(f"{prefix}/messages/pending/{answer['id']}")).status == 200
    answer = (await alice.post(f"{prefix}/route", alice.message("bob"))).json
    assert (await bob.post(f"{prefix}/inbox/{answer['id']}/ack")).status == 200
    assert (await bob.get(f"{prefix}/messages/pending")).json["count"] == 0


async def test_k10_a_page_is_generous_oldest_first_and_repeats_until_acknowledged(alice, bob):
    for n in range(103):
        await alice.send("bob", str(n))
    first, again = await bob.pending(), await bob.pending()
    assert subjects(first) == subjects(again) == [str(n) for n in range(100)]
    assert first["remaining"] == 3
    await bob.post("/v1/messages/pending/ack", {"ids": [each["id"] for each in first["messages"]]})
    assert subjects(await bob.pending()) == ["100", "101", "102"]


async def test_pe5_a_request_waits_for_a_message_that_comes(alice, bob):
    found = []

    async def wait():
        found.append(await bob.pending("?wait=30"))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        assert found == []
        await alice.send("bob", "late")
    assert subjects(found[0]) == ["late"]


async def test_pe5_a_request_waits_no_longer_than_it_says(bob, autojump_clock):
    before = trio.current_time()
    assert (await bob.pending("?wait=5"))["messages"] == []
    assert trio.current_time() - before == pytest.approx(5)


async def test_pe6_a_page_of_large_messages_is_a_short_one(alice, bob):
    for n in range(30):
        await alice.send("bob", str(n), context="x" * 250_000)
    first = await bob.pending()
    assert first["has_more"] and 10 <= first["count"] < 30
    assert first["remaining"] == 30 - first["count"]
    rest = await bob.pending(f"?cursor={first['cursor']}")
    assert subjects(first) + subjects(rest) == [str(n) for n in range(30)]


async def test_pe3_expired_messages_do_not_hide_those_behind_them(here, alice, bob):
    for n in range(5):
        await alice.send("bob", f"old {n}", expires_at=when(here.clock() + 10_000))
    await alice.send("bob", "new")
    here.clock.time += 20_000
    assert subjects(await bob.pending("?limit=2")) == ["new"]


async def test_what_an_agent_read_by_itself_waits_until_it_is_acknowledged(here, alice, bob):
    answer = await alice.send("bob")
    agent = here.rooms.agents.named("bob")
    (found,) = here.rooms.lists.listing(agent, _inbox()).messages
    await here.rooms.marks.shown(agent, [here.rooms.reading.full(agent, found.seq)])
    assert (await bob.one())["id"] == answer["id"]
    assert (await bob.get("/v1/messages/pending/count")).json == {"count": 1}


async def test_an_account_sees_no_mail_but_its_own(here, alice, bob):
    answer = await alice.send("bob")
    eve = await here.client("eve")
    assert (await eve.pending())["messages"] == []
    for method, path in (
        ("DELETE", f"/v1/messages/pending/{answer['id']}"),
        ("POST", f"/v1/inbox/{answer['id']}/ack"), ("POST", f"/v1/messages/{answer['id']}/read"),
    ):  # fmt: skip
        assert (await eve.ask(method, path)).status == 404
    assert await bob.one()
