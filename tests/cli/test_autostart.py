"""Rules S1 to S3 of amp_cli/autostart.py, with a stand-in for the program `ampd`."""

import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from cli.conftest import Said

# Answers like a daemon, and writes down that it was started.
ANSWERS = """
import os, sys, threading
if sys.argv[1:] == ["--check"]:
    sys.exit()
sys.path.insert(0, {tests!r})
from cli.fake_daemon import FakeDaemon
home = {home!r}
with open(home + "/started", "a") as file:
    file.write(f"{{os.getpid()}} {{os.getsid(0) == os.getpid()}} {{os.getcwd()}}\\n")
print("the daemon is up", flush=True)
with FakeDaemon(home + "/run/ampd.sock") as daemon:
    daemon.stopped.wait(60)
"""
FAILS = "import sys; print('starting'); sys.exit('config.toml:3: unknown key')"
SAYS_WHY = "import sys; sys.exit('ampd: error: no key domian; did you mean domain?')"
CRASHES = "raise ExceptionGroup('several', [ValueError('no such word')])"
SAYS_NOTHING = "import sys; sys.exit(3)"
HANGS = """
import os, time
with open({home!r} + "/started", "a") as file:
    file.write(f"{{os.getpid()}}\\n")
time.sleep(600)
"""
# Another daemon is on its way up: this one finds the home taken, the socket comes a moment later.
IS_SECOND = """
import os, subprocess, sys
if os.fork() == 0:
    exec({answers!r})
else:
    sys.exit("another daemon has this home")
"""
AMP = """
import sys
from amp_cli import autostart
from amp_cli.main import main
autostart.DAEMON = (sys.executable, "-c", {program!r})
autostart.READY_WITHIN = {patience}
sys.exit(main())
"""


