"""Mail that the user lets out of quarantine reaches whoever follows the mailbox, by every way.

It comes under a fresh number (core/contacts.py), behind what every cursor has seen, and its release
wakes who follows. Here a stranger's mail is held back while a way brings what came before and after
it; from the user's word on that way has it too, once, and what comes later behind it.
"""

import fakes
import pytest
import trio
from core.test_foreign import BOB, letter
from edge import local_node
from edge.amp.test_mirror import Person, files, filled, folder_of
from edge.amp.test_webhooks import hooks
from edge.amp.test_websocket import desk
from edge.amtp.team import team
from edge.amtp.test_conformance_push import TARGET, Target
from edge.gateway_harness import gateway, only_amp

BOTH = ["before", "between"]
EVERYTHING = [*BOTH, "held 1", "held 2", "after"]
_PATIENCE = 10  # seconds until a way that brings nothing fails its test


@pytest.fixture
async def stranger(tmp_path):
    """An agent of another node, whom nobody here knows."""
    async with fakes.node(tmp_path / "elsewhere", "there") as node:
        yield await node.agent("mallory")


class Mail:
    """What comes for alice: of bob, who lives here, and of a stranger."""

    def __init__(self, node, stranger):
        self.node, self.stranger, self.count = node, stranger, 0
        node.contacts.unknown_senders = "quarantine"

    async def alice(self):
        return await self.node.agent("alice")

    async def known(self, text):
        await self.alice()
        await self.node.send(await self.node.agent("bob"), f"alice@{self.node.domain}", text)

    async def held(self, text):
        self.count += 1
        alice = await self.alice()
        written = fakes.letter(self.stranger, alice, body=text, order=self.count)
        await self.node.mailbox.deliver(written, b"n" * 32)
        assert self.node.bodies(alice, box="quarantine")[-1] == text

    async def accept(self):
        await self.node.contacts.accept(str(self.stranger.address))

    async def taken(self):
        """Once nothing of alice waits any more."""
        alice = await self.alice()
        with trio.fail_after(_PATIENCE):
            while True:
                changed = self.node.store.changed(("box", alice.key))
                if not self.node.inbox(alice):
                    return
                await changed.wait()


async def play(mail, heard):
    """All that comes; `heard` answers what the way has brought, once that is so many."""
    await mail.known("before")
    await mail.held("held 1")
    await mail.held("held 2")
    await mail.known("between")
    assert await heard(2) == BOTH
    await mail.accept()
    assert await heard(4) == EVERYTHING[:4]
    await mail.known("after")
    assert await heard(5) == EVERYTHING


def one_by_one(hear):
    """What `hear` has answered so far, once it has so often."""
    found = []

    async def heard(count):
        with trio.fail_after(_PATIENCE):
            while len(found) < count:
                found.append(await hear())
        return found

    return heard


def body_of(client):
    async def hear():
        return (await client.hear())["params"]["body"]

    return hear


# The node's own socket


async def test_s1_a_subscriber_has_released_mail_as_it_is_released(tmp_path, stranger):
    async with local_node.place(tmp_path) as place:
        mail = Mail(place.node, stranger)
        await mail.alice()
        async with place.client(acting="alice") as client:
            await client.get("inbox.subscribe")
            await play(mail, one_by_one(body_of(client)))


async def test_s1_one_that_was_away_has_it_behind_the_last_number_it_saw(tmp_path, stranger):
    async with local_node.place(tmp_path) as place:
        mail = Mail(place.node, stranger)
        await mail.held("held 1")
        await mail.known("before")
        last = place.node.lists.last_number(await mail.alice())
        await mail.accept()
        async with place.client(acting="alice") as client:
            await client.get("inbox.subscribe", after=last)
            heard = one_by_one(body_of(client))
            assert await heard(1) == ["held 1"]
            await mail.known("after")
            assert await heard(2) == ["held 1", "after"]


@pytest.mark.parametrize("wanted", [{}, {"from": "mallory@there.local"}, {"after": "1"}])
async def test_whoever_waits_for_a_message_has_it_as_it_is_released(tmp_path, stranger, wanted):
    async with local_node.place(tmp_path) as place:
        mail = Mail(place.node, stranger)
        await mail.held("held 1")
        async with place.client(acting="alice") as client:
            ask = {"jsonrpc": "2.0", "id": 1, "method": "message.wait", "params": wanted}
            await client.say(ask)
            async with place.client() as user:
                await user.get("contact.accept", address="mallory@there.local")
            with trio.fail_after(_PATIENCE):
                said = await client.hear()
            assert [each["body"] for each in said["result"]["messages"]] == ["held 1"]
            assert await client.code("message.wait", timeout_s=0) == "timeout"


