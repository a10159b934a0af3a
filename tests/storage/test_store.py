"""T1-T6, E1-E5 of the store and its writer, X1-X3 of the index, P10."""

import contextlib
import errno
import os
import shutil
import sqlite3
import subprocess

import pytest
import trio
from faults.memory_disk import MemoryDisk
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from storage.mail import (
    ALICE,
    BOB,
    agents,
    answers,
    deleted,
    incoming,
    local,
    number,
    opened,
    order,
    outgoing,
    signed,
)

from ampd.model.errors import Invalid, StorageError
from ampd.storage.records import Kept, Marked, Progress, State
from ampd.storage.transaction import Work
from ampd.storage.writer import Writer


def scenario(folder, *works, **how):
    """Run the works, one after the other; the store, closed, and what each came to."""

    async def live():
        store = opened(folder, **how)
        results = []
        async with trio.open_nursery() as nursery:
            await nursery.start(store.run)
            for work in works:
                results += [await store.write(work)]
            nursery.cancel_scope.cancel()
        found = answers(store)
        store.close()
        return found, results

    return trio.run(live)


def reopened(folder, **how):
    store = opened(folder, **how)
    found, rebuilt = answers(store), store.rebuilt
    store.close()
    return found, rebuilt


@pytest.fixture
async def store(tmp_path, nursery):
    found = opened(tmp_path)
    await nursery.start(found.run)
    await found.write(agents)
    return found


async def test_t1_t2_works_run_in_order_and_share_syncs(tmp_path, nursery):
    disk = MemoryDisk()
    store = opened(tmp_path, disk=disk)
    await nursery.start(store.run)
    await store.write(agents)
    before, seqs = disk.calls["sync"], []

    async def send():
        seqs.append(await store.write(local()))

    async with trio.open_nursery() as senders:
        for _ in range(200):
            senders.start_soon(send)
    assert disk.calls["sync"] - before <= 20
    rows = store.view.execute("SELECT number, message FROM boxes ORDER BY number").fetchall()
    assert [tuple(row) for row in rows] == list(enumerate(sorted(seqs), 1))


async def test_t3_e1_a_work_that_raises_leaves_nothing_and_its_error_is_its_callers(store):
    def fails(error):
        def work(tx):
            local()(tx)
            raise error

        return work

    before, seq = answers(store), store.journal.checkpoint.seq
    for error in (Invalid("no"), KeyError("a bug"), ZeroDivisionError()):
        with pytest.raises(type(error)):
            await store.write(fails(error))
    assert answers(store) == before
    assert store.journal.checkpoint.seq == seq
    await store.write(local())


async def test_w2_h1_what_a_failed_work_counted_is_not_remembered(store):
    def sends(tx):
        return local()(tx), tx.rows.next_number(BOB.public), order(tx, ALICE, BOB)

    def fails(tx):
        sends(tx)
        sends(tx)
        raise Invalid("changed its mind")

    assert (await store.write(sends))[1:] == (2, 2)
    async with trio.open_nursery() as senders:  # one batch: the works before and behind it stay
        senders.start_soon(store.write, sends)
        senders.start_soon(is_refused, store, fails)
        senders.start_soon(store.write, sends)
    assert (await store.write(sends))[1:] == (5, 5)
    rows = store.view.execute("SELECT number FROM boxes ORDER BY number").fetchall()
    assert [row[0] for row in rows] == [1, 2, 3, 4]


async def test_w1_a_work_reads_what_it_has_just_appended(store):
    def work(tx):
        seq = local()(tx)
        return tx.db.execute("SELECT message FROM boxes WHERE message=?", (seq,)).fetchone()[0], seq

    found, seq = await store.write(work)
    assert found == seq


def test_w3_rows_that_went_in_one_by_one_and_all_at_once_are_the_same(tmp_path):
    works = [work for at in range(1, 6) for work in (local(), incoming(at))]
    one_by_one, _ = scenario(tmp_path, agents, *works)
    (tmp_path / "index.sqlite").unlink()
    all_at_once, rebuilt = reopened(tmp_path)  # a rebuild lets up to MOST messages wait
    assert rebuilt and all_at_once == one_by_one


