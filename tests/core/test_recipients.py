"""Whom a draft is for: the rules of core/recipients.py."""

import fakes
import pytest

from ampd.model.address import Address
from ampd.model.errors import Refused
from ampd.model.message import id_from_text

ALICE, BOB = "alice@here.local", "bob@there.local"


async def answer(node, agent, to, answered):
    return await node.send(agent, to, "an answer", in_reply_to=id_from_text(answered.id))


async def test_rc1_two_names_of_one_key_are_one_recipient(node, other, alice, bob):
    await node.meet(other)
    sent = await node.send(alice, ("bob", BOB), "hello")
    assert [each.address for each in sent.recipients] == [BOB]


async def test_rc1_one_that_nobody_knows_refuses_all(node, alice):
    with pytest.raises(Refused, match="nobody known as zoe@"):
        await node.send(alice, ("alice", "zoe@there.local"), "hello")
    assert node.inbox(alice) == []


async def test_rc2_an_answer_finds_who_is_here_under_another_domain(tmp_path, clock):
    async with fakes.node(tmp_path, "here", clock=clock) as before:
        alice, bob = await before.agent("alice"), await before.agent("bob")
        asked = await before.send(alice, "bob", "a question")
    (tmp_path / "here").rename(tmp_path / "moved")
    async with fakes.node(tmp_path, "moved", clock=clock) as now:
        bob, alice = now.agents.named("bob"), now.agents.named("alice")
        (sent,) = (await answer(now, bob, ALICE, asked)).recipients
        assert (sent.address, sent.status) == ("alice@moved.local", "delivered")
        assert now.bodies(alice) == ["an answer"]


async def asked_by(bob, node, alice):
    """A question of Bob, who is elsewhere, at Alice's."""
    await node.mailbox.deliver(fakes.letter(bob, alice), b"n" * 32)
    (asked,) = node.inbox(alice)
    return asked


async def test_rc2_an_answer_finds_who_is_elsewhere_under_another_domain(node, alice, bob):
    asked = await asked_by(bob, node, alice)
    moved = fakes.resigned(bob, address=Address("bob", "moved.local"))
    await node.contacts.learn([moved], b"n" * 32, "lan")
    await node.contacts.remove(BOB)
    (sent,) = (await answer(node, alice, BOB, asked)).recipients
    assert sent.address == "bob@moved.local"


async def test_rc2_who_is_at_the_address_gets_it(node, alice, bob):
    asked = await asked_by(bob, node, alice)
    assert (await answer(node, alice, BOB, asked)).recipients[0].address == BOB


async def test_rc2_who_was_removed_and_is_nowhere_else_is_nobody(node, alice, bob):
    asked = await asked_by(bob, node, alice)
    await node.contacts.remove(BOB)
    with pytest.raises(Refused, match="nobody known as"):
        await answer(node, alice, BOB, asked)


async def test_rc2_only_the_sender_of_the_answered_message_is_looked_for(node, alice):
    carol = await node.agent("carol")
    asked = await node.send(alice, "carol", "a question")
    for to, answered in (("alice@gone.local", asked), ("zoe@here.local", asked)):
        with pytest.raises(Refused, match="nobody known as"):
            await answer(node, carol, to, answered)
