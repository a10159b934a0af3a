"""Webhooks of AMP: time jumps, and the receiver is a script."""

import hashlib
import hmac
import json
from contextlib import asynccontextmanager

import fakes
import pytest
import trio
from edge.amp import small_gateway
from edge.amp.small_gateway import SmallHttp, unreachable

from ampd.edge.amp.webhooks import AT_ONCE, Webhooks
from ampd.model.errors import Refused

URL = "https://hooks.example/alice"
HOOK = {"webhook_url": URL, "webhook_secret": "whsec_1"}


class Hooks:
    """The webhooks of a gateway that run."""

    def __init__(self, gateway, online=()):
        self.gateway, self.online = gateway, set(online)
        self.taken, self.given_up = [], []
        self.webhooks = Webhooks(
            gateway.shared, gateway.mail, self.online.__contains__, self._took, self._gave_up
        )

    async def _took(self, agent, summary, method):
        await trio.lowlevel.checkpoint()
        self.taken.append((agent.name, summary.preview, method))

    def _gave_up(self, agent, summary):
        self.given_up.append((agent.name, summary.preview))

    @property
    def asked(self):
        return self.gateway.http.asked

    def bodies(self):
        return [json.loads(each[4])["payload"]["message"] for each in self.asked]


@asynccontextmanager
async def hooks(folder, script, clock=None, online=()):
    http = SmallHttp(script)
    async with small_gateway.gateway(folder, clock=clock, http=http) as gateway:
        await gateway.mail.register("alice", **HOOK)
        found = Hooks(gateway, online)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(found.webhooks.run)
            yield found
            nursery.cancel_scope.cancel()


def jumping(autojump_clock):
    return fakes.JumpingClock(autojump_clock)


