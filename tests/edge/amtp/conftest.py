"""A gateway with AMTP's agents, `us`, and the keys of two of them."""

import pytest
from edge.amtp.team import team


@pytest.fixture
async def us(tmp_path):
    async with team(tmp_path) as found:
        yield found


@pytest.fixture
async def alice(us):
    return await us.register("alice")


@pytest.fixture
async def bob(us):
    return await us.register("bob")
