"""The keys of the foreign protocols: Ed25519, RSA and ECDSA on P-256, as PEM and as raw bytes.

  FK1  A key is taken in only if it can be trusted to mean one holder: an Ed25519 point of full
       order, RSA of 2048 to 8192 bits, a point of P-256. Everything else is Invalid.
  FK2  A PEM text is read with or without its final newline; what it says beside one key is refused.
  FK3  `verify` answers False, and raises nothing, whatever the signature is; also for a scheme
       that is not the key's.

Schemes: "Ed25519" (RFC 8032, section 5.1), "RS256" (RSASSA-PKCS1-v1_5 over SHA-256, RFC 7518,
section 3.3), "ES256" (ECDSA on P-256 over SHA-256, r and s in 64 bytes: RFC 7518, section 3.4) and
"ECDSA" (the same in DER, as openssl writes it).

Only this module and protocol/handshake.py import cryptography. Not here: our own keys (keys.py).
"""

import base64
import hashlib
from dataclasses import dataclass
from typing import Final, Literal, Self

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import (
    decode_dss_signature,
    encode_dss_signature,
)

from ampd.crypto.keys import check_public
from ampd.model.errors import Invalid, Refused

Algorithm = Literal["Ed25519", "RSA", "P-256"]
Scheme = Literal["Ed25519", "RS256", "ES256", "ECDSA"]
_Public = ed25519.Ed25519PublicKey | rsa.RSAPublicKey | ec.EllipticCurvePublicKey
_Private = ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey

MIN_RSA: Final = 2048  # bits: NIST SP 800-131A
MAX_RSA: Final = 8192  # bits: a check of a larger one costs milliseconds
MAX_EXPONENT: Final = 1 << 32  # of RSA: a check costs as many steps as it has bits
MAX_PEM: Final = 8192  # bytes: twice what an RSA key of 8192 bits needs
_SHA256: Final = hashes.SHA256()
_CURVE: Final = ec.ECDSA(_SHA256)


@dataclass(frozen=True, slots=True, eq=False)
class ForeignKey:
    """A public key. Two are the same if their `spki` is."""

    algorithm: Algorithm
    raw: bytes  # 32 bytes of Ed25519, else the SPKI
    spki: bytes  # SubjectPublicKeyInfo in DER (RFC 5280, section 4.1.2.7)
    _key: _Public

    @classmethod
    def from_pem(cls, text: str) -> Self:
        """The key that a PEM text holds, or Invalid (FK1, FK2)."""
        stripped = text.strip()
        if len(text) > MAX_PEM or not stripped.isascii() or stripped.count("-----BEGIN ") != 1:
            raise _no_key()
        if not stripped.startswith("-----BEGIN ") or not stripped.endswith("-----"):
            raise _no_key()
        try:
            key = serialization.load_pem_public_key(stripped.encode() + b"\n")
        except (ValueError, UnsupportedAlgorithm):
            raise _no_key() from None
        return cls._of(key)

    @classmethod
    def from_spki(cls, der: bytes) -> Self:
        """The key that a SubjectPublicKeyInfo in DER is, or Invalid."""
        if len(der) > MAX_PEM:
            raise _no_key()
        try:
            key = serialization.load_der_public_key(der)
        except (ValueError, UnsupportedAlgorithm):
            raise _no_key() from None
        return cls._of(key)

    @classmethod
    def from_raw_ed25519(cls, raw: bytes) -> Self:
        """The Ed25519 key of these 32 bytes, or Invalid."""
        if len(raw) != 32:
            raise Invalid(f"an Ed25519 key has 32 bytes, not {len(raw)}")
        return cls._of(ed25519.Ed25519PublicKey.from_public_bytes(raw))

    @classmethod
    def _of(cls, key: object) -> Self:
        spki = raw = b""
        algorithm: Algorithm
        if isinstance(key, ed25519.Ed25519PublicKey):
            algorithm, raw = "Ed25519", key.public_bytes_raw()
            _check_point(raw)
        elif isinstance(key, rsa.RSAPublicKey):
            algorithm = "RSA"
            _check_rsa(key)
        elif isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1):
            algorithm = "P-256"
        else:
            raise Invalid("a public key of another kind", hint="use Ed25519, RSA or EC on P-256")
        spki = key.public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        return cls(algorithm, raw or spki, spki, key)

    def pem(self) -> str:
        """As a PEM text with its final newline (RFC 7468, section 13)."""
        return self._key.public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        ).decode("ascii")

    @property
    def fingerprint(self) -> str:
        """SHA256: and base64 of the SHA-256 of the SPKI, padded: as AMP clients print it."""
        return "SHA256:" + base64.b64encode(hashlib.sha256(self.spki).digest()).decode("ascii")

    def verify(self, signature: bytes, data: bytes, scheme: Scheme) -> bool:
        """Whether the holder of this key signed `data` (FK3)."""
        key = self._key
        try:
            if isinstance(key, ed25519.Ed25519PublicKey):
                if scheme != "Ed25519":
                    return False
                key.verify(signature, data)
            elif isinstance(key, rsa.RSAPublicKey):
                if scheme != "RS256":
                    return False
                key.verify(signature, data, padding.PKCS1v15(), _SHA256)
            else:
                if scheme not in ("ES256", "ECDSA"):
                    return False
                der = _joined(signature) if scheme == "ES256" else signature
                key.verify(der, data, _CURVE)
        except (InvalidSignature, ValueError):
            return False
        return True

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ForeignKey) and other.spki == self.spki

    def __hash__(self) -> int:
        return hash(self.spki)

    def __repr__(self) -> str:
        return f"ForeignKey({self.algorithm}, {self.fingerprint})"


