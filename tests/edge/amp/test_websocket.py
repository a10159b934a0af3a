"""WebSockets of AMP, frame by frame, over both ends of one in memory."""

from contextlib import asynccontextmanager

import fakes
import pytest
import trio
from edge.amp import small_gateway
from trio.testing import wait_all_tasks_blocked

from ampd.core.agents import Profile
from ampd.edge.amp.websocket import AUTH_WITHIN, IDLE_FOR, MAX_ERRORS, MAX_SOCKETS, Sockets


class Desk:
    """The sockets of a gateway, and those who are connected to them."""

    def __init__(self, gateway, nursery):
        self.gateway, self.nursery = gateway, nursery
        self.taken = []
        self.sockets = Sockets(gateway.shared.rooms, gateway.mail, gateway.clock, self._took)

    async def _took(self, agent, summary, method):
        self.taken.append((agent.name, method))
        await self.sockets.receipts.delivered(agent, summary, method, self.gateway.clock())

    def dial(self, **headers):
        wire = small_gateway.Wire(**headers)
        self.nursery.start_soon(self._serve, wire)
        return wire

    async def _serve(self, wire):
        await self.sockets.handle(wire)
        await wire.close()

    async def connect(self, name, **delivery):
        """A connection that is through with its greeting."""
        token = f"amp_live_sk_{name}"
        if token not in self.gateway.mail.tokens:
            await self.gateway.mail.register(name, **delivery)
        wire = self.dial()
        await wire.say(type="auth", token=token)
        wire.greeting = await wire.hear()
        return wire


@asynccontextmanager
async def desk(folder, **options):
    async with small_gateway.gateway(folder, **options) as gateway, trio.open_nursery() as nursery:
        yield Desk(gateway, nursery)
        nursery.cancel_scope.cancel()


def jumping(autojump_clock):
    return fakes.JumpingClock(autojump_clock)


async def test_ws1_the_first_frame_proves_who_it_is(tmp_path):
    async with desk(tmp_path) as here:
        await here.gateway.mail.register("alice")
        for number in range(3):
            await here.gateway.send("bob", "alice", f"number {number}")
        wire = await here.connect("alice")
        data = {"address": "alice@default.aimaestro.local", "pending_count": 3}
        assert wire.greeting == {"type": "connected", "data": data, **data}


async def test_ws1_who_says_nothing_is_told_so_and_closed(tmp_path, autojump_clock):
    async with desk(tmp_path, clock=jumping(autojump_clock)) as here:
        began = trio.current_time()
        wire = here.dial()
        assert (await wire.hear())["error"] == "unauthorized"
        assert await wire.hear() is None
        assert (wire.closed[0], trio.current_time() - began) == (4001, AUTH_WITHIN)


@pytest.mark.parametrize(
    "first", ['{"type": "ping"}', "[]", "no json", '{"type": "auth"}', '{"type": ["auth"]}']
)
async def test_ws1_another_first_frame_ends_it(tmp_path, first):
    async with desk(tmp_path) as here:
        wire = here.dial()
        await wire.say_text(first)
        assert (await wire.hear())["type"] == "error"
        assert (await wire.hear(), wire.closed[0]) == (None, 4002)


async def test_ws1_a_token_that_is_not_valid_ends_it(tmp_path):
    async with desk(tmp_path) as here:
        wire = here.dial()
        wire.query = {"token": await here.gateway.mail.register("alice")}  # counts for nothing
        await wire.say(type="auth", token="amp_live_sk_nobody")
        assert (await wire.hear())["error"] == "unauthorized"
        assert (await wire.hear(), wire.closed[0]) == (None, 4003)
        assert not here.sockets.online("alice")


async def test_ws1_one_agent_has_so_many_connections_and_no_more(tmp_path):
    async with desk(tmp_path) as here:
        for _ in range(MAX_SOCKETS):
            await here.connect("alice")
        wire = await here.connect("alice")
        assert wire.greeting["error"] == "rate_limited"
        assert (here.sockets.count, await wire.hear(), wire.closed[0]) == (1, None, 1013)


async def test_ws2_what_waits_comes_at_once_and_then_what_comes(tmp_path):
    async with desk(tmp_path) as here:
        await here.gateway.mail.register("alice")
        first = await here.gateway.send("bob", "alice", "before")
        wire = await here.connect("alice")
        frame = await wire.hear()
        assert (frame["type"], frame["data"]["id"]) == ("message.new", first)
        assert frame["data"]["payload"]["message"] == "before"
        await here.gateway.send("bob", "alice", "after")
        assert (await wire.hear())["data"]["payload"]["message"] == "after"
        await wait_all_tasks_blocked()
        assert here.taken == [("alice", "websocket")] * 2


@pytest.mark.parametrize("word", ["ack", "message.ack"])
async def test_ws2_only_an_ack_takes_a_message_out_of_the_queue(tmp_path, word):
    async with desk(tmp_path) as here:
        await here.gateway.mail.register("alice")
        sent = await here.gateway.send("bob", "alice")
        wire = await here.connect("alice")
        await wire.hear()
        wire.leave()
        assert await here.gateway.state("alice", sent) == "unread"
        again = await here.connect("alice")
        assert (await again.hear())["data"]["id"] == sent
        await again.say(type=word, id=sent)
        await again.say(type="ping")  # an ack is answered by nothing
        assert (await again.hear())["type"] == "pong"
        assert await here.gateway.state("alice", sent) == "acked"
        assert (await here.connect("alice")).greeting["pending_count"] == 0


