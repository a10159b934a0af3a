"""The one door in: the rules of core/mailbox.py."""

import fakes
import pytest
import trio
from fakes import DAY, START, letter, message, post, sign
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ampd.core.mailbox import Taken
from ampd.core.meters import Meters
from ampd.core.ports import Run
from ampd.crypto.keys import OpeningKey, SigningKey, open1, seal
from ampd.model.address import Address
from ampd.model.card import CARD_CONTEXT, Card
from ampd.model.errors import Invalid, Refused, StaleKey, Unavailable
from ampd.model.message import (
    RECEIPT_CONTEXT,
    Delivery,
    Envelope,
    Letter,
    Receipt,
    Recipient,
    digest,
    receipts_from_bytes,
    receipts_to_bytes,
)

NODE = b"n" * 32


async def refused(node, envelope, code):
    """`node` refuses the envelope with this code, and keeps nothing of it."""
    before = node.records()
    with pytest.raises(Refused) as found:
        await node.mailbox.deliver(envelope, NODE)
    assert found.value.code == code
    assert node.records() == before


async def not_taken(node, envelope):
    """`node` does not take the envelope, for now or for good, and keeps nothing of it."""
    before = node.records()
    with pytest.raises((Refused, Unavailable)):
        await node.mailbox.deliver(envelope, NODE)
    assert node.records() == before


async def test_what_is_right_is_kept_whole(node, alice, bob):
    what = message(
        bob, alice, body="grüße\0\n\u202e", subject="s", payload='{"a":1.50}', type="task"
    )
    await node.mailbox.deliver(post(sign(bob, what), alice), NODE)
    (summary,) = node.inbox(alice)
    full = node.reading.full(alice, summary.seq)
    assert (full.body, full.payload, summary.subject) == (what.body, what.payload, "s")
    assert (summary.sender, summary.trust, summary.via) == ("bob@there.local", "external", "direct")
    assert summary.encrypted and summary.state == "unread" and summary.number == 1


# B1: who signed what, for whom, and when


async def test_b1_a_letter_for_no_mailbox_of_ours_is_refused(node, alice, bob):
    envelope = letter(bob, alice)
    await refused(node, Envelope(b"m" * 16, envelope.expires, envelope.sealed), "recipient_unknown")


async def test_b1_every_bit_of_a_signed_message_counts(node, alice, bob):
    signed = sign(bob, message(bob, alice))
    for place in range(0, len(signed), 3):
        altered = bytearray(signed)
        altered[place] ^= 1 << place % 8
        with pytest.raises(Refused):
            await node.mailbox.deliver(post(bytes(altered), alice), NODE)
    assert node.inbox(alice) == []


async def test_b1_what_was_sealed_for_another_cannot_be_passed_on(node, alice, bob, other):
    carol = await node.agent("carol")
    await refused(node, post(sign(bob, message(bob, carol)), alice), "forged")


async def test_b1_the_name_alone_is_no_addressee(node, alice, bob):
    stranger = SigningKey.generate().public
    what = message(bob, alice, to=(Recipient(alice.address, stranger, 1),))
    await refused(node, post(sign(bob, what), alice), "forged")


async def test_b7_what_has_expired_is_not_taken(node, alice, bob, clock):
    envelope = letter(bob, alice, expires=START + 1000)
    clock.time += 1000
    await not_taken(node, envelope)


@pytest.mark.parametrize("ahead", [-40 * DAY, -DAY, 0, DAY - 1])
async def test_b7_a_clock_may_be_wrong_by_a_day(node, alice, bob, ahead):
    await node.mailbox.deliver(letter(bob, alice, at=START + ahead, expires=START + 2 * DAY), NODE)
    assert len(node.inbox(alice)) == 1


async def test_b7_what_is_dated_more_than_a_day_ahead_is_not_taken(node, alice, bob):
    await not_taken(node, letter(bob, alice, at=START + DAY + 1))


async def test_b7_nothing_lasts_longer_than_its_mark_as_seen(node, alice, bob):
    await not_taken(node, letter(bob, alice, expires=START + 31 * DAY + 1))


