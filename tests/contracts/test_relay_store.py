"""What every relay store promises (RS1-RS8 of relay_store/port.py), one suite for all."""

from dataclasses import replace

import pytest
import trio
from contracts.relay_stores import (
    ALICE,
    BOB,
    NODE,
    NOW,
    OTHER,
    SMALL,
    JetStreamSite,
    SqliteSite,
    letter,
    numbers,
)
from nats_server import running

from ampd.model.errors import Refused, Unavailable
from ampd.storage.relay_store.port import DAY, Full, Limits, Usage

HASH = bytes([9]) * 32


@pytest.fixture(scope="module")
def nats(tmp_path_factory):
    with running(tmp_path_factory.mktemp("nats"), 1) as server:
        yield server.urls


@pytest.fixture(params=["sqlite", "jetstream"])
def site(request, tmp_path):
    if request.param == "sqlite":
        return SqliteSite(tmp_path)
    return JetStreamSite(request.getfixturevalue("nats"))


async def test_rs1_what_was_deposited_is_there_after_a_restart(site):
    async with site.store() as store:
        assert await store.deposit(letter(1))
    async with site.store() as store:
        [held] = await store.after(ALICE, None, 10)
        assert held.envelope == letter(1)
        assert await store.count() == 1


async def test_rs1_the_same_envelope_is_held_once(site):
    async with site.store() as store:
        assert [await store.deposit(letter(1)) for _ in range(3)] == [True, False, False]
        assert numbers(await store.after(ALICE, None, 10)) == [1]
    async with site.store() as store:
        assert not await store.deposit(letter(1))


async def test_rs1_the_same_envelope_many_times_at_once_is_held_once(site):
    answers = []
    async with site.store() as store:

        async def deposit():
            answers.append(await store.deposit(letter(1)))

        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(deposit)
        assert sorted(answers) == [False] * 19 + [True]
        assert numbers(await store.after(ALICE, None, 30)) == [1]


async def test_rs1_what_was_removed_is_not_taken_again(site):
    async with site.store() as store:
        await store.deposit(letter(1))
        [held] = await store.after(ALICE, None, 10)
        await store.remove(ALICE, [held.token])
        assert not await store.deposit(letter(1))
        assert await store.after(ALICE, None, 10) == []
        assert await store.count() == 0
    async with site.store() as store:
        assert not await store.deposit(letter(1))


async def test_rs2_a_copy_for_another_mailbox_or_with_another_end_takes_nobodys_place(site):
    async with site.store() as store:
        assert await store.deposit(letter(1, mailbox=BOB))
        assert await store.deposit(letter(1, expires=site.clock + 5_000))
        assert await store.deposit(letter(1))
        assert numbers(await store.after(BOB, None, 10)) == [1]
        assert numbers(await store.after(ALICE, None, 10)) == [1, 1]


async def test_rs3_a_mailbox_is_handed_out_in_the_order_of_deposit(site):
    async with site.store(Limits()) as store:
        for number in range(30):
            await store.deposit(letter(number))
            await store.deposit(letter(number, mailbox=BOB))
        page = await store.after(ALICE, None, 12)
        assert numbers(page) == list(range(12))
        page = await store.after(ALICE, page[-1].token, 12)
        assert numbers(page) == list(range(12, 24))
        await store.remove(ALICE, [page[-1].token])  # the cursor may be gone
        page = await store.after(ALICE, page[-1].token, 12)
        assert numbers(page) == list(range(24, 30))
        assert await store.after(ALICE, page[-1].token, 12) == []
        assert numbers(await store.after(BOB, None, 100)) == list(range(30))


async def test_rs3_what_is_past_its_time_is_neither_taken_nor_handed_out(site):
    async with site.store() as store:
        with pytest.raises(Refused) as refused:
            await store.deposit(letter(1, expires=site.clock))
        assert refused.value.code == "expired"
        await store.deposit(letter(2, expires=site.clock + 5_000))
        await store.deposit(letter(3))
        site.clock += 5_000
        assert numbers(await store.after(ALICE, None, 10)) == [3]


async def test_rs3_a_reader_is_given_bounded_pages(site):
    big = 600_000
    limits = Limits()
    async with site.store(limits) as store:
        for number in range(9):
            await store.deposit(letter(number, big))
        page = await store.after(ALICE, None, 100)
        assert 1 <= len(page) < 9
        rest = await store.after(ALICE, page[-1].token, 100)
        assert numbers(page + rest) == list(range(9))


