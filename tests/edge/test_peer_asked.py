"""What a peer asks, handed to the door: the rules of edge/peer_asked.py."""

import trio
from protocol.harness import BOB, letter

from ampd.edge.peer_asked import MAX_RUN, Asked
from ampd.model.message import Delivery
from ampd.protocol.events import Accept, Deliver

WORDS = [Deliver(number, letter(number)) for number in range(1, 6)]


class BusyDoor:
    """It begins with one run at a time, and waits before each until it may."""

    def __init__(self):
        self.runs = []
        self._turn = trio.Lock()
        self.may_begin = trio.Event()

    async def deliver_run(self, run, node):
        async with self._turn:
            await self.may_begin.wait()
            self.runs.append([envelope for _, envelope in _begun(run)])
            await trio.lowlevel.checkpoint()
        for place in range(len(run.envelopes)):
            run.answer(place, Delivery("delivered", b"receipt"))


def _begun(run):
    for place, envelope in enumerate(run.envelopes):
        assert run.begin(place)
        yield place, envelope


async def test_pa1_what_comes_while_the_door_is_busy_is_one_run_in_its_order():
    door, said = BusyDoor(), []
    asked = Asked(door, BOB.public, said.append, lambda: None)
    async with trio.open_nursery() as nursery:
        for words in (WORDS[:1], WORDS[1:3], WORDS[3:]):
            if run := asked.take(words):
                nursery.start_soon(asked.deliver, run)
                await trio.lowlevel.checkpoint()
        door.may_begin.set()
    assert door.runs == [[word.envelope for word in WORDS]]
    assert said == [Accept(word.number, "delivered", b"receipt") for word in WORDS]


async def test_pa1_what_comes_after_a_run_was_begun_is_another_one():
    door, said = BusyDoor(), []
    door.may_begin.set()
    asked = Asked(door, BOB.public, said.append, lambda: None)
    for words in (WORDS[:2], WORDS[2:]):
        await asked.deliver(asked.take(words))
    assert [len(run) for run in door.runs] == [2, 3]
    assert [word.number for word in said] == [1, 2, 3, 4, 5]


async def test_pa1_a_run_ends_before_it_holds_up_the_store_for_long():
    door, said = BusyDoor(), []
    asked = Asked(door, BOB.public, said.append, lambda: None)
    words = [Deliver(number, letter(number)) for number in range(1, MAX_RUN + 3)]
    async with trio.open_nursery() as nursery:
        for word in words:
            if run := asked.take([word]):
                nursery.start_soon(asked.deliver, run)
                await trio.lowlevel.checkpoint()
        door.may_begin.set()
    assert [len(run) for run in door.runs] == [MAX_RUN, 2]
    assert [word.number for word in said] == [word.number for word in words]
