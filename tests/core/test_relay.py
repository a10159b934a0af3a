"""The door of a relay: the rules of core/relay.py, with a real store, and carriers that keep
what a Carrier promises. Time is trio's jumping clock where a test names `autojump_clock`."""

import math
import random
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
import trio
from fakes import DAY, START
from trio.testing import wait_all_tasks_blocked

from ampd.core import relay
from ampd.core.relay import Allowance, RelayDoor
from ampd.core.relay_directory import CardBook
from ampd.crypto.keys import SigningKey, open1
from ampd.model.address import Address
from ampd.model.card import CARD_CONTEXT, Card, mailbox_of
from ampd.model.errors import Refused, Unavailable
from ampd.model.message import Delivery, Envelope, digest
from ampd.storage.relay_store.port import Full, Limits
from ampd.storage.relay_store.sqlite import SqliteRelayStore

RELAY = SigningKey(b"r" * 32)
MEMBER, STRANGER, OTHER = b"m" * 32, b"s" * 32, b"o" * 32
KEY = SigningKey(b"a" * 32)
BOX = mailbox_of(KEY.public)


def card(key=KEY, *, nodes=(MEMBER,), number=1, address="bob@b.local", **changes):
    what = Card(
        Address.parse(address), number, START, mailbox_of(key.public), tuple(nodes),
        b"i" * 32, START + DAY, b"f" * 32, **changes,
    )  # fmt: skip
    return key.sign1(CARD_CONTEXT, what.to_bytes())


def mail(number, box=BOX, size=100):
    return Envelope(box, START + DAY, number.to_bytes(4, "big").ljust(size, b"."))


def numbers(envelopes):
    return [int.from_bytes(each.sealed[:4], "big") for each in envelopes]


class Collectors:
    """A carrier to nodes that take everything, except what `script` says of an envelope."""

    def __init__(self):
        self.taken = []
        self.offered = []
        self.nodes = set()
        self.broken = 0  # how often it did not take something
        self.script = lambda envelope: None
        self.news = trio.Event()

    def wake(self, node):
        pass

    async def deliver(self, node, envelope):
        begun = self.broken
        await trio.lowlevel.checkpoint()
        if begun != self.broken:
            raise Unavailable("one before it was not taken")  # as a Carrier promises
        self.offered.append((node, envelope))
        if (wrong := self.script(envelope)) is not None:
            self.broken += isinstance(wrong, Unavailable)
            raise wrong
        self.taken.append(envelope)
        self.nodes.add(node)
        self.news.set()
        self.news = trio.Event()
        return Delivery("delivered", b"receipt")

    async def got(self, count):
        while len(self.taken) < count:
            await self.news.wait()


class Site:
    def __init__(self, store, door, carrier):
        self.store, self.door, self.carrier = store, door, carrier

    async def deposit(self, *numbers, box=BOX, node=MEMBER):
        for each in numbers:
            await self.door.deliver(mail(each, box), node)

    async def emptied(self):
        with trio.fail_after(5):
            while await self.store.count():
                await trio.lowlevel.checkpoint()


@asynccontextmanager
async def running(folder, *, allowance=None, limits=None):
    store = SqliteRelayStore(folder / "relay.sqlite", limits or Limits(), lambda: START)
    allowance = allowance or Allowance(nodes=frozenset({MEMBER}))
    door = RelayDoor(store, CardBook(store, RELAY), lambda: START, random.Random(1), allowance)
    carrier = Collectors()
    async with trio.open_nursery() as nursery:
        await nursery.start(store.run)
        async with trio.open_nursery() as pushing:
            await pushing.start(door.run, carrier)
            yield Site(store, door, carrier)
            pushing.cancel_scope.cancel()
        nursery.cancel_scope.cancel()


@pytest.fixture
async def site(tmp_path):
    async with running(tmp_path) as found:
        yield found


# E1: who may use it


async def test_e1_a_stranger_is_refused_everything_and_told_how_to_be_let_in(site):
    for asked in (
        site.door.deliver(mail(1), STRANGER),
        site.door.collect([card(nodes=[STRANGER])], STRANGER),
        site.door.cards_for([""], STRANGER),
    ):
        with pytest.raises(Refused, match="ask its owner for an invitation"):
            await asked
    await site.door.learn([card(nodes=[STRANGER])], STRANGER)
    assert await site.door.cards_for([""], MEMBER) == []
    assert await site.store.count() == 0


async def test_e1_an_invitation_lets_one_node_in_and_the_next_one_not(site):
    await site.store.add_invitation(digest(b"token"), START + DAY, 1)
    await site.door.join(b"token", STRANGER)
    await site.deposit(1, node=STRANGER)
    with pytest.raises(Refused, match="unknown, used or past its time"):
        await site.door.join(b"token", OTHER)
    await site.door.join(b"token", STRANGER)  # who is in may ask again


