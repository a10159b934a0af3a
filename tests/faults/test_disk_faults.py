"""Disks that are full or fail, and files that were changed behind the daemon's back."""

import json
import os
import re
import shutil
import subprocess

import pytest
from faults.crash_harness_mutants import planted
from faults.crash_harness_node import Node, NotReady, Told, Unknown, listed
from faults.disk_faults import SmallDisk, failing
from faults.power_loss import LoopDisk, why_not

pytestmark = pytest.mark.slow
needs_mounts = pytest.mark.skipif(bool(why_not("ext4")), reason=why_not("ext4") or "has disks")
needs_strace = pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")


def settle(node, messages=0):
    """Alice and Bob live here, and Bob has mail; the subjects."""
    node.start()
    with node.line() as line:
        for name in ("alice", "bob"):
            line.call("agent.create", name=name)
    subjects = [f"number {n}" for n in range(messages)]
    with node.line("alice") as line:
        for subject in subjects:
            line.call("message.send", to=["bob"], subject=subject, text=f"The text of {subject}.")
    return subjects


def subjects_of(node, box="all"):
    with node.line("bob") as line:
        return [each["subject"] for each in listed(line, box)]


def send(line, subject, size=100):
    return line.call("message.send", to=["bob"], subject=subject, text="x" * size)


def texts_of(node):
    """Everything of Bob's mail that can be read: subject -> text."""
    texts = {}
    with node.line("bob") as line:
        for each in listed(line, "all"):
            try:
                found = line.call("message.get", ids=[each["id"]], peek=True)["messages"][0]
            except Told:
                continue
            texts[found["subject"]] = found["body"]
    return texts


def send_until_refused(node, size):
    """Fill the disk with mail; the subjects of what was taken."""
    kept = []
    with node.line("alice", within=5) as line:
        for n in range(500):
            try:
                send(line, f"one of many {n}", size)
            except Told as exc:
                assert exc.code == "unavailable"  # noqa: PT017 - what this is about
                return kept
            kept.append(f"one of many {n}")
    raise AssertionError("never refused")


# --- full ---------------------------------------------------------------------------------


@needs_mounts
def test_p5_a_full_disk_refuses_new_mail_with_a_reason_and_serves_the_rest(work, warm):
    with (
        SmallDisk(work / "disk", 32 << 20) as disk,
        Node(disk.folder / "home", work / "log", warm=warm) as node,
    ):
        subjects = settle(node, 40)
        disk.fill()
        with node.line("alice", within=5) as line:
            refusals = []
            for n in range(5):
                with pytest.raises(Told) as refused:
                    send(line, f"refused {n}", 20_000)
                refusals.append(refused.value)
        assert {refusal.code for refusal in refusals} == {"unavailable"}
        assert "full" in str(refusals[0])
        with node.line("bob", within=5) as line:
            ids = [each["id"] for each in listed(line, "inbox")]
            assert len(line.call("message.get", ids=ids, peek=True)["messages"]) == 40
        disk.free()
        with node.line("alice", within=5) as line:
            send(line, "there is room")
        node.kill()
        node.start()
        assert subjects_of(node) == [*subjects, "there is room"]


@needs_mounts
def test_p5_reading_and_acknowledging_go_on_when_the_disk_is_full(work, warm):
    with (
        SmallDisk(work / "disk", 32 << 20) as disk,
        Node(disk.folder / "home", work / "log", warm=warm) as node,
    ):
        subjects = settle(node, 40)
        disk.fill()
        with node.line("alice", within=5) as line, pytest.raises(Told):
            send(line, "refused", 20_000)
        with node.line("bob", within=5) as line:
            for each in listed(line, "inbox")[:20]:
                assert line.call("message.get", ids=[each["id"]])["messages"][0]["body"]
                assert line.call("message.ack", ids=[each["id"]])["done"] == [each["id"]]
            assert [each["subject"] for each in listed(line, "inbox")] == subjects[20:]
        node.kill()
        disk.free()
        node.start()
        assert subjects_of(node, "inbox") == subjects[20:]


@needs_mounts
def test_p5_status_tells_of_a_full_disk_as_soon_as_mail_is_refused(work, warm):
    with (
        SmallDisk(work / "disk", 32 << 20) as disk,
        Node(disk.folder / "home", work / "log", warm=warm) as node,
    ):
        settle(node)
        disk.fill()
        with node.line("alice", within=5) as line:
            with pytest.raises(Told):
                send(line, "refused", 20_000)
            assert any("full" in each for each in line.call("system.status")["warnings"])


@needs_mounts
def test_p5_mail_that_fills_the_disk_itself_is_kept_whole_or_refused(work, warm):
    with (
        SmallDisk(work / "disk", 24 << 20) as disk,
        Node(disk.folder / "home", work / "log", warm=warm) as node,
    ):
        settle(node)
        kept = send_until_refused(node, 60_000)
        assert subjects_of(node) == kept
        node.kill()
        node.start()
        assert subjects_of(node) == kept
        assert set(texts_of(node).values()) == {"x" * 60_000}


