"""To a relay of the recipient: the rules of core/handover.py.

Time is trio's jumping clock, which a test gets by naming `autojump_clock` itself.
"""

import random

import fakes
import pytest
import trio
from fakes import DAY, HOUR, Lan, until

from ampd.core import handover
from ampd.core.handover import Handover
from ampd.core.letters import Letters
from ampd.crypto.keys import SigningKey
from ampd.model.address import NodeUri
from ampd.model.errors import Refused, StorageError, Unavailable
from ampd.model.message import Delivery

BOB = "bob@there.local"
FIRST, SECOND = (NodeUri(SigningKey(bytes([n]) * 32).public, f"r{n}.example", 4161) for n in (1, 2))


class Relays(Lan):
    """A carrier to relays that keep what they are given, once."""

    def __init__(self, *there):
        super().__init__()
        self.kept = {relay.key: {} for relay in there}
        self.script = self.keep
        self.refuse = lambda relay, envelope: None
        self.news = trio.Event()

    def keep(self, relay, envelope):
        self.news.set()
        self.news = trio.Event()
        if relay not in self.kept:
            raise Unavailable("the relay is away")
        if (wrong := self.refuse(relay, envelope)) is not None:
            raise wrong
        self.kept[relay].setdefault(envelope.id, envelope)
        return Delivery("relayed", b"")

    async def offered(self, count):
        while len(self.log) < count:
            await self.news.wait()


@pytest.fixture
def clock(autojump_clock):
    return fakes.JumpingClock(autojump_clock)


@pytest.fixture
def relays():
    return Relays(FIRST, SECOND)


@pytest.fixture
async def ready(node, other, alice, bob, clock, relays):
    """Our node knows bob by a card that names two relays."""
    await other.agents.use_relays((str(FIRST), str(SECOND)))
    await node.meet(other)
    letters = Letters(node.store, clock)
    node.handover = Handover(
        node.store, node.contacts, letters, relays, node.whereabouts, clock, random.Random(1),
        {FIRST.key},
    )  # fmt: skip
    return node


@pytest.fixture
async def running(ready, nursery):
    nursery.start_soon(ready.handover.run)
    return ready


def status(node):
    return [row["status"] for row in node.outbox()]


async def relayed(node):
    await until(node, lambda: "queued" not in status(node))


async def read_at(other, relays, relay=FIRST):
    """What bob's node takes out of a relay, in its order."""
    for envelope in relays.kept[relay.key].values():
        await other.mailbox.take([envelope], relay.key, "relay")


# Y1: the direct way first


async def test_y1_while_the_node_is_near_the_relay_gets_it_after_the_head_start(
    autojump_clock, running, other, alice, relays, clock
):
    running.whereabouts.sighted(other.key.public, [("10.0.0.2", 4160)], "mdns")
    begin = clock()
    await running.send(alice, BOB, "hello")
    await relayed(running)
    assert handover.HEAD_START <= clock() - begin < handover.HEAD_START + 1000
    assert len(relays.kept[FIRST.key]) == 1


async def test_y1_what_was_delivered_directly_meanwhile_goes_to_no_relay(
    autojump_clock, running, other, alice, relays
):
    running.whereabouts.sighted(other.key.public, [("10.0.0.2", 4160)], "mdns")
    lan = Lan()
    lan.plug_in(other)
    running.transfer._carrier = lan
    async with trio.open_nursery() as nursery:
        nursery.start_soon(running.transfer.run)
        await running.send(alice, BOB, "hello")
        await until(running, lambda: not running.outbox())
        await trio.sleep(60)
        nursery.cancel_scope.cancel()
    assert relays.log == []


async def test_y1_the_second_copy_is_recognised(autojump_clock, running, other, alice, bob, relays):
    await running.send(alice, BOB, "once")
    await relayed(running)
    lan = Lan()
    lan.plug_in(other)
    running.transfer._carrier = lan
    async with trio.open_nursery() as nursery:
        nursery.start_soon(running.transfer.run)
        await until(running, lambda: not running.outbox())
        nursery.cancel_scope.cancel()
    await read_at(other, relays)
    assert other.bodies(bob) == ["once"]


# Y2: when it is relayed


async def test_y2_relayed_is_on_disk_and_the_letter_stays(autojump_clock, running, alice, relays):
    sent = await running.send(alice, BOB, "hello")
    await relayed(running)
    assert running.status(alice, sent.id) == "relayed"
    assert status(running) == ["relayed"]
    steps = [(step.what, step.place) for step in running.tracking.trace(alice, sent.id)[1]]
    assert steps[-1] == ("relayed", "a relay")


async def test_who_is_away_and_has_relays_is_reached_by_them(ready, other):
    def way():
        (listed,) = [each for each in ready.directory.listed() if each.address == BOB]
        return listed.online, listed.via

    assert way() == (False, "relay")
    ready.directory._online = lambda: {other.key.public}
    assert way() == (True, "direct")


async def test_y2_a_receipt_is_out_of_our_hands(autojump_clock, running, other, alice, bob, relays):
    letter = fakes.letter(bob, alice)
    await running.mailbox.take([letter], FIRST.key, "relay")
    assert [row["what"] for row in running.outbox()] == ["receipt"]
    await until(running, lambda: not running.outbox())
    assert len(relays.kept[FIRST.key]) == 1


async def test_y9_relays_that_a_stranger_names_are_not_called(ready, other, alice, bob, relays):
    await ready.mailbox.take([fakes.letter(bob, alice)], FIRST.key, "relay")
    assert [relay.key for relay in ready.handover._relays(bob.key)[0]] == [FIRST.key]
    ready.handover._own = set()
    assert list(ready.handover._relays(bob.key)[0]) == []
    await ready.send(alice, BOB, "now we know each other")
    assert list(ready.handover._relays(bob.key)[0]) == [FIRST, SECOND]


