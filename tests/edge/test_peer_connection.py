"""What a peer can do to a session that has begun: it ends, and nothing else."""

import pytest
import trio
from protocol.harness import ALICE, BOB, HELLO, LETTER, STATIC, Near, Shelf, in_memory, letter
from trio.testing import lockstep_stream_pair, wait_all_tasks_blocked

from ampd.edge.peer_connection import MAX_UNWRITTEN
from ampd.edge.peer_sockets import prove
from ampd.model.errors import Refused, StaleKey, Unavailable
from ampd.model.message import Delivery
from ampd.protocol.events import Accept, Deliver, Hello, Ping, Pong, Refuse, WantCards
from ampd.protocol.handshake import Handshake
from ampd.protocol.session import WINDOW, Session


class Rude:
    """A peer that has proved its key and said Hello, and then does as it likes."""

    def __init__(self, stream):
        self.stream = stream
        self.session = Session()

    async def begin(self, hello=HELLO):
        handshake = Handshake.calling(ALICE, STATIC[ALICE])
        self.channel = await prove(self.stream, handshake)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.say, hello)
            nursery.start_soon(self.hear)

    async def say(self, *events):
        data = b"".join(self.session.send(event) for event in events)
        await self.stream.send_all(self.channel.seal(data))

    async def ask_and_ask(self):
        """As if it had heard the answers."""
        ours, theirs = self.session._ours, self.session._theirs
        theirs.state = ours.state
        for number in range(1, 50):
            ours.asked = None
            await self.say(WantCards(number, ("bob@bob.local",)))

    async def hear(self):
        return self.session.receive(self.channel.open(await self.stream.receive_some()))


async def test_a_peer_that_does_not_read_is_cut_off(autojump_clock):
    here, there = lockstep_stream_pair()
    rude, node = Rude(here), Near()
    door = Shelf(cards=[bytes([number]) * 16000 for number in range(60)])
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: node.run(there, door, BOB, calling=False))
        await rude.begin()
        with pytest.raises(trio.BrokenResourceError):
            await rude.ask_and_ask()
    assert node.connection.ended == "the peer does not read"
    assert node.connection._unwritten_bytes < MAX_UNWRITTEN + (2 << 20)


async def test_a_peer_that_never_answers_is_left(autojump_clock):
    shelf = Shelf()
    shelf.may_answer = trio.Event()
    async with in_memory(shelf) as (near, _):
        with pytest.raises(Unavailable, match="does not answer"):
            await near.deliver(LETTER)
    assert 60 <= trio.current_time() <= 81


async def test_an_idle_session_lives_on_pings(autojump_clock):
    async with in_memory(Shelf()) as (near, far):
        await trio.sleep(3000)
        assert not near.ended and near.connection.rtt == far.connection.rtt == 0


async def test_what_is_larger_than_the_peer_takes_is_refused_here(autojump_clock):
    here, there = lockstep_stream_pair()
    rude, node = Rude(here), Near()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: node.run(there, Shelf(), BOB, calling=False))
        await rude.begin(Hello(1, "small.local", bytes(8), 0, 1000))
        await rude.hear()
        with pytest.raises(Refused, match="takes 1000") as refused:
            await node.deliver(letter(1, 1004))
        assert refused.value.code == "too_large"
        await rude.stream.aclose()


async def test_the_door_is_called_in_order_although_many_come_at_once(autojump_clock):
    here, there = lockstep_stream_pair()
    rude, node, door = Rude(here), Near(), Shelf()
    letters = [letter(number) for number in range(1, 65)]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: node.run(there, door, BOB, calling=False))
        await rude.begin()
        await rude.say(*(Deliver(n, each) for n, each in enumerate(letters, 1)))
        await wait_all_tasks_blocked()
        await rude.stream.aclose()
    assert door.called == letters


async def said_to(door, *words):
    """What a node with this door answers to these words."""
    here, there = lockstep_stream_pair()
    rude, node = Rude(here), Near()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: node.run(there, door, BOB, calling=False))
        await rude.begin()
        await rude.say(*words)
        heard = []
        while sum(isinstance(each, Accept | Refuse) for each in heard) < len(words):
            heard += await rude.hear()
        await rude.stream.aclose()
    return [each for each in heard if isinstance(each, Accept | Refuse)]


