"""GR1-GR5: what the gateways remember."""

import sqlite3
import stat
import subprocess
import sys
import threading

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from ampd.model.errors import Invalid, StorageError
from ampd.storage import registry as module
from ampd.storage.registry import MAX_VALUE, Registry

NOW = 1_800_000_000_000
CHANGES = 12


class Clock:
    time = NOW

    def __call__(self):
        return self.time


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "gateway.db"


@pytest.fixture
def registry(path, clock):
    found = Registry(path, clock)
    yield found
    found.close()


def keys(entries):
    return [entry.key for entry in entries]


async def test_what_was_put_is_found_again(registry, clock):
    await registry.put("amp.account", "alice", {"name": "alice", "n": [1, None, {"x": True}]})
    assert registry.get("amp.account", "alice") == {"name": "alice", "n": [1, None, {"x": True}]}
    assert registry.get("amp.account", "bob") is None
    assert registry.get("amtp.agent", "alice") is None
    clock.time += 5
    await registry.put("amp.account", "alice", {"name": "other"}, owner="alice")
    [entry] = registry.find("amp.account")
    assert (entry.value, entry.owner, entry.at) == ({"name": "other"}, "alice", NOW + 5)


async def test_entries_are_found_by_owner_by_prefix_and_by_page_in_their_order(registry):
    for key in ("b/2", "a/1", "b/10", "b/1", "c"):
        await registry.put("k", key, {}, owner="alice" if key.startswith("b") else "")
    await registry.put("other", "b/1", {})
    assert keys(registry.find("k")) == ["a/1", "b/1", "b/10", "b/2", "c"]
    assert keys(registry.find("k", prefix="b/")) == ["b/1", "b/10", "b/2"]
    assert keys(registry.find("k", prefix="b/", after="b/1", limit=1)) == ["b/10"]
    assert keys(registry.find("k", owner="alice", prefix="b/1")) == ["b/1", "b/10"]
    assert keys(registry.find("k", owner="")) == ["a/1", "c"]
    assert registry.count("k") == 5 and registry.count("k", owner="alice") == 3


async def test_what_an_agent_owned_goes_with_it_and_nothing_else(registry):
    await registry.put("amp.account", "a", {}, owner="alice")
    await registry.put("amp.key", "k", {}, owner="alice")
    await registry.put("amp.key", "l", {}, owner="bob")
    await registry.put("amp.key", "m", {})
    assert await registry.delete_owned("alice") == 2
    assert await registry.delete_owned("") == 0
    assert keys(registry.find("amp.key")) == ["l", "m"]
    assert await registry.delete("amp.key", "l") and not await registry.delete("amp.key", "l")


async def test_gr1_a_change_is_synced_and_another_process_sees_it(registry, path):
    await registry.put("k", "key", {"a": 1})
    assert registry._writing.execute("PRAGMA synchronous").fetchone() == (2,)
    assert registry._writing.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    other = sqlite3.connect(path)
    assert other.execute("SELECT value FROM entries").fetchone() == ('{"a":1}',)
    other.close()


async def test_gr1_what_returned_is_there_after_a_kill(path, clock):
    program = (
        "import sys, trio, pathlib\n"
        "from ampd.storage.registry import Registry\n"
        "async def main():\n"
        "    registry = Registry(pathlib.Path(sys.argv[1]), lambda: 1)\n"
        "    for n in range(10000):\n"
        "        await registry.put('k', f'{n:05}', {})\n"
        "        print(n, flush=True)\n"
        "trio.run(main)\n"
    )
    command = [sys.executable, "-c", program, path]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as running:  # noqa: ASYNC220
        said = [running.stdout.readline() for _ in range(CHANGES)]
        running.kill()
        said += running.stdout.readlines()
    found = Registry(path, clock)
    assert found.count("k") >= len([line for line in said if line.endswith("\n")]) >= CHANGES
    found.close()


