"""M1-M5: what is signed, how it is padded, and by what an envelope is known."""

import hashlib
import json
import uuid
from dataclasses import fields, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from model.test_address import ADDRESSES
from vectors.make import ENVELOPE, LETTER, MESSAGE, RECEIPT

from ampd.model.encoding import decode, encode
from ampd.model.errors import Invalid
from ampd.model.message import (
    MAX_ENVELOPE,
    MAX_RECIPIENTS,
    PRIORITIES,
    STAGES,
    Delivery,
    Envelope,
    Letter,
    Message,
    Receipt,
    Recipient,
    digest,
    id_from_text,
    id_text,
    new_id,
)

IDS = st.binary(min_size=16, max_size=16)
KEYS = st.binary(min_size=32, max_size=32)
NUMBERS = st.integers(0, (1 << 63) - 1)
RECIPIENTS = st.builds(Recipient, ADDRESSES, KEYS, st.integers(1, (1 << 63) - 1))
MESSAGES = st.builds(
    Message,
    id=IDS,
    sender=ADDRESSES,
    to=st.lists(RECIPIENTS, min_size=1, max_size=3, unique_by=lambda to: to.key).map(tuple),
    epoch=st.binary(min_size=8, max_size=8),
    sent=NUMBERS,
    expires=NUMBERS,
    thread=IDS,
    in_reply_to=st.none() | IDS,
    priority=st.sampled_from(PRIORITIES),
    type=st.text(min_size=1, max_size=64),
    subject=st.text(max_size=256),
    body=st.text(max_size=200),
    payload=st.none() | st.text(),
    context=st.none() | st.text(),
    receipt=st.booleans(),
)
MEMBERS = {"sender": "from", "in_reply_to": "re"}


@given(MESSAGES)
def test_a_message_comes_back_from_its_bytes(message):
    assert Message.from_bytes(message.to_bytes()) == message


@given(st.binary(max_size=200))
def test_any_bytes_are_a_message_or_invalid(data):
    for kind in (Message, Receipt, Letter):
        with pytest.raises(Invalid):
            kind.from_bytes(data)


def test_every_field_that_a_reader_is_shown_is_in_the_signed_bytes():
    named = {MEMBERS.get(field.name, field.name) for field in fields(Message)}
    assert set(decode(MESSAGE.to_bytes())) == named | {"v"}


@pytest.mark.parametrize("member", sorted(decode(MESSAGE.to_bytes())))
def test_every_member_of_a_message_is_needed_and_of_its_type(member):
    members = decode(MESSAGE.to_bytes())
    fitting = type(members[member])
    for wrong in (None, "text", b"bytes", -1, 2, True, [None], {"a": 1}):
        nullable = wrong is None and member in ("re", "payload", "context")
        free = isinstance(wrong, fitting) and member in ("type", "subject", "body", "payload")
        number = wrong == 2 and member in ("sent", "expires")
        if nullable or free or number or (wrong is True and member == "receipt"):
            continue
        if wrong == "text" and member == "context":
            continue
        with pytest.raises(Invalid):
            Message.from_bytes(encode(members | {member: wrong}))
    del members[member]
    with pytest.raises(Invalid):
        Message.from_bytes(encode(members))


def test_m1_a_recipient_is_an_address_a_key_and_an_order_number():
    signed = decode(MESSAGE.to_bytes())["to"]
    assert signed == [[str(to.address), to.key, to.order] for to in MESSAGE.to]


@pytest.mark.parametrize("order", [0, -1, True, 1 << 63, "1", None])
def test_m1_an_order_number_is_a_whole_number_from_1(order):
    members = decode(MESSAGE.to_bytes())
    members["to"][0][2] = order
    with pytest.raises(Invalid):
        Message.from_bytes(encode(members))


def test_m1_nobody_is_named_twice_so_that_one_order_number_counts():
    first = MESSAGE.to[0]
    other = replace(first, address=replace(first.address, name="rob"), order=first.order + 1)
    twice = replace(MESSAGE, to=(first, other))
    with pytest.raises(Invalid):
        Message.from_bytes(twice.to_bytes())


@pytest.mark.parametrize("count", [0, MAX_RECIPIENTS + 1])
def test_m1_a_message_has_one_to_a_hundred_recipients(count):
    to = tuple(replace(MESSAGE.to[0], key=digest(b"%d" % number)) for number in range(count))
    with pytest.raises(Invalid):
        Message.from_bytes(replace(MESSAGE, to=to).to_bytes())
    if to:
        assert len(Message.from_bytes(replace(MESSAGE, to=to[1:]).to_bytes()).to) == MAX_RECIPIENTS


