"""Bits flip, sectors go bad, ends are cut off, and somebody edits the files.

J4, J5, J6 and J11 of ampd/storage/journal.py, on whole segments of 16 KiB.
"""

import struct
import zlib
from pathlib import Path

import pytest
from faults.memory_disk import SECTOR, MemoryDisk, seeded

from ampd.model.errors import StorageError
from ampd.storage.frames import (
    CHECKSUM,
    FORGED,
    HEADER_SIZE,
    OVERHEAD,
    UNPROVED,
    Codec,
    Frame,
    payload,
)
from ampd.storage.journal import Journal, Position

FOLDER = Path("/journal")
KEY = bytes(range(32))
SEGMENT = 16 << 10
FIRST = "0000000000000001.log"


def open_journal(files, after=None, key=KEY):
    disk = MemoryDisk(files)
    journal = Journal.open(
        FOLDER, key, segment_bytes=SEGMENT, after=after, reserve_bytes=0, disk=disk
    )
    journal.disk = disk
    return journal


def filled(records, segments=1):
    """A journal's files, its records, and its checkpoint; the segments are full."""
    rng = seeded(7)
    journal, kept = open_journal({}), []
    size = SEGMENT // records - OVERHEAD - 6
    while len(journal._segments) <= segments:
        kept += journal.append([rng.randbytes(size)])
        journal.sync()
    if segments == 1:  # without the second segment, which ended the loop
        kept.pop()
        files = {FIRST: journal.disk.files()[FIRST]}
        journal = open_journal(files)
    return journal.disk.files(), kept, journal.checkpoint


FILES, RECORDS, CHECKPOINT = filled(12)
DATA = FILES[FIRST]
PAYLOADS = {r.seq: r.payload for r in RECORDS}
STARTS = [r.position.offset for r in RECORDS]
END = len(DATA)


def found(journal):
    return {r.seq: r.payload for r in journal.scan()}


def touched(first, last):
    """The numbers of the records that have bytes in first..last."""
    ends = [*STARTS[1:], END]
    return {
        n + 1 for n, (a, b) in enumerate(zip(STARTS, ends, strict=True)) if a <= last and first < b
    }


def reported(journal, seqs):
    """Whether some damage names the number, or the bytes where the record was."""
    told = [*journal.damage, *journal.torn]
    return all(
        any(d.first_seq <= seq <= d.last_seq or _covers(d, seq) for d in told) for seq in seqs
    )


def _covers(damage, seq):
    start, end = STARTS[seq - 1], [*STARTS[1:], END][seq - 1]
    return damage.offset < end and start < damage.offset + damage.size


def test_the_segment_is_full():
    assert SEGMENT - 1400 < len(DATA) <= SEGMENT and len(RECORDS) == 12


def test_j5_every_length_of_the_last_segment_gives_an_exact_prefix():
    for length in range(END + 1):
        journal = open_journal({FIRST: DATA[:length]})
        whole = sum(start <= length for start in [*STARTS[1:], END])
        assert [r.payload for r in journal.scan()] == [r.payload for r in RECORDS[:whole]]
        assert not journal.damage
        assert len(journal.disk.files()[FIRST]) in (length, *STARTS, END, HEADER_SIZE)


def test_j5_zeros_behind_the_last_record_are_a_tail():
    for zeros in (1, 7, 64, 4096):
        journal = open_journal({FIRST: DATA + bytes(zeros)})
        assert found(journal) == PAYLOADS and not journal.damage
        assert journal.torn[0].size == zeros and journal.disk.files()[FIRST] == DATA


def test_j4_every_flipped_bit_and_overwritten_byte_costs_at_most_the_record_it_is_in():
    """Each of the 131,072 bits, and 00 and FF for each byte, walking that frame and the next."""
    codec = Codec(KEY)
    ends = [*STARTS[1:], END]
    for n, start in enumerate(STARTS):
        size = ends[n] - start
        pair = bytearray(DATA[start : ends[min(n + 1, len(ends) - 1)]])
        next_one = [PAYLOADS[n + 2]] if n + 2 in PAYLOADS else []
        for at in range(size):
            was = pair[at]
            for byte in {was ^ 1 << bit for bit in range(8)} | {0x00, 0xFF} - {was}:
                pair[at] = byte
                data = bytes(pair)
                walked = [f for f in codec.walk(data, 0, n) if isinstance(f, Frame)]
                assert [payload(data, f) for f in walked] == next_one
            pair[at] = was