@pytest.mark.parametrize(
    "text", ["{", "", "NaN", "[Infinity]", "1e999", '{"a":1,"a":2}', "[" * 101 + "]" * 101, "1 2",
             "[" * 50_000, "1" * 5000]
)  # fmt: skip
@pytest.mark.parametrize("field", ["payload", "context"])
async def test_b1_a_payload_that_no_json_reader_takes_is_refused(node, alice, bob, field, text):
    await refused(node, letter(bob, alice, **{field: text}), "invalid")


async def test_b1_a_message_over_the_limit_is_refused(node, alice, bob):
    fits = fakes.LIMIT - len(sign(bob, message(bob, alice, body=""))) - 4
    await node.mailbox.deliver(letter(bob, alice, body="x" * fits), NODE)
    await refused(node, letter(bob, alice, body="x" * (fits + 100)), "too_large")
    await refused(node, letter(bob, alice, body="x" * (3 * fakes.LIMIT)), "too_large")


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(sealed=st.binary(max_size=600), plain=st.binary(max_size=600))
def test_b1_no_bytes_get_past_the_seal(sealed, plain, tmp_path_factory):
    async def run():
        async with fakes.node(tmp_path_factory.mktemp("node")) as node:
            alice = await node.agent("alice")
            before = node.records()
            for each in (sealed, seal(alice.card.inbox, plain)):
                with pytest.raises(Refused):
                    await node.mailbox.deliver(Envelope(alice.keys.mailbox, START, each), NODE)
            assert node.records() == before

    trio.run(run)


async def test_b1_a_card_of_somebody_else_in_a_letter_is_passed_over(node, alice, bob, other):
    carol = await other.agent("carol")
    what = message(bob, alice)
    await node.mailbox.deliver(post(sign(bob, what), alice, card=carol.signed_card), NODE)
    await node.mailbox.deliver(
        post(sign(bob, message(bob, alice, order=2)), alice, card=b"?"), NODE
    )
    assert len(node.inbox(alice)) == 2
    assert node.contacts.card(bob.key) is node.contacts.card(carol.key) is None


async def test_b1_the_senders_own_card_is_taken_in(node, alice, bob):
    await node.mailbox.deliver(letter(bob, alice), NODE)
    assert node.contacts.card(bob.key) == bob.card


# B2: kept once, however often it comes


async def test_b2_a_message_offered_twice_is_kept_once(node, alice, bob):
    envelope = letter(bob, alice)
    first = await node.mailbox.deliver(envelope, NODE)
    assert await node.mailbox.deliver(envelope, NODE) == first
    assert len(node.inbox(alice)) == 1


async def test_b2_a_message_sealed_again_is_the_same_message(node, alice, bob):
    signed = sign(bob, message(bob, alice))
    first = await node.mailbox.deliver(post(signed, alice), NODE)
    assert await node.mailbox.deliver(post(signed, alice), NODE) == first
    assert len(node.inbox(alice)) == 1


async def test_b2_twenty_at_the_same_time_are_one(node, alice, bob):
    signed = sign(bob, message(bob, alice))
    answers = []

    async def offer():
        answers.append(await node.mailbox.deliver(post(signed, alice), NODE))

    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(offer)
    assert len(answers) == 20 and len(set(answers)) == 1
    assert len(node.inbox(alice)) == 1


async def test_b2_the_mark_outlives_restart_and_deletion(tmp_path, clock, bob):
    async with fakes.node(tmp_path, clock=clock) as node:
        alice = await node.agent("alice")
        envelope = letter(bob, alice)
        first = await node.mailbox.deliver(envelope, NODE)
    async with fakes.node(tmp_path, clock=clock) as node:
        alice = node.agents.named("alice")
        assert await node.mailbox.deliver(envelope, NODE) == first
        assert len(node.inbox(alice)) == 1
        await node.marks.delete(alice, ["1"])
    async with fakes.node(tmp_path, clock=clock) as node:
        await node.mailbox.deliver(envelope, NODE)
        assert node.inbox(node.agents.named("alice"), box="all") == []


async def test_b2_what_expired_after_it_came_still_gets_its_receipt(node, alice, bob, clock):
    envelope = letter(bob, alice)
    first = await node.mailbox.deliver(envelope, NODE)
    clock.time += 3 * DAY
    assert await node.mailbox.deliver(envelope, NODE) == first


