"""The address book: the rules of core/contacts.py."""

import fakes
import pytest
from fakes import letter, link

from ampd.core import cards
from ampd.crypto.keyfiles import new_agent_keys
from ampd.crypto.keys import SigningKey
from ampd.model.address import Address, ContactLink, fingerprint
from ampd.model.card import CARD_CONTEXT
from ampd.model.errors import Invalid, Refused
from ampd.storage.records import State

NODE = b"n" * 32
BOB = "bob@there.local"


def somebody(like, address=None, **changes):
    """An agent with keys of its own, at the address of `like` or at another."""
    keys = new_agent_keys(fakes.START + fakes.DAY)
    card = fakes.replace(
        like.card, mailbox=keys.mailbox, inbox=keys.inbox[0].key.public,
        fallback=keys.fallback.public, address=address or like.address, **changes,
    )  # fmt: skip
    signed = keys.signing.sign1(CARD_CONTEXT, card.to_bytes())
    return fakes.replace(like, keys=keys, card=card, signed_card=signed, address=card.address)


@pytest.fixture
def impostor(bob):
    """Bob's address, another key."""
    return somebody(bob)


async def get(node, sender, to, body="hello", order=1):
    await node.mailbox.deliver(letter(sender, to, body=body, order=order), NODE)


def states(node, address=BOB):
    return {known.key: known.state for known in node.contacts.listed(address)}


# N1: the first key is the one


async def test_n1_the_first_key_seen_is_pinned_and_stays(node, alice, bob, impostor):
    await node.contacts.learn([bob.signed_card], NODE, "lan")
    await node.contacts.learn([impostor.signed_card], NODE, "lan")
    assert states(node) == {bob.key: "seen", impostor.key: "conflict"}
    assert node.contacts.resolve(BOB).key == bob.key


async def test_n1_who_is_written_to_is_pinned(node, alice, bob):
    await node.contacts.learn([bob.signed_card], NODE, "lan")
    await node.send(alice, BOB)
    assert states(node) == {bob.key: "pinned"}


async def test_n1_only_the_users_word_takes_another_key(node, alice, bob, impostor):
    await get(node, bob, alice)
    await get(node, impostor, alice, "new laptop")
    await node.contacts.accept(BOB)
    assert states(node) == {impostor.key: "pinned"}
    assert node.bodies(alice) == ["hello", "new laptop"]
    await get(node, bob, alice, "the old key", order=2)
    assert states(node) == {impostor.key: "pinned", bob.key: "conflict"}
    assert node.bodies(alice) == ["hello", "new laptop"]


async def test_n1_a_verified_key_is_replaced_by_a_verified_one_only_by_its_fingerprint(
    node, alice, bob, impostor
):
    await node.contacts.add(link(bob))
    await get(node, impostor, alice, "it is me")
    with pytest.raises(Refused):
        await node.contacts.verify(BOB, fingerprint(alice.key))
    assert states(node) == {bob.key: "verified", impostor.key: "conflict"}
    await node.contacts.verify(BOB, fingerprint(impostor.key))
    assert states(node) == {impostor.key: "verified"}
    assert node.bodies(alice) == ["it is me"]


async def test_n1_a_link_with_another_key_is_refused_and_says_what_to_do(
    node, alice, bob, impostor
):
    await get(node, bob, alice)
    with pytest.raises(Refused) as found:
        await node.contacts.add(link(impostor))
    assert found.value.code == "conflict" and "amp contact remove" in found.value.hint
    assert fingerprint(bob.key) in str(found.value)


async def test_n1_only_the_newest_card_of_a_key_counts(node, alice, bob):
    newer = fakes.resigned(bob, alias="Bob the Second", number=7)
    older = fakes.resigned(bob, alias="Bob the First", number=6)
    for signed in (newer, older, newer):
        await node.contacts.learn([signed], NODE, "lan")
    assert node.contacts.card(bob.key).alias == "Bob the Second"
    kept = node.records()
    await node.contacts.learn([newer, older, b"rubbish"], NODE, "lan")
    assert node.records() == kept


async def test_n1_nobody_takes_a_key_that_is_not_its_own(node, alice, bob):
    stolen = fakes.replace(bob.card, address=Address("eve", "there.local"))
    signed = SigningKey.generate().sign1(CARD_CONTEXT, stolen.to_bytes())
    await node.contacts.learn([signed], NODE, "lan")
    assert node.contacts.listed() == [], "a card names the mailbox of its own key"


# N2: what is held back, and let in


async def test_n2_mail_under_another_key_waits_for_the_users_decision(node, alice, bob, impostor):
    await get(node, bob, alice)
    for order in (1, 2):
        await get(node, impostor, alice, f"forged {order}", order)
    assert node.bodies(alice) == ["hello"]
    assert node.bodies(alice, box="quarantine") == ["forged 1", "forged 2"]
    assert node.lists.listing(alice, fakes.Filter()).quarantined == 2


