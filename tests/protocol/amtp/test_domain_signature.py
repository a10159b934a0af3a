"""Signatures of domains under AMTP messages: ampd/protocol/amtp/domain_signature.py."""

import json
import math
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ampd.crypto.foreign_keys import ForeignSigner
from ampd.model.errors import Invalid
from ampd.protocol import raw_json
from ampd.protocol.amtp.dns_record import KeyRecord
from ampd.protocol.amtp.domain_signature import canonical, holds, sign, signature_of, signed_bytes

SIGNERS = {scheme: ForeignSigner.generate(scheme) for scheme in ("ES256", "RS256")}
RECORDS = {scheme: KeyRecord(scheme, signer.public) for scheme, signer in SIGNERS.items()}
TEXT = """{"version":"1.0","message_id":"0198f000-0000-7000-8000-000000000001",
    "idempotency_key":"0b3a1f7e-1111-4222-8333-444455556666","timestamp":"2026-08-14T10:30:00Z",
    "sender":"orders@sender.example","recipients":["payments@receiver.example"],
    "workflow_id":"","payload":{"total":125.50,"big":9007199254740993,"e":1E3},"unknown":[null]}"""


def signed(scheme="ES256", text=TEXT):
    message = raw_json.parse(text)
    message["signature"] = sign(message, SIGNERS[scheme], "k1")
    return raw_json.parse(raw_json.write(message))  # as it comes from the wire


def verified(message, scheme="ES256"):
    return holds(message, signature_of(message), RECORDS[scheme])


@pytest.mark.parametrize("scheme", ["ES256", "RS256"])
def test_d1_what_was_signed_is_verified(scheme):
    assert verified(signed(scheme), scheme)


@pytest.mark.parametrize("name", list(json.loads(TEXT)))
def test_d1_no_member_can_be_changed_known_or_not(name):
    message = signed()
    message[name] = ["other@receiver.example"] if name == "recipients" else "2"

    assert not verified(message)


def test_d1_no_member_can_be_added_or_taken_away():
    assert not verified({**signed(), "more": None})
    message = signed()
    del message["unknown"]
    assert not verified(message)


def test_d1_the_form_of_rfc_8785():
    # RFC 8785, section 3.2.2 and 3.2.3: the example of the standard itself
    value = raw_json.parse(
        r"""{"numbers":[333333333.33333329,1E30,4.50,2e-3,0.000000000000000000000000001],
        "string":"\u20ac$\u000F\u000aA'\u0042\u0022\u005c\\\"\/","literals":[null,true,false]}"""
    )

    assert canonical(value).decode() == (
        '{"literals":[null,true,false],"numbers":[333333333.3333333,1e+30,4.5,0.002,1e-27],'
        '"string":"€$\\u000f\\nA\'B\\"\\\\\\\\\\"/"}'
    )


def test_d1_names_are_ordered_by_utf_16():
    names = ("\u20ac", "\r", "\ufb33", "1", "\U0001f600", "\u0080", "\u00f6")
    value = dict.fromkeys(names, 1)

    # the order that RFC 8785, section 3.2.3, prints
    assert list(json.loads(canonical(value))) == [
        "\r", "1", "\u0080", "\u00f6", "\u20ac", "\U0001f600", "\ufb33",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("bits", "text"),
    [  # RFC 8785, appendix B
        (0x0000000000000000, "0"), (0x8000000000000000, "0"), (0x0000000000000001, "5e-324"),
        (0x8000000000000001, "-5e-324"), (0x7FEFFFFFFFFFFFFF, "1.7976931348623157e+308"),
        (0x4340000000000000, "9007199254740992"), (0xC340000000000000, "-9007199254740992"),
        (0x4430000000000000, "295147905179352830000"),
        (0x44B52D02C7E14AF5, "9.999999999999997e+22"),
        (0x44B52D02C7E14AF6, "1e+23"), (0x44B52D02C7E14AF7, "1.0000000000000001e+23"),
        (0x444B1AE4D6E2EF4E, "999999999999999700000"),
        (0x444B1AE4D6E2EF4F, "999999999999999900000"),
        (0x444B1AE4D6E2EF50, "1e+21"), (0x3EB0C6F7A0B5ED8C, "9.999999999999997e-7"),
        (0x3EB0C6F7A0B5ED8D, "0.000001"), (0x41B3DE4355555553, "333333333.3333332"),
        (0x41B3DE4355555557, "333333333.33333343"),
        (0xBECBF647612F3696, "-0.0000033333333333333333"),
        (0x43143FF3C1CB0959, "1424953923781206.2"),
    ],
)  # fmt: skip
def test_d1_numbers_as_ecmascript_prints_them(bits, text):
    value = struct.unpack(">d", bits.to_bytes(8, "big"))[0]

    assert canonical(raw_json.Number(repr(value))).decode() == text


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_d1_a_number_printed_is_the_same_number(value):
    assert float(canonical(raw_json.Number(repr(value)))) == value


