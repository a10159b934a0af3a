"""What `amp` does where a stream is closed, is not UTF-8, or is narrow."""

import json
import os
import shlex
import subprocess

import pytest
from cli.conftest import AMP
from cli.test_output import on_a_terminal

BLOCKS = "\u2580\u2584\u2588"


def shell(line, **environ):
    """`amp` as a shell runs it: `amp LINE`, with the redirections that LINE ends with."""
    return subprocess.run(
        ["/bin/sh", "-c", f"{shlex.join(AMP)} {line}"],
        capture_output=True,
        check=False,
        timeout=30,
        env={**os.environ, **environ},
    )


@pytest.mark.parametrize("words", ["inbox", "send bob S B", "whoami --json", "help"])
def test_with_standard_output_closed_nothing_is_done_and_the_error_says_so(daemon, words):
    done = shell(f"{words} >&-")
    assert done.returncode == 1
    assert done.stderr.decode() == (
        "amp: error: standard output is closed, so nothing was done; use >/dev/null to discard it\n"
    )
    assert daemon.asked == []


def test_with_standard_input_closed_there_is_no_text(daemon):
    for words in ("send bob S -", "send bob S", "send bob S --file -"):
        done = shell(f"{words} <&-")
        assert done.returncode == 2
        assert b"standard input is closed" in done.stderr
        assert b"Traceback" not in done.stderr
    assert daemon.asked == []
    assert shell("send bob S B <&-").returncode == 0


def test_with_standard_error_closed_the_exit_code_is_the_same(daemon):
    assert shell("foo 2>&-").returncode == 2
    assert shell("read 9 2>&-").returncode == 3
    done = shell("init alice 2>&-")
    assert (done.returncode, b"alice@desk.local" in done.stdout) == (0, True)
    assert shell("send bob S B >&- 2>&-").returncode == 1


def test_utf8_words_are_text_in_a_locale_that_is_not(daemon, amp_process):
    said = amp_process("send", "bob", "Gr\u00fc\u00dfe", "x", LC_ALL="C", PYTHONUTF8="0")
    assert said.code == 0, said.err
    assert daemon.asked[-1][2]["subject"] == "Gr\u00fc\u00dfe"


def test_a_qr_code_is_not_drawn_where_its_blocks_cannot_be_written(daemon, amp_process):
    said = amp_process("card", "--qr", PYTHONIOENCODING="ascii")
    assert said.code == 1
    assert said.out == "amp://aaaa/alice@desk.local\n"
    assert "no QR code on a standard output that is ascii" in said.err
    assert set(BLOCKS) & set(amp_process("card", "--qr", PYTHONIOENCODING="utf-8").out)


def test_o4_a_dumb_terminal_gets_no_bold(daemon):
    daemon.message()
    assert "\x1b" not in on_a_terminal(["inbox"], TERM="dumb")
    assert "\x1b" not in on_a_terminal(["foo"], TERM="dumb")


def test_o4_a_dumb_terminal_gets_no_line_that_is_written_over(daemon, tmp_path):
    pages = {"items": [], "envelopes": 1, "cards": 0}
    daemon.do_before, daemon.do = (
        daemon.do,
        lambda method, params, state: (
            {**pages, "next": 1 - params["after"]}
            if method == "bundle.write"
            else daemon.do_before(method, params, state)
        ),
    )
    written = ["bundle", "write", str(tmp_path / "b")]
    assert "\x1b[K" in on_a_terminal(written, TERM="xterm")
    assert "\x1b" not in on_a_terminal(written, TERM="dumb")


def test_o6_a_list_fits_the_columns_there_are(amp, daemon, monkeypatch):
    daemon.message(subject="s" * 60, trust="external", flags=["role-play"])
    daemon.results["directory.list"] = {
        "agents": [{"address": "bob@far.local", "online": True, "via": "relay", "alias": "b" * 90}]
    }
    assert "s" * 60 in amp("inbox").out
    monkeypatch.setenv("COLUMNS", "80")
    line = amp("inbox").out.splitlines()[1]
    assert len(line) <= 80 and "s\u2026 [external, role-play]" in line
    assert len(amp("discover").out.splitlines()[0]) == 80
    for nonsense in ("0", "x", "-1", ""):
        monkeypatch.setenv("COLUMNS", nonsense)
        assert "s" * 60 in amp("inbox").out


def test_o6_what_is_copied_or_warns_is_never_cut(amp, daemon, monkeypatch):
    monkeypatch.setenv("COLUMNS", "20")
    daemon.message(trust="untrusted", subject="A subject of some length")
    assert "bob@desk.local" in amp("inbox").out and "[untrusted]" in amp("inbox").out
    assert "A subj" in amp("inbox").out
    contact = {"address": "bob@far.local", "trust": "external", "fingerprint": "SHA256:" + "x" * 43}
    daemon.results["contact.list"] = {"contacts": [contact]}
    assert contact["fingerprint"] in amp("contact", "list").out


@pytest.mark.parametrize(
    "words",
    [["help"], ["send", "--help"], ["help", "contact"], ["help", "daemon"], ["inbox", "--help"]],
)
def test_o6_help_fits_the_columns_there_are(amp, monkeypatch, words):
    whole = amp(*words).out
    for columns in (40, 60):
        monkeypatch.setenv("COLUMNS", str(columns))
        said = amp(*words).out
        too_long = [line for line in said.splitlines() if len(line) > columns]
        assert not [line for line in too_long if not line.lstrip().startswith("amp ")], too_long
        assert said.split() == whole.split()
    assert json.loads(amp(*words, "--json").out)["help"].split() == whole.split()
