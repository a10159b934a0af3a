"""Whether mail can be taken, of a real store."""

import errno
import os

import fakes
import pytest
from edge.gateway_harness import gateway

from ampd.edge import readiness
from ampd.edge.readiness import ENOUGH, NOTHING, why_not
from ampd.model.errors import StorageError
from ampd.storage.disk import Disk


class Free:
    """What statvfs says of a disk with so many bytes free."""

    f_frsize = 1

    def __init__(self, free):
        self.f_bavail = free


@pytest.fixture
def disk(monkeypatch):
    """Says how many bytes are free."""

    def has(free):
        monkeypatch.setattr(os, "statvfs", lambda _path: Free(free))

    has(1 << 40)
    return has


async def test_rd1_a_store_that_can_be_read_and_has_room_is_ready(tmp_path, disk):
    async with fakes.node(tmp_path, "here") as node:
        assert why_not(node.store) == ""
        disk(NOTHING)
        assert why_not(node.store) == ""


async def test_rd1_a_disk_without_room_is_not_ready_before_anybody_tried(tmp_path, disk):
    async with fakes.node(tmp_path, "here") as node:
        disk(NOTHING - 1)
        assert "the disk is full" in why_not(node.store)


async def test_rd1_who_refuses_new_mail_is_ready_again_when_there_is_room(
    tmp_path, disk, monkeypatch
):
    def full(*_):
        raise OSError(errno.ENOSPC, "no space left")

    async with fakes.node(tmp_path, "here") as node:
        monkeypatch.setattr(Disk, "write", full)
        with pytest.raises(StorageError):
            await node.agents.create("alice", fakes.Profile())
        disk(ENOUGH - 1)
        assert "the disk is full" in why_not(node.store)
        disk(ENOUGH)
        assert why_not(node.store) == ""


async def test_rd1_a_store_that_cannot_be_read_is_not_ready(tmp_path, disk, monkeypatch):
    def fails(*_):
        raise StorageError("/home/somebody/index.sqlite: gone")

    async with fakes.node(tmp_path, "here") as node:
        monkeypatch.setattr(type(node.store.view), "execute", fails)
        assert why_not(node.store) == "what is stored cannot be read now"


async def test_io1_amp_says_that_its_disk_is_full(tmp_path, monkeypatch):
    async with gateway(tmp_path) as here:
        assert (await here.get("/api/v1/health")).json["status"] == "healthy"
        monkeypatch.setattr(readiness, "NOTHING", 1 << 62)
        health = await here.get("/api/v1/health")
        assert (health.status, health.json["status"]) == (200, "unhealthy")
