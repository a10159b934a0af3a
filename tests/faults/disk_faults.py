"""Disks that are full, fail, or are read-only: mounts, and errors put under a running daemon."""

import os
import subprocess
from contextlib import contextmanager, suppress
from pathlib import Path

from faults.crash_harness_node import pause
from faults.power_loss import Mount


class SmallDisk(Mount):
    """A file system in memory that holds so many bytes."""

    def __init__(self, folder, size):
        super().__init__(folder, "-t", "tmpfs", "-o", f"size={size}", "tmpfs")
        self._filler = self.folder / "filler"

    def fill(self):
        """Not one more byte fits."""
        with self._filler.open("ab", buffering=0) as file:
            for size in (1 << 16, 4096):
                with suppress(OSError):
                    while file.write(bytes(size)) == size:
                        pass

    def free(self):
        """What fill() took is there again."""
        self._filler.unlink()


@contextmanager
def failing(pid, calls, error):
    """While inside, these system calls of a running process fail with this error."""
    strace = subprocess.Popen(
        [
            *("strace", "-f", "-qq", "-o", "/dev/null", "-p", str(pid)),
            *("-e", f"trace={calls}", "-e", f"inject={calls}:error={error}"),
        ],
        stderr=subprocess.DEVNULL,
    )
    try:
        while not _traced(pid):
            assert strace.poll() is None, "strace could not attach"
            pause(0.01)
        yield
    finally:
        strace.terminate()
        strace.wait()


def _traced(pid):
    threads = Path(f"/proc/{pid}/task").iterdir()
    return all("TracerPid:\t0\n" not in (each / "status").read_text() for each in threads)


def cpu_seconds(pid):
    """What the process has used of a processor so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
