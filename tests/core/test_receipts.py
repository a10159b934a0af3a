"""Receipts that come: what they cost (core/receipts.py, Q6). What they do is in test_mailbox.py."""

import pytest
from core.test_cards import somebody
from fakes import START, post

from ampd.core import receipts
from ampd.core.receipts import receipt_for
from ampd.crypto.keys import open1
from ampd.model.errors import Refused
from ampd.model.message import MESSAGE_CONTEXT, Message, receipts_to_bytes

NODE = b"n" * 32


@pytest.fixture
def verified(monkeypatch):
    """The receipts whose signature was looked at."""
    found, opened = [], receipts.open1

    def counting(signed, context):
        found.append(signed)
        return opened(signed, context)

    monkeypatch.setattr(receipts, "open1", counting)
    return found


class Sent:
    """A message of alice's to bob, and what others say of it."""

    def __init__(self, identifier, message, signed):
        self.id, self._message, self._signed = identifier, message, signed

    def by(self, agent):
        return receipt_for(agent, self._message, self._signed, "delivered", START)


@pytest.fixture
async def sent(node, alice, bob):
    await node.contacts.learn([bob.signed_card], NODE, "lan")
    found = await node.send(alice, str(bob.address), "hello")
    (seq,) = node.store.view.execute("SELECT seq FROM messages").fetchone()
    signed = node.store.payload(seq).signed
    return Sent(found.id, Message.from_bytes(open1(signed, MESSAGE_CONTEXT)[1]), signed)


def post_all(signed, to):
    return post(receipts_to_bytes(signed), to, kind="receipts")


async def test_q6_receipts_of_whom_nobody_wrote_to_are_not_verified_and_not_written(
    node, alice, bob, verified, sent
):
    mallory = somebody(bob, "mallory")
    kept = node.records()
    flood = [sent.by(mallory) for _ in range(20)]
    flood += [each[:-1] + bytes([each[-1] ^ 1]) for each in flood]
    answer = await node.mailbox.deliver(post_all(flood, alice), NODE)
    assert (answer.status, verified, node.records()) == ("delivered", [], kept)
    assert node.status(alice, sent.id) == "queued"


async def test_q6_one_that_is_awaited_counts_among_many_that_are_not(
    node, alice, bob, verified, sent
):
    mallory = somebody(bob, "mallory")
    good = sent.by(bob)
    flood = [*(sent.by(mallory) for _ in range(20)), good, *(sent.by(mallory) for _ in range(20))]
    await node.mailbox.deliver(post_all(flood, alice), NODE)
    assert verified == [good] and node.status(alice, sent.id) == "delivered"


async def test_q6_one_that_is_forged_ends_the_letter(node, alice, bob, verified, sent):
    forged = sent.by(bob)[:-1] + b"?"
    with pytest.raises(Refused):
        await node.mailbox.deliver(post_all([forged] * 50, alice), NODE)
    assert verified == [forged]
