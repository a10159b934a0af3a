"""What one member of a relay can do to another: nothing that keeps its mail from it."""

import random

import pytest
import trio
from core.test_relay import MEMBER, OTHER, RELAY, START, Collectors, card, mail

from ampd.core.relay import Allowance, RelayDoor
from ampd.core.relay_directory import CardBook
from ampd.crypto.keys import SigningKey
from ampd.model.card import mailbox_of
from ampd.storage.relay_store.port import Limits
from ampd.storage.relay_store.sqlite import SqliteRelayStore

CROWD = 1010  # more cards than any answer holds


@pytest.fixture
async def relay(tmp_path, nursery):
    store = SqliteRelayStore(tmp_path / "relay.sqlite", Limits(), lambda: START)
    await nursery.start(store.run)
    book = CardBook(store, RELAY)
    found = RelayDoor(store, book, lambda: START, random.Random(1), Allowance(everybody=True))
    found.carrier = Collectors()
    await nursery.start(found.run, found.carrier)
    yield found
    nursery.cancel_scope.cancel()


async def test_a_crowd_that_claims_the_same_address_keeps_nobody_from_its_mailbox(relay):
    """Else any member shuts another one out, who is told that its mail is being collected."""
    keys = sorted((SigningKey(n.to_bytes(32, "big")) for n in range(CROWD)), key=lambda k: k.public)
    victim = keys.pop()  # behind all others in whatever order of keys
    mine = card(victim)
    await relay.collect([mine], MEMBER)
    await relay.left(MEMBER)
    crowd = [card(key, nodes=(OTHER,)) for key in keys]
    for start in range(0, CROWD, 64):
        await relay.learn(crowd[start : start + 64], OTHER)
    await relay.deliver(mail(1, mailbox_of(victim.public)), OTHER)
    await relay.collect([mine], MEMBER)  # as with every new session, and with the same card
    with trio.fail_after(10):
        while not relay.carrier.taken:
            await relay.carrier.news.wait()
    assert relay.carrier.nodes == {MEMBER}