class Home:
    """AMPD_HOME, and commands that would start `program` as its daemon."""

    def __init__(self, folder):
        self.folder = folder
        self.answers = ANSWERS.format(home=str(folder), tests=str(Path(__file__).parent.parent))
        self.program = self.answers
        self.patience = 30

    def start(self, *words, cwd=None, **environ):
        kept = {k: v for k, v in os.environ.items() if k not in ("AMP_SOCKET", "AMP_AGENT")}
        return subprocess.Popen(
            [
                sys.executable,
                "-c",
                AMP.format(program=self.program, patience=self.patience),
                *words,
            ],
            cwd=cwd,
            env={**kept, "AMPD_HOME": str(self.folder), **environ},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def amp(self, *words, **environ):
        process = self.start(*words, **environ)
        out, err = process.communicate(timeout=30)
        return Said(process.returncode, out, err)

    def started(self):
        with suppress(FileNotFoundError):
            return (self.folder / "started").read_text().splitlines()
        return []

    def log(self):
        return (self.folder / "ampd.log").read_text()


@pytest.fixture
def home(short_path):
    home = Home(short_path)
    yield home
    for line in home.started():
        with suppress(ProcessLookupError):
            os.kill(int(line.split()[0]), signal.SIGKILL)


def test_s1_twenty_commands_at_the_same_moment_start_one_daemon(home):
    commands = [home.start("inbox") for _ in range(20)]
    for command in commands:
        out, err = command.communicate(timeout=60)
        assert (command.returncode, out, err) == (0, "alice@desk.local: no messages\n", "")
    assert len(home.started()) == 1


def test_s2_a_daemon_that_ends_at_once_is_reported_with_its_reason(home):
    home.program = FAILS
    said = home.amp("inbox")
    assert said.code == 4
    assert said.err == (
        "amp: error: the daemon ended at once (exit 1): config.toml:3: unknown key;"
        " try: amp daemon log\n"
    )


def test_s2_the_daemons_own_error_is_shown_as_it_is(home):
    home.program = SAYS_WHY
    assert home.amp("inbox").err == (
        "amp: error: the daemon ended at once (exit 1): no key domian; did you mean domain?\n"
    )


def test_s2_only_what_this_start_wrote_is_its_reason(home):
    home.program = SAYS_WHY
    home.amp("inbox")
    home.program = SAYS_NOTHING
    assert home.amp("inbox").err == (
        "amp: error: the daemon ended at once (exit 3): it wrote nothing; try: amp daemon log\n"
    )


def test_s2_of_a_traceback_the_last_line_is_the_reason(home):
    home.program = CRASHES
    assert ": ValueError: no such word; try: amp daemon log" in home.amp("inbox").err


def test_s2_a_daemon_that_does_not_answer_in_time_is_ended(home):
    home.program = HANGS.format(home=str(home.folder))
    home.patience = 0.5
    said = home.amp("inbox")
    assert said.code == 4
    assert "did not answer within 0.5 s, and was stopped" in said.err
    with pytest.raises(ProcessLookupError):
        os.kill(int(home.started()[0]), 0)


def test_s3_a_relative_home_is_one_of_the_folder_in_which_the_command_stands(home):
    home.program = "import os; print(os.environ['AMPD_HOME'])\n" + home.answers
    said = home.amp("inbox", cwd=home.folder.parent, AMPD_HOME=home.folder.name)
    assert (said.code, said.err) == (0, "")
    assert home.log().splitlines()[0] == str(home.folder)


def test_s2_a_daemon_that_found_another_on_its_way_up_is_no_error(home):
    home.program = IS_SECOND.format(answers=home.answers)
    assert home.amp("inbox").code == 0


def test_s3_the_daemon_has_a_session_of_its_own_and_a_private_log(home):
    home.amp("inbox")
    assert home.started()[0].split()[1:] == ["True", "/"]
    assert (home.folder / "ampd.log").stat().st_mode & 0o777 == 0o600
    assert (home.folder / "run").stat().st_mode & 0o777 == 0o700
    assert home.log() == "the daemon is up\n"


def test_s3_a_log_that_grew_too_long_is_set_aside(home):
    (home.folder / "ampd.log").write_bytes(b"x" * (5 << 20))
    home.amp("inbox")
    assert home.log() == "the daemon is up\n"
    assert (home.folder / "ampd.log.1").stat().st_size == 5 << 20


def test_a_socket_file_that_a_dead_daemon_left_behind_does_not_count(home):
    (home.folder / "run").mkdir(0o700)
    (home.folder / "run" / "ampd.sock").touch()
    home.program = FAILS
    assert "ended at once" in home.amp("inbox").err


def test_nothing_is_started_with_autostart_off(home):
    said = home.amp("inbox", AMP_AUTOSTART="0")
    assert said.code == 4
    assert said.err.endswith("; try: amp daemon start\n")
    assert not (home.folder / "run").exists()


@pytest.mark.parametrize("named", [{}, {"AMP_SOCKET": "/nowhere/ampd.sock"}])
def test_nothing_is_started_for_a_socket_that_was_named(home, named):
    words = () if named else ("--socket", "/nowhere/ampd.sock")
    assert home.amp("inbox", *words, **named).code == 4
    assert home.started() == []


def test_daemon_start_status_restart_and_stop(home):
    assert home.amp("daemon", "status").code == 4
    assert home.started() == []
    assert home.amp("daemon", "start", AMP_AUTOSTART="0").code == 0
    assert json.loads(home.amp("daemon", "status", "--json").out)["version"] == "0.1.0"
    assert "answers" in home.amp("daemon", "start").err
    assert home.amp("daemon", "restart").code == 0
    assert len(home.started()) == 2
    assert home.amp("daemon", "log").out == "the daemon is up\nthe daemon is up\n"
    assert home.amp("daemon", "stop").out == "stopped\n"
    assert home.amp("daemon", "status").code == 4
    assert home.amp("daemon", "stop").err == "no daemon was running\n"


def test_a_path_too_long_for_a_socket_names_the_setting_to_change(home):
    said = home.amp("inbox", "--socket", "/" + "x" * 120)
    assert said.code == 1
    assert "over the 107 bytes" in said.err and "AMP_SOCKET" in said.err
