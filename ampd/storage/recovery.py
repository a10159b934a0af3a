"""This module is what happens between a crash and the first new record.

Only the last segment can hold what a crash left: every other one was synced before its
follower was made. Of the last one only what lies behind the caller's checkpoint is
read. Rules:

  R1  Unproved bytes behind the last proved frame are a torn tail and are cut off,
      unless the checkpoint says that they were synced: then they are damage, stay where
      they are, and a new segment begins behind them.
  R2  A hole between frames is damage when a later frame or the checkpoint says that it
      was synced. Otherwise nobody was told of its records: a crash wrote the last
      append in another order. A gap frame takes its place, so that it is reported once.
  R3  The frames that nothing proves synced are written once more and synced before they
      count: after a failed sync the page cache may hold what the disk does not.
  R4  A journal that ends before its checkpoint has lost records: that is damage, and
      their numbers are not given out again.
  R5  A last segment that is no longer than a header and has none is the beginning of a
      segment in which nothing was ever written: it goes.
  R6  Nothing is cut, written or removed when the key does not fit.

Not here: the frames (frames.py), what is missing elsewhere (survey.py).
"""

import errno
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from ampd.model.errors import StorageError
from ampd.storage.disk import Disk
from ampd.storage.frames import (
    CHAIN_START,
    FORGED,
    GAP_SIZE,
    HEADER_SIZE,
    OVERHEAD,
    Codec,
    Frame,
)
from ampd.storage.survey import Checkpoint, Damage, Position, Survey, prove_header

SUFFIX = ".log"
UNFINISHED = ".new"
LOST_END = "the journal ends before its checkpoint"
TORN = "a crash cut the last append off"


@lru_cache(maxsize=256)  # a page of messages asks for the same few a hundred times
def segment_path(folder: Path, first: int) -> Path:
    return folder / f"{first:016d}{SUFFIX}"


@dataclass(slots=True)
class Recovered:
    """What recovery found: `end` is where the next frame goes, `fresh` that a new segment must."""

    segments: list[int]
    end: Checkpoint
    fresh: bool = False
    held: bool = False
    damage: list[Damage] = field(default_factory=list)
    torn: list[Damage] = field(default_factory=list)


def recover(disk: Disk, folder: Path, codec: Codec, after: Checkpoint | None) -> Recovered:
    """Bring the last segment into order; raises StorageError when the key does not fit."""
    names = disk.names(folder)
    segments = [
        int(n[:16]) for n in names if len(n) == 20 and n.endswith(SUFFIX) and n[:16].isdigit()
    ]
    while segments and _unborn(disk, segment_path(folder, segments[-1]), codec):
        disk.unlink(segment_path(folder, segments.pop()))
    held = after is not None and holds(disk, folder, codec, segments, after)
    if segments:
        found = _Last(disk, folder, codec, segments, after=after, held=held).recover()
    else:
        found = Recovered(segments, Checkpoint(0, Position(0, 0), CHAIN_START), fresh=True)
    found.held = held
    if after is not None and found.end.seq < after.seq:  # R4
        at = found.end.position
        rest = disk.size(segment_path(folder, at.segment)) - at.offset if segments else 0
        lost = (found.end.seq + 1, after.seq)
        found.damage.append(Damage(at.segment, at.offset, rest, *lost, LOST_END))
        found.end, found.fresh = Checkpoint(after.seq, at, after.chain), True
    for name in names:
        if name.endswith(UNFINISHED):  # a compaction that was not renamed: the old file counts
            disk.unlink(folder / name)
    disk.sync_folder(folder)
    return found


def _unborn(disk: Disk, path: Path, codec: Codec) -> bool:
    if disk.size(path) > HEADER_SIZE:
        return False
    header = codec.prove_header(disk.read(path, 0, HEADER_SIZE))
    return isinstance(header, str) and header != FORGED  # R6


def holds(
    disk: Disk, folder: Path, codec: Codec, segments: Sequence[int], after: Checkpoint
) -> bool:
    """Whether the frame that ends at the checkpoint has its chain value."""
    at = after.position
    if at.segment not in segments:
        return False
    path = segment_path(folder, at.segment)
    if at.offset == HEADER_SIZE:
        header = codec.prove_header(disk.read(path, 0, HEADER_SIZE))
        return not isinstance(header, str) and header.link == after.chain
    if at.offset < HEADER_SIZE + OVERHEAD:
        return False
    return disk.read(path, at.offset - 16, 16) == after.chain


def sync_failed(error: OSError, fd: int, path: Path) -> StorageError:
    """What is said when the journal could not be made to last; nothing is acknowledged now."""
    if error.errno in (errno.ESTALE, errno.ENOENT):
        return StorageError(
            f"the journal's file {path} was removed or replaced while ampd has it open:"
            " nothing new is taken",
            hint=f"while ampd runs: cp /proc/{os.getpid()}/fd/{fd} {path}",
        )
    return StorageError(
        f"the disk did not take what was written: {error}",
        hint="check the disk; ampd acknowledges nothing until the journal was read again",
    )


