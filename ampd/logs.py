"""The daemon's log: one line an event, for a person, for journald or for a program.

    text       2026-11-22T13:03:16.123Z warning peer_tcp: session ended  peer=SHA256:... tries=3
    json       {"time": "...", "level": "warning", "logger": "...", "message": "...", "tries": 3}
    journald   the fields MESSAGE, PRIORITY, LOGGER and AMPD_<FIELD>, by its native protocol
               (systemd's "Native Journal Protocol")

`auto` is journald where standard error is the stream that systemd made for it (JOURNAL_STREAM,
systemd.exec(5)), text on a terminal, json otherwise.

A room logs with the standard library, and puts what it is about into fields:

    _log = logging.getLogger(__name__)
    _log.warning("session ended", extra={"peer": fingerprint, "reason": str(exc)})

  LOG1  An event is one line, whatever its values hold: what is not printable, or is drawn as
        nothing (HIDDEN in ampd/model/visible.py, an emoji's U+FE0F too), is escaped.
  LOG2  Bytes are never written, only how many they are: keys and sealed mail are bytes here.
  LOG3  A value is cut after MAX_VALUE characters: nobody fills the disk with a long name.
  LOG4  A message that journald does not take goes to standard error instead.

Not here: what is worth a line (each room knows), and message bodies: no room logs them.
"""

import json
import logging
import os
import socket
import struct
import traceback
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, TextIO

from ampd.model.visible import HIDDEN

MAX_VALUE: Final = 1000  # characters; an address has at most 254, a path 4096 at the very most
MAX_FRAMES: Final = 8  # of a traceback, the innermost; the outer ones are trio's and ours
JOURNAL_SOCKET: Final = "/run/systemd/journal/socket"
_PRIORITIES: Final = {  # logging level -> syslog severity (RFC 5424, section 6.2.1)
    logging.CRITICAL: 2,
    logging.ERROR: 3,
    logging.WARNING: 4,
    logging.INFO: 6,
    logging.DEBUG: 7,
}
_STANDARD: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}

Fields = dict[str, str | int | float | bool | None]


def configure(level: str, form: str, environ: Mapping[str, str], stream: TextIO) -> None:
    """From now on every event of at least `level` goes to `stream` or journald, in `form`.

    Called again, it replaces what it did before.
    """
    chosen = choose_form(form, environ, stream)
    handler = _Journal(stream) if chosen == "journald" else logging.StreamHandler(stream)
    handler.setFormatter(_Formatter(as_json if chosen == "json" else as_text))
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
        old.close()
    root.addHandler(handler)
    root.setLevel(level.upper())
    # zeroconf's debug events hold whole packets of other hosts
    logging.getLogger("zeroconf").setLevel(max(root.level, logging.WARNING))
    logging.captureWarnings(capture=True)


def choose_form(form: str, environ: Mapping[str, str], stream: TextIO) -> str:
    """`form`, or what `auto` means for `stream`: journald, text or json."""
    if form != "auto":
        return form
    try:
        found = os.fstat(stream.fileno())
    except (OSError, ValueError):  # a stream without a file, or a closed one
        return "json"
    if environ.get("JOURNAL_STREAM") == f"{found.st_dev}:{found.st_ino}":
        return "journald"
    return "text" if stream.isatty() else "json"


def escape(text: str) -> str:
    """`text` as one line that drives no terminal; different texts stay different (LOG1)."""
    if text.isprintable() and "\\" not in text and HIDDEN.isdisjoint(text):
        return text
    return "".join(
        each
        if each.isprintable() and each != "\\" and each not in HIDDEN
        else each.encode("unicode_escape").decode()
        for each in text
    )


def as_text(record: logging.LogRecord) -> str:
    """`record` for a person."""
    fields = [f"{key}={_quoted(value)}" for key, value in _fields(record).items()]
    name = record.name.rpartition(".")[2]
    head = f"{_time(record)} {record.levelname.lower()} {name}: {escape(_message(record))}"
    return f"{head}  {' '.join(fields)}" if fields else head


