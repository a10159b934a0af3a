"""`amp watch`, `amp wait` and `amp send --wait`: what takes a while."""

import json
import subprocess
from pathlib import Path

import pytest
from amp_cli.client import Client, stop_mark
from amp_cli.errors import NoDaemon
from cli.conftest import AMP
from cli.fake_daemon import FakeDaemon, Refusal

from ampd.protocol.local import main_socket


@pytest.fixture
def watching(daemon):
    """Starts `amp watch WORDS`; `line()` is the next line it prints."""
    processes = []

    def start(*words):
        process = subprocess.Popen(
            [*AMP, "watch", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        processes.append(process)
        daemon.subscribed.wait(30)
        daemon.subscribed.clear()
        return process

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def test_watch_prints_one_document_a_line_as_messages_come(daemon, watching):
    process = watching("--json")
    for number in (1, 2):
        message = daemon.message(subject=f"\x1b{number}")
        daemon.push("message.new", {"message": message, "number": number})
        assert json.loads(process.stdout.readline()) == message


def test_watch_goes_on_after_the_last_number_when_the_connection_breaks(daemon, watching):
    process = watching("--json")
    message = daemon.message()
    daemon.push("message.new", {"message": message, "number": 1})
    process.stdout.readline()
    daemon.drop_everybody()
    daemon.subscribed.wait(30)
    assert daemon.asked[-1][1:] == ("inbox.subscribe", {"after": 1})
    missed = daemon.message()
    daemon.push("message.new", {"message": message, "number": 1})
    daemon.push("message.new", {"message": missed, "number": 2})
    assert json.loads(process.stdout.readline()) == missed, "and nothing is shown twice"
    assert process.stderr.readline() == "amp: watching\n"
    assert "trying again" in process.stderr.readline()


def test_watch_shows_what_comes_to_an_older_mailbox_that_was_put_back(daemon, watching):
    process = watching("--json")
    daemon.push("message.new", {"message": daemon.message(), "number": 100})
    process.stdout.readline()
    daemon.drop_everybody()
    daemon.subscribed.wait(30)
    again = daemon.message()
    daemon.push("message.new", {"message": again, "number": 2})
    assert json.loads(process.stdout.readline()) == again


def test_watch_shows_a_message_as_read_does(daemon, watching):
    process = watching()
    daemon.push("message.new", daemon.message(content="\x1b[2Jhi"))
    lines = [process.stdout.readline() for _ in range(8)]
    assert lines[1] == "from: bob@desk.local (verified)\n"
    assert lines[7] == "\\x1b[2Jhi\n"


def test_wait_prints_what_came(amp, daemon):
    daemon.results["message.wait"] = {"messages": [daemon.message()]}
    said = amp("wait", "--from", "bob", "--timeout", "5m")
    assert "subject: Subject 1" in said.out
    (waited,) = [asked for asked in daemon.asked if asked[1] == "message.wait"]
    assert waited[2] == {"peek": True, "from": "bob", "timeout_s": 300.0}


def test_wait_marks_what_it_shows_and_not_before(amp, daemon):
    message = daemon.message()
    daemon.results["message.wait"] = {"messages": [message]}
    daemon.hang_up_before += ["message.wait"]  # as if the answer was lost: nothing is marked
    assert "subject: Subject 1" in amp("wait").out
    methods = [asked[1] for asked in daemon.asked if "system" not in asked[1]]
    assert methods == ["message.wait", "message.get"], "the one that was lost was not marked"
    assert daemon.asked[-1][1:] == ("message.get", {"ids": [message["id"]]})


def test_wait_has_shown_it_also_if_it_cannot_be_marked(amp, daemon):
    daemon.results["message.wait"] = {"messages": [daemon.message()]}
    daemon.hang_up_before += 9 * ["message.get"]
    said = amp("wait")
    assert (said.code, said.err) == (0, "")
    assert "subject: Subject 1" in said.out


def test_wait_that_ends_without_a_message_exits_6(amp, daemon):
    daemon.errors["message.wait"] = Refusal("timeout", "no message within 1 s", "a hint")
    assert amp("wait", "--timeout", "1") == (6, "", "amp: error: no message within 1 s\n")


def test_wait_goes_on_however_often_the_connection_breaks(amp, daemon):
    daemon.hang_up_before += 3 * ["message.wait"]
    daemon.results["message.wait"] = {"messages": [daemon.message()]}
    said = amp("wait")
    assert said.code == 0
    assert said.err == "amp: the connection was lost, trying again\n"


def test_wait_counts_the_time_without_a_daemon_too(amp, daemon):
    daemon.hang_up_before += 100 * ["message.wait"]
    assert amp("wait", "--timeout", "0.3").code == 6


@pytest.mark.parametrize("stopped", [False, True])
def test_who_has_met_the_daemon_starts_it_after_a_crash_and_not_after_a_stop(
    short_path, monkeypatch, stopped
):
    monkeypatch.setenv("AMPD_HOME", str(short_path))
    (short_path / "run").mkdir()
    started = []

    def start(path):
        started.append(path)
        raise NoDaemon("it does not start")

    client = Client(main_socket(), "", start)
    with FakeDaemon(main_socket()):
        client.ask("system.status", {})
    if stopped:
        Path(stop_mark()).touch()
    for each in (client, Client(main_socket(), "", start)):
        with pytest.raises(NoDaemon):
            each.open()
    assert len(started) == (1 if stopped else 2), "a fresh command starts it in any case"


def test_wait_that_meets_no_daemon_says_so_at_once(amp, daemon):
    daemon.close()
    assert amp("wait").code == 4


def queued(to="bob@far.local"):
    recipient = {"address": to, "status": "queued", "via": None, "error": None}
    return {"id": "m1", "thread_id": "m1", "status": "queued", "recipients": [recipient]}


def test_send_wait_ends_when_it_is_delivered(amp, daemon):
    daemon.results["message.send"] = queued()
    said = amp("send", "bob", "S", "T", "--wait")
    assert said.code == 0
    assert said.out == "m1  delivered to bob@desk.local (local)\n"


def test_send_wait_follows_the_status_notifications(daemon):
    daemon.results["message.send"] = queued()
    daemon.results["message.status"] = queued()
    with subprocess.Popen(
        [*AMP, "send", "bob", "S", "T", "--wait"], stdout=subprocess.PIPE, text=True
    ) as process:
        daemon.subscribed.wait(30)
        daemon.push("message.new", daemon.message())
        del daemon.results["message.status"]
        daemon.push("message.status", {"id": "m1"})
        assert "delivered to" in process.stdout.read()
    assert process.returncode == 0


def test_send_wait_that_times_out_says_that_it_stays_queued(amp, daemon):
    daemon.results["message.send"] = queued()
    daemon.results["message.status"] = queued()
    said = amp("send", "bob", "S", "T", "--wait", "0.05")
    assert said.code == 6
    assert said.out == "m1  queued for bob@far.local\n"
    assert "it stays queued" in said.err and "amp status m1" in said.err


def test_a_daemon_that_does_not_answer_is_exit_4(amp, daemon, monkeypatch):
    monkeypatch.setattr("amp_cli.commands.wait.ANSWER_WITHIN", 0.05)
    daemon.silent.append("message.wait")
    said = amp("wait", "--timeout", "0.01")
    assert said.code == 4
    assert "did not answer" in said.err


def test_a_socket_that_speaks_something_else_is_exit_4(amp, daemon):
    daemon.raw["message.list"] = b"HTTP/1.1 400 Bad Request\r\n\r\n"
    said = amp("inbox")
    assert said.code == 4
    assert "does not speak JSON-RPC" in said.err


def test_a_daemon_that_hangs_up_twice_is_exit_4(amp, daemon):
    daemon.hang_up_before += ["message.list", "message.list"]
    assert amp("inbox").code == 4


def test_the_fake_leaves_nothing_behind(short_path):
    path = short_path / "other.sock"
    with FakeDaemon(path):
        assert path.exists()
    assert not path.exists()
