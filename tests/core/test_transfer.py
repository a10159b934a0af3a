"""On, to the next host: the rules of core/transfer.py.

Time is trio's jumping clock, which a test gets by naming `autojump_clock` itself.
"""

import itertools
from collections import Counter

import fakes
import pytest
import trio
from fakes import Lan, emptied, notices, until
from trio.testing import wait_all_tasks_blocked

from ampd.core import offering, transfer
from ampd.core.receipts import receipt_for
from ampd.model.errors import Refused, StaleKey, StorageError, Unavailable
from ampd.model.message import Delivery, Message
from ampd.storage.rows import read_payload

BOB = "bob@there.local"


@pytest.fixture
def clock(autojump_clock):
    return fakes.JumpingClock(autojump_clock)


@pytest.fixture
def lan():
    return Lan()


@pytest.fixture
async def node(tmp_path, clock, lan):
    async with fakes.node(tmp_path, "here", clock=clock, carrier=lan) as found:
        yield found


@pytest.fixture
async def ready(node, other, alice, bob):
    """Our node knows bob; nothing is plugged in yet."""
    await node.meet(other)
    return node


@pytest.fixture
async def running(ready, nursery):
    nursery.start_soon(ready.transfer.run)
    return ready


# D1: nothing is given up by a count of attempts


async def test_d1_a_letter_waits_until_its_node_is_there(
    autojump_clock, running, other, alice, bob, lan, clock
):
    sent = await running.send(alice, BOB, "late")
    await trio.sleep(86_400)
    assert len(running.outbox()) == 1 and len(lan.log) > 200
    lan.plug_in(other)
    await emptied(running)
    assert other.bodies(bob) == ["late"]
    assert running.status(alice, sent.id) == "delivered"


async def test_d1_a_restart_in_the_middle_offers_again_and_the_reader_sees_one(
    autojump_clock, tmp_path, other, bob, clock, lan
):
    async def answer_lost(node, envelope):
        await other.mailbox.deliver(envelope, node)  # it is kept there
        raise Unavailable("the line broke before the answer")

    async with fakes.node(tmp_path, "here", clock=clock, carrier=lan) as node:
        alice = await node.agent("alice")
        await node.meet(other)
        lan.deliver = answer_lost
        await node.send(alice, BOB, "once")
        with trio.move_on_after(0.1):
            await node.transfer.run()
        assert len(node.outbox()) == 1
    lan = Lan()
    lan.plug_in(other)
    async with (
        fakes.node(tmp_path, "here", clock=clock, carrier=lan) as node,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(node.transfer.run)
        await emptied(node)
        nursery.cancel_scope.cancel()
    assert other.bodies(bob) == ["once"]


# D2: in the order they were sent


async def test_d2_letters_arrive_in_the_order_they_were_sent(
    autojump_clock, running, other, alice, bob, lan
):
    lan.plug_in(other)
    for number in range(100):
        await running.send(alice, BOB, str(number))
    await emptied(running)
    assert other.bodies(bob, limit=1000) == [str(number) for number in range(100)]
    assert [each.missing for each in other.inbox(bob, limit=1000)] == [0] * 100


async def test_d2_many_are_under_way_at_once_but_no_more_than_a_window(
    autojump_clock, ready, other, alice, bob
):
    open_now, most, go = 0, 0, trio.Event()

    class Slow:
        def wake(self, node):
            pass

        async def deliver(self, node, envelope):
            nonlocal open_now, most
            open_now += 1
            most = max(most, open_now)
            await go.wait()
            open_now -= 1
            return await other.mailbox.deliver(envelope, node)

    ready.transfer._carrier = Slow()
    for number in range(offering.AT_ONCE + 10):
        await ready.send(alice, BOB, str(number))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ready.transfer.run)
        await trio.sleep(1)
        assert open_now == most == offering.AT_ONCE
        go.set()
        await emptied(ready)
        nursery.cancel_scope.cancel()
    assert len(other.inbox(bob, limit=1000)) == offering.AT_ONCE + 10


