"""AMP's checklist: how mail reaches an agent. WebSockets and webhooks are real ones, on loopback.

Times are in test_websocket.py and test_webhooks.py too, where a clock jumps.
"""

import hashlib
import hmac
import json
import ssl
from contextlib import asynccontextmanager

import fakes
import pytest
import trio
import trio_websocket
from edge.amp.amp_client import provider
from edge.amp.small_gateway import sha256
from edge.amp.webhook_receiver import receiver
from edge.gateway_harness import Closed
from edge.http.serving import certificate

from ampd.edge.amp.webhooks import TOLERANCE, signature, verify
from ampd.edge.http.server import Server, Tls, bind


class Live:
    """A provider that listens on loopback, and those who are connected to it."""

    def __init__(self, here, port, tls=None):
        self.here, self.port, self.tls = here, port, tls

    @asynccontextmanager
    async def dial(self, path="/v1/ws", **options):
        scheme = "wss" if self.tls else "ws"
        url = f"{scheme}://localhost:{self.port}{path}"
        async with trio_websocket.open_websocket_url(url, ssl_context=self.tls, **options) as ws:
            try:
                yield Ends(ws)
            finally:  # it leaves its socket open when the server closed it
                await trio.aclose_forcefully(ws._stream)

    @asynccontextmanager
    async def connected(self, client, **options):
        async with self.dial(**options) as ends:
            await ends.say({"type": "auth", "token": client.token})
            ends.greeting = await ends.hear()
            yield ends


class Ends:
    """The client's end of a WebSocket."""

    def __init__(self, ws):
        self.ws = ws

    async def say(self, frame):
        await self.ws.send_message(frame if isinstance(frame, str) else json.dumps(frame))

    async def hear(self):
        return json.loads(await self.ws.get_message())

    async def closed(self):
        """The code with which the server closes it."""
        with pytest.raises(trio_websocket.ConnectionClosed) as caught:
            await self.ws.get_message()
        return caught.value.reason.code


@asynccontextmanager
async def live(folder, files=None, trust=None, **values):
    async with provider(folder, **values) as here, trio.open_nursery() as nursery:
        tls = Tls(*files).context() if files else None
        server = Server(here.app, bind(("127.0.0.1", 0)), tls)
        await nursery.start(server.run)
        yield Live(here, server.address[1], trust)
        nursery.cancel_scope.cancel()


async def test_row_049_the_websocket_is_at_v1_ws_and_takes_no_key_from_the_url(tmp_path):
    async with live(tmp_path) as there:
        alice = await there.here.client("alice")
        for path in ("/v1/ws", "/ws", "/api/v1/ws"):
            async with there.connected(alice, path=path) as ends:
                assert ends.greeting["type"] == "connected"
        async with there.dial(f"/v1/ws?token={alice.token}&api_key={alice.token}") as ends:
            await ends.say({"type": "ping"})
            assert (await ends.hear())["error"] == "unauthorized"
            assert await ends.closed() == 4002


async def test_row_050_auth_is_the_first_frame_and_answered_by_connected(tmp_path):
    async with live(tmp_path) as there:
        alice, bob = await there.here.client("alice"), await there.here.client("bob")
        for number in range(3):
            await bob.send(alice.address, f"number {number}")
        async with there.connected(alice) as ends:
            assert ends.greeting["type"] == "connected"
            assert ends.greeting["data"] == {"address": alice.address, "pending_count": 3}


async def test_row_051_it_is_closed_without_a_valid_auth_within_ten_seconds(
    tmp_path, autojump_clock
):
    async with provider(tmp_path) as here:
        began = trio.current_time()
        async with here.socket("/v1/ws") as silent:
            assert (await silent.receive())["error"] == "unauthorized"
            assert await silent.closed() == 4001
            assert trio.current_time() - began == 10
        async with here.socket("/v1/ws") as wrong:
            await wrong.send({"type": "auth", "token": "amp_live_sk_wrong"})
            said = await wrong.receive()
            assert (said["type"], said["error"]) == ("error", "unauthorized")
            assert await wrong.closed() == 4003
        async with here.socket("/v1/ws") as early:
            await early.send({"type": "ping"})
            assert (await early.receive())["type"] == "error"
            assert await early.closed() == 4002