async def test_ws3_an_idle_connection_is_closed_and_a_ping_keeps_it(tmp_path, autojump_clock):
    async with desk(tmp_path, clock=jumping(autojump_clock)) as here:
        wire = await here.connect("alice")
        await trio.sleep(IDLE_FOR - 1)
        await wire.say(type="ping")
        pong = await wire.hear()
        assert pong["timestamp"].startswith("2027-01-15T08:04:59")
        began = trio.current_time()
        assert (await wire.hear(), wire.closed[0]) == (None, 4008)
        assert trio.current_time() - began == IDLE_FOR
        assert not here.sockets.online("alice")


async def test_ws4_a_revoked_key_ends_its_connections_before_the_next_frame(tmp_path):
    async with desk(tmp_path) as here:
        wire = await here.connect("alice")
        del here.gateway.mail.tokens["amp_live_sk_alice"]
        await here.gateway.send("bob", "alice", "a secret")
        assert (await wire.hear(), wire.closed[0]) == (None, 4003)


async def test_ws4_whoever_takes_the_name_is_another_agent(tmp_path):
    async with desk(tmp_path) as here:
        wire = await here.connect("alice")
        agents = here.gateway.node.agents
        await agents.remove("alice", purge=True)
        await agents.create("alice", Profile())
        await wire.say(type="ping")
        assert (await wire.hear(), wire.closed[0]) == (None, 4003)


async def test_ws5_a_frame_that_is_not_understood_is_answered_by_an_error(tmp_path):
    async with desk(tmp_path) as here:
        wire = await here.connect("alice")
        await wire.say(type="dance", request_id=7)
        answer = await wire.hear()
        assert (answer["type"], answer["error"], answer["request_id"]) == (
            "error", "invalid_request", 7,
        )  # fmt: skip
        await wire.say(type="ack", id="msg_1_abc")
        assert (await wire.hear())["error"] == "not_found"
        await wire.say(type="ping")
        assert (await wire.hear())["type"] == "pong"


async def test_ws5_too_many_of_them_end_it(tmp_path):
    async with desk(tmp_path) as here:
        wire = await here.connect("alice")
        for _ in range(MAX_ERRORS):
            await wire.say_text("{")
            assert (await wire.hear())["type"] == "error"
        assert await wire.hear() is None


async def test_ws6_the_facts_stand_on_the_top_level_too(tmp_path):
    async with desk(tmp_path) as here:
        wire = await here.connect("alice")
        assert wire.greeting["pending_count"] == 0
        await here.gateway.send("bob", "alice", "Hello")
        frame = await wire.hear()
        assert frame["envelope"] == frame["data"]["envelope"]
        assert frame["payload"] == frame["data"]["payload"]


async def test_a_route_frame_is_answered_as_the_route_is(tmp_path):
    async with desk(tmp_path) as here:
        await here.gateway.mail.register("bob")
        wire = await here.connect("alice")
        data = {"to": "bob", "subject": "s", "payload": {"type": "request", "message": "m"}}
        await wire.say(type="route", data=data, request_id="r1")
        answer = await wire.hear()
        assert (answer["type"], answer["request_id"]) == ("routed", "r1")
        assert answer["data"]["status"] == "queued"
        assert here.gateway.mail.routed == [("alice", data)]


async def test_the_subprotocol_is_spoken_if_it_is_offered(tmp_path):
    async with desk(tmp_path) as here:
        token = await here.gateway.mail.register("alice")
        wire = here.dial(sec_websocket_protocol="other, amp.v1")
        await wire.say(type="auth", token=token)
        await wire.hear()
        assert wire.subprotocol == "amp.v1"


async def test_rc1_a_sender_that_asked_hears_that_it_was_delivered(tmp_path):
    async with desk(tmp_path) as here:
        alice, bob = await here.connect("alice"), await here.connect("bob")
        await here.gateway.send("alice", "bob", "no receipt")
        sent = await here.gateway.send("alice", "bob", "a receipt", receipt=True)
        await bob.hear()
        await bob.hear()
        told = await alice.hear()
        assert told["type"] == "message.delivered"
        assert told["data"] == {
            "id": sent, "to": "bob@default.aimaestro.local", "method": "websocket",
            "delivered_at": "2027-01-15T08:00:00.000Z",
        }  # fmt: skip


async def test_rc2_the_sender_hears_that_it_was_read(tmp_path):
    async with desk(tmp_path) as here:
        alice = await here.connect("alice")
        bob = await here.gateway.node.agent("bob")
        sent = await here.gateway.send("alice", "bob")
        full = await here.gateway.node.reading.get(bob, ["1"])
        await here.gateway.node.marks.shown(bob, full)
        told = await alice.hear()
        assert told == {
            "type": "message.read",
            "data": {"id": sent, "read_at": "2027-01-15T08:00:00.000Z"},
        }
