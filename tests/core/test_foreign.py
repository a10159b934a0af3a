"""Foreign senders and recipients as contacts: the rules of core/foreign.py."""

import json
from dataclasses import replace

import fakes
import pytest
import trio
from fakes import DAY, LIMIT, START

from ampd.core.foreign import Foreign, Incoming
from ampd.model.address import Address, fingerprint
from ampd.model.errors import Invalid, Refused
from ampd.model.message import new_id

BOB = Address("bob", "acme.example")


def foreign_of(node, secret=b"s" * 32):
    return Foreign(node.store, node.agents, node.contacts, secret, node.agents._now, LIMIT)


@pytest.fixture
def foreign(node):
    return foreign_of(node)


def letter(*to, number=1, **changes):
    identifier = new_id(START, number.to_bytes(10, "big"))
    draft = Incoming(
        identifier, BOB, to, START - 5, START + DAY, identifier, None, "high", "request",
        "subject", "hello", '{"amount":1.50}', '{"amp":{}}', True, "amp",
    )  # fmt: skip
    return replace(draft, **changes)


def contacts(node, address=BOB):
    rows = node.store.view.execute(
        "SELECT key, state, source FROM contacts WHERE address=? ORDER BY seq", (str(address),)
    )
    return [tuple(row) for row in rows]


async def refused(code, call, *arguments):
    with pytest.raises(Refused) as caught:
        await call(*arguments)
    assert caught.value.code == code


async def test_what_came_is_shown_as_it_came(node, alice, foreign):
    assert await foreign.take_in(letter(alice)) == [(alice, True)]
    (full,) = await node.reading.get(alice, ["1"])
    summary = full.summary
    assert (full.body, full.payload, full.context) == ("hello", '{"amount":1.50}', '{"amp":{}}')
    assert (summary.sender, summary.subject, summary.type, summary.priority) == (
        str(BOB), "subject", "request", "high",
    )  # fmt: skip
    assert (summary.via, summary.encrypted, summary.sent) == ("gateway", False, START - 5)
    report = await fakes.checkup(node).run(repair=False)
    assert report.ok


# X1: shadow keys


async def test_x1_the_key_of_an_address_is_the_same_after_a_restart(tmp_path, clock):
    async with fakes.node(tmp_path, clock=clock) as node:
        key = foreign_of(node).key_of(BOB)
    async with fakes.node(tmp_path, clock=clock) as node:
        assert foreign_of(node).key_of(BOB) == key
        assert foreign_of(node, b"t" * 32).key_of(BOB) != key
        assert foreign_of(node).key_of(Address("bob", "acme2.example")) != key
        assert foreign_of(node).is_shadow(str(BOB), key)
        assert not foreign_of(node).is_shadow("eve@acme.example", key)


async def test_x1_a_shadow_key_tells_its_protocol_and_no_other_key_does(node, alice, foreign):
    await foreign.introduce(BOB, "amtp")
    assert foreign.protocol_of(foreign.key_of(BOB)) == "amtp"
    await node.meet(node)
    assert foreign.protocol_of(alice.key) == ""
    assert foreign.protocol_of(foreign.key_of(Address("eve", "acme.example"))) == ""


# X2: nobody is taken for somebody else


@pytest.mark.parametrize("name", ["alice", "nobody", "ampd"])
@pytest.mark.parametrize("proved", [True, False])
async def test_x2_no_foreign_sender_is_somebody_of_this_node(node, alice, foreign, name, proved):
    sender = Address(name, node.domain)
    await refused("forbidden", foreign.take_in, letter(alice, sender=sender, proved=proved))
    await refused("forbidden", foreign.introduce, sender, "amp")
    assert node.inbox(alice) == [] and contacts(node, sender) == []