async def test_gr1_a_batch_that_fails_leaves_nothing(registry):
    def work(batch):
        batch.put("k", "one", {})
        assert batch.get("k", "one") == {}
        raise Invalid("no")

    with pytest.raises(Invalid):
        await registry.change(work)
    with pytest.raises(StorageError):
        await registry.change(lambda batch: (batch.put("k", "two", {}), batch._db.execute("no")))
    assert registry.find("k") == []
    await registry.put("k", "three", {})
    assert keys(registry.find("k")) == ["three"]


async def test_gr2_of_many_that_add_at_once_one_is_first(registry):
    answers = []

    async def add(number):
        answers.append(await registry.add("k", "name", {"by": number}))

    async with trio.open_nursery() as nursery:
        for number in range(CHANGES):
            nursery.start_soon(add, number)
    assert sorted(answers) == [False] * (CHANGES - 1) + [True]


async def test_gr2_what_a_batch_reads_is_what_it_changes(registry):
    await registry.put("k", "count", {"n": 0})

    def one_more(batch):
        batch.put("k", "count", {"n": batch.get("k", "count")["n"] + 1})

    async with trio.open_nursery() as nursery:
        for _ in range(CHANGES):
            nursery.start_soon(registry.change, one_more)
    assert registry.get("k", "count") == {"n": CHANGES}


async def test_gr3_what_has_expired_is_not_there(registry, clock):
    await registry.put("k", "soon", {}, expires=NOW + 10)
    await registry.put("k", "never", {})
    assert registry.count("k") == 2
    clock.time += 10
    assert registry.get("k", "soon") is None
    assert keys(registry.find("k")) == ["never"] and registry.count("k") == 1
    assert not await registry.delete("k", "soon")
    await registry.put("k", "soon", {}, expires=NOW + 5)
    assert await registry.add("k", "soon", {"new": True})
    assert registry.get("k", "soon") == {"new": True}


async def test_gr3_sweeping_removes_what_has_expired(registry, clock, monkeypatch):
    monkeypatch.setattr(module, "_SWEEP", 3)
    for number in range(8):
        await registry.put("k", str(number), {}, expires=NOW + number + 1)
    await registry.put("k", "never", {})
    clock.time += 7
    assert await registry.sweep() == 7
    assert registry._writing.execute("SELECT count(*) FROM entries").fetchone() == (2,)


async def test_gr4_the_files_are_their_owners_alone(path, clock):
    path.touch(0o644)
    registry = Registry(path, clock)
    await registry.put("k", "key", {})
    modes = {stat.S_IMODE(each.stat().st_mode) for each in path.parent.iterdir()}
    assert modes == {0o600}
    registry.close()


def test_gr4_no_link_is_followed(path, clock):
    path.symlink_to(path.parent / "elsewhere")
    with pytest.raises(StorageError):
        Registry(path, clock)
    assert not (path.parent / "elsewhere").exists()


async def _filled(path, clock):
    registry = Registry(path, clock)
    for number in range(300):
        await registry.put("k", str(number), {"text": "x" * 200})
    registry.close()


@pytest.mark.parametrize("offset", [0, 4096 + 100, 3 * 4096])
async def test_gr5_a_damaged_file_is_named_and_stays_as_it_is(path, clock, offset):
    await _filled(path, clock)
    data = bytearray(path.read_bytes())
    data[offset : offset + 2000] = b"\xa5" * 2000
    path.write_bytes(data)
    with pytest.raises(StorageError, match=r"gateway\.db is damaged") as caught:
        Registry(path, clock)
    assert "move it away" in caught.value.hint
    assert path.read_bytes() == data


async def test_gr5_a_file_of_a_newer_version_is_left_alone(path, clock):
    await _filled(path, clock)
    db = sqlite3.connect(path)
    db.execute("PRAGMA user_version=99")
    db.close()
    with pytest.raises(StorageError, match="newer ampd"):
        Registry(path, clock)


def test_a_folder_that_cannot_be_written_to_is_named(tmp_path, clock):
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="file"):
        Registry(tmp_path / "file" / "gateway.db", clock)


