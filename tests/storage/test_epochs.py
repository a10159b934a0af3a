"""A sender that makes up epochs makes no more rows than rows.py, H2, lets it."""

import pytest
from storage.mail import (
    ALICE,
    BOB,
    CAROL,
    Clock,
    agents,
    answers,
    deleted,
    incoming,
    opened,
    rebuilt,
    signed,
)

from ampd.storage.records import Counters, Kept, State
from ampd.storage.rows import EPOCHS


@pytest.fixture
async def store(tmp_path, nursery):
    found = opened(tmp_path / "node", Clock(), segment_bytes=8192)
    await nursery.start(found.run)
    await found.write(agents)
    return found


def epoch(number):
    return bytes([255 - number]) * 8  # the newest sorts first: the order is none of the bytes


def epochs(store, table="pairs_in", sender=CAROL):
    """Of which epochs there are rows."""
    return {row[2] for row in answers(store)[table] if row[1] == sender.public}


def newest(count):
    return {epoch(number) for number in range(count - EPOCHS, count)}


async def test_h2_the_oldest_epochs_of_a_pair_go_with_their_gaps(store):
    for number in range(EPOCHS + 4):
        await store.write(incoming(3, epoch=epoch(number)))
    assert epochs(store) == epochs(store, "gaps") == newest(EPOCHS + 4)
    assert rebuilt(store) == answers(store)


async def test_h2_an_old_epoch_that_goes_on_is_counted_where_it_was(store):
    for order in (1, 2):
        for number in range(EPOCHS):
            await store.write(incoming(order, epoch=epoch(number)))
    await store.write(incoming(4, epoch=epoch(0)))
    rows = {row[2]: row[3] for row in answers(store)["pairs_in"]}
    assert rows == {epoch(0): 4} | {epoch(number): 2 for number in range(1, EPOCHS)}
    await store.write(incoming(1, epoch=epoch(EPOCHS)))
    assert epoch(0) not in epochs(store) and not epochs(store, "gaps")


async def test_h2_in_one_work_as_in_many(store):
    def work(tx):
        for number in range(EPOCHS + 4):
            incoming(1, epoch=epoch(number))(tx)

    await store.write(work)
    assert epochs(store) == newest(EPOCHS + 4)
    assert rebuilt(store) == answers(store)


async def test_h2_one_sender_costs_another_nothing(store):
    def of_alice(tx):
        box = (BOB.public, tx.rows.next_number(BOB.public), int(State.UNREAD), "")
        tx.append(Kept(signed(ALICE, BOB, 1, at=tx.now), tx.now, "direct", True, b"", (box,)))

    await store.write(of_alice)
    for number in range(EPOCHS + 4):
        await store.write(incoming(1, epoch=epoch(number)))
    assert epochs(store, sender=ALICE) == {bytes(8)}


async def test_h2_a1_after_a_compaction_the_same_epochs_go(store):
    seqs = [
        await store.write(incoming(2, "w" * 500, epoch=epoch(number))) for number in range(EPOCHS)
    ]
    for seq in seqs:
        await store.write(deleted(seq))
    assert await store.clean(deleted_within=0)
    assert epochs(store) == newest(EPOCHS)
    assert rebuilt(store) == answers(store)
    for number in range(EPOCHS, EPOCHS + 3):
        await store.write(incoming(2, epoch=epoch(number)))
    assert epochs(store) == epochs(store, "gaps") == newest(EPOCHS + 3)
    assert rebuilt(store) == answers(store)


async def test_h2_a_snapshot_with_more_epochs_is_cut(store):
    """As a version wrote it that counted all of them."""
    pairs = [(BOB.public, CAROL.public, epoch(number)) for number in range(EPOCHS + 4)]
    rows = tuple((*pair, 5) for pair in pairs)
    gaps = tuple((*pair, 1, 2, 1) for pair in pairs)
    await store.write(lambda tx: tx.append(Counters((), (), rows, gaps)))
    assert epochs(store) == epochs(store, "gaps") == newest(EPOCHS + 4)


async def test_h2_w3_an_epoch_is_as_old_as_its_first_letter_also_within_one_work(store):
    def work(tx):
        for number, order in ((0, 1), (1, 1), (0, 2)):
            incoming(order, epoch=epoch(number))(tx)

    await store.write(work)
    for number in range(2, EPOCHS + 1):
        await store.write(incoming(1, epoch=epoch(number)))
    assert epochs(store) == newest(EPOCHS + 1)
