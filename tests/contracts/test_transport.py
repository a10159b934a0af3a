"""What every way to another host promises (Carrier of ampd/core/ports.py), one suite for all."""

import pytest
import trio
from contracts.carriers import NODE, fake, over_a_session, over_tcp
from protocol.harness import LETTER, Shelf, letter

from ampd.model.errors import Invalid, Refused, StaleKey, StorageError, Unavailable
from ampd.model.message import Delivery


@pytest.fixture(params=[fake, over_a_session, over_tcp], ids=lambda way: way.__name__)
def way(request):
    return request.param


@pytest.mark.parametrize("status", ["delivered", "relayed"])
async def test_a_delivery_says_how_far_it_got_and_brings_the_receipt(way, status):
    async with way(Shelf(Delivery(status, b"signed"))) as carrier:
        assert await carrier.deliver(NODE, LETTER) == Delivery(status, b"signed")


async def test_what_arrives_is_what_was_sent(way):
    shelf = Shelf()
    async with way(shelf) as carrier:
        for size in (4, 1024, 1 << 20):
            await carrier.deliver(NODE, letter(7, size))
    assert shelf.kept == [letter(7, 4), letter(7, 1024), letter(7, 1 << 20)]


async def test_a_refusal_there_is_a_refusal_here_with_its_code_and_reason(way):
    async with way(Shelf(Refused("no agent named bob", code="recipient_unknown"))) as carrier:
        with pytest.raises(Refused, match="no agent named bob") as refused:
            await carrier.deliver(NODE, LETTER)
    assert refused.value.code == "recipient_unknown"


async def test_an_invalid_envelope_there_is_a_refusal_here(way):
    async with way(Shelf(Invalid("a rule is broken"))) as carrier:
        with pytest.raises(Refused, match="a rule is broken") as refused:
            await carrier.deliver(NODE, LETTER)
    assert refused.value.code == "invalid"


async def test_a_stale_key_brings_the_newer_card(way):
    async with way(Shelf(StaleKey("renewed on Monday", b"the newer card"))) as carrier:
        with pytest.raises(StaleKey) as stale:
            await carrier.deliver(NODE, LETTER)
    assert stale.value.card == b"the newer card"


@pytest.mark.parametrize("code", ["unavailable", "quota_exceeded", "rate_limited", "timeout"])
async def test_not_now_there_is_not_now_here(way, code):
    async with way(Shelf(Unavailable("the disk is full", code=code))) as carrier:
        with pytest.raises(Unavailable, match="the disk is full") as unavailable:
            await carrier.deliver(NODE, LETTER)
    assert unavailable.value.code == code


async def test_a_failing_disk_there_is_not_now_here(way):
    async with way(Shelf(StorageError("input/output error"))) as carrier:
        with pytest.raises(Unavailable):
            await carrier.deliver(NODE, LETTER)


async def test_after_a_refusal_the_next_envelope_passes(way):
    shelf = Shelf(Refused("no"))
    async with way(shelf) as carrier:
        with pytest.raises(Refused):
            await carrier.deliver(NODE, LETTER)
        shelf.answer = Delivery("delivered")
        assert await carrier.deliver(NODE, LETTER) == Delivery("delivered")


async def test_the_same_envelope_may_be_offered_twice(way):
    shelf = Shelf()
    async with way(shelf) as carrier:
        assert await carrier.deliver(NODE, LETTER) == await carrier.deliver(NODE, LETTER)
    assert shelf.kept == [LETTER]


async def test_several_are_under_way_at_once(way):
    shelf = Shelf()
    shelf.may_answer = trio.Event()
    async with way(shelf) as carrier, trio.open_nursery() as nursery:
        for number in range(20):
            nursery.start_soon(carrier.deliver, NODE, letter(number))
        while len(shelf.called) < 20:
            await trio.lowlevel.checkpoint()
        assert not shelf.kept
        shelf.may_answer.set()
    assert len(shelf.kept) == 20


async def test_the_door_is_called_in_the_order_of_the_calls(way):
    shelf = Shelf()
    letters = [letter(number) for number in range(200)]
    async with way(shelf) as carrier, trio.open_nursery() as nursery:
        for each in letters:
            nursery.start_soon(carrier.deliver, NODE, each)
            await trio.lowlevel.checkpoint()
    assert shelf.called == letters


async def test_a_caller_that_gives_up_holds_nobody_up(way):
    shelf = Shelf()
    shelf.may_answer = trio.Event()
    async with way(shelf) as carrier:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(carrier.deliver, NODE, letter(1))
            while not shelf.called:
                await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()
        shelf.may_answer.set()
        assert await carrier.deliver(NODE, letter(2)) == Delivery("delivered", b"a receipt")
