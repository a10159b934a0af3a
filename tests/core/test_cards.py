"""What others show of themselves, and how much of it is kept: the rules of core/cards.py."""

import fakes
import pytest

from ampd.core import cards
from ampd.core.meters import Meters
from ampd.crypto.keyfiles import new_agent_keys
from ampd.crypto.keys import SigningKey
from ampd.model.address import Address, NodeUri
from ampd.model.card import CARD_CONTEXT

NODE, OTHER = b"n" * 32, b"o" * 32
RELAYS = tuple(
    str(NodeUri(SigningKey(bytes([n]) * 32).public, "r.example", 4160)) for n in range(8)
)


def somebody(like, name, **changes):
    """An agent with keys of its own, at another address of the same domain."""
    keys = new_agent_keys(fakes.START + fakes.DAY)
    card = fakes.replace(
        like.card, mailbox=keys.mailbox, inbox=keys.inbox[0].key.public,
        fallback=keys.fallback.public, address=Address(name, "there.local"), **changes,
    )  # fmt: skip
    signed = keys.signing.sign1(CARD_CONTEXT, card.to_bytes())
    return fakes.replace(like, keys=keys, card=card, signed_card=signed, address=card.address)


def crowd(like, count, prefix="s"):
    return [somebody(like, f"{prefix}{number}") for number in range(count)]


def newer(agent, number, **changes):
    return fakes.resigned(agent, number=number, **changes)


async def show(node, agents, by=NODE):
    """How many contacts came of what a node showed."""
    before = len(node.contacts.listed())
    await node.contacts.learn([each.signed_card for each in agents], by, "lan")
    return len(node.contacts.listed()) - before


def number_of(node, agent):
    card = node.contacts.card(agent.key)
    return card and card.number


@pytest.fixture
def looked_at(monkeypatch):
    """The cards whose signature was looked at."""
    found, read = [], cards.read_card

    def reading(signed):
        found.append(signed)
        return read(signed)

    monkeypatch.setattr(cards, "read_card", reading)
    return found


async def test_cd1_a_card_is_kept_once_and_only_a_newer_one_replaces_it(node, bob):
    for number in (5, 5, 4, 7, 6):
        await node.contacts.learn([newer(bob, number)], NODE, "lan")
    assert number_of(node, bob) == 7
    kept = node.records()
    twin = newer(bob, 7, alias="another of the same number")
    elsewhere = newer(bob, 7, address=Address("eve", "there.local"))
    for signed in (newer(bob, 7), newer(bob, 5), twin, elsewhere, b"", b"rubbish"):
        await node.contacts.learn([signed], NODE, "lan")
    assert node.records() == kept


async def test_cd1_an_agent_here_has_its_card_from_here(node, alice):
    kept = node.records()
    await node.contacts.learn([newer(alice, 99)], NODE, "lan")
    assert node.records() == kept


async def test_cd2_one_neighbour_leaves_room_for_the_others(node, bob, monkeypatch):
    monkeypatch.setattr(cards, "MAX_STRANGERS", 12)

    async def shown_by(name, count):
        return await show(node, crowd(bob, count, name), name.encode().ljust(32, b"."))

    assert [await shown_by(name, 20) for name in ("hostile", "second", "third")] == [6, 3, 2]
    assert await shown_by("hostile", 25) == 0 and await shown_by("honest", 1) == 1


async def test_cd2_who_is_shown_in_one_go_is_counted_too(node, bob, monkeypatch):
    monkeypatch.setattr(cards, "MAX_STRANGERS", 10)
    assert await show(node, crowd(bob, 3)) == 3
    assert await show(node, crowd(bob, 9, "t")) == 2, "it takes half, and no more"


async def test_cd2_there_is_room_again_when_the_user_removed_somebody(node, bob, monkeypatch):
    monkeypatch.setattr(cards, "MAX_STRANGERS", 2)
    first, second = crowd(bob, 2)
    assert await show(node, [first]) == 1 and await show(node, [second]) == 0
    await node.contacts.remove(str(first.address))
    assert await show(node, [second]) == 1


