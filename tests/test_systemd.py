"""What the daemon and systemd tell each other; and the units that systemd reads."""

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from ampd.model.errors import Invalid
from ampd.systemd import Manager

UNITS = Path(__file__).parent.parent / "systemd"


@pytest.fixture(params=["path", "abstract"])
def told(request, tmp_path):
    """A manager, and a function that gives the words it was told."""
    address = str(tmp_path / "notify") if request.param == "path" else f"@ampd-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(address.replace("@", "\0") if request.param == "abstract" else address)
        systemd.setblocking(False)
        yield Manager({"NOTIFY_SOCKET": address}), lambda: systemd.recv(4096).decode().split("\n")


def test_each_word_reaches_systemd(told):
    manager, words = told
    manager.ready("2 agents")
    assert words() == ["READY=1", "STATUS=2 agents"]
    manager.alive()
    assert words() == ["WATCHDOG=1"]
    manager.stopping()
    assert words() == ["STOPPING=1"]


def test_a_reload_says_when_it_began(told):
    manager, words = told
    manager.reloading()
    reloading, since = words()
    assert reloading == "RELOADING=1"
    assert since.removeprefix("MONOTONIC_USEC=").isdigit()


def test_a_status_cannot_say_another_word(told):
    manager, words = told
    manager.ready("x\nSTOPPING=1")
    assert words() == ["READY=1", "STATUS=x STOPPING=1"]


def test_without_systemd_every_word_is_a_no_op():
    manager = Manager({})
    manager.ready()
    manager.alive()
    assert manager.alive_every is None
    assert manager.sockets() == []


def test_a_systemd_that_does_not_listen_is_logged_and_not_fatal(tmp_path, caplog):
    Manager({"NOTIFY_SOCKET": str(tmp_path / "nobody")}).ready()
    assert "systemd was not told" in caplog.text


