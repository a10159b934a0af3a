"""A trace of the daemon's system calls, read: what had ended before what began.

A call has the lines of its beginning and of its end. What stands between two threads in the trace
stands so in time: strace writes a line when the thread stops at the call, and when it leaves it.
"""

import re
from dataclasses import dataclass

CALLS = "openat,pwrite64,fdatasync,fsync,sendto,sendmsg,write,recvfrom"
_LINE = re.compile(r"(\d+) +(.*)")
_RESUMED = re.compile(r"<\.\.\. (\w+) resumed>(.*)")


@dataclass(slots=True)
class Call:
    """One system call of one thread."""

    name: str
    text: str
    began: int
    ended: int = 1 << 60

    @property
    def path(self):
        """Of the file that its first argument is; strace -y."""
        found = re.search(r"\(\d+<([^>]*)>", self.text)
        return found[1] if found else ""


def wrapper(trace):
    """Runs a program under strace, which ends when the program does, into the file `trace`."""
    return (
        "strace", "-f", "-qq", "-y", "-s", "1000000", "-o", str(trace),
        "-e", f"trace={CALLS}", "-e", "signal=none",
    )  # fmt: skip


def calls(trace):
    """The calls in the trace, in the order in which they began."""
    found, open_calls = [], {}
    for number, line in enumerate(trace.read_text(errors="replace").splitlines()):
        matched = _LINE.match(line)
        if matched is None:
            continue
        thread, text = matched.groups()
        resumed = _RESUMED.match(text)
        if resumed:
            if thread in open_calls:
                call = open_calls.pop(thread)
                call.text += resumed[2]
                call.ended = number
            continue
        name = text.partition("(")[0]
        call = Call(name, text, number)
        found.append(call)
        if "<unfinished ...>" in text:
            open_calls[thread] = call
        else:
            call.ended = number
    return found


def synced_between(found, write, until):
    """Whether a sync of the written file began after the write had ended, and ended in time."""
    return any(
        call.began > write.ended and call.ended < until and call.path == write.path
        for call in found
        if call.name in ("fdatasync", "fsync") and _went_well(call)
    )


def _went_well(call):
    return call.text.rstrip().endswith("= 0")
