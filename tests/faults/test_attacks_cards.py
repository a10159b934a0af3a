"""Cards that are signed well and mean harm: what a stranger on the network can make of its own.

Each test says what the attacker gains if it fails.
"""

import fakes
import pytest
from fakes import START, message, post, resigned, sign

from ampd.core import cards
from ampd.crypto.keys import check_sealing
from ampd.model.errors import Refused

# X25519 points whose multiples are zero (RFC 7748, section 6.1; Curve25519 has these and no other)
LOW_ORDER = [
    bytes(32),
    (1).to_bytes(32, "little"),
    bytes.fromhex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800"),
    bytes.fromhex("5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157"),
    (2**255 - 20).to_bytes(32, "little"),
    (2**255 - 19).to_bytes(32, "little"),
    (2**255 - 18).to_bytes(32, "little"),
]


@pytest.fixture
def clock():
    return fakes.Clock()


@pytest.fixture
async def alice_and_bob(tmp_path, clock):
    async with (
        fakes.node(tmp_path, "here", clock=clock) as here,
        fakes.node(tmp_path, "there", clock=clock) as there,
    ):
        yield here, await here.agent("alice"), await there.agent("bob")


@pytest.mark.parametrize("key", LOW_ORDER, ids=lambda key: key.hex()[:8])
def test_no_key_of_low_order_is_taken_for_one_to_seal_to(key):
    with pytest.raises(Refused):
        check_sealing(key)


@pytest.mark.parametrize("field", ["inbox", "fallback"])
@pytest.mark.parametrize("key", LOW_ORDER[:3], ids=["0", "1", "e0"])
async def test_mail_of_somebody_who_cannot_be_answered_is_read_and_acked(alice_and_bob, field, key):
    """Else one message makes itself unreadable, and `amp ack --all` fail for good."""
    here, alice, bob = alice_and_bob
    card = resigned(bob, **{field: key}, inbox_until=START * (field == "inbox") * 2)
    what = message(bob, alice)
    await here.mailbox.deliver(post(sign(bob, what), alice, card=card), b"n" * 32)
    (full,) = await here.reading.get(alice, ["1"])
    await here.marks.shown(alice, [full])
    assert len(await here.marks.set_all(alice, 2)) == 1


async def test_a_card_that_cannot_be_sealed_to_replaces_none(alice_and_bob):
    """Else letters that wait for one stranger fail at each offer, and hold up all behind them
    at whichever node that card names."""
    here, _, bob = alice_and_bob
    await here.contacts.learn([bob.signed_card], b"n" * 32, "lan")
    poison = resigned(bob, inbox=bytes(32), nodes=(b"v" * 32,))
    await here.contacts.learn([poison], b"n" * 32, "lan")
    assert here.contacts.card(bob.key) == bob.card


async def test_a_crowd_of_strangers_keeps_nobody_from_being_answered(alice_and_bob, monkeypatch):
    """Else whoever fills the address book by sight cuts off all that come later."""
    here, alice, bob = alice_and_bob
    monkeypatch.setattr(cards, "MAX_STRANGERS", 0)
    what = message(bob, alice)
    await here.mailbox.deliver(post(sign(bob, what), alice, card=bob.signed_card), b"n" * 32)
    assert here.contacts.card(bob.key) == bob.card
