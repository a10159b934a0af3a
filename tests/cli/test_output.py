"""Rules O1 to O5 of amp_cli/output.py: what reaches a terminal."""

import json
import os
import pty
import select
import subprocess
import unicodedata
from pathlib import Path

import pytest
from amp_cli.output import neutral, one_line, shortened
from cli.conftest import AMP
from hypothesis import given
from hypothesis import strategies as st

from ampd.model.visible import HIDDEN

ACTING = {"Cc", "Cf", "Cs", "Zl", "Zp"}  # categories of characters that act instead of being seen
# "ignore" in variation selectors, and other characters of which a terminal draws nothing
UNSEEN = (
    "".join(chr(0xE0100 - 16 + ord(c)) for c in "ignore") + "\u3164\u2800\u034f\u180b\u17b4\ufe00"
)
HOSTILE = (
    "\x1b[2J\x1b]0;title\x07 \x9b31m \u202e \u2066 \u200b \U000e0041 \r over \x7f \x00 a\ufe0fb"
    + UNSEEN
)


@given(text=st.text(st.characters()))
def test_o3_nothing_that_acts_comes_through(text):
    shown = neutral(text)
    left = {c for c in set(shown) - {"\n", "\t"} if unicodedata.category(c) in ACTING}
    assert left <= {"\u200c", "\u200d"}  # in a word or an emoji: tests/model/test_visible.py
    assert "\n" not in one_line(text) and "\t" not in one_line(text)


@given(text=st.text(st.characters(categories=("L", "M", "N", "P", "S", "Zs"))))
def test_o3_what_is_only_seen_stays_as_it_is(text):
    assert neutral(text) == text or HIDDEN & set(text)


@given(text=st.text(), length=st.integers(2, 20))
def test_o3_what_is_cut_short_hides_nothing_either(text, length):
    cut = shortened(one_line(text), length)
    assert len(cut) <= length and one_line(cut) == cut


@pytest.mark.parametrize(
    "text",
    [
        "\U0001f469\u200d\U0001f4bb",
        "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645",
        "\u0915\u094d\u200c\u0937\u0915",
        "1\ufe0f\u20e3",
    ],
)
def test_o3_a_cut_leaves_no_joiner_without_its_neighbour(text):
    for length in range(1, len(text)):
        assert one_line(cut := shortened(text, length)) == cut


def test_o3_lines_and_tabs_of_a_body_stay_and_crlf_is_a_line():
    assert neutral("a\tb\r\nc\rd") == "a\tb\nc\\x0dd"
    assert one_line("a\tb\nc") == "a\\x09b\\x0ac"


def test_o3_what_was_hidden_is_written_out():
    assert neutral("\x1b[31m\u202e\U000e0041") == "\\x1b[31m\\u202e\\U000e0041"


@pytest.mark.parametrize(
    "words",
    [["inbox"], ["read", "1"], ["read", "1", "--raw"], ["sent"], ["whoami"], ["outbox"]],
)
def test_o3_no_escape_of_a_peer_reaches_a_terminal(daemon, words):
    daemon.agents["alice"]["alias"] = HOSTILE
    fields = ("from", "subject", "type", "trust", "preview", "body", "content", "thread_id")
    daemon.message(**dict.fromkeys(fields, HOSTILE), flags=[HOSTILE])
    seen = on_a_terminal(words, NO_COLOR="1")
    assert "title" in seen
    for acting in ("\x1b", "\x07", "\x9b", "\u202e", "\u2066", "\u200b", "\x00", "\x7f"):
        assert acting not in seen
    assert "\r" not in seen.replace("\r\n", "")
    assert not (HIDDEN | {"\u202e"}) & set(seen)


def test_o3_no_escape_of_an_error_reaches_a_terminal(daemon):
    assert "\x1b" not in on_a_terminal(["read", "\x1b[2J"], NO_COLOR="1")


@pytest.mark.parametrize("words", [["read", "1"], ["read", "1", "--raw"], ["inbox"], ["sent"]])
def test_o3_a_pipe_gets_no_more_than_a_terminal(daemon, amp_process, words):
    daemon.message(**dict.fromkeys(("from", "subject", "type", "body", "content"), HOSTILE))
    seen = amp_process(*words).out
    assert "title" in seen and not (HIDDEN | set("\x1b\u202e\u200b")) & set(seen)


def test_o3_json_has_a_text_as_it_was_sent(daemon, amp_process):
    daemon.message(body=HOSTILE)
    said = amp_process("read", "1", "--json").out
    assert said.isascii() and json.loads(said)["messages"][0]["body"] == HOSTILE


def test_o4_colour_only_on_a_terminal_and_never_with_no_color(daemon, amp_process):
    daemon.message()
    assert "\x1b[1m" in on_a_terminal(["inbox"])
    assert "\x1b" not in on_a_terminal(["inbox"], NO_COLOR="1")
    assert "\x1b" not in amp_process("inbox").out


def test_o1_prose_goes_to_standard_error_and_quiet_keeps_it_back(amp):
    assert amp("init", "alice").err == "alice@desk.local exists already: nothing was changed\n"
    assert amp("init", "alice", "--quiet").err == ""


def test_a_reader_that_leaves_early_is_no_traceback(daemon):
    for _ in range(3):
        daemon.message(content="x" * 100_000)
    process = subprocess.Popen(
        [*AMP, "read", "1", "2", "3"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    with process:
        process.stdout.read(10)
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 1


def test_a_full_disk_is_an_error_not_a_traceback(daemon):
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [*AMP, "whoami"], stdout=full, stderr=subprocess.PIPE, check=False, text=True
        )
    assert (done.returncode, done.stderr) == (1, "amp: error: No space left on device\n")


def test_a_terminal_that_is_not_utf8_is_no_reason_to_fail(daemon, amp_process):
    daemon.message(content="é")
    assert "\\xe9" in amp_process("read", "1", PYTHONIOENCODING="ascii").out


def on_a_terminal(words, **environ):
    """What `amp WORDS` writes to a terminal, both streams."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [*AMP, *words],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={**os.environ, **environ},
    )
    os.close(theirs)
    seen = b""
    with process:
        while select.select([ours], [], [], 30)[0]:
            try:
                data = os.read(ours, 65536)
            except OSError:  # EIO: the other end is closed
                break
            seen += data
    os.close(ours)
    return seen.decode()
