"""E1-E5: one spelling a value, and nothing that a hostile one could do to us."""

import contextlib
import random
import tracemalloc

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st
from vectors import second_implementation

from ampd.model.encoding import DEFAULT_LIMIT, MAX_DEPTH, MAX_ITEMS, decode, decode_own, encode
from ampd.model.errors import Invalid

LEAVES = (
    st.none()
    | st.booleans()
    | st.integers(-(1 << 64), (1 << 64) - 1)
    | st.binary(max_size=300)
    | st.text(max_size=300)
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=25) | st.dictionaries(st.text(max_size=40), inner),
    max_leaves=20,
)


def refused(data, **limits):
    with pytest.raises(Invalid) as caught:
        decode(data, **limits)
    return caught.value


@given(VALUES)
def test_e1_what_was_encoded_decodes_to_the_same_value(value):
    assert decode(encode(value)) == value


@given(VALUES)
def test_e1_another_implementation_reads_what_was_encoded(value):
    assert second_implementation.decode(encode(value)) == value


@given(VALUES, st.data())
def test_e1_a_changed_spelling_is_refused_or_another_value(value, data):
    spelled = bytearray(encode(value))
    at = data.draw(st.integers(0, len(spelled) - 1))
    spelled[at] = data.draw(st.integers(0, 255))
    agree_on(bytes(spelled))


@given(st.binary(max_size=60))
def test_e1_whatever_is_accepted_is_its_own_encoding(data):
    agree_on(data)


def agree_on(data):
    """Both implementations accept it as the same value in its one spelling, or both refuse."""
    try:
        theirs = second_implementation.decode(data)
    except second_implementation.Wrong:
        refused(data)
    else:
        assert decode(data) == theirs
        assert encode(theirs) == data


def test_e1_ten_thousand_almost_right_inputs_are_judged_alike_by_both_implementations():
    chance = random.Random(1)
    heads = bytes(range(0x60, 0x84)) + bytes([0, 24, 25, 0x18, 0x40, 0x41, 0x58, 0xA0, 0xA1, 0xA2])
    for _ in range(10_000):
        agree_on(bytes(chance.choices(heads, k=chance.randrange(1, 9))))


@pytest.mark.parametrize(
    ("short", "long"),
    [
        ("17", "1817"),
        ("1818", "190018"),
        ("19ffff", "1a0000ffff"),
        ("1affffffff", "1b00000000ffffffff"),
        ("20", "3800"),
        ("4100", "580100"),
        ("6161", "79000161"),
        ("80", "9800"),
        ("a0", "b800"),
        ("f4", "f814"),
    ],
)
def test_e1_a_longer_spelling_is_refused(short, long):
    decode(bytes.fromhex(short))
    refused(bytes.fromhex(long))


@pytest.mark.parametrize("value", [-(1 << 64), -1, 0, 23, 24, (1 << 64) - 1, "", b"", [], {}])
def test_e2_the_values_at_the_borders_are_kept(value):
    assert decode(encode(value)) == value


@pytest.mark.parametrize(
    "value",
    [1 << 64, -(1 << 64) - 1, 1.0, {1: 2}, {b"k": 1}, {None: 1}, {"a": {1}}, [object()], 1j],
    ids=repr,
)
def test_e2_a_value_outside_the_profile_is_not_encoded(value):
    with pytest.raises(Invalid):
        encode(value)


@pytest.mark.parametrize("value", ["\ud800", ["\udfff"], {"\ud800": 1}], ids=ascii)
def test_e2_half_a_surrogate_pair_from_a_users_json_is_refused(value):
    with pytest.raises(Invalid, match="surrogate"):
        encode(value)


def test_e2_a_tuple_is_an_array():
    assert decode(encode((1, ("a",)))) == [1, ["a"]]


def test_e2_keys_sort_by_length_and_then_by_bytes():
    keys = ["", "a", "b", "aa", "é", "\U0001f600", "x" * 23, "x" * 24, "y" * 255, "y" * 256]
    spelled = encode(dict.fromkeys(reversed(keys)))
    heads = [second_implementation.head(3, len(key.encode())) + key.encode() for key in keys]
    assert spelled == bytes([0xA0 + len(keys)]) + b"".join(head + b"\xf6" for head in sorted(heads))


@pytest.mark.parametrize("width", [1, 2, 3, 5, 9])
def test_e3_no_tag_of_any_number_is_decoded(width):
    """Also one that a later cbor2 learns: the survey refuses all before cbor2 sees them."""
    least, most = {
        1: (0, 24), 2: (24, 256), 3: (256, 1 << 16), 5: (1 << 16, 70_001),
        9: (1 << 63, (1 << 63) + 9),
    }[width]  # fmt: skip
    for number in range(least, most):
        head = bytearray(second_implementation.head(0, number) if number < 1 << 32 else b"\x1b")
        head[0] |= 0xC0
        tag = bytes(head) if number < 1 << 32 else bytes(head) + number.to_bytes(8, "big")
        refused(tag + (b"\x80" if number & 1 else b"\x00"))


