"""`amp daemon`: the background daemon of this user. `install` is in daemon_install.py.

`start` starts one even with AMP_AUTOSTART=0, `stop` returns when nothing answers any more and the
process has ended: its files are nobody's then; programs that run wait for the next daemon instead
of starting one (client.py). `restart` asks `ampd --check` first: a daemon that is well is not ended
for one that cannot start. `status` starts nothing: exit 4 says that no daemon runs.
"""

import os
import sys
import time

from amp_cli.arguments import Arguments, Command, Option
from amp_cli.autostart import log_file, start, why_not
from amp_cli.client import Client, Lost, reach, stop_mark
from amp_cli.commands.status import show_node
from amp_cli.errors import Failure, NoDaemon, Usage
from amp_cli.output import Output
from amp_cli.user_manager import UNITS, is_active, serves, tell
from ampd.protocol.local import data_folder, main_socket

_GONE_WITHIN = 10.0  # seconds; a daemon ends within 3 of SIGTERM
_LOOK_AGAIN_AFTER = 0.03  # seconds
_TAIL = 50  # lines of the log, unless asked for more


def run_start(arguments: Arguments, client: Client, out: Output) -> int:
    if serves(client.path):
        tell("start", *UNITS)
    elif _answers(client):
        out.note(f"a daemon answers on {client.path} already")
    else:
        _launch(arguments, client)
    return _status(client, out)


def run_stop(_arguments: Arguments, client: Client, out: Output) -> int:
    was_running = _stop(client)
    if out.json:
        out.document({"stopping": was_running})
    elif was_running:
        out.said("stopped")
    else:
        out.note("no daemon was running")
    return 0


def run_restart(arguments: Arguments, client: Client, out: Output) -> int:
    _check_first(client)
    _stop(client)
    if serves(client.path):
        tell("start", *UNITS)
    else:
        _launch(arguments, client)
    return _status(client, out)


def run_status(_arguments: Arguments, client: Client, out: Output) -> int:
    if serves(client.path) and not is_active("ampd.service"):
        raise NoDaemon("systemd runs no ampd.service at the moment", hint="amp daemon start")
    if not _answers(client):
        raise NoDaemon(f"no daemon answers on {client.path}", hint="amp daemon start")
    return _status(client, out)


def run_log(arguments: Arguments, _client: Client, out: Output) -> int:
    lines = arguments.number("--lines") or _TAIL
    name = log_file()
    try:
        with open(name, "rb") as file:
            # 400 bytes are a long log line; reading the whole file for its end is not needed
            file.seek(max(0, os.fstat(file.fileno()).st_size - lines * 400))
            tail = file.read().decode(errors="replace").splitlines()[-lines:]
    except FileNotFoundError:
        raise Failure(
            f"there is no {name}: no daemon was started in the background yet",
            hint="journalctl --user -u ampd, where systemd runs it",
        ) from None
    if out.json:
        out.document({"file": name, "lines": tail})
    else:
        for line in tail:
            out.line(line)
    return 0


def _answers(client: Client) -> bool:
    try:
        reach(client.path).close()
    except (FileNotFoundError, ConnectionRefusedError):
        return False
    return True


def _launch(arguments: Arguments, client: Client) -> None:
    if arguments.text("--socket") or os.environ.get("AMP_SOCKET"):
        raise Usage(
            "the socket was named (--socket or AMP_SOCKET): where its daemon lives is not known",
            hint="env -u AMP_SOCKET amp daemon start",
        )
    start(client.path).close()


def _check_first(client: Client) -> None:
    """Failure if a daemon runs here that could not be started again."""
    if client.path != main_socket():
        return  # where its daemon lives is not known
    if not (is_active("ampd.service") if serves(client.path) else _answers(client)):
        return
    if wrong := why_not(unit_environ(client)):
        raise Failure(
            f"the daemon was left running, for it could not start again: {wrong}",
            hint=wrong.hint,
            exit_code=wrong.exit_code,
        )


