"""What a user sees when the disk is full, bytes are damaged, or a file is taken away (P4, P5)."""

import json
import shutil
from pathlib import Path

import pytest
from faults.crash_harness_node import Node, Told, listed
from faults.disk_faults import SmallDisk
from faults.power_loss import why_not

pytestmark = pytest.mark.slow
needs_mounts = pytest.mark.skipif(bool(why_not("ext4")), reason=why_not("ext4") or "has disks")


def settle(node, messages):
    node.start()
    with node.line() as line:
        for name in ("alice", "bob"):
            line.call("agent.create", name=name)
    with node.line("alice") as line:
        for n in range(messages):
            send(line, f"number {n}")


def send(line, subject, text="the text"):
    return line.call("message.send", to=["bob"], subject=subject, text=text)


def subjects_of(node, box="all"):
    with node.line("bob", within=5) as line:
        return [each["subject"] for each in listed(line, box)]


def check(node, **options):
    with node.line(within=5) as line:
        return line.call("journal.check", **options)


def overwrite(path, offset, data):
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


# --- damage -------------------------------------------------------------------------------


def spoil_the_first_agent(node):
    """Four bytes of the record that made Alice."""
    overwrite(node.home / "journal" / "0000000000000001.log", 250, b"ABCD")


def test_p4_an_agent_whose_record_is_damaged_is_named_and_stays(node):
    settle(node, 3)
    spoil_the_first_agent(node)
    found = check(node)
    assert not found["ok"]
    first = found["damage"][0]
    assert (first["segment"], first["ids"]) == ("0000000000000001.log", [])
    assert "the agent alice" in first["reason"]
    code, out, _ = node.amp("check")
    assert code == 1
    assert "0 bytes" not in out
    assert subjects_of(node) == ["number 0", "number 1", "number 2"]

    repaired = check(node, repair=True)
    assert (repaired["ok"], repaired["repaired"]) == (True, True)
    assert "the agent alice" in repaired["damage"][0]["reason"]
    assert check(node)["damage"] == []
    node.kill()
    node.start()
    with node.line("alice") as line:
        send(line, "number 3")
    assert len(subjects_of(node)) == 4
    assert check(node)["ok"]


def test_p4_a_lost_agent_is_back_by_its_key_also_without_an_index(node):
    settle(node, 3)
    with node.line() as line:
        before = line.call("agent.show", name="alice")["fingerprint"]
    node.kill()
    spoil_the_first_agent(node)
    (node.home / "index.sqlite").unlink()
    node.start()
    with node.line() as line:
        assert line.call("agent.show", name="alice")["fingerprint"] == before
    with node.line("alice") as line:
        send(line, "number 3")
    assert len(subjects_of(node)) == 4
    assert not check(node)["ok"]
    assert check(node, repair=True)["ok"]
    assert check(node)["damage"] == []


def test_p4_what_was_repaired_is_no_warning_any_more(node):
    def damage():
        with node.line() as line:
            return [each for each in line.call("system.status")["warnings"] if "damaged" in each]

    settle(node, 3)
    path = node.home / "journal" / "0000000000000001.log"
    overwrite(path, path.read_bytes().index(b"number 1"), b"NUMB")
    check(node)
    assert damage() == ["the journal is damaged in one place: amp check"]
    for _ in range(2):
        assert check(node, repair=True)["ok"]
        assert damage() == []
        node.kill()
        node.start()


def test_p4_a_journal_that_was_taken_away_is_no_warning_once_that_was_repaired(node):
    settle(node, 3)
    node.kill()
    shutil.rmtree(node.home / "journal")
    node.start()
    assert not check(node)["ok"]
    assert check(node, repair=True)["ok"]
    with node.line() as line:
        warnings = line.call("system.status")["warnings"]
    assert not [each for each in warnings if "damaged" in each]


def test_p4_a_lost_message_is_called_by_its_id_when_it_is_set_aside(node):
    settle(node, 3)
    with node.line("bob") as line:
        identifier = listed(line, "all")[1]["id"]
    path = node.home / "journal" / "0000000000000001.log"
    overwrite(path, path.read_bytes().index(b"number 1"), b"NUMB")
    code, out, _ = node.amp("check", "--repair")
    assert (code, identifier in out) == (0, True)
    code, out, _ = node.amp("check", "--json")
    assert (code, json.loads(out)["damage"]) == (0, [])
    assert subjects_of(node) == ["number 0", "number 2"]