async def test_rs4_a_full_mailbox_refuses_and_overwrites_nothing(site):
    async with site.store() as store:
        for number in range(5):
            await store.deposit(letter(number))
        with pytest.raises(Full) as full:
            await store.deposit(letter(6))
        assert full.value.code == "quota_exceeded" and full.value.retry_after > 0
        assert not await store.deposit(letter(1)), "known mail needs no room"
        assert await store.deposit(letter(7, mailbox=BOB)), "another mailbox has room"
        page = await store.after(ALICE, None, 10)
        assert numbers(page) == [0, 1, 2, 3, 4]
        await store.remove(ALICE, [page[0].token])
        assert await store.deposit(letter(6))
        assert numbers(await store.after(ALICE, None, 10)) == [1, 2, 3, 4, 6]


async def test_rs4_a_mailbox_is_full_by_bytes_too(site):
    async with site.store() as store:
        for number in range(2):
            await store.deposit(letter(number, 1900))
        with pytest.raises(Full, match="3800 bytes"):
            await store.deposit(letter(2, 201))
        assert await store.deposit(letter(3, 200))
        assert await store.usage(ALICE) == Usage(3, 4000)


async def test_rs4_a_full_relay_refuses_and_goes_on_when_there_is_room(site):
    async with site.store(replace(SMALL, total_bytes=3000)) as store:
        await store.deposit(letter(1, 2000))
        with pytest.raises(Full, match="the relay is full"):
            await store.deposit(letter(2, 2000, mailbox=BOB))
        [held] = await store.after(ALICE, None, 1)
        await store.remove(ALICE, [held.token])
        assert await store.deposit(letter(2, 2000, mailbox=BOB))


async def test_rs4_the_quota_holds_over_a_restart(site):
    async with site.store() as store:
        for number in range(5):
            await store.deposit(letter(number))
    async with site.store() as store:
        with pytest.raises(Full):
            await store.deposit(letter(5))


async def test_what_is_too_large_is_refused_for_good(site):
    async with site.store() as store:
        with pytest.raises(Refused) as refused:
            await store.deposit(letter(1, 2001))
        assert refused.value.code == "too_large"


async def test_rs5_who_waits_for_a_mailbox_is_woken_by_its_mail_only(site):
    async with site.store() as store:
        alice, bob = store.changed(ALICE), store.changed(BOB)
        await store.deposit(letter(1))
        with trio.fail_after(10):
            await alice.wait()
        assert not bob.is_set()
        assert numbers(await store.after(ALICE, None, 10)) == [1]
        assert not store.changed(ALICE).is_set(), "each wait is for what comes after it"


async def test_removing_is_idempotent_and_keeps_to_its_mailbox(site):
    async with site.store() as store:
        await store.deposit(letter(1))
        await store.deposit(letter(2))
        first, second = await store.after(ALICE, None, 10)
        await store.remove(BOB, [second.token])
        await store.remove(ALICE, [first.token, first.token])
        await store.remove(ALICE, [first.token])
        await store.remove(ALICE, [])
        assert numbers(await store.after(ALICE, None, 10)) == [2]
        assert (await store.usage(ALICE), await store.usage(BOB)) == (Usage(1, 100), Usage(0, 0))
        assert await store.count() == 1


async def test_mail_ends_by_time(site):
    async with site.store() as store:
        for number in range(3):
            await store.deposit(letter(number, expires=site.clock + 1500))
        await store.deposit(letter(3))
        await site.pass_time(store, 1600, left=1)
        assert await store.usage(ALICE) == Usage(1, 100)


async def test_no_mail_stays_longer_than_the_relay_lets_it(site):
    async with site.store(replace(SMALL, ttl=1500)) as store:
        long = letter(1, expires=site.clock + 365 * DAY)
        await store.deposit(long)
        [held] = await store.after(ALICE, None, 1)
        assert held.envelope == long, "what the sender wrote is not changed"
        await site.pass_time(store, 1600, left=0)


