"""A daemon in the background, where none answers.

  S1  One daemon, however many commands start at the same moment: a lock on start.lock in the
      sockets' folder, and one more look at the socket once it is held.
  S2  A command goes on when the daemon answers, not when its process exists; a daemon that ends
      before is reported with the last line that it wrote.
  S3  The daemon outlives the command: a session of its own, no terminal, `/` as its folder, its
      output in <data>/ampd.log (0600), which is set aside as ampd.log.1 when it is over LOG_LIMIT.

Not here: whether a daemon may be started at all (main.py: not on a named socket, not with
AMP_AUTOSTART=0).
"""

import os
import sys
import time
from _socket import socket
from fcntl import LOCK_EX, flock

from amp_cli.client import reach
from amp_cli.errors import NoDaemon
from ampd.protocol.local import data_folder, run_folder

DAEMON = (sys.executable, "-m", "ampd")
READY_WITHIN = 10.0  # seconds, from the process to its first answer
LOOK_AGAIN_AFTER = 0.03  # seconds
# A daemon that ended at once may have found another one on its way up: it gets this long.
OTHER_WITHIN = 1.0  # seconds
_END = 4096  # bytes of the log that its last two lines fit in
LOG_LIMIT = 4 * 1024 * 1024  # bytes; weeks of log lines


def log_file() -> str:
    return os.path.join(data_folder(), "ampd.log")


def start(path: str) -> socket:
    """A connection to the daemon at `path`, started by us or by whoever was faster (S1)."""
    folder = run_folder()
    for each in (data_folder(), folder):
        _make_folder(each)
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    lock = os.open(os.path.join(folder, "start.lock"), flags, 0o600)
    try:
        flock(lock, LOCK_EX)
        return _attempt(path) or _launch(path)
    finally:
        os.close(lock)


def _make_folder(folder: str) -> None:
    try:
        os.makedirs(os.path.dirname(folder), exist_ok=True)
        if not os.path.isdir(folder):
            os.mkdir(folder, 0o700)
    except FileExistsError:
        return  # another command was faster
    except OSError as exc:
        raise NoDaemon(f"cannot make {folder}: {exc.strerror}", hint="amp doctor") from None


def _attempt(path: str) -> socket | None:
    try:
        return reach(path)
    except (FileNotFoundError, ConnectionRefusedError):
        return None


def _launch(path: str) -> socket:
    from subprocess import DEVNULL, STDOUT, Popen

    log = _open_log()
    try:
        process = Popen(
            DAEMON, stdin=DEVNULL, stdout=log, stderr=STDOUT, cwd="/", start_new_session=True
        )
    except OSError as exc:
        raise NoDaemon(f"cannot start {DAEMON[0]}: {exc.strerror}", hint="amp doctor") from None
    finally:
        os.close(log)
    deadline = time.monotonic() + READY_WITHIN
    ended = False
    while time.monotonic() < deadline:
        if channel := _attempt(path):
            process.returncode = process.returncode or 0  # it is not ours to wait for any more
            return channel
        if not ended and process.poll() is not None:
            ended = True
            deadline = min(deadline, time.monotonic() + OTHER_WITHIN)
        time.sleep(LOOK_AGAIN_AFTER)
    if not ended:
        process.returncode = 0
        raise NoDaemon(
            f"the daemon did not answer within {READY_WITHIN:g} s", hint="amp daemon log"
        )
    raise NoDaemon(
        f"the daemon ended at once (exit {process.returncode}): {_said('error')}",
        hint=_said("hint", "amp daemon log"),
    )


def _open_log() -> int:
    name = log_file()
    try:
        if os.stat(name).st_size > LOG_LIMIT:
            os.replace(name, f"{name}.1")
    except FileNotFoundError:
        pass  # the first start
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
    return os.open(name, flags, 0o600)


def _said(kind: str, otherwise: str = "") -> str:
    """What the daemon said as its end, `ampd: KIND: TEXT`; else `otherwise`, else its last line."""
    with open(log_file(), "rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - _END))
        lines = [line.strip() for line in file.read().decode(errors="replace").split("\n")]
    start = f"ampd: {kind}: "
    last = [line for line in lines if line][-2:]  # an error and its hint
    said = next((line.removeprefix(start) for line in last if line.startswith(start)), otherwise)
    return said or (last[-1] if last else "it wrote nothing")