async def test_d2_an_answer_that_is_late_holds_up_none_behind_it(
    autojump_clock, running, other, alice, bob, lan
):
    real, first, go = lan.deliver, [], trio.Event()

    async def deliver(node, envelope):
        delivery = await real(node, envelope)
        if not first:
            first.append(envelope)
            await go.wait()
        return delivery

    lan.deliver = deliver
    lan.plug_in(other)
    for number in range(2 * offering.AT_ONCE):
        await running.send(alice, BOB, str(number))
    await until(running, lambda: len(running.outbox()) == 1)
    go.set()
    await emptied(running)
    assert other.bodies(bob, limit=1000) == [str(n) for n in range(2 * offering.AT_ONCE)]


async def test_d2_a_letter_that_must_wait_lets_none_behind_it_pass(
    autojump_clock, running, other, alice, bob, lan
):
    lan.plug_in(other)
    count = 0

    def busy_at_first(node, envelope):
        nonlocal count
        count += 1
        if count == 2:
            raise Unavailable("busy for a moment")

    lan.script = busy_at_first
    async with trio.open_nursery() as nursery:
        for number in range(5):
            nursery.start_soon(running.send, alice, BOB, str(number))
    await emptied(running)
    assert [each.missing for each in other.inbox(bob)] == [0] * 5


# D3: when it is tried again


async def test_d3_pauses_double_to_five_minutes_with_jitter(autojump_clock, running, alice, lan):
    times = []

    def note(node, envelope):
        times.append(trio.current_time())

    lan.script = note
    await running.send(alice, BOB)
    await trio.sleep(86_400)
    pauses = [after - before for before, after in itertools.pairwise(times)]
    for place, pause in enumerate(pauses):
        longest = min(transfer.LONGEST_PAUSE, transfer.FIRST_PAUSE * 2**place)
        assert transfer.FIRST_PAUSE / 2 <= pause <= transfer.FIRST_PAUSE / 2 + longest + 0.01
    late = pauses[20:]
    assert max(late) > 200 and min(late) < 100, "full jitter"


async def test_d3_a_sighting_wakes_at_once(autojump_clock, running, other, alice, bob, lan):
    await running.send(alice, BOB)
    await trio.sleep(3600)
    lan.plug_in(other)
    before = trio.current_time()
    running.whereabouts.sighted(other.key.public, [("10.0.0.2", 4160)], "mdns")
    await emptied(running)
    assert trio.current_time() - before < 0.01


async def test_d3_a_new_letter_wakes_at_once_and_the_old_one_goes_first(
    autojump_clock, running, other, alice, bob, lan
):
    await running.send(alice, BOB, "old")
    await trio.sleep(3600)
    lan.plug_in(other)
    before = trio.current_time()
    await running.send(alice, BOB, "new")
    await emptied(running)
    assert trio.current_time() - before < 0.01
    assert other.bodies(bob) == ["old", "new"]


async def test_d3_what_the_pause_is_like_is_told(autojump_clock, running, alice, clock):
    sent = await running.send(alice, BOB)
    await trio.sleep(3600)
    (state,) = running.tracking.deliveries(alice, sent.id)[2]
    assert state.attempts > 10 and state.next_attempt_at > clock() - 1000
    assert "away" in state.error
    assert "away" in running.tracking.trace(alice, sent.id)[2]


async def test_d3_a_card_that_names_another_node_redirects_what_waits(
    autojump_clock, tmp_path, running, other, alice, bob, lan, clock
):
    await running.send(alice, BOB, "moved")
    await trio.sleep(60)
    async with fakes.node(tmp_path, "elsewhere", clock=clock) as new:
        lan.doors[new.key.public] = other.mailbox
        moved = fakes.resigned(bob, nodes=(new.key.public,))
        await running.contacts.learn([moved], b"n" * 32, "lan")
        await emptied(running)
    assert other.bodies(bob) == ["moved"]


