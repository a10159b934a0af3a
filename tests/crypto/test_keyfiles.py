"""F1-F4: a key file has its mode from the start, is never half there, and is ours alone."""

import os
import re
import shutil
import stat
import subprocess
import sys
import textwrap
from dataclasses import replace

import pytest

from ampd.crypto.keyfiles import (
    MAX_INBOX_KEYS,
    InboxKey,
    destroy,
    load_agent_keys,
    make_folder,
    new_agent_keys,
    node_key,
    remove_leftovers,
    save_agent_keys,
)
from ampd.crypto.keys import OpeningKey, SigningKey, seal
from ampd.model.encoding import decode, encode
from ampd.model.errors import StorageError

SEED = bytes(range(32))
MAKE = (
    "import os, sys; from dataclasses import replace; from pathlib import Path; "
    "from ampd.crypto.keyfiles import *; P = Path(sys.argv[1]); "
)
PYTHON = [sys.executable, "-c"]
needs_strace = pytest.mark.skipif(not shutil.which("strace"), reason="strace is not installed")


@pytest.fixture
def folder(tmp_path):
    """A folder for keys that is there already, as the daemon's is."""
    make_folder(tmp_path / "home")
    return tmp_path / "home"


def mode(path):
    return stat.S_IMODE(path.lstat().st_mode)


def traced(tmp_path, script, path, *options):
    """How `script` ended, and those of its system calls that touch the test's folder."""
    log = tmp_path / "trace"
    done = subprocess.run(
        ["strace", "-f", "-qq", "-y", "-o", log, *options, *PYTHON, MAKE + script, path],
        check=False,
        capture_output=True,
        text=True,
    )
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    lines = [re.sub("AT_FDCWD<[^>]*>", "AT_FDCWD", line) for line in lines]
    return done, [line for line in lines if str(tmp_path) in line]


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_f1_modes_are_right_under_every_umask(tmp_path, umask):
    path = tmp_path / "home" / "agents" / "alice.key"
    before = os.umask(umask)
    try:
        save_agent_keys(path, new_agent_keys(1), replace=False)
    finally:
        os.umask(before)
    assert mode(path) == 0o600
    assert [mode(path.parent), mode(path.parent.parent)] == [0o700, 0o700]


@needs_strace
def test_f1_the_first_system_call_has_the_final_mode(tmp_path):
    path = tmp_path / "home" / "agents" / "node.key"
    calls_that_make = "open,openat,mkdir,mkdirat,chmod,fchmod,fchmodat,rename,renameat,linkat"
    done, calls = traced(
        tmp_path, "os.umask(0); node_key(P)", path, "-e", f"trace={calls_that_make}"
    )
    assert done.returncode == 0, done.stderr
    created = [call for call in calls if "O_CREAT" in call]
    assert len(created) == 1
    assert "O_EXCL|O_NOFOLLOW" in created[0]
    assert re.search(r", 0600\) = ", created[0])
    assert {re.search(r", (\d+)\)", call)[1] for call in calls if "mkdir" in call} == {"0700"}
    assert not [call for call in calls if "chmod" in call]
    assert len([call for call in calls if "linkat(" in call or "rename" in call]) == 1


def test_f1_a_folder_that_others_may_enter_is_closed(tmp_path):
    (tmp_path / "keys").mkdir(mode=0o755)
    make_folder(tmp_path / "keys")
    assert mode(tmp_path / "keys") == 0o700


@needs_strace
def test_f2_the_contents_are_synced_before_the_name_and_the_folders_after(tmp_path):
    options = ("-e", "trace=write,fsync,linkat,mkdir")
    done, calls = traced(tmp_path, "node_key(P)", tmp_path / "home" / "node.key", *options)
    assert done.returncode == 0, done.stderr
    steps = [re.search(r"(\w+)\(.*?([\w.]+?)(\.[0-9a-f]{16})?[>\"]", call) for call in calls]
    assert [(step[1], step[2]) for step in steps] == [
        ("mkdir", "home"),
        ("fsync", tmp_path.name),
        ("write", ".node.key"),
        ("fsync", ".node.key"),
        ("linkat", ".node.key"),
        ("fsync", "home"),
        ("fsync", "home"),
    ]


MAKING = [("write", 1), ("fsync", 1), ("linkat", 1), ("unlink", 1), ("fsync", 2), ("fsync", 3)]
REPLACING = [("write", 1), ("fsync", 1), ("rename", 1), ("unlink", 1), ("fsync", 2)]