async def test_row_052_new_mail_is_pushed_as_message_new(tmp_path):
    async with live(tmp_path) as there:
        alice, bob = await there.here.client("alice"), await there.here.client("bob")
        async with there.connected(alice) as ends:
            sent = await bob.send(alice.address, "Subject", "Text")
            frame = await ends.hear()
            assert frame["type"] == "message.new"
            assert frame["data"]["id"] == frame["data"]["envelope"]["id"] == sent["id"]
            assert frame["data"]["payload"]["message"] == "Text"
            assert (sent["status"], sent["method"]) == ("delivered", "websocket")


@pytest.mark.parametrize("word", ["ack", "message.ack"])
async def test_row_053_an_ack_frame_takes_it_out_of_the_queue(tmp_path, word):
    async with live(tmp_path) as there:
        alice, bob = await there.here.client("alice"), await there.here.client("bob")
        sent = await bob.send(alice.address)
        async with there.connected(alice) as ends:
            await ends.hear()
            assert (await alice.pending())["count"] == 1
            await ends.say({"type": word, "id": sent["id"]})
            await ends.say({"type": "ping"})
            await ends.hear()
            assert (await alice.pending())["count"] == 0


async def test_row_054_a_ping_is_answered_and_silence_ends_after_five_minutes(
    tmp_path, autojump_clock
):
    async with provider(tmp_path) as here:
        alice = await here.client("alice")
        async with here.socket("/v1/ws") as socket:
            await socket.send({"type": "auth", "token": alice.token})
            await socket.receive()
            await trio.sleep(299)
            await socket.send({"type": "ping"})
            pong = await socket.receive()
            assert pong["type"] == "pong"
            assert pong["timestamp"].endswith("Z")
            began = trio.current_time()
            assert await socket.closed() == 4008
            assert trio.current_time() - began == 300


async def test_row_055_a_route_frame_equals_the_rest_route(tmp_path):
    async with live(tmp_path) as there:
        alice, bob = await there.here.client("alice"), await there.here.client("bob")
        async with there.connected(alice) as ends:
            body = alice.message(bob.address, "By socket")
            await ends.say({"type": "route", "data": body, "request_id": 1})
            answer = await ends.hear()
            assert (answer["type"], answer["request_id"]) == ("routed", 1)
            by_rest = (await alice.route(alice.message(bob.address, "By REST"))).json
            assert set(answer["data"]) == set(by_rest)
            await ends.say({"type": "route", "data": {**body, "to": "nobody@x.local"}})
            assert (await ends.hear())["error"] == "not_found"
            await ends.say({"type": "route"})
            assert (await ends.hear())["type"] == "error"
        subjects = [each["envelope"]["subject"] for each in (await bob.pending())["messages"]]
        assert subjects == ["By socket", "By REST"]


async def test_row_056_a_webhook_gets_envelope_and_payload_signed(tmp_path):
    async with receiver() as hook, live(tmp_path, webhook_hosts=(hook.host,)) as there:
        delivery = {"webhook_url": hook.url, "webhook_secret": "whsec_abc"}
        alice = await there.here.client("alice", delivery=delivery)
        bob = await there.here.client("bob")
        sent = await bob.send(alice.address, "Subject", "Text")
        (got,) = await hook.requests()
        document = json.loads(got.body)
        assert (got.method, list(document)) == ("POST", ["envelope", "payload"])
        assert document["envelope"]["id"] == got.headers["x-amp-message-id"] == sent["id"]
        signed = got.headers["x-amp-timestamp"].encode() + b"." + got.body
        mac = hmac.new(b"whsec_abc", signed, hashlib.sha256).hexdigest()
        assert got.headers["x-amp-signature"] == f"sha256={mac}"
        assert got.headers["content-type"] == "application/json"


