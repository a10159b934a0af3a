"""This module is the journal: how records last.

One folder of segments (frames.py has their bytes, survey.py what they say together),
each named by the number of its first record, and one `reserve` (reserve.py). Records
are numbered from 1 without gaps. Promises, each tested by name in tests/storage/
test_journal.py and tests/faults/test_journal_*.py:

  J1   After sync() every appended record survives SIGKILL and power loss.
  J2   After a crash every synced record is there, unaltered, in order and under its
       number. Of what was not synced any part may be there, whole records only: what
       must live or die together goes into one payload.
  J3   What open() shows is durable before it is shown.
  J4   A flipped bit, or any damage, costs at most the records that it touches; it is
       reported with segment, offset, size and numbers; no altered record is returned.
  J5   A torn tail is told apart from damage and cut off (recovery.py).
  J6   Whoever changes, removes or reorders records without the key is found out, also
       when all checksums were made again. A cut end shows against a checkpoint.
  J7   append() is all or nothing in this process: after an error the file is as before.
  J8   After a failed sync nothing is acknowledged and nothing written until reopen(),
       which drops what was not synced. A sync is never tried twice.
  J9   A full disk refuses ordinary records; urgent ones still find the reserve. There is
       nothing to do when room comes back.
  J10  Compaction loses nothing, brings nothing back, leaves the chain verifiable, and a
       crash in it leaves the old segment or the new one.
  J11  open() with a checkpoint reads what lies behind it, however long the journal is.
  J12  A number is never given out twice, once it was synced.

One thread writes (append, sync, compact, reopen). read(), scan() and check() may run
in others at the same time: they see what was synced.

Not here: what records mean, group commit, the lock on the folder (store.py, daemon.py).
"""

import errno
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Final, Self

from ampd.model.errors import Invalid, StorageError
from ampd.storage.compaction import replace, rewritten
from ampd.storage.disk import Disk
from ampd.storage.frames import HEADER_SIZE, MAX_PAYLOAD, OVERHEAD, Codec, Frame, payload
from ampd.storage.reading import Reader
from ampd.storage.recovery import holds, recover, segment_path, sync_failed
from ampd.storage.reserve import RESERVE, Reserve, is_full
from ampd.storage.survey import Checkpoint, Damage, DamagedRecord, Position, Record, Report, Survey

SEGMENT_BYTES: Final = 8 << 20  # read at once by scan and compaction: the memory they may take
WORTH_IT: Final = 0.5  # half dead: each byte that is copied wins at least one

__all__ = ["Checkpoint", "Damage", "DamagedRecord", "Journal", "Position", "Record", "Report"]


