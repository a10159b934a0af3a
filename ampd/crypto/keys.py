"""The operations on keys: sign, verify, seal, open, each for a stated purpose.

  K1  Every signature has a context; one made for one purpose verifies for no other.
  K2  A public key of low order, or in a non-canonical form, is refused before it is used
      (with such a key, signatures that nobody made verify: RFC 8032, section 5.1.7; libsodium's
      crypto_core_ed25519_is_valid_point).
  K3  A COSE_Sign1 (RFC 9052, section 4.2) is untagged, its protected header is {1: -8 (EdDSA),
      4: signer's key}, its unprotected header is empty; any other spelling is refused.
  K4  What was sealed for one key opens with no other; a sealed box says nothing of its sender.
  K5  For somebody of whom only the signing key is known, mail is sealed to the X25519 key that
      libsodium derives from it.

Ed25519 is RFC 8032; the sealed box is libsodium's (X25519, XSalsa20-Poly1305).
"""

import functools
from typing import Final, Self

from nacl import bindings, utils
from nacl.exceptions import CryptoError

from ampd.model.errors import Invalid, Refused
from ampd.model.message import MAX_ENVELOPE

# The parts of a COSE_Sign1 that never change, in the one spelling of model/encoding.py (K3)
_PROTECTED: Final = bytes.fromhex("a20127045820")  # {1: -8, 4: h'32 bytes'}, up to the key
_BEGIN: Final = bytes.fromhex("845826") + _PROTECTED  # an array of 4, 38 bytes
_UNPROTECTED: Final = b"\xa0"  # an empty map
_SIGNATURE: Final = bytes.fromhex("5840")  # 64 bytes
_TO_SIGN: Final = b"\x84\x6aSignature1"  # RFC 9052, section 4.4: an array of 4
_HEADS: Final = {0x58: 2, 0x59: 3, 0x5A: 5}  # bytes of a byte string's head, if not 1


class SigningKey:
    """An Ed25519 key pair. Its secret half is never printed."""

    __slots__ = ("_secret", "public")

    def __init__(self, seed: bytes) -> None:
        self.public: bytes
        self.public, self._secret = bindings.crypto_sign_seed_keypair(seed)

    @classmethod
    def generate(cls) -> Self:
        """A new key of the system's randomness."""
        return cls(utils.random(32))

    @property
    def seed(self) -> bytes:
        """The 32 secret bytes that the pair is made of (RFC 8032, section 5.1.5)."""
        return self._secret[:32]

    def sign(self, context: str, message: bytes) -> bytes:
        """64 bytes over context, a zero byte, and `message` (K1)."""
        return bindings.crypto_sign(context.encode() + b"\0" + message, self._secret)[:64]

    def sign1(self, context: str, payload: bytes) -> bytes:
        """`payload` in a COSE_Sign1 (K3)."""
        to_sign = _to_be_signed(_PROTECTED + self.public, context, payload)
        signature = bindings.crypto_sign(to_sign, self._secret)[:64]
        return b"".join(
            (_BEGIN, self.public, _UNPROTECTED, _head(payload), payload, _SIGNATURE, signature)
        )

    def opening(self) -> "OpeningKey":
        """The key that opens what was sealed to this signing key (K5)."""
        return OpeningKey(bindings.crypto_sign_ed25519_sk_to_curve25519(self._secret))

    def __repr__(self) -> str:
        return f"SigningKey({self.public.hex()[:8]}...)"


def _to_be_signed(protected: bytes, context: str, payload: bytes) -> bytes:
    """RFC 9052, section 4.4."""
    parts = (protected, context.encode(), payload)
    return _TO_SIGN + b"".join([piece for part in parts for piece in (_head(part), part)])


def _head(data: bytes) -> bytes:
    """What stands before `data` as a byte string (RFC 8949, section 3)."""
    size = len(data)
    if size < 24:
        return bytes((0x40 | size,))
    width = 1 if size < 1 << 8 else 2 if size < 1 << 16 else 4
    return bytes((0x57 + width.bit_length(),)) + size.to_bytes(width, "big")