async def test_b2_the_same_id_of_another_sender_is_another_message(node, alice, bob, other):
    carol = await other.agent("carol")
    what = message(bob, alice)
    await node.mailbox.deliver(post(sign(bob, what), alice), NODE)
    await node.mailbox.deliver(letter(carol, alice, id=what.id), NODE)
    assert [each.sender for each in node.inbox(alice)] == ["bob@there.local", "carol@there.local"]


async def test_b2_a_message_to_two_agents_here_is_one_for_each(node, alice, bob):
    carol = await node.agent("carol")
    both = (Recipient(alice.address, alice.key, 1), Recipient(carol.address, carol.key, 1))
    signed = sign(bob, message(bob, alice, to=both))
    for agent in (alice, carol, alice):
        await node.mailbox.deliver(post(signed, agent), NODE)
    assert len(node.inbox(alice)) == len(node.inbox(carol)) == 1


# B3: the receipt


async def test_b3_the_receipt_is_signed_over_the_bytes_that_came(node, alice, bob):
    what = message(bob, alice)
    signed = sign(bob, what)
    delivery = await node.mailbox.deliver(post(signed, alice), NODE)
    key, payload = open1(delivery.receipt, RECEIPT_CONTEXT)
    assert (delivery.status, key) == ("delivered", alice.key)
    assert Receipt.from_bytes(payload) == Receipt(
        what.id, digest(signed), alice.address, bob.address, "delivered", START
    )


async def test_b3_what_has_a_receipt_is_on_disk(tmp_path, clock, bob):
    async with fakes.node(tmp_path, clock=clock) as node:
        alice = await node.agent("alice")
        await node.mailbox.deliver(letter(bob, alice), NODE)
        journal = (tmp_path / "here" / "journal").glob("*")
        assert sum(path.stat().st_size for path in journal) > 0
        # as after SIGKILL: a copy of the folder while the first still runs, without its index
        copy = tmp_path / "copy" / "here"
        copy.mkdir(parents=True)
        for folder in ("journal", "keys"):
            (copy / folder).mkdir()
            for path in (tmp_path / "here" / folder).glob("*"):
                if path.is_file():
                    (copy / folder / path.name).write_bytes(path.read_bytes())
                    (copy / folder / path.name).chmod(0o600)
    async with fakes.node(tmp_path / "copy", clock=clock) as again:
        assert again.bodies(again.agents.named("alice")) == ["hello"]


# B4: keys that differ


def impostor(of, **changes):
    """An agent with the address of another, and a key of its own."""
    fakes_keys = fakes.replace(of.keys, signing=SigningKey.generate())
    card = fakes.replace(of.card, mailbox=fakes_keys.mailbox, **changes)
    signed = fakes_keys.signing.sign1(CARD_CONTEXT, card.to_bytes())
    return fakes.replace(of, keys=fakes_keys, card=card, signed_card=signed)


async def test_b4_another_key_for_a_known_address_is_quarantined(node, alice, bob):
    await node.mailbox.deliver(letter(bob, alice), NODE)
    await node.mailbox.deliver(letter(impostor(bob), alice, body="not bob"), NODE)
    assert node.bodies(alice) == ["hello"]
    (held,) = node.inbox(alice, box="quarantine")
    assert (held.trust, held.reason, held.state) == ("untrusted", "key_changed", "quarantined")
    states = {known.key: known.state for known in node.contacts.listed("bob@there.local")}
    assert states.pop(bob.key) == "pinned"
    assert list(states.values()) == ["conflict"]


@pytest.mark.parametrize("name", ["alice", "carol", "ampd"])
async def test_b4_nobody_outside_is_an_agent_of_this_node_or_the_node(node, alice, bob, name):
    carol = await node.agent("carol")
    liar = fakes.replace(impostor(bob), address=Address(name, node.domain))
    await node.mailbox.deliver(letter(liar, carol), NODE)
    assert node.inbox(carol) == []
    assert [each.trust for each in node.inbox(carol, box="quarantine")] == ["untrusted"]
    assert "conflict" in [known.state for known in node.contacts.listed()]
    with pytest.raises(Invalid):
        await node.contacts.accept(f"{name}@{node.domain}")
    assert node.inbox(carol) == []


