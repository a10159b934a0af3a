"""A link may break after any byte, at either end: nobody waits, nothing is said that is not so."""

import contextlib

import pytest
import trio
from protocol.harness import BOB, LETTER, THEIR_HELLO, Near, Shelf
from trio.testing import memory_stream_pair, wait_all_tasks_blocked

from ampd.model.errors import RemoteProtocolError, Unavailable
from ampd.model.message import Delivery


class BreakingStream(trio.abc.HalfCloseableStream):
    """Passes so many bytes outward; then neither direction passes any, as both ends notice."""

    def __init__(self, stream, passes):
        self._stream, self._left = stream, passes

    async def send_all(self, data):
        passed = bytes(data)[: self._left]
        self._left -= len(passed)
        await self._stream.send_all(passed)
        if len(passed) < len(data):
            await self._stream.aclose()
            raise trio.BrokenResourceError

    async def wait_send_all_might_not_block(self):
        await self._stream.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes=None):
        try:
            return await self._stream.receive_some(max_bytes)
        except trio.ClosedResourceError:
            raise trio.BrokenResourceError from None

    async def send_eof(self):
        await self._stream.send_eof()

    async def aclose(self):
        await self._stream.aclose()


async def run(end, *args, **options):
    """What edge/peer_tcp.py does with an end that breaks before it is a session."""
    with contextlib.suppress(
        RemoteProtocolError, trio.BrokenResourceError, trio.ClosedResourceError
    ):
        await end.run(*args, **options)


# A handshake is 203 bytes from the caller and 194 to it; every word is about 60.
@pytest.mark.parametrize("far_end_breaks", [False, True])
@pytest.mark.parametrize("after", [*range(0, 200, 9), *range(200, 480)])
async def test_an_envelope_is_delivered_or_unavailable(after, far_end_breaks, autojump_clock):
    here, there = memory_stream_pair()
    if far_end_breaks:
        there = BreakingStream(there, after)
    else:
        here = BreakingStream(here, after)
    shelf, near, far = Shelf(), Near(), Near()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run, near, here, Shelf())
        nursery.start_soon(lambda: run(far, there, shelf, BOB, THEIR_HELLO, calling=False))
        await wait_all_tasks_blocked()
        try:
            delivery = await near.deliver(LETTER)
        except Unavailable:
            # It may be kept over there all the same: that is why receivers drop duplicates.
            await wait_all_tasks_blocked()
            assert not nursery.child_tasks, "both ends notice"
        else:
            assert delivery == Delivery("delivered", b"a receipt") and shelf.kept == [LETTER]
        assert trio.current_time() == 0, "nobody waits out a time-out"
        nursery.cancel_scope.cancel()


async def test_what_is_open_is_unavailable_when_the_other_end_dies(autojump_clock):
    here, there = memory_stream_pair()
    shelf, near, far = Shelf(), Near(), Near()
    shelf.may_answer = trio.Event()
    unavailable = []

    async def deliver():
        with pytest.raises(Unavailable):
            await near.deliver(LETTER)
        unavailable.append(trio.current_time())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run, near, here, Shelf())
        nursery.start_soon(lambda: run(far, there, shelf, BOB, THEIR_HELLO, calling=False))
        nursery.start_soon(deliver)
        await wait_all_tasks_blocked()
        await trio.aclose_forcefully(there)
    assert unavailable == [0.0]


async def test_a_link_that_is_silent_is_noticed_within_a_minute(autojump_clock):
    here, there = memory_stream_pair()
    near, far = Near(), Near()
    far_end = trio.CancelScope()

    async def run_far_end():
        with far_end:
            await run(far, _KeptOpen(there), Shelf(), BOB, THEIR_HELLO, calling=False)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run, near, here, Shelf())
        nursery.start_soon(run_far_end)
        await wait_all_tasks_blocked()
        far_end.cancel()  # the machine is gone; no byte says so
        with pytest.raises(Unavailable):
            await near.deliver(LETTER)
    assert near.connection.ended == "the peer is silent"
    assert trio.current_time() <= 60


class _KeptOpen(BreakingStream):
    """A stream whose other end never hears that it was closed."""

    def __init__(self, stream):
        super().__init__(stream, 1 << 30)

    async def aclose(self):
        await trio.lowlevel.checkpoint()
