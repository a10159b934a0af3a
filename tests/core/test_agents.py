"""The agents of a node: the rules of core/agents.py."""

import fakes
import pytest
import trio
from fakes import DAY, letter

from ampd.core.agents import KEEP_OLD_KEYS_FOR, Agents, Profile
from ampd.crypto.keys import open1
from ampd.model.card import CARD_CONTEXT, Card
from ampd.model.errors import Invalid, Refused

NODE = b"n" * 32


async def test_a1_a_name_is_one_agent_however_often_it_is_made(tmp_path, clock):
    async with fakes.node(tmp_path, clock=clock) as node:
        made = []

        async def make():
            made.append(await node.agents.create("Alice", Profile()))

        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(make)
        assert sorted(new for _, new in made) == [False] * 4 + [True]
        assert len({agent.signed_card for agent, _ in made}) == 1
        key = made[0][0].key
    async with fakes.node(tmp_path, clock=clock) as node:
        assert node.agents.named("ALICE@here.local").key == key


async def test_a1_who_takes_a_name_after_a_purge_reads_nothing_of_before(node, alice):
    await node.send(alice, "alice", "old secret")
    await node.agents.remove("alice", purge=True)
    new = await node.agent("alice")
    assert new.key != alice.key and new.keys.mailbox != alice.keys.mailbox
    assert node.inbox(new, box="all") == node.inbox(new, box="sent") == []


async def test_a1_a_purge_that_was_cut_short_is_finished_at_the_next_start(tmp_path, clock):
    async with fakes.node(tmp_path, clock=clock) as node:
        alice = await node.agent("alice")
        await node.send(alice, "alice", "old secret")
        await node.agents.remove("alice", purge=False)
        node.agents._path("alice").unlink()  # as far as it got
    async with fakes.node(tmp_path, clock=clock) as node:
        assert node.store.view.execute("SELECT count(*) FROM messages").fetchone()[0] == 0
        new = await node.agent("alice")
        assert new.key != alice.key and node.inbox(new, box="all") == []


@pytest.mark.parametrize("name", ["ampd", "AMPD", "", "-a", "a b", "é", "../node"])
async def test_a1_a_name_that_none_may_have_is_invalid(node, name):
    with pytest.raises(Invalid):
        await node.agents.create(name, Profile())
    assert len(node.agents) == 0


async def test_a2_a_card_is_renewed_before_its_inbox_key_ends(node, alice, clock):
    assert not await node.agents.renew()
    clock.time += 6 * DAY + 1
    assert await node.agents.renew() and not await node.agents.renew()
    fresh = node.agents.named("alice")
    assert fresh.card.number == alice.card.number + 1
    assert fresh.card.inbox_until == clock.time + 7 * DAY
    assert Card.from_bytes(open1(fresh.signed_card, CARD_CONTEXT)[1]) == fresh.card
    assert (fresh.key, fresh.keys.mailbox) == (alice.key, alice.keys.mailbox)


async def test_a2_secrets_are_destroyed_five_weeks_after_their_end(node, alice, clock):
    first = alice.keys.inbox[0]
    while clock.time < first.until + KEEP_OLD_KEYS_FOR:
        assert first.key.public in [k.key.public for k in node.agents.named("alice").keys.inbox]
        clock.time += 6 * DAY + 1
        await node.agents.renew()
    assert first.key.public not in [k.key.public for k in node.agents.named("alice").keys.inbox]


async def test_a2_a_clock_that_came_back_from_far_ahead_does_not_keep_a_key_for_ever(
    node, alice, clock
):
    clock.time += 80 * 365 * DAY
    await node.agents.renew()
    clock.time -= 80 * 365 * DAY
    assert await node.agents.renew()
    assert node.agents.named("alice").card.inbox_until == clock.time + 7 * DAY


async def test_a3_who_was_removed_is_withdrawn_and_its_mail_stays(node, alice, bob, clock):
    await node.send(alice, "alice", "mine")
    gone = await node.agents.remove("alice", purge=False)
    assert gone.card.withdrawn and gone.card.number == alice.card.number + 1
    assert node.agents.cards() == [gone.signed_card]
    with pytest.raises(Refused):
        await node.mailbox.deliver(letter(bob, alice), NODE)
    with pytest.raises(Refused):
        node.agents.named("alice")
    back = await node.agent("alice")
    assert back.key == alice.key and back.card.number == gone.card.number + 1
    assert node.bodies(back) == ["mine"] and node.agents.cards() == [back.signed_card]


async def test_a3_who_was_removed_can_be_purged_later_and_only_once(node, alice):
    await node.send(alice, "alice", "mine")
    await node.agents.remove("alice", purge=False)
    await node.agents.remove("alice", purge=True)
    assert node.store.view.execute("SELECT count(*) FROM messages").fetchone()[0] == 0
    for purge in (True, False):
        with pytest.raises(Refused) as found:
            await node.agents.remove("alice", purge=purge)
        assert found.value.code == "agent_unknown"


async def test_a3_purging_spares_what_others_hold(node, alice):
    carol = await node.agent("carol")
    await node.send(alice, ["alice", "carol"], "shared")
    await node.agents.remove("alice", purge=True)
    assert node.bodies(carol) == ["shared"]


async def test_a4_an_agent_whose_record_was_lost_is_back_with_its_key_and_its_mail(
    node, alice, clock
):
    await node.store.write(
        lambda tx: tx.db.execute("UPDATE holders SET name=NULL WHERE key=?", (alice.key,))
    )
    before = alice.card.number
    again = Agents(node.store, node.agents._folder, node.domain, node.key, clock)
    await again.load()
    back = again.named("alice")
    assert (back.key, back.keys.mailbox) == (alice.key, alice.keys.mailbox)
    assert back.card.number > before


async def test_a4_who_was_refused_is_not_back_after_a_restart(tmp_path, clock):
    async with fakes.node(tmp_path, clock=clock) as node:
        with pytest.raises(Invalid):
            await node.agents.create("quentin", Profile(description="d" * 5000))
    async with fakes.node(tmp_path, clock=clock) as node:
        assert list(node.agents) == []


async def test_a5_who_never_showed_to_be_of_this_node_is_external_for_ever(tmp_path, clock):
    async with fakes.node(tmp_path, clock=clock) as node:
        alice = await node.agent("alice")
        stranger, new = await node.agents.create("mallory", Profile(), outside=True)
        assert new and stranger.outside
        await node.send(stranger, "alice", "trust me")
        assert node.inbox(alice)[0].trust == "external"
        again, new = await node.agents.create("mallory", Profile())
        assert not new and again.outside
        clock.time += 8 * DAY
        await node.agents.renew()
    async with fakes.node(tmp_path, clock=clock) as node:
        assert node.agents.named("mallory").outside and not node.agents.named("alice").outside
        await node.agents.remove("mallory", purge=False)
        assert node.inbox(node.agents.named("alice"))[0].trust == "external"
        back, _ = await node.agents.create("mallory", Profile())
        assert back.outside


async def test_an_address_of_another_node_is_no_agent_that_could_be_made_here(node, alice):
    with pytest.raises(Refused) as caught:
        node.agents.named("bob@other.local")
    assert str(caught.value) == "bob@other.local is no agent of this node, which is here.local"
    assert (caught.value.code, caught.value.hint) == ("agent_unknown", "amp agents")
    for name in ("bob", "bob@here.local"):
        with pytest.raises(Refused) as caught:
            node.agents.named(name)
        assert caught.value.hint == "amp init bob"