async def test_b4_strangers_are_quarantined_or_refused_where_the_policy_says_so(tmp_path, bob):
    async with fakes.node(tmp_path, "one", unknown_senders="quarantine") as node:
        alice = await node.agent("alice")
        await node.mailbox.deliver(letter(bob, alice), NODE)
        await node.mailbox.deliver(letter(bob, alice, order=2), NODE)
        assert node.inbox(alice) == []
        held = node.inbox(alice, box="quarantine")
        assert [each.reason for each in held] == ["unknown_sender"] * 2
    async with fakes.node(tmp_path, "two", unknown_senders="reject") as node:
        alice = await node.agent("alice")
        await refused(node, letter(bob, alice), "forbidden")
        assert node.contacts.listed() == [] and node.contacts.card(bob.key) is None


# B5: stale keys


async def test_b5_what_was_sealed_to_a_key_that_is_gone_brings_the_newer_card(node, alice, bob):
    gone = OpeningKey.generate()
    letter_bytes = fakes.Letter("message", sign(bob, message(bob, alice)), b"").to_bytes()
    with pytest.raises(StaleKey) as found:
        await node.mailbox.deliver(
            Envelope(alice.keys.mailbox, START + DAY, seal(gone.public, letter_bytes)), NODE
        )
    assert Card.from_bytes(open1(found.value.card, CARD_CONTEXT)[1]) == alice.card


async def test_b5_the_last_weeks_keys_still_open(node, alice, bob, clock):
    envelope = letter(bob, alice, expires=START + 20 * DAY)
    clock.time += 6 * DAY + DAY // 2
    await node.agents.renew()
    assert node.agents.named("alice").card.inbox != alice.card.inbox
    await node.mailbox.deliver(envelope, NODE)
    assert len(node.inbox(alice)) == 1


# B6: receipts that come as letters


async def sent_receipt(node, alice, bob, stage="read", **changes):
    """Alice wrote to bob; a receipt for it, as bob's node would send one, in parts."""
    await node.contacts.learn([bob.signed_card], NODE, "lan")
    sent = await node.send(alice, "bob@there.local")
    row = node.store.view.execute("SELECT seq, id FROM messages").fetchone()
    signed = node.store.payload(row["seq"]).signed
    receipt = Receipt(row["id"], digest(signed), bob.address, alice.address, stage, START + 5)
    return sent.id, fakes.replace(receipt, **changes)


def stamped(agent, receipt, to):
    signed = agent.keys.signing.sign1(RECEIPT_CONTEXT, receipt.to_bytes())
    return post(receipts_to_bytes([signed]), to, kind="receipts")


async def test_b6_a_receipt_of_the_recipients_key_counts(node, alice, bob):
    sent, receipt = await sent_receipt(node, alice, bob)
    assert await node.mailbox.deliver(stamped(bob, receipt, alice), NODE) == Delivery("delivered")
    (state,) = node.tracking.deliveries(alice, sent)[2]
    assert (state.status, state.read_at) == ("read", START + 5)


async def test_b6_a_receipt_of_another_key_counts_for_nothing(node, alice, bob, other):
    carol = await other.agent("carol")
    sent, receipt = await sent_receipt(node, alice, bob)
    await node.mailbox.deliver(stamped(carol, receipt, alice), NODE)
    assert node.status(alice, sent) == "queued"


@pytest.mark.parametrize("changes", [{"message": b"m" * 16}, {"digest": b"d" * 32}])
async def test_b6_a_receipt_for_other_bytes_counts_for_nothing(node, alice, bob, changes):
    sent, receipt = await sent_receipt(node, alice, bob, **changes)
    await node.mailbox.deliver(stamped(bob, receipt, alice), NODE)
    assert node.status(alice, sent) == "queued"


async def test_b6_a_signed_message_is_no_receipt_and_a_receipt_no_message(node, alice, bob):
    _, receipt = await sent_receipt(node, alice, bob)
    as_message = bob.keys.signing.sign1(RECEIPT_CONTEXT, receipt.to_bytes())
    await refused(node, post(as_message, alice), "forged")
    signed = sign(bob, message(bob, alice))
    await refused(node, post(receipts_to_bytes([signed]), alice, kind="receipts"), "forged")
    await refused(node, post(signed, alice, kind="receipts"), "invalid")


# The order of one sender (P3)