@pytest.mark.parametrize("proved", [True, False])
async def test_x2_a_claim_to_a_native_contacts_address_is_quarantined(
    node, other, alice, bob, foreign, proved
):
    await node.meet(other)
    await foreign.take_in(letter(alice, sender=bob.address, proved=proved))
    assert node.inbox(alice) == []
    (summary,) = node.inbox(alice, box="quarantine")
    assert (summary.trust, summary.reason) == ("untrusted", "key_changed")
    await refused("conflict", foreign.introduce, bob.address, "amp")
    assert node.contacts.resolve(str(bob.address)).key == bob.key


async def test_x2_a_native_key_does_not_replace_a_foreign_contact(node, other, bob, foreign):
    await foreign.introduce(bob.address, "amp")
    await node.meet(other)
    assert node.contacts.resolve(str(bob.address)).key == foreign.key_of(bob.address)


# X3: trust, and whose


async def test_x3_what_is_proved_is_external_and_what_is_not_untrusted(node, alice, foreign):
    await foreign.take_in(letter(alice, number=1))
    await foreign.take_in(letter(alice, number=2, proved=False))
    first, second = node.inbox(alice)
    assert (first.trust, second.trust) == ("external", "untrusted")
    assert contacts(node) == [(foreign.key_of(BOB), "pinned", "amp")]


async def test_x3_what_is_not_proved_makes_no_contact(node, alice, foreign):
    await foreign.take_in(letter(alice, proved=False))
    assert contacts(node) == []
    with pytest.raises(Refused):
        node.contacts.resolve(str(BOB))


async def test_x3_an_answer_without_proof_comes_in_but_is_not_trusted(node, alice, foreign):
    await foreign.introduce(BOB, "amtp")
    await foreign.take_in(letter(alice, proved=False))
    assert [each.trust for each in node.inbox(alice)] == ["untrusted"]


async def test_x3_nobody_verifies_a_shadow_key(node, foreign):
    await foreign.introduce(BOB, "amp")
    said = fingerprint(foreign.key_of(BOB))
    await refused("conflict", node.contacts.verify, str(BOB), said)


# X4: the user's policy


@pytest.mark.parametrize("proved", [True, False])
async def test_x4_who_is_blocked_is_refused(node, alice, foreign, proved):
    await foreign.introduce(BOB, "amp")
    await node.contacts.block(str(BOB), blocked=True)
    await refused("blocked", foreign.take_in, letter(alice, proved=proved))
    await refused("blocked", foreign.introduce, BOB, "amp")
    assert node.inbox(alice) == []


@pytest.mark.parametrize("proved", [True, False])
async def test_x4_strangers_are_judged_by_the_policy(node, alice, foreign, proved):
    node.contacts.unknown_senders = "reject"
    await refused("forbidden", foreign.take_in, letter(alice, proved=proved))
    node.contacts.unknown_senders = "quarantine"
    await foreign.take_in(letter(alice, proved=proved))
    assert node.inbox(alice) == []
    (summary,) = node.inbox(alice, box="quarantine")
    assert summary.reason == "unknown_sender"


async def test_x4_who_was_written_to_is_no_stranger(node, alice, foreign):
    node.contacts.unknown_senders = "reject"
    await foreign.introduce(BOB, "amp")
    await foreign.take_in(letter(alice))
    await foreign.take_in(letter(alice, number=2, proved=False))
    assert len(node.inbox(alice)) == 2


async def test_x4_a_quarantined_stranger_comes_in_when_the_user_says_so(node, alice, foreign):
    node.contacts.unknown_senders = "quarantine"
    await foreign.take_in(letter(alice))
    await node.contacts.accept(str(BOB))
    assert [each.trust for each in node.inbox(alice)] == ["external"]
    assert foreign.protocol_of(foreign.key_of(BOB)) == "amp"


# X7: what nobody proved, and the user lets in


async def test_x7_unproved_mail_of_a_stranger_is_let_in_when_the_user_says_so(node, alice, foreign):
    node.contacts.unknown_senders = "quarantine"
    await foreign.take_in(letter(alice, proved=False, context='{"amtp":{}}'))
    assert contacts(node) == []
    last = node.lists.last_number(alice)
    await node.contacts.accept(str(BOB))
    await foreign.take_in(letter(alice, number=2, body="later", proved=False))
    assert node.bodies(alice, after=str(last)) == ["hello", "later"]
    assert [each.trust for each in node.inbox(alice)] == ["untrusted"] * 2
    assert node.inbox(alice, box="quarantine") == []
    assert contacts(node) == [(foreign.key_of(BOB), "pinned", "amtp")]
    assert node.contacts.resolve(str(BOB)).key == foreign.key_of(BOB)


