"""What the daemon and systemd tell each other: readiness, the watchdog, inherited sockets.

    to systemd      READY=1, STOPPING=1, RELOADING=1, WATCHDOG=1, STATUS   sd_notify(3)
    from systemd    listening sockets, by name                             sd_listen_fds(3)
                    how often it wants to hear that we are alive           sd_watchdog_enabled(3)

Without systemd (no NOTIFY_SOCKET, no LISTEN_FDS for this process) every word is a no-op and
no socket is inherited, so the daemon need not ask whether it is there.

Not here: the units (systemd/), and when each word is true (daemon.py).
"""

import logging
import os
import socket
import time
from collections.abc import Mapping
from typing import Final

from ampd.model.errors import Invalid

FIRST_FD: Final = 3  # SD_LISTEN_FDS_START: after standard input, output and error
MAX_FDS: Final = 64  # our units pass one; a wild number must not make us probe every descriptor

_log = logging.getLogger(__name__)


class Manager:
    """The service manager that started this process, as far as there is one."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        address = environ.get("NOTIFY_SOCKET", "")
        # "@" stands for the NUL byte of an abstract socket; vsock: is for virtual machines
        self._address = "\0" + address[1:] if address.startswith("@") else address

    def ready(self, status: str = "") -> None:
        """The sockets answer: units that wait for us may start. Also ends a reload."""
        self._say("READY=1", f"STATUS={status}" if status else "")

    def reloading(self) -> None:
        """The settings are being read again; `ready` or `stopping` follows."""
        microseconds = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self._say("RELOADING=1", f"MONOTONIC_USEC={microseconds}")

    def stopping(self) -> None:
        """We are about to end, in good order."""
        self._say("STOPPING=1")

    def alive(self) -> None:
        """The main loop runs: say it at least every `alive_every` seconds."""
        self._say("WATCHDOG=1")

    @property
    def alive_every(self) -> float | None:
        """Seconds, half of what the watchdog allows; None where nobody watches this process."""
        allowed = _number(self._environ, "WATCHDOG_USEC")
        watched = _number(self._environ, "WATCHDOG_PID") or os.getpid()
        return allowed / 2e6 if allowed and watched == os.getpid() else None

    def sockets(self) -> list[tuple[str, socket.socket]]:
        """The listening sockets that were opened for this process, with their names.

        Call it once: whoever takes a socket closes it. Invalid where a descriptor is none.
        """
        count = _number(self._environ, "LISTEN_FDS")
        if not count or _number(self._environ, "LISTEN_PID") != os.getpid():
            return []
        if count > MAX_FDS:
            raise Invalid(f"LISTEN_FDS: expected at most {MAX_FDS}, not {count}")
        names = self._environ.get("LISTEN_FDNAMES", "").split(":")
        names += ["unknown"] * (count - len(names))
        return [(names[i] or "unknown", _inherited(FIRST_FD + i)) for i in range(count)]

    def _say(self, *words: str) -> None:
        if not self._address:
            return
        message = "\n".join(word.replace("\n", " ") for word in words if word)
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as to_systemd:
                to_systemd.sendto(message.encode(), self._address)
        except OSError as exc:
            _log.warning("systemd was not told", extra={"words": message, "reason": exc.strerror})


def _number(environ: Mapping[str, str], variable: str) -> int:
    text = environ.get(variable, "")
    if not text:
        return 0
    if not (text.isascii() and text.isdigit() and len(text) < 19):
        raise Invalid(f"{variable}: expected a whole number, not {text[:40]!r}")
    return int(text)


def _inherited(descriptor: int) -> socket.socket:
    try:
        found = socket.socket(fileno=descriptor)
        found.set_inheritable(False)
        listens = found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    except OSError as exc:
        raise Invalid(f"LISTEN_FDS: descriptor {descriptor}: {exc.strerror}") from None
    if found.type != socket.SOCK_STREAM or not listens:
        found.detach()
        raise Invalid(f"LISTEN_FDS: descriptor {descriptor} is no listening stream socket")
    return found