# D4: what fails comes back


async def test_d4_a_refusal_comes_back_with_its_reason(autojump_clock, running, other, alice, lan):
    def refuse(node, envelope):
        raise Refused("bob does not want this", code="blocked")

    lan.script = refuse
    sent = await running.send(alice, BOB, subject="hello")
    await emptied(running)
    (state,) = running.tracking.deliveries(alice, sent.id)[2]
    assert (state.status, state.error) == ("failed", "bob does not want this")
    (facts,) = notices(running, alice)
    assert facts == {
        "event": "failed", "message": sent.id, "recipient": BOB,
        "reason": "bob does not want this",
    }  # fmt: skip
    (notice,) = await running.reading.get(alice, ["1"])
    assert "bob does not want this" in notice.content and "hello" in notice.content
    assert (notice.summary.sender, notice.summary.trust) == ("ampd@here.local", "verified")
    assert notice.summary.in_reply_to == sent.id


async def test_d4_an_expiry_comes_back_too(autojump_clock, running, alice, lan):
    sent = await running.send(alice, BOB, expires_in=60_000)
    await until(running, lambda: notices(running, alice), ("box", alice.key))
    assert 60 <= trio.current_time() <= 60 + transfer.SWEEP_EVERY
    assert [facts["event"] for facts in notices(running, alice)] == ["expired"]
    assert running.status(alice, sent.id) == "expired"
    assert running.outbox() == []


async def test_d4_what_expired_while_we_were_not_running_is_told_at_the_start(
    autojump_clock, tmp_path, other, bob, clock, lan
):
    async with fakes.node(tmp_path, "here", clock=clock, carrier=lan) as node:
        alice = await node.agent("alice")
        await node.meet(other)
        await node.send(alice, BOB, expires_in=60_000)
    await trio.sleep(3600)
    lan.plug_in(other)
    async with fakes.node(tmp_path, "here", clock=clock, carrier=lan) as node:
        alice = node.agents.named("alice")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(node.transfer.run)
            await until(node, lambda: notices(node, alice), ("box", alice.key))
            nursery.cancel_scope.cancel()
    assert lan.log == []


async def test_d4_only_the_recipient_that_refused_has_failed(
    autojump_clock, tmp_path, running, other, alice, bob, lan, clock
):
    await other.agent("carol")
    await running.meet(other)
    lan.plug_in(other)
    await other.agents.remove("carol", purge=False)
    sent = await running.send(alice, [BOB, "carol@there.local"])
    await emptied(running)
    states = running.tracking.deliveries(alice, sent.id)[2]
    assert [state.status for state in states] == ["delivered", "failed"]
    assert sent.id == notices(running, alice)[0]["message"]


# D5: stale keys


async def test_d5_letters_to_a_stale_key_are_sealed_again_and_keep_their_order(
    autojump_clock, running, other, alice, bob, lan
):
    for number in range(3):
        await running.send(alice, BOB, str(number))
    await fakes.with_new_keys(other, bob)
    lan.plug_in(other)
    for number in range(3, 6):
        await running.send(alice, BOB, str(number))
    await emptied(running)
    assert other.bodies(bob) == [str(number) for number in range(6)]
    assert [each.missing for each in other.inbox(bob)] == [0] * 6


async def test_d5_a_card_that_came_meanwhile_spares_the_refusal(
    autojump_clock, running, other, alice, bob, lan
):
    stale = []
    await running.send(alice, BOB, "old key")
    await fakes.with_new_keys(other, bob)
    await running.meet(other)
    await running.send(alice, BOB, "new key")
    inner = other.mailbox.deliver

    async def watched(envelope, node):
        try:
            return await inner(envelope, node)
        except StaleKey:
            stale.append(envelope)
            raise

    lan.doors[other.key.public] = type("Door", (), {"deliver": staticmethod(watched)})
    running.whereabouts.wake()
    await emptied(running)
    assert other.bodies(bob) == ["old key", "new key"] and stale == []


