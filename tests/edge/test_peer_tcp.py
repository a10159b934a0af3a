import itertools

import pytest
import trio
from contracts.carriers import START
from edge.peer_network import REFUSES, SILENT, at, network
from protocol.harness import ALICE, BOB, LETTER, Shelf, letter
from trio.testing import wait_all_tasks_blocked

from ampd.crypto.keys import SigningKey
from ampd.edge.peer_calls import CALLS_AT_ONCE
from ampd.edge.peer_tcp import LONGEST_PAUSE
from ampd.model.errors import Unavailable
from ampd.model.message import Delivery
from ampd.protocol.session import WINDOW

HERE, THERE, ELSEWHERE = ("10.0.0.1", 4160), ("10.0.0.2", 4160), ("10.0.0.3", 4160)
CAROL = SigningKey(b"c" * 32)
DELIVERED = Delivery("delivered", b"a receipt")
SMALL, LARGE = sorted([ALICE, BOB], key=lambda key: key.public)


@pytest.fixture
async def net(monkeypatch, autojump_clock):
    async with network(monkeypatch) as net:
        yield net


@pytest.fixture
async def small(net):
    async with at(net, HERE, SMALL, Shelf(cards=[b"small's card"])) as node:
        yield node


@pytest.fixture
async def large(net):
    async with at(net, THERE, LARGE, Shelf(cards=[b"large's card"])) as node:
        yield node


def current(node):
    """The session that is current with the only peer of `node`."""
    (peer,) = node._peers.values()
    return peer.connection


async def settled():
    """Until everything that is under way is done, and a second."""
    await trio.sleep(1)
    await wait_all_tasks_blocked()


async def a_pause_of(net, seconds):
    """Until the last call is so long ago."""
    while (since := trio.current_time() - net.times(THERE)[-1]) < seconds:  # noqa: ASYNC110  no event
        await trio.sleep(seconds - since)


async def test_a_node_that_is_sighted_is_called_and_gets_mail(small, large, autojump_clock):
    small.whereabouts.sighted(LARGE.public, [THERE], "mdns")
    assert await small.deliver(LARGE.public, LETTER) == DELIVERED
    assert large.door.kept == [LETTER]


async def test_who_waits_for_whereabouts_hears_of_a_session(small, large, autojump_clock):
    small.whereabouts.sighted(LARGE.public, [THERE], "mdns")
    sighted, called = small.whereabouts.generation, large.whereabouts.generation
    await settled()
    assert small.whereabouts.generation > sighted
    assert large.whereabouts.generation > called


async def test_a_session_carries_mail_both_ways(small, large, autojump_clock):
    small.whereabouts.sighted(LARGE.public, [THERE], "mdns")
    await settled()
    assert await large.deliver(SMALL.public, LETTER) == DELIVERED
    assert small.door.kept == [LETTER]


async def test_cards_are_shown_when_a_session_opens_and_when_they_change(
    small, large, autojump_clock
):
    small.whereabouts.sighted(LARGE.public, [THERE], "mdns")
    await settled()
    assert (small.door.learned, large.door.learned) == ([b"large's card"], [b"small's card"])
    small.door._cards = [b"a newer card"]
    await small.show_cards()
    await settled()
    assert large.door.learned == [b"small's card", b"a newer card"]


async def test_cards_are_there_when_they_were_asked_for(small, large, autojump_clock):
    small.whereabouts.sighted(LARGE.public, [THERE], "mdns")
    await settled()
    large.door._cards = [b"card %d" % number for number in range(150)]
    await small.want_cards(LARGE.public, ["bob@bob.local"])
    assert small.door.learned[1:] == large.door._cards


async def test_cards_cannot_be_asked_of_a_node_that_is_away(small, autojump_clock):
    with pytest.raises(Unavailable):
        await small.want_cards(LARGE.public, ["bob@bob.local"])


async def test_p1_of_two_sessions_the_one_that_the_smaller_key_called_stays(
    small, large, net, autojump_clock
):
    small.whereabouts.sighted(LARGE.public, [THERE], "mdns")
    large.whereabouts.sighted(SMALL.public, [HERE], "mdns")
    delivered = []

    async def send(node, to, number):
        delivered.append(await node.deliver(to, letter(number, 4000)))

    async with trio.open_nursery() as nursery:
        for number in range(100):
            nursery.start_soon(send, small, LARGE.public, number)
            nursery.start_soon(send, large, SMALL.public, number)
    await settled()
    assert delivered == [DELIVERED] * 200, "nothing is lost while one of the two retires"
    assert small._budget.sessions == large._budget.sessions == 1
    assert small._peers[LARGE.public].called_by_us
    assert not large._peers[SMALL.public].called_by_us
    assert len(net.calls) == 2


