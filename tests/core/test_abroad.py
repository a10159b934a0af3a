"""Out to the foreign protocols: the rules of core/abroad.py.

Time is trio's jumping clock, which a test gets by naming `autojump_clock` itself.
"""

import itertools
import random
from collections import Counter

import fakes
import pytest
import trio
from fakes import LIMIT, emptied, notices, until
from trio.testing import wait_all_tasks_blocked

from ampd.core import abroad as module
from ampd.core.abroad import Abroad
from ampd.core.foreign import Foreign
from ampd.core.letters import Letters
from ampd.core.submission import Draft
from ampd.core.tracking import Tracking
from ampd.model.address import Address
from ampd.model.errors import Refused, StorageError, Unavailable
from ampd.model.message import Delivery

BOB = Address("bob", "acme.example")
EVE = Address("eve", "acme.example")
ZOE = Address("zoe", "other.example")


class Courier:
    """A courier to hosts that keep what they are given, once, and say so.

    `script` may answer in their place: it is given the parcel, and what it raises or returns
    counts, unless None.
    """

    def __init__(self, **reached):
        self.reached = reached  # domain with _ for . -> protocol
        self.log = []
        self.kept = {}
        self.asked = []
        self.script = lambda parcel: None
        self.under_way = Counter()
        self.most = Counter()
        self.slow = 0.0
        self.news = trio.Event()

    async def find(self, address):
        self.asked.append(str(address))
        await trio.lowlevel.checkpoint()
        answer = self.reached.get(address.domain.replace(".", "_"), "")
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def carry(self, protocol, parcel):
        domain = parcel.recipient.domain
        self.log.append((protocol, parcel))
        self.news.set()
        self.news = trio.Event()
        self.under_way[domain] += 1
        self.most[domain] = max(self.most[domain], self.under_way[domain])
        try:
            await trio.sleep(self.slow)
            answer = self.script(parcel)
        finally:
            self.under_way[domain] -= 1
        if answer is not None:
            return answer
        self.kept.setdefault((parcel.message.id, parcel.recipient), parcel)
        return Delivery("delivered")

    async def offered(self, count):
        while len(self.log) < count:
            await self.news.wait()

    def bodies(self, recipient=BOB):
        return [each.message.body for (_, to), each in self.kept.items() if to == recipient]


@pytest.fixture
def clock(autojump_clock):
    return fakes.JumpingClock(autojump_clock)


@pytest.fixture
def courier():
    return Courier(acme_example="amp", other_example="amtp")


def wire(node, clock, courier=None):
    """The rooms that a daemon adds to a node for this."""
    store, agents, contacts = node.store, node.agents, node.contacts
    foreign = Foreign(store, agents, contacts, b"s" * 32, clock, LIMIT)
    node.abroad = Abroad(
        store, agents, contacts, foreign, Letters(store, clock), clock, random.Random(1)
    )
    node.foreign = foreign
    node.tracking = Tracking(store, agents, node.lists, node.abroad.attempts_for)
    if courier is not None:
        node.abroad.use(courier, ("amp", "amtp"))
    return node


@pytest.fixture
async def ready(node, alice, clock, courier):
    """Our node, which knows bob, eve and zoe by the gateways."""
    wire(node, clock, courier)
    for address, protocol in ((BOB, "amp"), (EVE, "amp"), (ZOE, "amtp")):
        await node.foreign.introduce(address, protocol)
    return node


@pytest.fixture
async def running(ready, nursery):
    nursery.start_soon(ready.abroad.run)
    return ready


def state(node, agent, sent):
    return node.tracking.deliveries(agent, sent.id)[2][0]


def away(parcel):
    raise Unavailable("nobody answers there")


# AB1: who carries what, in which order


async def test_ab1_the_courier_gets_the_message_as_it_was_signed(
    autojump_clock, running, alice, courier
):
    sent = await running.send(alice, str(BOB), "hello", subject="s")
    await emptied(running)
    [(protocol, parcel)] = courier.log
    assert (protocol, parcel.recipient, parcel.sender.key) == ("amp", BOB, alice.key)
    assert (parcel.message.body, parcel.message.to[0].address) == ("hello", BOB)
    assert parcel.signed and state(running, alice, sent).status == "delivered"


async def test_ab1_letters_of_one_recipient_keep_their_order(
    autojump_clock, running, alice, courier
):
    courier.slow = 0.5
    courier.script = lambda parcel: away(parcel) if len(courier.log) in (2, 3, 5) else None
    for number in range(5):
        await running.send(alice, str(BOB), str(number))
    await emptied(running)
    assert courier.bodies() == ["0", "1", "2", "3", "4"]
    assert courier.most[BOB.domain] == 1


