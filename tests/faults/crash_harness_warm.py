"""Daemons that start without importing first: forked off a process that has imported and no more.

Importing is three quarters of a start, and a harness starts the daemon a thousand times. What runs
is the program of `python -m ampd`, from its first line on. `Warm.start` gives what subprocess.Popen
would: pid, poll, wait, kill, send_signal, returncode.
"""

import json
import os
import select
import signal
import subprocess
import sys
import traceback
from contextlib import suppress
from pathlib import Path

_SERVER = "from faults.crash_harness_warm import serve; serve()"


class Warm:
    """The process that daemons are forked from."""

    def __init__(self, environ, log):
        paths = [str(Path(__file__).parent.parent), environ.get("PYTHONPATH")]
        path = os.pathsep.join(each for each in reversed(paths) if each)
        with Path(log).open("ab") as file:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _SERVER], text=True, cwd="/", stderr=file,
                env={**environ, "PYTHONPATH": path}, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            )  # fmt: skip

    def start(self, environ, log, segment_bytes):
        """A daemon."""
        return Process(self, self.ask("start", environ, str(log), segment_bytes))

    def ask(self, *what):
        self._process.stdin.write(json.dumps(what) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def close(self):
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()


class Process:
    """A daemon that was forked off."""

    def __init__(self, warm, pid):
        self._warm = warm
        self.pid = pid
        self.returncode = None
        self._descriptor = os.pidfd_open(pid)

    def poll(self):
        with suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout):
        if self.returncode is None:
            if not select.select([self._descriptor], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired("ampd", timeout)
            self.returncode = self._warm.ask("wait", self.pid)
            os.close(self._descriptor)
        return self.returncode

    def send_signal(self, number):
        if self.returncode is None:
            signal.pidfd_send_signal(self._descriptor, number)

    def kill(self):
        self.send_signal(signal.SIGKILL)


def serve():
    """In the process of its own: a request a line, a number a line."""
    from ampd import __main__, daemon

    assert daemon.Daemon
    for line in sys.stdin:
        verb, *words = json.loads(line)
        if verb == "wait":
            _, status = os.waitpid(words[0], 0)
            answer = os.waitstatus_to_exitcode(status)
        else:
            answer = os.fork()
            if not answer:
                _become(__main__.main, *words)
        print(answer, flush=True)


def small_segments(size):
    """From now on the journal's segments have this size, whatever it is opened with."""
    from ampd.storage.journal import Journal

    opened = Journal.open.__func__

    def small(cls, *words, **options):
        return opened(cls, *words, **{**options, "segment_bytes": size})

    Journal.open = classmethod(small)


def _become(main, environ, log, segment_bytes):
    os.environ.clear()
    os.environ.update(environ)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    opened = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.dup2(opened, 1)
    os.dup2(opened, 2)
    os.close(opened)
    if segment_bytes:
        small_segments(segment_bytes)
    sys.argv = ["ampd"]
    code = 1
    try:
        code = main()
    finally:  # whatever it was, this process must not go on as the one it was forked from
        if (error := sys.exc_info()[1]) is not None:
            traceback.print_exception(error)
        sys.stderr.flush()
        os._exit(code)