def unit_environ(client: Client) -> dict[str, str] | None:
    """What a daemon that systemd starts does not get of this shell is left out; None: all of it."""
    if not serves(client.path):
        return None
    return {name: text for name, text in os.environ.items() if not name.startswith("AMPD_")}


def _stop(client: Client) -> bool:
    """Whether a daemon was running; nothing answers any more when this returns."""
    taken_back = client.path == main_socket() and _leave_mark()
    try:
        was_running = _end(client)
        taken_back = False
    finally:
        if taken_back and os.path.exists(stop_mark()):  # it was not stopped
            os.unlink(stop_mark())
    return was_running


def _leave_mark() -> bool:
    """Say to the programs that run that this is no crash; False where no daemon ever was."""
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        os.close(os.open(stop_mark(), flags, 0o600))
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def _end(client: Client) -> bool:
    if serves(client.path) and is_active("ampd.socket"):
        was_running = is_active("ampd.service")
        tell("stop", *UNITS)  # the socket too: whoever connects to it starts the daemon again
        return was_running
    if not _answers(client):
        return False
    process = _process(client)
    connection = client.open()
    try:
        connection.call("system.stop", {}, _GONE_WITHIN)
    except Lost:
        pass  # it may be gone before its answer is
    except NoDaemon as exc:
        raise NoDaemon(str(exc), hint=ends(client.path)) from None
    finally:
        connection.close()
    deadline = time.monotonic() + _GONE_WITHIN
    while _answers(client):
        if time.monotonic() > deadline:
            raise Failure(f"it still runs after {_GONE_WITHIN:g} s", hint="amp daemon log")
        time.sleep(_LOOK_AGAIN_AFTER)
    if process is not None:
        _await_end(process)
    return True


def ends(path: str) -> str:
    """The command that ends a daemon which listens to nobody."""
    if serves(path):
        return "systemctl --user restart ampd.service"
    try:  # SO_PEERCRED, unix(7): who listens
        from _socket import SO_PEERCRED, SOL_SOCKET

        channel = reach(path)
        pid = int.from_bytes(channel.getsockopt(SOL_SOCKET, SO_PEERCRED, 12)[:4], sys.byteorder)
        channel.close()
    except (ImportError, OSError, Failure):
        pid = 0
    return f"kill -9 {pid}, then amp daemon start" if pid > 1 else "end it, then amp daemon start"


def _process(client: Client) -> int | None:
    """A descriptor of the daemon's process (pidfd_open(2)), where its home and the system tell."""
    if client.path != main_socket():
        return None
    try:
        with open(os.path.join(data_folder(), "ampd.lock"), encoding="ascii") as lock:
            return os.pidfd_open(int(lock.read()))
    except (OSError, ValueError, AttributeError):  # no lock; an empty one; not Linux
        return None


def _await_end(process: int) -> None:
    from select import POLLIN, poll

    ends = poll()
    ends.register(process, POLLIN)
    ended = ends.poll(_GONE_WITHIN * 1000)
    os.close(process)
    if not ended:
        raise Failure(f"it still runs after {_GONE_WITHIN:g} s", hint="amp daemon log")


def _status(client: Client, out: Output) -> int:
    found = client.ask("system.status", {})
    if out.json:
        out.document(found.value)
    elif not out.quiet:
        show_node(found, out)
    return 0


_WHAT = {
    "start": (run_start, "start it in the background"),
    "stop": (run_stop, "stop it"),
    "restart": (run_restart, "stop it and start it again"),
    "status": (run_status, "how it is; exit 4 where none runs"),
}
COMMANDS = {
    f"daemon {verb}": Command(
        f"daemon {verb}", "", summary, run, example=f"amp daemon {verb}", as_agent=False
    )
    for verb, (run, summary) in _WHAT.items()
}
COMMANDS["daemon log"] = Command(
    "daemon log",
    "",
    "the end of its log",
    run_log,
    options=(Option("--lines", "N", f"this many lines ({_TAIL})"),),
    example="amp daemon log --lines 100",
    as_agent=False,
)