async def test_ab1_a_domain_gets_a_few_at_once_and_keeps_no_other_waiting(
    autojump_clock, running, alice, courier
):
    courier.slow = 10.0
    for number in range(module.AT_ONCE + 3):
        await running.foreign.introduce(Address(f"a{number}", BOB.domain), "amp")
        await running.send(alice, f"a{number}@{BOB.domain}")
    await running.send(alice, str(ZOE), "for zoe")
    await emptied(running)
    assert courier.most[BOB.domain] == module.AT_ONCE
    places = [str(parcel.recipient) for _, parcel in courier.log]
    assert places.index(str(ZOE)) <= module.AT_ONCE


async def test_ab1_one_message_goes_to_each_recipient_by_its_own_protocol(
    autojump_clock, running, alice, courier
):
    await running.send(alice, [str(BOB), str(ZOE), "alice"], "to all")
    await emptied(running)
    assert sorted((protocol, str(p.recipient)) for protocol, p in courier.log) == [
        ("amp", str(BOB)), ("amtp", str(ZOE)),
    ]  # fmt: skip
    assert running.bodies(alice) == ["to all"]


async def test_ab1_what_waits_for_native_recipients_is_left_alone(
    autojump_clock, running, other, alice, bob, courier
):
    await running.meet(other)
    await running.send(alice, "bob@there.local", "native")
    await running.send(alice, str(BOB), "foreign")
    await until(running, lambda: len(running.outbox()) == 1)
    assert [str(p.recipient) for _, p in courier.log] == [str(BOB)]
    assert [row["address"] for row in running.outbox()] == ["bob@there.local"]
    assert bob.key not in running.abroad.attempts


async def test_ab1_an_id_that_two_agents_chose_names_a_letter_of_each(
    autojump_clock, running, alice, courier
):
    carol = await running.agent("carol")
    courier.script = lambda parcel: away(parcel) if parcel.recipient == BOB else None
    await running.submission.send(alice, Draft((str(BOB),), id=bytes(16)))
    await running.submission.send(carol, Draft((str(ZOE),), id=bytes(16)))
    await until(running, lambda: len(running.outbox()) == 1)
    assert [row["address"] for row in running.outbox()] == [str(BOB)]


async def test_ab1_transfer_leaves_alone_what_is_for_the_gateways(
    autojump_clock, ready, alice, nursery
):
    nursery.start_soon(ready.transfer.run)
    await ready.send(alice, str(BOB), "hello")
    await trio.sleep(3600)
    assert len(ready.outbox()) == 1 and ready.transfer.attempts_for(str(BOB)) is None


# AB2: what is written, and when


@pytest.mark.parametrize("status", ["delivered", "relayed"])
async def test_ab2_what_the_courier_says_is_on_disk_and_the_letter_has_left(
    autojump_clock, running, alice, courier, status
):
    courier.script = lambda parcel: Delivery(status)
    sent = await running.send(alice, str(BOB))
    await emptied(running)
    found = state(running, alice, sent)
    assert (found.status, found.via, found.error) == (status, "gateway", "")
    await trio.sleep(40 * 86400)
    assert notices(running, alice) == [] and state(running, alice, sent).status == status


async def test_ab2_the_trace_says_whose_word_it_is(autojump_clock, running, alice, courier):
    courier.script = lambda parcel: Delivery("relayed")
    sent = await running.send(alice, str(BOB))
    await emptied(running)
    _, steps, waits = running.tracking.trace(alice, sent.id)
    assert ("relayed", "as the other provider says") in [(s.what, s.detail) for s in steps]
    assert "the other provider has it" in waits


async def test_ab2_what_is_said_later_goes_on_from_there(autojump_clock, running, alice, courier):
    courier.script = lambda parcel: Delivery("relayed")
    sent = await running.send(alice, str(BOB), receipt=True)
    await emptied(running)
    identifier = courier.log[0][1].message.id
    heard = running.abroad.heard
    assert not await heard(alice, identifier, EVE, "delivered")
    assert await heard(alice, identifier, BOB, "delivered")
    assert not await heard(alice, identifier, BOB, "delivered")
    assert await heard(alice, identifier, BOB, "read")
    assert not await heard(alice, identifier, BOB, "failed", "late")
    assert state(running, alice, sent).status == "read"
    assert [each["event"] for each in notices(running, alice)] == ["delivered", "read"]