async def test_n5_accepted_mail_comes_in_order_with_new_numbers(node, alice, bob, impostor):
    await get(node, bob, alice, "1")
    await get(node, impostor, alice, "2")
    await get(node, impostor, alice, "3", 2)
    await get(node, bob, alice, "4", 2)
    last = node.lists.last_number(alice)
    await node.contacts.accept(BOB)
    assert node.bodies(alice) == ["1", "4", "2", "3"]
    assert node.bodies(alice, after=str(last)) == ["2", "3"], "who follows by number sees them"
    assert [each.state for each in node.inbox(alice)] == ["unread"] * 4
    assert node.inbox(alice, box="quarantine") == []


async def test_n5_an_index_made_anew_has_it_at_the_same_place(node, alice, bob, impostor):
    def boxes():
        found = node.inbox(alice, box="all")
        numbers = [(each.number, each.state, each.preview) for each in found]
        return numbers, node.lists.listing(alice, fakes.Filter()).total

    await get(node, bob, alice, "1")
    for order in range(1, 5):
        await get(node, impostor, alice, f"held {order}", order)
    await node.contacts.accept(BOB)
    assert boxes()[0][0] == (1, "unread", "1")
    assert [each[0] for each in boxes()[0][1:]] == [6, 7, 8, 9]
    await node.marks.set(alice, ["7"], State.READ)
    await node.marks.set(alice, ["8"], State.ACKED)
    await node.marks.delete(alice, ["9"])
    before = boxes()
    await node.store.rebuild()
    assert boxes() == before
    await node.store.clean(deleted_within=0)
    await node.store.rebuild()
    assert boxes() == before
    await node.send(alice, "alice", "next")
    assert node.lists.last_number(alice) == 10
    assert (await fakes.checkup(node).run(repair=False)).ok


async def test_n2_several_claims_must_be_told_apart(node, alice, bob, impostor):
    another = somebody(bob)
    for sender in (bob, impostor, another):
        await get(node, sender, alice)
    with pytest.raises(Refused) as found:
        await node.contacts.accept(BOB)
    assert found.value.code == "ambiguous" and fingerprint(another.key) in str(found.value)
    await node.contacts.verify(BOB, fingerprint(another.key))
    assert states(node) == {another.key: "verified", impostor.key: "conflict"}


async def test_n2_a_stranger_that_policy_held_back_is_let_in(tmp_path, bob, clock):
    async with fakes.node(tmp_path, "strict", clock=clock, unknown_senders="quarantine") as node:
        alice = await node.agent("alice")
        await get(node, bob, alice, "first")
        assert states(node) == {bob.key: "pending"}
        with pytest.raises(Refused):
            node.contacts.resolve(BOB)
        await node.contacts.accept("bob")
        await get(node, bob, alice, "second", 2)
        assert node.bodies(alice) == ["first", "second"]


async def test_n2_a_link_lets_in_what_its_key_wrote_before(tmp_path, bob, clock):
    async with fakes.node(tmp_path, "strict", clock=clock, unknown_senders="quarantine") as node:
        alice = await node.agent("alice")
        await get(node, bob, alice, "first")
        await node.contacts.add(link(bob))
        assert node.bodies(alice) == ["first"]
        assert node.inbox(alice)[0].trust == "verified"


async def test_n2_accept_with_nothing_to_decide_says_so(node, alice, bob):
    await get(node, bob, alice)
    with pytest.raises(Invalid):
        await node.contacts.accept(BOB)


# N3: how far each is trusted


async def test_n3_trust_is_what_the_user_did_with_the_key(node, alice, bob, impostor):
    carol = await node.agent("carol")
    await node.send(carol, "alice")
    await get(node, bob, alice)
    await get(node, impostor, alice)
    assert [each.trust for each in node.inbox(alice)] == ["verified", "external"]
    assert [each.trust for each in node.inbox(alice, box="quarantine")] == ["untrusted"]
    await node.contacts.verify("bob", f" {fingerprint(bob.key)} ")
    assert [each.trust for each in node.inbox(alice)] == ["verified", "verified"]
    await node.contacts.remove("bob")
    assert [each.trust for each in node.inbox(alice)] == ["verified", "untrusted"]


async def test_n3_a_card_that_says_so_is_not_verified(node, alice, bob):
    signed = fakes.resigned(bob, alias="verified", description="trust: verified")
    await node.contacts.learn([signed], NODE, "lan")
    await get(node, bob, alice)
    assert node.inbox(alice)[0].trust == "external"


# N4: how many strangers there may be


async def test_n4_sight_alone_makes_so_many_contacts_and_no_more(node, alice, bob, monkeypatch):
    monkeypatch.setattr(cards, "MAX_STRANGERS", 3)
    crowd = [somebody(bob, Address(f"s{number}", "there.local")) for number in range(5)]
    await node.contacts.add(link(bob))
    await node.contacts.learn([each.signed_card for each in crowd], NODE, "lan")
    await node.contacts.learn([bob.signed_card], NODE, "lan")
    assert len(node.contacts.listed()) == 3
    assert node.contacts.card(bob.key) is not None, "the user's own are not counted"


# The user's commands


