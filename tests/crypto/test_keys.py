"""K1-K4: a signature is for one purpose, a key is a real one, a seal is for one key."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from vectors import second_implementation
from vectors.make import ALICE, BOB, CARD, MESSAGE, NODE, RECEIPT, SIGNED, mixed

from ampd.crypto.keys import (
    OpeningKey,
    SigningKey,
    check_public,
    open1,
    random_bytes,
    seal,
    seal_to_signer,
    verify,
)
from ampd.model.card import CARD_CONTEXT
from ampd.model.encoding import decode, encode
from ampd.model.errors import Invalid, Refused
from ampd.model.message import MESSAGE_CONTEXT, RECEIPT_CONTEXT

CONTEXTS = (
    "ampd/message/1",
    "ampd/card/1",
    "ampd/receipt/1",
    "ampd/noise-static/1",
    "ampd/rotate/1",
)
assert {MESSAGE_CONTEXT, CARD_CONTEXT, RECEIPT_CONTEXT} == set(CONTEXTS[:3])
PAYLOADS = {"message": MESSAGE.to_bytes(), "card": CARD.to_bytes(), "receipt": RECEIPT.to_bytes()}


def forged(call, *arguments):
    with pytest.raises(Refused) as caught:
        call(*arguments)
    assert caught.value.code == "forged"


@given(st.binary(max_size=200), st.sampled_from(CONTEXTS))
def test_k1_what_was_signed_verifies_in_its_context(message, context):
    verify(ALICE.public, context, message, ALICE.sign(context, message))
    assert open1(ALICE.sign1(context, message), context) == (ALICE.public, message)


@pytest.mark.parametrize("of", CONTEXTS)
@pytest.mark.parametrize("shown_as", CONTEXTS)
def test_k1_a_signature_of_one_context_is_refused_in_every_other(of, shown_as):
    for payload in (b"", bytes(32), *PAYLOADS.values()):
        if of == shown_as:
            verify(NODE.public, of, payload, NODE.sign(of, payload))
            open1(NODE.sign1(of, payload), of)
        else:
            forged(verify, NODE.public, shown_as, payload, NODE.sign(of, payload))
            forged(open1, NODE.sign1(of, payload), shown_as)


@pytest.mark.parametrize("of", CONTEXTS)
@pytest.mark.parametrize("shown_as", CONTEXTS)
def test_k1_a_longer_signature_cannot_swallow_one_context_to_hold_in_another(of, shown_as):
    """What a victim signed for `of` ends in what it never signed for `shown_as`."""
    payload = b"what the attacker wants"
    swallowed = f"{of}\0".encode()
    bait = f"{shown_as}\0".encode() + payload
    forged(verify, NODE.public, shown_as, payload, NODE.sign(of, bait) + swallowed)


@given(st.binary(max_size=100))
def test_k1_a_cose_signature_is_no_bare_one_and_the_other_way_round(payload):
    protected, _, _, signature = decode(ALICE.sign1("ampd/card/1", payload))
    forged(verify, ALICE.public, "ampd/card/1", payload, signature)
    bare = ALICE.sign("ampd/card/1", payload)
    forged(open1, encode([protected, {}, payload, bare]), "ampd/card/1")


@pytest.mark.parametrize("size", [0, 1, 63, 65, 128])
def test_k1_a_signature_has_64_bytes(size):
    whole = ALICE.sign("ampd/card/1", b"\0" * 64) + bytes(64)
    forged(verify, ALICE.public, "ampd/card/1", b"\0" * 64, whole[:size])


def torsion():
    """All points of low order, in every spelling of 32 bytes that decodes to one."""
    p, d = second_implementation.P, second_implementation.D
    root = pow(2, (p - 1) // 4, p)
    # y^2 of the points of order 8: the roots of d*y^4 + 2*y^2 - 1 = 0, from x^2 = -y^2
    half = pow(1 + d, (p + 3) // 8, p)
    half = half if half * half % p == (1 + d) % p else half * root % p
    ys = {0, 1, p - 1}
    for square in ((-1 + half) * pow(d, -1, p) % p, (-1 - half) * pow(d, -1, p) % p):
        y = pow(square, (p + 3) // 8, p)
        y = y if y * y % p == square else y * root % p
        if y * y % p == square:
            ys |= {y, p - y}
    spelled = {y + more for y in ys for more in (0, p) if y + more < 1 << 255}
    return sorted((y | sign << 255).to_bytes(32, "little") for y in spelled for sign in (0, 1))


def test_k2_there_are_fourteen_spellings_of_the_points_of_low_order():
    assert len(torsion()) == 14


@pytest.mark.parametrize("key", torsion(), ids=bytes.hex)
def test_k2_a_key_of_low_order_is_refused_in_each_of_its_spellings(key):
    forged(check_public, key)
    forged(verify, key, "ampd/card/1", b"", b"\1" + bytes(63))
    forged(
        open1, encode([b"\xa2\x01\x27\x04\x58\x20" + key, {}, b"", b"\1" + bytes(63)]), CONTEXTS[0]
    )


@given(st.binary(min_size=32, max_size=32))
def test_k2_a_key_with_a_component_of_low_order_is_refused(seed):
    key = SigningKey(seed).public
    assert check_public(key) == key
    forged(check_public, mixed(key))


@given(st.integers(0, 18), st.booleans())
def test_k2_a_key_in_a_non_canonical_form_is_refused(y, sign):
    key = (second_implementation.P + y | sign << 255).to_bytes(32, "little")
    forged(check_public, key)


@pytest.mark.parametrize("size", [0, 31, 33, 64])
def test_k2_a_key_has_32_bytes(size):
    forged(check_public, bytes(size))


@given(st.binary(min_size=32, max_size=32))
def test_k2_the_second_implementation_judges_every_key_alike(key):
    try:
        second_implementation.public(key)
    except second_implementation.Wrong:
        forged(check_public, key)
    else:
        assert check_public(key) == key


@pytest.mark.parametrize("kind", PAYLOADS)
def test_k3_a_flip_of_any_bit_of_what_was_signed_is_refused(kind):
    context = f"ampd/{kind}/1"
    signed = ALICE.sign1(context, PAYLOADS[kind])
    assert open1(signed, context) == (ALICE.public, PAYLOADS[kind])
    for bit in range(8 * len(signed)):
        altered = bytearray(signed)
        altered[bit // 8] ^= 1 << bit % 8
        with pytest.raises(Refused):
            open1(bytes(altered), context)


def test_k3_no_truncation_and_no_addition_is_accepted():
    for end in range(len(SIGNED)):
        with pytest.raises(Invalid):
            open1(SIGNED[:end], "ampd/message/1")
    with pytest.raises(Invalid):
        open1(SIGNED + b"\0", "ampd/message/1")


@pytest.mark.parametrize(
    "protected",
    ["a10127", "a20127044162", "a2012604", "a201270458200000", "a2045820" + "00" * 32 + "0127",
     "a301270300045820" + "00" * 32, "bf0127045820" + "00" * 32 + "ff", ""],
)  # fmt: skip
def test_k3_another_spelling_of_the_header_is_refused(protected):
    _, _, payload, signature = decode(SIGNED)
    with pytest.raises(Invalid):
        open1(encode([bytes.fromhex(protected), {}, payload, signature]), "ampd/message/1")


@pytest.mark.parametrize(
    "value",
    [None, [], [b"", {}, b""], {"a": 1}, [b"", {}, None, bytes(64)], [b"", [], b"", bytes(64)]],
    ids=repr,
)
def test_k3_another_shape_is_refused(value):
    with pytest.raises(Invalid):
        open1(encode(value), "ampd/message/1")


def test_k3_a_header_outside_the_signature_is_refused():
    protected, _, payload, signature = decode(SIGNED)
    with pytest.raises(Invalid):
        open1(encode([protected, {"note": 1}, payload, signature]), "ampd/message/1")


def test_k3_the_signed_bytes_are_those_of_rfc_9052():
    """The bytes to be signed hold the context as external_aad; any COSE library can check."""
    protected, _, payload, signature = decode(SIGNED)
    to_be_signed = encode(["Signature1", protected, b"ampd/message/1", payload])
    second_implementation.signed(ALICE.public, to_be_signed, signature)


@given(st.binary(max_size=1000))
def test_k4_what_was_sealed_opens_with_the_one_key(plaintext):
    reader, other = OpeningKey.generate(), OpeningKey.generate()
    sealed = seal(reader.public, plaintext)
    assert reader.open(sealed) == plaintext
    assert other.open(sealed) is None
    assert second_implementation.unseal(sealed, reader.secret) == plaintext


def test_k4_sealed_twice_is_not_the_same_twice_and_names_nobody():
    reader = OpeningKey.generate()
    one, other = (seal(reader.public, ALICE.public + BOB.public) for _ in range(2))
    assert one[:32] != other[:32]
    assert ALICE.public not in one
    assert reader.public not in one


@given(st.binary(max_size=200))
def test_k4_any_bytes_open_to_nothing(data):
    assert OpeningKey(bytes(range(32))).open(data) is None


def test_k4_a_flip_of_any_bit_of_a_seal_opens_to_nothing():
    reader = OpeningKey(bytes(range(32)))
    sealed = seal(reader.public, b"a letter")
    for bit in range(8 * len(sealed)):
        altered = bytearray(sealed)
        altered[bit // 8] ^= 1 << bit % 8
        # also bit 255, which X25519 ignores in a point: the nonce is made of the whole point
        assert reader.open(bytes(altered)) is None


@pytest.mark.parametrize("public", [bytes(32), b"\1" + bytes(31), bytes(31), b""], ids=bytes.hex)
def test_k4_nothing_is_sealed_to_a_key_of_low_order_or_of_another_size(public):
    forged(seal, public, b"a letter")


@pytest.mark.parametrize("key", [SigningKey(b"\7" * 32), OpeningKey(b"\7" * 32)])
def test_a_secret_is_never_printed(key):
    assert "07070707" not in repr(key)
    assert "\\x07" not in repr(key)


def test_chance_is_as_long_as_asked_for_and_not_the_same_twice():
    assert len(random_bytes(16)) == 16
    assert random_bytes(16) != random_bytes(16)


def test_k5_what_is_sealed_to_a_signing_key_opens_with_its_seed_and_no_other():
    key, other = SigningKey.generate(), SigningKey.generate()
    sealed = seal_to_signer(key.public, b"letter")
    assert SigningKey(key.seed).opening().open(sealed) == b"letter"
    assert other.opening().open(sealed) is None


def test_k5_nothing_is_sealed_to_a_key_of_low_order():
    with pytest.raises(Refused):
        seal_to_signer(bytes(31) + b"\x80", b"letter")
