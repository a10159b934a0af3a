"""Numbers that a sender chooses: order numbers and epochs, over the real socket's documents."""

import fakes
import pytest
from fakes import message, post, sign

from ampd.edge.overview import Overview


@pytest.fixture
async def alice_and_bob(tmp_path):
    clock = fakes.Clock()
    async with (
        fakes.node(tmp_path, "here", clock=clock) as here,
        fakes.node(tmp_path, "there", clock=clock) as there,
    ):
        yield here, await here.agent("alice"), await there.agent("bob")


async def test_order_numbers_as_large_as_may_be_do_not_take_the_status_away(alice_and_bob):
    """Else two messages of a stranger make `amp status` and `amp doctor` fail for good."""
    here, alice, bob = alice_and_bob
    for epoch in (b"epoch  1", b"epoch  2", b"epoch  3"):
        to = fakes.replace(message(bob, alice).to[0], order=(1 << 63) - 1)
        what = message(bob, alice, epoch=epoch)
        await here.mailbox.deliver(post(sign(bob, fakes.replace(what, to=(to,))), alice), b"n" * 32)
    (said,) = Overview._gaps(_only(here.store))
    assert "of bob@there.local to alice never came" in said
    assert len(here.inbox(alice)) == 3


async def test_who_was_blocked_or_removed_is_not_warned_of(alice_and_bob):
    here, alice, bob = alice_and_bob
    for order in (1, 5):
        await here.mailbox.deliver(fakes.letter(bob, alice, order=order), b"n" * 32)
    assert "3 messages of bob" in Overview._gaps(_only(here.store))[0]
    await here.contacts.block("bob@there.local", blocked=True)
    assert Overview._gaps(_only(here.store)) == []
    await here.contacts.block("bob@there.local", blocked=False)
    assert len(Overview._gaps(_only(here.store))) == 1
    await here.contacts.remove("bob@there.local")
    assert Overview._gaps(_only(here.store)) == []


def _only(store):
    """An Overview that knows the store and nothing else."""
    found = object.__new__(Overview)
    object.__setattr__(found, "store", store)
    return found