class ForeignSigner:
    """A key pair that signs for a foreign protocol. Its secret half is never printed."""

    __slots__ = ("_key", "public")

    def __init__(self, key: _Private) -> None:
        self._key = key
        self.public = ForeignKey._of(key.public_key())  # noqa: SLF001 - the other half

    @classmethod
    def generate(cls, scheme: Scheme) -> Self:
        """A new key of the system's randomness. RSA takes a noticeable part of a second."""
        if scheme == "Ed25519":
            return cls(ed25519.Ed25519PrivateKey.generate())
        if scheme == "RS256":
            return cls(rsa.generate_private_key(65537, MIN_RSA))
        return cls(ec.generate_private_key(ec.SECP256R1()))

    @classmethod
    def from_seed(cls, seed: bytes) -> Self:
        """The Ed25519 pair of 32 secret bytes (RFC 8032, section 5.1.5)."""
        return cls(ed25519.Ed25519PrivateKey.from_private_bytes(seed))

    @classmethod
    def from_pem(cls, text: str) -> Self:
        """The key that an unencrypted PEM text holds, or Invalid."""
        try:
            key = serialization.load_pem_private_key(text.strip().encode() + b"\n", None)
        except (ValueError, TypeError, UnsupportedAlgorithm):
            raise Invalid(
                "not a private key in PEM", hint="write it as `openssl genpkey` does, unencrypted"
            ) from None
        if not isinstance(key, _Private):
            raise Invalid("a private key of another kind", hint="use Ed25519, RSA or EC on P-256")
        return cls(key)

    def sign(self, data: bytes) -> bytes:
        """By Ed25519, RS256 or ES256, as the key is."""
        if isinstance(self._key, ed25519.Ed25519PrivateKey):
            return self._key.sign(data)
        if isinstance(self._key, rsa.RSAPrivateKey):
            return self._key.sign(data, padding.PKCS1v15(), _SHA256)
        r, s = decode_dss_signature(self._key.sign(data, _CURVE))
        return r.to_bytes(32, "big") + s.to_bytes(32, "big")

    @property
    def scheme(self) -> Scheme:
        """What `sign` makes."""
        schemes: dict[Algorithm, Scheme] = {"Ed25519": "Ed25519", "RSA": "RS256", "P-256": "ES256"}
        return schemes[self.public.algorithm]

    def to_pem(self) -> str:
        """The secret half, unencrypted (PKCS #8, RFC 5208)."""
        return self._key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ).decode("ascii")

    def __repr__(self) -> str:
        return f"ForeignSigner({self.public.algorithm}, {self.public.fingerprint})"


def _no_key() -> Invalid:
    return Invalid(
        "not a public key in PEM", hint="write it as `openssl pkey -pubout` does, Ed25519 for AMP"
    )


def _check_point(raw: bytes) -> None:
    try:
        check_public(raw)
    except Refused as exc:
        raise Invalid(str(exc)) from None


def _check_rsa(key: rsa.RSAPublicKey) -> None:
    if not MIN_RSA <= key.key_size <= MAX_RSA or key.public_numbers().e > MAX_EXPONENT:
        raise Invalid(
            f"an RSA key of {key.key_size} bits", hint=f"use one of {MIN_RSA} to {MAX_RSA} bits"
        )


def _joined(signature: bytes) -> bytes:
    """r and s of ES256 in DER. ValueError if they are not 64 bytes."""
    if len(signature) != 64:
        raise ValueError("r and s have 32 bytes each")
    return encode_dss_signature(
        int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big")
    )
