"""C1-C3, as far as a card alone can keep them; which card counts is core's business."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from model.test_address import ADDRESSES, URIS
from vectors.make import CARD

from ampd.model.card import MAX_CARD, Card
from ampd.model.encoding import decode, encode
from ampd.model.errors import Invalid

NUMBERS = st.integers(0, (1 << 63) - 1)
KEYS = st.binary(min_size=32, max_size=32)
CARDS = st.builds(
    Card,
    address=ADDRESSES,
    number=NUMBERS,
    issued=NUMBERS,
    mailbox=st.binary(min_size=16, max_size=16),
    nodes=st.lists(KEYS, max_size=16).map(tuple),
    inbox=KEYS,
    inbox_until=NUMBERS,
    fallback=KEYS,
    relays=st.lists(URIS.map(str), max_size=2).map(tuple),
    alias=st.text(max_size=128),
    description=st.text(max_size=200),
    capabilities=st.lists(st.text(max_size=64), max_size=8).map(tuple),
    withdrawn=st.booleans(),
)


@given(CARDS)
def test_a_card_comes_back_from_its_bytes(card):
    assert Card.from_bytes(card.to_bytes()) == card


@given(NUMBERS, NUMBERS)
def test_c1_the_number_that_orders_cards_is_in_the_signed_bytes(one, other):
    cards = [Card.from_bytes(replace(CARD, number=number).to_bytes()) for number in (one, other)]
    assert max(cards, key=lambda card: card.number).number == max(one, other)


def test_c2_a_withdrawn_card_says_so_and_an_older_one_cannot_be_read_as_one():
    gone = replace(CARD, number=CARD.number + 1, withdrawn=True)
    assert Card.from_bytes(gone.to_bytes()).withdrawn
    assert not Card.from_bytes(CARD.to_bytes()).withdrawn


@pytest.mark.parametrize("later", [-1, 0, 1])
def test_c3_mail_is_sealed_to_the_inbox_key_before_its_end_and_then_to_the_fallback(later):
    expected = CARD.inbox if later < 0 else CARD.fallback
    assert CARD.seal_to(CARD.inbox_until + later) == expected


def test_a_card_over_its_limit_is_refused_before_it_is_read():
    with pytest.raises(Invalid) as caught:
        Card.from_bytes(b"\xff" * (MAX_CARD + 1))
    assert caught.value.code == "too_large"


@pytest.mark.parametrize("member", sorted(decode(CARD.to_bytes())))
def test_every_member_of_a_card_is_needed_and_of_its_type(member):
    members = decode(CARD.to_bytes())
    for wrong in (1.5, object):
        with pytest.raises(Invalid):
            encode(members | {member: wrong})
    for wrong in (None, "\0" * 2000, b"\0" * 5, -1, True, [None], {"a": 1}):
        if (wrong, member) != (True, "withdrawn"):
            with pytest.raises(Invalid):
                Card.from_bytes(encode(members | {member: wrong}))
    del members[member]
    with pytest.raises(Invalid):
        Card.from_bytes(encode(members))
