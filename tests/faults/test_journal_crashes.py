"""Power fails after every step of the journal, in every state a file system may leave.

J1, J2, J3, J5, J10 and J12 of ampd/storage/journal.py.
"""

from pathlib import Path

import pytest
from faults.memory_disk import MemoryDisk, seeded

from ampd.storage.journal import Journal

FOLDER = Path("/journal")
KEY = bytes(range(32))


class Life:
    """What was appended, acknowledged and compacted, by the step of the disk's log."""

    def __init__(self, disk):
        self.disk = disk
        self.appended = {}
        self.acknowledged = [(0, 0, None)]
        self.going = []
        self.gone = []

    def said_by(self, step):
        return max(entry[:2] for entry in self.acknowledged if entry[0] <= step)[1]

    def checkpoint_at(self, step):
        return next(c for s, _, c in reversed(self.acknowledged) if s <= step)

    def may_be_gone(self, step):
        return {seq for at, seqs in self.going if at <= step for seq in seqs}

    def is_gone(self, step):
        return {seq for at, seqs in self.gone if at <= step for seq in seqs}


def live(disk):
    """A short life: batches of all sizes, three segments, a compaction, more batches."""
    life = Life(disk)
    rng = seeded(1)
    journal = open_journal(disk)
    for batch in range(14):
        for _ in range(1 + batch % 2):
            payloads = [rng.randbytes(rng.choice((0, 3, 40, 900))) for _ in range(batch % 4 + 1)]
            for record in journal.append(payloads):
                life.appended[record.seq] = record.payload
        journal.sync()
        life.acknowledged.append((len(disk.log), journal.checkpoint.seq, journal.checkpoint))
        if batch in (8, 12):
            dead = {seq for seq in life.appended if seq % 5 != batch % 5}
            life.going.append((len(disk.log), dead))
            moved = journal.compact(dead.__contains__, share=0.2)
            assert moved
            last = max(moved)
            life.gone.append((len(disk.log), {seq for seq in dead if seq < last}))
    journal.close()
    return life


def open_journal(disk, after=None):
    return Journal.open(FOLDER, KEY, segment_bytes=4096, after=after, reserve_bytes=0, disk=disk)


def violations(life, step, state):
    """What is wrong with the journal that is found in this state, in words."""
    for after in (None, life.checkpoint_at(step)):
        disk = MemoryDisk(state)
        journal = open_journal(disk, after)
        yield from promises_broken(life, step, journal)
        found = [(r.seq, r.payload) for r in journal.scan()]
        (new,) = journal.append([b"after the crash"])
        journal.sync()
        if new.seq <= life.said_by(step):
            yield f"J12: number {new.seq} was given out again"
        again = open_journal(MemoryDisk(disk.files()))
        if [(r.seq, r.payload) for r in again.scan()] != [*found, (new.seq, new.payload)]:
            yield "I7: the second opening shows something else"
        if not all(name.endswith(".log") for name in disk.files()):
            yield f"I10: files that are not in the docstring: {sorted(disk.files())}"
        if not again.check().ok or again.torn:
            yield f"J5: still damaged after recovery: {again.damage} {again.torn}"


def promises_broken(life, step, journal):
    found = {record.seq: record.payload for record in journal.scan()}
    if list(found) != sorted(found):
        yield "J2: out of order"
    for seq in range(1, life.said_by(step) + 1):
        if seq not in found and seq not in life.may_be_gone(step):
            yield f"J1: record {seq} is lost"
    for seq, payload in found.items():
        if life.appended.get(seq) != payload:
            yield f"J4: record {seq} is altered"
        if seq in life.is_gone(step):
            yield f"J10: record {seq} is back"
    if journal.damage:
        yield f"J5: damage where there is none: {journal.damage}"


def states(life):
    rng = seeded(2)
    for step in range(len(life.disk.log) + 1):
        for state in life.disk.crash_states(step, rng):
            yield step, state


def test_j1_j2_j10_whatever_a_crash_leaves_what_was_acknowledged_is_there_and_no_more():
    life = live(MemoryDisk())
    count = 0
    for step, state in states(life):
        assert list(violations(life, step, state)) == [], (
            f"step {step}: {life.disk.log[step - 1][:2]}"
        )
        count += 1
    assert count > 400


def test_j3_a_crash_in_the_recovery_from_a_crash_changes_nothing():
    life = live(MemoryDisk())
    rng = seeded(3)
    chosen = list(states(life))[::3]
    for step, state in chosen:
        first = MemoryDisk(state)
        open_journal(first)
        for done in range(len(first.log) + 1):
            for again in first.crash_states(done, rng):
                journal = open_journal(MemoryDisk(again))
                assert list(promises_broken(life, step, journal)) == []


def test_j3_what_open_shows_survives_the_next_crash():
    life = live(MemoryDisk())
    for step in range(len(life.disk.log) + 1):
        disk = life.disk.after_a_sync_that_failed(step)
        journal = open_journal(disk)
        journal.append([b"one more"])
        journal.sync()
        shown = {r.seq for r in journal.scan()}
        kept = {r.seq for r in open_journal(MemoryDisk(disk.durable())).scan()}
        assert shown == kept, step


class NeverSyncs(MemoryDisk):
    def sync(self, fd):
        pass


class NeverSyncsFolders(MemoryDisk):
    def sync_folder(self, folder):
        pass


class RenamesFirst(MemoryDisk):
    """Syncs what compaction writes only after it was renamed: as good as not."""

    def sync(self, fd):
        unfinished = self.names_of.get(next((n for n in self.names_of if n.endswith(".new")), ""))
        if self.open_fds[fd] != unfinished:
            super().sync(fd)


@pytest.mark.parametrize("careless", [NeverSyncs, NeverSyncsFolders, RenamesFirst])
def test_these_tests_see_a_journal_that_does_not_sync(careless):
    life = live(careless())
    assert any(True for step, state in states(life) for _ in seen(life, step, state))


def seen(life, step, state):
    try:
        yield from violations(life, step, state)
    except Exception as exc:  # noqa: BLE001 - any sign will do
        yield str(exc)