@needs_strace
@pytest.mark.parametrize(("call", "number"), MAKING)
def test_f2_a_crash_while_a_node_key_is_made_leaves_a_whole_file_or_none(folder, call, number):
    path = folder / "node.key"
    killed_at(call, number, "node_key(P)", path)
    left = path.read_bytes() if path.exists() else None
    assert (left is None) == ((call, number) in MAKING[:3])
    key = node_key(path)
    assert left in (None, encode({"v": 1, "kind": "node", "seed": key.seed}))
    remove_leftovers(folder)
    assert files(folder) == ["node.key"]
    assert node_key(path).seed == key.seed


@needs_strace
@pytest.mark.parametrize(("call", "number"), REPLACING)
def test_f2_a_crash_while_keys_are_replaced_leaves_the_old_or_the_new(folder, call, number):
    path = folder / "alice.key"
    old = new_agent_keys(1)
    save_agent_keys(path, old, replace=False)
    script = "save_agent_keys(P, replace(load_agent_keys(P), inbox=()), replace=True)"
    killed_at(call, number, script, path)
    after = load_agent_keys(path)
    assert len(after.inbox) == (1 if (call, number) in REPLACING[:3] else 0)
    assert after.signing.seed == old.signing.seed
    remove_leftovers(folder)
    assert files(folder) == ["alice.key"]


def killed_at(call, number, script, path):
    """Run `script` and kill it as it enters the n-th `call`; before, Python makes none of them."""
    done = subprocess.run(
        ["strace", "-f", "-qq", "-o", os.devnull, "-e", f"trace={call}",
         "-e", f"inject={call}:signal=SIGKILL:when={number}", *PYTHON, MAKE + script, path],
        check=False, capture_output=True, env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"},
    )  # fmt: skip
    assert done.returncode == -9, done.stderr


def files(folder):
    return sorted(path.name for path in folder.iterdir())


def test_f2_leftovers_are_removed_and_keys_are_not(folder):
    key = node_key(folder / "node.key")
    (folder / ".node.key.0123456789abcdef").write_bytes(b"half")
    (folder / ".alice.key.0123456789abcdef").write_bytes(b"")
    remove_leftovers(folder)
    assert files(folder) == ["node.key"]
    assert node_key(folder / "node.key").seed == key.seed


def test_f2_a_full_disk_is_an_error_that_names_the_file_and_leaves_nothing(folder, monkeypatch):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match=r"node\.key: No space left"):
        node_key(folder / "node.key")
    assert files(folder) == []


def test_f3_a_node_key_is_made_once(folder):
    assert node_key(folder / "node.key").seed == node_key(folder / "node.key").seed