async def test_y9_whom_the_user_added_is_no_stranger(ready, alice, bob):
    ready.handover._own = set()
    await ready.contacts.add(fakes.link(bob))
    assert list(ready.handover._relays(bob.key)[0]) == [FIRST, SECOND]


# Y3: several relays


@pytest.mark.parametrize("wrong", [Unavailable("full", code="quota_exceeded"), Refused("no")])
async def test_y3_the_next_relay_gets_it_when_one_is_away_full_or_lets_us_not_in(
    autojump_clock, running, alice, relays, wrong
):
    relays.refuse = lambda relay, _: wrong if relay == FIRST.key else None
    await running.send(alice, BOB, "hello")
    await relayed(running)
    assert len(relays.kept[SECOND.key]) == 1
    assert running.outbox()[0]["status"] == "relayed"


async def test_y3_of_a_contact_link_only_the_relays_count(autojump_clock, running, alice, relays):
    stranger = SigningKey(b"z" * 32)
    from ampd.model.address import Address, ContactLink

    link = ContactLink(stranger.public, Address.parse("zoe@z.local"), (SECOND,), ())
    await running.contacts.add(str(link))
    await running.send(alice, "zoe@z.local", "hello")
    await relayed(running)
    assert (len(relays.kept[FIRST.key]), len(relays.kept[SECOND.key])) == (0, 1)


# Y4: in their order


async def test_y4_letters_are_left_in_the_order_in_which_they_were_sent(
    autojump_clock, running, other, alice, bob, relays
):
    hiccups = iter(["at the first", "in the middle", "again"])
    del relays.kept[SECOND.key]
    relays.refuse = lambda *_: (
        Unavailable("hiccup") if len(relays.log) % 40 == 1 and next(hiccups, "") else None
    )
    for n in range(150):
        await running.send(alice, BOB, str(n))
    await relayed(running)
    assert next(hiccups, "") == ""
    await read_at(other, relays)
    assert other.bodies(bob, limit=1000) == [str(n) for n in range(150)]


# Y5: only the recipient, or time, ends it


async def test_y5_a_refusal_leaves_the_letter_in_the_outbox(autojump_clock, running, alice, relays):
    relays.refuse = lambda *_: Refused("not a member", code="forbidden")
    sent = await running.send(alice, BOB, "hello")
    await relays.offered(6)
    assert status(running) == ["queued"]
    assert "not a member" in running.handover.attempts_for(BOB).last_error
    relays.refuse = lambda *_: None
    await relayed(running)
    assert running.status(alice, sent.id) == "relayed"


# Y6: tried again


async def test_y6_pauses_grow_to_fifteen_minutes(autojump_clock, running, alice, relays):
    relays.kept.clear()
    await running.send(alice, BOB, "hello")
    await trio.sleep(DAY / 1000)
    assert 2 * 24 * 4 < len(relays.log) / 2 < 2 * 24 * 12


async def test_y6_a_new_letter_and_a_new_session_try_at_once(
    autojump_clock, running, alice, relays, clock
):
    there = dict(relays.kept)
    relays.kept.clear()
    await running.send(alice, BOB, "one")
    await trio.sleep(6 * HOUR / 1000)
    tried = len(relays.log)
    await running.send(alice, BOB, "two")
    begin = clock()
    await relays.offered(tried + 2)
    assert clock() - begin < 1000
    relays.kept.update(there)
    running.whereabouts.wake()
    await relayed(running)
    assert clock() - begin < 3000


async def test_y6_a_disk_that_fails_for_a_while_ends_nothing(
    autojump_clock, running, alice, relays, monkeypatch
):
    fails = iter([StorageError("I/O error")] * 3)
    note = running.handover._note

    async def failing(item):
        if (wrong := next(fails, None)) is not None:
            raise wrong
        await note(item)

    monkeypatch.setattr(running.handover, "_note", failing)
    await running.send(alice, BOB, "hello")
    await relayed(running)


# Y7: once a day


async def test_y7_a_relay_that_lost_it_has_it_again_within_a_day_and_once(
    autojump_clock, running, other, alice, bob, relays
):
    for n in range(3):
        await running.send(alice, BOB, str(n))
    await relayed(running)
    before = dict(relays.kept[FIRST.key])
    relays.kept[FIRST.key].clear()  # restored from a copy of yesterday
    await trio.sleep(handover.AGAIN_EVERY + 2 * handover.AGAIN_FIRST)
    assert relays.kept[FIRST.key] == before
    await read_at(other, relays)
    assert other.bodies(bob) == ["0", "1", "2"]


async def test_y7_a_newer_card_makes_no_second_copy(
    autojump_clock, running, other, alice, bob, relays
):
    await running.send(alice, BOB, "hello")
    await relayed(running)
    await running.contacts.learn([fakes.resigned(bob)], other.key.public, "lan")
    await trio.sleep(3 * handover.AGAIN_EVERY)
    assert len(relays.kept[FIRST.key]) == 1


# Y8: what a stranger's card names as a relay may be anything


async def test_y8_a_node_that_plays_the_recipient_is_asked_ever_less(
    autojump_clock, running, alice, relays, clock
):
    relays.script = lambda relay, envelope: Delivery("delivered", b"no receipt")
    await running.send(alice, BOB, "hello")
    await trio.sleep(HOUR / 1000)
    assert len(relays.log) < 60 and status(running) == ["queued"]