async def test_mail_is_posted_and_signed_over_time_and_body(tmp_path, autojump_clock):
    async with hooks(tmp_path, lambda *_: 204, jumping(autojump_clock)) as here:
        sent = await here.gateway.send("bob", "alice", "Hello")
        await trio.sleep(1)
        (_, method, url, headers, body), *_ = here.asked
        assert (method, url, headers["X-AMP-Message-Id"]) == ("POST", URL, sent)
        assert list(json.loads(body)) == ["envelope", "payload"]
        stamp = headers["X-AMP-Timestamp"]
        assert stamp == str(fakes.START // 1000)
        mac = hmac.new(b"whsec_1", f"{stamp}.{body.decode()}".encode(), hashlib.sha256)
        assert headers["X-AMP-Signature"] == f"sha256={mac.hexdigest()}"


async def test_wh1_what_the_receiver_took_leaves_the_queue(tmp_path, autojump_clock):
    async with hooks(tmp_path, lambda *_: 200, jumping(autojump_clock)) as here:
        sent = await here.gateway.send("bob", "alice", "Hello")
        await trio.sleep(1)
        assert await here.gateway.state("alice", sent) == "acked"
        assert here.taken == [("alice", "Hello", "webhook")]


@pytest.mark.parametrize("status", [301, 400, 404, 410])
async def test_wh1_a_refusal_leaves_it_in_the_queue_and_is_final(tmp_path, autojump_clock, status):
    async with hooks(tmp_path, lambda *_: status, jumping(autojump_clock)) as here:
        sent = await here.gateway.send("bob", "alice", "Hello")
        await trio.sleep(3600)
        assert len(here.asked) == 1
        assert (await here.gateway.state("alice", sent), here.taken) == ("unread", [])
        assert here.given_up == [("alice", "Hello")]


@pytest.mark.parametrize("answer", [500, 503, 429, 408, None])
async def test_wh2_a_failure_is_tried_again_after_30_s_and_2_min(tmp_path, autojump_clock, answer):
    script = unreachable if answer is None else lambda *_: answer
    async with hooks(tmp_path, script, jumping(autojump_clock)) as here:
        began = trio.current_time()
        sent = await here.gateway.send("bob", "alice", "Hello")
        await trio.sleep(3600)
        times = [round(each[0] - began) for each in here.asked]
        assert times == [0, 30, 150]
        assert await here.gateway.state("alice", sent) == "unread"


async def test_wh2_a_url_that_may_not_be_reached_is_not_tried_again(tmp_path, autojump_clock):
    def script(*_):
        return Refused("169.254.169.254 may not be reached")

    async with hooks(tmp_path, script, jumping(autojump_clock)) as here:
        await here.gateway.send("bob", "alice", "Hello")
        await trio.sleep(3600)
        assert len(here.asked) == 1


async def test_wh2_what_succeeds_at_last_is_delivered_once(tmp_path, autojump_clock):
    answers = iter([500, 200])
    async with hooks(tmp_path, lambda *_: next(answers), jumping(autojump_clock)) as here:
        sent = await here.gateway.send("bob", "alice", "Hello")
        await trio.sleep(3600)
        assert (len(here.asked), here.taken) == (2, [("alice", "Hello", "webhook")])
        assert await here.gateway.state("alice", sent) == "acked"


async def test_wh3_what_fails_holds_up_no_other(tmp_path, autojump_clock):
    def script(_method, _url, _headers, body):
        return 500 if b"bad" in body else 200

    async with hooks(tmp_path, script, jumping(autojump_clock)) as here:
        await here.gateway.send("bob", "alice", "bad")
        await here.gateway.send("bob", "alice", "good")
        await trio.sleep(1)
        assert here.taken == [("alice", "good", "webhook")]


async def test_wh3_only_so_many_are_under_way(tmp_path, autojump_clock):
    async with hooks(tmp_path, lambda *_: 500, jumping(autojump_clock)) as here:
        for number in range(AT_ONCE + 1):
            await here.gateway.send("bob", "alice", f"number {number}")
        await trio.sleep(1)
        assert here.bodies() == [f"number {number}" for number in range(AT_ONCE)]
        await trio.sleep(3600)
        assert len(here.asked) == 3 * (AT_ONCE + 1)


async def test_wh4_who_is_connected_has_it_there(tmp_path, autojump_clock):
    async with hooks(tmp_path, lambda *_: 200, jumping(autojump_clock), online=["alice"]) as here:
        await here.gateway.send("bob", "alice", "by socket")
        await trio.sleep(1)
        assert here.asked == []
        here.gateway.mail.change("alice", **HOOK, prefer_websocket=False)
        await here.gateway.send("bob", "alice", "by webhook")
        await trio.sleep(1)
        assert here.bodies() == ["by webhook"]


async def test_wh5_after_a_restart_only_what_was_under_way_is_tried_anew(tmp_path, autojump_clock):
    def script(_method, _url, _headers, body):
        return 404 if b"refused" in body else 500

    async with hooks(tmp_path, script, jumping(autojump_clock)) as here:
        await here.gateway.send("bob", "alice", "refused")
        await trio.sleep(1)
        await here.gateway.send("bob", "alice", "under way")
        await trio.sleep(1)
    async with hooks(tmp_path, lambda *_: 200, jumping(autojump_clock)) as here:
        await trio.sleep(1)
        assert here.bodies() == ["under way"]


async def test_wh5_a_name_that_went_to_another_agent_begins_anew(tmp_path, autojump_clock):
    async with hooks(tmp_path, lambda *_: 404, jumping(autojump_clock)) as here:
        await here.gateway.send("bob", "alice", "for the first")
        await trio.sleep(1)
        await here.gateway.node.agents.remove("alice", purge=True)
    async with hooks(tmp_path, lambda *_: 200, jumping(autojump_clock)) as here:
        await here.gateway.send("bob", "alice", "for the second")
        await trio.sleep(1)
        assert here.bodies() == ["for the second"]


async def test_an_account_that_names_a_webhook_later_gets_what_waits(tmp_path, autojump_clock):
    async with hooks(tmp_path, lambda *_: 200, jumping(autojump_clock)) as here:
        await here.gateway.mail.register("carol")
        await here.gateway.send("bob", "carol", "early")
        await trio.sleep(1)
        here.gateway.mail.change("carol", **HOOK)
        here.webhooks.accounts_changed()
        await trio.sleep(1)
        assert here.bodies() == ["early"]
        here.gateway.mail.change("carol")
        here.webhooks.accounts_changed()
        await here.gateway.send("bob", "carol", "late")
        await trio.sleep(1)
        assert here.bodies() == ["early"]