async def test_p1_of_two_sessions_that_one_side_called_the_newer_one_stays(
    small, large, net, autojump_clock
):
    small.whereabouts.sighted(LARGE.public, [THERE], "mdns")
    await settled()
    old = current(large)
    async with at(net, ELSEWHERE, SMALL, Shelf()) as restarted:
        restarted.whereabouts.sighted(LARGE.public, [THERE], "mdns")
        assert await restarted.deliver(LARGE.public, LETTER) == DELIVERED
        assert current(large) is not old
        assert await large.deliver(SMALL.public, LETTER) == DELIVERED
        assert restarted.door.kept == [LETTER]


async def test_p1_a_dead_session_that_would_stay_is_found_out(small, large, net, autojump_clock):
    small.whereabouts.sighted(LARGE.public, [THERE], "mdns")
    await settled()
    net.cut()
    current(large).end("its network changed")
    dead = current(small)
    large.whereabouts.sighted(SMALL.public, [HERE], "mdns")
    began = trio.current_time()
    await trio.sleep(12)
    assert current(small) is not dead, "the dead one was found out"
    assert await large.deliver(SMALL.public, LETTER) == DELIVERED
    assert trio.current_time() - began < 15, "not the minute that silence alone would take"


async def test_p2_pauses_double_to_five_minutes_with_jitter(small, net, autojump_clock):
    small.whereabouts.sighted(LARGE.public, [THERE], "static")
    await trio.sleep(3600)
    times = net.times(THERE)
    pauses = [later - earlier for earlier, later in itertools.pairwise(times)]
    for number, pause in enumerate(pauses):
        assert 1 <= pause <= 1.1 + min(LONGEST_PAUSE, 2**number)
    assert max(pauses) > 60
    assert len(set(pauses)) == len(pauses)


@pytest.mark.parametrize("how", ["a fresh sighting", "wake", "wake of this node"])
async def test_p2_the_pause_ends_when_there_is_news(small, net, how, autojump_clock):
    small.whereabouts.sighted(LARGE.public, [THERE], "static")
    await trio.sleep(3600)
    await a_pause_of(net, 3)
    before = len(net.calls)
    match how:
        case "a fresh sighting":
            small.whereabouts.sighted(LARGE.public, [THERE], "static")
        case "wake":
            small.wake()
        case "wake of this node":
            small.wake(LARGE.public)
    await trio.sleep(0.1)
    assert len(net.calls) == before + 1
    await trio.sleep(3)
    assert len(net.calls) > before + 1, "and the pauses are short again"


async def test_p2_a_node_that_comes_back_is_found(small, net, autojump_clock):
    small.whereabouts.sighted(LARGE.public, [THERE], "static")
    await trio.sleep(30)
    async with at(net, THERE, LARGE, Shelf()):
        await trio.sleep(60)
        assert await small.deliver(LARGE.public, LETTER) == DELIVERED


async def test_p2_a_node_that_hangs_up_at_once_is_not_called_in_a_loop(small, net, autojump_clock):
    class HangsUp:
        async def _answer(self, stream):
            await stream.aclose()

    net.places[THERE] = HangsUp()
    small.whereabouts.sighted(LARGE.public, [THERE], "mdns")
    await trio.sleep(60)
    assert len(net.calls) < 10


async def test_p3_forged_announcements_do_not_make_us_a_flood(small, net, autojump_clock):
    for number in range(200):
        place = (f"10.1.{number}.1", 4160)
        net.places[place] = SILENT if number % 2 else REFUSES
        small.whereabouts.sighted(SigningKey(bytes([number]) * 32).public, [place], "mdns")
    await trio.sleep(20)
    assert net.most_under_way <= CALLS_AT_ONCE
    assert len(net.calls) <= 200
    times = [at for at, _ in net.calls]
    assert all(times[n + 10] - times[n] >= 0.99 for n in range(len(times) - 10))


async def test_p3_a_static_peer_does_not_wait_behind_forged_ones(small, large, net, autojump_clock):
    for number in range(50):
        place = (f"10.1.{number}.1", 4160)
        net.places[place] = SILENT
        small.whereabouts.sighted(SigningKey(bytes([number]) * 32).public, [place], "mdns")
    small.whereabouts.sighted(LARGE.public, [THERE], "static")
    with trio.fail_after(1):
        assert await small.deliver(LARGE.public, LETTER) == DELIVERED


async def test_p4_a_node_that_nobody_knows_is_unavailable(small, autojump_clock):
    with pytest.raises(Unavailable, match="no address"):
        await small.deliver(CAROL.public, LETTER)
    assert small.peers() == []