async def test_ab2_a_failure_that_is_heard_of_later_comes_back(
    autojump_clock, running, alice, courier
):
    courier.script = lambda parcel: Delivery("relayed")
    sent = await running.send(alice, str(BOB))
    await emptied(running)
    assert await running.abroad.heard(
        alice, courier.log[0][1].message.id, BOB, "failed", "mailbox closed"
    )
    found = state(running, alice, sent)
    assert (found.status, found.error) == ("failed", "mailbox closed")
    assert [each["reason"] for each in notices(running, alice)] == ["mailbox closed"]


async def test_ab2_what_is_no_such_word_is_not_believed(autojump_clock, running, alice, courier):
    courier.script = lambda parcel: Delivery("read") if len(courier.log) == 1 else None
    sent = await running.send(alice, str(BOB))
    await emptied(running)
    assert len(courier.log) == 2 and state(running, alice, sent).status == "delivered"


# AB3: a refusal, said back


async def test_ab3_a_refusal_comes_back_with_its_reason(autojump_clock, running, alice, courier):
    def refuse(parcel):
        if parcel.message.body == "bad":
            raise Refused("no such agent here: " + "x" * 1000)

    courier.script = refuse
    sent = await running.send(alice, str(BOB), "bad")
    await running.send(alice, str(BOB), "good")
    await emptied(running)
    found = state(running, alice, sent)
    assert (found.status, found.via, len(found.error)) == ("failed", "gateway", 500)
    assert [each["event"] for each in notices(running, alice)] == ["failed"]
    assert courier.bodies() == ["good"]


async def test_ab3_what_an_agent_left_that_was_removed_is_not_carried(
    autojump_clock, ready, nursery, alice, courier
):
    await ready.send(alice, str(BOB))
    await ready.agents.remove("alice", purge=False)
    nursery.start_soon(ready.abroad.run)
    await emptied(ready)
    assert courier.log == []


# AB4: trying again


async def test_ab4_who_is_away_is_tried_after_a_second_doubling_to_an_hour(
    autojump_clock, running, alice, courier
):
    times = []

    def note(parcel):
        times.append(trio.current_time())
        away(parcel)

    courier.script = note
    await running.send(alice, str(BOB))
    await courier.offered(20)
    pauses = [later - before for before, later in itertools.pairwise(times)]
    for number, pause in enumerate(pauses):
        assert 0.75 <= pause / min(3600, 2**number) <= 1.25
    assert len({round(p / min(3600, 2**n), 3) for n, p in enumerate(pauses)}) > 5


async def test_ab4_status_and_trace_say_what_it_waits_for(autojump_clock, running, alice, courier):
    courier.script = away
    sent = await running.send(alice, str(BOB))
    await courier.offered(3)
    await wait_all_tasks_blocked()
    found = state(running, alice, sent)
    assert (found.status, found.via, found.attempts) == ("queued", "gateway", 3)
    assert found.error == "nobody answers there" and found.next_attempt_at > fakes.START
    assert "bob@acme.example: nobody answers there" in running.tracking.trace(alice, sent.id)[2]
    assert [parcel.attempts for _, parcel in courier.log] == [0, 1, 2]


async def test_ab4_after_the_last_try_it_failed_and_so_did_what_waited_as_long(
    autojump_clock, running, alice, courier
):
    courier.script = away
    sent = await running.send(alice, str(BOB), "1")
    await running.send(alice, str(BOB), "2")
    await emptied(running)
    assert len(courier.log) <= module.MOST_TRIES + 3
    found = state(running, alice, sent)
    assert found.status == "failed" and "given up after 168 tries" in found.error
    assert [each["event"] for each in notices(running, alice)] == ["failed", "failed"]
    days = (trio.current_time()) / 86400
    assert 5 < days < 9


@pytest.mark.parametrize("why", ["a new letter", "a network"])
async def test_ab4_something_new_tries_at_once_and_does_not_count(
    autojump_clock, running, alice, courier, why
):
    courier.script = away
    await running.send(alice, str(BOB), "first")
    await courier.offered(15)
    await wait_all_tasks_blocked()
    before = trio.current_time()
    tries = dict(running.abroad.attempts[running.foreign.key_of(BOB)].tries)
    courier.script = lambda parcel: None if len(courier.log) > 16 else away(parcel)
    if why == "a network":
        running.abroad.wake()
    else:
        await running.send(alice, str(BOB), "second")
    await courier.offered(16)
    assert trio.current_time() - before < 1
    await wait_all_tasks_blocked()
    assert running.abroad.attempts[running.foreign.key_of(BOB)].tries == tries
    await emptied(running)
    assert courier.bodies()[0] == "first"


