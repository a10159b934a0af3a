"""What a journal does on a real disk, when nothing goes wrong.

The promises J1-J12 are in ampd/storage/journal.py; crashes, errors and damage are in
tests/faults/test_journal_*.py.
"""

import stat
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ampd.model.errors import Invalid, StorageError
from ampd.storage.frames import CHAIN_START, Codec, Frame, Header, payload
from ampd.storage.journal import DamagedRecord, Journal, Position

KEY = bytes(range(32))


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "state" / "journal"


@pytest.fixture
def journal(folder):
    journal = Journal.open(folder, KEY, segment_bytes=8192, reserve_bytes=4096)
    yield journal
    journal.close()


def again(folder, after=None):
    return Journal.open(folder, KEY, segment_bytes=8192, reserve_bytes=4096, after=after)


def numbered(count, size=200):
    return [b"%6d" % n + bytes(size) for n in range(1, count + 1)]


def test_j1_records_are_numbered_from_one_and_read_back_after_a_restart(journal, folder):
    records = journal.append([b"one", b"", b"three"])
    journal.sync()
    assert [r.seq for r in records] == [1, 2, 3]
    with_checkpoint = again(folder, journal.checkpoint)
    assert list(with_checkpoint.scan()) == list(again(folder).scan()) == records
    assert with_checkpoint.checkpoint == journal.checkpoint


@pytest.mark.parametrize("kept", [True, False])
def test_r3_a_segment_with_nothing_in_it_yet_keeps_its_header(journal, folder, kept):
    records = journal.append([b"one", b"two"])
    journal.sync()
    journal.rotate()
    before = {path.name: path.read_bytes() for path in folder.glob("*.log")}
    for _ in range(3):
        opened = again(folder, journal.checkpoint if kept else None)
        assert opened.check().ok and opened.damage == opened.torn == []
        assert {path.name: path.read_bytes() for path in folder.glob("*.log")} == before
        opened.close()
    opened = again(folder, journal.checkpoint if kept else None)
    following = opened.append([b"three"])
    opened.sync()
    assert list(again(folder).scan()) == [*records, *following]


def test_j1_what_is_not_synced_is_not_shown_yet(journal):
    journal.append([b"one"])
    assert list(journal.scan()) == [] and journal.checkpoint.seq == 0
    journal.sync()
    assert journal.checkpoint.seq == 1


def test_j2_records_go_over_many_segments_in_order(journal, folder):
    kept = []
    for body in numbered(300):
        kept += journal.append([body])
    journal.sync()
    assert len(list(folder.glob("*.log"))) > 5
    assert list(again(folder).scan()) == kept
    assert all(p.stat().st_size <= 8192 for p in folder.glob("*.log"))
    assert journal.size_bytes == sum(p.stat().st_size for p in folder.glob("*.log"))
    assert [r.seq for r in journal.scan(after=250)] == list(range(251, 301))
    assert all(journal.read(r.position, r.seq) == r.payload for r in kept)


def test_a_batch_larger_than_a_segment_gets_one_of_its_own(journal, folder):
    journal.append([b"small"])
    records = journal.append([b"x" * 20_000, b"y" * 20_000])
    journal.append([b"small"])
    journal.sync()
    assert records[0].position == Position(2, 64)
    assert [len(r.payload) for r in again(folder).scan()] == [5, 20_000, 20_000, 5]


def test_files_are_for_the_owner_only(journal, folder):
    journal.append([b"x"])
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(p.stat().st_mode) for p in folder.iterdir()} == {0o600}
    assert sorted(p.name for p in folder.iterdir()) == ["0000000000000001.log", "reserve"]


def test_a_segment_that_is_a_link_is_not_followed(journal, folder, tmp_path):
    journal.close()
    (folder / "0000000000000001.log").rename(tmp_path / "elsewhere")
    (folder / "0000000000000001.log").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StorageError, match="cannot be opened"):
        again(folder)


def test_check_reads_everything_and_tells_how_far_it_is(journal):
    journal.append(numbered(30))
    journal.append(numbered(30))
    journal.sync()
    heard = []
    report = journal.check(lambda done, total: heard.append((done, total)))
    assert report.ok and report.records == 60 and report.segments == 2 and not report.damage
    assert heard[-1] == (journal.size_bytes, journal.size_bytes)


def test_a_read_of_the_wrong_number_or_place_is_refused(journal):
    one, two = journal.append([b"one", b"two"])
    for position, seq in ((one.position, 3), (Position(99, 64), 1)):
        with pytest.raises(DamagedRecord):
            journal.read(position, seq)
    assert journal.read(one.position, 2) == b"two", "a stale position is looked up again"
    assert journal.read(two.position, 2) == b"two"


def test_a_record_that_is_too_large_and_a_key_that_is_too_short_are_invalid(journal, folder):
    with pytest.raises(Invalid, match="at most"):
        journal.append([bytes((64 << 20) + 1)])
    with pytest.raises(Invalid, match="16 to 64"):
        Journal.open(folder, b"short")


