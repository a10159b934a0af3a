"""Mail on a stick: the rules of core/bundles.py."""

import fakes
import pytest

from ampd.core import bundles
from ampd.core.bundles import Bundles
from ampd.model.encoding import decode, encode
from ampd.model.errors import StorageError

BOB = "bob@there.local"


def of(node):
    return Bundles(node.store, node.agents, node.contacts, node.mailbox)


@pytest.fixture
async def ready(node, other, alice, bob):
    await node.meet(other)
    return node


async def carry(giver, taker, to=()):
    """All pages of a bundle, from one node to another; what reading did."""
    items, after = [], 0
    while True:
        page = of(giver).write(to, after)
        items += page.items
        after = page.next
        if not after:
            return await of(taker).read(items)


async def test_l1_an_item_shows_neither_sender_nor_words(ready, alice):
    await ready.send(alice, BOB, "a secret body", subject="a secret subject")
    card, letter = of(ready).write([], 0).items
    assert decode(card)["kind"] == "card" and decode(letter)["kind"] == "envelope"
    for word in (b"secret", b"alice", b"bob"):
        assert word not in letter


async def test_l1_an_altered_envelope_is_not_kept(ready, other, alice, bob):
    await ready.send(alice, BOB, "hello")
    fields = decode(of(ready).write([], 0).items[-1])
    sealed = fields["envelope"][2]
    fields["envelope"][2] = sealed[:-1] + bytes([sealed[-1] ^ 1])
    assert (await of(other).read([encode(fields)])).refused == 1
    assert other.bodies(bob) == []


async def test_l2_what_was_written_is_still_queued(ready, other, alice, bob):
    sent = await ready.send(alice, BOB, "hello")
    records = ready.records()
    first = of(ready).write([], 0)
    assert of(ready).write([], 0) == first
    assert (ready.records(), ready.status(alice, sent.id)) == (records, "queued")


async def test_l2_only_who_was_named_gets_a_copy(ready, other, alice):
    await other.agent("carol")
    await ready.meet(other)
    await ready.send(alice, BOB, "to bob")
    await ready.send(alice, "carol@there.local", "to carol")
    assert of(ready).write(["carol@there.local"], 0).envelopes == 1
    assert of(ready).write(["bob", "carol"], 0).envelopes == 2


async def test_l2_a_large_outbox_comes_in_pages(ready, other, alice, bob, monkeypatch):
    monkeypatch.setattr(bundles, "PAGE_BYTES", 3000)
    for n in range(10):
        await ready.send(alice, BOB, str(n))
    assert of(ready).write([], 0).next
    assert (await carry(ready, other)).messages == 10
    assert other.bodies(bob) == [str(n) for n in range(10)]


async def test_l3_reading_twice_keeps_one_and_the_receipt_comes_back_on_the_stick(
    ready, other, alice, bob
):
    sent = await ready.send(alice, BOB, "hello")
    assert (await carry(ready, other)).messages == 1
    assert (await carry(ready, other)).known == 1
    assert other.bodies(bob) == ["hello"]
    assert (await carry(other, ready)).receipts == 1
    assert ready.status(alice, sent.id) == "delivered"
    assert of(ready).write([], 0).envelopes == 0


async def test_l3_a_card_on_the_stick_is_enough_to_write_to_somebody(node, other, alice, bob):
    await carry(other, node)
    await node.send(alice, BOB, "hello")
    assert (await carry(node, other)).messages == 1


async def test_l4_what_is_refused_or_for_others_keeps_nothing_else_from_being_taken(
    ready, other, alice, bob
):
    for n in range(3):
        await ready.send(alice, BOB, str(n))
    items = list(of(ready).write([], 0).items)
    ahead = fakes.letter(alice, bob, order=9, at=fakes.START + 3 * fakes.DAY)
    elsewhere = fakes.letter(bob, alice)
    blocked = decode(items[1])
    blocked["envelope"][2] = b"no box"
    for each in (ahead, elsewhere):
        items.insert(1, encode({"v": 1, "kind": "envelope", "envelope": each.to_wire()}))
    items.insert(1, encode(blocked))
    taken = await of(other).read(items)
    assert (taken.messages, taken.refused, taken.elsewhere) == (3, 2, 1)


NO_ITEMS = {
    "nothing": b"",
    "no CBOR": b"\xff",
    "no members": b"\xa0",
    "of the future": encode({"v": 1, "kind": "thing"}),
    "of a later version": encode({"v": 2, "kind": "card", "card": b"x"}),
    "no card": encode({"v": 1, "kind": "card", "card": b"x"}),
    "no envelope": encode({"v": 1, "kind": "envelope", "envelope": [b"x" * 16, 1, 2]}),
}


@pytest.mark.parametrize("item", NO_ITEMS.values(), ids=NO_ITEMS)
async def test_l4_what_is_no_item_is_counted_and_what_lies_behind_it_is_taken(
    ready, other, alice, bob, item
):
    await ready.send(alice, BOB, "hello")
    taken = await of(other).read([item, *of(ready).write([], 0).items])
    assert (taken.refused, taken.cards, taken.messages) == (1, 1, 1)
    assert taken.reason


async def test_l4_a_failing_disk_ends_the_reading(ready, other, alice, monkeypatch):
    await ready.send(alice, BOB, "hello")

    async def fail(*_, **__):
        raise StorageError("No space left on device")

    monkeypatch.setattr(other.store, "write", fail)
    with pytest.raises(StorageError):
        await of(other).read([of(ready).write([], 0).items[-1]])


async def test_l4_of_what_was_refused_the_first_reason_is_told(ready, other, alice, bob):
    for text in ("hello", "again"):
        await ready.send(alice, BOB, text)
    items = [decode(each) for each in of(ready).write([], 0).items[1:]]
    for fields in items:
        fields["envelope"][2] = fields["envelope"][2][:-1] + b"?"
    taken = await of(other).read([encode(fields) for fields in items])
    assert taken.refused == 2
    assert taken.reason == "it does not open: damaged on its way, or sealed to a key that is gone"
    assert (await carry(ready, other)).reason == ""