async def test_row_057_2xx_is_done_and_4xx_is_not_tried_again(tmp_path):
    async with receiver(404, 200) as hook, live(tmp_path, webhook_hosts=(hook.host,)) as there:
        delivery = {"webhook_url": hook.url, "webhook_secret": "whsec_abc"}
        alice = await there.here.client("alice", delivery=delivery)
        bob = await there.here.client("bob")
        refused = await bob.send(alice.address, "first")
        taken = await bob.send(alice.address, "second")
        assert (refused["status"], refused["method"]) == ("queued", "relay")
        assert (taken["status"], taken["method"]) == ("delivered", "webhook")
        await hook.requests(2)
        assert (await alice.one())["envelope"]["subject"] == "first"


async def test_row_057_5xx_is_tried_again_at_0_s_30_s_and_2_min(tmp_path, autojump_clock):
    times = []

    class Failing:
        async def send(self, *_args, **_options):
            times.append(trio.current_time())
            await trio.lowlevel.checkpoint()
            return type("Reply", (), {"status": 500, "headers": {}, "body": b""})()

    async with provider(tmp_path, http=Failing()) as here:
        delivery = {"webhook_url": "https://hooks.example/", "webhook_secret": "s"}
        alice = await here.client("alice", delivery=delivery)
        bob = await here.client("bob")
        await bob.send(alice.address, "stays")
        await trio.sleep(3600)
        assert [round(each - times[0]) for each in times] == [0, 30, 150]
        assert (await alice.one())["envelope"]["subject"] == "stays"


async def test_a_webhook_reaches_no_private_address_that_is_not_allowed(tmp_path):
    async with receiver() as hook, live(tmp_path) as there:
        delivery = {"webhook_url": hook.url, "webhook_secret": "whsec_abc"}
        alice = await there.here.client("alice", delivery=delivery)
        bob = await there.here.client("bob")
        sent = await bob.send(alice.address)
        assert (sent["status"], hook.got) == ("queued", [])


def test_row_058_a_receiver_checks_the_time_and_the_signature():
    now = 1_706_648_400
    given = signature("whsec_1", now, b"{}")
    assert verify("whsec_1", str(now), b"{}", given, now)
    assert verify("whsec_1", str(now), b"{}", given, now + TOLERANCE)
    assert not verify("whsec_1", str(now), b"{}", given, now + TOLERANCE + 1)
    assert not verify("whsec_1", str(now), b"{}", given, now - TOLERANCE - 1)
    assert not verify("whsec_2", str(now), b"{}", given, now)
    assert not verify("whsec_1", str(now), b"{ }", given, now)
    assert not verify("whsec_1", str(now + 1), b"{}", given, now)
    assert not verify("whsec_1", "soon", b"{}", given, now)
    assert not verify("whsec_1", str(now), b"{}", "sha256=é", now)


async def test_row_066_a_sender_that_asks_for_a_receipt_gets_message_delivered(tmp_path):
    async with live(tmp_path) as there:
        alice, bob = await there.here.client("alice"), await there.here.client("bob")
        async with there.connected(alice) as sender, there.connected(bob) as recipient:
            sent = await alice.send(bob.address, options={"receipt": True})
            await recipient.hear()
            told = await sender.hear()
            assert told["type"] == "message.delivered"
            assert told["data"]["id"] == sent["id"]
            assert (told["data"]["to"], told["data"]["method"]) == (bob.address, "websocket")
            assert told["data"]["delivered_at"].endswith("Z")


async def test_row_067_a_read_receipt_reaches_the_sender(tmp_path):
    async with live(tmp_path) as there:
        alice, bob = await there.here.client("alice"), await there.here.client("bob")
        async with there.connected(alice) as sender:
            sent = await alice.send(bob.address)
            read = await bob.post(f"/v1/messages/{sent['id']}/read")
            assert read.status == 200
            assert (read.json["read_receipt_sent"], read.json["receipt_sent"]) == (True, True)
            told = await sender.hear()
            assert (told["type"], told["data"]["id"]) == ("message.read", sent["id"])
            assert told["data"]["read_at"].endswith("Z")
            await bob.post(f"/v1/messages/{sent['id']}/read")
            await sender.say({"type": "ping"})
            assert (await sender.hear())["type"] == "pong"  # it is told once
        assert (await bob.post("/v1/messages/msg_1_abcdef/read")).status == 404
        assert (await alice.post(f"/v1/messages/{sent['id']}/read")).status == 404