@functools.lru_cache(maxsize=4096)  # the check costs half a signature; keys repeat
def check_public(key: bytes) -> bytes:
    """`key` if it is a point of full order in its one spelling, else Refused (K2)."""
    if len(key) != 32 or not bindings.crypto_core_ed25519_is_valid_point(key):
        raise Refused("a public key that is no valid Ed25519 point", code="forged")
    return key


def verify(public: bytes, context: str, message: bytes, signature: bytes) -> None:
    """Refused, code forged, unless `public` signed `message` in this context."""
    _verify(check_public(public), context.encode() + b"\0" + message, signature)


def _verify(public: bytes, message: bytes, signature: bytes) -> None:
    if len(signature) != 64:  # a longer one would swallow the context (K1)
        raise Refused("a signature must have 64 bytes", code="forged")
    try:
        bindings.crypto_sign_open(signature + message, public)
    except (CryptoError, ValueError, TypeError):
        raise Refused("the signature does not hold", code="forged") from None


def open1(data: bytes, context: str) -> tuple[bytes, bytes]:
    """The signer's key and the payload of a COSE_Sign1 whose signature holds (K1-K3).

    Invalid if it is none, Refused with code forged if the signature does not hold.
    """
    if len(data) > MAX_ENVELOPE:
        raise Invalid(f"a COSE_Sign1 of more than {MAX_ENVELOPE} bytes", code="too_large")
    key = len(_BEGIN)
    start = key + 33
    payload = data[start + _HEADS.get(data[start], 1) : -66] if len(data) > start + 66 else b""
    public, signature = data[key : key + 32], data[-64:]
    spelled = (_BEGIN, public, _UNPROTECTED, _head(payload), payload, _SIGNATURE, signature)
    if b"".join(spelled) != data:
        raise Invalid("not a COSE_Sign1 of this protocol")
    _verify(check_public(public), _to_be_signed(_PROTECTED + public, context, payload), signature)
    return public, payload


def seal(public: bytes, plaintext: bytes) -> bytes:
    """`plaintext` for the holder of an X25519 key, from nobody in particular (K4)."""
    try:
        return bindings.crypto_box_seal(plaintext, public)
    except (CryptoError, RuntimeError):
        raise Refused("a public key that mail cannot be sealed to", code="forged") from None


@functools.lru_cache(maxsize=1024)  # a card names two, and comes with every letter
def check_sealing(public: bytes) -> bytes:
    """`public` if mail can be sealed to this X25519 key, else Refused: with a key of low order all
    shared secrets are zero (RFC 7748, section 6.1), and libsodium seals nothing to it (K2)."""
    seal(public, b"")
    return public


def seal_to_signer(public: bytes, plaintext: bytes) -> bytes:
    """`plaintext` for the holder of an Ed25519 key of whom nothing else is known (K5)."""
    return seal(bindings.crypto_sign_ed25519_pk_to_curve25519(check_public(public)), plaintext)


class OpeningKey:
    """An X25519 key pair that sealed boxes are opened with."""

    __slots__ = ("_secret", "public")

    def __init__(self, secret: bytes) -> None:
        self._secret = secret
        self.public: bytes = bindings.crypto_scalarmult_base(secret)

    @classmethod
    def generate(cls) -> Self:
        """A new key of the system's randomness."""
        return cls(utils.random(32))

    @property
    def secret(self) -> bytes:
        """The 32 secret bytes."""
        return self._secret

    def open(self, sealed: bytes) -> bytes | None:
        """What was sealed for this key; None if it was sealed for another, or altered."""
        try:
            return bindings.crypto_box_seal_open(sealed, self.public, self._secret)
        except (CryptoError, ValueError, TypeError):
            return None

    def __repr__(self) -> str:
        return f"OpeningKey({self.public.hex()[:8]}...)"


def random_bytes(size: int) -> bytes:
    """`size` bytes of the system's randomness."""
    return utils.random(size)