@pytest.mark.parametrize("after", [None, CHECKPOINT])
def test_j4_v1_a_bad_byte_anywhere_is_reported_and_hides_no_other_record(after):
    """A bit in every eleventh byte, in a journal that is opened and read as a whole."""
    rng = seeded(4)
    data = bytearray(DATA)
    for at in range(0, END, 11):
        data[at] ^= 1 << rng.randrange(8)
        journal = open_journal({FIRST: bytes(data)}, after)
        lost = touched(at, at)
        assert found(journal) == {s: p for s, p in PAYLOADS.items() if s not in lost}
        assert journal.damage or journal.torn
        assert reported(journal, lost)
        data[at] = DATA[at]


@pytest.mark.parametrize("kind", ["zeros", "garbage", "stale"])
def test_j4_a_bad_sector_costs_the_records_that_it_touches(kind):
    rng = seeded(5)
    for at in range(0, END, SECTOR):
        size = len(DATA[at : at + SECTOR])
        sector = {
            "zeros": bytes(size),
            "garbage": rng.randbytes(size),
            "stale": DATA[HEADER_SIZE : HEADER_SIZE + size],  # an older record's beginning
        }[kind]
        data = DATA[:at] + sector + DATA[at + size :]
        lost = touched(at, at + size - 1)
        journal = open_journal({FIRST: data})
        assert {s: p for s, p in PAYLOADS.items() if s not in lost}.items() <= found(
            journal
        ).items()
        assert found(journal).items() <= PAYLOADS.items()
        assert reported(journal, set(PAYLOADS) - set(found(journal)))