async def test_e1_an_open_relay_serves_everybody(tmp_path):
    async with running(tmp_path, allowance=Allowance(everybody=True)) as site:
        await site.deposit(1, node=STRANGER)
        assert await site.store.count() == 1


async def test_e1_who_was_removed_is_out_within_a_minute_also_while_it_collects(
    tmp_path, autojump_clock
):
    autojump_clock.autojump_threshold = math.inf  # the store's threads look like waiting
    async with running(tmp_path) as site:
        await site.store.add_member(STRANGER)
        await site.door.collect([card(nodes=[STRANGER])], STRANGER)
        await site.store.remove_member(STRANGER)
        await wait_all_tasks_blocked()
        while site.door.collectors:
            autojump_clock.jump(relay.LOOK_AGAIN + 1)
            await site.store.count()  # its threads have their turn
        with pytest.raises(Refused):
            await site.deposit(1, node=STRANGER)
        await site.deposit(2)
        await wait_all_tasks_blocked()
        assert site.carrier.taken == []


# E2: what is answered, is kept


async def test_e2_relayed_is_true_after_a_restart(tmp_path):
    async with running(tmp_path) as site:
        assert await site.door.deliver(mail(1), MEMBER) == Delivery("relayed", b"")
    async with running(tmp_path) as site:
        assert numbers(h.envelope for h in await site.store.after(BOX, None, 10)) == [1]


async def test_e2_the_same_envelope_twice_is_answered_alike_and_kept_once(site):
    first = await site.door.deliver(mail(1), MEMBER)
    assert await site.door.deliver(mail(1), MEMBER) == first
    assert await site.store.count() == 1
    assert (site.door.counters.deposited, site.door.counters.repeated) == (1, 1)


async def test_e2_a_full_mailbox_is_refused_for_now_and_says_until_when(tmp_path):
    async with running(tmp_path, limits=Limits(mailbox_messages=1)) as site:
        await site.deposit(1)
        with pytest.raises(Unavailable, match="the mailbox is full") as caught:
            await site.deposit(2)
        assert caught.value.code == "quota_exceeded"
        assert site.door.counters.refused == 1


# E3: whose mailbox


async def test_e3_the_node_that_the_card_names_gets_the_mail_and_no_other(site):
    await site.deposit(1, 2)
    site.door.allowance = Allowance(everybody=True)
    with pytest.raises(Refused, match="does not name the node"):
        await site.door.collect([card()], STRANGER)
    await site.door.collect([card()], MEMBER)
    await site.carrier.got(2)
    assert site.carrier.nodes == {MEMBER}


async def test_e3_a_card_cannot_claim_another_keys_mailbox(site):
    await site.deposit(1)
    thief = SigningKey(b"t" * 32)
    signed = thief.sign1(
        CARD_CONTEXT,
        replace(Card.from_bytes(_payload(card())), mailbox=BOX).to_bytes(),
    )
    with pytest.raises(Refused, match="not its key's"):
        await site.door.collect([signed], MEMBER)


async def test_e3_an_altered_card_claims_nothing(site):
    signed = bytearray(card())
    signed[-1] ^= 1
    with pytest.raises(Refused):
        await site.door.collect([bytes(signed)], MEMBER)


async def test_e3_an_old_card_gives_nothing_once_a_newer_one_names_another_node(site):
    site.door.allowance = Allowance(everybody=True)
    other_agent = SigningKey(b"b" * 32)
    await site.door.learn([card(nodes=[OTHER], number=2)], OTHER)
    await site.deposit(1)
    await site.deposit(2, box=mailbox_of(other_agent.public))
    await site.door.collect([card(), card(other_agent, address="eve@b.local")], MEMBER)
    await site.carrier.got(1)  # its other agent's mail comes all the same
    await wait_all_tasks_blocked()
    assert numbers(site.carrier.taken) == [2]
    await site.door.collect([card(nodes=[OTHER], number=2)], OTHER)
    await site.carrier.got(2)


async def test_e3_a_withdrawn_card_collects_nothing(site):
    await site.deposit(1)
    await site.door.collect([card(number=2, withdrawn=True)], MEMBER)
    await wait_all_tasks_blocked()
    assert site.carrier.taken == []
    assert await site.store.count() == 1


async def test_e3_a_full_directory_keeps_nobody_from_the_mail(tmp_path):
    async with running(tmp_path, limits=Limits(cards=0)) as site:
        await site.deposit(1)
        await site.door.collect([card()], MEMBER)
        await site.carrier.got(1)


# E4: pushed in order, removed when taken


async def test_e4_what_is_held_comes_in_order_and_then_it_is_gone(site):
    await site.deposit(*range(100))
    await site.door.collect([card()], MEMBER)
    await site.carrier.got(100)
    assert numbers(site.carrier.taken) == list(range(100))
    await site.emptied()
    await wait_all_tasks_blocked(0.01)
    assert site.door.counters.pushed == 100


