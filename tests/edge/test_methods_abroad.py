"""Sending to whom only another protocol reaches, asked through the socket."""

import random

import fakes
import pytest
import trio
from edge.local_node import place

from ampd.core.abroad import Abroad
from ampd.core.foreign import Foreign
from ampd.core.letters import Letters


class Courier:
    """Reaches everybody at one domain."""

    def __init__(self, domain):
        self.domain = domain
        self.asked = []

    async def find(self, address):
        self.asked.append(str(address))
        await trio.lowlevel.checkpoint()
        return "amtp" if address.domain == self.domain else ""


def with_courier(node):
    rooms = (node.store, node.agents, node.contacts)
    clock = node.agents._now
    foreign = Foreign(*rooms, b"s" * 32, clock, fakes.LIMIT)
    letters = Letters(node.store, clock)
    node.abroad = Abroad(*rooms, foreign, letters, clock, random.Random(1))
    node.courier = Courier("acme.example")
    node.abroad.use(node.courier, ("amtp",))


@pytest.fixture
async def here(tmp_path):
    async with place(tmp_path, with_courier) as found:
        await found.node.agent("alice")
        yield found


async def test_who_is_reached_by_another_protocol_is_written_to_like_anybody(here):
    async with here.client() as client:
        sent = await client.get("message.send", to=["bob@acme.example"], text="hello")
        assert [to["status"] for to in sent["recipients"]] == ["queued"]
        [contact] = (await client.get("contact.list"))["contacts"]
        assert (contact["address"], contact["source"]) == ("bob@acme.example", "amtp")
        await client.get("message.send", to=["bob@acme.example"], text="again")
    assert here.node.courier.asked == ["bob@acme.example"]


async def test_who_is_reached_by_nobody_is_still_unknown(here):
    async with here.client() as client:
        to = ["bob@acme.example", "eve@nowhere.example"]
        assert await client.code("message.send", to=to) == "recipient_unknown"
    assert here.node.outbox() == []
