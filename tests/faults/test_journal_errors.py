"""The disk refuses: writes, syncs, new files; it is full; it takes a part.

J1, J7, J8 and J9 of ampd/storage/journal.py. Every call that the journal makes fails once.
"""

import errno
from contextlib import suppress
from pathlib import Path

import pytest
from faults.memory_disk import MemoryDisk

from ampd.model.errors import StorageError
from ampd.storage.journal import Journal

FOLDER = Path("/journal")
KEY = bytes(range(32))
LETTER = b"a letter of some length " * 20


def open_journal(disk, reserve=0):
    return Journal.open(FOLDER, KEY, segment_bytes=4096, reserve_bytes=reserve, disk=disk)


def payloads(journal):
    return [r.payload for r in journal.scan()]


def append_for_ever(journal, kept, *, urgent=False):
    while True:
        kept += journal.append([LETTER], urgent=urgent)
        journal.sync()


def use(disk, acknowledged, tries=40):
    """Append and sync; what was refused is offered once more after reopen()."""
    journal = open_journal(disk)
    for number in range(tries):
        for _ in range(3):
            try:
                (record,) = journal.append([b"%d " % number + LETTER])
                journal.sync()
            except StorageError:
                try:
                    journal.reopen()
                except StorageError:
                    continue
            else:
                acknowledged.append(record.payload)
                break
        if number % 20 == 15:
            with suppress(StorageError):
                journal.compact(lambda seq: False)
    return journal


@pytest.mark.parametrize("error", [errno.EIO, errno.ENOSPC, errno.EFBIG, errno.EROFS])
@pytest.mark.parametrize("call", ["write", "sync", "sync_folder", "create", "truncate"])
def test_j1_j7_j8_whichever_call_fails_what_was_acknowledged_stays_and_no_more(call, error):
    for n in range(2, 24):
        acknowledged = []
        disk = MemoryDisk(fail={(call, n): error})
        try:
            journal = use(disk, acknowledged)
        except StorageError:
            assert not acknowledged, "only open() itself may let an error out here"
            continue
        assert payloads(journal) == acknowledged
        assert payloads(open_journal(MemoryDisk(disk.files()))) == acknowledged
        assert not journal.damage and journal.check().ok


def test_j8_after_a_failed_sync_nothing_is_taken_until_reopen_and_no_sync_is_tried_again():
    disk = MemoryDisk()
    journal = open_journal(disk)
    journal.append([b"kept"])
    journal.sync()
    journal.append([b"lost"])
    disk.fail["sync", disk.calls["sync"] + 1] = errno.EIO
    with pytest.raises(StorageError, match="did not take"):
        journal.sync()
    syncs = disk.calls["sync"]
    for refused in (journal.sync, lambda: journal.append([b"x"]), lambda: journal.compact(bool)):
        with pytest.raises(StorageError, match="a sync failed"):
            refused()
    assert disk.calls["sync"] == syncs
    assert payloads(journal) == [b"kept"], "reading goes on"

    journal.reopen()
    assert journal.append([b"next"])[0].seq == 2
    journal.sync()
    assert payloads(journal) == [b"kept", b"next"]


def test_j8_reopen_leaves_nothing_of_what_was_not_synced():
    disk = MemoryDisk()
    journal = open_journal(disk)
    journal.append([b"kept"])
    journal.sync()
    journal.append([b"x", b"y" * 9, b"z" * 40])
    disk.fail["sync", disk.calls["sync"] + 1] = errno.EIO
    with pytest.raises(StorageError):
        journal.sync()
    journal.reopen()
    assert payloads(open_journal(MemoryDisk(disk.durable()))) == [b"kept"]
    journal.append([b"x"])
    journal.sync()
    again = open_journal(MemoryDisk(disk.files()))
    assert payloads(again) == [b"kept", b"x"] and not again.torn


def test_j8_a_disk_that_stays_broken_acknowledges_nothing():
    disk = MemoryDisk()
    journal = open_journal(disk)
    disk.fail["sync", "all"] = errno.EIO
    journal.append([b"x"])
    for attempt in (journal.sync, journal.reopen, journal.reopen, journal.sync):
        with pytest.raises(StorageError):
            attempt()
    disk.fail.clear()
    journal.reopen()
    assert payloads(journal) == []


def test_j7_a_batch_that_is_written_in_part_leaves_no_trace():
    disk = MemoryDisk()
    journal = open_journal(disk)
    journal.append([b"kept"])
    journal.sync()
    before = disk.files()
    disk.room = disk.used() + 700
    with pytest.raises(StorageError, match="disk is full"):
        journal.append([LETTER, LETTER])
    assert disk.files() == before
    assert journal.append([LETTER])[0].seq == 2


def test_j9_a_full_disk_refuses_mail_takes_acknowledgements_and_recovers_by_itself():
    disk = MemoryDisk(room=20_000)
    journal = open_journal(disk, reserve=4096)
    kept = []
    with pytest.raises(StorageError, match="disk is full") as refused:
        append_for_ever(journal, kept)
    assert "free space" in refused.value.hint and journal.full
    assert len(disk.files()["reserve"]) == 4096

    for _ in range(30):
        journal.append([b"read it"], urgent=True)
        journal.sync()
    assert journal.full and len(disk.files()["reserve"]) < 4096
    with pytest.raises(StorageError, match="disk is full"):
        journal.append([b"mail"])
    assert len(payloads(journal)) == len(kept) + 30

    disk.room += 10_000
    journal.append([b"mail"])
    journal.sync()
    assert not journal.full and len(disk.files()["reserve"]) == 4096
    assert payloads(open_journal(MemoryDisk(disk.files())))[-1] == b"mail"


def test_j9_the_reserve_runs_out_with_the_same_words():
    disk = MemoryDisk(room=9000)
    journal = open_journal(disk, reserve=2048)
    with pytest.raises(StorageError, match="disk is full"):
        append_for_ever(journal, [], urgent=True)
    assert journal.check().ok


def test_a_disk_that_was_full_at_start_is_not_an_error():
    disk = MemoryDisk(room=100)
    journal = open_journal(disk, reserve=4096)
    assert journal.full
    with pytest.raises(StorageError, match="disk is full"):
        journal.append([b"mail"])
    disk.room = 100_000
    assert journal.append([b"mail"])[0].seq == 1


def test_a_journal_that_cannot_be_opened_says_so():
    with pytest.raises(StorageError, match="cannot be opened"):
        open_journal(MemoryDisk(fail={("create", 1): errno.EACCES}))


def test_j10_a_full_disk_stops_compaction_and_nothing_else():
    disk = MemoryDisk()
    journal = open_journal(disk)
    for _ in range(40):
        journal.append([LETTER])
    journal.sync()
    before, disk.room = payloads(journal), disk.used() + 100
    with pytest.raises(StorageError, match="cannot be compacted"):
        journal.compact(lambda seq: seq % 4 > 0)
    assert payloads(journal) == before and not [n for n in disk.files() if n.endswith(".new")]
    disk.room = None
    journal.compact(lambda seq: seq % 4 > 0)
    assert journal.check().ok and len(payloads(journal)) < len(before)