def test_f3_two_programs_that_make_it_at_once_use_the_same_key(folder):
    script = (
        MAKE
        + textwrap.dedent("""
        sys.stdout.write("ready\\n"); sys.stdout.flush(); sys.stdin.readline()
        print(node_key(P).public.hex())
    """).strip()
    )
    programs = [
        subprocess.Popen(
            [*PYTHON, script, folder / "node.key"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(4)
    ]
    for program in programs:
        assert program.stdout.readline() == "ready\n"
    for program in programs:
        program.stdin.write("go\n")
        program.stdin.flush()
    keys = {program.communicate()[0].strip() for program in programs}
    assert keys == {node_key(folder / "node.key").public.hex()}
    assert files(folder) == ["node.key"]


def test_f3_who_comes_second_takes_the_key_of_the_first(folder, monkeypatch):
    """The race itself: the file appears between the look and the link."""
    first = node_key(folder / "node.key")
    monkeypatch.setattr(os.path, "lexists", lambda path: False)
    assert node_key(folder / "node.key").seed == first.seed


def test_f3_the_keys_of_an_agent_are_not_overwritten_unless_it_is_said(folder):
    first, second = new_agent_keys(1), new_agent_keys(2)
    for keys, replaced in ((first, False), (second, False)):
        save_agent_keys(folder / "alice.key", keys, replace=replaced)
    assert load_agent_keys(folder / "alice.key").mailbox == first.mailbox
    save_agent_keys(folder / "alice.key", second, replace=True)
    assert load_agent_keys(folder / "alice.key").mailbox == second.mailbox


@pytest.mark.parametrize("target", ["there", "gone"])
def test_f4_a_planted_symlink_is_not_followed(folder, tmp_path, target):
    elsewhere = tmp_path / "elsewhere"
    if target == "there":
        elsewhere.write_bytes(encode({"v": 1, "kind": "node", "seed": SEED}))
        elsewhere.chmod(0o600)
    (folder / "node.key").symlink_to(elsewhere)
    with pytest.raises(StorageError):
        node_key(folder / "node.key")
    assert elsewhere.exists() == (target == "there")
    save_agent_keys(folder / "node.key", new_agent_keys(1), replace=True)
    assert not (folder / "node.key").is_symlink()


def test_f4_a_folder_that_is_a_symlink_is_refused_and_keeps_its_mode(tmp_path):
    (tmp_path / "public").mkdir(mode=0o755)
    (tmp_path / "keys").symlink_to(tmp_path / "public")
    with pytest.raises(StorageError):
        node_key(tmp_path / "keys" / "node.key")
    assert mode(tmp_path / "public") == 0o755
    assert files(tmp_path / "public") == []


@pytest.mark.parametrize("bits", [0o604, 0o640, 0o644, 0o660, 0o666, 0o620, 0o601])
def test_f4_a_file_that_others_may_use_is_refused_with_the_command_that_mends_it(folder, bits):
    node_key(folder / "node.key")
    (folder / "node.key").chmod(bits)
    with pytest.raises(StorageError) as caught:
        node_key(folder / "node.key")
    assert caught.value.hint == f"chmod 600 {folder / 'node.key'}"


@pytest.mark.parametrize("plant", [os.mkfifo, os.mkdir], ids=["fifo", "folder"])
def test_f4_what_is_no_plain_file_is_refused_and_not_waited_for(folder, plant):
    plant(folder / "node.key", 0o600)
    with pytest.raises(StorageError):
        node_key(folder / "node.key")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_f4_a_file_or_a_folder_of_another_user_is_refused(folder):
    node_key(folder / "node.key")
    os.chown(folder / "node.key", 65534, 65534)
    with pytest.raises(StorageError):
        node_key(folder / "node.key")
    os.chown(folder, 65534, 65534)
    with pytest.raises(StorageError):
        make_folder(folder)


def test_a_folder_that_cannot_be_made_is_an_error_that_names_it(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    for path in (tmp_path / "file", tmp_path / "file" / "keys"):
        with pytest.raises(StorageError, match="file"):
            make_folder(path)


NODE = {"v": 1, "kind": "node", "seed": SEED}
AGENT = {"v": 1, "kind": "agent", "seed": SEED, "fallback": SEED, "inbox": []}


@pytest.mark.parametrize(
    "contents",
    [
        b"", b"\0", encode(None), encode(NODE)[:-1], encode(NODE) + b"\0", encode(AGENT),
        encode(NODE | {"v": 2}), encode(NODE | {"seed": bytes(31)}), encode(NODE | {"more": 1}),
        bytes(100_000),
    ],
    ids=lambda contents: contents.hex()[:30],
)  # fmt: skip
def test_a_damaged_node_key_is_an_error_and_never_replaced(folder, contents):
    path = folder / "node.key"
    path.write_bytes(contents)
    path.chmod(0o600)
    with pytest.raises(StorageError) as caught:
        node_key(path)
    assert str(path) in str(caught.value)
    assert path.read_bytes() == contents


@pytest.mark.parametrize(
    "changed",
    [
        {"kind": "node"}, {"seed": b""}, {"fallback": None}, {"inbox": {}},
        {"inbox": [[SEED, True]]}, {"inbox": [[SEED[1:], 1]]}, {"inbox": [[SEED, 1, 1]]},
        {"inbox": [[SEED, 1]] * (MAX_INBOX_KEYS + 1)},
    ],
    ids=repr,
)  # fmt: skip
def test_damaged_keys_of_an_agent_are_an_error(folder, changed):
    path = folder / "alice.key"
    path.write_bytes(encode(AGENT | changed))
    path.chmod(0o600)
    with pytest.raises(StorageError):
        load_agent_keys(path)


def test_the_keys_of_an_agent_come_back_and_open_what_was_sealed_to_any_of_them(folder):
    keys = replace(
        new_agent_keys(1), inbox=tuple(InboxKey(OpeningKey.generate(), until) for until in range(3))
    )
    save_agent_keys(folder / "alice.key", keys, replace=False)
    again = load_agent_keys(folder / "alice.key")
    assert [inbox.until for inbox in again.inbox] == [0, 1, 2]
    assert again.signing.public == keys.signing.public
    for public in [*(inbox.key.public for inbox in keys.inbox), keys.fallback.public]:
        assert again.open(seal(public, b"letter")) == b"letter"
    assert again.open(seal(OpeningKey.generate().public, b"letter")) is None


def test_the_file_of_a_node_is_the_map_that_the_docstring_names(folder):
    key = node_key(folder / "node.key")
    assert decode((folder / "node.key").read_bytes()) == NODE | {"seed": key.seed}
    assert key.public == SigningKey(key.seed).public


def test_a_destroyed_file_is_gone_and_may_be_gone_already(folder):
    node_key(folder / "node.key")
    destroy(folder / "node.key")
    destroy(folder / "node.key")
    assert files(folder) == []
