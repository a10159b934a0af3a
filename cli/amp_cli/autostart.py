"""A daemon in the background, where none answers.

  S1  One daemon, however many commands start at the same moment: a lock on start.lock in the
      sockets' folder, and one more look at the socket once it is held.
  S2  A command goes on when the daemon answers, not when its process exists. A daemon that ends
      before is reported with the error that it wrote, or its last line; one that does not
      answer in time is ended: a command that gives up leaves nothing behind.
  S3  The daemon outlives the command: a session of its own, no terminal, `/` as its folder, its
      output in <data>/ampd.log (0600), which is set aside as ampd.log.1 when it is over LOG_LIMIT.
      A relative AMPD_HOME is one of the command's folder: the daemon is told the absolute one.

Not here: whether a daemon may be started at all (main.py: not on a named socket, not with
AMP_AUTOSTART=0).
"""

import os
import sys
import time
from _socket import socket
from fcntl import LOCK_EX, flock

from amp_cli.client import reach
from amp_cli.errors import Failure, NoDaemon
from ampd.protocol.local import data_folder, run_folder

TYPE_CHECKING = False  # `typing` costs a third of a command
if TYPE_CHECKING:
    from subprocess import Popen

DAEMON = (sys.executable, "-m", "ampd")
READY_WITHIN = 30.0  # seconds, from the process to its first answer; most of it for a long journal
LOOK_AGAIN_AFTER = 0.03  # seconds
# A daemon that ended at once may have found another one on its way up: it gets this long.
OTHER_WITHIN = 1.0  # seconds
CHECKED_WITHIN = 10.0  # seconds for `ampd --check`
ENDS_WITHIN = 3.0  # seconds from SIGTERM to its end
_END = 65536  # bytes of the log that the traceback of an early end fits in
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


def why_not(environ: dict[str, str] | None = None) -> Failure | None:
    """What would keep a daemon from starting, in the words of `ampd --check`; None if nothing."""
    from subprocess import DEVNULL, PIPE, TimeoutExpired
    from subprocess import run as run_program

    try:
        checked = run_program(
            (*DAEMON, "--check"), stdin=DEVNULL, stdout=DEVNULL, stderr=PIPE, text=True,
            errors="replace", timeout=CHECKED_WITHIN, check=False, env=environ,
        )  # fmt: skip
    except TimeoutExpired:
        return Failure("`ampd --check` does not end", hint="amp daemon log")
    if checked.returncode == 0:
        return None
    lines = [line for line in checked.stderr.splitlines() if line.strip()]
    said = lines[-1].strip().removeprefix("ampd: error: ") if lines else "it does not say why"
    what, _, hint = said.rpartition("; ")
    if not what:
        what, hint = said, ""
    return Failure(what, hint=hint.removeprefix("try: "), exit_code=max(checked.returncode, 1))


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
    before = os.fstat(log).st_size
    environ = dict(os.environ)
    if environ.get("AMPD_HOME"):
        environ["AMPD_HOME"] = data_folder()
    try:
        process = Popen(
            DAEMON, stdin=DEVNULL, stdout=log, stderr=STDOUT, cwd="/", env=environ,
            start_new_session=True,
        )  # fmt: skip
    except OSError as exc:
        raise NoDaemon(f"cannot start {DAEMON[0]}: {exc.strerror}", hint="amp doctor") from None
    finally:
        os.close(log)
    channel = None
    try:
        channel = _answer(process, path)
    finally:
        if channel is None:
            _end(process)
    if channel:
        process.returncode = process.returncode or 0  # it is not ours to wait for any more
        return channel
    raise NoDaemon(
        f"the daemon ended at once (exit {process.returncode}): {_said(before)}",
        hint="" if _error(before) else "amp daemon log",
    )


def _answer(process: "Popen[bytes]", path: str) -> socket | None:
    """A connection, once there is one; None where the daemon ended before (S2)."""
    deadline = time.monotonic() + READY_WITHIN
    ended = False
    while time.monotonic() < deadline:
        if channel := _attempt(path):
            return channel
        if not ended and process.poll() is not None:
            ended = True
            deadline = min(deadline, time.monotonic() + OTHER_WITHIN)
        time.sleep(LOOK_AGAIN_AFTER)
    if ended:
        return None
    raise NoDaemon(
        f"the daemon did not answer within {READY_WITHIN:g} s, and was stopped",
        hint="amp daemon log",
    )


def _end(process: "Popen[bytes]") -> None:
    """Nothing is left of it when this returns."""
    from subprocess import TimeoutExpired

    if process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(ENDS_WITHIN)
    except TimeoutExpired:
        process.kill()
        process.wait()


def _open_log() -> int:
    name = log_file()
    try:
        if os.stat(name).st_size > LOG_LIMIT:
            os.replace(name, f"{name}.1")
    except FileNotFoundError:
        pass  # the first start
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
    return os.open(name, flags, 0o600)


def _said(before: int) -> str:
    """Why the daemon ended: its error, or the last line of what it wrote since `before`."""
    return _error(before) or next(reversed(_lines(before)), "it wrote nothing")


def _error(before: int) -> str:
    """The `ampd: error: TEXT` that ended it, or ""."""
    start = "ampd: error: "
    errors = [line.removeprefix(start) for line in _lines(before) if line.startswith(start)]
    return errors[-1] if errors else ""


def _lines(before: int) -> list[str]:
    """The lines that were written to the log since it was `before` bytes long.

    Of the traceback of a group the frame is left out: its last line is the error, too.
    """
    with open(log_file(), "rb") as file:
        file.seek(max(before, os.fstat(file.fileno()).st_size - _END))
        written = file.read().decode(errors="replace")
    lines = [line.strip().lstrip("|+- ") for line in written.split("\n")]
    return [line for line in lines if line]