async def test_a_gap_shows_at_the_message_behind_it_and_closes_when_it_comes(node, alice, bob):
    def missing():
        return node.store.view.execute("SELECT number, upto FROM gaps").fetchall()

    for order in (1, 5):
        await node.mailbox.deliver(letter(bob, alice, order=order, body=str(order)), NODE)
    assert [each.missing for each in node.inbox(alice)] == [0, 3]
    assert [tuple(row) for row in missing()] == [(2, 4)]
    await node.mailbox.deliver(letter(bob, alice, order=3, body="3"), NODE)
    assert [tuple(row) for row in missing()] == [(2, 2), (4, 4)]
    for order in (4, 2):
        await node.mailbox.deliver(letter(bob, alice, order=order, body=str(order)), NODE)
    assert missing() == []
    assert node.bodies(alice) == ["1", "5", "3", "4", "2"]


async def test_order_numbers_of_a_new_epoch_start_again(node, alice, bob):
    await node.mailbox.deliver(letter(bob, alice, order=9), NODE)
    await node.mailbox.deliver(letter(bob, alice, order=1, epoch=b"restored"), NODE)
    assert [each.missing for each in node.inbox(alice)] == [8, 0]


# B8: what a relay or a stick brought


@pytest.mark.parametrize("via", ["relay", "bundle"])
async def test_b8_what_a_carrier_brought_is_answered_by_a_receipt_that_travels(
    node, alice, bob, via
):
    assert await node.mailbox.take([letter(bob, alice)], NODE, via) == [Taken("message")]
    row = node.store.view.execute("SELECT item, what, address, mailbox FROM outbox").fetchone()
    assert tuple(row)[1:] == ("receipt", "bob@there.local", bob.keys.mailbox)
    sealed = node.store.payload(row["item"]).sealed
    (signed,) = receipts_from_bytes(Letter.from_bytes(bob.keys.open(sealed)).signed)
    (key, payload) = open1(signed, RECEIPT_CONTEXT)
    assert (key, Receipt.from_bytes(payload).stage) == (alice.key, "delivered")


async def test_b8_a_second_copy_is_known_and_answered_once(node, alice, bob):
    envelope = letter(bob, alice)
    assert await node.mailbox.take([envelope], NODE, "relay") == [Taken("message")]
    assert await node.mailbox.take([envelope], NODE, "bundle") == [Taken("known")]
    assert node.store.view.execute("SELECT count(*) FROM outbox").fetchone()[0] == 1


async def test_b8_what_came_directly_was_answered_directly(node, alice, bob):
    await node.mailbox.take([letter(bob, alice)], NODE, "direct")
    assert node.store.view.execute("SELECT count(*) FROM outbox").fetchone()[0] == 0


@pytest.mark.parametrize("times", [{"at": START + 9 * DAY}, {"expires": START - 1}])
async def test_b7_what_a_carrier_brought_with_wrong_times_blocks_nothing_behind_it(
    node, alice, bob, times
):
    (answer,) = await node.mailbox.take([letter(bob, alice, **times)], NODE, "relay")
    assert isinstance(answer, Refused) and node.outbox() == []
    (answer,) = await node.mailbox.take([letter(bob, alice, **times)], NODE, "direct")
    assert isinstance(answer, Unavailable)


def letters_of(node, to):
    """The receipts in each letter of the outbox that is for an Agent: (message id, stage)."""
    found = []
    for row in node.outbox():
        plain = to.keys.open(node.store.payload(row["item"]).sealed)
        if row["key"] == to.key and plain is not None:
            signed = receipts_from_bytes(Letter.from_bytes(plain).signed)
            found.append([Receipt.from_bytes(open1(each, RECEIPT_CONTEXT)[1]) for each in signed])
    return found


async def test_b8_the_receipts_of_a_run_for_one_sender_are_one_letter(node, alice, bob, other):
    carol = await other.agent("carol")
    whats = [message(bob, alice, order=n + 1) for n in range(5)]
    run = [post(sign(bob, what), alice, card=bob.signed_card) for what in whats]
    run.insert(3, letter(carol, alice))
    before = node.records()
    assert await node.mailbox.take(run, NODE, "relay") == [Taken("message")] * 6
    (receipts,) = letters_of(node, bob)
    assert [each.message for each in receipts] == [what.id for what in whats]
    assert {each.stage for each in receipts} == {"delivered"}
    assert len(letters_of(node, carol)) == 1
    assert node.store.journal.checkpoint.seq - before == 6 + 2 * 2 + 2  # with cards and contacts


