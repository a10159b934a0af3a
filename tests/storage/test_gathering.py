"""Works on their way to the writing thread (storage/gathering.py)."""

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from ampd.storage import gathering
from ampd.storage.gathering import WITHIN, Gathering


@pytest.fixture
async def gathered():
    """A gathering in this loop, and what it has handed over: a list for each time."""
    handed = []

    class Noted(Gathering):
        def hand_over(self):
            handed.append([])
            super().hand_over()

    def put(work):
        handed[-1].append(work)

    found = Noted(put)
    trio.lowlevel.add_instrument(found)
    yield found, handed
    trio.lowlevel.remove_instrument(found)


async def test_ga2_works_of_tasks_that_run_together_are_handed_over_together(gathered):
    works, handed = gathered

    async def ask(number):
        for part in "ab":
            works.add(f"{number}{part}")
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        for number in range(3):
            nursery.start_soon(ask, number)
    assert handed == [], "there was always a task that could run"
    await wait_all_tasks_blocked()
    assert [sorted(each) for each in handed] == [["0a", "0b", "1a", "1b", "2a", "2b"]]


async def test_ga1_they_are_handed_over_in_the_order_in_which_they_were_added(gathered):
    works, handed = gathered
    for number in range(50):
        works.add(number)
    await wait_all_tasks_blocked()
    assert handed == [list(range(50))]


async def test_ga2_a_busy_loop_does_not_hold_them_back_for_long(gathered, monkeypatch):
    works, handed = gathered
    now = [0.0]
    monkeypatch.setattr(gathering, "monotonic", lambda: now[0])
    works.add("first")
    for step in range(10):
        now[0] = step * WITHIN / 4
        await trio.lowlevel.checkpoint()
        assert bool(handed) == (now[0] >= WITHIN)
        if step == 2:
            works.add("second")
    assert handed == [["first", "second"]]


async def test_ga2_a_clock_that_jumps_finds_them_handed_over(gathered, autojump_clock):
    works, handed = gathered
    works.add("first")
    await trio.sleep(1)
    assert handed == [["first"]]


async def test_what_waits_is_handed_over_at_once_if_asked(gathered):
    works, handed = gathered
    works.add("first")
    works.hand_over()
    assert handed == [["first"]]
    await wait_all_tasks_blocked()
    assert handed == [["first"]]