def test_j4_a_length_is_not_believed_before_it_is_proved():
    for bit in range(32):
        data = bytearray(DATA)
        data[STARTS[3] + 4 + bit // 8] ^= 1 << bit % 8
        assert Codec(KEY).prove(bytes(data), STARTS[3], 3) == UNPROVED


def test_j6_rot_and_tampering_are_called_by_different_names():
    data = bytearray(DATA)
    data[STARTS[3] + 99] ^= 1
    assert Codec(KEY).prove(bytes(data), STARTS[3], 3) == CHECKSUM
    assert Codec(KEY).prove(rechecked(data, STARTS[3]), STARTS[3], 3) == FORGED


def test_j4_damage_that_is_not_a_torn_append_is_left_for_whoever_looks():
    """Record 12 says that record 11 was synced; nothing says it of record 12 itself."""
    data = bytearray(DATA)
    data[STARTS[10] + 99] ^= 1
    journal = open_journal({FIRST: bytes(data)})
    assert [d.first_seq for d in journal.damage] == [11] and not journal.torn
    assert journal.disk.files()[FIRST] == data and not journal.check().ok


def test_j4_damage_in_an_older_segment_is_named_and_a_direct_read_refuses():
    files, records, _ = filled(12, segments=3)
    victim = next(r for r in records if r.position.segment > 1)
    name = f"{victim.position.segment:016d}.log"
    data = bytearray(files[name])
    data[victim.position.offset + 100] ^= 1
    journal = open_journal({**files, name: bytes(data)})

    assert set(found(journal)) == {r.seq for r in records} - {victim.seq}
    (damage,) = journal.damage
    assert (damage.segment, damage.offset) == (victim.position.segment, victim.position.offset)
    assert damage.size == len(victim.payload) + OVERHEAD
    assert damage.first_seq == damage.last_seq == victim.seq
    with pytest.raises(StorageError, match=f"record {victim.seq} is damaged"):
        journal.read(victim.position, victim.seq)
    assert not journal.check().ok


def test_j4_a_record_that_contains_a_record_brings_nothing_up_when_it_is_damaged():
    journal = open_journal({})
    journal.append([b"first"])
    journal.sync()
    frame = journal.disk.files()[FIRST][HEADER_SIZE:]
    journal.append([b"a copy: " + frame * 3, b"third"])
    journal.sync()
    data = bytearray(journal.disk.files()[FIRST])
    data[HEADER_SIZE + len(frame) + 45] ^= 1
    again = open_journal({FIRST: bytes(data)})
    assert [r.payload for r in again.scan()] == [b"first", b"third"]


# -- somebody edits the files ------------------------------------------------------------------


def rechecked(data, at, key=KEY):
    """The frame at `at` with all its checksums made again, as somebody without the key could."""
    data = bytearray(data)
    length = struct.unpack_from(">I", data, at + 4)[0]
    body = data[at + 44 : at + 44 + length]
    struct.pack_into(">I", data, at + 40, zlib.crc32(data[at : at + 40], Codec(key)._salt))
    struct.pack_into(">I", data, at + 44 + length, zlib.crc32(body))
    return bytes(data)


@pytest.mark.parametrize("field", [8, 15, 16, 24, 39, 44, 900])
def test_j6_a_changed_record_with_new_checksums_is_found_out(field):
    at = STARTS[4]
    data = bytearray(DATA)
    data[at + field] ^= 1
    journal = open_journal({FIRST: rechecked(data, at)})
    assert set(found(journal)) == set(PAYLOADS) - {5}
    assert "without the key" in journal.damage[0].reason


def test_j6_v2_a_record_that_is_taken_out_is_missed():
    data = DATA[: STARTS[4]] + DATA[STARTS[5] :]
    journal = open_journal({FIRST: data})
    assert set(found(journal)) == set(PAYLOADS) - {5}
    (damage,) = journal.damage
    assert (damage.size, damage.first_seq, damage.last_seq) == (0, 5, 5)
    assert not journal.check().ok


def test_j6_records_in_another_order_are_found_out():
    data = DATA[: STARTS[4]] + DATA[STARTS[5] : STARTS[6]] + DATA[STARTS[4] : STARTS[5]]
    journal = open_journal({FIRST: data + DATA[STARTS[6] :]})
    assert set(found(journal)) == set(PAYLOADS) - {5} and journal.damage


def test_j6_a_segment_that_is_taken_away_is_missed():
    files, records, _ = filled(12, segments=3)
    names = sorted(files)
    for gone in names[:-1]:
        journal = open_journal({n: d for n, d in files.items() if n != gone})
        lost = {r.seq for r in records if r.position.segment == int(gone[:16])}
        assert set(found(journal)) == {r.seq for r in records} - lost
        assert reported(journal, lost) and not journal.check().ok


def test_j6_v3_a_record_of_another_history_is_found_by_the_chain():
    other = open_journal({FIRST: DATA[: STARTS[5]]})
    other.append([b"x" * len(RECORDS[5].payload)])
    other.sync()
    data = other.disk.files()[FIRST] + DATA[STARTS[6] :]
    journal = open_journal({FIRST: data})
    assert len(found(journal)) == 12
    assert "not of this history" in journal.damage[0].reason and not journal.check().ok


def test_j6_j12_r4_an_end_cut_off_shows_against_a_checkpoint_and_its_numbers_stay_used():
    journal = open_journal({FIRST: DATA[: STARTS[9]]}, CHECKPOINT)
    assert not journal.checkpoint_held
    (damage,) = journal.damage
    assert (damage.segment, damage.offset) == (1, STARTS[9])
    assert (damage.first_seq, damage.last_seq) == (10, 12)
    (new,) = journal.append([b"new"])
    journal.sync()
    assert new.seq == 13
    again = open_journal(journal.disk.files(), journal.checkpoint)
    assert again.checkpoint_held and set(found(again)) == {*range(1, 10), 13}
    assert [(d.first_seq, d.last_seq) for d in again.damage] == [(10, 12)]


def test_j6_a_journal_that_is_gone_shows_against_a_checkpoint():
    journal = open_journal({}, CHECKPOINT)
    assert [(d.first_seq, d.last_seq) for d in journal.damage] == [(1, 12)]
    assert journal.append([b"new"])[0].seq == 13
    journal.sync()
    assert not open_journal(journal.disk.files()).check().ok


def test_j5_what_the_checkpoint_calls_synced_is_not_cut_off():
    data = bytearray(DATA)
    data[-30] ^= 1
    journal = open_journal({FIRST: bytes(data)}, None)
    assert journal.torn and not journal.damage, "without a checkpoint it may be a torn tail"
    older = Journal.open(
        FOLDER, KEY, segment_bytes=SEGMENT, reserve_bytes=0, disk=MemoryDisk({FIRST: DATA})
    ).checkpoint
    broken = bytes(data[:-1] + b"!")
    journal = open_journal({FIRST: broken}, older)
    assert not journal.torn and journal.damage[0].last_seq == 12
    assert journal.disk.files()[FIRST] == broken, "evidence stays"


def test_r6_another_key_is_refused_and_nothing_is_touched():
    for files in (FILES, {FIRST: DATA[:HEADER_SIZE]}):
        for after in (None, CHECKPOINT):
            disk = MemoryDisk(files)
            with pytest.raises(StorageError, match="another key"):
                Journal.open(FOLDER, b"k" * 32, after=after, disk=disk)
            assert disk.files() == files


@pytest.mark.parametrize("left", [0, 1, HEADER_SIZE - 1, HEADER_SIZE])
def test_r5_a_segment_whose_header_was_never_finished_goes(left):
    second = f"{len(RECORDS) + 1:016d}.log"
    journal = open_journal({**FILES, second: bytes(left)})
    assert second not in journal.disk.files() and not journal.damage
    assert found(journal) == PAYLOADS
    assert journal.append([b"new"])[0].seq == len(RECORDS) + 1


@pytest.mark.parametrize("at", range(0, HEADER_SIZE, 7))
def test_v4_a_header_that_is_not_proved_costs_no_record(at):
    data = bytearray(DATA)
    data[at] ^= 1
    journal = open_journal({FIRST: bytes(data)})
    assert found(journal) == PAYLOADS
    assert [(d.offset, d.first_seq) for d in journal.damage] == [(0, 0)]
    assert not journal.check().ok


def test_a_newer_format_is_refused_by_name():
    codec = Codec(KEY)
    bare = bytearray(DATA[:40])
    bare[11] = 2
    tagged = bytes(bare) + codec._tag(bytes(bare))
    header = tagged + zlib.crc32(tagged).to_bytes(4, "big") + bytes(4)
    with pytest.raises(StorageError, match="format 2"):
        open_journal({FIRST: header + DATA[HEADER_SIZE:]})


def test_j11_open_with_a_checkpoint_reads_only_what_is_behind_it():
    files, records, checkpoint = filled(12, segments=6)
    journal = open_journal(files, checkpoint)
    extra = journal.append([b"behind"])
    journal.sync()
    disk = Counting(journal.disk.files())
    again = Journal.open(FOLDER, KEY, after=checkpoint, reserve_bytes=0, disk=disk)
    assert [r.payload for r in again.scan(checkpoint.seq)] == [b"behind"] and again.checkpoint_held
    assert disk.bytes_read < 4 * (HEADER_SIZE + OVERHEAD + len(b"behind"))
    assert again.read(extra[0].position, extra[0].seq) == b"behind"
    assert again.read(records[0].position, 1) == records[0].payload


class Counting(MemoryDisk):
    bytes_read = 0

    def read(self, path, start, size):
        data = super().read(path, start, size)
        self.bytes_read += len(data)
        return data


def test_these_tests_see_a_reader_that_stops_at_the_first_hole(monkeypatch):
    monkeypatch.setattr(Codec, "_resume", lambda self, data, at, after: None)
    data = bytearray(DATA)
    data[STARTS[4] + 60] ^= 1
    assert len(found(open_journal({FIRST: bytes(data)}))) < 11


def test_a_position_says_segment_and_byte():
    assert RECORDS[0].position == Position(1, HEADER_SIZE)