async def test_d5_a_peer_that_always_says_stale_is_asked_ever_less(
    autojump_clock, running, other, alice, bob, lan
):
    number = bob.card.number

    def always_stale(node, envelope):
        nonlocal number
        number += 1
        raise StaleKey("stale again", fakes.resigned(bob, number=number))

    lan.script = always_stale
    await running.send(alice, BOB)
    await trio.sleep(3600)
    assert len(lan.log) < 200
    assert len(running.outbox()) == 1


async def test_d5_a_card_of_somebody_else_helps_nothing(
    autojump_clock, running, other, alice, bob, lan
):
    carol = await other.agent("carol")

    def stale(node, envelope):
        raise StaleKey("stale", carol.signed_card)

    lan.script = stale
    await running.send(alice, BOB)
    await trio.sleep(600)
    assert len(running.outbox()) == 1 and len(lan.log) < 50
    lan.script = lambda node, envelope: None
    lan.plug_in(other)
    await emptied(running)
    assert other.bodies(bob) == [""]


# D6: whose word counts


@pytest.mark.parametrize(
    "kind", ["another key", "another message", "a refusal", "rubbish", "nothing"]
)
async def test_d6_a_receipt_that_is_not_the_recipients_is_not_believed(
    autojump_clock, running, other, alice, bob, lan, kind
):
    carol = await other.agent("carol")
    await running.meet(other)
    taken = []

    def lie(node, envelope):
        if envelope.mailbox != bob.keys.mailbox:
            return None
        taken.append(envelope)
        (item,) = running.transfer._letters.waiting("WHERE o.key=?", bob.key)
        signed = running.transfer._letters.message(item)[0].signed
        what = Message.from_bytes(read_payload(signed))
        another = fakes.message(alice, bob)
        receipts = {
            "another key": receipt_for(carol, what, signed, "delivered", 1),
            "another message": receipt_for(
                bob, another, fakes.sign(alice, another), "delivered", 1
            ),
            "a refusal": receipt_for(bob, what, signed, "refused", 1, "no"),
            "rubbish": b"rubbish",
            "nothing": b"",
        }
        return Delivery("delivered", receipts[kind])

    lan.script = lie
    lan.plug_in(other)
    sent = await running.send(alice, BOB)
    await running.send(alice, "carol@there.local", "for carol")
    await trio.sleep(3600)
    assert running.status(alice, sent.id) == "queued" and len(taken) > 5
    assert other.bodies(carol) == ["for carol"], "it blocks nobody else"
    assert notices(running, alice) == []
    lan.script = lambda node, envelope: None
    await emptied(running)
    assert running.status(alice, sent.id) == "delivered"


# D7: what goes wrong ends nothing else


async def test_d7_a_node_that_is_away_holds_up_no_other(
    autojump_clock, tmp_path, running, other, alice, bob, lan, clock
):
    async with fakes.node(tmp_path, "third", clock=clock) as third:
        dave = await third.agent("dave")
        await running.meet(third)
        lan.plug_in(third)
        for number in range(100):
            await running.send(alice, BOB, str(number))
            await running.send(alice, "dave@third.local", str(number))
        await until(running, lambda: len(running.outbox()) == 100)
        assert third.bodies(dave, limit=1000) == [str(number) for number in range(100)]
        assert trio.current_time() < 1