# AMP


async def test_ws2_an_open_websocket_has_released_mail_as_it_is_released(tmp_path, stranger):
    async with desk(tmp_path) as here:
        wire = await here.connect("alice")

        async def hear():
            return (await wire.hear())["data"]["payload"]["message"]

        await play(Mail(here.gateway.node, stranger), one_by_one(hear))


async def test_ws2_much_that_is_released_at_once_comes_in_its_order(tmp_path, stranger):
    async with desk(tmp_path) as here:
        mail = Mail(here.gateway.node, stranger)
        wire = await here.connect("alice")
        texts = [f"held {number}" for number in range(120)]
        for text in texts:
            await mail.held(text)
        await mail.accept()
        await mail.known("after")

        async def hear():
            return (await wire.hear())["data"]["payload"]["message"]

        assert await one_by_one(hear)(121) == [*texts, "after"]


async def test_wh1_a_webhook_is_brought_released_mail_as_it_is_released(tmp_path, stranger):
    async with hooks(tmp_path, lambda *_: 200) as here:
        mail = Mail(here.gateway.node, stranger)

        async def heard(_count):
            await mail.taken()
            return here.bodies()

        await play(mail, heard)


async def test_wh5_what_was_released_meanwhile_is_brought_after_a_restart(
    tmp_path, stranger, autojump_clock
):
    clock = fakes.JumpingClock(autojump_clock)
    async with hooks(tmp_path, lambda *_: 404, clock) as here:
        mail = Mail(here.gateway.node, stranger)
        await mail.held("held 1")
        await mail.known("refused, and not tried again")
        await trio.sleep(1)
        assert here.bodies() == ["refused, and not tried again"]
    async with fakes.node(tmp_path, clock=clock) as node:
        await Mail(node, stranger).accept()
    async with hooks(tmp_path, lambda *_: 200, clock) as here:
        await trio.sleep(1)
        assert here.bodies() == ["held 1"]


async def test_pe5_who_waits_for_its_queue_has_it_as_it_is_released(tmp_path, stranger):
    async with gateway(tmp_path, services=only_amp) as here, trio.open_nursery() as nursery:
        alice = await Person(here, "alice").register()
        mail = Mail(here.node, stranger)
        await mail.held("held 1")
        nursery.start_soon(mail.accept)
        with trio.fail_after(_PATIENCE):
            answer = await here.get("/v1/messages/pending?wait=30", token=alice.token)
        assert [each["payload"]["message"] for each in answer.json["messages"]] == ["held 1"]


async def test_mi2_a_clients_folder_has_released_mail_as_it_is_released(
    tmp_path, stranger, monkeypatch
):
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    async with gateway(tmp_path, services=only_amp, mirror=True, run=False) as here:
        alice = await Person(here, "alice").register()
        folder = folder_of(home, "alice", alice.signer)
        mail = Mail(here.node, stranger)
        await mail.known("before")
        await mail.held("held 1")
        with trio.fail_after(_PATIENCE):
            await filled(here, alice, folder)
        await mail.accept()
        await mail.taken()
        found = sorted(each["payload"]["message"] for each in files(folder).values())
        assert [found[0].count("held 1"), found[1:]] == [1, ["before"]], "a stranger's is wrapped"


# AMTP


async def test_pu1_a_target_is_pushed_released_mail_as_it_is_released(tmp_path, stranger):
    target = Target((200, b""))
    async with team(tmp_path, http=target) as us:
        await us.register("alice", delivery_mode="push", push_target=TARGET)
        mail = Mail(us.here.node, stranger)

        async def heard(_count):
            await mail.taken()
            return [each["payload"]["text"] for each in target.bodies]

        await play(mail, heard)


async def test_pu1_also_what_a_stranger_of_amtp_did_not_sign(tmp_path):
    target = Target((200, b""))
    async with team(tmp_path, http=target) as us:
        await us.register("alice", delivery_mode="push", push_target=TARGET)
        mail = Mail(us.here.node, None)
        alice = await mail.alice()
        unsigned = letter(alice, body="held 1", payload=None, context=None, proved=False)
        await us.here.shared.foreign.take_in(unsigned)
        await mail.known("before")
        await mail.taken()
        await mail.node.contacts.accept(str(BOB))
        await mail.taken()
        assert [each["payload"]["text"] for each in target.bodies] == ["before", "held 1"]
