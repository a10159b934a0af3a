"""`ampd relay` says what is wrong with its command line, and makes what it was asked for only."""

import os
import socket
import subprocess
import sys

import pytest

WITHOUT_NATS = """
import sys
sys.modules["nats"] = None
from ampd.__main__ import main
raise SystemExit(main())
"""


@pytest.fixture
def relay(tmp_path):
    """`ampd relay WORDS` with a home that is not there yet: exit code, output, last line of err."""

    def run(*words, program=("-m", "ampd")):
        kept = {name: text for name, text in os.environ.items() if not name.startswith("AMP")}
        done = subprocess.run(
            [sys.executable, *program, "relay", *words],
            env={**kept, "AMPD_HOME": str(tmp_path / "home")},
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert "Traceback" not in done.stderr
        return done.returncode, done.stdout, "".join(done.stderr.splitlines()[-1:])

    return run


def made(tmp_path):
    return sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*"))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--log-level", "loud"], "--log-level: expected debug or info or warning or error"),
        (["--log-format", "xml"], "--log-format: expected auto or text or journald or json"),
        (["--listen", ""], "--listen: expected HOST:PORT or [IPV6]:PORT, not ''"),
        (["--listen", "x"], "--listen: expected HOST:PORT or [IPV6]:PORT, not 'x'"),
        (["--metrics", "x"], "--metrics: expected HOST:PORT or [IPV6]:PORT, not 'x'"),
    ],
)
def test_a_bad_flag_is_named_and_nothing_is_made(relay, tmp_path, words, said):
    code, _, line = relay(*words)
    assert code == 2
    assert line.startswith(f"ampd: error: {said}") and not line.endswith('"" for off')
    assert made(tmp_path) == []


def test_a_nats_store_without_its_package_names_the_command_that_installs_it(relay):
    code, _, line = relay("--store", "nats://127.0.0.1:1", program=("-c", WITHOUT_NATS))
    assert code == 2
    assert line.endswith("needs the package nats-py; try: pip install 'ampd-node[nats]'")


@pytest.mark.parametrize("flag", ["--listen", "--metrics"])
def test_a_taken_port_and_an_address_that_is_not_here_name_the_flag(relay, flag):
    others = ["--listen", "127.0.0.1:0"] if flag == "--metrics" else []
    with socket.create_server(("127.0.0.1", 0)) as other:
        code, _, line = relay(*others, flag, f"127.0.0.1:{other.getsockname()[1]}")
    assert code == 1
    assert line.endswith(f"another program listens there: choose another port with {flag}")
    code, _, line = relay(*others, flag, "192.0.2.1:4161")
    assert code == 1
    assert f"set {flag} to an address of this machine" in line


def test_count_makes_nothing_and_says_where_no_store_is(relay, tmp_path):
    assert relay("--count")[0] == 2
    code, _, line = relay("--count", "--store", f"sqlite:{tmp_path}/none/x")
    assert code == 2
    assert f"there is no folder {tmp_path}/none; " in line
    assert made(tmp_path) == []
    (tmp_path / "home").mkdir(0o700)
    assert relay("--count") == (0, "0\n", ""), "a relay that never ran holds nothing"
    assert made(tmp_path) == ["home"]


def test_count_of_a_store_needs_no_key(relay, tmp_path):
    (tmp_path / "home").mkdir(0o700)
    assert relay("--listen", "127.0.0.1:0", "invite")[0] == 0
    (tmp_path / "home" / "keys" / "relay.key").unlink()
    assert relay("--count") == (0, "0\n", "")
    assert not (tmp_path / "home" / "keys" / "relay.key").exists()


def test_show_uri_makes_the_key_and_no_more(relay, tmp_path):
    code, out, _ = relay("--listen", "relay.example:4161", "--show-uri")
    assert code == 0
    assert out.startswith("amp://") and out.endswith("@relay.example:4161\n")
    assert made(tmp_path) == ["home", "home/keys", "home/keys/relay.key"]
    assert relay("--listen", "relay.example:4161", "--show-uri")[1] == out


def test_a_folder_that_was_mistyped_is_not_made(relay, tmp_path):
    code, _, line = relay("--store", f"sqlite:{tmp_path}/none/x", "--listen", "127.0.0.1:0")
    assert code == 2
    assert f"there is no folder {tmp_path}/none; " in line
    assert not (tmp_path / "none").exists()