async def test_row_067_rc3_a_message_that_was_acknowledged_stays_so(tmp_path):
    async with provider(tmp_path) as here:
        alice, bob = await here.client("alice"), await here.client("bob")
        sent = await alice.send(bob.address)
        await bob.delete(f"/v1/messages/pending/{sent['id']}")
        assert (await bob.post(f"/v1/messages/{sent['id']}/read")).status == 200
        assert (await bob.pending())["count"] == 0


async def test_row_092_https_and_wss_are_served_by_tls_1_2_or_higher(tmp_path):
    *files, trust = certificate(tmp_path)
    async with live(tmp_path, files, trust) as there:
        alice = await there.here.client("alice")
        async with there.connected(alice) as ends:
            assert ends.greeting["type"] == "connected"
        assert Tls(*files).context().minimum_version >= ssl.TLSVersion.TLSv1_2


async def test_row_103_agents_have_limits_for_sending_receiving_and_asking(
    tmp_path, autojump_clock
):
    limits = {"route": 3, "hourly": 4, "received": 100, "api": 2, "pending": 2}
    clock = fakes.JumpingClock(autojump_clock)
    async with provider(tmp_path, limits=limits, clock=clock) as here:
        alice, bob = await here.client("alice"), await here.client("bob")

        async def statuses(count, ask):
            return [(await ask()).status for _ in range(count)]

        def sending():
            return alice.route(alice.message(bob.address, f"at {trio.current_time()}"))

        assert await statuses(4, sending) == [200, 200, 200, 429]
        await trio.sleep(60)
        assert await statuses(2, sending) == [200, 429]  # four an hour
        await trio.sleep(3600)
        assert await statuses(1, sending) == [200]
        assert await statuses(3, lambda: bob.get("/v1/agents/me")) == [200, 200, 429]
        assert await statuses(3, lambda: bob.get("/v1/messages/pending")) == [200, 200, 429]


async def test_row_103_what_comes_for_one_agent_is_limited(tmp_path):
    async with provider(tmp_path, limits={"received": 2}) as here:
        alice, bob = await here.client("alice"), await here.client("bob")
        carol = await here.client("carol")
        replies = [await each.route(each.message(bob.address)) for each in (alice, carol, alice)]
        assert [each.status for each in replies] == [200, 200, 429]
        assert (await alice.route(alice.message(carol.address))).status == 200


async def test_row_104_each_endpoint_has_the_limit_of_the_specification(tmp_path):
    async with provider(tmp_path) as here:
        alice = await here.client("alice")
        asked = {
            "60": await alice.route(alice.message(alice.address)),
            "30": await alice.get("/v1/messages/pending"),
            "10": await here.post("/v1/register", alice.asks(name="bob")),
            "100": await alice.get("/v1/agents/me"),
        }
        for limit, reply in asked.items():
            assert reply.headers["x-ratelimit-limit"] == limit, reply.text
            assert 0 <= int(reply.headers["x-ratelimit-remaining"]) < int(limit)


async def test_row_105_429_says_when_to_ask_again(tmp_path):
    async with provider(tmp_path, limits={"pending": 1}) as here:
        alice = await here.client("alice")
        await alice.pending()
        reply = await alice.get("/v1/messages/pending")
        assert (reply.status, reply.json["error"]) == (429, "rate_limited")
        assert reply.json["message"]
        assert reply.headers["x-ratelimit-limit"] == "1"
        assert reply.headers["x-ratelimit-remaining"] == "0"
        assert int(reply.headers["x-ratelimit-reset"]) > here.clock() // 1000
        assert 0 < int(reply.headers["retry-after"]) <= 60