class Journal:
    """An open journal. Attributes beside the methods:

    damage: all damage found since it was opened, in the order it was found.
    torn: what recovery cut off or filled at open: records that nobody was told of.
    checkpoint_held: whether the checkpoint given to open() fits the files.
    """

    def __init__(
        self,
        disk: Disk,
        folder: Path,
        codec: Codec,
        *,
        limit: int,
        reserve: Reserve,
        after: Checkpoint | None,
    ) -> None:
        self._disk = disk
        self._folder = folder
        self._codec = codec
        self._reader = Reader(disk, folder, codec)
        self._limit = limit
        self._reserve = reserve
        self._fd = -1
        self._broken = ""
        found = recover(disk, folder, codec, after)
        self.damage = found.damage
        self.torn = found.torn
        self.checkpoint_held = found.held
        self._anchor = after if found.held else None
        self._segments = tuple(found.segments)
        self._sealed_bytes = sum(
            disk.size(segment_path(folder, s))
            for s in self._segments
            if found.fresh or s != self._active
        )
        self._written = self._synced = found.end
        if found.fresh:
            self._begin()
        else:
            self._fd = disk.open(self._path)

    @classmethod
    def open(
        cls,
        directory: Path,
        key: bytes,
        *,
        segment_bytes: int = SEGMENT_BYTES,
        after: Checkpoint | None = None,
        reserve_bytes: int = RESERVE,
        disk: Disk | None = None,
    ) -> Self:
        """Recover the journal of the folder, or begin one; `key` is 16 to 64 secret bytes.

        With `after`, a checkpoint that the caller kept, only what lies behind it is read
        (J11). Raises StorageError when the files cannot be read or the key does not fit.
        """
        if not 16 <= len(key) <= 64:
            raise Invalid(f"a journal's key has 16 to 64 bytes, not {len(key)}")
        disk = disk or Disk()
        try:
            disk.make_folder(directory)
            reserve = Reserve(disk, directory, reserve_bytes)
            journal = cls(
                disk, directory, Codec(key), limit=segment_bytes, reserve=reserve, after=after
            )
            reserve.hold()
        except OSError as exc:
            raise StorageError(
                f"the journal {directory} cannot be opened: {exc}",
                hint="check the disk, and who owns the folder",
            ) from exc
        return journal

    @property
    def checkpoint(self) -> Checkpoint:
        """The state after the last synced record: keep it, and give it to open()."""
        return self._synced

    @property
    def identity(self) -> str:
        """Of the file that is written to: another one if it was restored."""
        return self._disk.identity(self._fd)

    @property
    def size_bytes(self) -> int:
        """Of all segments; the reserve is not counted."""
        return self._sealed_bytes + self._written.position.offset

    @property
    def sealed(self) -> list[tuple[int, int, int]]:
        """Of each segment but the last: its first number, its follower's, its size in bytes."""
        size = self._disk.size
        return [(n, m, size(segment_path(self._folder, n))) for n, m in pairwise(self._segments)]

    @property
    def full(self) -> bool:
        """Whether the last ordinary record was refused, or the next one would be."""
        return self._reserve.full

    def append(self, payloads: Sequence[bytes], *, urgent: bool = False) -> list[Record]:
        """Write the records; they last once sync() returned. All or nothing (J7).

        `urgent` ones may use the reserve. Raises StorageError: nothing was kept.
        """
        self._must_work()
        for body in payloads:
            if len(body) > MAX_PAYLOAD:
                raise Invalid(f"a record has at most {MAX_PAYLOAD} bytes, not {len(body)}")
        if not payloads:
            return []
        try:
            if not urgent and not self._reserve.hold():
                raise self._reserve.refusal()
            records = self._reserve.with_room(lambda: self._append(payloads), urgent=urgent)
        except OSError as exc:
            if is_full(exc):
                raise self._reserve.refusal() from exc
            raise StorageError(
                f"the journal cannot be written: {exc}", hint="check the disk of the data folder"
            ) from exc
        if not urgent:
            self._reserve.taken()
        return records

    def sync(self) -> None:
        """Everything appended is durable when this returns (J1).

        Raises StorageError: nothing since the last sync may be acknowledged (J8).
        """
        self._must_work()
        if self._written == self._synced:
            return
        self._sync(self._fd)
        self._synced = self._written

    def reopen(self) -> None:
        """Go on after a failed sync: what was not synced is cut off, durably (J8).

        Raises StorageError when the disk still fails; it may be called again.
        """
        try:
            self._disk.sync_folder(self._folder)
            fd = self._disk.open(self._path)  # before the old one goes, maybe the last hold on it
            if self._fd >= 0:
                self._disk.close(self._fd)
            self._fd = fd
            if not holds(self._disk, self._folder, self._codec, self._segments, self._synced):
                raise OSError(errno.ESTALE, f"{self._path} is not the file that was written")
            self._disk.truncate(self._fd, self._synced.position.offset)
            self._disk.sync(self._fd)
        except OSError as exc:
            self._broken = str(exc)
            raise sync_failed(exc, self._fd, self._path) from exc
        self._written = self._synced
        self._broken = ""

    def read(self, position: Position, seq: int) -> bytes:
        """The payload of the record, proved; raises DamagedRecord.

        A position from before a compaction is looked up again, which takes longer.
        """
        return self._reader.read(position, seq)

    def scan(self, after: int = 0) -> Iterator[Record]:
        """The synced records with numbers above `after`, in order.

        Damage is stepped over and added to `damage` (J4).
        """
        survey = Survey(self._codec, 0, None, self._note)
        for first, frame, data in self._walk(survey, after):
            if frame.last > after and not frame.gap:
                yield Record(frame.seq, payload(data, frame), Position(first, frame.offset))

    def check(self, progress: Callable[[int, int], None] | None = None) -> Report:
        """Read and prove every byte that was synced; `progress` hears bytes done and in all."""
        damage: list[Damage] = []
        records = done = seen = 0
        total = self.size_bytes
        survey = Survey(self._codec, 0, None, damage.append)
        for first, frame, data in self._walk(survey, 0):
            records += not frame.gap
            if first != seen:
                seen, done = first, done + len(data)
                if progress is not None:
                    progress(done, total)
        return Report(not damage, len(self._segments), records, total, damage)

    def compact(
        self,
        dead: Callable[[int], bool],
        *,
        share: float = WORTH_IT,
        segments: Collection[int] | None = None,
    ) -> dict[int, Position]:
        """Rewrite the segments of which at least `share` is dead; where each live record is now.

        `segments` limits it to these (the last one is never rewritten). What was done before
        an error is returned; raises StorageError when nothing could be done (J10).
        """
        self._must_work()
        moved: dict[int, Position] = {}
        for first, until in pairwise(self._segments):
            if segments is not None and first not in segments:
                continue
            try:
                live = self._compact(first, until, dead, share)
            except OSError as exc:
                if moved:
                    break
                raise StorageError(
                    f"segment {first} cannot be compacted: {exc}", hint="free some space"
                ) from exc
            moved.update((seq, Position(first, offset)) for seq, offset in live.items())
        return moved

    def rotate(self) -> None:
        """Begin a new segment if the last has records. Raises OSError, StorageError: as before."""
        self._must_work()
        if self._written.seq >= self._active:
            self._rotate()

    def close(self) -> None:
        """Sync what was appended, and let the files go."""
        try:
            if not self._broken:
                self.sync()
        finally:
            if self._fd >= 0:
                self._disk.close(self._fd)
            self._fd, self._broken = -1, "it was closed"

    @property
    def _active(self) -> int:
        return self._segments[-1] if self._segments else 0

    @property
    def _path(self) -> Path:
        return segment_path(self._folder, self._active)

    def _must_work(self) -> None:
        if self._broken:
            raise StorageError(
                f"the journal takes nothing more: {self._broken}",
                hint="check the disk, then restart ampd",
            )

    def _note(self, damage: Damage) -> None:
        key = (damage.segment, damage.offset, damage.first_seq, damage.last_seq)
        if all(key != (d.segment, d.offset, d.first_seq, d.last_seq) for d in self.damage):
            self.damage.append(damage)

    def _compact(
        self, first: int, until: int, dead: Callable[[int], bool], share: float
    ) -> dict[int, int]:
        path = segment_path(self._folder, first)
        data = self._disk.read(path, 0, self._disk.size(path))
        new = rewritten(self._codec, first, data, until, dead=dead, share=share)
        if new is None:
            return {}
        if self._anchor and self._anchor.position.segment == first:
            self._anchor = None
        replace(self._disk, path, new[0])
        self._sealed_bytes -= len(data) - len(new[0])
        return new[1]

    def _append(self, payloads: Sequence[bytes]) -> list[Record]:
        size = sum(map(len, payloads)) + OVERHEAD * len(payloads)
        if HEADER_SIZE < self._written.position.offset > self._limit - size:
            self._rotate()
        records: list[Record] = []
        parts: list[bytes] = []
        seq, chain = self._written.seq, self._written.chain
        segment, start = self._written.position.segment, self._written.position.offset
        synced, at = self._synced.seq, start
        for body in payloads:
            seq += 1
            frame, chain = self._codec.record(seq, synced, chain, body)
            records.append(Record(seq, body, Position(segment, at)))
            parts.append(frame)
            at += len(frame)
        self._write(b"".join(parts), start)
        self._written = Checkpoint(seq, Position(segment, at), chain)
        return records

    def _write(self, data: bytes, start: int) -> None:
        try:
            self._disk.write_all(self._fd, data, start)
        except OSError:
            try:
                self._disk.truncate(self._fd, start)
            except OSError as exc:
                self._broken = f"a failed write could not be taken back ({exc})"
            raise

    def _sync(self, fd: int) -> None:
        try:
            self._disk.sync(fd)
        except OSError as exc:
            self._broken = f"a sync failed ({exc})"
            raise sync_failed(exc, fd, self._path) from exc

    def _rotate(self) -> None:
        self.sync()
        self._begin()

    def _begin(self) -> None:
        """Make the segment of the next number; it counts once its entry is durable."""
        state = self._synced
        first = state.seq + 1
        path = segment_path(self._folder, first)
        fd = self._disk.create(path)
        try:
            self._disk.write_all(fd, self._codec.header(first, state.chain), 0)
            self._durable(fd)
        except (OSError, StorageError):
            self._disk.close(fd)
            with suppress(OSError):  # recovery takes it away (R5)
                self._disk.unlink(path)
            raise
        if self._fd >= 0:
            self._disk.close(self._fd)
            self._sealed_bytes += state.position.offset
        self._fd = fd
        self._segments = (*self._segments, first)
        self._written = Checkpoint(state.seq, Position(first, HEADER_SIZE), state.chain)
        self._synced = self._written

    def _durable(self, fd: int) -> None:
        self._sync(fd)
        try:
            self._disk.sync_folder(self._folder)
        except OSError as exc:
            self._broken = f"a sync of the folder failed ({exc})"
            raise StorageError(
                f"the folder of the journal was not synced: {exc}", hint="check the disk"
            ) from exc

    def _walk(self, survey: Survey, after: int) -> Iterator[tuple[int, Frame, bytes]]:
        end = self._synced  # taken before the segments: none of those it names is missing then
        return self._reader.walk(survey, self._segments, end, after=after, anchor=self._anchor)