def test_the_watchdog_is_fed_twice_as_often_as_it_asks():
    assert Manager({"WATCHDOG_USEC": "30000000"}).alive_every == 15
    ours = {"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}
    assert Manager(ours).alive_every == 15


def test_a_watchdog_of_another_process_is_not_ours():
    assert Manager({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}).alive_every is None


@pytest.mark.parametrize("variable", ["LISTEN_FDS", "LISTEN_PID"])
@pytest.mark.parametrize("text", ["x", "-1", "1e3", "9" * 30])
def test_a_number_that_is_none_is_an_error_that_names_the_variable(variable, text):
    environ = {"LISTEN_FDS": "1", "LISTEN_PID": str(os.getpid()), variable: text}
    with pytest.raises(Invalid, match=f"^{variable}: expected a whole number"):
        Manager(environ).sockets()


def test_sockets_of_another_process_are_not_ours():
    assert Manager({"LISTEN_FDS": "1", "LISTEN_PID": "1"}).sockets() == []


def test_a_wild_number_of_sockets_is_refused():
    with pytest.raises(Invalid, match="at most 64, not 1000000"):
        Manager({"LISTEN_FDS": "1000000", "LISTEN_PID": str(os.getpid())}).sockets()


INHERIT = """
import os, sys
from ampd.model.errors import Invalid
from ampd.systemd import Manager
try:
    for name, found in Manager({**os.environ, "LISTEN_PID": str(os.getpid())}).sockets():
        print(name, found.getsockname(), found.get_inheritable())
except Invalid as exc:
    print(exc)
"""


def inherit(descriptors, **environ):
    """What a process prints that is started with these descriptors from 3 on."""

    def place():
        # above the targets first, so that none is overwritten before it was copied
        high = [os.dup2(each, 100 + i) for i, each in enumerate(descriptors)]
        for i, each in enumerate(high):
            os.dup2(each, 3 + i)

    command = [sys.executable, "-c", INHERIT]
    environ = {"PATH": os.environ["PATH"], "LISTEN_FDS": str(len(descriptors)), **environ}
    done = subprocess.run(
        command, env=environ, preexec_fn=place, close_fds=False, capture_output=True, check=False
    )
    return (done.stdout + done.stderr).decode().strip()


def test_inherited_sockets_come_with_their_names_and_are_not_passed_on(tmp_path):
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as local, socket.create_server(("127.0.0.1", 0)) as peer:
        local.bind(path)
        local.listen()
        port = peer.getsockname()[1]
        lines = inherit([local.fileno(), peer.fileno()], LISTEN_FDNAMES="ampd:peer")
    assert lines == f"ampd {path} False\npeer ('127.0.0.1', {port}) False"


def test_a_socket_without_a_name_is_called_unknown(tmp_path):
    with socket.socket(socket.AF_UNIX) as local:
        local.bind(str(tmp_path / "s"))
        local.listen()
        assert inherit([local.fileno()]).startswith("unknown ")


def test_a_descriptor_that_is_no_listening_socket_is_an_error(tmp_path):
    with (tmp_path / "file").open("w") as file:
        assert inherit([file.fileno()]).startswith("LISTEN_FDS: descriptor 3: ")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as silent:
        silent.bind(str(tmp_path / "s"))
        error = inherit([silent.fileno()])
    assert error == "LISTEN_FDS: descriptor 3 is no listening stream socket"


# The units

needs_analyze = pytest.mark.skipif(
    not shutil.which("systemd-analyze"), reason="systemd-analyze is not installed"
)


def analyze(folder, *words):
    environ = {**os.environ, "XDG_RUNTIME_DIR": str(folder)}
    command = ["systemd-analyze", "--user", *words]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


@pytest.fixture
def units(tmp_path):
    """Copies whose daemon is a program that exists."""
    for unit in UNITS.iterdir():
        text = unit.read_text().replace("%h/.local/bin/ampd", "/bin/true")
        text = text.replace("/usr/local/bin/ampd", "/bin/true")
        (tmp_path / unit.name).write_text(text)
    return tmp_path


@needs_analyze
def test_systemd_understands_the_units(units):
    found = [str(unit) for unit in sorted(units.glob("ampd.*"))]
    assert len(found) == 2
    assert analyze(units, "verify", *found) == (0, "")


@needs_analyze
def test_the_exposure_of_the_service_is_two_at_most(units):
    service = str(units / "ampd.service")
    code, text = analyze(units, "security", "--offline=true", "--threshold=20", service)
    assert code == 0, text


def analyze_system(*words):
    command = ["systemd-analyze", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


@needs_analyze
def test_systemd_understands_the_unit_of_the_relay(units):
    assert analyze_system("verify", str(units / "ampd-relay.service")) == (0, "")


@needs_analyze
def test_the_exposure_of_the_relay_is_one_and_a_half_at_most(units):
    service = str(units / "ampd-relay.service")
    code, text = analyze_system("security", "--offline=true", "--threshold=15", service)
    assert code == 0, text


def test_the_relay_of_the_unit_would_start(tmp_path):
    """Its flags are flags, and the folder above its home may be a symbolic link (DynamicUser=)."""
    (tmp_path / "private").mkdir()
    (tmp_path / "ampd-relay").symlink_to(tmp_path / "private")
    text = (UNITS / "ampd-relay.service").read_text()
    (line,) = (x for x in text.splitlines() if x.startswith("ExecStart="))
    _, *flags = line.replace("%S", str(tmp_path)).split()
    command = [sys.executable, "-m", "ampd", *flags, "--show-uri"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and done.stdout.startswith("amp://"), done.stderr


@needs_analyze
def test_without_its_sandbox_the_exposure_would_be_seen(units):
    service = units / "ampd.service"
    lines = service.read_text().splitlines()
    service.write_text("\n".join(x for x in lines if not x.startswith(("Private", "Capab"))))
    code, _ = analyze(units, "security", "--offline=true", "--threshold=20", str(service))
    assert code != 0


def test_the_socket_unit_and_the_daemon_agree_on_the_path():
    from ampd.config import find_paths

    runtime = {"XDG_RUNTIME_DIR": "%t", "HOME": "%h"}
    with pytest.raises(Invalid):  # %t is systemd's word, and not a folder
        find_paths(None, None, runtime)
    path = find_paths(None, None, {"XDG_RUNTIME_DIR": "/run/user/1"}).socket
    expected = str(path).replace("/run/user/1", "%t")
    assert f"ListenStream={expected}\n" in (UNITS / "ampd.socket").read_text()