async def test_p4_a_node_that_does_not_answer_is_unavailable_and_pauses_are_not_waited_for(
    small, net, autojump_clock
):
    small.whereabouts.sighted(LARGE.public, [THERE], "static")
    with pytest.raises(Unavailable, match="Connection refused"):
        await small.deliver(LARGE.public, LETTER)
    await trio.sleep(100)
    await a_pause_of(net, 2)
    asked_at = trio.current_time()
    with pytest.raises(Unavailable, match="Connection refused"):
        await small.deliver(LARGE.public, LETTER)
    assert trio.current_time() == asked_at


async def test_a_dead_address_holds_nobody_up(small, large, net, autojump_clock):
    net.places[ELSEWHERE] = SILENT
    small.whereabouts.sighted(LARGE.public, [ELSEWHERE, ("10.9.9.9", 1), THERE], "mdns")
    with trio.fail_after(1):
        assert await small.deliver(LARGE.public, LETTER) == DELIVERED
    assert net.under_way == 0, "the other calls were given up"


async def test_another_node_at_the_address_is_an_error_that_people_see(
    small, large, net, autojump_clock
):
    small.whereabouts.sighted(CAROL.public, [THERE], "static")
    with pytest.raises(Unavailable, match="another node answers there"):
        await small.deliver(CAROL.public, LETTER)
    (state,) = small.peers()
    assert "another node answers there" in state.last_error
    assert (state.node, state.state) == (CAROL.public, "away")
    assert large.door.called == [] and large.peers() == []


async def test_a_node_does_not_call_itself(small, net, autojump_clock):
    small.whereabouts.sighted(SMALL.public, [HERE], "mdns")
    await settled()
    assert net.calls == [] and small.peers() == []


async def test_a_session_takes_over_every_hour_and_nothing_is_lost(
    small, large, net, autojump_clock
):
    small.whereabouts.sighted(LARGE.public, [THERE], "mdns")
    letters = [letter(number) for number in range(1300)]
    for each in letters:
        assert await small.deliver(LARGE.public, each) == DELIVERED
        await trio.sleep(10)
    assert large.door.kept == letters
    assert 3 <= len(net.calls) <= 6
    assert small._budget.sessions == large._budget.sessions == 1


async def test_what_waits_at_goodbye_goes_over_the_next_session_in_order(
    small, large, net, autojump_clock
):
    small.whereabouts.sighted(LARGE.public, [THERE], "mdns")
    await settled()
    large.door.may_answer = trio.Event()
    letters = [letter(number) for number in range(3 * WINDOW)]
    async with trio.open_nursery() as nursery:
        for each in letters:
            nursery.start_soon(small.deliver, LARGE.public, each)
            await trio.lowlevel.checkpoint()
        await wait_all_tasks_blocked()
        assert len(large.door.called) == WINDOW
        current(small).retire("a new session takes over")
        await trio.sleep(2)
        large.door.may_answer.set()
    assert large.door.called == letters


async def test_after_a_sleep_a_dead_session_is_found_out_at_once(small, large, net, autojump_clock):
    small.whereabouts.sighted(LARGE.public, [THERE], "mdns")
    await settled()
    net.cut()
    small.wake()
    await trio.sleep(7)
    assert await small.deliver(LARGE.public, LETTER) == DELIVERED
    assert len(net.calls) == 2


async def test_peers_says_what_people_want_to_know(small, large, net, autojump_clock):
    assert small.peers() == []
    small.whereabouts.sighted(LARGE.public, [THERE], "static")
    await wait_all_tasks_blocked()
    assert [state.state for state in small.peers()] == ["connecting"]
    await settled()
    (state,) = small.peers()
    assert (state.node, state.state, state.found_by) == (LARGE.public, "connected", "static")
    assert (state.endpoint, state.domain) == ("10.0.0.2:4160", LARGE.public.hex()[:8] + ".local")
    assert state.rtt_ms is not None and state.last_error == ""
    assert abs(state.last_seen - START) <= 2000 and state.next_try is None
    (state,) = large.peers()
    assert (state.endpoint, state.found_by) == ("10.0.0.1:4160", "inbound")


async def test_who_is_there_is_known_by_domain(small, large, net, autojump_clock):
    domain = LARGE.public.hex()[:8] + ".local"
    small.whereabouts.sighted(LARGE.public, [THERE], "static")
    await settled()
    for asked in ([domain], [""], ["else.local", domain]):
        assert small.connected(asked) == {LARGE.public}
    assert small.connected(["else.local"]) == small.connected([]) == set()
    net.cut()
    await settled()
    assert small.connected([domain]) == {LARGE.public}, "it was called again"


