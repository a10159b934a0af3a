"""What keeps a daemon from starting is said by `ampd --check`, and nothing is touched for it."""

import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path

import pytest

from ampd import preflight
from ampd.config import load
from ampd.home import HomeTakenError, is_taken, take_home
from ampd.model.errors import Invalid, StorageError

QUIET = {"AMPD_PEER_LISTEN": "", "AMPD_DISCOVERY_MDNS": "false", "AMPD_LOG_LEVEL": "error"}


def ampd(home, *words, **environ):
    kept = {name: text for name, text in os.environ.items() if not name.startswith("AMP")}
    return subprocess.Popen(
        [sys.executable, "-m", "ampd", *words],
        env={**kept, **QUIET, "AMPD_HOME": str(home), **environ},
        stderr=subprocess.PIPE,
        text=True,
    )


def said(home, *words, **environ):
    """The exit code and the last line that is written."""
    with ampd(home, *words, **environ) as process:
        err = process.communicate(timeout=60)[1]
    return process.returncode, err.splitlines()[-1] if err else ""


@contextmanager
def running(home, **environ):
    """A daemon with this home, from when its socket answers."""
    with ampd(home, "--log-level", "info", "--log-format", "text", **environ) as process:
        try:
            assert any("ready" in line for line in process.stderr)
            yield
        finally:
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=60)


@pytest.fixture(scope="module")
def used():
    """A home in which alice lives, and no daemon any more."""
    with tempfile.TemporaryDirectory(prefix="amp") as folder:
        with running(folder):
            environ = {**os.environ, "AMPD_HOME": folder, "AMP_AUTOSTART": "0"}
            command = [sys.executable, "-c", "from amp_cli.main import main; main()"]
            subprocess.run(
                [*command, "init", "alice"], env=environ, check=True, capture_output=True
            )
        yield Path(folder)


@pytest.fixture
def home(used):
    """A copy of it that may be broken."""
    with tempfile.TemporaryDirectory(prefix="amp") as folder:
        shutil.copytree(used, folder, dirs_exist_ok=True)
        yield Path(folder)


def tree(folder):
    """All there is below a folder, and when it last changed."""
    return {
        path: (path.lstat().st_mtime_ns, path.lstat().st_mode, path.lstat().st_size)
        for path in [folder, *folder.rglob("*")]
    }


def check(home, **environ):
    preflight.check(load(home=str(home), config_file=None, environ={**QUIET, **environ}))


def test_pf1_a_home_that_is_not_there_is_not_made(tmp_path):
    before = tree(tmp_path)
    check(tmp_path / "not" / "there")
    assert tree(tmp_path) == before


def test_pf1_a_home_that_is_whole_passes_and_stays_as_it_is(home):
    before = tree(home)
    check(home, AMPD_GATEWAY_LISTEN="127.0.0.1:0", AMPD_METRICS_LISTEN="127.0.0.1:0")
    assert tree(home) == before


def plain_file(path):
    path.unlink(missing_ok=True)
    path.touch()


def another_key(home):
    node = home / "keys" / "node.key"
    data = bytearray(node.read_bytes())
    data[data.index(b"seed") + 10] ^= 1
    node.write_bytes(data)


