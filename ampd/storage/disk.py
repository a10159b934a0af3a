"""This module is the few things the journal asks of the operating system.

It exists so that a test can stand between the journal and the disk: record
what was written and synced, drop what was not, or fail the n-th call. Every
method is one or two system calls and raises OSError as they do; nothing here
decides anything.

Files are made with O_EXCL and O_NOFOLLOW, mode 0600, the folder with 0700:
nobody else can read them even for a moment, and no link leads elsewhere.

Not here: what the bytes mean (frames.py), when to sync (journal.py).
"""

import errno
import fcntl
import os
from contextlib import suppress
from pathlib import Path

_FLAGS = os.O_CLOEXEC | os.O_NOFOLLOW
_GET_VERSION = 0x80087601  # FS_IOC_GETVERSION, ioctl_iflags(2), where a long has 64 bits


class Disk:
    """The real one."""

    def make_folder(self, folder: Path) -> None:
        """Make the folder, durably, when it is missing."""
        try:
            folder.mkdir(mode=0o700, parents=True)
        except FileExistsError:
            return
        self.sync_folder(folder.parent)

    def names(self, folder: Path) -> list[str]:
        """The names in the folder, sorted."""
        return sorted(os.listdir(folder))  # noqa: PTH208 - names, not paths, are wanted

    def create(self, path: Path) -> int:
        """A descriptor for writing to a file that did not exist."""
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _FLAGS, 0o600)

    def open(self, path: Path) -> int:
        """A descriptor for writing to a file that exists."""
        return os.open(path, os.O_WRONLY | _FLAGS)

    def identity(self, fd: int) -> str:
        """What tells this file from any other, also from one that has its inode after it."""
        generation = b""
        with suppress(OSError):  # not every file system has one
            generation = fcntl.ioctl(fd, _GET_VERSION, bytes(8))
        return f"{os.fstat(fd).st_ino}.{generation.hex()}"

    def close(self, fd: int) -> None:
        os.close(fd)

    def read(self, path: Path, start: int, size: int) -> bytes:
        """`size` bytes from `start`, fewer only when the file ends before."""
        fd = os.open(path, os.O_RDONLY | _FLAGS)
        try:
            data = os.pread(fd, size, start)
            if len(data) == size or not data:
                return data
            parts = [data]
            while data and (size := size - len(data)) > 0:  # a read of 2 GiB or more comes in parts
                start += len(data)
                data = os.pread(fd, size, start)
                parts.append(data)
            return b"".join(parts)
        finally:
            os.close(fd)

    def size(self, path: Path) -> int:
        return path.lstat().st_size

    def write(self, fd: int, data: bytes, start: int) -> int:
        """How many bytes were taken, which may be fewer than were given."""
        return os.pwrite(fd, data, start)

    def write_all(self, fd: int, data: bytes, start: int) -> None:
        """Write it all, or raise: what the kernel takes only a part of has no room."""
        if self.write(fd, data, start) != len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def truncate(self, fd: int, size: int) -> None:
        os.ftruncate(fd, size)

    def allocate(self, fd: int, size: int) -> None:
        os.posix_fallocate(fd, 0, size)

    def sync(self, fd: int) -> None:
        """The file's bytes and its size are durable; ESTALE if no folder names it any more."""
        if not os.fstat(fd).st_nlink:
            raise OSError(errno.ESTALE, "the file was removed while it was open")
        os.fdatasync(fd)

    def sync_folder(self, folder: Path) -> None:
        """The folder's entries are durable."""
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def rename(self, source: Path, target: Path) -> None:
        source.rename(target)

    def unlink(self, path: Path) -> None:
        path.unlink()