@pytest.mark.parametrize("context", [None, '{"amp":{}}', '{"amtp":{}}'])
async def test_x7_and_answers_go_back_by_the_protocol_that_it_came_by(
    node, alice, foreign, context
):
    node.contacts.unknown_senders = "quarantine"
    await foreign.take_in(letter(alice, proved=False, context=context))
    await node.contacts.accept(str(BOB))
    by = "amp" if context and 'amp"' in context else "amtp"
    assert foreign.protocol_of(foreign.key_of(BOB)) == by


@pytest.mark.parametrize("proved_first", [True, False])
async def test_x7_it_comes_with_what_is_proved_in_their_order(node, alice, foreign, proved_first):
    node.contacts.unknown_senders = "quarantine"
    await foreign.take_in(letter(alice, body="one", proved=proved_first))
    await foreign.take_in(letter(alice, number=2, body="two", proved=not proved_first))
    await node.contacts.accept(str(BOB))
    assert node.bodies(alice) == ["one", "two"]
    trusts = ["external", "untrusted"]
    assert [e.trust for e in node.inbox(alice)] == (trusts if proved_first else trusts[::-1])


async def test_x7_also_of_somebody_who_was_written_to_meanwhile(node, alice, foreign):
    node.contacts.unknown_senders = "quarantine"
    await foreign.take_in(letter(alice, proved=False))
    await foreign.introduce(BOB, "amp")
    await node.contacts.accept(str(BOB))
    assert node.bodies(alice) == ["hello"]
    assert contacts(node) == [(foreign.key_of(BOB), "pinned", "amp")]
    with pytest.raises(Invalid):
        await node.contacts.accept(str(BOB))


async def test_x7_a_contact_with_a_key_of_its_own_is_not_replaced(node, alice, foreign, other):
    bob = await other.agent("bob")
    claimed = letter(alice, proved=False, sender=bob.address)
    node.contacts.unknown_senders = "quarantine"
    await foreign.take_in(claimed)
    await node.contacts.add(fakes.link(bob))
    with pytest.raises(Invalid):
        await node.contacts.accept(str(bob.address))
    assert [each[:2] for each in contacts(node, bob.address)] == [(bob.key, "verified")]
    assert (node.bodies(alice), node.bodies(alice, box="quarantine")) == ([], ["hello"])


# X5: kept once


async def test_x5_a_message_is_kept_once_for_each_agent(node, alice, foreign):
    carol = await node.agent("carol")
    assert await foreign.take_in(letter(alice)) == [(alice, True)]
    again = await foreign.take_in(letter(alice, carol, alice))
    assert again == [(alice, False), (carol, True)]
    assert await foreign.take_in(letter(carol)) == [(carol, False)]
    assert len(node.inbox(alice)) == len(node.inbox(carol)) == 1


async def test_x5_also_when_it_comes_several_times_at_once(node, alice, foreign):
    answers = []

    async def take(text):
        try:
            answers.append((await foreign.take_in(letter(alice, body=text)))[0][1])
        except Refused as exc:
            answers.append(exc.code)

    async with trio.open_nursery() as nursery:
        for text in ("hello", "hello", "hello", "other"):
            nursery.start_soon(take, text)
    kept = len(node.inbox(alice))
    assert kept == 1 and answers.count(True) == 1 and answers.count("conflict") in (1, 3)


async def test_x5_also_after_it_was_deleted(node, alice, foreign):
    await foreign.take_in(letter(alice))
    await node.marks.delete(alice, ["1"])
    assert await foreign.take_in(letter(alice)) == [(alice, False)]
    assert node.inbox(alice) == []


