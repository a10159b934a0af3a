"""Whose turn it is to write: storage/turns.py."""

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from ampd.model.errors import StorageError
from ampd.storage.turns import Turns


class Works:
    """Works of agents that are at the store until they are let go."""

    def __init__(self, nursery, turns):
        self._nursery, self._turns = nursery, turns
        self.there, self.refused = [], []
        self._let_go = {}
        self._scopes = {}

    async def begin(self, name, agent, size=1):
        self._let_go[name], self._scopes[name] = trio.Event(), trio.CancelScope()
        self._nursery.start_soon(self._run, name, agent, size)
        await wait_all_tasks_blocked()

    async def _run(self, name, agent, size):
        try:
            with self._scopes[name]:
                async with self._turns.of(agent, size):
                    self.there.append(name)
                    await self._let_go[name].wait()
                    self.there.remove(name)
        except StorageError:
            self.refused.append(name)

    async def let_go(self, name):
        self._let_go[name].set()
        await wait_all_tasks_blocked()

    async def cancel(self, name):
        self._scopes[name].cancel()
        await wait_all_tasks_blocked()


@pytest.fixture
def turns():
    return Turns(most=10)


@pytest.fixture
async def works(turns):
    async with trio.open_nursery() as nursery:
        yield Works(nursery, turns)
        nursery.cancel_scope.cancel()


async def test_tu1_one_agent_has_so_much_at_the_store_and_no_more(works):
    for name in "abc":
        await works.begin(name, "alice", 5)
    assert works.there == ["a", "b"]
    await works.let_go("a")
    assert works.there == ["b", "c"]


async def test_tu1_a_work_that_is_larger_than_that_is_there_alone(works):
    await works.begin("small", "alice")
    await works.begin("large", "alice", 1000)
    await works.begin("behind", "alice")
    assert works.there == ["small"]
    await works.let_go("small")
    assert works.there == ["large"]
    await works.let_go("large")
    assert works.there == ["behind"]


async def test_tu2_turns_come_in_the_order_in_which_they_were_asked_for(works):
    await works.begin("first", "alice", 10)
    for name in "abcd":
        await works.begin(name, "alice", 10)
    order = []
    for name in ["first", *"abcd"]:
        order += works.there
        await works.let_go(name)
    assert order == ["first", *"abcd"]


async def test_tu2_one_that_would_fit_does_not_overtake(works):
    await works.begin("there", "alice", 6)
    await works.begin("large", "alice", 6)
    await works.begin("small", "alice", 1)
    assert works.there == ["there"]


async def test_tu2_one_agent_waits_for_no_turn_of_anothers(works):
    for number in range(20):
        await works.begin(f"alice {number}", "alice", 10)
    await works.begin("bob", "bob", 10)
    assert works.there == ["alice 0", "bob"]


async def test_tu3_one_that_waits_can_be_cancelled_and_the_next_has_its_turn(works):
    await works.begin("there", "alice", 6)
    await works.begin("large", "alice", 6)
    await works.begin("small", "alice", 1)
    await works.cancel("large")
    assert works.there == ["there", "small"]
    await works.let_go("there")
    await works.begin("next", "alice", 9)
    assert works.there == ["small", "next"]


async def test_tu3_when_the_store_ends_whoever_waits_and_whoever_comes_is_refused(works, turns):
    await works.begin("there", "alice", 10)
    await works.begin("waits", "alice", 10)
    turns.end()
    await wait_all_tasks_blocked()
    await works.begin("late", "bob")
    assert (works.there, works.refused) == (["there"], ["waits", "late"])
    await works.let_go("there")
    assert works.there == []


async def test_nothing_is_remembered_of_whoever_has_nothing_there(works, turns):
    for name in "ab":
        await works.begin(name, "alice", 10)
    await works.cancel("b")
    await works.let_go("a")
    assert turns._there == {} and turns._waiting == {}
