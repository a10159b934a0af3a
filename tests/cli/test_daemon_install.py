"""`amp daemon install`: the units of this installation, where systemd looks for them."""

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from amp_cli import main
from amp_cli.arguments import parse
from amp_cli.commands import daemon_install
from amp_cli.errors import Failure, Usage
from amp_cli.output import Output

BESIDE = Path(sys.executable).parent


def install(words):
    """`amp daemon install WORDS`, in this process."""
    arguments = parse(daemon_install.COMMANDS["daemon install"], words)
    return daemon_install.run(arguments, None, Output(json=arguments.flag("--json")))


@pytest.fixture
def home(tmp_path, monkeypatch):
    """An empty home folder of a user without a systemd of its own."""
    for variable in ("AMPD_HOME", "AMP_SOCKET", "XDG_RUNTIME_DIR", "XDG_DATA_HOME"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(sys, "argv", [str(BESIDE / "amp")])
    return tmp_path


@pytest.fixture
def installed(home):
    """The two files, by name."""
    folder = home / ".config/systemd/user"
    return lambda: {unit.name: unit.read_text() for unit in sorted(folder.glob("*"))}


# A systemctl that notes what it was told to do. `is-active` says no, unless ACTIVE.
SYSTEMCTL = """#!/bin/sh
[ "$2" = is-active ] && exit ${ACTIVE:-3}
echo "$@" >> "$HOME/told"
[ "$2" != "$REFUSED" ]
"""


@pytest.fixture
def manager(home, monkeypatch):
    """A user manager's private socket, a `systemctl`, and what that one was told."""
    runtime = home / "run"
    (runtime / "systemd").mkdir(parents=True)
    with socket.socket(socket.AF_UNIX) as private:
        private.bind(str(runtime / "systemd/private"))
        (home / "bin").mkdir()
        (home / "bin/systemctl").write_text(SYSTEMCTL)
        (home / "bin/systemctl").chmod(0o755)
        monkeypatch.setenv("PATH", f"{home / 'bin'}:{os.environ['PATH']}")
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
        yield lambda: (home / "told").read_text().splitlines() if (home / "told").exists() else []


def test_the_units_run_the_ampd_of_this_installation(installed, capsys):
    assert install([]) == 0
    assert list(installed()) == ["ampd.service", "ampd.socket"]
    assert f"\nExecStart={BESIDE / 'ampd'}\n" in installed()["ampd.service"]
    assert "ReadWritePaths=-%h/.local/share/ampd\n" in installed()["ampd.service"]


def test_what_they_need_is_made(home):
    install([])
    assert (home / ".local/share/ampd").stat().st_mode & 0o777 == 0o700


def test_u1_done_twice_it_changes_nothing(installed, home, capsys):
    install([])
    first = {path: path.stat().st_mtime_ns for path in home.rglob("ampd.*")}
    capsys.readouterr()
    install([])
    assert "unchanged" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in home.rglob("ampd.*")} == first


def test_u3_without_a_manager_it_says_what_remains_to_be_run(home, capsys):
    install(["--json"])
    assert json.loads(capsys.readouterr().out) == {
        "state": "installed",
        "files": [str(home / ".config/systemd/user" / name) for name in daemon_install.UNITS],
        "run": [
            "systemctl --user daemon-reload",
            "systemctl --user enable --now ampd.socket ampd.service",
            "systemctl --user restart ampd.service",
        ],
    }


def test_with_a_manager_the_daemon_runs_at_once(manager):
    install([])
    assert manager() == [
        "--user daemon-reload",
        "--user enable --now ampd.socket ampd.service",
        "--user restart ampd.service",
    ]


def test_a_daemon_whose_units_did_not_change_is_not_restarted(manager, home):
    install([])
    (home / "told").unlink()
    install([])
    assert "--user restart ampd.service" not in manager()


def test_what_systemctl_refuses_is_a_failure_that_names_the_command(manager, monkeypatch):
    monkeypatch.setenv("REFUSED", "enable")
    with pytest.raises(Failure, match="systemctl --user enable --now"):
        install([])


def test_u2_a_daemon_in_the_background_is_ended_first(manager, monkeypatch):
    from amp_cli.commands import daemon

    ended = []
    monkeypatch.setattr(daemon, "_stop", lambda client: ended.append((client.path, manager())))
    install([])
    [(path, told)] = ended
    assert path.endswith("/run/ampd/ampd.sock")
    assert "--user enable --now ampd.socket ampd.service" not in told


def test_uninstalled_nothing_is_left_of_the_units(manager, installed, capsys):
    install([])
    install(["--uninstall"])
    assert installed() == {}
    assert manager()[-2:] == [
        "--user disable --now ampd.socket ampd.service",
        "--user daemon-reload",
    ]
    told = manager()
    install(["--uninstall"])
    assert manager() == told
    assert "absent" in capsys.readouterr().out


def test_print_writes_nothing(home, capsys):
    install(["--print"])
    assert f"ExecStart={BESIDE / 'ampd'}" in capsys.readouterr().out
    assert list(home.iterdir()) == []


def test_folders_that_the_user_moved_are_the_ones_of_the_service(home, installed, monkeypatch):
    monkeypatch.setenv("XDG_DATA_HOME", str(home / "my 100% data"))
    install([])
    service, listening = installed().values()
    assert f'Environment="XDG_DATA_HOME={home}/my 100%% data"\n' in service
    assert f'ReadWritePaths="-{home}/my 100%% data/ampd"\n' in service
    assert f'mkdir -p -m 0700 "{home}/my 100%% data/ampd"\n' in listening
    assert ".local/share" not in service + listening


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd-analyze is not installed")
def test_systemd_understands_what_is_installed(home, installed, monkeypatch):
    monkeypatch.setenv("XDG_DATA_HOME", str(home / "my 100% data"))
    install([])
    files = [str(home / ".config/systemd/user" / name) for name in installed()]
    environ = {**os.environ, "XDG_RUNTIME_DIR": str(home)}
    command = ["systemd-analyze", "--user", "verify", *files]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


@pytest.mark.parametrize("folder", ['a"b', "a'b", "a$b", "a\\b", "a\nb"])
def test_a_path_that_units_cannot_spell_is_refused(folder):
    with pytest.raises(Failure, match="a systemd unit cannot name"):
        daemon_install.quoted(folder)


def test_a_portable_home_is_not_for_systemd(home, monkeypatch):
    monkeypatch.setenv("AMPD_HOME", str(home))
    with pytest.raises(Usage, match="AMPD_HOME is set"):
        install([])


def test_a_daemon_that_systemd_runs_is_stopped_and_started_by_systemd(manager, home, monkeypatch):
    install([])
    (home / "told").unlink()
    monkeypatch.setenv("ACTIVE", "0")
    assert main.run(["daemon", "stop"]) == 0
    assert manager() == ["--user stop ampd.socket ampd.service"]
    monkeypatch.setenv("AMP_AUTOSTART", "0")
    assert main.run(["daemon", "start"]) == 4  # this systemctl starts nothing
    assert manager()[1:] == ["--user start ampd.socket ampd.service"]


def test_to_look_at_a_daemon_that_systemd_runs_does_not_start_it(manager, home, capsys):
    install([])
    told = manager()
    assert main.run(["daemon", "status"]) == 4
    assert "systemd runs no ampd.service" in capsys.readouterr().err
    assert manager() == told
