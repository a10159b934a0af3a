"""FK1-FK3: keys of the foreign protocols, read and checked."""

import base64
import hashlib
import shutil
import subprocess

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, rsa
from hypothesis import given
from hypothesis import strategies as st

from ampd.crypto.foreign_keys import ForeignKey, ForeignSigner
from ampd.model.errors import Invalid

SIGNERS = {scheme: ForeignSigner.generate(scheme) for scheme in ("Ed25519", "RS256", "ES256")}
SCHEMES = ("Ed25519", "RS256", "ES256", "ECDSA")


def pem_of(key):
    return key.public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    ).decode()


def refused(text):
    with pytest.raises(Invalid):
        ForeignKey.from_pem(text)


@pytest.mark.parametrize("scheme", SIGNERS)
def test_a_key_is_the_same_however_it_is_written(scheme):
    key = SIGNERS[scheme].public
    assert ForeignKey.from_pem(key.pem()) == ForeignKey.from_spki(key.spki) == key
    assert len({key, ForeignKey.from_pem(key.pem())}) == 1
    again = ForeignSigner.from_pem(SIGNERS[scheme].to_pem())
    assert again.public == key and again.scheme == scheme
    assert key.verify(again.sign(b"text"), b"text", scheme)


def test_a_raw_key_is_32_bytes_of_ed25519():
    key = SIGNERS["Ed25519"].public
    assert ForeignKey.from_raw_ed25519(key.raw) == key and len(key.raw) == 32
    assert SIGNERS["ES256"].public.raw == SIGNERS["ES256"].public.spki
    with pytest.raises(Invalid):
        ForeignKey.from_raw_ed25519(key.raw[:31])


def test_a_seed_of_ours_makes_the_same_pair_as_in_keys():
    from ampd.crypto.keys import SigningKey

    seed = bytes(range(32))
    signer = ForeignSigner.from_seed(seed)
    assert signer.public.raw == SigningKey(seed).public
    assert signer.sign(b"x") == ForeignSigner.from_seed(seed).sign(b"x")


def test_the_fingerprint_is_what_amp_clients_print():
    """openssl pkey -pubin -outform DER | openssl dgst -sha256 -binary | base64"""
    key = SIGNERS["Ed25519"].public
    told = base64.b64encode(hashlib.sha256(key.spki).digest()).decode()
    assert key.fingerprint == f"SHA256:{told}" and told.endswith("=")


@pytest.mark.parametrize(
    "key",
    [
        rsa.generate_private_key(65537, 1024).public_key(),
        ec.generate_private_key(ec.SECP384R1()).public_key(),
        ec.generate_private_key(ec.SECP256K1()).public_key(),
        dsa.generate_private_key(2048).public_key(),
        ed448.Ed448PrivateKey.generate().public_key(),
    ],
    ids=["short RSA", "P-384", "secp256k1", "DSA", "Ed448"],
)
def test_fk1_a_weak_or_another_kind_of_key_is_refused(key):
    refused(pem_of(key))


@pytest.mark.parametrize("raw", [bytes(32), b"\x01" + bytes(31), b"\xff" * 32])
def test_fk1_an_ed25519_key_under_which_nobody_signs_is_refused(raw):
    with pytest.raises(Invalid):
        ForeignKey.from_raw_ed25519(raw)
    head = bytes.fromhex("302a300506032b6570032100")
    with pytest.raises(Invalid):
        ForeignKey.from_spki(head + raw)


def test_fk2_a_pem_text_is_read_with_and_without_its_final_newline():
    key = SIGNERS["Ed25519"].public
    text = key.pem()
    for spelled in (text, text.strip(), f"\n{text}\n", text.replace("\n", "\r\n")):
        assert ForeignKey.from_pem(spelled) == key


def test_fk2_a_text_that_is_not_one_public_key_is_refused():
    text = SIGNERS["Ed25519"].public.pem()
    refused("")
    refused(text + text)
    refused("hello\n" + text)
    refused(text + "hello")
    refused(text.replace("MC", "é"))
    refused(text[:40])
    refused("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----")
    refused(SIGNERS["Ed25519"].to_pem())
    refused(text + " " * 9000)
    with pytest.raises(Invalid):
        ForeignSigner.from_pem(text)


@given(st.text(max_size=200))
def test_fk2_no_text_makes_it_fail_in_another_way(text):
    refused(f"-----BEGIN PUBLIC KEY-----\n{text}\n-----END PUBLIC KEY-----")


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("of", SIGNERS)
def test_fk3_a_signature_holds_for_its_own_key_scheme_and_text_only(of, scheme):
    signer = SIGNERS[of]
    signature = signer.sign(b"text")
    assert signer.public.verify(signature, b"text", scheme) == (scheme == of)
    assert not signer.public.verify(signature, b"Text", scheme)
    other = ForeignSigner.generate(of) if of != "RS256" else SIGNERS["ES256"]
    assert not other.public.verify(signature, b"text", scheme)


@given(st.sampled_from(sorted(SIGNERS)), st.sampled_from(SCHEMES), st.binary(max_size=300))
def test_fk3_no_bytes_for_a_signature_raise_anything(of, scheme, signature):
    assert SIGNERS[of].public.verify(signature, b"text", scheme) is False


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl here")
@pytest.mark.parametrize(
    ("options", "scheme", "sign"),
    [
        (["ed25519"], "Ed25519", ["-rawin"]),
        (["RSA", "-pkeyopt", "rsa_keygen_bits:2048"], "RS256", ["-rawin", "-digest", "sha256"]),
        (["EC", "-pkeyopt", "ec_paramgen_curve:P-256"], "ECDSA", ["-rawin", "-digest", "sha256"]),
    ],
    ids=["Ed25519", "RS256", "ECDSA"],
)
def test_what_openssl_signed_verifies(tmp_path, options, scheme, sign):
    def run(*command):
        return subprocess.run(["openssl", *command], cwd=tmp_path, check=True, capture_output=True)

    run("genpkey", "-algorithm", *options, "-out", "key.pem")
    public = run("pkey", "-in", "key.pem", "-pubout").stdout.decode()
    (tmp_path / "text").write_bytes(b"text")
    run("pkeyutl", "-sign", "-inkey", "key.pem", *sign, "-in", "text", "-out", "signature")
    signature = (tmp_path / "signature").read_bytes()
    assert ForeignKey.from_pem(public).verify(signature, b"text", scheme)
    assert ForeignSigner.from_pem((tmp_path / "key.pem").read_text()).public.pem() == public
