"""This module is the journal's bytes: what a segment and a frame are, and what proves them.

    segment = header frame*

    header, 64 bytes, big-endian:
       0  magic     8   fe 61 6d 70 64 6c 6f 67  ("\\xfeampdlog")
       8  version   4   1
      12  reserved  4   0
      16  first     8   number of the first record; the file's name is the same in 16 digits
      24  link     16   the chain value before that record; zeros before record 1
      40  tag      16   keyed hash of bytes 0-39
      56  check     4   CRC-32 of bytes 0-55
      60  reserved  4   0

    frame, 64 bytes and the payload:
       0  magic     4   fe a7 52 6a for a record, fe a7 47 6a for a gap
       4  length    4   of the payload
       8  seq       8   the record's number; of a gap, the first that it stands for
      16  mark      8   record: the last number that was synced when this was written;
                        gap: the last number that it stands for
      24  link     16   the chain value of the frame before
      40  check     4   CRC-32 of bytes 0-39, started from `salt`
      44  payload   n   gap: the chain value after it (16 bytes), then zeros
    44+n  check     4   CRC-32 of the payload
    48+n  tag      16   keyed hash of bytes 0 to 48+n of this frame

The keyed hash is BLAKE2b (RFC 7693) with a 16-byte digest, the journal's key and the
personal string "ampd/journal/1". `salt` is the first 4 bytes of the keyed hash of
"salt": nobody without the key can put bytes into a message that look like a head.

A frame is valid if and only if
 (1) it starts with one of the two magics,
 (2) bytes 0-39 have the checksum in 40-43 (so the length is proved before it is believed),
 (3) it ends within the segment and its length is at most MAX_PAYLOAD,
 (4) the payload has the checksum behind it,
 (5) the tag is the keyed hash of everything before it in the frame,
 (6) its number is higher than that of every valid frame before it in the segment,
     and not lower than the segment's first.

The chain value after a record is its tag, after a gap the value in its payload: a gap
takes the place of the frames it stands for and the chain goes on. Two valid frames
that follow each other prove that nothing is missing between them if the second's link
is the chain value after the first and its number is the next.

When a frame is not valid, the reader goes on at the next magic where a valid frame
starts. Each frame holds its own link, so none needs the one before it to be proved.

Not here: files (journal.py), what the chain says over all segments (survey.py).
"""

from collections.abc import Iterator
from hashlib import blake2b
from hmac import compare_digest
from struct import Struct
from typing import Final, NamedTuple
from zlib import crc32

VERSION: Final = 1
MAX_PAYLOAD: Final = 64 << 20  # eight times the largest request of the local socket
CHAIN_START: Final = bytes(16)

_HEADER = Struct(">8sIIQ16s16sI4x")
_HEADER_MAGIC = b"\xfeampdlog"
_RECORD = b"\xfe\xa7Rj"
_GAP = b"\xfe\xa7Gj"
_MAGIC = b"\xfe\xa7"  # 0xfe is in no UTF-8 text and begins no CBOR item
_HEAD = Struct(">4sIQQ16sI")
_HEAD_BARE = Struct(">4sIQQ16s")
_U32 = Struct(">I")

HEADER_SIZE: Final = _HEADER.size
OVERHEAD: Final = _HEAD.size + 4 + 16
GAP_SIZE: Final = OVERHEAD + 16

UNPROVED = "no frame is proved here"
CUT = "the frame ends behind the end of the file"
CHECKSUM = "the payload does not have its checksum"
FORGED = "the checksums are right and the keyed hash is not: changed by somebody without the key"
STALE = "a record with a number that was already passed"


class Frame(NamedTuple):
    """A proved frame, where it lies, and what it stands for."""

    offset: int
    end: int
    seq: int
    last: int  # == seq for a record
    mark: int
    link: bytes
    chain: bytes  # the chain value after it
    gap: bool


class Hole(NamedTuple):
    """Bytes in which no frame is proved."""

    offset: int
    end: int
    reason: str


class Header(NamedTuple):
    """A proved segment header."""

    version: int
    first: int
    link: bytes