@pytest.mark.parametrize("first", range(0xE0, 0x100))
def test_e3_nothing_of_major_type_7_but_false_true_and_null(first):
    for rest in (b"", b"\0", b"\x18", b"\0\0", bytes(4), bytes(8)):
        if first in (0xF4, 0xF5, 0xF6) and not rest:
            assert decode(bytes([first])) in (False, True, None)
        else:
            refused(bytes([first]) + rest)


@pytest.mark.parametrize("head", [f"{major << 5 | 31:02x}" for major in range(8)])
def test_e3_nothing_of_indefinite_length(head):
    refused(bytes.fromhex(head) + b"\xff")
    refused(bytes.fromhex(head) + b"\x41a\xff")


@pytest.mark.parametrize("data", ["0000", "6161f6", "80ff", "a000"])
def test_e3_nothing_behind_the_end(data):
    refused(bytes.fromhex(data))


@pytest.mark.parametrize("data", ["a2616101616101", "a2616101616102", "a3616100616200616100"])
def test_e3_no_key_twice(data):
    refused(bytes.fromhex(data))


def nested(levels):
    return b"\x81" * (levels - 1) + b"\x80"


def test_e4_nesting_ends_at_sixteen():
    assert encode(decode(nested(MAX_DEPTH))) == nested(MAX_DEPTH)
    refused(nested(MAX_DEPTH + 1))
    refused(b"\xa1\x61a" * MAX_DEPTH + b"\xa0")
    value = []
    for _ in range(MAX_DEPTH):
        value = [value]
    with pytest.raises(Invalid, match="nested"):
        encode(value)