async def test_what_cannot_be_kept_is_refused_and_never_found(registry):
    for key in ("", "\ud800", "a\U0010ffff"):
        with pytest.raises(Invalid):
            await registry.put("k", key, {})
    with pytest.raises(Invalid, match="over"):
        await registry.put("k", "key", {"text": "x" * MAX_VALUE})
    assert registry.get("k", "\ud800") is None and registry.find("k", prefix="\ud800") == []
    assert not await registry.delete("k", "\ud800")


@given(st.dictionaries(st.text(min_size=1, max_size=6), st.text(max_size=6), max_size=8))
def test_any_text_is_a_value_and_keys_come_in_the_order_of_their_characters(texts):
    db = sqlite3.connect(":memory:", isolation_level=None)
    for statement in module._SCHEMA:
        db.execute(statement)
    batch = module.Batch(db, NOW)
    kept = {}
    for key, text in texts.items():
        if module._can_be_kept(key):
            batch.put("k", key, {"text": text})
            kept[key] = text
    assert [(e.key, e.value["text"]) for e in batch.find("k")] == sorted(kept.items())
    for key in kept:
        wanted = sorted(each for each in kept if each.startswith(key))
        assert keys(batch.find("k", prefix=key)) == wanted
    db.close()


async def test_gr6_what_was_read_is_forgotten_when_anything_changes(registry, clock):
    assert registry.get("k", "a") is None
    await registry.put("k", "a", {"n": 1})
    assert registry.get("k", "a") == {"n": 1} == registry.get("k", "a")
    await registry.put("k", "a", {"n": 2}, expires=clock() + 10)
    assert registry.get("k", "a") == {"n": 2}
    await registry.change(lambda batch: batch.delete("k", "a"))
    assert registry.get("k", "a") is None


async def test_gr6_what_is_remembered_expires_as_everything_does(registry, clock):
    await registry.put("k", "a", {"n": 1}, expires=clock() + 10)
    assert registry.get("k", "a") == {"n": 1}
    clock.time += 10
    assert registry.get("k", "a") is None


async def test_gr6_what_a_reader_does_with_a_value_stays_with_it(registry):
    await registry.put("k", "a", {"n": [1]})
    registry.get("k", "a")["n"].append(2)
    assert registry.get("k", "a") == {"n": [1]}


async def test_gr6_a_shared_value_is_one_object_until_anything_changes(registry, clock):
    assert registry.shared("k", "a") is None
    await registry.put("k", "a", {"n": 1}, expires=clock() + 10)
    first = registry.shared("k", "a")
    assert first == {"n": 1} and registry.shared("k", "a") is first
    assert registry.get("k", "a") is not first
    await registry.put("k", "b", {})
    assert registry.shared("k", "a") is not first and registry.shared("k", "a") == first
    await registry.put("k", "a", {"n": 2}, expires=clock() + 10)
    assert registry.shared("k", "a") == {"n": 2}
    clock.time += 10
    assert registry.shared("k", "a") is None


async def test_gr6_memory_is_bounded(registry, monkeypatch):
    monkeypatch.setattr("ampd.storage.registry._REMEMBERED", 100)
    await registry.put("k", "large", {"n": "x" * 200})
    for number in range(1000):
        registry.get("k", f"{number}")
        registry.get("k", "large")
        registry.shared("k", "large")
    assert len(registry._remembered) <= 100 and not registry._shared
    assert ("k", "large") not in registry._remembered


async def test_gr1_a_change_under_way_is_finished_before_the_file_is_closed(path, clock):
    found = Registry(path, clock)
    began, may_end = threading.Event(), threading.Event()

    def work(batch):
        began.set()
        assert may_end.wait(10)
        batch.put("k", "a", {"n": 1})

    async with trio.open_nursery() as nursery:
        nursery.start_soon(found.change, work)
        await trio.to_thread.run_sync(began.wait)
        nursery.start_soon(trio.to_thread.run_sync, found.close)
        may_end.set()
    with pytest.raises(StorageError, match="closed"):
        await found.put("k", "b", {})
    again = Registry(path, clock)
    assert again.get("k", "a") == {"n": 1}
    again.close()
