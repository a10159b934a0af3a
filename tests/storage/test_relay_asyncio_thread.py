"""What the bridge from trio to asyncio promises: AT1-AT3."""

import asyncio

import pytest
import trio

from ampd.model.errors import Refused, Unavailable
from ampd.storage.relay_store.asyncio_thread import AsyncioThread


@pytest.fixture
async def thread():
    thread = AsyncioThread()
    thread.start()
    yield thread
    await thread.stop()


async def test_at1_a_result_and_an_error_come_back(thread):
    async def add(left, right):
        await asyncio.sleep(0)
        return left + right

    async def refuse():
        raise Refused("no")

    assert await thread.call(add, 1, 2) == 3
    with pytest.raises(Refused, match="no"):
        await thread.call(refuse)


async def test_at1_calls_do_not_wait_for_each_other(thread):
    met = asyncio.Event()

    async def wait():
        await met.wait()
        return "woken"

    async def wake():
        met.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(thread.call, wait)
        await thread.call(wake)


async def test_at2_a_cancelled_call_ends_its_coroutine(thread):
    ended, begun = [], trio.Event()
    token = trio.lowlevel.current_trio_token()

    async def endless():
        token.run_sync_soon(begun.set)
        try:
            await asyncio.sleep(1000)
        finally:
            ended.append(True)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(thread.call, endless)
        await begun.wait()
        nursery.cancel_scope.cancel()
    assert ended == [True]


async def test_at4_a_call_begins_after_what_was_handed_over_before_it(thread):
    begun = []

    async def see():
        return list(begun)

    for number in range(20):
        for part in range(3):
            thread.soon(lambda each=3 * number + part: begun.append(each))
        assert await thread.call(see) == list(range(3 * number + 3))


async def test_at3_what_runs_may_finish(thread):
    answers, begun = [], trio.Event()
    token = trio.lowlevel.current_trio_token()

    async def slow():
        token.run_sync_soon(begun.set)
        await asyncio.sleep(0.05)
        return "finished"

    async def call():
        answers.append(await thread.call(slow))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(call)
        await begun.wait()
        await thread.finish(10)
        await thread.finish(10)
        await thread.stop()
    assert answers == ["finished"]


async def test_at3_the_end_cancels_what_runs_and_takes_nothing_more():
    thread, begun, outcomes = AsyncioThread(), trio.Event(), []
    token = trio.lowlevel.current_trio_token()
    thread.start()

    async def endless():
        token.run_sync_soon(begun.set)
        await asyncio.sleep(1000)

    async def call():
        try:
            await thread.call(endless)
        except Unavailable as exc:
            outcomes.append(str(exc))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(call)
        await begun.wait()
        await thread.stop()
    assert outcomes == ["the relay's store is closing"]
    with pytest.raises(Unavailable):
        await thread.call(endless)
    thread.soon(lambda: outcomes.append("never"))
    await thread.stop()
    assert len(outcomes) == 1
