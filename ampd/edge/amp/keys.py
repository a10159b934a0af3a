"""The schemes in which AMP's clients use their keys (section 04, "Canonical Signature Format").

Ed25519 signs the text itself. RSA and ECDSA sign "the SHA-256 hash" of it: that is what
`openssl dgst -sha256` does; the sample of the specification hashes once more, so both are
tried. ECDSA may be in DER, as openssl writes it, or as r and s.
"""

import hashlib
from collections.abc import Callable
from typing import Final

from ampd.crypto.foreign_keys import Algorithm, ForeignKey, Scheme
from ampd.model.errors import Invalid
from ampd.protocol.amp.faults import Fault, invalid, missing

ALGORITHMS: Final[dict[Algorithm, str]] = {"Ed25519": "Ed25519", "RSA": "RSA", "P-256": "ECDSA"}
_SAID: Final[dict[str, Algorithm]] = {
    "ed25519": "Ed25519", "eddsa": "Ed25519", "rsa": "RSA", "rs256": "RSA", "ecdsa": "P-256",
    "ecdsa-p256": "P-256", "p-256": "P-256", "es256": "P-256",
}  # fmt: skip
_SCHEMES: Final[dict[Algorithm, tuple[Scheme, ...]]] = {
    "Ed25519": ("Ed25519",), "RSA": ("RS256",), "P-256": ("ECDSA", "ES256"),
}  # fmt: skip


def checker(key: ForeignKey) -> Callable[[bytes, bytes], bool]:
    """Whether a signature is this key's over some data, in any of its schemes."""
    schemes = _SCHEMES[key.algorithm]

    def check(signature: bytes, data: bytes) -> bool:
        texts = [data] if key.algorithm == "Ed25519" else [data, hashlib.sha256(data).digest()]
        return any(key.verify(signature, text, scheme) for text in texts for scheme in schemes)

    return check


def key_in(said: object, algorithm: object, field: str) -> ForeignKey:
    """The key of a request, of the algorithm it says. Fault 400."""
    if said is None or said == "":
        raise missing(field)
    if algorithm is None or algorithm == "":
        raise missing("key_algorithm")
    if type(said) is not str or type(algorithm) is not str:
        raise invalid(field, "key and algorithm must be texts")
    wanted = _SAID.get(algorithm.lower())
    if wanted is None:
        raise invalid("key_algorithm", "key_algorithm is one of Ed25519, RSA, ECDSA")
    try:
        key = ForeignKey.from_pem(said)
    except Invalid as exc:
        raise Fault("invalid_request", 400, f"{field}: {exc}", field=field) from None
    if key.algorithm != wanted:
        raise invalid("key_algorithm", f"the key is one of {ALGORITHMS[key.algorithm]}")
    return key


def key_hex(key: ForeignKey) -> str:
    """As pending items carry it: the 32 bytes of Ed25519, else the SubjectPublicKeyInfo."""
    return key.raw.hex()