async def test_e4_what_comes_while_it_is_collected_is_pushed_at_once(site):
    await site.door.collect([card()], MEMBER)
    await wait_all_tasks_blocked()
    await site.deposit(1)
    await site.carrier.got(1)
    await site.emptied()


async def test_e4_what_was_refused_for_good_goes_too_and_the_next_ones_come(site):
    site.carrier.script = lambda e: Refused("no") if numbers([e]) == [1] else None
    await site.deposit(0, 1, 2)
    await site.door.collect([card()], MEMBER)
    await site.carrier.got(2)
    assert numbers(site.carrier.taken) == [0, 2]
    await site.emptied()


async def test_e4_what_cannot_be_taken_now_is_offered_again_and_not_passed(site, monkeypatch):
    monkeypatch.setattr(relay, "FIRST_PAUSE", 0.001)
    busy = [Unavailable("disk full")] * 4
    site.carrier.script = lambda e: busy.pop() if busy and numbers([e]) == [3] else None
    await site.deposit(*range(6))
    await site.door.collect([card()], MEMBER)
    await site.carrier.got(6)
    assert numbers(site.carrier.taken) == list(range(6))
    assert numbers(e for _, e in site.carrier.offered).count(3) == 5
    await site.emptied()


# E5: whose cards, and which


async def test_e5_a_members_card_is_found_by_address_by_domain_and_among_all(site):
    signed = card()
    await site.door.learn([signed], MEMBER)
    for pattern in ("bob@b.local", "BOB@B.local", "@b.local", ""):
        assert await site.door.cards_for([pattern], MEMBER) == [signed]
    assert await site.door.cards_for(["eve@b.local", "@c.local"], MEMBER) == []


async def test_e5_an_older_card_never_replaces_a_newer_one(site):
    newer = card(number=2)
    await site.door.learn([newer], MEMBER)
    await site.door.learn([card(number=1, alias="old")], MEMBER)
    assert await site.door.cards_for([""], MEMBER) == [newer]


async def test_e5_a_card_that_its_key_did_not_sign_or_that_names_others_is_passed_over(site):
    altered = bytearray(card())
    altered[-1] ^= 1
    good = card(SigningKey(b"g" * 32), address="gil@b.local")
    await site.door.learn([bytes(altered), b"rubbish", card(nodes=[OTHER]), good], MEMBER)
    assert await site.door.cards_for([""], MEMBER) == [good]


# E6: nobody fills it for the others


@asynccontextmanager
async def with_room(folder, monkeypatch, **limits):
    """A relay with other limits."""
    for name, value in limits.items():
        monkeypatch.setattr(relay, name, value)
    async with running(folder, allowance=Allowance(everybody=True)) as site:
        yield site


async def test_e6_a_member_that_left_too_much_waits_and_the_others_do_not(tmp_path, monkeypatch):
    room = 3 * (100 + relay.OVERHEAD)
    async with with_room(tmp_path, monkeypatch, NODE_BYTES=room) as site:
        await site.deposit(1, 2, 3)
        with pytest.raises(Full, match="too much mail") as caught:
            await site.deposit(4)
        assert 0 < caught.value.retry_after <= 86400
        await site.deposit(4, node=OTHER)


async def test_e6_the_allowance_comes_back_in_the_course_of_a_day(
    tmp_path, autojump_clock, monkeypatch
):
    autojump_clock.autojump_threshold = math.inf
    monkeypatch.setattr(relay, "NODE_BYTES", 2 * (100 + relay.OVERHEAD))
    async with running(tmp_path) as site:
        await site.deposit(1, 2)
        autojump_clock.jump(86400 / 2 + 1)
        await site.deposit(3)
        with pytest.raises(Full):
            await site.deposit(4)


async def test_e6_no_more_is_remembered_of_nodes_than_a_bounded_number(tmp_path, monkeypatch):
    async with with_room(tmp_path, monkeypatch, MAX_METERED=10) as site:
        for n in range(30):
            box = bytes([n]) * 16
            await site.deposit(n, node=bytes([n]) * 32, box=box)
        assert len(site.door._meters) == len(site.door._left_by) == 10


async def test_e6_no_member_fills_a_mailbox_alone(tmp_path, monkeypatch):
    async with with_room(tmp_path, monkeypatch, MAILBOX_SHARE=3) as site:
        await site.deposit(1, 1, 2, 2, 3)  # what is here already takes no room
        with pytest.raises(Full, match="half of what this mailbox") as caught:
            await site.deposit(4)
        assert caught.value.retry_after
        await site.deposit(4, node=OTHER)
        await site.deposit(5, box=b"another mailbox.")