def test_j8_a_journal_that_was_deleted_under_the_daemon_takes_nothing_until_it_is_back(node):
    settle(node, 2)
    path = node.home / "journal" / "0000000000000001.log"
    path.unlink()
    with node.line("alice") as line:
        for _ in range(2):
            with pytest.raises(Told, match="removed") as refused:
                send(line, "into the void")
            assert refused.value.code == "unavailable"
    path.write_bytes(Path(refused.value.hint.split()[-2]).read_bytes())  # cp /proc/... there
    with node.line("alice") as line:
        send(line, "it is back")
    node.kill()
    node.start()
    assert subjects_of(node) == ["number 0", "number 1", "it is back"]
    assert check(node)["ok"]


# --- full ---------------------------------------------------------------------------------


def use_bobs_mail(node):
    """Read, acknowledge and delete, one message each; every one of them holds."""
    with node.line("bob", within=5) as line:
        first, second, *_ = [each["id"] for each in listed(line, "inbox")]
        assert line.call("message.get", ids=[first])["messages"][0]["body"] == "the text"
        assert line.call("message.ack", ids=[first])["done"] == [first]
        assert line.call("message.delete", ids=[second])["done"] == [second]
        left = [each["id"] for each in listed(line, "inbox")]
        assert not {first, second} & set(left)
        return left


@needs_mounts
def test_p5_with_no_byte_left_all_but_new_mail_goes_on_also_after_a_kill(work, warm):
    with (
        SmallDisk(work / "disk", 24 << 20) as disk,
        Node(disk.folder / "home", work / "log", warm=warm) as node,
    ):
        settle(node, 12)
        for _ in range(3):  # each time what was given up is taken by somebody else
            disk.fill()
            left = use_bobs_mail(node)
            with node.line("alice", within=5) as line, pytest.raises(Told, match="full"):
                send(line, "refused", "x" * 20_000)
            found = check(node)
            assert (found["ok"], found["damage"]) == (True, [])
            with node.line() as line:
                assert any("full" in each for each in line.call("system.status")["warnings"])
            node.kill()
            node.start()
            with node.line("bob", within=5) as line:
                assert [each["id"] for each in listed(line, "inbox")] == left
        disk.free()
        with node.line("alice", within=5) as line:
            send(line, "there is room")
        assert subjects_of(node, "inbox")[-1] == "there is room"
        assert check(node)["damage"] == []
        with node.line() as line:
            assert line.call("system.status")["warnings"] == []


@needs_mounts
def test_p5_a_start_on_a_disk_without_a_byte_shows_the_mail(work, warm):
    with (
        SmallDisk(work / "disk", 24 << 20) as disk,
        Node(disk.folder / "home", work / "log", warm=warm) as node,
    ):
        settle(node, 12)
        for each in ("reserve", "journal/reserve"):  # nothing was held back
            (node.home / each).unlink()
        node.kill()
        disk.fill()
        node.start()
        assert len(subjects_of(node)) == 12
        with node.line("alice", within=5) as line, pytest.raises(Told, match="full"):
            send(line, "refused")
        assert check(node)["damage"] == []


@needs_mounts
@pytest.mark.parametrize("megabytes", [6, 10, 16])
def test_p5_on_a_very_small_disk_what_was_taken_is_shown_at_once(work, warm, megabytes):
    with (
        SmallDisk(work / "disk", megabytes << 20) as disk,
        Node(disk.folder / "home", work / "log", warm=warm) as node,
    ):
        kept = []
        try:
            settle(node, 0)
            with node.line("alice", within=5) as line:
                for n in range(100):
                    send(line, f"large {n}", "x" * 400_000)
                    kept.append(f"large {n}")
                    assert subjects_of(node) == kept
        except Told as exc:
            assert "full" in str(exc)  # noqa: PT017 - what this is about
        else:
            pytest.fail("a full disk takes everything")
        node.kill()
        node.start()
        if kept:
            assert subjects_of(node) == kept
        assert check(node)["damage"] == []
