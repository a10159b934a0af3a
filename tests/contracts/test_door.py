"""What every door into a host promises (ampd/core/ports.py: Door), fakes included."""

from contextlib import asynccontextmanager

import fakes
import pytest
import trio
from protocol.harness import Shelf

from ampd.core.ports import Run
from ampd.model.errors import Refused
from ampd.model.message import Envelope

NODE = b"n" * 32


class OnAShelf:
    """The stand-in that the tests of sessions use."""

    def __init__(self, letters):
        self.door = Shelf()
        self.letters = letters

    def kept(self):
        return [self.letters.index(each) for each in self.door.kept]


class InAMailbox(OnAShelf):
    """The real one."""

    def __init__(self, node, alice, letters):
        self.door = node.mailbox
        self.letters = letters
        self._node, self._alice = node, alice

    def kept(self):
        return [int(body) for body in self._node.bodies(self._alice)]


@asynccontextmanager
async def made(kind, folder):
    async with fakes.node(folder, "here") as node, fakes.node(folder, "there") as other:
        alice, bob = await node.agent("alice"), await other.agent("bob")
        letters = [
            fakes.letter(bob, alice, order=number + 1, body=str(number)) for number in range(40)
        ]
        yield OnAShelf(letters) if kind == "shelf" else InAMailbox(node, alice, letters)


@pytest.fixture(params=["shelf", "mailbox"])
async def place(request, tmp_path):
    async with made(request.param, tmp_path) as found:
        yield found


async def test_what_is_answered_is_kept(place):
    delivery = await place.door.deliver(place.letters[0], NODE)
    assert delivery.status == "delivered" and delivery.receipt
    assert place.kept() == [0]


async def test_the_same_envelope_twice_is_kept_once_and_answered_alike(place):
    first = await place.door.deliver(place.letters[0], NODE)
    assert await place.door.deliver(place.letters[0], NODE) == first
    assert place.kept() == [0]


async def test_calls_that_are_under_way_together_are_kept_in_their_order(place):
    async with trio.open_nursery() as nursery:
        for each in place.letters:
            nursery.start_soon(place.door.deliver, each, NODE)
            await trio.lowlevel.checkpoint()
    assert place.kept() == list(range(len(place.letters)))


async def test_a_caller_that_gives_up_spoils_nothing(place):
    with trio.CancelScope() as scope:
        scope.cancel()
        await place.door.deliver(place.letters[0], NODE)
    await place.door.deliver(place.letters[0], NODE)
    await place.door.deliver(place.letters[1], NODE)
    assert place.kept() == [0, 1]


async def test_a_refusal_keeps_nothing_and_lets_the_next_one_in(place):
    if isinstance(place, InAMailbox):
        with pytest.raises(Refused):
            await place.door.deliver(Envelope(b"m" * 16, fakes.START, b"sealed"), NODE)
    else:
        place.door.answer, usual = Refused("no"), place.door.answer
        with pytest.raises(Refused):
            await place.door.deliver(place.letters[5], NODE)
        place.door.answer = usual
    await place.door.deliver(place.letters[1], NODE)
    assert place.kept() == [1]


async def test_cards_are_shown_and_learned_and_rubbish_is_passed_over(place):
    shown = place.door.cards()
    assert isinstance(shown, list)
    await place.door.learn([*shown, b"", b"rubbish", b"\x84" * 200], NODE)


async def test_what_joins_a_run_before_it_is_begun_is_answered_with_it(place):
    """At whichever moment, in whichever order the tasks have their turns: all of them happen."""
    for turns in 40 * [1, 2, 3, 4]:
        envelopes, begun, answered = [place.letters[0]], [], []

        def begin(number, begun=begun):
            begun.append(number)
            return True

        async def join(envelopes=envelopes, begun=begun, turns=turns):
            for _ in range(turns):
                await trio.lowlevel.checkpoint()
            if not begun:
                envelopes.append(place.letters[1])

        run = Run(envelopes, lambda number, _, answered=answered: answered.append(number), begin)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(place.door.deliver_run, run, NODE)
            nursery.start_soon(join)
        assert answered == list(range(len(envelopes)))