async def test_k13_a_file_is_sent_and_fetched_as_the_clients_do_it(tmp_path):
    async with provider(tmp_path) as here:
        alice, bob = await here.client("alice"), await here.client("bob")
        data = b"some notes\n" * 1000
        asked = {
            "filename": "notes.txt", "content_type": "text/plain", "size": len(data),
            "digest": sha256(data),
        }  # fmt: skip
        announced = await alice.post("/api/v1/attachments/upload", asked)
        assert announced.status == 201
        identifier, link = announced.json["attachment_id"], announced.json["upload_url"]
        put = await here.request(
            "PUT", link.removeprefix("http://localhost:23000"), body=data,
            headers={"Content-Type": "text/plain"},
        )  # fmt: skip
        assert put.status in (200, 201)
        assert (await alice.post(f"/api/v1/attachments/{identifier}/confirm")).status == 200
        shown = (await alice.get(f"/api/v1/attachments/{identifier}")).json
        assert shown["scan_status"] == "basic_clean"
        said = {
            "id": identifier, **asked, "url": shown["download_url"],
            "scan_status": shown["scan_status"],
        }  # fmt: skip
        payload = {"type": "request", "message": "see there", "context": None}
        await alice.send(bob.address, payload=payload | {"attachments": [said]})
        (got,) = (await bob.one())["payload"]["attachments"]
        fetched = await here.get(got["url"].removeprefix("http://localhost:23000"))
        assert (fetched.status, fetched.body) == (200, data)
        by_key = await bob.get(f"/api/v1/attachments/{identifier}/download")
        assert (by_key.status, by_key.body) == (200, data)


async def test_k13_a_message_with_a_rejected_file_is_not_sent(tmp_path):
    async with provider(tmp_path) as here:
        alice, bob = await here.client("alice"), await here.client("bob")
        data = b"#!/bin/sh\n"
        asked = {
            "filename": "x.txt", "content_type": "text/plain", "size": len(data),
            "digest": sha256(data),
        }  # fmt: skip
        announced = (await alice.post("/api/v1/attachments/upload", asked)).json
        path = announced["upload_url"].removeprefix("http://localhost:23000")
        await here.request("PUT", path, body=data, headers={"Content-Type": "text/plain"})
        carried = [{"id": announced["attachment_id"], **asked}]
        payload = {"type": "request", "message": "see there", "attachments": carried}
        reply = await alice.route(alice.message(bob.address, payload=payload))
        assert (reply.status, reply.json["error"]) == (422, "attachment_rejected")
        assert (await bob.pending())["count"] == 0


async def test_a_page_of_a_website_cannot_open_a_websocket(tmp_path):
    async with provider(tmp_path) as here:
        with pytest.raises(Closed):
            async with here.socket("/v1/ws", {"Origin": "https://evil.example"}):
                pass


async def test_tr1_mail_is_in_the_mailbox_whatever_becomes_of_its_push(tmp_path):
    async with receiver(500) as hook, live(tmp_path, webhook_hosts=(hook.host,)) as there:
        delivery = {"webhook_url": hook.url, "webhook_secret": "s"}
        alice = await there.here.client("alice", delivery=delivery)
        bob = await there.here.client("bob")
        sent = await bob.send(alice.address)
        await hook.requests()
        assert (await alice.one())["id"] == sent["id"]


async def test_tr2_a_websocket_comes_before_a_webhook_and_that_before_the_queue(tmp_path):
    async with receiver(200, 404) as hook, live(tmp_path, webhook_hosts=(hook.host,)) as there:
        delivery = {"webhook_url": hook.url, "webhook_secret": "s", "prefer_websocket": True}
        alice = await there.here.client("alice", delivery=delivery)
        bob = await there.here.client("bob")
        methods = []
        async with there.connected(alice) as ends:
            methods.append((await bob.send(alice.address, "one"))["method"])
            assert (await ends.hear())["data"]["envelope"]["subject"] == "one"
        while there.here.amp.transport.online("alice"):
            await trio.lowlevel.checkpoint()
        methods.append((await bob.send(alice.address, "two"))["method"])
        methods.append((await bob.send(alice.address, "three"))["method"])
        assert methods == ["websocket", "webhook", "relay"]
        waiting = [each["envelope"]["subject"] for each in (await alice.pending())["messages"]]
        assert waiting == ["one", "three"]