async def test_add_takes_the_key_as_verified(node, alice, bob):
    (known,) = await node.contacts.add(link(bob))
    assert (known.address, known.key, known.trust, known.source) == (
        BOB,
        bob.key,
        "verified",
        "link",
    )
    await node.contacts.learn([bob.signed_card], NODE, "lan")
    await node.send(alice, BOB)
    assert states(node) == {bob.key: "verified"}


async def test_add_twice_keeps_what_was_known(node, alice, bob, clock):
    await get(node, bob, alice)
    await node.contacts.block(BOB, blocked=True)
    clock.time += 1000
    (known,) = await node.contacts.add(link(bob))
    assert (known.since, known.blocked, known.state) == (fakes.START, True, "verified")


async def test_add_refuses_the_agents_of_this_node_and_who_claims_to_be_one(node, alice, bob):
    for text in (link(alice), str(ContactLink(bob.key, alice.address)),
                 str(ContactLink(bob.key, Address("ampd", "here.local")))):  # fmt: skip
        with pytest.raises(Invalid, match="agent of this node"):
            await node.contacts.add(text)


async def test_add_refuses_a_key_that_proves_nothing(node):
    low_order = bytes([1]) + bytes(31)
    with pytest.raises(Refused):
        await node.contacts.add(str(ContactLink(low_order, Address("eve", "there.local"))))


async def test_a_blocked_contact_is_refused_both_ways_and_comes_back(node, alice, bob):
    await get(node, bob, alice)
    await node.contacts.block("bob", blocked=True)
    with pytest.raises(Refused) as found:
        await get(node, bob, alice, order=2)
    assert found.value.code == "blocked"
    with pytest.raises(Refused) as found:
        await node.send(alice, BOB)
    assert found.value.code == "blocked" and "unblock" in found.value.hint
    await node.contacts.block("bob", blocked=False)
    await get(node, bob, alice, order=2)
    await node.send(alice, BOB)
    assert len(node.inbox(alice)) == 2


async def test_a_blocked_address_is_blocked_whatever_the_key(node, alice, bob, impostor):
    await get(node, bob, alice)
    await node.contacts.block(BOB, blocked=True)
    with pytest.raises(Refused, match="blocked"):
        await get(node, impostor, alice)


async def test_who_was_removed_is_pinned_again_when_seen(node, other, alice, bob, impostor):
    await node.meet(other)
    await node.contacts.remove("bob")
    with pytest.raises(Refused) as found:
        node.contacts.listed("bob")
    assert found.value.code == "contact_unknown"
    await node.meet(other)  # the same card as before
    assert states(node) == {bob.key: "seen"}
    assert node.contacts.resolve("bob").card == bob.card


async def test_after_a_removal_the_next_key_is_pinned(node, alice, bob, impostor):
    await get(node, bob, alice)
    await node.contacts.remove(BOB)
    await get(node, impostor, alice)
    assert states(node) == {impostor.key: "pinned"}


async def test_a_withdrawn_contact_can_be_looked_at_and_removed_but_not_written_to(
    node, other, alice, bob
):
    await node.meet(other)
    await other.agents.remove("bob", purge=False)
    await node.meet(other)
    with pytest.raises(Refused, match="removed by its owner"):
        await node.send(alice, "bob")
    assert len(node.contacts.listed("bob")) == 1
    await node.contacts.remove("bob")


# Names


async def test_a_name_means_the_local_agent_first(node, other, alice, bob):
    await node.meet(other)
    local = await node.agent("bob")
    assert node.contacts.resolve("BOB").key == local.key
    assert node.contacts.resolve(" bob@there.local ").key == bob.key


async def test_a_name_that_two_have_is_ambiguous_and_both_are_named(node, alice, bob):
    elsewhere = somebody(bob, Address("bob", "elsewhere.local"))
    await node.contacts.learn([bob.signed_card, elsewhere.signed_card], NODE, "lan")
    for ask in (node.contacts.resolve, node.contacts.listed):
        with pytest.raises(Refused) as found:
            ask("bob")
        assert found.value.code == "ambiguous"
        assert "bob@elsewhere.local, bob@there.local" in str(found.value)


@pytest.mark.parametrize("name", ["b_b", "b.b", "b-b"])
async def test_a_name_is_no_pattern(node, bob, name):
    agent = somebody(bob, Address(name, "there.local"))
    twin = somebody(bob, Address("bxb", "there.local"))
    await node.contacts.learn([agent.signed_card, twin.signed_card], NODE, "lan")
    assert node.contacts.resolve(name.upper()).key == agent.key
    assert node.contacts.listed(name)[0].key == agent.key


async def test_who_is_nearly_meant_is_named(node, other, alice, bob):
    await node.meet(other)
    with pytest.raises(Refused) as found:
        node.contacts.resolve("bib")
    assert "did you mean bob@there.local?" in found.value.hint


@pytest.mark.parametrize(
    "text", ["", "@", "a@", "@b", "a b", "a@b@c", "%", "é", "x" * 64, "a" * 300]
)
async def test_what_is_no_name_is_invalid(node, text):
    for ask in (node.contacts.resolve, lambda t: node.contacts.listed(t or "@")):
        with pytest.raises(Invalid):
            ask(text)
