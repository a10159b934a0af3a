"""A clock that jumps by a day, forward and back, while the daemon runs: mail stays mail."""

import tempfile
from pathlib import Path

import pytest
from faults.crash_harness_node import Node, Told, listed, pause
from faults.disk_faults import cpu_seconds

LIBRARY = next(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"), None)
DAY = 86_400
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(LIBRARY is None, reason="needs libfaketime (package faketime)"),
]


class Clock:
    """The clock that the daemon sees: so many seconds off."""

    def __init__(self, work):
        self._file = work / "clock"
        self.jump(0)
        self.environ = {
            "LD_PRELOAD": str(LIBRARY),
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
        }

    def jump(self, seconds):
        fresh = self._file.with_suffix(".new")
        fresh.write_text(f"{seconds:+d}\n")
        fresh.rename(self._file)


@pytest.fixture
def node_and_clock():
    with tempfile.TemporaryDirectory(prefix="amp") as folder:
        work = Path(folder)
        clock = Clock(work)
        with Node(work / "home", work / "log", environ=clock.environ) as node:
            node.start()
            with node.line() as line:
                for name in ("alice", "bob"):
                    line.call("agent.create", name=name)
            yield node, clock


def inbox(node):
    with node.line("bob") as line:
        return [each["subject"] for each in listed(line, "inbox")]


@pytest.mark.parametrize("jumps", [(DAY, 0), (-DAY, 0), (-DAY, DAY, -DAY), (40 * DAY, 0)])
def test_no_message_is_lost_or_out_of_order_when_the_clock_jumps(node_and_clock, jumps):
    node, clock = node_and_clock
    sent = []
    with node.line("alice") as line:
        for n, seconds in enumerate([0, *jumps]):
            clock.jump(seconds)
            line.call("message.send", to=["bob"], subject=f"message {n}", key=f"key {n}")
            sent.append(f"message {n}")
            assert inbox(node) == sent
        again = line.call("message.send", to=["bob"], subject=sent[-1], key=f"key {len(jumps)}")
    with node.line("bob") as line:
        assert [each["id"] for each in listed(line, "inbox")][-1] == again["id"]
    node.kill()
    node.start()
    assert inbox(node) == sent
    with node.line() as line:
        assert line.call("journal.check")["ok"]


def test_n7_a_jump_of_the_clock_makes_nothing_spin(node_and_clock):
    node, clock = node_and_clock
    for seconds in (DAY, -DAY, 0):
        clock.jump(seconds)
        assert inbox(node) == []
        before = cpu_seconds(node.process.pid)
        pause(0.7)
        assert cpu_seconds(node.process.pid) - before < 0.35


def test_n7_a_message_that_expired_is_still_there_for_who_was_sent_it(node_and_clock):
    node, clock = node_and_clock
    with node.line("alice") as line:
        line.call("message.send", to=["bob"], subject="brief", expires_in_s=60)
    clock.jump(DAY)
    assert inbox(node) == ["brief"]
    with node.line("bob") as line:
        found = listed(line, "inbox")[0]["id"]
        assert line.call("message.ack", ids=[found])["done"] == [found]
    clock.jump(-DAY)
    assert inbox(node) == []
    with node.line("alice") as line:
        try:
            line.call("message.status", id=found)
        except Told as exc:
            pytest.fail(str(exc))