BROKEN = {
    "node.key is gone": lambda home: (home / "keys" / "node.key").unlink(),
    "written with another key": another_key,
    "cannot read the key file": lambda home: (home / "keys" / "agents" / "alice.key").unlink(),
    "in the way: it is not a socket": lambda home: plain_file(home / "run" / "ampd.sock"),
    "others may use it": lambda home: (home / "run").chmod(0o755),
    "others may read the key file": lambda home: (home / "keys" / "node.key").chmod(0o644),
    "is not a folder of this user": lambda home: (
        shutil.rmtree(home / "keys" / "agents"), (home / "keys" / "agents").touch()
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", BROKEN)
def test_pf2_a_broken_home_is_named_as_the_start_names_it(home, what):
    BROKEN[what](home)
    before = tree(home)
    code, line = said(home, "--check")
    assert code != 0
    assert what in line
    assert tree(home) == before
    assert said(home) == (code, line)


def settings(gateway, **more):
    return {"AMPD_GATEWAY_LISTEN": gateway, **{f"AMPD_GATEWAY_{k}": v for k, v in more.items()}}


BAD = {
    "AMPD_GATEWAY_ADMIN_KEYS: ": settings("127.0.0.1:0", ADMIN_KEYS="/nonexist/x"),
    "AMPD_GATEWAY_AMTP_SIGNING_KEY: ": settings("127.0.0.1:0", AMTP_SIGNING_KEY="/nonexist"),
    "AMPD_GATEWAY_CERTIFICATE: ": settings("127.0.0.1:0", CERTIFICATE="/nonexist", KEY="/x"),
    "AMPD_GATEWAY_KEY: ": settings("127.0.0.1:0", KEY="/x"),
    "AMPD_GATEWAY_LISTEN: ": settings("0.0.0.0:0"),
}


@pytest.mark.parametrize("place", BAD)
def test_pf2_settings_that_the_gateway_cannot_use_end_the_start_with_their_place(home, place):
    before = tree(home)
    code, line = said(home, "--check", **BAD[place])
    assert code == 2
    assert line.startswith(f"ampd: error: {place}")
    assert tree(home) == before
    assert said(home, **BAD[place]) == (code, line)


def test_pf2_a_setting_of_the_gateway_in_the_file_is_named_by_its_line(tmp_path):
    (tmp_path / "config.toml").write_text('[gateway]\nlisten = "127.0.0.1:0"\n\nkey = "/x"\n')
    with pytest.raises(Invalid, match=r"config\.toml:4: gateway\.key: "):
        check(tmp_path)


@pytest.mark.parametrize("section", ["PEER", "GATEWAY", "METRICS"])
def test_pf2_a_port_of_another_program_and_an_address_of_another_machine_differ(home, section):
    variable = f"AMPD_{section}_LISTEN"
    with socket.create_server(("127.0.0.1", 0)) as other:
        place = f"127.0.0.1:{other.getsockname()[1]}"
        code, line = said(home, "--check", **{variable: place})
    assert (code, place in line) == (1, True)
    assert f"another program listens there: choose another port with {variable}" in line
    code, line = said(home, "--check", **{variable: "192.0.2.1:4160"}, **PLAIN)
    assert code == 1
    assert f"set {variable} to an address of this machine" in line


PLAIN = {"AMPD_GATEWAY_PLAIN_HTTP": "true"}


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_pf2_a_folder_that_cannot_be_written_to_is_named(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(Invalid, match="cannot be made: Permission denied"):
        check(tmp_path / "home")
    with pytest.raises(StorageError, match="cannot be written to: Permission denied"):
        check(tmp_path)
    tmp_path.chmod(0o700)


def test_pf3_the_ports_of_the_daemon_that_runs_here_are_no_error(home):
    with socket.create_server(("127.0.0.1", 0)) as chosen:
        mine = {"AMPD_PEER_LISTEN": f"127.0.0.1:{chosen.getsockname()[1]}"}
    with running(home, **mine):
        assert said(home, "--check", **mine) == (0, "")
        assert said(home, "--check", AMPD_PEER_LISTEN="192.0.2.1:4160")[0] == 1


def test_pf3_a_daemon_that_has_the_home_and_no_socket_is_named(home):
    with running(home):
        (home / "run" / "ampd.sock").unlink()
        code, line = said(home, "--check")
        assert code == 1
        pid = (home / "ampd.lock").read_text().strip()
        assert f"is in use by another ampd, process {pid}, which nobody can reach" in line


def test_pf3_looking_whether_a_home_is_taken_takes_it_from_nobody(tmp_path):
    assert is_taken(tmp_path) is False
    lock = take_home(tmp_path)
    assert is_taken(tmp_path) is True
    lock.close()
    assert is_taken(tmp_path) is False


def test_a_home_whose_lock_file_was_removed_is_still_taken(tmp_path):
    lock = take_home(tmp_path)
    (tmp_path / "ampd.lock").unlink()
    assert is_taken(tmp_path) is True
    with pytest.raises(HomeTakenError):
        take_home(tmp_path)
    lock.close()
    take_home(tmp_path).close()


def test_a_home_that_could_not_be_taken_is_left_unlocked(tmp_path):
    (tmp_path / "ampd.lock").mkdir()
    with pytest.raises(StorageError):
        take_home(tmp_path)
    (tmp_path / "ampd.lock").rmdir()
    take_home(tmp_path).close()


def test_a_new_key_never_takes_the_place_of_one_that_is_gone(home):
    (home / "keys" / "node.key").unlink()
    assert said(home)[0] == 1
    assert not (home / "keys" / "node.key").exists()
    assert stat.S_IMODE((home / "keys").stat().st_mode) == 0o700
