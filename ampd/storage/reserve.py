"""This module is the room kept back so that a full disk can still be told what was read.

A file of RESERVE bytes lies beside the segments. When a small, urgent record (an
acknowledgement) finds the disk full, a part of the file is given up and the record
written. Until the reserve could be made whole again, ordinary records are refused.

Not here: which records are urgent (the caller says so).
"""

import errno
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final, TypeVar

from ampd.model.errors import StorageError
from ampd.storage.disk import Disk

T = TypeVar("T")

RESERVE: Final = 1 << 20  # some 10,000 acknowledgements, or the blocks of one compaction
PARTS: Final = 4  # it is given up in parts, so that whatever else fills the disk takes only one
NAME: Final = "reserve"

_FULL = frozenset((errno.ENOSPC, errno.EDQUOT))


def is_full(error: OSError) -> bool:
    """Whether the error means that there is no room."""
    return error.errno in _FULL


class Reserve:
    """The file, held or given up."""

    def __init__(self, disk: Disk, folder: Path, size: int) -> None:
        self._disk = disk
        self._path = folder / NAME
        self._folder = folder
        self._size = size
        self.held = size == 0
        self._refused = False

    def hold(self) -> bool:
        """Make the reserve whole when it is not; False when there is no room for that."""
        if self.held:
            return True
        before = self._left()
        if before != self._size and not self._grow(before):
            return False
        self.held = True
        self._refused = False
        return True

    def _left(self) -> int:
        try:
            return self._disk.size(self._path)
        except FileNotFoundError:
            return 0

    def _grow(self, before: int) -> bool:
        fd = self._disk.open(self._path) if before else self._made()
        try:
            self._disk.allocate(fd, self._size)
        except OSError as exc:
            if not is_full(exc) and exc.errno != errno.EFBIG:
                raise
            self._disk.truncate(fd, before)
            return False
        finally:
            self._disk.close(fd)
        return True

    def _made(self) -> int:
        with suppress(FileNotFoundError):
            self._disk.unlink(self._path)
        return self._disk.create(self._path)

    @property
    def full(self) -> bool:
        """Whether the last ordinary record was refused, or the next one would be."""
        return self._refused or not self.held

    def taken(self) -> None:
        """An ordinary record found room."""
        self._refused = False

    def with_room(self, do: Callable[[], T], *, urgent: bool) -> T:
        """Do it; if it is urgent, again in the room that is given up, as long as there is any."""
        while True:
            try:
                return do()
            except OSError as exc:
                if not (urgent and is_full(exc) and self.release()):
                    raise

    def refusal(self) -> StorageError:
        """What an ordinary record is told."""
        self._refused = True
        return StorageError(
            "the disk is full: new mail is refused until there is room",
            hint=f"free space on the disk of {self._folder}; ampd goes on by itself",
        )

    def release(self) -> bool:
        """Give a part of the room up; False when there is none to give."""
        left = self._left()
        if left == 0:
            return False
        self.held = False
        if (left := left - max(1, self._size // PARTS)) > 0:
            fd = self._disk.open(self._path)
            try:
                self._disk.truncate(fd, left)
            finally:
                self._disk.close(fd)
        else:
            self._disk.unlink(self._path)
        # The blocks come back with this; some file systems want it on disk first.
        self._disk.sync_folder(self._folder)
        return True
