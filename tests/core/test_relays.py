"""The relays of this node: the rules of core/relays.py."""

from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from ampd.core.relays import MAX_RELAYS, Relays
from ampd.crypto.keys import SigningKey
from ampd.model.address import NodeUri, RelayUri
from ampd.model.errors import Invalid, Refused, Unavailable


def uri(number, host=""):
    key = SigningKey(bytes([number]) * 32).public
    return NodeUri(key, host or f"r{number}.example", 4161)


def text(number, token=b""):
    return str(RelayUri(uri(number), token)) if token else str(uri(number))


class Sessions:
    """Sessions with the relays that are `up`; each keeps what it was asked."""

    def __init__(self, node):
        self.node = node
        self.up = {}  # relay -> the session's number
        self.domains = {}  # of nodes that are no relays
        self.members = None  # None: everybody
        self.collected = {}
        self.joined = []
        self.shown = 0
        self.asked = []
        self.known = {}  # relay -> cards
        self.hang = False

    def connect(self, number, session):
        self.up[uri(number).key] = session

    def session_id(self, node):
        return self.up.get(node, 0)

    def connected(self, domains):
        return {node for node, domain in self.domains.items() if {"", domain} & set(domains)}

    async def join(self, node, token):
        await trio.lowlevel.checkpoint()
        self.joined.append((node, token))
        if self.members is not None:
            if token != b"t" * 16:
                raise Refused("this invitation is unknown, used or past its time")
            self.members.add(node)

    async def collect(self, node, cards):
        await trio.lowlevel.checkpoint()
        if self.hang:
            await trio.sleep_forever()
        if self.members is not None and node not in self.members:
            raise Refused("this relay does not know your node")
        self.collected.setdefault(node, []).append(list(cards))

    async def show_cards(self):
        await trio.lowlevel.checkpoint()
        self.shown += 1

    async def want_cards(self, node, addresses):
        await trio.lowlevel.checkpoint()
        if self.hang:
            await trio.sleep_forever()
        if node not in self.up:
            raise Unavailable("there is no session with this node")
        self.asked.append((node, tuple(addresses)))
        await self.node.contacts.learn(self.known.get(node, []), node, "relay")


@pytest.fixture
def sessions(node):
    return Sessions(node)


def made(node, sessions, settings=(), keys=None):
    keys = set() if keys is None else keys
    return Relays(node.store, node.agents, sessions, node.whereabouts, settings, keys)


@asynccontextmanager
async def running(relays):
    async with trio.open_nursery() as nursery:
        nursery.start_soon(relays.run)
        await wait_all_tasks_blocked()
        yield relays
        nursery.cancel_scope.cancel()


async def settled(node):
    node.whereabouts.wake()
    await wait_all_tasks_blocked(0.01)


# I1: which, and in which order


async def test_i1_the_settings_come_first_and_added_ones_survive_a_restart(node, sessions):
    settings = [RelayUri(uri(3), b"")]
    relays = made(node, sessions, settings)
    await relays.add(text(2))
    await relays.add(text(1))
    order = [str(uri(n)) for n in (3, 2, 1)]
    assert list(relays.uris) == order
    assert list(made(node, sessions, settings).uris) == order
    assert [s.source for s in relays.states()] == ["settings", "added", "added"]


async def test_i1_what_was_removed_is_gone_also_after_a_restart(node, sessions):
    keys = set()
    relays = made(node, sessions, keys=keys)
    await relays.add(text(1))
    assert keys == {uri(1).key}
    await relays.remove(text(1))
    assert keys == set()
    assert relays.uris == () and made(node, sessions).uris == ()
    assert node.whereabouts.endpoints(uri(1).key) == []


async def test_i1_a_relay_that_moved_is_used_at_its_new_place_only(node, sessions):
    relays = made(node, sessions)
    await relays.add(text(1))
    await relays.add(str(uri(1, "new.example")))
    assert made(node, sessions).uris == relays.uris == (str(uri(1, "new.example")),)
    await relays.remove(str(uri(1, "new.example")))
    assert made(node, sessions).uris == ()


async def test_i1_a_relay_of_the_settings_is_not_removed_here(node, sessions):
    relays = made(node, sessions, [RelayUri(uri(1), b"")])
    with pytest.raises(Invalid, match="stands in the settings"):
        await relays.remove(text(1))
    with pytest.raises(Refused, match="no relay of this node") as refused:
        await relays.remove(text(2))
    assert refused.value.code == "contact_unknown"


async def test_i1_there_is_an_end_to_how_many(node, sessions):
    relays = made(node, sessions)
    for n in range(MAX_RELAYS):
        await relays.add(text(n + 1))
    with pytest.raises(Refused, match="in use already"):
        await relays.add(text(100))
    await relays.add(text(1))  # one of them again


async def test_i1_a_relay_is_removed_by_the_address_that_is_used(node, sessions):
    relays = made(node, sessions)
    await relays.add(text(1))
    with pytest.raises(Invalid, match=r"is used at r1\.example:4161"):
        await relays.remove(text(1).replace(":4161", ":9999"))
    assert len(relays.states()) == 1
    await relays.remove(text(1))
    assert relays.states() == []


async def test_i1_a_node_is_not_its_own_relay(node, sessions):
    relays = made(node, sessions)
    with pytest.raises(Invalid, match="the node itself"):
        await relays.add(str(NodeUri(node.key.public, "r1.example", 4161)))


@pytest.mark.parametrize("members", [None, set()])
async def test_i2_who_adds_a_relay_can_wait_for_its_answer(node, sessions, alice, members):
    sessions.members = members
    async with running(made(node, sessions)) as relays:
        sessions.connect(1, 1)
        await relays.add(text(1))
        await relays.answer(text(1))
        (state,) = relays.states()
        assert (state.collecting, bool(state.last_error)) == (
            (1, False) if members is None else (0, True)
        )


