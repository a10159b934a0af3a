"""`amp demo`, as a new user runs it: what it shows, what it leaves, and how it ends."""

import json
import os
import re
import signal
import subprocess
import tempfile
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from amp_cli.demo_ending import Ending
from amp_cli.demo_processes import Program, World
from amp_cli.errors import Failure
from lan import AMP, PATIENCE, Lan, eventually

# What the caller's own daemon is told; each would keep a node of the demo from starting.
NOT_OURS = {
    "AMPD_PEER_LISTN": "",
    "AMPD_RELAY_SERVERS": "x",
    "AMTP_DOMAIN": "-",
    "AMP_SOCKET": "/x",
}
PID = re.compile(r" pid=(\d+)")


@pytest.fixture
def temporary():
    """Where the demo makes its folder; short, and looked at afterwards."""
    with tempfile.TemporaryDirectory(prefix="amp") as folder:
        yield Path(folder)


@contextmanager
def demo(temporary, *words, prefix=(), **environ):
    """A running demo; its standard output is read a line at a time."""
    process = subprocess.Popen(
        [*prefix, *AMP, "demo", *words],
        env={**os.environ, "TMPDIR": str(temporary), **environ},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.terminate()  # what it started goes with it


def until(process, words):
    """Read what it tells, to the line that has these words."""
    assert any(words in line for line in process.stdout), process.stderr.read()


def started(temporary):
    """The processes of all demos below a folder: what they are -> pid."""
    found = {}
    for log in temporary.glob("amp-demo-*/*.log"):
        pids = PID.findall(log.read_text())
        found |= {log.stem: int(pids[-1])} if pids else {}
    return found


def lives(pid):
    return Path(f"/proc/{pid}").exists()


def left_of(temporary):
    """The processes that have their home below a folder, also where nothing is there any more."""
    home = b"AMPD_HOME=" + os.fsencode(temporary)
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # ended meanwhile, or somebody else's
            if home in (process / "environ").read_bytes():
                found.append(process.name)
    return found


def shown(out):
    document = json.loads(out)
    return " ".join(document["shown"]), document


@pytest.mark.slow
def test_w1_w4_two_demos_at_once_show_direct_mail_a_relay_and_what_the_sender_hears(temporary):
    deep = temporary / ("d" * 100)  # no socket fits below it
    deep.mkdir()
    with demo(temporary, "--json", **NOT_OURS) as one, demo(deep, "--json") as two:
        for process in (one, two):
            out, err = process.communicate(timeout=120)
            assert (process.returncode, err) == (0, "")
            text, _ = shown(out)
            for words in (
                "delivered in", "via: direct", "in the same thread: 'Ship it.'",
                "queued, on her disk", "later: relayed", "via: relay",
                "hears that it was delivered", "Nothing lost, nothing twice",
            ):  # fmt: skip
                assert words in text
    assert list(temporary.rglob("*")) == [deep]


@pytest.mark.slow
@pytest.mark.lan
def test_w1_no_network_but_loopback_is_needed_and_kept_is_the_folder_alone(temporary):
    with Lan() as lan:
        host = lan.host("desk", plugged=False)
        with demo(temporary, "--json", "--keep", prefix=host.prefix) as process:
            out, err = process.communicate(timeout=120)
    assert (process.returncode, err) == (0, "")
    folder = Path(shown(out)[1]["folder"])
    assert [folder] == list(temporary.iterdir())
    assert not any(map(lives, started(temporary).values()))
    assert {log.stem for log in folder.glob("*.log")} == {
        "desk", "invitation", "laptop", "relay",
    }  # fmt: skip


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_e1_w3_a_signal_ends_the_demo_as_shells_expect_and_nothing_is_left(temporary, number):
    with demo(temporary) as process:
        until(process, "Two nodes run")
        pids = started(temporary)
        assert set(pids) == {"desk", "laptop", "relay"}
        for name in ("desk", "laptop"):  # W1
            told = Path(f"/proc/{pids[name]}/environ").read_bytes().split(b"\0")
            assert {b"AMPD_DISCOVERY_MDNS=false", b"AMPD_PEER_LISTEN=127.0.0.1:0"} <= set(told)
        process.send_signal(number)
        _, err = process.communicate(timeout=PATIENCE)
    assert (process.returncode, err) == (128 + number, "")
    assert list(temporary.iterdir()) == []
    assert not any(map(lives, pids.values()))


def test_e2_a_signal_in_the_first_moment_leaves_nothing_either(temporary):
    with demo(temporary) as process:
        eventually(lambda: list(temporary.iterdir()), what="the folder")
        process.terminate()
        assert process.wait(PATIENCE) == 143
    assert left_of(temporary) == []
    assert list(temporary.iterdir()) == []


def test_e3_more_signals_cut_no_cleaning_short_and_nohup_is_respected(temporary):
    with demo(temporary, prefix=["nohup"]) as process:
        until(process, "Two nodes run")
        pids = started(temporary)
        process.send_signal(signal.SIGHUP)
        until(process, "delivered in")
        for _ in range(3):
            process.terminate()
        assert process.wait(PATIENCE) == 143
    assert list(temporary.iterdir()) == []
    assert not any(map(lives, pids.values()))


def test_whoever_reads_the_demo_and_leaves_ends_it(temporary):
    with demo(temporary) as process:
        until(process, "Two nodes run")
        pids = started(temporary)
        process.stdout.close()
        assert process.wait(PATIENCE) == 1
        assert process.stderr.read() == ""
    assert list(temporary.iterdir()) == []
    assert not any(map(lives, pids.values()))


def test_w2_a_process_that_ends_is_named_with_why_and_the_folder_is_told(temporary):
    with demo(temporary, "--keep") as process:
        until(process, "Two nodes run")
        pids = started(temporary)
        os.kill(pids["laptop"], signal.SIGKILL)
        process.stdout.read()
        err = process.stderr.read()
        assert process.wait(PATIENCE) == 1
    (folder,) = temporary.iterdir()
    assert err.startswith("amp: error: the demo failed: laptop ended (exit -9): ")
    assert err.endswith(f"; the folder stays, with a log of each process: {folder}\n")
    assert not any(map(lives, pids.values()))


def test_w2_a_node_that_cannot_start_says_why_at_once(temporary):
    broken = temporary / "broken"
    broken.mkdir()
    (broken / "nacl.py").write_text("raise ImportError('no libsodium here')")
    with demo(temporary, PYTHONPATH=str(broken)) as process:
        _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1
    assert "no libsodium here" in err and err.rstrip().endswith("; try: amp demo --keep")
    assert list(temporary.iterdir()) == [broken]


def test_what_does_not_happen_in_time_is_a_failure_that_says_what_each_process_said(temporary):
    world = World(Ending(), lambda _: None, keep=False)
    world.folder, world.within = temporary, 0
    relay = Program(world, "relay")
    relay.log.write_text("ready\nampd: error: the store is full; try: df -h\nstopping\n")
    world.running.append(relay)
    with pytest.raises(Failure, match=r"the nodes meet: not within 0 s \(relay: the store is full"):
        world.wait(lambda: False, "the nodes meet")