def test_e4_a_value_has_at_most_4096_items_and_keys_count():
    assert len(decode(encode([0] * (MAX_ITEMS - 1)))) == MAX_ITEMS - 1
    assert refused(cbor2.dumps([0] * MAX_ITEMS)).code == "too_large"
    assert refused(cbor2.dumps({f"{n:04}": 0 for n in range(MAX_ITEMS // 2)})).code == "too_large"


def test_e4_the_size_is_checked_first():
    assert refused(b"\xff" * (DEFAULT_LIMIT + 1)).code == "too_large"
    assert refused(b"\x61a", limit=1).code == "too_large"
    assert decode(b"\x61a", limit=2) == "a"


BOMBS = {
    "a hundred thousand levels": nested(100_000),
    "an array that claims 2^63": b"\x9b\x80" + bytes(7),
    "a map that claims 2^32": b"\xba\xff\xff\xff\xff",
    "a string that claims a gigabyte": b"\x5a\x40\0\0\0",
    "text that claims 2^64 - 1": b"\x7b" + b"\xff" * 8,
    "a megabyte of empty arrays": b"\x9a\x00\x0f\xff\xf0" + b"\x80" * 0xFFFF0,
    "a megabyte of empty maps": b"\x9a\x00\x0f\xff\xf0" + b"\xa0" * 0xFFFF0,
    "a bignum of a megabyte": b"\xc2\x5a\0\x0f\xff\xf0" + b"\xff" * 0xFFFF0,
    "10^2147483647": bytes.fromhex("c4821a7fffffff01"),
    "a value that holds itself": bytes.fromhex("d81c81d81d00"),
    "arrays that hold arrays 16 times": (b"\x98\xff" * 16 + b"\x00" * 200_000),
    "a regular expression": bytes.fromhex("d82367286128612b29"),
    "a mail": bytes.fromhex("d824") + b"\x78\x40" + b"a: b\n\n" * 10 + b"abcd",
}


@pytest.mark.parametrize("bomb", BOMBS.values(), ids=BOMBS)
def test_e4_a_bomb_is_refused_before_memory_is_spent(bomb):
    tracemalloc.start()
    try:
        refused(bomb)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


@given(st.binary(max_size=400))
def test_e5_nothing_but_invalid_is_raised(data):
    with contextlib.suppress(Invalid):
        decode(data)


# RFC 8949, appendix A: diagnostic notation, encoded. First what our profile has.
IN_THE_PROFILE = {
    "00": 0, "01": 1, "0a": 10, "17": 23, "1818": 24, "1819": 25, "1864": 100, "1903e8": 1000,
    "1a000f4240": 1000000, "1b000000e8d4a51000": 1000000000000,
    "1bffffffffffffffff": 18446744073709551615, "3bffffffffffffffff": -18446744073709551616,
    "20": -1, "29": -10, "3863": -100, "3903e7": -1000, "f4": False, "f5": True, "f6": None,
    "40": b"", "4401020304": b"\1\2\3\4", "60": "", "6161": "a", "6449455446": "IETF",
    "62225c": '"\\', "62c3bc": "ü", "63e6b0b4": "水", "64f0908591": "\U00010151",
    "80": [], "83010203": [1, 2, 3], "8301820203820405": [1, [2, 3], [4, 5]],
    "98190102030405060708090a0b0c0d0e0f101112131415161718181819": list(range(1, 26)),
    "a0": {}, "a26161016162820203": {"a": 1, "b": [2, 3]}, "826161a161626163": ["a", {"b": "c"}],
    "a56161614161626142616361436164614461656145": dict(zip("abcde", "ABCDE", strict=True)),
}  # fmt: skip
OUTSIDE = {
    "c249010000000000000000": "18446744073709551616",
    "c349010000000000000000": "-18446744073709551617",
    "f90000": "0.0", "f98000": "-0.0", "f93c00": "1.0", "fb3ff199999999999a": "1.1",
    "f93e00": "1.5",
    "f97bff": "65504.0", "fa47c35000": "100000.0", "fa7f7fffff": "3.4028234663852886e+38",
    "fb7e37e43c8800759c": "1.0e+300", "f90001": "5.960464477539063e-8",
    "f90400": "0.00006103515625",
    "f9c400": "-4.0", "fbc010666666666666": "-4.1", "f97c00": "Infinity", "f97e00": "NaN",
    "f9fc00": "-Infinity", "fa7f800000": "Infinity, 4 bytes", "fa7fc00000": "NaN, 4 bytes",
    "faff800000": "-Infinity, 4 bytes", "fb7ff0000000000000": "Infinity, 8 bytes",
    "fb7ff8000000000000": "NaN, 8 bytes", "fbfff0000000000000": "-Infinity, 8 bytes",
    "f7": "undefined", "f0": "simple(16)", "f818": "simple(24), of RFC 7049",
    "f8ff": "simple(255)",
    "c074323031332d30332d32315432303a30343a30305a": "0('2013-03-21T20:04:00Z')",
    "c11a514b67b0": "1(1363896240)", "c1fb41d452d9ec200000": "1(1363896240.5)",
    "d74401020304": "23(h'01020304')", "d818456449455446": "24(h'6449455446')",
    "d82076687474703a2f2f7777772e6578616d706c652e636f6d": "32('http://www.example.com')",
    "a201020304": "{1: 2, 3: 4}",
    "5f42010243030405ff": "(_ h'0102', h'030405')",
    "7f657374726561646d696e67ff": "(_ 'strea', 'ming')",
    "9fff": "[_ ]", "9f018202039f0405ffff": "[_ 1, [2, 3], [_ 4, 5]]",
    "9f01820203820405ff": "[_ 1, [2, 3], [4, 5]]", "83018202039f0405ff": "[1, [2, 3], [_ 4, 5]]",
    "83019f0203ff820405": "[1, [_ 2, 3], [4, 5]]",
    "9f0102030405060708090a0b0c0d0e0f101112131415161718181819ff": "[_ 1, 2, ... 25]",
    "bf61610161629f0203ffff": "{_ 'a': 1, 'b': [_ 2, 3]}",
    "826161bf61626163ff": "['a', {_ 'b': 'c'}]",
    "bf6346756ef563416d7421ff": "{_ 'Fun': true, 'Amt': -2}",
}  # fmt: skip


@pytest.mark.parametrize("spelled", IN_THE_PROFILE)
def test_e2_an_example_of_the_rfc_that_our_profile_has_is_accepted(spelled):
    assert decode(bytes.fromhex(spelled)) == IN_THE_PROFILE[spelled]
    assert encode(IN_THE_PROFILE[spelled]).hex() == spelled


@pytest.mark.parametrize("spelled", OUTSIDE, ids=OUTSIDE.get)
def test_e3_an_example_of_the_rfc_outside_our_profile_is_refused(spelled):
    refused(bytes.fromhex(spelled))


@pytest.mark.parametrize(
    "data",
    ["c100", "82d81c80", "82d8236161", "81d9010280", "f93c00", "f814", "1817", "0000", "9fff"]
    + [bomb.hex() for bomb in BOMBS.values() if len(bomb) < 100],
)  # fmt: skip
def test_e3_cbor2_never_sees_what_it_would_do_more_with_than_read(data, monkeypatch):
    """Not even if the heads add up, as those of an array of a tag and its content do."""

    def read(*_, **__):
        raise AssertionError(data)

    monkeypatch.setattr(cbor2, "loads", read)
    refused(bytes.fromhex(data))


@given(VALUES)
def test_what_this_program_wrote_is_read_back_without_proving_it_again(value):
    assert decode_own(encode(value)) == decode(encode(value))


@pytest.mark.parametrize("data", [b"", b"\x5f", b"\x82\x01", b"\xff", b"\x62\xff\xff"])
def test_even_then_bytes_that_are_no_cbor_are_invalid(data):
    with pytest.raises(Invalid):
        decode_own(data)