async def test_b8_a_relay_is_not_told_who_wrote_to_whom(tmp_path, clock, bob):
    async with fakes.node(tmp_path, "user", clock=clock, relays={NODE}) as user:
        alice = await user.agent("alice")
        assert await user.mailbox.deliver(letter(bob, alice), NODE) == Delivery("delivered", b"")
        assert (await user.mailbox.deliver(letter(bob, alice), b"p" * 32)).receipt


# B9: refusals that travel


async def brought(node, to, *letters):
    """What a relay brings to `node`; the receipts that it then holds for `to`."""
    await node.mailbox.take(list(letters), NODE, "relay")
    return [each for receipts in letters_of(node, to) for each in receipts]


async def written(node, alice, bob, other):
    """Alice of `other` wrote to bob of `node`: the id, and the letter that a relay brings."""
    await other.meet(node)
    sent = await other.send(bob, str(alice.address), "hello")
    (row,) = other.outbox()
    record = other.store.payload(row["item"])
    return sent.id, Envelope(row["mailbox"], row["expires"], record.sealed)


async def bring_back(node, other, to):
    """The letters of `node`'s outbox, brought to `other` by a relay."""
    for row in node.outbox():
        if row["key"] == to.key:
            record = node.store.payload(row["item"])
            envelope = Envelope(row["mailbox"], row["expires"], record.sealed)
            await other.mailbox.take([envelope], NODE, "relay")


async def test_b9_who_is_blocked_learns_of_it_through_the_relay_at_once(node, alice, bob, other):
    sent, envelope = await written(node, alice, bob, other)
    await node.meet(other)
    await node.contacts.block(str(bob.address), blocked=True)
    (receipt,) = await brought(node, bob, envelope)
    assert (receipt.stage, receipt.reason) == ("refused", "bob@there.local is blocked here")
    await bring_back(node, other, bob)
    (state,) = other.tracking.deliveries(bob, sent)[2]
    assert (state.status, state.error) == ("failed", "bob@there.local is blocked here")
    assert [proof.stage for proof in other.tracking.proofs(bob, sent)] == ["refused"]
    assert other.outbox() == []
    (notice,) = other.inbox(bob)
    assert notice.type == "system" and "is blocked here" in other.bodies(bob)[0]


async def test_b9_strangers_that_are_not_let_in_are_told(tmp_path, clock, bob, other):
    async with fakes.node(tmp_path, "shut", clock=clock, unknown_senders="reject") as shut:
        alice = await shut.agent("alice")
        sent, envelope = await written(shut, alice, bob, other)
        (receipt,) = await brought(shut, bob, envelope)
        assert receipt.stage == "refused" and shut.inbox(alice) == []
        await bring_back(shut, other, bob)
        assert other.status(bob, sent) == "failed"


async def test_b9_what_is_no_message_of_ours_is_told_to_nobody(node, alice, bob, other):
    carol = await node.agent("carol")
    for odd in (
        post(sign(bob, message(bob, carol)), alice, card=bob.signed_card),
        Envelope(alice.keys.mailbox, START + DAY, b"rubbish" * 20),
        post(b"rubbish", alice),
    ):
        (answer,) = await node.mailbox.take([odd], NODE, "relay")
        assert isinstance(answer, Refused) and node.outbox() == []


async def test_b9_what_comes_directly_is_refused_by_the_answer(node, alice, bob):
    await node.mailbox.take([letter(bob, alice, payload="{")], NODE, "direct")
    assert node.outbox() == []
    await node.mailbox.take([letter(bob, alice, payload="{")], NODE, "relay")
    (receipts,) = letters_of(node, bob)
    assert [each.stage for each in receipts] == ["refused"]


@pytest.mark.parametrize("order", [("delivered", "refused"), ("refused", "delivered")])
async def test_q5_a_refusal_never_takes_back_a_delivery(node, alice, bob, order):
    sent, receipt = await sent_receipt(node, alice, bob)
    for stage in order:
        what = fakes.replace(receipt, stage=stage, reason="no" if stage == "refused" else "")
        await node.mailbox.deliver(stamped(bob, what, alice), NODE)
    assert node.status(alice, sent) == "delivered"