@given(st.integers(0, (1 << 48) - 1), st.binary(min_size=10, max_size=10))
def test_m2_an_id_is_a_uuid_of_version_7_that_sorts_by_time(now, chance):
    identifier = uuid.UUID(bytes=new_id(now, chance))
    assert (identifier.version, identifier.variant) == (7, uuid.RFC_4122)
    assert identifier.int >> 80 == now
    assert id_from_text(id_text(identifier.bytes)) == identifier.bytes


@given(IDS)
def test_m2_an_id_has_one_text(identifier):
    text = id_text(identifier)
    assert id_from_text(text.upper()) == identifier
    for other in (f"{{{text}}}", f"urn:uuid:{text}", text.replace("-", ""), f" {text}", text[:-1]):
        with pytest.raises(Invalid):
            id_from_text(other)


@pytest.mark.parametrize("text", ['{"a": 1.50,  "b":[1e400]}', '"\\ud800"', "[]", " 1 ", "{}"])
def test_m3_json_stays_byte_for_byte_as_it_was_written(text):
    again = Message.from_bytes(replace(MESSAGE, payload=text, context=text).to_bytes())
    assert (again.payload, again.context) == (text, text)
    json.loads(text)


@given(st.binary(max_size=3000), st.binary(max_size=600))
def test_m4_a_letter_comes_back_and_its_size_is_a_bucket(signed, card):
    letter = Letter("message", signed, card)
    padded = letter.to_bytes()
    assert Letter.from_bytes(padded) == letter
    content = 4 + int.from_bytes(padded[:4], "big")
    assert len(padded) == max(512, len(padded))
    assert content <= len(padded) <= max(512, content * 1.12)


def test_m4_few_sizes_leave_the_node():
    sizes = {len(Letter("message", bytes(size), b"").to_bytes()) for size in range(0, 20_000, 7)}
    assert len(sizes) < 90


@pytest.mark.parametrize("at", [0, 1, 4, -1])
def test_m4_an_altered_length_or_padding_is_refused(at):
    padded = bytearray(LETTER.to_bytes())
    padded[at] ^= 1
    with pytest.raises(Invalid):
        Letter.from_bytes(bytes(padded))


def test_m4_every_length_of_padding_but_the_one_is_refused():
    padded = LETTER.to_bytes()
    for other in [padded + bytes(more) for more in (1, 64, 512)] + [padded[:-1], b"", b"\0" * 3]:
        with pytest.raises(Invalid):
            Letter.from_bytes(other)


def test_m4_a_letter_holds_a_message_or_a_receipt_and_a_card_of_a_cards_size():
    for wrong in (Letter("parcel", b"", b""), Letter("message", b"", bytes(16385))):
        with pytest.raises(Invalid):
            Letter.from_bytes(wrong.to_bytes())


def test_m5_an_envelope_is_known_by_the_hash_of_its_sealed_bytes():
    assert ENVELOPE.id == hashlib.blake2b(ENVELOPE.sealed, digest_size=32).digest()
    assert replace(ENVELOPE, expires=0, mailbox=bytes(16)).id == ENVELOPE.id
    assert replace(ENVELOPE, sealed=ENVELOPE.sealed + b"\0").id != ENVELOPE.id


@given(IDS, NUMBERS, st.binary())
def test_m5_an_envelope_comes_back_from_its_wire_form(mailbox, expires, sealed):
    envelope = Envelope(mailbox, expires, sealed)
    assert Envelope.from_wire(decode(encode(envelope.to_wire()))) == envelope


@pytest.mark.parametrize(
    "value",
    [
        None, [], {}, [bytes(16), 1], [bytes(15), 1, b""], [bytes(16), -1, b""],
        [bytes(16), 1 << 63, b""], [bytes(16), True, b""], [bytes(16), 1, ""],
        [bytes(16), 1, b"", 0], [bytes(16), 1, bytes(MAX_ENVELOPE + 1)],
    ],
    ids=lambda value: repr(value)[:40],
)  # fmt: skip
def test_m5_anything_else_is_no_envelope(value):
    with pytest.raises(Invalid):
        Envelope.from_wire(value)


@given(IDS, KEYS, ADDRESSES, ADDRESSES, st.sampled_from(STAGES), NUMBERS)
def test_a_receipt_comes_back_from_its_bytes(identifier, signed, recipient, sender, stage, at):
    receipt = Receipt(identifier, signed, recipient, sender, stage, at)
    assert Receipt.from_bytes(receipt.to_bytes()) == receipt


def test_a_receipt_of_a_stage_nobody_knows_is_refused():
    with pytest.raises(Invalid):
        Receipt.from_bytes(replace(RECEIPT, stage="lost").to_bytes())


def test_a_delivery_without_a_receipt_says_only_how_far():
    assert Delivery("relayed") == Delivery("relayed", b"")
    assert digest(b"") == hashlib.blake2b(b"", digest_size=32).digest()
