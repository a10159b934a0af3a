"""Letters under way to one place: the rules of core/offering.py."""

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from ampd.core.letters import Attempts, Waiting
from ampd.core.offering import AT_ONCE, BYTES_AT_ONCE, Flow
from ampd.model.errors import StorageError, Unavailable


def letter(item, *, key=b"bob", size=1000):
    return Waiting(item, "message", b"", 0, b"", "bob@there.local", key, b"", 0, size)


class Place:
    """Where letters are offered: each is taken when the test says so."""

    def __init__(self, letters):
        self.queue = list(letters)
        self.offered, self.taken = [], []
        self._answers = {}
        self.flow = Flow(Attempts(), self.waiting)
        self.unreadable = None

    def waiting(self, full):
        if self.unreadable:
            raise self.unreadable
        return [each for each in self.queue if each.key not in full][:AT_ONCE]

    async def offer(self, item):
        self.offered.append(item.item)
        answered, self._answers[item.item] = trio.Event(), None
        self._answers[item.item] = answered
        await answered.wait()
        if item.item in self.taken:
            self.queue.remove(item)

    async def take(self, *items):
        self.taken += items
        await self.answer(*items)

    async def answer(self, *items):
        for item in items:
            self._answers.pop(item).set()
        await wait_all_tasks_blocked()

    @property
    def under_way(self):
        return sorted(self._answers)

    async def run(self):
        self.said = await self.flow.run(self.offer)


@pytest.fixture
async def place_of(nursery):
    async def make(letters):
        place = Place(letters)
        nursery.start_soon(place.run)
        await wait_all_tasks_blocked()
        return place

    return make


async def test_w1_letters_go_out_in_their_order_as_many_as_a_session_has_room_for(place_of):
    place = await place_of(letter(n) for n in range(2 * AT_ONCE))
    assert place.offered == list(range(AT_ONCE))
    await place.take(*range(1, AT_ONCE))  # the first is late, and holds up none
    assert place.offered == list(range(2 * AT_ONCE - 1))
    await place.take(*place.under_way)
    await place.take(*place.under_way)
    assert place.offered == list(range(2 * AT_ONCE))
    assert place.queue == []
    assert place.said


async def test_w1_no_more_bytes_are_under_way_than_a_session_takes(place_of):
    place = await place_of(letter(n, size=BYTES_AT_ONCE // 4) for n in range(8))
    assert place.under_way == [0, 1, 2, 3]
    await place.take(1)
    assert place.under_way == [0, 2, 3, 4]


async def test_w1_a_letter_larger_than_that_goes_alone(place_of):
    sizes = [1, BYTES_AT_ONCE + 1, 1]
    place = await place_of(letter(n, size=size) for n, size in enumerate(sizes))
    assert place.under_way == [0]
    await place.take(0)
    assert place.under_way == [1]
    await place.take(1)
    assert place.under_way == [2]


async def test_w1_a_new_letter_goes_out_while_others_are_under_way(place_of):
    place = await place_of([letter(0)])
    place.queue.append(letter(1))
    place.flow.look()
    await wait_all_tasks_blocked()
    assert place.under_way == [0, 1]


async def test_w2_nothing_more_goes_out_once_one_must_be_offered_again(place_of):
    place = await place_of(letter(n) for n in range(AT_ONCE + 1))
    place.flow.wait(Unavailable("not now"))
    await place.answer(0)
    await place.take(*range(1, AT_ONCE))
    assert place.offered == list(range(AT_ONCE))
    assert [each.item for each in place.queue] == [0, AT_ONCE]
    assert place.said and place.flow.later


async def test_w2_a_queue_that_cannot_be_read_ends_the_round(place_of):
    place = await place_of(letter(n) for n in range(AT_ONCE + 1))
    place.unreadable = StorageError("the disk failed")
    await place.take(*range(AT_ONCE))
    assert place.offered == list(range(AT_ONCE))
    assert place.said and place.flow.later


async def test_w3_a_full_mailbox_holds_up_no_other(place_of):
    people = [b"bob", b"carol"]
    place = await place_of(letter(n, key=people[n % 2]) for n in range(2 * AT_ONCE))
    place.flow.is_full(b"bob", Unavailable("full", code="quota_exceeded"))
    while place.under_way:
        await place.take(*(item for item in place.under_way if item % 2))
        await place.answer(*place.under_way)
    assert [item for item in place.offered if item % 2 == 0] == list(range(0, AT_ONCE, 2))
    assert [each for each in place.queue if each.key == b"carol"] == []
    assert place.said and place.flow.later


async def test_a_round_without_letters_says_so(place_of):
    place = await place_of([])
    assert not place.said and not place.flow.later


@pytest.mark.parametrize("turn", range(20))  # trio runs what is ready in any order
async def test_w2_what_is_behind_one_that_fails_at_once_stays(turn):
    offered = []

    async def offer(item):
        offered.append(item.item)
        if item.item == 1:
            flow.wait(Unavailable("not now"))

    flow = Flow(Attempts(), lambda full: [letter(n) for n in range(9) if n not in offered])
    assert await flow.run(offer)
    assert offered == [0, 1]


@pytest.mark.parametrize("turn", range(20))
async def test_w3_what_is_behind_a_mailbox_that_is_full_at_once_stays(turn):
    offered = []

    async def offer(item):
        offered.append(item.item)
        flow.is_full(item.key, Unavailable("full", code="quota_exceeded"))

    flow = Flow(Attempts(), lambda full: [letter(n) for n in range(9) if b"bob" not in full])
    assert await flow.run(offer)
    assert offered == [0]
