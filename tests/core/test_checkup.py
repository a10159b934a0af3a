"""H1-H5 of the checkup: what is wrong is found and named, and what can be mended is."""

import pytest
import trio
from storage.mail import BOB, agents, answers, incoming, local, number, opened, outgoing, signed

from ampd.core.checkup import Checkup
from ampd.model.message import id_text
from ampd.storage.records import Kept


@pytest.fixture
async def store(tmp_path, nursery):
    found = opened(tmp_path, segment_bytes=4096)
    await nursery.start(found.run)
    await found.write(agents)
    for n in range(30):
        await found.write(local(f"letter {n} " * 20))
    await found.write(outgoing())
    await found.write(incoming(3))
    return found


@pytest.fixture
def checkup(store, tmp_path):
    return Checkup(store, tmp_path, lambda: 5)


def spoil(store, what):
    """Change one byte of the first place where the journal has `what`."""
    for path in sorted((store.index_path.parent / "journal").glob("*.log")):
        data = bytearray(path.read_bytes())
        at = data.find(what)
        if at >= 0:
            data[at] ^= 1
            path.write_bytes(data)
            return
    pytest.fail("it is not there")


def id_of(store, number_):
    row = store.view.execute(
        "SELECT m.id FROM messages m JOIN boxes b ON b.message=m.seq WHERE b.number=?", (number_,)
    ).fetchone()
    return id_text(row[0])


async def test_h1_h3_a_healthy_store_is_healthy(store, checkup, tmp_path):
    report = await checkup.run(repair=False)
    assert report.ok and report.damage == () and report.messages == 32
    assert not list(tmp_path.glob("check*"))


async def test_h1_h4_a_lost_message_is_named_written_off_and_hides_no_other(store, checkup):
    identifier = id_of(store, 6)
    spoil(store, b"letter 5 ")
    found = await checkup.run(repair=False)
    assert not found.ok and (identifier,) in [fault.ids for fault in found.damage]
    rows = store.view.execute("SELECT number FROM boxes ORDER BY number").fetchall()
    assert len(rows) == 31  # lists go on

    repaired = await checkup.run(repair=True)
    assert repaired.ok and repaired.repaired
    assert (identifier,) in [fault.ids for fault in repaired.damage]
    rows = [row[0] for row in store.view.execute("SELECT number FROM boxes ORDER BY number")]
    assert rows == [n for n in range(1, 32) if n != 6]

    clean = await checkup.run(repair=False)
    assert clean.ok and clean.damage == ()


async def test_h4_the_number_of_a_lost_message_stays_taken(store, checkup):
    spoil(store, (await store.write(last_body))[:40])
    await checkup.run(repair=True)
    before = answers(store)["holders"]
    await store.rebuild()
    assert answers(store)["holders"] == before
    assert await store.write(lambda tx: number(tx, BOB)) == 33


def last_body(tx):
    letter = signed(*_pair(), 99, "the very last " * 10, tx.now)
    tx.append(Kept(letter, tx.now, "local", True, b"", ((BOB.public, number(tx, BOB), 0, ""),)))
    return b"the very last " * 10


def _pair():
    from storage.mail import CAROL

    return CAROL, BOB


async def test_h2_a_message_whose_signature_does_not_hold_is_named(store, checkup):
    good = signed(*_pair(), 7)
    forged = good[:-1] + bytes([good[-1] ^ 1])
    await store.write(lambda tx: tx.append(Kept(forged, 1, "direct", True, b"", ())))
    report = await checkup.run(repair=False)
    assert not report.ok and len(report.damage) == 1 and len(report.damage[0].ids[0]) == 36


async def test_h3_h4_an_index_that_says_something_else_is_found_and_mended(store, checkup):
    before = answers(store)
    await store._chore(lambda: store._writer.index.db.execute("UPDATE boxes SET state=2"))
    found = await checkup.run(repair=False)
    assert not found.ok and "boxes" in found.damage[0].reason
    assert (await checkup.run(repair=True)).ok
    assert answers(store) == before
    assert (await checkup.run(repair=False)).damage == ()


async def test_h5_two_checks_at_once_do_not_meet_and_mail_goes_on(store, checkup):
    reports = []

    async def check():
        reports.append(await checkup.run(repair=False))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(check)
        nursery.start_soon(check)
        for _ in range(20):
            await store.write(local())
    assert [report.ok for report in reports] == [True, True]