async def test_cd3_newer_and_newer_cards_of_one_key_fill_no_disk(node, bob, clock):
    size = len(newer(bob, 100))
    node.contacts.cards._of_node = Meters(3 * size)
    for number in range(100, 120):
        await node.contacts.learn([newer(bob, number)], NODE, "lan")
    assert number_of(node, bob) == 102
    await node.contacts.learn([newer(bob, 120)], OTHER, "lan")
    assert number_of(node, bob) == 120, "another node has a share of its own"
    clock.time += fakes.DAY
    await node.contacts.learn([newer(bob, 121)], NODE, "lan")
    assert number_of(node, bob) == 121, "the next day it may"


async def test_cd3_a_crowd_of_nodes_shows_no_more_than_all_may(node, bob):
    shown = crowd(bob, 5)
    node.contacts.cards._of_all = Meters(2 * len(shown[0].signed_card) + 10)
    kept = [await show(node, [each], bytes([n]) * 32) for n, each in enumerate(shown)]
    assert kept == [1, 1, 0, 0, 0]


async def test_cd3_what_is_known_already_costs_nothing(node, bob):
    shown = crowd(bob, 5)
    node.contacts.cards._of_node = Meters(sum(len(each.signed_card) for each in shown))
    assert await show(node, shown) == 5
    for _ in range(10):
        await show(node, shown)
    node.contacts.cards._of_all = node.contacts.cards._of_node = Meters(1)
    kept = node.records()
    await show(node, shown)
    assert node.records() == kept


@pytest.mark.parametrize("full", ["_of_node", "_of_all"])
@pytest.mark.parametrize("how", ["added", "written to", "added and moved"])
async def test_cd3_the_card_of_whom_the_user_wants_is_never_held_back(
    node, alice, bob, how, full, monkeypatch
):
    if how == "written to":
        await show(node, [bob])
        await node.send(alice, str(bob.address))
    else:
        await node.contacts.add(fakes.link(bob))
    if how == "added and moved":
        moved = newer(bob, 8, address=Address("bob", "elsewhere.local"))
        await node.contacts.learn([moved], NODE, "lan")
    setattr(node.contacts.cards, full, Meters(1))
    monkeypatch.setattr(cards, "MAX_STRANGERS", 0)
    address = node.contacts.card(bob.key).address if how == "added and moved" else bob.address
    await node.contacts.learn([newer(bob, 9, address=address)], NODE, "lan")
    assert number_of(node, bob) == 9


async def test_cd3_a_lan_that_restarts_and_adds_relays_is_seen_as_a_whole(node, bob):
    agents = {bytes([n]) * 32: crowd(bob, 20, f"n{n}-") for n in range(10)}
    assert [await show(node, agents[each], each) for each in agents] == [20] * 10
    for number in range(5, 8):
        for each, its in agents.items():
            again = [newer(agent, number, relays=RELAYS) for agent in its]
            await node.contacts.learn(again, each, "lan")
        numbers = node.store.view.execute("SELECT number, count(*) FROM cards GROUP BY number")
        assert [tuple(row) for row in numbers] == [(number, 200)]


async def test_cd4_once_it_is_crowded_a_strangers_card_is_dropped_unread(
    node, bob, monkeypatch, looked_at
):
    monkeypatch.setattr(cards, "MAX_STRANGERS", 4)
    assert await show(node, crowd(bob, 4)) == 2
    kept, counted, count = node.records(), [], cards.count_strangers
    monkeypatch.setattr(cards, "count_strangers", lambda db: counted.append(1) or count(db))
    del looked_at[:]
    for n in range(5):
        await show(node, crowd(bob, 10, f"x{n}-"))
    assert (looked_at, node.records(), len(counted)) == ([], kept, 1)


async def test_cd4_a_node_that_showed_too_much_is_not_read(node, bob, looked_at):
    node.contacts.cards._of_node = Meters(10)
    await show(node, crowd(bob, 5))
    assert looked_at == []


async def test_cd5_that_a_stranger_is_gone_is_not_kept(node, bob):
    gone = [somebody(bob, f"g{n}", withdrawn=True) for n in range(3)]
    kept = node.records()
    await show(node, gone)
    assert node.records() == kept
    await show(node, [bob])
    await node.contacts.learn([newer(bob, 9, withdrawn=True)], NODE, "lan")
    assert node.contacts.card(bob.key).withdrawn
