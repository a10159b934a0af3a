"""Answers that others computed: RFC 8032, Wycheproof, and the COSE working group's example."""

import json
from pathlib import Path

import pytest

from ampd.crypto.keys import SigningKey, _to_be_signed, _verify, check_public, open1
from ampd.model.errors import Invalid, Refused

FILE = Path(__file__).with_name("wycheproof_ed25519.json")
WYCHEPROOF = json.loads(FILE.read_text(encoding="utf-8"))["vectors"]

# RFC 8032, section 7.1: secret key, public key, message, signature
RFC_8032 = {
    "TEST 1": (
        "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46b"
        "d25bf5f0595bbe24655141438e7a100b",
    ),
    "TEST 2": (
        "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "72",
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c"
        "387b2eaeb4302aeeb00d291612bb0c00",
    ),
    "TEST 3": (
        "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
        "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
        "af82",
        "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc659"
        "4a7c15e9716ed28dc027beceea1ec40a",
    ),
}


def holds(key, message, signature):
    try:
        _verify(check_public(bytes.fromhex(key)), bytes.fromhex(message), bytes.fromhex(signature))
    except Refused:
        return False
    return True


@pytest.mark.parametrize("name", RFC_8032)
def test_a_key_and_a_signature_of_rfc_8032_come_out_as_printed(name):
    secret, public, message, signature = RFC_8032[name]
    key = SigningKey(bytes.fromhex(secret))
    assert (key.seed.hex(), key.public.hex()) == (secret, public)
    assert holds(public, message, signature)
    assert not holds(public, message + "00", signature)


@pytest.mark.parametrize("vector", WYCHEPROOF, ids=lambda vector: f"{vector[0]} {vector[5]}")
def test_a_signature_of_wycheproof_is_judged_as_it_says(vector):
    """ "acceptable" are keys of low or mixed order: our policy (K2) refuses them all."""
    _, key, message, signature, result, _ = vector
    assert holds(key, message, signature) == (result == "valid")


def test_wycheproof_is_here_as_a_whole():
    results = [vector[4] for vector in WYCHEPROOF]
    assert {each: results.count(each) for each in sorted(set(results))} == {
        "acceptable": 29, "invalid": 64, "valid": 117
    }  # fmt: skip


# COSE working group, Examples, eddsa-sig-01: the key of TEST 1, kid outside, no external_aad
COSE_SIGNED = bytes.fromhex(
    "846a5369676e61747572653145a2012703004054546869732069732074686520636f6e74656e742e"
)
COSE_SIGN1 = bytes.fromhex(
    "d28445a201270300a10442313154546869732069732074686520636f6e74656e742e58407142fd2ff96d56db85bee905a7"
    "6ba1d0b7321a95c8c4d3607c5781932b7afb8711497dfa751bf40b58b3bcc32300b1487f3db34085eef013bf08f4a44d6f"
    "ef0d"
)


def test_the_bytes_to_be_signed_are_those_of_the_cose_example():
    protected, payload = bytes.fromhex("a201270300"), b"This is the content."
    assert _to_be_signed(protected, "", payload) == COSE_SIGNED
    _verify(bytes.fromhex(RFC_8032["TEST 1"][1]), COSE_SIGNED, COSE_SIGN1[-64:])


@pytest.mark.parametrize("data", [COSE_SIGN1, COSE_SIGN1[1:]], ids=["tagged", "untagged"])
def test_the_cose_example_is_outside_our_narrower_form(data):
    with pytest.raises(Invalid):
        open1(data, "")