# AB5: no courier


async def test_ab5_without_a_courier_letters_wait_and_say_so(
    autojump_clock, node, alice, clock, courier, nursery
):
    wire(node, clock)
    await node.foreign.introduce(BOB, "amp")
    nursery.start_soon(node.abroad.run)
    sent = await node.send(alice, str(BOB))
    await trio.sleep(10 * 86400)
    found = state(node, alice, sent)
    assert found.status == "queued" and "this node's is off" in found.error
    node.abroad.use(courier, ("amp",))
    await emptied(node)
    assert state(node, alice, sent).status == "delivered"


async def test_ab5_what_waits_for_a_contact_that_was_removed_is_carried(
    autojump_clock, running, alice, courier
):
    courier.script = lambda parcel: away(parcel) if len(courier.log) == 1 else None
    await running.send(alice, str(BOB), "hello")
    await courier.offered(1)
    await running.contacts.remove(str(BOB))
    await emptied(running)
    assert courier.bodies() == ["hello"] and courier.asked == [str(BOB)]


# AB6: faults, contained


async def test_ab6_a_disk_that_fails_for_a_moment_ends_nothing(
    autojump_clock, running, alice, courier, monkeypatch
):
    write, failures = running.store.write, [StorageError("no room")] * 2

    async def failing(run, *, urgent=False):
        if urgent and failures:
            raise failures.pop()
        return await write(run, urgent=urgent)

    monkeypatch.setattr(running.store, "write", failing)
    sent = await running.send(alice, str(BOB), "hello")
    await emptied(running)
    assert courier.bodies() == ["hello"] and len(courier.log) == 3
    assert state(running, alice, sent).status == "delivered"


async def test_ab6_who_is_away_holds_up_nobody_else(autojump_clock, running, alice, courier):
    courier.script = lambda parcel: away(parcel) if parcel.recipient == BOB else None
    await running.send(alice, str(BOB), "1")
    await running.send(alice, str(EVE), "2")
    await running.send(alice, str(ZOE), "3")
    await courier.offered(4)
    assert courier.bodies(EVE) == ["2"] and courier.bodies(ZOE) == ["3"]


async def test_ab6_after_a_restart_it_goes_on(autojump_clock, tmp_path, clock, courier):
    async with fakes.node(tmp_path, clock=clock) as node:
        wire(node, clock, courier)
        alice = await node.agent("alice")
        await node.foreign.introduce(BOB, "amp")
        await node.send(alice, str(BOB), "hello")
    async with fakes.node(tmp_path, clock=clock) as node, trio.open_nursery() as nursery:
        wire(node, clock, courier)
        nursery.start_soon(node.abroad.run)
        await emptied(node)
        nursery.cancel_scope.cancel()
    assert courier.bodies() == ["hello"]


# AB7: who can be found


async def test_ab7_who_is_reached_by_a_courier_is_introduced(autojump_clock, node, clock, courier):
    wire(node, clock, courier)
    await node.abroad.find([str(BOB), str(ZOE), "who@nowhere.example", "bare", "a b@c"])
    assert node.foreign.protocol_of(node.contacts.resolve(str(BOB)).key) == "amp"
    assert node.foreign.protocol_of(node.contacts.resolve(str(ZOE)).key) == "amtp"
    assert not node.submission.knows(Draft(("who@nowhere.example",)))


async def test_ab7_who_is_known_or_blocked_is_not_asked_for(
    autojump_clock, ready, other, alice, bob, courier
):
    await ready.meet(other)
    await ready.contacts.block(str(BOB), blocked=True)
    await ready.abroad.find([str(BOB), str(EVE), "bob@there.local", "alice@here.local"])
    assert courier.asked == []


async def test_ab7_a_courier_that_fails_or_hangs_keeps_nobody_waiting_for_long(
    autojump_clock, node, clock
):
    slow = Courier()

    async def hang(address):
        await trio.sleep_forever()

    slow.find = hang
    wire(node, clock, slow)
    await node.abroad.find([str(BOB)])
    assert trio.current_time() == pytest.approx(module.FIND_WITHIN, abs=0.1)
    failing = Courier(acme_example=Unavailable("no name server"))
    wire(node, clock, failing).abroad.use(Courier(acme_example="amtp"), ("amtp",))
    await node.abroad.find([str(BOB)])
    assert node.foreign.protocol_of(node.foreign.key_of(BOB)) == "amtp"
    failing.reached["other_example"] = Refused("a name that is none")
    await node.abroad.find([str(ZOE)])
    assert not node.submission.knows(Draft((str(ZOE),)))