async def test_e6_what_was_collected_makes_room_again(tmp_path, monkeypatch):
    async with with_room(tmp_path, monkeypatch, MAILBOX_SHARE=3) as site:
        await site.deposit(1, 2, 3)
        await site.door.collect([card()], MEMBER)
        await site.emptied()
        with trio.fail_after(5):
            while site.door._left_by:
                await trio.lowlevel.checkpoint()
        await site.deposit(4, 5, 6)


# E7: as long as the session


async def test_e7_nothing_is_pushed_to_a_node_that_left(site):
    await site.door.collect([card()], MEMBER)
    await site.door.left(MEMBER)
    await site.deposit(1)
    await wait_all_tasks_blocked()
    assert site.carrier.offered == []
    assert site.door.collectors == 0
    await site.door.collect([card()], MEMBER)
    await site.carrier.got(1)


async def test_e7_a_node_that_leaves_while_it_asks_is_not_pushed_to(site):
    async with trio.open_nursery() as nursery:

        async def ask():
            with pytest.raises(Unavailable, match="has ended"):
                await site.door.collect([card()], MEMBER)

        nursery.start_soon(ask)
        while not site.door.collectors:
            await trio.lowlevel.checkpoint()
        await site.door.left(MEMBER)
    assert site.door.collectors == 0
    await site.deposit(1)
    await wait_all_tasks_blocked()
    assert site.carrier.offered == []


async def test_e7_the_next_session_takes_over_and_an_agent_that_is_gone_is_left_out(site):
    second = SigningKey(b"b" * 32)
    await site.door.collect([card(), card(second, address="eve@b.local")], MEMBER)
    await site.door.collect([card()], MEMBER)
    await site.deposit(1)
    await site.deposit(2, box=mailbox_of(second.public))
    await site.carrier.got(1)
    await wait_all_tasks_blocked()
    assert numbers(site.carrier.taken) == [1]


async def test_e7_many_idle_collectors_ask_the_store_nothing(site):
    site.door.allowance = Allowance(everybody=True)
    asked = []
    after = site.store.after

    async def watched(mailbox, cursor, limit):
        asked.append(mailbox)
        return await after(mailbox, cursor, limit)

    site.store.after = watched
    for n in range(50):
        key, node = SigningKey(bytes([n]) * 32), bytes([n]) * 32
        await site.door.collect([card(key, nodes=[node], address=f"a{n}@b.local")], node)
    await site.deposit(1, node=STRANGER, box=mailbox_of(SigningKey(bytes(32)).public))
    await site.carrier.got(1)
    await site.emptied()
    await wait_all_tasks_blocked()
    assert len(asked) <= 50 + 2


def _payload(signed):
    from ampd.crypto.keys import open1

    return open1(signed, CARD_CONTEXT)[1]


async def test_e3_when_the_stores_key_was_changed_its_members_collect_as_before(tmp_path):
    async with running(tmp_path) as site:
        signed = card()
        before = CardBook(site.store, SigningKey(b"q" * 32))
        await before.put(KEY.public, Card.from_bytes(open1(signed, CARD_CONTEXT)[1]), signed)
        await site.deposit(1)
        await site.door.collect([signed], MEMBER)
        with trio.fail_after(5):
            await site.carrier.got(1)


# E8: what a question costs


async def test_e8_a_question_opens_no_more_cards_than_its_answer_holds(site, monkeypatch):
    monkeypatch.setattr(relay, "MAX_ANSWER", 5)
    keys = [SigningKey(n.to_bytes(32, "big")) for n in range(9)]
    shown = [card(key, address=f"a{n}@b.local") for n, key in enumerate(keys)]
    await site.door.learn(shown, MEMBER)
    asked = []
    find = site.door._book.find

    async def counting(pattern, limit):
        found = await find(pattern, limit)
        asked.append((pattern, len(found)))
        return found

    site.door._book.find = counting
    assert len(await site.door.cards_for([""] * 64, MEMBER)) == 5
    assert len(await site.door.cards_for(["@b.local", "@B.local", "a1@b.local", ""], MEMBER)) == 5
    assert asked == [("", 5), ("", 5)]
    del asked[:]
    everywhere = ["a1@b.local", "x@c.local", "@c.local", "A1@b.local", "a2@b.local"]
    assert await site.door.cards_for(everywhere, MEMBER) == shown[1:3]
    assert asked == [("a1@b.local", 1), ("@c.local", 0), ("a2@b.local", 1)]
    await site.door.learn([card(address="z@z.local")], MEMBER)
    del asked[:]
    assert len(await site.door.cards_for(["z@z.local", "@b.local", "@c.local"], MEMBER)) == 5
    assert asked == [("z@z.local", 1), ("@b.local", 4)]
    del asked[:]
    assert len(await site.door.cards_for([f"a{n}@b.local" for n in range(9)], MEMBER)) == 5
    assert len(asked) == 5