def test_d2_names_that_stand_twice_never_get_so_far():
    text = raw_json.write(signed()).replace('"version":"1.0"', '"version":"1.0","version":"1.0"')

    with pytest.raises(Invalid):
        raw_json.parse(text)


@pytest.mark.parametrize("token", ["1e400", "-1e400", "9" * 2000])
def test_d2_numbers_beyond_a_double_cannot_be_signed(token):
    message = {**signed(), "payload": raw_json.Number(token)}

    assert not verified(message)
    with pytest.raises(Invalid):
        signed_bytes(message)


def test_d3_es256_is_64_bytes_and_base64url_without_padding():
    message = signed()

    assert len(signature_of(message).value) == 64
    assert len(message["signature"]["value"]) == 86 and "=" not in message["signature"]["value"]


def test_d3_a_key_for_something_else_signs_nothing():
    with pytest.raises(Invalid):
        sign(raw_json.parse(TEXT), ForeignSigner.generate("Ed25519"), "k1")


def test_d3_the_algorithm_of_the_key_record_must_be_the_signature_s():
    message = signed()
    message["signature"]["algorithm"] = "RS256"

    assert not verified(message)
    assert not verified(message, "RS256")


@pytest.mark.parametrize(
    "signature",
    [
        "text", {}, {"algorithm": "ES256", "keyid": "k1"},
        {"algorithm": "ES256", "keyid": "k1", "value": "abc", "more": 1},
        {"algorithm": "Ed25519", "keyid": "k1", "value": "abc"},
        {"algorithm": 1, "keyid": "k1", "value": "abc"},
        {"algorithm": "ES256", "keyid": "", "value": "abc"},
        {"algorithm": "ES256", "keyid": 1, "value": "abc"},
        {"algorithm": "ES256", "keyid": "k1.evil.example", "value": "abc"},
        {"algorithm": "ES256", "keyid": "k1", "value": ""},
        {"algorithm": "ES256", "keyid": "k1", "value": "ab+/"},
        {"algorithm": "ES256", "keyid": "k1", "value": "abcd=="},
        {"algorithm": "ES256", "keyid": "k1", "value": "abcde"},
        {"algorithm": ["ES256"], "keyid": "k1", "value": "abc"},
    ],
)  # fmt: skip
def test_d4_a_signature_has_exactly_its_three_members(signature):
    with pytest.raises(Invalid):
        signature_of({**raw_json.parse(TEXT), "signature": signature})


def test_d4_no_signature_is_none():
    assert signature_of(raw_json.parse(TEXT)) is None
    assert signature_of({"signature": None}) is None


@pytest.mark.parametrize("name", ["version", "message_id", "idempotency_key", "timestamp"])
def test_d5_what_a_signed_message_must_carry_itself(name):
    message = signed()
    message[name] = ""

    with pytest.raises(Invalid):
        signature_of(message)


def test_d5_a_signed_delivery_has_one_recipient():
    message = raw_json.parse(TEXT)
    message["recipients"] = ["a@b.example", "c@b.example"]

    with pytest.raises(Invalid):
        sign(message, SIGNERS["ES256"], "k1")
    with pytest.raises(Invalid):
        signature_of({**signed(), "recipients": []})


def test_copies_for_two_recipients_both_hold():
    copies = [signed(text=TEXT.replace("payments@", name)) for name in ("payments@", "stock@")]

    assert [verified(each) for each in copies] == [True, True]


def test_a_number_keeps_its_value_and_not_its_form_under_a_signature():
    message = signed()
    message["payload"]["e"] = raw_json.Number("1000")

    assert verified(message), "RFC 8785: 1E3 and 1000 are one number"
    assert not math.isnan(float(message["payload"]["e"]))