async def test_q2_a_refusal_of_another_key_counts_for_nothing(node, alice, bob, other):
    carol = await other.agent("carol")
    sent, receipt = await sent_receipt(node, alice, bob, stage="refused", reason="no")
    await node.mailbox.deliver(stamped(carol, receipt, alice), NODE)
    wrong = fakes.replace(receipt, digest=b"d" * 32)
    await node.mailbox.deliver(stamped(bob, wrong, alice), NODE)
    assert node.status(alice, sent) == "queued"
    await node.mailbox.deliver(stamped(bob, receipt, alice), NODE)
    assert node.status(alice, sent) == "failed"


# B10: what comes together


async def test_b10_each_of_a_run_is_judged_alone_and_all_keep_their_order(node, alice, bob):
    run = [letter(bob, alice, order=n + 1, body=str(n)) for n in range(6)]
    run[1] = letter(bob, alice, payload="{")
    run[3] = Envelope(b"m" * 16, START, b"sealed")
    run[4] = post(b"rubbish", alice)
    codes = [getattr(each, "code", "kept") for each in await node.mailbox.take(run, NODE, "direct")]
    assert codes == ["kept", "invalid", "kept", "recipient_unknown", "invalid", "kept"]
    assert node.bodies(alice) == ["0", "2", "5"]


async def test_b10_twins_in_one_run_are_kept_once_and_only_those(node, alice, bob):
    first = message(bob, alice, body="first")
    second = fakes.replace(first, body="second")
    once, other_bytes = (post(sign(bob, what), alice) for what in (first, second))
    answers = await node.mailbox.take([once, once, other_bytes], NODE, "direct")
    assert [getattr(each, "what", "refused") for each in answers] == ["message", "known", "refused"]
    assert answers[0].receipt == answers[1].receipt and node.bodies(alice) == ["first"]


async def test_b10_nothing_passes_one_that_has_to_be_offered_again(node, alice, bob):
    carol = await node.agent("carol")
    run = [
        letter(bob, alice, at=START + 9 * DAY, order=1), letter(bob, alice, order=2),
        letter(bob, carol, order=1),
    ]  # fmt: skip
    late, behind, elsewhere = await node.mailbox.take(run, NODE, "direct")
    assert isinstance(late, Unavailable) and isinstance(behind, Unavailable)
    assert elsewhere.what == "message" and node.inbox(alice) == []


async def test_b10_what_is_stale_is_answered_before_the_next_one_is_begun(node, alice, bob):
    stale, good = (
        Envelope(alice.keys.mailbox, START + DAY, seal(OpeningKey.generate().public, b"x" * 600)),
        letter(bob, alice),
    )
    said = []

    def begin(place):
        return not said

    run = Run([stale, good], lambda place, outcome: said.append((place, outcome)), begin)
    await node.mailbox.deliver_run(run, NODE)
    ((place, outcome),) = said
    assert place == 0 and isinstance(outcome, StaleKey) and node.inbox(alice) == []


# B11: what strangers may bring


async def test_b11_a_stranger_brings_so_much_a_day_and_then_waits(node, alice, bob, clock):
    size = len(sign(bob, message(bob, alice, body="x" * 1000)))
    node.mailbox._strangers.each = Meters(2 * size + len(bob.signed_card) + 10)

    async def next_one(order, via="direct"):
        (answer,) = await node.mailbox.take(
            [letter(bob, alice, body="x" * 1000, order=order, at=clock.time)], NODE, via
        )
        return answer

    assert [(await next_one(n)).what for n in (1, 2)] == ["message"] * 2
    assert isinstance(late := await next_one(3), Unavailable)
    assert late.code == "quota_exceeded" and "min" in str(late)
    assert isinstance(await next_one(3, "relay"), Refused)
    clock.time += DAY // 2 + 1000
    assert (await next_one(3)).what == "message"
    assert isinstance(await next_one(4), Unavailable)
    await node.contacts.learn([bob.signed_card], NODE, "lan")
    await node.send(alice, str(bob.address), "write as much as you like")
    assert (await next_one(4)).what == "message"


async def test_b11_a_crowd_of_keys_brings_no_more_than_all_strangers_may(node, alice, other):
    node.mailbox._strangers.all = Meters(3000)
    answers = []
    for n in range(4):
        somebody = await other.agent(f"s{n}")
        answers += await node.mailbox.take([letter(somebody, alice, body="x" * 700)], NODE, "relay")
    assert [getattr(each, "what", "refused") for each in answers][-1] == "refused"
    assert answers[0].what == "message"