async def test_i2_a_relay_that_is_away_is_waited_for_some_seconds(autojump_clock, node, sessions):
    relays = made(node, sessions, [RelayUri(uri(1), b"")])
    begin = trio.current_time()
    await relays.answer(text(1))
    assert trio.current_time() - begin == 5


# I2: with every session


async def test_i2_every_session_asks_for_the_mail_of_all_agents(node, sessions, alice):
    async with running(made(node, sessions, [RelayUri(uri(1), b"")])) as relays:
        assert node.whereabouts.endpoints(uri(1).key) == [("r1.example", 4161)]
        for session in (1, 2):
            sessions.connect(1, session)
            await settled(node)
            await settled(node)
        assert sessions.collected == {uri(1).key: [node.agents.cards()] * 2}
        assert relays.states()[0].collecting == 2


async def test_i2_a_new_agents_mail_is_asked_for_at_once(node, sessions, alice):
    async with running(made(node, sessions, [RelayUri(uri(1), b"")])) as relays:
        sessions.connect(1, 1)
        await settled(node)
        await node.agent("carol")
        relays.cards_changed()
        await wait_all_tasks_blocked(0.01)
        assert len(sessions.collected[uri(1).key][-1]) == 2


async def test_i2_an_invitation_is_redeemed_once_also_after_a_restart(node, sessions, alice):
    sessions.members = set()
    async with running(made(node, sessions)) as relays:
        await relays.add(text(1, b"t" * 16))
        for session in (1, 2):
            sessions.connect(1, session)
            await settled(node)
    async with running(made(node, sessions)) as relays:
        sessions.connect(1, 3)
        await settled(node)
        assert relays.states()[0].collecting == 3
    assert sessions.joined == [(uri(1).key, b"t" * 16)]


async def test_i2_a_refusal_is_shown_and_tried_again_later(node, sessions, alice):
    sessions.members = set()
    async with running(made(node, sessions, [RelayUri(uri(1), b"")])) as relays:
        sessions.connect(1, 1)
        await settled(node)
        assert "does not know your node" in relays.states()[0].last_error
        sessions.members.add(uri(1).key)
        await settled(node)
        assert relays.states()[0].last_error == ""


async def test_i2_a_relay_that_does_not_answer_keeps_no_other_waiting_for_long(
    autojump_clock, node, sessions, alice
):
    sessions.hang = True
    async with running(made(node, sessions, [RelayUri(uri(1), b"")])) as relays:
        sessions.connect(1, 1)
        node.whereabouts.wake()
        await trio.sleep(11)
        assert "does not answer" in relays.states()[0].last_error


# I3: who somebody is


async def test_i3_every_relay_that_is_there_is_asked_and_its_card_is_learned(
    node, other, bob, sessions
):
    relays = made(node, sessions, [RelayUri(uri(n), b"") for n in (1, 2, 3)])
    sessions.connect(1, 1)
    sessions.connect(3, 1)
    sessions.known[uri(3).key] = [b"rubbish", bob.signed_card]
    await relays.find(["bob@there.local"])
    assert {node for node, _ in sessions.asked} == {uri(1).key, uri(3).key}
    assert node.contacts.resolve("bob@there.local").key == bob.key


async def test_i3_a_neighbour_whose_contact_was_removed_is_asked_again(node, other, bob, sessions):
    relays = made(node, sessions)
    await node.meet(other)
    there, elsewhere = b"b" * 32, b"e" * 32
    sessions.up = {there: 1, elsewhere: 1}
    sessions.domains = {there: "there.local", elsewhere: "else.local"}
    sessions.known[there] = [bob.signed_card]
    await node.contacts.remove("bob@there.local")
    await relays.find(["Bob@There.local"])
    assert [node for node, _ in sessions.asked] == [there]
    assert node.contacts.resolve("bob@there.local").key == bob.key


async def test_i3_who_asks_for_everybody_waits_for_no_neighbour(node, sessions):
    relays = made(node, sessions)
    sessions.up = {b"b" * 32: 1}
    sessions.domains = {b"b" * 32: "there.local"}
    await relays.find([""])
    assert sessions.asked == []


async def test_i3_a_relay_that_hangs_costs_seconds(autojump_clock, node, sessions):
    relays = made(node, sessions, [RelayUri(uri(1), b"")])
    sessions.connect(1, 1)
    sessions.hang = True
    begin = trio.current_time()
    await relays.find(["bob@there.local"])
    assert trio.current_time() - begin <= 5


# I4: the cards name them


async def test_i4_the_cards_of_the_agents_follow_what_is_used(node, sessions, alice):
    relays = made(node, sessions)
    await relays.add(text(1))
    assert node.agents.named("alice").card.relays == (str(uri(1)),)
    await relays.remove(text(1))
    assert node.agents.named("alice").card.relays == ()
    assert sessions.shown == 2


async def test_i4_an_invitation_is_never_in_a_card(node, sessions, alice):
    relays = made(node, sessions)
    await relays.add(text(1, b"t" * 16))
    assert node.agents.named("alice").card.relays == (str(uri(1)),)


@pytest.mark.parametrize("wrong", ["@" + "x" * 300, "é@there.local", "@a\nb", "@\x00"])
async def test_i3_what_no_address_can_be_is_not_asked_for(node, sessions, wrong):
    """Any local program may say it, and a relay ends the session of who asks for it."""
    sessions.connect(1, 1)
    relays = made(node, sessions, [RelayUri(uri(1))])
    await relays.find([wrong])
    await relays.find([wrong, "bob@there.local"])
    assert [addresses for _, addresses in sessions.asked] == [("bob@there.local",)]
