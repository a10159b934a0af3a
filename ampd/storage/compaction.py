"""This module is how a segment gets rid of its dead records.

A rewritten segment keeps its name, header, and every live frame byte for byte. Each run
of dead records and old gaps becomes one gap frame, so the chain goes on. Rules:

  C1  The new bytes are walked before they are written: same live records, no damage.
  C2  Written beside the old file, synced, renamed over it, the folder synced: whatever
      the crash, the old segment or the new one is there, whole.
  C3  A segment with damage is left as it is: it is evidence, and may be mended by hand.
  C4  The last segment is never rewritten: it is being appended to.

Not here: which records are dead (the caller says so), when to compact (store.py).
"""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from ampd.model.errors import StorageError
from ampd.storage.disk import Disk
from ampd.storage.frames import GAP_SIZE, HEADER_SIZE, Codec, Frame
from ampd.storage.recovery import UNFINISHED
from ampd.storage.survey import Damage, Survey


def rewritten(
    codec: Codec, first: int, data: bytes, until: int, *, dead: Callable[[int], bool], share: float
) -> tuple[bytes, dict[int, int]] | None:
    """The segment without its dead records, and the offset of each live one.

    None when less than `share` of its bytes would be won, or when it is damaged (C3).
    """
    frames = _frames(codec, first, data, until)
    if frames is None:
        return None
    parts = [data[:HEADER_SIZE]]
    live: dict[int, int] = {}
    at = HEADER_SIZE
    run: list[Frame] = []
    for frame in frames:
        if frame.gap or dead(frame.seq):
            run.append(frame)
            continue
        if run:
            parts.append(_gap(codec, run))
            at += GAP_SIZE
            run = []
        parts.append(data[frame.offset : frame.end])
        live[frame.seq] = at
        at += frame.end - frame.offset
    if run:
        parts.append(_gap(codec, run))
        at += GAP_SIZE
    if len(data) - at < share * len(data) or at >= len(data):
        return None
    new = b"".join(parts)
    proved = _frames(codec, first, new, until)  # C1
    if proved is None or {f.seq: f.offset for f in proved if not f.gap} != live:
        raise StorageError(f"segment {first} could not be rewritten: the copy does not hold")
    return new, live


def replace(disk: Disk, path: Path, data: bytes) -> None:
    """Put `data` in the place of the file (C2). Raises OSError: the old file is still there."""
    beside = path.with_suffix(UNFINISHED)
    with suppress(FileNotFoundError):
        disk.unlink(beside)
    fd = disk.create(beside)
    try:
        try:
            disk.write_all(fd, data, 0)
            disk.sync(fd)
        finally:
            disk.close(fd)
        disk.rename(beside, path)
    except OSError:
        with suppress(OSError):  # recovery takes it away
            disk.unlink(beside)
        raise
    disk.sync_folder(path.parent)


def _frames(codec: Codec, first: int, data: bytes, until: int) -> list[Frame] | None:
    damage: list[Damage] = []
    frames = list(Survey(codec, first - 1, None, damage.append).segment(first, data, until))
    return None if damage else frames


def _gap(codec: Codec, run: list[Frame]) -> bytes:
    return codec.gap(run[0].seq, run[-1].last, run[0].link, run[-1].chain)
