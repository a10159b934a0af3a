"""A receipt is proof before others: nobody gets one for bytes that the recipient never had."""

import fakes
import pytest
import trio
from fakes import message, post, sign

from ampd.crypto.keys import open1
from ampd.model.errors import Refused
from ampd.model.message import RECEIPT_CONTEXT, Receipt, digest, id_text

NODE = b"n" * 32


@pytest.fixture
async def alice_and_bob(tmp_path):
    clock = fakes.Clock()
    async with (
        fakes.node(tmp_path, "here", clock=clock) as here,
        fakes.node(tmp_path, "there", clock=clock) as there,
    ):
        yield here, await here.agent("alice"), await there.agent("bob")


@pytest.fixture
def twins(alice_and_bob):
    """Two messages of bob's under one id."""
    _, alice, bob = alice_and_bob
    first = message(bob, alice, body="I quit")
    second = fakes.replace(first, body="I owe you a million")
    return [sign(bob, each) for each in (first, second)], id_text(first.id)


async def test_twins_that_come_in_one_moment_get_no_receipt_for_what_is_not_kept(
    alice_and_bob, twins
):
    here, alice, _ = alice_and_bob
    signed, _ = twins
    answers = {}

    async def offer(each):
        try:
            answers[each] = (await here.mailbox.deliver(post(each, alice), NODE)).receipt
        except Refused as exc:
            answers[each] = exc.code

    async with trio.open_nursery() as nursery:  # both are in the queue before either is written
        for each in signed:
            nursery.start_soon(offer, each)
    (body,) = here.bodies(alice)
    receipts = [answer for answer in answers.values() if isinstance(answer, bytes)]
    (proved,) = [Receipt.from_bytes(open1(each, RECEIPT_CONTEXT)[1]) for each in receipts]
    kept = signed[0] if body == "I quit" else signed[1]
    assert proved.digest == digest(kept)
    assert "forged" in answers.values()


async def test_a_deleted_message_gets_a_receipt_again_and_its_twin_does_not(alice_and_bob, twins):
    here, alice, _ = alice_and_bob
    (first, second), identifier = twins
    await here.mailbox.deliver(post(first, alice), NODE)
    await here.marks.delete(alice, [identifier])
    again = await here.mailbox.deliver(post(first, alice), NODE)
    assert open1(again.receipt, RECEIPT_CONTEXT)[0] == alice.key
    with pytest.raises(Refused, match="same id"):
        await here.mailbox.deliver(post(second, alice), NODE)
    assert here.bodies(alice) == []


async def test_the_same_holds_after_the_index_was_made_anew(alice_and_bob, twins):
    here, alice, _ = alice_and_bob
    (first, second), identifier = twins
    await here.mailbox.deliver(post(first, alice), NODE)
    await here.marks.delete(alice, [identifier])
    await here.store.rebuild()
    with pytest.raises(Refused, match="same id"):
        await here.mailbox.deliver(post(second, alice), NODE)
