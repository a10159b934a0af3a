"""Parts of the gateway that nobody asks: what fails begins again."""

import trio
from edge.gateway_harness import gateway

from ampd.core.ports import Parcel
from ampd.edge.bugs import BugError
from ampd.edge.gateway import Gateway
from ampd.edge.lasting import lasting
from ampd.model.address import Address
from ampd.model.errors import StorageError


async def test_la1_a_part_that_fails_begins_again_and_ends_no_other(autojump_clock, caplog):
    tries = []

    async def room():
        tries.append(trio.current_time())
        if len(tries) == 1:
            raise StorageError("the disk is full")
        if len(tries) == 2:
            raise ZeroDivisionError
        await trio.sleep_forever()

    with trio.move_on_after(100):
        await lasting("a room", room)

    assert tries == [0, 30, 60]
    assert "the disk is full" in str([each.__dict__ for each in caplog.records])


async def test_la1_neither_protocol_ends_with_one_of_its_parts(tmp_path, autojump_clock):
    async with gateway(tmp_path) as here:
        gateway_ = Gateway(here.shared)
        swept = []

        async def sweep():
            swept.append(trio.current_time())
            raise StorageError("the disk is full")

        async def push():
            raise ZeroDivisionError

        gateway_.amp.transport.attachments.sweep = sweep
        gateway_.amtp._push.run = push
        with trio.move_on_after(100):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(gateway_.amp.run)
                nursery.start_soon(gateway_.amtp.run)
        assert len(swept) == 4


async def test_a_bug_on_the_way_out_is_an_error_that_is_tried_again(tmp_path):
    async with gateway(tmp_path) as here:
        gateway_ = Gateway(here.shared)

        async def carry(parcel: Parcel):
            raise KeyError(parcel)

        gateway_.amp.carry = gateway_.amp.find = carry
        bugs = 0
        for ask in (
            lambda: gateway_.carry("amp", None),
            lambda: gateway_.find(Address("a", "b.c")),
        ):
            try:
                await ask()
            except BugError:
                bugs += 1
        assert bugs == 2