class Codec:
    """Makes and proves the bytes of one journal; holds its key."""

    def __init__(self, key: bytes) -> None:
        self._keyed = blake2b(key=key, digest_size=16, person=b"ampd/journal/1")
        self._salt = int.from_bytes(self._tag(b"salt")[:4], "big")

    def header(self, first: int, link: bytes) -> bytes:
        bare = _HEADER.pack(_HEADER_MAGIC, VERSION, 0, first, link, bytes(16), 0)[:40]
        tagged = bare + self._tag(bare)
        return tagged + _U32.pack(crc32(tagged)) + bytes(4)

    def prove_header(self, data: bytes) -> Header | str:
        """The header that `data` starts with, or why it is none."""
        if len(data) < HEADER_SIZE:
            return CUT
        magic, version, _, first, link, tag, check = _HEADER.unpack_from(data)
        if magic != _HEADER_MAGIC or crc32(data[:56]) != check or any(data[60:HEADER_SIZE]):
            return UNPROVED
        if not compare_digest(tag, self._tag(data[:40])):
            return FORGED
        return Header(version, first, link)

    def record(self, seq: int, synced: int, link: bytes, payload: bytes) -> tuple[bytes, bytes]:
        """A record's frame, and the chain value after it."""
        body = self._body(_RECORD, seq, synced, link, payload)
        tag = self._tag(body)
        return body + tag, tag

    def gap(self, seq: int, last: int, link: bytes, chain: bytes, size: int = GAP_SIZE) -> bytes:
        """A frame of `size` bytes that stands for the records `seq` to `last`."""
        body = self._body(_GAP, seq, last, link, chain + bytes(size - GAP_SIZE))
        return body + self._tag(body)

    def walk(self, data: bytes, start: int, after: int) -> Iterator[Frame | Hole]:
        """Every byte of `data` from `start` on, as frames with numbers above `after`, and holes."""
        at = start
        while at < len(data):
            found = self.prove(data, at, after)
            if not isinstance(found, Frame):
                following = self._resume(data, at + 1, after)
                yield Hole(at, following.offset if following else len(data), found)
                if following is None:
                    return
                found = following
            yield found
            after = found.last
            at = found.end

    def prove(  # noqa: PLR0911 - one return for each rule
        self, data: bytes, at: int, after: int
    ) -> Frame | str:
        """The frame at `at`, or which rule it breaks."""
        if len(data) - at < OVERHEAD:
            return CUT if data.startswith(_MAGIC, at) else UNPROVED
        magic, length, seq, mark, link, check = _HEAD.unpack_from(data, at)
        if magic not in (_RECORD, _GAP) or crc32(data[at : at + 40], self._salt) != check:
            return UNPROVED
        end = at + OVERHEAD + length
        if end > len(data) or length > MAX_PAYLOAD:
            return CUT
        view = memoryview(data)
        if crc32(view[at + 44 : end - 20]) != _U32.unpack_from(data, end - 20)[0]:
            return CHECKSUM
        tag = data[end - 16 : end]
        if self._tag(view[at : end - 16]) != tag:
            return FORGED
        if seq <= after:
            return STALE
        if magic == _RECORD:
            return Frame(at, end, seq, seq, mark, link, tag, False)
        return Frame(at, end, seq, mark, 0, link, data[at + 44 : at + 60], True)

    def head(self, data: bytes, at: int) -> tuple[int, int] | None:
        """Number and size of the record whose head is proved at `at`, whatever its rest is."""
        if len(data) - at < _HEAD.size:
            return None
        magic, length, seq, _, _, check = _HEAD.unpack_from(data, at)
        if magic != _RECORD or crc32(data[at : at + 40], self._salt) != check:
            return None
        return seq, OVERHEAD + length

    def _resume(self, data: bytes, at: int, after: int) -> Frame | None:
        while (at := data.find(_MAGIC, at)) >= 0:
            found = self.prove(data, at, after)
            if isinstance(found, Frame):
                return found
            at += 1
        return None

    def _body(self, magic: bytes, seq: int, mark: int, link: bytes, payload: bytes) -> bytes:
        bare = _HEAD_BARE.pack(magic, len(payload), seq, mark, link)
        check = _U32.pack(crc32(bare, self._salt))
        return b"".join((bare, check, payload, _U32.pack(crc32(payload))))

    def _tag(self, data: bytes | memoryview) -> bytes:
        keyed = self._keyed.copy()
        keyed.update(data)
        return keyed.digest()


def payload(data: bytes, frame: Frame) -> bytes:
    """What a record's frame carries."""
    return data[frame.offset + 44 : frame.end - 20]