class Runs(Shelf):
    """A door that notes what came together, and answers by the number of the letter."""

    def __init__(self, answers):
        super().__init__()
        self.answers, self.runs = answers, []

    async def deliver_run(self, run, node):
        self.runs.append(list(run.envelopes))
        for place, envelope in enumerate(run.envelopes):
            if run.begin(place):
                answer = self.answers.get(envelope, self.answer)
                if answer is None:
                    raise Unavailable("the disk is full")
                run.answer(place, answer)


async def test_pa1_what_was_read_together_is_one_run_and_each_is_answered(autojump_clock):
    letters = [letter(number) for number in range(1, 6)]
    door = Runs({letters[1]: Refused("no")})
    answers = await said_to(door, *(Deliver(n, each) for n, each in enumerate(letters, 1)))
    assert door.runs == [letters]
    assert [type(each) for each in answers] == [Accept, Refuse, Accept, Accept, Accept]
    assert [each.number for each in answers] == [1, 2, 3, 4, 5]


async def test_pa1_what_a_run_leaves_unanswered_may_be_offered_again(autojump_clock):
    letters = [letter(number) for number in range(1, 4)]
    door = Runs({letters[1]: None})
    answers = await said_to(door, *(Deliver(n, each) for n, each in enumerate(letters, 1)))
    assert [getattr(each, "code", "taken") for each in answers] == [
        "taken", "unavailable", "unavailable",
    ]  # fmt: skip


async def test_pa2_nothing_of_a_run_passes_one_that_is_to_be_offered_again(autojump_clock):
    letters = [letter(number) for number in range(1, 4)]
    door = Runs({letters[0]: StaleKey("renewed", b"")})
    answers = await said_to(door, *(Deliver(n, each) for n, each in enumerate(letters, 1)))
    assert [each.code for each in answers] == ["stale_key", "unavailable", "unavailable"]


async def test_what_nobody_waits_for_any_more_is_not_offered(autojump_clock):
    shelf = Shelf()
    shelf.may_answer = trio.Event()
    async with in_memory(shelf) as (near, _), trio.open_nursery() as nursery:
        for number in range(WINDOW):
            nursery.start_soon(near.deliver, letter(number))
        await wait_all_tasks_blocked()
        with trio.move_on_after(1):
            await near.deliver(letter(WINDOW))
        shelf.may_answer.set()
        await near.deliver(letter(WINDOW + 1))
    assert letter(WINDOW) not in shelf.called and letter(WINDOW + 1) in shelf.called


async def test_after_a_cut_nothing_is_said_any_more(autojump_clock):
    shelf = Shelf()
    shelf.may_answer = trio.Event()
    async with in_memory(shelf) as (near, far), trio.open_nursery() as nursery:

        async def offer():
            with pytest.raises(Unavailable):
                await near.deliver(LETTER)

        nursery.start_soon(offer)
        await wait_all_tasks_blocked()
        said = far.connection._unwritten_bytes
        far.connection.end("it is enough")
        far.connection.show([b"a card"])
        far.connection.retire("once more")
        shelf.may_answer.set()  # the answer comes when there is nobody to hear it
        await wait_all_tasks_blocked()
        assert far.connection._unwritten_bytes == said
    assert far.connection.ended == "it is enough"


async def test_s10_what_comes_behind_a_refusal_is_refused_until_the_peer_knows(autojump_clock):
    here, there = lockstep_stream_pair()
    rude, node, door = Rude(here), Near(), Shelf(Unavailable("the disk is full"))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: node.run(there, door, BOB, calling=False))
        await rude.begin()
        await rude.say(Deliver(1, letter(1)))
        heard = await rude.hear()
        while not any(isinstance(event, Refuse) for event in heard):
            heard += await rude.hear()
        door.answer = Delivery("delivered")
        await rude.say(Deliver(2, letter(2)))  # it has heard the refusal, and takes no heed
        heard += await rude.hear()
        pings = [event for event in heard if isinstance(event, Ping)]
        refused = [event.number for event in heard if isinstance(event, Refuse)]
        assert refused == [1, 2] and door.kept == []
        while len(pings) < 2:  # the first one was said before the refusal
            await rude.say(*[Pong(ping.nonce) for ping in pings[-1:]])
            pings += [event for event in await rude.hear() if isinstance(event, Ping)]
        await rude.say(Pong(0), Deliver(3, letter(1)))
        while not door.kept:
            await rude.hear()
        assert door.kept == [letter(1)]
        await rude.stream.aclose()
