"""What waits, and for whom: the rules of core/queues.py."""

import fakes
import pytest
from fakes import START

from ampd.core.queues import Queue, queues
from ampd.crypto.keys import SigningKey
from ampd.model.address import NodeUri
from ampd.storage.records import Progress

BOB = "bob@there.local"
FIRST, SECOND = (NodeUri(SigningKey(bytes([n]) * 32).public, f"r{n}.example", 4161) for n in (1, 2))


@pytest.fixture
async def ready(node, other, alice, bob):
    """Our node knows bob by a card that names two relays."""
    await other.agents.use_relays((str(FIRST), str(SECOND)))
    await node.meet(other)
    return node


def relayed(node, agent):
    """A relay has what was sent last."""
    message = node.outbox()[-1]["message"]
    return node.store.write(
        lambda tx: tx.append(Progress(message, agent.key, 0, "relayed", "relay", tx.now))
    )


async def test_c1_c2_what_waits_is_counted_for_each_node_and_relay_of_the_card(
    ready, other, alice, clock
):
    for at in (1, 2, 3):
        clock.time = START + at
        await ready.send(alice, BOB, "hello")
    there = Queue(3, START + 1)
    found = queues(ready.store)
    assert found.nodes == {other.key.public: there}
    assert found.relays == {FIRST.key: there, SECOND.key: there}
    assert found.of(other.key.public) == found.of(FIRST.key) == there
    assert found.of(b"n" * 32) == Queue()


async def test_c2_what_a_relay_has_waits_for_the_node_only(ready, other, alice, clock):
    clock.time = START + 1
    await ready.send(alice, BOB, "hello")
    await relayed(ready, alice)
    assert queues(ready.store).nodes == {other.key.public: Queue(1, START + 1)}
    assert queues(ready.store).relays == {}
    clock.time = START + 2
    await ready.send(alice, BOB, "again")
    assert queues(ready.store).of(FIRST.key) == Queue(1, START + 2)
    assert queues(ready.store).of(other.key.public) == Queue(2, START + 1)


async def test_c2_of_a_contact_link_only_the_relays_count(node, alice, other, bob):
    await other.agents.use_relays((str(FIRST),))
    await node.contacts.add(fakes.link(bob, relays=(FIRST,)))
    await node.send(alice, BOB, "hello")
    found = queues(node.store)
    assert found.nodes == {} and found.of(FIRST.key).count == 1


async def test_receipts_and_letters_to_withdrawn_cards_are_not_counted(ready, other, alice, bob):
    await ready.mailbox.take([fakes.letter(bob, alice)], FIRST.key, "relay")
    assert [row["what"] for row in ready.outbox()] == ["receipt"]
    assert queues(ready.store).nodes == {}
    await ready.send(alice, BOB, "hello")
    await other.agents.remove("bob", purge=False)
    await ready.meet(other)
    assert queues(ready.store).nodes == {}