async def is_refused(store, work):
    with pytest.raises(Invalid):
        await store.write(work)


async def test_t4_t3_after_a_failed_sync_nothing_refused_appears_and_it_goes_on(tmp_path, nursery):
    disk = MemoryDisk()
    store = opened(tmp_path, disk=disk)
    await nursery.start(store.run)
    await store.write(agents)
    kept = []
    for error, call in ((errno.EIO, "sync"), (errno.ENOSPC, "write"), (errno.EIO, "write")):
        kept.append(await store.write(local()))
        disk.fail = {(call, disk.calls[call] + 1): error}
        with pytest.raises(StorageError):
            await store.write(local("refused"))
        kept.append(await store.write(local()))
    rows = store.view.execute("SELECT seq FROM messages ORDER BY seq").fetchall()
    assert [row[0] for row in rows] == kept
    assert [seq for seq, record, _ in store.records() if record.kind == 1] == kept


async def test_t5_followers_are_woken_after_the_sync(store):
    changed = store.changed(("box", BOB.public))
    assert not changed.is_set()
    await store.write(local())
    await changed.wait()
    assert store.view.execute("SELECT count(*) FROM boxes").fetchone()[0] == 1


async def test_t6_who_writes_after_the_end_gets_an_answer(tmp_path):
    store = opened(tmp_path)
    async with trio.open_nursery() as nursery:
        await nursery.start(store.run)
        await store.write(agents)
        nursery.cancel_scope.cancel()
    with pytest.raises(StorageError, match="ended"):
        await store.write(local())
    store.close()


async def test_t6_an_error_of_the_writing_thread_ends_run_and_answers_who_waits(tmp_path):
    store = opened(tmp_path)

    def broken(_batch):
        raise ZeroDivisionError

    store._writer.commit = broken
    said = []

    async def write():
        with pytest.raises(StorageError):
            await store.write(local())
        said.append("refused")

    with pytest.RaisesGroup(pytest.RaisesGroup(ZeroDivisionError)):
        async with trio.open_nursery() as nursery:
            await nursery.start(store.run)
            with trio.CancelScope(shield=True):
                async with trio.open_nursery() as writers:
                    writers.start_soon(write)
                    writers.start_soon(write)
    assert said == ["refused", "refused"]
    store.close()


# --- the index is a cache ------------------------------------------------------------------


def garble(path):
    data = bytearray(path.read_bytes())
    for at in range(4096, len(data), 4096):
        data[at : at + 64] = os.urandom(64)
    path.write_bytes(data)


def older(path):
    db = sqlite3.connect(path)
    db.execute("UPDATE meta SET value=0 WHERE name='version'")
    db.commit()
    db.close()


HARMS = {
    "deleted": lambda path: path.unlink(),
    "emptied": lambda path: path.write_bytes(b""),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:5000]),
    "zeroed": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "garbled": garble,
    "older": older,
    "no index": lambda path: path.write_bytes(b"something else" * 100),
}


@pytest.mark.parametrize("harm", HARMS)
def test_x1_whatever_befell_the_index_the_same_answers_come_back(tmp_path, harm):
    before, _ = scenario(tmp_path, agents, local(), outgoing(), incoming(3), incoming(2))
    HARMS[harm](tmp_path / "index.sqlite")
    assert reopened(tmp_path) == (before, True)
    assert reopened(tmp_path) == (before, False)


@pytest.mark.parametrize("harm", ["deleted", "cut", "zeroed", "garbled"])
async def test_x1_i2_an_index_harmed_while_it_is_used_is_made_anew(store, harm):
    for n in range(40):
        await store.write(local("x" * 500 * (n % 5)))
    before = answers(store)
    store._writer.index.db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    store._view.close()
    HARMS[harm](store.index_path)
    for _ in range(100):
        try:
            store.view.execute("SELECT * FROM messages JOIN boxes ON message=seq").fetchall()
            await store.write(local())
        except StorageError:
            await trio.testing.wait_all_tasks_blocked(0.05)
        else:
            break
    await store.rebuild()
    found = answers(store)
    assert found["messages"][: len(before["messages"])] == before["messages"]
    assert found["deliveries"][: len(before["deliveries"])] == before["deliveries"]