@needs_mounts
def test_p5_a_disk_without_inodes_refuses_new_mail_and_serves_the_rest(work, warm):
    disk = LoopDisk(work, size=32 << 20, options=("-N", "64"))
    with disk, Node(disk.folder / "home", work / "log", warm=warm) as node:
        subjects = settle(node, 3)
        node.kill()
        node.start(segment_bytes=65536)
        fillers = []
        try:
            while True:
                fillers.append(disk.folder / f"filler{len(fillers)}")
                fillers[-1].touch(exist_ok=False)
        except OSError:
            fillers.pop()
        subjects += send_until_refused(node, 10_000)
        with node.line("bob", within=5) as line:
            first = listed(line, "inbox")[0]["id"]
            assert line.call("message.ack", ids=[first])["done"] == [first]
        assert subjects_of(node) == subjects
        for each in fillers:
            each.unlink()
        with node.line("alice", within=5) as line:
            send(line, "there is room")
        assert subjects_of(node) == [*subjects, "there is room"]


# --- failing ------------------------------------------------------------------------------


def refused_while_failing(node, calls, error):
    """The refusal of a send while the disk fails so."""
    with failing(node.process.pid, calls, error):
        with node.line("alice") as line, pytest.raises(Told) as refused:
            send(line, "while it fails")
        with node.line("bob") as line, pytest.raises(Told):
            line.call("message.ack", ids=[listed(line, "inbox")[0]["id"]])
    return refused.value


@needs_strace
@pytest.mark.parametrize(
    ("calls", "error"),
    [("fdatasync", "EIO"), ("pwrite64", "EIO"), ("pwrite64", "EROFS"), ("fdatasync", "EDQUOT")],
)
def test_p5_nothing_is_acknowledged_while_the_disk_fails_and_all_goes_on_after(node, calls, error):
    subjects = settle(node, 3)
    refusal = refused_while_failing(node, calls, error)
    assert refusal.code == "unavailable"
    with node.line("alice") as line:
        send(line, "after it failed")
    assert subjects_of(node, "inbox") == [*subjects, "after it failed"]
    node.kill()
    node.start()
    assert subjects_of(node, "inbox") == [*subjects, "after it failed"]
    with node.line() as line:
        assert line.call("journal.check")["ok"]


@needs_strace
def test_an_ignored_error_of_a_sync_is_seen(work):
    with Node(work / "home", work / "log", source=planted(work, "error of a sync ignored")) as node:
        settle(node, 1)
        with pytest.raises(pytest.fail.Exception, match="DID NOT RAISE"):
            refused_while_failing(node, "fdatasync", "EIO")


@needs_mounts
def test_p5_a_read_only_disk_is_named_at_the_start(work, warm):
    with (
        LoopDisk(work, size=32 << 20) as disk,
        Node(disk.folder / "home", work / "log", warm=warm) as node,
    ):
        subjects = settle(node, 2)
        node.kill()
        remount(disk, "ro")
        with pytest.raises(NotReady, match="it ended with 1"):
            node.start()
        words = node.last_words()
        assert "Traceback" not in words
        assert "ampd: error:" in words
        node.process = None
        remount(disk, "rw")
        node.start()
        assert subjects_of(node) == subjects


def remount(disk, mode):
    subprocess.run(["mount", "-o", f"remount,{mode}", str(disk.folder)], check=True)


# --- the index is a cache -----------------------------------------------------------------