async def test_a_node_that_goes_away_is_away_and_says_when_it_is_tried_again(
    small, net, autojump_clock
):
    async with at(net, THERE, LARGE, Shelf()):
        small.whereabouts.sighted(LARGE.public, [THERE], "static")
        await settled()
    await trio.sleep(2)
    (state,) = small.peers()
    assert (state.state, state.rtt_ms) == ("away", None)
    assert "Connection refused" in state.last_error
    assert state.last_seen == START and state.next_try >= START


async def test_a_caller_that_listens_is_a_place_to_call(small, large, net, autojump_clock):
    small.whereabouts.sighted(LARGE.public, [THERE], "mdns")
    await settled()
    assert large.whereabouts.endpoints(SMALL.public) == [HERE]
    small.whereabouts.lost(LARGE.public, "mdns")
    current(small).end("it was restarted")
    await trio.sleep(3)
    assert await large.deliver(SMALL.public, LETTER) == DELIVERED


async def test_a_node_that_is_lost_is_forgotten(small, net, autojump_clock):
    small.whereabouts.sighted(LARGE.public, [THERE], "mdns")
    await trio.sleep(5)
    small.whereabouts.lost(LARGE.public, "mdns")
    await trio.sleep(300)
    assert small.peers() == []


async def test_p6_each_session_has_a_number_of_its_own_that_followers_of_whereabouts_see(
    small, large, net, autojump_clock
):
    seen = []

    async def follow():
        generation = -1
        while True:
            generation = await small.whereabouts.changed(generation)
            if (number := small.session_id(LARGE.public)) and number not in seen:
                seen.append(number)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(follow)
        assert small.session_id(LARGE.public) == 0
        small.whereabouts.sighted(LARGE.public, [THERE], "mdns")
        await settled()
        assert seen == [small.session_id(LARGE.public)]
        current(small).end("it broke")
        await wait_all_tasks_blocked()
        assert small.session_id(LARGE.public) == 0
        await trio.sleep(30)
        assert seen == [1, 2]
        nursery.cancel_scope.cancel()


async def test_p7_a_node_that_moved_is_called_at_its_new_address_soon(
    small, large, net, autojump_clock
):
    small.whereabouts.sighted(LARGE.public, [THERE], "mdns")
    await settled()
    net.cut()
    net.places[ELSEWHERE] = net.places.pop(THERE)
    began = trio.current_time()
    small.whereabouts.sighted(LARGE.public, [ELSEWHERE], "mdns")
    await trio.sleep(6)
    assert await small.deliver(LARGE.public, LETTER) == DELIVERED
    assert trio.current_time() - began < 9, "not the 40 seconds that silence alone takes"


async def test_p7_a_sighting_at_the_same_address_disturbs_nothing(
    small, large, net, autojump_clock
):
    small.whereabouts.sighted(LARGE.public, [THERE], "mdns")
    await settled()
    session = current(small)
    small.whereabouts.sighted(LARGE.public, [ELSEWHERE, THERE], "mdns")
    small.whereabouts.sighted(LARGE.public, [ELSEWHERE], "mdns")
    await trio.sleep(10)
    assert current(small) is session, "it moved, and this address works all the same"


async def test_p8_a_node_that_stops_says_so_at_once(small, net, autojump_clock):
    async with at(net, THERE, LARGE, Shelf()):
        small.whereabouts.sighted(LARGE.public, [THERE], "mdns")
        await settled()
        session, began = current(small), trio.current_time()
    assert session.ended == "this node is stopping"
    assert trio.current_time() == began, "nobody had anything left to say"


async def test_p8_a_node_that_stops_waits_half_a_second_for_answers_and_no_longer(
    small, net, autojump_clock
):
    small.door.may_answer = trio.Event()

    async def offer(node):
        with pytest.raises(Unavailable):
            await node.deliver(SMALL.public, LETTER)

    async with trio.open_nursery() as nursery:
        async with at(net, THERE, LARGE, Shelf()) as stops:
            small.whereabouts.sighted(LARGE.public, [THERE], "mdns")
            await settled()
            nursery.start_soon(offer, stops)
            await wait_all_tasks_blocked()
            began = trio.current_time()
        assert 0 < trio.current_time() - began <= 0.5


async def test_a_user_who_sends_ends_the_pause_of_that_node_only(small, net, autojump_clock):
    small.whereabouts.sighted(LARGE.public, [THERE], "static")
    small.whereabouts.sighted(CAROL.public, [ELSEWHERE], "static")
    await trio.sleep(3600)
    await a_pause_of(net, 3)
    before = len(net.times(ELSEWHERE))
    small.wake(LARGE.public)
    small.wake(b"a node that nobody knows........")
    await trio.sleep(0.5)
    assert trio.current_time() - net.times(THERE)[-1] <= 0.5
    assert len(net.times(ELSEWHERE)) == before
