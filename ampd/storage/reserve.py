"""This module is the room kept back so that a full disk can still be told what was read.

A file of RESERVE bytes lies beside the segments. When a small, urgent record (an
acknowledgement) finds the disk full, the file is given up and the record written.
Until the reserve could be made again, ordinary records are refused.

Not here: which records are urgent (the caller says so).
"""

import errno
from contextlib import suppress
from pathlib import Path
from typing import Final

from ampd.model.errors import StorageError
from ampd.storage.disk import Disk

RESERVE: Final = 1 << 20  # some 10,000 acknowledgements, or the blocks of one compaction
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

    def hold(self) -> bool:
        """Make the reserve when it is missing; False when there is no room for it."""
        if self.held:
            return True
        try:
            if self._disk.size(self._path) == self._size:
                self.held = True
                return True
            self._disk.unlink(self._path)
        except FileNotFoundError:
            pass
        fd = self._disk.create(self._path)
        try:
            self._disk.allocate(fd, self._size)
        except OSError as exc:
            with suppress(FileNotFoundError):
                self._disk.unlink(self._path)
            if not is_full(exc) and exc.errno != errno.EFBIG:
                raise
            return False
        finally:
            self._disk.close(fd)
        self.held = True
        return True

    def refusal(self) -> StorageError:
        """What an ordinary record is told."""
        return StorageError(
            "the disk is full: new mail is refused until there is room",
            hint=f"free space on the disk of {self._folder}; ampd goes on by itself",
        )

    def release(self) -> bool:
        """Give the room up; False when there is none to give."""
        if not self.held or self._size == 0:
            return False
        with suppress(FileNotFoundError):
            self._disk.unlink(self._path)
        self.held = False
        # The blocks come back with the entry's removal; some file systems want it on disk first.
        self._disk.sync_folder(self._folder)
        return True