async def test_i1_a_rebuild_while_a_reader_is_open_harms_neither(store):
    await store.write(local())
    reader = store.reader()
    reader.execute("BEGIN")
    assert reader.execute("SELECT count(*) FROM messages").fetchone()[0] == 1
    await store.rebuild()
    await store.write(local())
    assert reader.execute("SELECT count(*) FROM messages").fetchone()[0] == 1
    reader.close()
    await store.write(local())
    assert store.view.execute("SELECT count(*) FROM messages").fetchone()[0] == 3
    assert store.view.execute("PRAGMA integrity_check").fetchone()[0] == "ok"


def test_x2_x3_an_index_from_before_catches_up(tmp_path):
    scenario(tmp_path, agents, local())
    shutil.copy(tmp_path / "index.sqlite", tmp_path / "kept")
    after, _ = scenario(tmp_path, local(), outgoing())
    shutil.copy(tmp_path / "kept", tmp_path / "index.sqlite")
    (tmp_path / "index.stamp").unlink()
    assert reopened(tmp_path) == (after, False)


def several(tx):
    """Sends in one work, which share statements, by what is remembered of the counts."""
    for _ in range(3):
        box = (BOB.public, tx.rows.next_number(BOB.public), int(State.UNREAD), "")
        letter = signed(ALICE, BOB, tx.rows.next_order(ALICE.public, BOB.public), at=tx.now)
        tx.append(Kept(letter, tx.now, "local", True, ALICE.public, (box,)))


def fickle(tx):
    several(tx)
    raise Invalid("changed its mind")


def marked(tx):
    last = number(tx, BOB) - 1
    if last:
        tx.append(Marked(BOB.public, (1, last), 1, tx.now))


def settled(tx):
    row = tx.db.execute("SELECT message, recipient FROM outbox ORDER BY item").fetchone()
    if row:
        by = tx.db.execute("SELECT key FROM holders WHERE name='alice'").fetchone()[0]
        tx.append(Progress(row[0], by, row[1], "delivered", "direct", tx.now, "", b"r" * 90))


def delete_first(tx):
    row = tx.db.execute(
        "SELECT seq FROM messages m WHERE NOT EXISTS"
        " (SELECT 1 FROM outbox o WHERE o.message=m.id) ORDER BY seq"
    ).fetchone()
    if row:
        deleted(row[0])(tx)


STEPS = st.sampled_from(
    [
        local(), outgoing(), incoming(1), incoming(5), incoming(3), marked, settled, delete_first,
        several, fickle,
    ]
)  # fmt: skip


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(works=st.lists(STEPS, max_size=14), cleaned=st.booleans())
def test_x1_p10_the_answers_are_those_of_the_journal_after_a_kill_or_a_compaction_too(
    tmp_path_factory, works, cleaned
):
    folder = tmp_path_factory.mktemp("node")

    async def live():
        store = opened(folder, segment_bytes=4096)
        async with trio.open_nursery() as nursery:
            await nursery.start(store.run)
            await store.write(agents)
            for work in works:
                with contextlib.suppress(Invalid):  # of a fickle work, which leaves nothing
                    await store.write(work)
            if cleaned:
                await store.clean(deleted_within=0)
            nursery.cancel_scope.cancel()
        before = answers(store)
        for name in ("killed", "anew"):
            shutil.copytree(folder, folder.with_name(folder.name + name))
        store.close()
        return before

    before = trio.run(live)
    assert reopened(folder)[0] == before
    assert reopened(folder.with_name(folder.name + "killed"))[0] == before
    anew = folder.with_name(folder.name + "anew")
    (anew / "index.sqlite").unlink()
    assert reopened(anew) == (before, True)


@pytest.fixture
def small_disk(tmp_path):
    if os.geteuid():
        pytest.skip("needs root to mount a tmpfs")
    place = tmp_path / "small"
    place.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", place], capture_output=True, check=False
    )
    if done.returncode:
        pytest.skip(f"cannot mount: {done.stderr.decode()}")
    yield place
    subprocess.run(["umount", "-l", place], check=True)


