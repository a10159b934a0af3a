"""What the relay's SQLite store promises beside the contract: RQ1-RQ4, and RS8 for it."""

import gc
import random
import sqlite3
import subprocess
import sys
import tracemalloc
from dataclasses import replace
from pathlib import Path

import pytest
import trio
from contracts.relay_stores import (
    ALICE,
    NODE,
    NOW,
    SMALL,
    SqliteSite,
    letter,
    numbers,
    serving,
)

from ampd.model.errors import StorageError
from ampd.storage.relay_store.port import DAY, Full, Limits
from ampd.storage.relay_store.sqlite import SqliteRelayStore

DEPOSITOR = Path(__file__).with_name("relay_depositor.py")
KILLS = 5


@pytest.fixture
def site(tmp_path):
    return SqliteSite(tmp_path)


async def test_rq1_every_commit_is_synced(site):
    async with site.store() as store:
        db = store._connect()
        assert db.execute("PRAGMA synchronous").fetchone() == (2,)
        assert db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        db.close()


async def test_rq1_nothing_answered_is_lost_and_nothing_is_doubled_when_it_is_killed(tmp_path):
    chance, path = random.Random(5), tmp_path / "relay.sqlite"
    answered, first = set(), 0
    for _ in range(KILLS):
        command = [sys.executable, DEPOSITOR, path, str(first)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as program:  # noqa: ASYNC220
            lines = chance.randrange(1, 400)
            said = [program.stdout.readline() for _ in range(lines)]
            program.kill()
            said += program.stdout.read().splitlines(keepends=True)
        answered |= {int(line) for line in said if line.endswith("\n")}
        first = max(answered) - 20  # some again: nobody knows which answers were on their way
    async with serving(SqliteRelayStore(path, Limits(), lambda: DAY)) as store:
        held, cursor = [], None
        while page := await store.after(bytes(16), cursor, 1000):
            held += numbers(page)
            cursor = page[-1].token
        usage = await store.usage(bytes(16))
    assert len(held) == len(set(held)) and answered <= set(held)
    assert (usage.messages, usage.bytes) == (len(held), 400 * len(held))


async def test_rq2_the_files_are_their_owners_only(site):
    async with site.store() as store:
        await store.deposit(letter(1))
        modes = {each.name: each.stat().st_mode & 0o777 for each in site.path.parent.iterdir()}
    assert modes.pop("relay.sqlite") == 0o600
    assert set(modes.values()) == {0o600}


async def test_rq2_an_invitation_is_added_while_a_relay_serves(site):
    async with site.store() as relay:
        await relay.deposit(letter(1))
        async with site.store() as command:
            assert await command.count() == 1
            await command.add_invitation(NODE, NOW + 1000, 1)
        assert await relay.redeem(NODE, NODE, NOW)


async def test_rq3_the_kept_counts_are_what_counting_finds(site):
    chance = random.Random(3)
    async with site.store(Limits()) as store:
        for step in range(300):
            box = bytes([chance.randrange(4)]) * 16
            if chance.random() < 0.6:
                expires = site.clock + chance.choice([2000, 50_000])
                size = chance.randrange(4, 900)
                await store.deposit(letter(step, size, box, expires))
            elif chance.random() < 0.9:
                page = await store.after(box, None, 9)
                chosen = [held.token for held in page if chance.random() < 0.5]
                await store.remove(box, chosen)
            else:
                site.clock += 900
                await store.expire(site.clock)
    db = sqlite3.connect(site.path)
    kept = db.execute("SELECT mailbox, messages, bytes FROM boxes ORDER BY mailbox").fetchall()
    found = "SELECT mailbox, count(*), sum(length(sealed)) FROM mail GROUP BY mailbox ORDER BY 1"
    assert kept == db.execute(found).fetchall()
    assert len(kept) > 1
    totals = (sum(row[1] for row in kept), sum(row[2] for row in kept))
    assert db.execute("SELECT messages, bytes FROM totals").fetchone() == totals
    db.close()


async def test_rq4_a_disk_without_room_takes_no_mail_but_lets_it_go(site):
    async with site.store() as store:
        await store.deposit(letter(1))
    async with site.store(replace(SMALL, spare_bytes=1 << 60)) as store:
        with pytest.raises(Full, match="the disk is full"):
            await store.deposit(letter(2))
        [held] = await store.after(ALICE, None, 9)
        await store.remove(ALICE, [held.token])
        assert await store.count() == 0
    async with site.store() as store:
        assert await store.deposit(letter(2))


async def test_a_file_from_a_newer_ampd_is_left_alone(site):
    async with site.store():
        pass
    db = sqlite3.connect(site.path)
    db.execute("PRAGMA user_version=99")
    db.close()
    with pytest.raises(BaseExceptionGroup) as group:
        async with site.store():
            pass
    assert group.group_contains(StorageError, match="newer")


async def test_what_ended_leaves_no_row_behind_and_gives_its_room_back(site):
    async with site.store(Limits()) as store:
        for number in range(1200):
            await store.deposit(letter(number, 4000, number.to_bytes(16, "big"), NOW + 5000))
        await store.add_invitation(NODE, NOW + 5000, 1)
        assert await store.expire(NOW + 5000) == 1200
        assert await store.count() == 0
    db = sqlite3.connect(site.path)
    for table in ("mail", "marks", "boxes", "invitations"):
        assert db.execute(f"SELECT count(*) FROM {table}").fetchone() == (0,)
    free, pages = (
        db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("freelist_count", "page_count")
    )
    assert free <= pages < 1100
    db.close()


def held_by_the_store():
    """Bytes that lines of the store asked for, or what they called, and that are still in use."""
    gc.collect()
    lines = tracemalloc.take_snapshot().statistics("traceback")
    return sum(
        each.size
        for each in lines
        if any("relay_store/" in frame.filename for frame in each.traceback)
    )


async def test_rs8_memory_does_not_grow_with_the_mailboxes(site):
    async def deposits(store, first, last):
        for start in range(first, last, 100):
            async with trio.open_nursery() as nursery:
                for number in range(start, start + 100):
                    mail = letter(number, mailbox=number.to_bytes(16, "big"))
                    nursery.start_soon(store.deposit, mail)

    async with site.store(Limits()) as store:
        await deposits(store, 0, 300)
        tracemalloc.start(6)  # frames of each place
        await deposits(store, 300, 600)
        before = held_by_the_store()
        await deposits(store, 600, 2000)
        after = held_by_the_store()
        tracemalloc.stop()
        assert await store.count() == 2000
    assert after - before < 1400 * 40, (before, after)


async def test_who_stops_waiting_leaves_nothing_behind(site):
    async with site.store() as store:
        for number in range(50):
            store.changed(number.to_bytes(16, "big"))
        gc.collect()
        assert len(store._waiting) == 0
        kept = store.changed(ALICE)
        assert store.changed(ALICE) is kept
