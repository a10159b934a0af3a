"""Nodes for the tests of the core: `node` is ours, `other` is somebody else's."""

import fakes
import pytest


@pytest.fixture
def clock():
    return fakes.Clock()


@pytest.fixture
async def node(tmp_path, clock):
    async with fakes.node(tmp_path, "here", clock=clock) as found:
        yield found


@pytest.fixture
async def other(tmp_path, clock):
    async with fakes.node(tmp_path, "there", clock=clock) as found:
        yield found


@pytest.fixture
async def alice(node):
    return await node.agent("alice")


@pytest.fixture
async def bob(other):
    return await other.agent("bob")
