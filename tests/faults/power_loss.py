"""Disks whose power can fail: a file system in a file, mounted, and shut down by its own ioctl.

The ioctl (EXT4_IOC_SHUTDOWN, XFS_IOC_GOINGDOWN, flag NOLOGFLUSH) drops everything that is not on
the "disk" yet: what was not synced is gone after the next mount. Needs root and loop devices.
"""

import fcntl
import os
import shutil
import struct
import subprocess
from pathlib import Path

_SHUTDOWN = 0x8004587D
_NO_LOG_FLUSH = 2
_SIZES = {"ext4": 200 << 20, "xfs": 320 << 20}  # bytes; mkfs.xfs makes none below 300 MiB
_ADMIN_PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"


def administer(*words):
    """Run a program of the system; CalledProcessError with what it said."""
    program = shutil.which(words[0], path=_ADMIN_PATH) or words[0]
    subprocess.run([program, *words[1:]], check=True, capture_output=True)


class Mount:
    """A mounted file system; `folder` is its root."""

    def __init__(self, folder, *words):
        self.folder = Path(folder)
        self._words = words
        self.folder.mkdir(exist_ok=True)
        self.mount()

    def mount(self):
        administer("mount", *self._words, str(self.folder))

    def unmount(self):
        administer("umount", str(self.folder))

    def close(self):
        self.unmount()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


class LoopDisk(Mount):
    """A disk in a file of `work`, with a file system of this kind.

    It is mounted below a shared mount: where a test next to this one has made a mount namespace,
    as `ip netns exec` does, unmounting must reach the copy there, or the dead disk lives on.
    """

    def __init__(self, work, kind="ext4", *, size=None, options=()):
        image = Path(work) / f"{kind}.img"
        with image.open("wb") as file:
            file.truncate(size or _SIZES[kind])
        administer(f"mkfs.{kind}", "-q", *options, str(image))
        self._place = Path(work) / "place"
        self._place.mkdir()
        administer("mount", "--bind", str(self._place), str(self._place))
        administer("mount", "--make-shared", str(self._place))
        super().__init__(self._place / "disk", "-o", "loop", str(image))

    def cut_power(self):
        """From now on nothing reaches the disk, and what had not yet is lost."""
        descriptor = os.open(self.folder, os.O_DIRECTORY)
        try:
            fcntl.ioctl(descriptor, _SHUTDOWN, struct.pack("I", _NO_LOG_FLUSH))
        finally:
            os.close(descriptor)

    def power_on(self):
        """Mount again what is on the disk; nobody may have a file open there."""
        self.unmount()
        self.mount()

    def close(self):
        self.unmount()
        administer("umount", str(self._place))


def why_not(kind):
    """Why this machine cannot have such a disk, or ""."""
    if os.geteuid() != 0:
        return "needs root: it mounts a file system"
    for program in (f"mkfs.{kind}", "mount", "umount"):
        if shutil.which(program, path=_ADMIN_PATH) is None:
            return f"needs {program}"
    try:
        administer("losetup", "-f")
    except (subprocess.CalledProcessError, FileNotFoundError) as exc:
        return f"needs loop devices: {exc}"
    return ""
