"""This module is how committed records are read back, from any thread.

It keeps no descriptor and no state: each read opens the segment, reads and closes it,
so a compaction may replace the file at any moment and nobody holds a stale one.

Not here: what was committed (journal.py), what is proved (frames.py, survey.py).
"""

from collections.abc import Iterator
from pathlib import Path

from ampd.storage.disk import Disk
from ampd.storage.frames import UNPROVED, Codec, Frame, payload
from ampd.storage.recovery import segment_path
from ampd.storage.survey import Checkpoint, Damage, DamagedRecord, Position, Survey

_READ_AHEAD = 4096  # bytes; most records are smaller, so most reads are one system call


class Reader:
    """Reads the segments of one folder."""

    def __init__(self, disk: Disk, folder: Path, codec: Codec) -> None:
        self._disk = disk
        self._folder = folder
        self._codec = codec

    def read(self, position: Position, seq: int) -> bytes:
        """The payload of the record, proved; raises DamagedRecord."""
        path = segment_path(self._folder, position.segment)
        try:
            found = self._at(path, position.offset, seq)
            if isinstance(found, bytes):
                return found
            data = self._disk.read(path, 0, self._disk.size(path))
        except OSError as exc:
            raise DamagedRecord(
                Damage(position.segment, position.offset, 0, seq, seq, str(exc))
            ) from exc
        survey = Survey(self._codec, position.segment - 1, None, lambda _: None)
        for frame in survey.segment(position.segment, data, None):
            if frame.seq == seq and not frame.gap:
                return payload(data, frame)
        raise DamagedRecord(Damage(position.segment, position.offset, 0, seq, seq, found))

    def walk(
        self,
        survey: Survey,
        segments: tuple[int, ...],
        end: Checkpoint,
        *,
        after: int,
        anchor: Checkpoint | None,
    ) -> Iterator[tuple[int, Frame, bytes]]:
        """The frames that can hold numbers above `after`, up to `end`, each with its segment.

        From `anchor` on, when that is enough.
        """
        segments = tuple(s for s in segments if s <= end.position.segment)
        begin = max((i for i, s in enumerate(segments) if s <= after + 1), default=0)
        if begin == 0 and segments[0] > 1:
            survey.missing(segments[0])
        for i, first in enumerate(segments[begin:], begin):
            last = i + 1 == len(segments)
            until = end.seq + 1 if last else segments[i + 1]
            path = segment_path(self._folder, first)
            size = end.position.offset if last else self._disk.size(path)
            if i == begin and anchor and first == anchor.position.segment and after >= anchor.seq:
                start = anchor.position.offset
                data = bytes(start) + self._disk.read(path, start, size - start)
                survey.seq, survey.chain = anchor.seq, anchor.chain
                frames = survey.frames(first, data, start, until)
            else:
                data = self._disk.read(path, 0, size)
                frames = survey.segment(first, data, until)
            for frame in frames:
                yield first, frame, data

    def _at(self, path: Path, offset: int, seq: int) -> bytes | str:
        data = self._disk.read(path, offset, _READ_AHEAD)
        head = self._codec.head(data, 0)
        if head is None or head[0] != seq:
            return UNPROVED
        if head[1] > len(data):
            data = self._disk.read(path, offset, head[1])
        found = self._codec.prove(data[: head[1]], 0, seq - 1)
        return payload(data, found) if isinstance(found, Frame) else found