async def test_rs6_the_newest_card_of_a_key_is_kept(site):
    async with site.store() as store:
        assert await store.put_card(NODE, "alice@x.local", 5, b"five", withdrawn=False)
        assert not await store.put_card(NODE, "alice@x.local", 4, b"four", withdrawn=False)
        assert not await store.put_card(NODE, "alice@x.local", 5, b"other", withdrawn=False)
        assert await store.cards("alice@x.local") == [b"five"]
        assert await store.card(NODE) == b"five" and await store.card(OTHER) is None
        assert await store.put_card(NODE, "alice@y.local", 6, b"moved", withdrawn=False)
        assert await store.cards("alice@x.local") == []
    async with site.store() as store:
        assert await store.cards("alice@y.local") == [b"moved"]


async def test_rs6_a_withdrawn_card_stays_and_an_older_one_does_not_come_back(site):
    async with site.store() as store:
        await store.put_card(NODE, "alice@x.local", 5, b"five", withdrawn=False)
        assert await store.put_card(NODE, "alice@x.local", 6, b"gone", withdrawn=True)
        assert not await store.put_card(NODE, "alice@x.local", 5, b"five", withdrawn=False)
        assert await store.cards("alice@x.local") == [b"gone"]


async def test_cards_are_found_by_address_by_domain_and_all(site):
    async with site.store() as store:
        await store.put_card(NODE, "zoe@x.local", 1, b"zoe", withdrawn=False)
        await store.put_card(OTHER, "al-1.b@x.local", 1, b"al", withdrawn=True)
        await store.put_card(HASH, "zoe@y.x.local", 1, b"y", withdrawn=False)
        assert await store.cards("@x.local") == [b"zoe", b"al"]
        assert await store.cards("al-1.b@x.local") == [b"al"]
        assert sorted(await store.cards("")) == [b"al", b"y", b"zoe"]
        assert len(await store.cards("", limit=2)) == 2
        assert await store.cards("@local") == await store.cards("zoe@local") == []


async def test_a_directory_has_an_end(site):
    async with site.store(replace(SMALL, cards=1)) as store:
        await store.put_card(NODE, "a@x.local", 1, b"one", withdrawn=False)
        with pytest.raises(Full, match="directory"):
            await store.put_card(OTHER, "b@x.local", 1, b"two", withdrawn=False)
        assert await store.put_card(NODE, "a@x.local", 2, b"newer", withdrawn=False)


async def test_rs7_an_invitation_lets_in_as_many_nodes_as_it_has_uses(site):
    nodes = [bytes([n]) * 32 for n in range(10, 16)]
    async with site.store() as store:
        await store.add_invitation(HASH, NOW + 1000, 2)
        answers = {}

        async def redeem(node):
            answers[node] = await store.redeem(HASH, node, NOW)

        async with trio.open_nursery() as nursery:
            for node in nodes:
                nursery.start_soon(redeem, node)
        assert sum(answers.values()) == 2
        for node in nodes:
            assert await store.is_member(node) is answers[node]
            assert await store.redeem(HASH, node, NOW) is answers[node], "asking again is free"
    async with site.store() as store:
        assert [await store.is_member(node) for node in nodes] == [answers[n] for n in nodes]


async def test_rs7_an_unknown_or_an_old_invitation_lets_nobody_in(site):
    async with site.store() as store:
        await store.add_invitation(HASH, NOW + 1000, 1)
        assert not await store.redeem(HASH, NODE, NOW + 1000)
        assert not await store.redeem(NODE, NODE, NOW)
        assert not await store.is_member(NODE)


async def test_rs7_who_was_removed_comes_back_only_when_added(site):
    async with site.store() as store:
        await store.add_invitation(HASH, NOW + 1000, 9)
        await store.redeem(HASH, NODE, NOW)
        await store.remove_member(NODE)
        assert not await store.is_member(NODE)
        assert not await store.redeem(HASH, NODE, NOW)
        await store.add_member(NODE)
        assert await store.is_member(NODE)


async def test_a_store_that_is_closed_is_not_available(site):
    async with site.store() as store:
        pass
    with pytest.raises(Unavailable):
        await store.deposit(letter(1))
    with pytest.raises(Unavailable):
        await store.count()


async def test_rs6_with_renew_a_card_replaces_one_that_is_as_new_and_none_that_is_newer(site):
    async with site.store() as store:
        await store.put_card(NODE, "old@name", 5, b"five", withdrawn=False)
        assert await store.put_card(NODE, "new@name", 5, b"again", withdrawn=False, renew=True)
        assert await store.cards("new@name") == [b"again"] and await store.cards("old@name") == []
        assert not await store.put_card(NODE, "old@name", 4, b"four", withdrawn=False, renew=True)
        assert await store.card(NODE) == b"again"