@pytest.mark.parametrize(
    "changes", [{"body": "x"}, {"subject": "x"}, {"payload": None}, {"type": "x"}], ids=str
)
async def test_x5_something_else_under_the_same_id_is_refused(node, alice, foreign, changes):
    await foreign.take_in(letter(alice))
    await refused("conflict", foreign.take_in, letter(alice, **changes))
    assert node.bodies(alice) == ["hello"]


async def test_x5_who_proves_nothing_cannot_take_the_place_of_who_does(node, alice, foreign):
    await foreign.take_in(letter(alice, proved=False, body="forged"))
    assert await foreign.take_in(letter(alice)) == [(alice, True)]
    assert node.bodies(alice) == ["forged", "hello"]


# X6: on disk, and in order


async def test_x6_it_survives_the_end_of_the_process_and_a_new_index(tmp_path, clock):
    async with fakes.node(tmp_path, clock=clock) as node:
        alice = await node.agent("alice")
        for number in range(3):
            await foreign_of(node).take_in(letter(alice, number=number))
    async with fakes.node(tmp_path, clock=clock) as node:
        await node.store.rebuild()
        alice = node.agents.named("alice")
        await foreign_of(node).take_in(letter(alice, number=3))
        assert len(node.inbox(alice)) == 4
        assert [each.missing for each in node.inbox(alice)] == [0, 0, 0, 0]
        assert node.store.view.execute("SELECT * FROM gaps").fetchall() == []


async def test_x6_letters_that_come_at_once_have_each_number_once(node, alice, foreign):
    carol = await node.agent("carol")
    async with trio.open_nursery() as nursery:
        for number in range(8):
            nursery.start_soon(foreign.take_in, letter(alice, carol, number=number))
    rows = node.store.view.execute("SELECT recipient, last FROM pairs_in").fetchall()
    assert {row["recipient"]: row["last"] for row in rows} == {alice.key: 8, carol.key: 8}
    assert node.store.view.execute("SELECT * FROM gaps").fetchall() == []


async def test_x6_a_refusal_leaves_nothing(node, alice, foreign):
    before = node.records()
    await refused("too_large", foreign.take_in, letter(alice, body="x" * LIMIT))
    await refused("expired", foreign.take_in, letter(alice, expires=START))
    await refused("invalid", foreign.take_in, letter())
    await refused("invalid", foreign.take_in, letter(alice, body="\ud800"))
    await refused("invalid", foreign.take_in, letter(alice, payload="{"))
    await refused("invalid", foreign.take_in, letter(alice, id=b"short"))
    await node.agents.remove("alice", purge=False)
    await refused("recipient_unknown", foreign.take_in, letter(alice))
    assert node.records() == before + 1


async def test_what_is_longer_than_our_fields_is_cut_and_what_is_unknown_is_plain(
    node, alice, foreign
):
    far = {"sent": START + 400 * DAY, "expires": START + 400 * DAY}
    context = json.dumps({"amp": {"subject": "s" * 300}})
    await foreign.take_in(
        letter(alice, subject="s" * 300, type="t" * 90, priority="soon", context=context, **far)
    )
    (full,) = await node.reading.get(alice, ["1"])
    assert full.summary.subject == "s" * 255 + "\u2026" and full.summary.type == "t" * 64
    assert full.summary.priority == "normal" and full.context == context
    row = node.store.view.execute("SELECT sent, expires FROM messages").fetchone()
    assert tuple(row) == (START + DAY, START + 30 * DAY)


async def test_to_introduce_somebody_twice_writes_once(node, foreign):
    await foreign.introduce(BOB, "amp", "from the directory")
    before = node.records()
    await foreign.introduce(BOB, "amp")
    assert node.records() == before
    await foreign.introduce(BOB, "amtp")
    assert contacts(node) == [(foreign.key_of(BOB), "pinned", "amtp")]
    assert node.contacts.listed(str(BOB))[0].note == "from the directory"
    with pytest.raises(Invalid):
        await foreign.introduce(BOB, "smtp")
