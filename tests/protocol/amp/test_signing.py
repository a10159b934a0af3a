"""Signatures of AMP messages, as clients of today make them."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ampd.crypto.foreign_keys import ForeignKey, ForeignSigner
from ampd.protocol import raw_json
from ampd.protocol.amp import signing

GOLDEN = json.loads((Path(__file__).parent / "signatures.json").read_text())
KEYS = {name: ForeignKey.from_pem(text) for name, text in GOLDEN["keys"].items()}
SIGNER = ForeignSigner.generate("Ed25519")
SCHEMES = {"Ed25519": ("Ed25519",), "RSA": ("RS256",), "P-256": ("ES256", "ECDSA")}


def check(key):
    return lambda signature, data: any(
        key.verify(signature, data, scheme) for scheme in SCHEMES[key.algorithm]
    )


def holds(envelope, payload, key=None, froms=("a@b.c",)):
    return signing.verify(envelope, payload, check(key or SIGNER.public), froms)


@pytest.mark.parametrize("golden", GOLDEN["messages"], ids=lambda each: each["name"])
def test_k7_a_signature_that_a_client_made_holds(golden):
    body = raw_json.parse(golden["body"])
    froms = ("somebody@else.aimaestro.local", golden["from"])
    assert signing.verify(body, body["payload"], check(KEYS[golden["key"]]), froms)


@pytest.mark.parametrize("golden", GOLDEN["messages"], ids=lambda each: each["name"])
@pytest.mark.parametrize(
    ("name", "value"),
    [("to", "eve@default.aimaestro.local"), ("subject", "other"), ("priority", "urgent"),
     ("in_reply_to", "msg_1_a"), ("signature", "AAAA"), ("signature", None)],
)  # fmt: skip
def test_a_signature_holds_for_nothing_else(golden, name, value):
    body = raw_json.parse(golden["body"]) | {name: value}
    assert not signing.verify(body, body["payload"], check(KEYS[golden["key"]]), [golden["from"]])


@pytest.mark.parametrize("golden", GOLDEN["messages"], ids=lambda each: each["name"])
def test_sg4_who_signs_is_a_part_of_what_is_signed(golden):
    body = raw_json.parse(golden["body"])
    key = check(KEYS[golden["key"]])
    assert not signing.verify(body, body["payload"], key, ["Alice@default.aimaestro.local"])
    said = body | {"from": "eve@default.aimaestro.local"}
    assert not signing.verify(said, body["payload"], key, [golden["from"]])


def test_sg1_every_form_of_the_payload_holds():
    payload = raw_json.parse('{"type":"t","message":"\\u00e9\\u007f","context":{"b":1.0,"a":2}}')
    envelope = {"from": "a@b.c", "to": "d@e.f", "subject": "s"}
    texts = list(signing.signed_texts(envelope, payload, ()))
    assert len(texts) == len(set(texts)) == 6
    for text in texts:
        signature = signing.base64.b64encode(SIGNER.sign(text)).decode()
        assert holds(envelope | {"signature": signature}, payload)


def test_sg2_a_subject_is_signed_plain_or_as_in_tab_separated_values():
    assert signing.in_tsv("  C:\\x\ty\r\n ") == "C:\\\\x\\ty\\r\\n"
    payload = {"type": "t", "message": "m"}
    texts = list(signing.signed_texts({"to": "d", "subject": "a\tb"}, payload, ["f"]))
    assert {text.split(b"|")[2] for text in texts} == {b"a\tb", b"a\\tb"}


def test_sg3_an_envelope_without_from_is_tried_with_each_address_of_the_agent():
    payload = {"type": "t", "message": "m"}
    envelope = {"from": "a@x.p.local", "to": "d", "subject": "s"}
    signature = signing.sign(envelope, payload, SIGNER.sign)
    bare = {"to": "d", "subject": "s", "signature": signature}
    assert holds(bare, payload, froms=("a@y.x.p.local", "a@x.p.local"))
    assert not holds(bare, payload, froms=("a@y.x.p.local",))


def test_missing_fields_are_signed_as_their_defaults():
    payload = {"type": "t", "message": "m"}
    envelope = {"from": "f", "to": "d", "subject": "s", "priority": None, "in_reply_to": None}
    text = next(signing.signed_texts(envelope, payload, ()))
    assert text.decode().startswith("f|d|s|normal||")


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
values = st.recursive(
    st.none() | st.booleans() | texts | st.integers(), lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(texts, inner, max_size=3), max_leaves=8,
)  # fmt: skip


@given(texts, texts, st.dictionaries(texts, values, max_size=4))
def test_what_is_signed_here_holds_here_after_a_journey_through_json(subject, to, payload):
    envelope = {"from": "a@b.c", "to": to, "subject": subject}
    envelope["signature"] = signing.sign(envelope, payload, SIGNER.sign)
    there = raw_json.parse(raw_json.write({"envelope": envelope, "payload": payload}))
    assert holds(there["envelope"], there["payload"])


@pytest.mark.parametrize("text", [None, 5, "", "no base64!", "A" * 3000, ["A"]])
def test_what_is_no_signature_holds_for_nothing(text):
    assert signing.signature_bytes(text) == b""
    assert not holds({"to": "d", "subject": "s", "signature": text}, {"type": "t"})


def test_k14_a_proof_of_rotation_may_be_over_the_pem_or_the_key():
    new = ForeignSigner.generate("Ed25519").public
    for said in (new.pem(), new.pem().rstrip("\n")):
        accepted = signing.rotation_proofs(said, new.raw)
        bare = new.pem().rstrip("\n").encode()
        assert {bare, bare + b"\n", new.raw.hex().encode(), new.raw} <= set(accepted)
