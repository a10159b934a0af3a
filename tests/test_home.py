"""The epoch of a home: a store that was restored or copied draws a new one (ampd/home.py)."""

import shutil
from contextlib import asynccontextmanager

import pytest
import trio
from storage.mail import ALICE, BOB, deleted, local, opened

from ampd.home import keep_epoch
from ampd.storage.records import Agent


@asynccontextmanager
async def running(folder):
    store = opened(folder, segment_bytes=8192)
    async with trio.open_nursery() as nursery:
        await nursery.start(store.run)
        yield store
        nursery.cancel_scope.cancel()
    store.close()


async def started(folder, *works):
    """The epoch of a start in which these works are done."""
    async with running(folder) as store:
        epoch = await keep_epoch(store, folder)
        for work in works:
            await store.write(work)
    return epoch


def agents(tx):
    for name, key in (("alice", ALICE), ("bob", BOB)):
        tx.append(Agent(key.public, name, 1, b"card"))


def killed(folder):
    """What a kill leaves is not stamped as whole."""
    (folder / "index.stamp").unlink()


def put_back(backup, folder):
    """Into the folders that are there, as tar and rsync do."""
    for path in folder.rglob("*"):
        if path.is_file():
            path.unlink()
    shutil.copytree(backup, folder, dirs_exist_ok=True)


@pytest.fixture
def home(tmp_path):
    folder = tmp_path / "home"
    folder.mkdir()
    return folder


@pytest.mark.parametrize("end", [lambda folder: None, killed])
async def test_a_start_keeps_the_epoch_whatever_was_written_and_rewritten(home, end):
    epoch = await started(home, agents)
    end(home)
    async with running(home) as store:
        assert await keep_epoch(store, home) == epoch
        for _ in range(60):
            await store.write(local("x" * 300))
        for seq in range(5, 40):
            await store.write(deleted(seq))
        assert await store.clean(deleted_within=0) > 0
    end(home)
    assert await started(home) == await started(home) == epoch


async def test_a_new_index_keeps_the_epoch(home):
    epoch = await started(home, agents, local())
    (home / "index.sqlite").unlink()
    assert await started(home) == epoch


@pytest.mark.parametrize("end", [lambda folder: None, killed])
async def test_what_was_put_back_in_its_place_draws_a_new_epoch_once(home, tmp_path, end):
    before = await started(home, agents, local("one"))
    end(home)
    shutil.copytree(home, tmp_path / "backup")
    assert await started(home, local("two")) == before
    put_back(tmp_path / "backup", home)
    after = await started(home)
    assert after != before
    assert await started(home) == after


async def test_a_copy_draws_a_new_epoch(home, tmp_path):
    before = await started(home, agents)
    shutil.copytree(home, tmp_path / "copy")
    assert await started(tmp_path / "copy") != before
    assert await started(home) == before