def as_json(record: logging.LogRecord) -> str:
    """`record` for a program: one JSON document in ASCII."""
    own = {
        "time": _time(record),
        "level": record.levelname.lower(),
        "logger": record.name,
        "message": _message(record),
    }
    return json.dumps(own | {k: v for k, v in _fields(record).items() if k not in own})


def as_journal(record: logging.LogRecord) -> bytes:
    """`record` as one datagram of journald's native protocol."""
    own: dict[str, object] = {
        "MESSAGE": _message(record),
        "PRIORITY": _PRIORITIES.get(record.levelno, 6),
        "SYSLOG_IDENTIFIER": "ampd",
        "LOGGER": record.name,
        "CODE_FILE": record.pathname,
        "CODE_LINE": record.lineno,
        "CODE_FUNC": record.funcName,
    }
    # AMPD_ before it: a field must not start with _ (journald's own) or pose as another
    own |= {f"AMPD_{key.upper()}": value for key, value in _fields(record).items()}
    return b"".join(_journal_field(name, str(value)) for name, value in own.items())


def _journal_field(name: str, text: str) -> bytes:
    """A field whose value may hold anything: its length stands before it."""
    value = text.encode("utf-8", "backslashreplace")
    if b"\n" not in value:
        return name.encode("ascii", "replace") + b"=" + value + b"\n"
    return name.encode("ascii", "replace") + b"\n" + struct.pack("<Q", len(value)) + value + b"\n"


def _message(record: logging.LogRecord) -> str:
    text = str(record.msg)
    if not record.args:
        return _cut(text)
    args = record.args if isinstance(record.args, tuple) else (record.args,)
    shown = tuple(_shown(arg) for arg in args)
    try:
        return _cut(text % shown)
    except (TypeError, ValueError):  # the wrong number or kind: an event is said badly, not lost
        return _cut(f"{text} {shown}")


def _fields(record: logging.LogRecord) -> Fields:
    """What the event is about: the `extra` of the call, and the error if it had one."""
    fields = {key: _shown(value) for key, value in vars(record).items() if key not in _STANDARD}
    if record.exc_info and record.exc_info[1]:
        error = record.exc_info[1]
        frames = traceback.extract_tb(error.__traceback__)[-MAX_FRAMES:]
        fields["error"] = _cut(f"{type(error).__name__}: {_shown(error)}")
        fields["at"] = " < ".join(
            f"{Path(frame.filename).name}:{frame.lineno} {frame.name}" for frame in reversed(frames)
        )
    return fields


def _shown(value: object) -> str | int | float | bool | None:
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, bytes | bytearray | memoryview):
        return f"<{len(value)} bytes>"
    if isinstance(value, list | tuple | set | frozenset):
        return _cut(",".join(str(_shown(each)) for each in value))
    if isinstance(value, BaseException) and any(isinstance(each, bytes) for each in value.args):
        return f"<{type(value).__name__}>"
    # A type that has no words of its own would be shown with all it holds
    if not isinstance(value, str) and type(value).__str__ is object.__str__:
        return f"<{type(value).__name__}>"
    return _cut(str(value))


def _cut(text: str) -> str:
    return text if len(text) <= MAX_VALUE else f"{text[:MAX_VALUE]}... ({len(text)} characters)"


def _quoted(value: object) -> str:
    text = escape(str(value))
    plain = text and not any(each in text for each in ' "=')
    return text if plain else '"' + text.replace('"', '\\"') + '"'


def _time(record: logging.LogRecord) -> str:
    moment = datetime.fromtimestamp(record.created, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


class _Formatter(logging.Formatter):
    def __init__(self, form: Callable[[logging.LogRecord], str]) -> None:
        super().__init__()
        self._form = form

    def format(self, record: logging.LogRecord) -> str:
        return self._form(record)


class _Journal(logging.StreamHandler[TextIO]):
    """To journald; what it does not take, as text to the stream (LOG4)."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)  # a journald that stands still must not stop the daemon

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._socket.sendto(as_journal(record), JOURNAL_SOCKET)
        except OSError:
            super().emit(record)

    def close(self) -> None:
        self._socket.close()
        super().close()