async def test_d9_a_full_mailbox_holds_up_no_other_at_its_node(
    autojump_clock, running, other, alice, bob, lan
):
    carol = await other.agent("carol")
    await running.meet(other)
    lan.plug_in(other)
    real, full, offered = lan.deliver, [True], Counter()

    async def deliver(node, envelope):
        if full and envelope.mailbox == bob.keys.mailbox:
            offered[trio.current_time()] += 1
            assert offered.total() < 1000, "it is offered again and again"
            await trio.lowlevel.checkpoint()
            raise Unavailable("the mailbox is full", code="quota_exceeded")
        return await real(node, envelope)

    lan.deliver = deliver
    for number in range(70):  # more than are offered at a time
        await running.send(alice, BOB, str(number))
    for number in range(70):
        await running.send(alice, "carol@there.local", str(number))
    await until(running, lambda: len(running.outbox()) == 70)
    assert other.bodies(carol, limit=100) == [str(number) for number in range(70)]
    assert trio.current_time() < 1
    del offered[0]  # when each new letter was a reason to try again
    await trio.sleep(3600)
    assert 1 <= max(offered.values()) < 5, "one answer is enough for all that wait behind it"
    full.clear()
    await emptied(running)
    assert other.bodies(bob, limit=100) == [str(number) for number in range(70)]


async def test_d7_a_carrier_that_hangs_holds_up_no_other(
    autojump_clock, tmp_path, running, other, alice, bob, lan, clock
):
    real = lan.deliver

    async def deliver(node, envelope):
        if node == other.key.public:
            await trio.sleep_forever()
        return await real(node, envelope)

    lan.deliver = deliver
    async with fakes.node(tmp_path, "third", clock=clock) as third:
        dave = await third.agent("dave")
        await running.meet(third)
        lan.plug_in(third)
        await running.send(alice, BOB)
        await running.send(alice, "dave@third.local")
        await until(running, lambda: len(running.outbox()) == 1)
        assert len(third.inbox(dave)) == 1


async def test_d7_a_disk_that_fails_while_an_end_is_written_is_waited_for(
    autojump_clock, running, alice, lan, monkeypatch
):
    def refuse(node, envelope):
        raise Refused("no")

    real, failing = running.store.write, True

    async def write(work, *, urgent=False):
        if failing and urgent:
            await trio.lowlevel.checkpoint()
            raise StorageError("input/output error")
        return await real(work, urgent=urgent)

    lan.script = refuse
    sent = await running.send(alice, BOB)
    monkeypatch.setattr(running.store, "write", write)
    await trio.sleep(60)
    failing = False
    await emptied(running)
    assert running.status(alice, sent.id) == "failed"


async def test_d7_the_letters_of_a_removed_agent_go_on(
    autojump_clock, running, other, alice, bob, lan
):
    await running.send(alice, BOB, "last words")
    await running.agents.remove("alice", purge=False)
    await fakes.with_new_keys(other, bob)
    lan.plug_in(other)
    await emptied(running)
    assert other.bodies(bob) == ["last words"]


async def test_d7_the_letters_of_a_purged_agent_are_gone(autojump_clock, running, alice, lan):
    await running.send(alice, BOB)
    await running.agents.remove("alice", purge=True)
    assert running.outbox() == []
    await trio.sleep(600)


async def test_d7_who_withdrew_is_offered_nothing_more(
    autojump_clock, running, other, alice, bob, lan
):
    await running.send(alice, BOB)
    await other.agents.remove("bob", purge=False)
    await running.meet(other)
    await wait_all_tasks_blocked()
    offered = len(lan.log)
    await trio.sleep(3600)
    assert len(lan.log) <= offered + 1


async def test_d8_what_waits_for_a_replaced_key_fails_and_its_sender_is_told(
    autojump_clock, running, alice, tmp_path, clock
):
    sent = await running.send(alice, BOB, subject="to the old key")
    async with fakes.node(tmp_path / "new", "there", clock=clock) as elsewhere:
        newcomer = await elsewhere.agent("bob")
        await running.contacts.learn([newcomer.signed_card], b"n" * 32, "lan")
    assert running.status(alice, sent.id) == "queued", "a claim alone changes nothing"
    await running.contacts.accept(BOB)
    await until(running, lambda: notices(running, alice), ("box", alice.key))
    assert running.status(alice, sent.id) == "failed"
    (facts,) = notices(running, alice)
    assert "another key" in facts["reason"]