class _Last:
    """The recovery of the last segment."""

    def __init__(
        self,
        disk: Disk,
        folder: Path,
        codec: Codec,
        segments: list[int],
        *,
        after: Checkpoint | None,
        held: bool,
    ) -> None:
        self._disk = disk
        self._codec = codec
        self._segments = segments
        self._first = segments[-1]
        self._path = segment_path(folder, self._first)
        self._after = after if held and after and after.position.segment == self._first else None
        self._synced = max(self._first - 1, after.seq if after else 0)
        self._noted: list[Damage] = []

    def recover(self) -> Recovered:
        size = self._disk.size(self._path)
        data, frames, survey = self._survey(size)
        end = frames[-1].end if frames else (self._after or self._start()).position.offset
        self._synced = max([self._synced, *(f.mark for f in frames)])
        chain = survey.chain
        state = Checkpoint(survey.seq, Position(self._first, end), chain or CHAIN_START)
        found = Recovered(self._segments, state)
        found.damage = [d for d in self._noted if not self._is_torn(d)]
        found.torn = [d for d in self._noted if self._is_torn(d)]
        if chain is None:  # nothing at all is proved here, so it stays, and its numbers with it
            found.end = Checkpoint(survey.seq + size // OVERHEAD, state.position, CHAIN_START)
            found.fresh = True
            return found
        if survey.seq < self._synced:  # R1, R4: recover() says so
            return found
        if survey.tail:
            found.torn.append(self._tail(data, survey))
        self._settle(data, frames, end, size)
        return found

    def _survey(self, size: int) -> tuple[bytes, list[Frame], Survey]:
        header = prove_header(self._codec, self._disk.read(self._path, 0, HEADER_SIZE))
        if self._after:
            start = self._after.position.offset
            data = bytes(start) + self._disk.read(self._path, start, size - start)
            survey = Survey(self._codec, self._after.seq, self._after.chain, self._noted.append)
            frames = list(survey.frames(self._first, data, start, None))
        else:
            data = self._disk.read(self._path, 0, size)
            survey = Survey(self._codec, self._first - 1, None, self._noted.append)
            frames = list(survey.segment(self._first, data, None))
        if not frames and isinstance(header, str):
            if header == FORGED:  # R6
                raise StorageError(
                    f"the journal {self._path.parent} was written with another key",
                    hint="restore the key file that belongs to it",
                )
            survey.chain = None
        return data, frames, survey

    def _start(self) -> Checkpoint:
        return Checkpoint(self._first - 1, Position(self._first, HEADER_SIZE), CHAIN_START)

    def _is_torn(self, damage: Damage) -> bool:
        return damage.first_seq > self._synced and damage.size > 0

    def _tail(self, data: bytes, survey: Survey) -> Damage:
        assert survey.tail is not None  # noqa: S101 - the caller asked
        offset, end, reason = survey.tail
        head = self._codec.head(data, offset)
        seq = head[0] if head else 0
        return Damage(self._first, offset, end - offset, seq, seq, f"{TORN}: {reason}")

    def _settle(self, data: bytes, frames: list[Frame], end: int, size: int) -> None:
        """R1, R2, R3: cut the tail, fill the holes, write again what may not be on the disk."""
        unproved = [f for f in frames if f.last > self._synced]
        fd = self._disk.open(self._path)
        try:
            if size > end:
                self._disk.truncate(fd, end)
            if unproved or end == HEADER_SIZE:
                start = self._before(frames, unproved[0])[0] if unproved else 0
                # behind a checkpoint `data` has nothing of what lies before it: not the header
                again = bytearray(
                    data[start:end] if unproved else self._disk.read(self._path, 0, end)
                )
                for frame in unproved:
                    self._fill(again, start, frame, frames)
                self._disk.write_all(fd, bytes(again), start)
            self._disk.sync(fd)
        finally:
            self._disk.close(fd)

    def _before(self, frames: list[Frame], frame: Frame) -> tuple[int, int, bytes | None]:
        """Where the frame before ends, its number and the chain value after it."""
        at = frames.index(frame)
        if at:
            return frames[at - 1].end, frames[at - 1].last, frames[at - 1].chain
        if self._after:
            return self._after.position.offset, self._after.seq, self._after.chain
        return HEADER_SIZE, self._first - 1, None

    def _fill(self, again: bytearray, start: int, frame: Frame, frames: list[Frame]) -> None:
        end, seq, chain = self._before(frames, frame)
        if frame.offset - end < GAP_SIZE or frame.seq <= seq + 1 or seq < self._synced:
            return
        if chain is None:
            header = self._codec.prove_header(self._disk.read(self._path, 0, HEADER_SIZE))
            chain = CHAIN_START if isinstance(header, str) else header.link
        gap = self._codec.gap(seq + 1, frame.seq - 1, chain, frame.link, frame.offset - end)
        again[end - start : frame.offset - start] = gap