def test_a_closed_journal_takes_nothing(journal):
    journal.append([b"synced by close"])
    journal.close()
    with pytest.raises(StorageError, match="closed"):
        journal.append([b"x"])
    assert [r.payload for r in journal.scan()] == [b"synced by close"]


def test_j10_compaction_drops_the_dead_and_the_chain_holds(journal, folder):
    records = [journal.append([body])[0] for body in numbered(200)]
    journal.sync()
    before, active = journal.size_bytes, records[-1].position.segment
    moved = journal.compact(lambda seq: seq % 10 > 0)
    left = [r for r in journal.scan() if r.position.segment != active]
    assert journal.size_bytes < before / 2 and journal.check().ok
    assert {r.seq: r.position for r in left} == moved
    assert all(r.seq % 10 == 0 and r.payload == records[r.seq - 1].payload for r in left)
    assert all(journal.read(moved[r.seq], r.seq) == r.payload for r in left)
    assert all(journal.read(records[r.seq - 1].position, r.seq) == r.payload for r in left)

    assert journal.compact(lambda seq: seq % 10 > 0) == {}, "nothing more to win"
    journal.compact(lambda seq: True)
    reopened = again(folder, journal.checkpoint)
    assert reopened.check().ok and reopened.checkpoint_held
    assert {r.position.segment for r in reopened.scan()} == {active}
    assert list(again(folder).scan(after=100)) == list(reopened.scan(after=100))


def test_j10_only_what_is_worth_it_and_only_what_is_named_is_rewritten(journal):
    for body in numbered(100):
        journal.append([body])
    journal.sync()
    assert journal.compact(lambda seq: seq % 3 == 0) == {}
    first, second = journal._segments[:2]
    moved = journal.compact(lambda seq: seq % 3 == 0, share=0.2, segments={second})
    assert moved and {p.segment for p in moved.values()} == {second} != {first}


def test_j10_a_damaged_segment_is_left_as_it_is(journal, folder):
    for body in numbered(100):
        journal.append([body])
    journal.sync()
    path = folder / "0000000000000001.log"
    data = bytearray(path.read_bytes())
    data[1000] ^= 1
    path.write_bytes(data)
    moved = journal.compact(lambda seq: True)
    assert path.read_bytes() == data and moved == {}
    assert not journal.check().ok


def test_readers_in_another_thread_see_whole_records_while_it_is_written(journal):
    stop, wrong, read = threading.Event(), [], []

    def reader():
        while not stop.is_set():
            records = list(journal.scan())
            seqs = [r.seq for r in records]
            read.append(len(seqs))
            wrong.extend(r for r in records if r.payload != b"%6d" % r.seq + bytes(200))
            wrong.extend(r for r in records[-3:] if journal.read(r.position, r.seq) != r.payload)
            if journal.damage:
                wrong.append(journal.damage)

    thread = threading.Thread(target=reader)
    thread.start()
    for n, body in enumerate(numbered(400)):
        journal.append([body])
        journal.sync()
        if n == 200:
            journal.compact(lambda seq: seq < 100 and seq % 7 > 0)
    stop.set()
    thread.join()
    assert wrong == [] and read


def test_no_descriptor_is_left_open(journal, folder):
    def count():
        return len(list(Path("/proc/self/fd").iterdir()))

    before = count()
    other = again(folder.parent / "other")
    for body in numbered(200):
        other.append([body])
    other.sync()
    other.compact(lambda seq: seq % 2 > 0, share=0.1)
    for record in other.scan():
        other.read(record.position, record.seq)
    other.reopen()
    other.close()
    assert count() == before


def test_the_bytes_are_those_of_the_docstring():
    """A vector: if it changes, VERSION must."""
    codec = Codec(KEY)
    frame, chain = codec.record(1, 0, CHAIN_START, b"hello")
    assert frame.hex() == (
        "fea7526a00000005000000000000000100000000000000000000000000000000"
        "00000000000000004df6f26e68656c6c6f3610a686593209394a79fa"
        "b46a43d6d152455e6e"
    )
    assert chain == frame[-16:]
    header = codec.header(1, CHAIN_START)
    assert header[:16].hex() == "fe616d70646c6f670000000100000000"
    assert codec.prove_header(header) == Header(1, 1, CHAIN_START)


@given(st.lists(st.binary(max_size=300)), st.binary(max_size=80))
def test_j4_noise_behind_records_adds_and_hides_nothing(payloads, noise):
    codec, data, chain = Codec(KEY), b"", CHAIN_START
    for seq, body in enumerate(payloads, 1):
        frame, chain = codec.record(seq, 0, chain, body)
        data += frame
    walked = [f for f in codec.walk(data + noise, 0, 0) if isinstance(f, Frame)]
    assert [payload(data, f) for f in walked] == payloads
