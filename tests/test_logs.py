"""The log: one line an event, whatever the event is about."""

import io
import json
import logging
import os
import re
import socket

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ampd import logs
from ampd.model.visible import HIDDEN


@pytest.fixture
def root():
    """The root logger, put back as it was."""
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    yield root
    for handler in root.handlers[:]:
        if handler not in before:
            root.removeHandler(handler)
            handler.close()
    root.handlers[:] = before
    root.setLevel(level)
    logging.captureWarnings(capture=False)


@pytest.fixture
def written(root):
    """What one event becomes, in this form."""

    def write(form, message, *args, level=logging.WARNING, **kwargs):
        stream = io.StringIO()
        logs.configure("info", form, {}, stream)
        logging.getLogger("ampd.edge.peer_tcp").log(level, message, *args, **kwargs)
        return stream.getvalue()

    return write


def record(message, *args, **fields):
    made = logging.LogRecord("ampd.x", logging.ERROR, "x.py", 1, message, args, None)
    vars(made).update(fields)
    return made


def test_text_is_for_a_person(written):
    line = written("text", "session ended", extra={"peer": "desk.local", "tries": 3, "why": "a b"})
    when, rest = line.split(" ", 1)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", when)
    assert rest == 'warning peer_tcp: session ended  peer=desk.local tries=3 why="a b"\n'


def test_json_is_for_a_program(written):
    document = json.loads(written("json", "session %s", "ended", extra={"tries": 3, "level": "x"}))
    assert document.pop("time").endswith("Z")
    assert document == {
        "level": "warning",
        "logger": "ampd.edge.peer_tcp",
        "message": "session ended",
        "tries": 3,
    }


def test_an_error_is_named_with_the_way_that_led_to_it(written):
    try:
        os.stat("/no/such/file")  # noqa: PTH116
    except OSError:
        line = written("text", "failed", level=logging.ERROR, exc_info=True)
    assert 'error="FileNotFoundError: [Errno 2]' in line
    assert "test_logs.py" in line
    assert line.count("\n") == 1


def test_what_is_below_the_level_is_not_written(written):
    assert written("text", "x", level=logging.DEBUG) == ""


def test_configured_again_it_replaces_what_it_did(root):
    first, second = io.StringIO(), io.StringIO()
    logs.configure("info", "text", {}, first)
    logs.configure("debug", "json", {}, second)
    logging.getLogger("ampd").debug("x")
    assert (first.getvalue(), json.loads(second.getvalue())["message"]) == ("", "x")
    assert len(root.handlers) == 1


def test_the_debug_events_of_zeroconf_stay_out(root):
    stream = io.StringIO()
    logs.configure("debug", "text", {}, stream)
    logging.getLogger("zeroconf").debug("a whole packet")
    assert stream.getvalue() == ""


@given(st.text(), st.text())
@example("\U000e0169\u3164", "a\ufe0f\u2800")
@pytest.mark.parametrize("form", [logs.as_text, logs.as_json])
def test_log1_an_event_is_one_line_whatever_it_holds(form, message, value):
    line = form(record(message, who=value))
    assert line.isprintable() and not HIDDEN & set(line)
    assert "\x1b" not in line


@given(st.text(max_size=50), st.text(max_size=50))
@example("\n", "\\n")
@example("\\", "\\\\")
def test_log1_different_texts_stay_different(one, other):
    assert (logs.escape(one) == logs.escape(other)) == (one == other)


@pytest.mark.parametrize("name", ["a\nb", "\x1b]0;x\x07", "%s%n", "x" * 1_000_000, "\u202eabc"])
def test_log1_and_log3_a_hostile_name_is_one_short_line(written, name):
    line = written("text", "message from %s", name, extra={"who": name})
    assert line.count("\n") == 1
    assert len(line) < 3000


def test_log2_bytes_are_never_written(written):
    secret = b"canary-canary-canary-canary-1234"

    class Envelope:
        def __repr__(self):
            return repr(secret)

    for form in ("text", "json"):
        line = written(
            form,
            "%s %r",
            secret,
            Envelope(),
            extra={"key": secret, "keys": [secret, {"a": secret}], "envelope": Envelope()},
        )
        assert "canary" not in line
        assert "32 bytes" in line
        try:
            {}[secret]
        except KeyError:
            assert "canary" not in written(form, "failed", exc_info=True)


def test_words_that_do_not_fit_their_message_are_written_all_the_same(written):
    assert "number %d ('x',)" in written("text", "number %d", "x")


def test_a_stream_that_systemd_made_for_journald_is_known(tmp_path):
    with (tmp_path / "stderr").open("w") as stream:
        found = os.fstat(stream.fileno())
        journal = {"JOURNAL_STREAM": f"{found.st_dev}:{found.st_ino}"}
        assert logs.choose_form("auto", journal, stream) == "journald"
        assert logs.choose_form("auto", {"JOURNAL_STREAM": "1:1"}, stream) == "json"
        assert logs.choose_form("text", journal, stream) == "text"


def test_a_terminal_gets_text():
    leader, follower = os.openpty()
    with os.fdopen(leader), os.fdopen(follower, "w") as stream:
        assert logs.choose_form("auto", {}, stream) == "text"


def fields_of(datagram):
    """Reads journald's native protocol."""
    fields = {}
    while datagram:
        name, equals, rest = datagram.partition(b"=")
        line, _, _ = datagram.partition(b"\n")
        if equals and len(name) < len(line):
            value, _, datagram = rest.partition(b"\n")
            fields[name.decode()] = value.decode()
        else:
            start = len(line) + 1
            length = int.from_bytes(datagram[start : start + 8], "little")
            fields[line.decode()] = datagram[start + 8 : start + 8 + length].decode()
            assert datagram[start + 8 + length : start + 9 + length] == b"\n"
            datagram = datagram[start + 9 + length :]
    return fields


@given(st.text(), st.text())
def test_journald_gets_each_value_as_it_is_and_no_other_field(message, value):
    fields = fields_of(logs.as_journal(record(message.replace("%", ""), who=value)))
    escaped = value.encode("utf-8", "backslashreplace").decode()
    assert fields["AMPD_WHO"] == escaped
    assert fields["PRIORITY"] == "3"
    assert fields["SYSLOG_IDENTIFIER"] == "ampd"
    assert set(fields) == {
        *("MESSAGE", "PRIORITY", "SYSLOG_IDENTIFIER", "LOGGER"),
        *("CODE_FILE", "CODE_LINE", "CODE_FUNC", "AMPD_WHO"),
    }


def test_journald_is_told_over_its_socket(root, tmp_path, monkeypatch):
    path = str(tmp_path / "journal")
    monkeypatch.setattr(logs, "JOURNAL_SOCKET", path)
    stream = io.StringIO()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journald:
        journald.bind(path)
        logs.configure("info", "journald", {}, stream)
        logging.getLogger("ampd").info("up", extra={"port": 4160})
        fields = fields_of(journald.recv(4096))
    assert (fields["MESSAGE"], fields["PRIORITY"], fields["AMPD_PORT"]) == ("up", "6", "4160")
    assert stream.getvalue() == ""


def test_log4_what_journald_does_not_take_goes_to_standard_error(root, tmp_path, monkeypatch):
    monkeypatch.setattr(logs, "JOURNAL_SOCKET", str(tmp_path / "nobody"))
    stream = io.StringIO()
    logs.configure("info", "journald", {}, stream)
    logging.getLogger("ampd").info("up")
    assert stream.getvalue().endswith("info ampd: up\n")