def spoil(path, how):
    """Do this to a file."""
    match how:
        case "deleted":
            path.unlink()
        case "truncated":
            os.truncate(path, path.stat().st_size // 2)
        case "emptied":
            os.truncate(path, 0)
        case "garbage":
            size = path.stat().st_size
            with path.open("r+b") as file:
                file.write(bytes(n * 37 % 251 for n in range(size)))


@pytest.mark.parametrize("how", ["deleted", "truncated", "emptied", "garbage"])
@pytest.mark.parametrize("ended", ["killed", "stopped"])
def test_p10_an_index_spoilt_between_two_runs_gives_the_same_answers(node, how, ended):
    settle(node, 30)
    with node.line("bob") as line:
        line.call("message.ack", ids=[each["id"] for each in listed(line, "inbox")[:7]])
        before = [listed(line, box) for box in ("inbox", "all")]
    _ = node.kill() if ended == "killed" else node.stop()
    spoil(node.home / "index.sqlite", how)
    node.start()
    with node.line("bob") as line:
        assert [listed(line, box) for box in ("inbox", "all")] == before
        assert line.call("journal.check")["ok"]


@pytest.mark.parametrize("how", ["deleted", "truncated", "emptied", "garbage"])
def test_p10_an_index_spoilt_under_the_running_daemon_loses_nothing(node, how):
    subjects = settle(node, 30)
    spoil(node.home / "index.sqlite", how)
    with node.line("alice") as line:
        try:
            send(line, "after it")
        except Told as exc:
            assert exc.code == "unavailable"  # noqa: PT017 - either is right
        else:
            subjects.append("after it")
    node.kill()
    node.start()
    assert subjects_of(node) == subjects
    with node.line() as line:
        assert line.call("journal.check")["ok"]


# --- the journal is the truth -------------------------------------------------------------


def flip(node, text):
    """Change one bit of the record that holds this text, the daemon being away."""
    for path in sorted((node.home / "journal").glob("*.log")):
        data = bytearray(path.read_bytes())
        at = data.find(text.encode())
        if at >= 0:
            data[at] ^= 4
            path.write_bytes(data)
            return path.name
    raise AssertionError(f"{text} is nowhere")


def read_after_a_flip(node, *, without_index):
    """The subjects, and what can be read, when one bit of number 10 was flipped."""
    subjects = settle(node, 25)
    node.kill()
    flip(node, "The text of number 10.")
    if without_index:
        (node.home / "index.sqlite").unlink()
    node.start()
    return subjects, texts_of(node)


@pytest.mark.parametrize("without_index", [False, True])
def test_p4_a_flipped_bit_costs_one_message_and_is_named(node, without_index):
    subjects, texts = read_after_a_flip(node, without_index=without_index)
    subjects.remove("number 10")
    assert texts == {subject: f"The text of {subject}." for subject in subjects}
    code, out, err = node.amp("check")
    assert code == 1
    assert re.search(r"segment|record", out + err)
    code, out, _ = node.amp("check", "--json")
    assert code == 1
    assert len(json.loads(out)["damage"]) >= 1


def test_a_journal_that_is_cut_at_its_first_bad_record_is_seen(work):
    source = planted(work, "cut at the first bad record")
    with Node(work / "home", work / "log", source=source) as node:
        subjects, texts = read_after_a_flip(node, without_index=True)
        assert len(texts) < len(subjects) - 1


def test_a_restored_copy_of_the_home_draws_a_new_epoch_and_doubles_nothing(node, work):
    subjects = settle(node, 5)
    node.stop()
    subprocess.run(["cp", "-a", str(node.home), str(work / "copy")], check=True)
    node.start()
    with node.line("alice") as line:
        for n in range(3):
            send(line, f"later {n}")
    node.stop()
    shutil.rmtree(node.home)
    subprocess.run(["cp", "-a", str(work / "copy"), str(node.home)], check=True)
    node.start()
    with node.line("alice") as line:
        send(line, "after it was restored")
    assert subjects_of(node) == [*subjects, "after it was restored"]
    assert len(epochs(node)) == 2


def epochs(node):
    """The epochs in the order numbers of Bob's mail: in the signed bytes, so in the journal."""
    from ampd.crypto.keyfiles import node_key
    from ampd.daemon import journal_key
    from ampd.storage.index import read_signed
    from ampd.storage.journal import Journal
    from ampd.storage.records import Kept, from_bytes

    node.stop()
    key = journal_key(node_key(node.home / "keys" / "node.key"))
    journal = Journal.open(node.home / "journal", key)
    records = [from_bytes(record.payload) for record in journal.scan()]
    journal.close()
    return {read_signed(each.signed)[1]["epoch"] for each in records if isinstance(each, Kept)}


# --- one home, one daemon -----------------------------------------------------------------


def test_a_second_daemon_on_a_home_says_who_holds_it_and_a_killed_one_holds_nothing(node, work):
    subjects = settle(node, 1)
    second = Node(node.home, work / "second.log")
    second.begin()
    assert second.ended() == 1
    assert str(node.process.pid) in second.last_words()
    node.kill()
    assert node.is_free()
    node.start()
    assert subjects_of(node) == subjects


@needs_strace
@pytest.mark.parametrize("nth", [1, 2, 3, 5])
@pytest.mark.parametrize("call", ["fsync", "link"])
def test_keys_whose_making_was_cut_off_are_made_once_and_whole(node, call, nth):
    strike = f"inject={call}:signal=SIGKILL:when={nth}"
    node.begin(
        wrapper=(
            "strace",
            "-D",
            "-f",
            "-qq",
            "-o",
            "/dev/null",
            "-e",
            f"trace={call}",
            "-e",
            strike,
        )
    )
    try:
        node.ready()
        with node.line() as line:
            line.call("agent.create", name="alice")
    except (NotReady, Unknown):
        pass
    if node.process.poll() is None:
        node.kill()
    node.start()
    with node.line() as line:
        line.call("agent.create", name="alice")
        first = line.call("agent.show", name="alice")["fingerprint"]
        key = line.call("system.status")["node"]["key"]
    node.kill()
    node.start()
    with node.line() as line:
        assert line.call("agent.show", name="alice")["fingerprint"] == first
        assert line.call("system.status")["node"]["key"] == key
    kept = sorted(path.name for path in (node.home / "keys").rglob("*") if path.is_file())
    assert len(kept) == 2, kept
