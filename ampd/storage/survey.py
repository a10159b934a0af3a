"""This module is what the frames of all segments say together: what is there, what is missing.

A Survey goes through segments in order and keeps two values: the number and the chain
value of the last frame it proved. Every byte and every number that it cannot account
for becomes a Damage. Rules:

  V1  A hole costs the records whose numbers are missing around it, and no other.
  V2  A number that is missing without a hole was taken out: that is damage too.
  V3  A link that is not the chain value before it shows that one of the two records is
      not of this history; both are proved, so both are shown, and the break is reported.
  V4  A header that is not proved costs no record: the frames hold all they need.

Not here: what becomes of the damage (journal.py, recovery.py).
"""

from collections.abc import Callable, Iterator

from ampd.model.errors import StorageError
from ampd.model.values import value
from ampd.storage.frames import (
    HEADER_SIZE,
    VERSION,
    Codec,
    Frame,
    Header,
    Hole,
)

MISSING = "records are missing: they were taken out"
CHAIN = "the chain is broken: a record here is not of this history"
HEADER = "the segment's header is not proved"
FOREIGN = "the segment's header belongs to other numbers"
OVERLAP = "a record has a number of the next segment"


@value
class Position:
    """Where a frame starts: the first number of its segment, and the byte in it."""

    segment: int
    offset: int


@value
class Record:
    """A payload, its number, and where it lies."""

    seq: int
    payload: bytes
    position: Position


@value
class Checkpoint:
    """The state of a journal: its last record, where the next one goes, the chain value."""

    seq: int
    position: Position
    chain: bytes


@value
class Damage:
    """Bytes that prove nothing, and the records that were lost with them.

    `first_seq` and `last_seq` are 0 when no record is known to be lost; `size` is 0
    when numbers are missing without bytes in their place.
    """

    segment: int
    offset: int
    size: int
    first_seq: int
    last_seq: int
    reason: str


@value
class Report:
    """What check() found: every byte of every segment was read."""

    ok: bool
    segments: int
    records: int
    size_bytes: int
    damage: list[Damage]


class DamagedRecord(StorageError):
    """The record cannot be proved, so it is not shown; `damage` says where and why."""

    def __init__(self, damage: Damage) -> None:
        super().__init__(
            f"record {damage.first_seq} is damaged (segment {damage.segment}, "
            f"byte {damage.offset}): {damage.reason}",
            hint="amp doctor lists all damage; restore the journal from a backup",
        )
        self.damage = damage


class Survey:
    """One pass over segments; `note` is told each damage."""

    def __init__(
        self, codec: Codec, seq: int, chain: bytes | None, note: Callable[[Damage], None]
    ) -> None:
        self._codec = codec
        self._note = note
        self.seq = seq
        self.chain = chain
        self.tail: Hole | None = None

    def missing(self, first: int) -> None:
        """No segment comes before the one that begins with `first`."""
        self._note(Damage(first, 0, 0, 1, first - 1, MISSING))

    def segment(self, first: int, data: bytes, until: int | None) -> Iterator[Frame]:
        """The frames of the segment; `until` is the first number of the next one.

        Without `until` this is the last segment: a hole at its end is left in `tail`.
        """
        self._header(first, data)
        yield from self.frames(first, data, HEADER_SIZE, until)

    def frames(self, first: int, data: bytes, start: int, until: int | None) -> Iterator[Frame]:
        """The frames from `start` on, as in `segment`."""
        hole: Hole | None = None
        end = start
        for found in self._codec.walk(data, start, max(self.seq, first - 1)):
            end = found.end
            if isinstance(found, Hole):
                hole = found
                continue
            if until is not None and found.last >= until:
                self._note(Damage(first, found.offset, end - found.offset, 0, 0, OVERLAP))
                continue
            if hole is not None or found.seq != self.seq + 1:
                self._lost(first, found.offset, hole, found.seq)
            elif found.link != self.chain and self.chain is not None:
                self._note(Damage(first, found.offset, 0, found.seq, found.seq, CHAIN))
            hole = None
            self.seq, self.chain = found.last, found.chain
            yield found
        if until is None:
            self.tail = hole
        elif hole is not None or self.seq + 1 < until:
            self._lost(first, end, hole, until)
            self.seq, self.chain = until - 1, None

    def _header(self, first: int, data: bytes) -> None:
        follows = first == self.seq + 1
        header = prove_header(self._codec, data)
        if isinstance(header, str):
            size = min(HEADER_SIZE, len(data))
            self._note(Damage(first, 0, size, 0, 0, f"{HEADER}: {header}"))
            self.chain = self.chain if follows else None
        elif header.first != first:
            self._note(Damage(first, 0, HEADER_SIZE, 0, 0, FOREIGN))
            self.chain = None
        else:
            if follows and self.chain is not None and self.chain != header.link:
                self._note(Damage(first, 0, 0, 0, 0, CHAIN))
            self.chain = header.link
        self.seq = first - 1

    def _lost(self, segment: int, at: int, hole: Hole | None, before: int) -> None:
        offset, size, reason = at, 0, MISSING
        if hole is not None:
            offset, size, reason = hole.offset, hole.end - hole.offset, hole.reason
        lost = (self.seq + 1, before - 1) if before > self.seq + 1 else (0, 0)
        self._note(Damage(segment, offset, size, *lost, reason))


def prove_header(codec: Codec, data: bytes) -> Header | str:
    """As Codec.prove_header; a version that this program does not know is an error."""
    header = codec.prove_header(data)
    if isinstance(header, Header) and header.version != VERSION:
        raise StorageError(
            f"the journal has format {header.version}, this ampd reads format {VERSION}",
            hint="install the newer ampd again, or restore a backup of the older journal",
        )
    return header
