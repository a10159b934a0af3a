"""Z1-Z3: receipts that came together are written together, and none waits for another's trouble."""

import pytest
import trio

from ampd.core import settling
from ampd.core.receipts import receipt_for
from ampd.core.settling import Settled, Settling
from ampd.crypto.keys import open1
from ampd.model.errors import StorageError
from ampd.model.message import RECEIPT_CONTEXT, Message, Receipt, id_text
from ampd.storage.index import read_payload
from ampd.storage.records import Deleted


@pytest.fixture
async def sent(node, other, alice, bob):
    """The ids of three letters that wait."""
    await node.meet(other)
    return [(await node.send(alice, "bob@there.local", str(number))).id for number in range(3)]


def answers(node, bob):
    """Each letter that waits, with what its recipient signed."""
    letters = node.transfer._letters
    return [answer(node, bob, item) for item in letters.waiting("ORDER BY o.item")]


def answer(node, bob, item):
    kept = node.transfer._letters.message(item)[0].signed
    signed = receipt_for(bob, Message.from_bytes(read_payload(kept)), kept, "delivered", 1)
    return Settled(item, Receipt.from_bytes(open1(signed, RECEIPT_CONTEXT)[1]), signed)


async def settle_together(node, found):
    settling = Settling(node.store, node.agents)
    async with trio.open_nursery() as nursery:
        for one in found:
            nursery.start_soon(settling.settle, one)


async def test_z1_what_came_together_is_settled_and_gone_from_the_outbox(node, alice, bob, sent):
    await settle_together(node, answers(node, bob))
    assert [node.status(alice, each) for each in sent] == ["delivered"] * 3
    assert node.outbox() == []


async def test_z1_a_receipt_that_is_known_only_ends_its_letter(node, alice, bob, sent):
    found = answers(node, bob)
    await settle_together(node, found)
    await settle_together(node, found)
    assert [node.status(alice, each) for each in sent] == ["delivered"] * 3


async def test_z3_a_letter_whose_message_is_gone_keeps_no_other_from_its_end(
    node, alice, bob, sent
):
    found = answers(node, bob)
    await node.store.write(
        lambda tx: tx.append(Deleted(alice.key, found[1].item.message, alice.key, 1, 1))
    )
    await settle_together(node, found)
    assert [node.status(alice, each) for each in (sent[0], sent[2])] == ["delivered"] * 2
    assert node.outbox() == []


async def test_z3_a_record_that_cannot_be_read_is_that_letters_trouble_alone(
    node, alice, bob, sent, monkeypatch
):
    found, note = answers(node, bob), settling.note_believed

    def damaged(tx, agents, by, key, receipt, *rest):
        if receipt.message == found[1].item.message:
            raise StorageError("a record is damaged")
        return note(tx, agents, by, key, receipt, *rest)

    monkeypatch.setattr(settling, "note_believed", damaged)
    with pytest.RaisesGroup(StorageError):
        await settle_together(node, found)
    assert [node.status(alice, each) for each in sent] == ["delivered", "queued", "delivered"]


async def test_z2_what_came_together_is_written_in_the_order_of_the_outbox(node, bob, sent):
    await settle_together(node, reversed(answers(node, bob)))
    written = node.store.view.execute(
        "SELECT m.id FROM deliveries d JOIN messages m ON m.seq=d.message ORDER BY d.changed"
    )
    assert [id_text(row[0]) for row in written] == sent