def fill(path):
    with path.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(65536))


async def refused(store):
    for _ in range(2000):
        try:
            await store.write(local("y" * 20_000))
        except StorageError:
            return
    pytest.fail("a full disk takes everything")


async def test_e3_e4_p5_with_a_full_disk_marks_go_on_and_mail_comes_back_with_room(
    small_disk, nursery
):
    store = opened(small_disk)
    await nursery.start(store.run)
    await store.write(agents)
    await store.write(local())
    filler = small_disk / "filler"
    fill(filler)
    await refused(store)
    for state in (1, 0) * 100:
        await store.write(
            lambda tx, s=state: tx.append(Marked(BOB.public, (1,), s, tx.now)), urgent=True
        )
        row = store.view.execute("SELECT state FROM boxes WHERE number=1").fetchone()
        assert row[0] == state
    with pytest.raises(StorageError, match="full"):
        await store.write(local())
    filler.unlink()
    await store.write(local())
    store._view.close()


class Crowded:
    """An index's connection, on a disk that has no room for a COMMIT while `full`."""

    def __init__(self, db):
        self.db, self.full = db, True

    def execute(self, sql, *values):
        if self.full and sql == "COMMIT":
            error = sqlite3.OperationalError("database or disk is full")
            error.sqlite_errorcode = sqlite3.SQLITE_FULL
            raise error
        return self.db.execute(sql, *values)

    def __getattr__(self, name):
        return getattr(self.db, name)


@pytest.mark.parametrize("together", [1, 2])
def test_e3_whom_the_index_woke_too_early_is_woken_when_it_follows(tmp_path, together):
    def broken(_tx):
        raise sqlite3.OperationalError("disk I/O error")

    def boxes():
        return writer.index.db.execute("SELECT count(*) FROM boxes").fetchone()[0]

    writer = Writer(tmp_path, b"k" * 32, lambda: 1)
    writer.commit([Work(agents, urgent=True)])
    disk = writer.index._db = Crowded(writer.index._db)
    woken = writer.commit([Work(local(), urgent=True)])
    assert (("box", BOB.public) in woken, writer.behind) == (True, True)
    disk.full = False
    woken = writer.commit([Work(broken, urgent=True) for _ in range(together)])
    assert (("box", BOB.public) in woken, boxes()) == (True, 1)
    writer.close()


def test_e3_whom_a_new_segment_finds_behind_is_woken_once(tmp_path):
    writer = Writer(tmp_path, b"k" * 32, lambda: 1)
    writer.commit([Work(agents, urgent=True)])
    disk = writer.index._db = Crowded(writer.index._db)
    writer.commit([Work(local(), urgent=True)])
    disk.full = False
    writer.rotate()
    assert ("box", BOB.public) in writer.owed()
    assert writer.owed() == set()
    writer.close()


async def test_e3_a_new_index_wakes_all_for_the_old_one_may_not_have_followed(store):
    changed = store.changed(("box", BOB.public))
    await store.rebuild()
    with trio.fail_after(10):
        await changed.wait()


@pytest.mark.parametrize("name", ["index.sqlite", "index.new.sqlite"])
def test_an_index_that_cannot_be_made_is_named(tmp_path, name):
    (tmp_path / name).mkdir()
    with pytest.raises(StorageError, match="the index cannot be made") as refused:
        opened(tmp_path)
    assert str(tmp_path) in refused.value.hint


def test_e5_damage_and_a_torn_tail_are_logged_when_they_are_found(tmp_path, caplog):
    scenario(tmp_path, agents, local("the first"), local("the second"))
    (segment,) = (tmp_path / "journal").glob("*.log")
    data = bytearray(segment.read_bytes())
    data[data.index(b"the first")] ^= 1
    segment.write_bytes(bytes(data) + b"torn")
    (tmp_path / "index.sqlite").unlink()
    opened(tmp_path).close()
    said = {record.message: record for record in caplog.records}
    assert said["the journal is damaged"].segment == 1
    assert said["the journal is damaged"].hint == "amp check"
    assert said["a crash cut off what nobody was told of"].places == 1
