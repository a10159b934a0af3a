"""The systemd of this user, as far as there is one, and as far as it runs our daemon."""

import os

from amp_cli.errors import Failure
from ampd.protocol.local import main_socket

UNITS = ("ampd.socket", "ampd.service")
SYSTEMCTL = ("systemctl", "--user")


def unit_folder() -> str:
    """Where systemd looks for this user's own units (systemd.unit(5))."""
    settings = os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
    return os.path.join(settings, "systemd", "user")


def answers() -> bool:
    """Whether it runs: its private socket is where systemctl looks for it."""
    from shutil import which

    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    return bool(runtime and which("systemctl")) and os.path.exists(
        os.path.join(runtime, "systemd", "private")
    )


def serves(path: str) -> bool:
    """Whether the socket at `path` is its business: our units are installed, and it runs.

    Connecting to such a socket starts the daemon, so that looking cannot tell whether one runs.
    """
    return (
        not os.environ.get("AMPD_HOME")
        and path == main_socket()
        and os.path.exists(os.path.join(unit_folder(), "ampd.service"))
        and answers()
    )


def is_active(unit: str) -> bool:
    """Whether `unit` was started and has not ended."""
    from subprocess import run as run_program

    command = (*SYSTEMCTL, "is-active", "--quiet", unit)
    return run_program(command, check=False).returncode == 0


def tell(*words: str) -> None:
    """`systemctl --user WORDS`; Failure with its first line where it refuses."""
    from subprocess import run as run_program

    command = (*SYSTEMCTL, *words)
    done = run_program(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        reason = done.stderr.strip().partition("\n")[0]
        raise Failure(
            f"{' '.join(command)}: {reason or f'exit {done.returncode}'}",
            hint="journalctl --user -u ampd",
        )
