"""A gateway with AMP's provider, `here`, and two of its clients."""

import pytest
from edge.amp.amp_client import provider


@pytest.fixture
async def here(tmp_path):
    async with provider(tmp_path, limits={"register": 0}) as found:
        yield found


@pytest.fixture
async def alice(here):
    return await here.client("alice")


@pytest.fixture
async def bob(here):
    return await here.client("bob")
