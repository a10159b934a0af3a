"""K1-K4 of the compaction, A1-A2 of the index, R1-R3 of the records."""

import pytest
from storage.mail import (
    ALICE,
    BOB,
    CAROL,
    agents,
    answers,
    deleted,
    incoming,
    local,
    opened,
    outgoing,
    rebuilt,
)

from ampd.storage.journal import Journal
from ampd.storage.records import (
    CardSeen,
    Contact,
    Kept,
    Progress,
    Released,
    from_bytes,
    grouped,
    part_from_bytes,
    to_bytes,
)


def on_disk(store):
    folder = store.index_path.parent / "journal"
    return b"".join(path.read_bytes() for path in sorted(folder.glob("*.log")))


@pytest.fixture
async def store(tmp_path, nursery):
    found = opened(tmp_path, segment_bytes=8192)
    await nursery.start(found.run)
    await found.write(agents)
    return found


def settle(identifier):
    return lambda tx: tx.append(
        Progress(identifier, ALICE.public, 0, "delivered", "direct", tx.now, "", b"receipt")
    )


async def test_k1_what_is_deleted_is_gone_from_the_disk_and_does_not_come_back(store):
    seqs = [await store.write(local(f"secret words {n} " * 20)) for n in range(60)]
    for seq in seqs[::2]:
        await store.write(deleted(seq))
    before = answers(store)
    assert b"secret words 4 " in on_disk(store)
    assert await store.clean(deleted_within=0) > 0
    assert b"secret words 4 " not in on_disk(store)
    assert b"secret words 5 " in on_disk(store)
    assert answers(store) | {"seen": []} == before | {"seen": []}
    assert rebuilt(store) == answers(store)
    assert store.payload(seqs[5]).kind == 1


async def test_k1_a_mark_outlives_the_message_that_it_deleted(store):
    """The message's segment is damaged, so it stays; what deleted it must stay too."""
    seq = await store.write(local("to be deleted"))
    for _ in range(30):
        await store.write(local("x" * 600))
    first = min((store.index_path.parent / "journal").glob("*.log"))
    data = bytearray(first.read_bytes())
    data[-40] ^= 1
    first.write_bytes(data)
    await store.write(deleted(seq))
    for _ in range(30):
        await store.write(local("y" * 600))
    await store.clean(deleted_within=0)
    await store.clean(deleted_within=0)
    assert seq not in [row[0] for row in rebuilt(store)["messages"]]


async def test_k1_sealed_letters_go_when_they_are_settled(store):
    identifiers = [await store.write(outgoing(sealed=b"sealed%d" % n * 200)) for n in range(40)]
    for identifier in identifiers:
        await store.write(settle(identifier))
    await store.clean(deleted_within=0)
    assert on_disk(store).count(b"sealed1sealed1") == 0
    assert rebuilt(store) == answers(store)


async def test_k2_numbers_survive_compaction_and_the_loss_of_the_index(store):
    seqs = [await store.write(local("z" * 500)) for _ in range(40)]
    seqs += [await store.write(incoming(order, "w" * 500)) for order in (1, 2, 5)]
    for seq in seqs:
        await store.write(deleted(seq))
    before = answers(store)
    await store.clean(deleted_within=0)
    after = rebuilt(store)
    assert [row[:4] for row in after["pairs_in"]] == [row[:4] for row in before["pairs_in"]]
    for table in ("pairs_out", "gaps", "holders"):
        assert after[table] == before[table]


async def test_k3_k4_a_crash_between_the_rewriting_and_the_index_costs_nothing(store):
    seqs = [await store.write(local(f"body {n} " * 60)) for n in range(60)]
    for seq in seqs[:30:2] + seqs[1:30:2][:9]:
        await store.write(deleted(seq))
    before = answers(store)
    dead = set(seqs) - {row[0] for row in before["messages"]}
    await store._chore(lambda: store.journal.compact(dead.__contains__, share=0))
    assert answers(store) == before
    for seq in set(seqs) - dead:
        assert isinstance(store.payload(seq), Kept)  # found, though its place is an old one
    await store.clean(deleted_within=0)
    assert rebuilt(store) == answers(store)


async def test_nothing_is_rewritten_before_it_is_worth_it(store):
    seqs = [await store.write(local("x" * 500)) for _ in range(30)]
    assert await store.clean() == 0
    await store._chore(lambda: store._writer.index.set_meta("cleaned_at", store._now()))
    await store.write(deleted(seqs[0]))
    assert await store.clean() == 0
    for seq in seqs[1:20]:
        await store.write(deleted(seq))
    assert await store.clean() > 0


async def test_a1_superseded_cards_and_contacts_go_and_the_answers_stay(store):
    card = CAROL.sign1(
        "ampd/card/1", b"\xa3gaddressxfaa@b.cfnumber\x01iwithdrawn\xf4".replace(b"xfa", b"e")
    )
    for n in range(60):
        await store.write(lambda tx: tx.append(Contact("c@d", CAROL.public, "seen", False, 1, "x")))
        await store.write(lambda tx, n=n: tx.append(CardSeen(card, b"n" * 200, n)))
        await store.write(local("x" * 300))
    for row in answers(store)["messages"][:40]:
        await store.write(deleted(row[0]))
    await store.clean(deleted_within=0)
    kinds = [record.kind for _, record, _ in store.records()]
    assert kinds.count(7) < 40 and kinds.count(8) < 40
    assert rebuilt(store) == answers(store)


async def test_a2_a_lost_agent_record_hides_no_message(store):
    seq = await store.write(local())
    first = min((store.index_path.parent / "journal").glob("*.log"))
    data = bytearray(first.read_bytes())
    at = data.index(BOB.public)
    data[at] ^= 1
    first.write_bytes(data)
    assert [row[0] for row in rebuilt(store)["messages"]] == [seq]


def test_r1_r2_a_record_says_after_the_journal_what_it_said_before():
    record = Released(b"a" * 32, 3, 4, 5)
    assert from_bytes(to_bytes(record)) == record
    kept = Kept(b"signed", 1, "direct", True, b"", ((b"b" * 32, 1, 0, ""),), ("flag",), "key")
    assert from_bytes(to_bytes(kept, 7)).missing == 7
    assert from_bytes(to_bytes(kept)) == kept


def test_r3_parts_name_their_group_and_are_records_of_their_own():
    parts = grouped([to_bytes(Released(b"a", n, n, n)) for n in range(300)])
    assert part_from_bytes(parts[299]) == (Released(b"a", 299, 299, 299), 299, 300)
    assert from_bytes(parts[0]) == Released(b"a", 0, 0, 0)


def test_the_journal_can_be_told_to_begin_a_segment(tmp_path):
    journal = Journal.open(tmp_path / "journal", b"k" * 32)
    journal.rotate()
    assert journal.sealed == []
    journal.append([b"one"])
    journal.rotate()
    assert [(first, until) for first, until, _ in journal.sealed] == [(1, 2)]
    journal.close()
