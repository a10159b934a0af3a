"""A domain's signature under an AMTP message: proof that its gateway sent these very members.

    "signature": {"algorithm": "ES256" | "RS256", "keyid": SELECTOR, "value": BASE64URL}

(AMTP 1.0 with the Domain Signatures profile, sections 4.2.2 and 9.3.)

  D1  Signed is the RFC 8785 form (JCS) of the whole object as it was received, less `signature`:
      members nobody knows are covered too.
  D2  Names that stand twice, lone surrogates and numbers beyond a double cannot be signed: two
      readers would not see the same message (I-JSON, RFC 7493).
  D3  ES256 is r||s of 64 bytes over P-256 and SHA-256, RS256 is PKCS #1 v1.5 over SHA-256 with at
      least 2048 bits; both as base64url without padding.
  D4  The object has exactly its three members, and a selector that is one label of the DNS.
  D5  A signed message carries version, message_id, idempotency_key, timestamp and exactly one
      recipient itself; a receiver fills in none of them.

Not here: which key is whose (dns_record.py), what becomes of a message without a good signature
(edge/amtp/verification.py).
"""

import base64
import binascii
import math
import re
from collections.abc import Mapping
from typing import Any, Final

from ampd.crypto.foreign_keys import ForeignSigner
from ampd.model.errors import Invalid
from ampd.model.values import value
from ampd.protocol import raw_json
from ampd.protocol.amtp.dns_record import KeyRecord, key_name

_MEMBERS: Final = {"algorithm", "keyid", "value"}
_NEEDED: Final = ("version", "message_id", "idempotency_key", "timestamp")
_VALUE: Final = re.compile(r"[A-Za-z0-9_-]{1,1400}")  # RSA-8192 takes 1366
_LONGEST_NUMBER: Final = 1100  # characters: a double written out in full has up to 1,075


@value
class Signature:
    """A signature as it stands in a message."""

    algorithm: str
    selector: str
    value: bytes


def signature_of(message: Mapping[str, Any]) -> Signature | None:
    """The signature of a message, None if it has none. Raises Invalid (D4, D5)."""
    found = message.get("signature")
    if found is None:
        return None
    if not isinstance(found, dict) or set(found) != _MEMBERS:
        raise Invalid("a signature has the members algorithm, keyid and value, and no other")
    algorithm, selector, value = (found[name] for name in ("algorithm", "keyid", "value"))
    if algorithm not in ("ES256", "RS256"):
        raise Invalid("the algorithm of a signature is ES256 or RS256")
    if not isinstance(selector, str) or not isinstance(value, str) or not _VALUE.fullmatch(value):
        raise Invalid("the value of a signature is base64url without padding")
    key_name(selector, "example")  # Invalid if it is no label
    _check_whole(message)
    try:
        raw = base64.b64decode(value + "=" * (-len(value) % 4), altchars=b"-_", validate=True)
    except binascii.Error as exc:
        raise Invalid(f"the value of a signature is no base64url: {exc}") from None
    return Signature(str(algorithm), selector, raw)


def _check_whole(message: Mapping[str, Any]) -> None:
    missing = [name for name in _NEEDED if not message.get(name)]
    if missing:
        raise Invalid(f"a signed message carries {', '.join(missing)} itself (AMTP 4.2.2)")
    recipients = message.get("recipients")
    if not isinstance(recipients, list) or len(recipients) != 1:
        raise Invalid("a signed delivery has exactly one recipient (AMTP 4.2.2)")


def holds(message: Mapping[str, Any], signature: Signature, record: KeyRecord) -> bool:
    """Whether the domain of this record signed this message (D1-D3)."""
    if signature.algorithm != record.algorithm:
        return False
    try:
        signed = signed_bytes(message)
    except Invalid:
        return False
    return record.key.verify(signature.value, signed, record.algorithm)


def sign(message: Mapping[str, Any], signer: ForeignSigner, selector: str) -> dict[str, str]:
    """The member `signature` for a message. Raises Invalid (D2, D5)."""
    key_name(selector, "example")
    _check_whole(message)
    if signer.scheme not in ("ES256", "RS256"):
        raise Invalid(f"a key of {signer.public.algorithm} signs no AMTP", hint="use P-256 or RSA")
    value = base64.urlsafe_b64encode(signer.sign(signed_bytes(message))).rstrip(b"=")
    return {"algorithm": signer.scheme, "keyid": selector, "value": value.decode("ascii")}


def signed_bytes(message: Mapping[str, Any]) -> bytes:
    """What is signed: the message less its signature, in the form of RFC 8785 (D1)."""
    return canonical({name: each for name, each in message.items() if name != "signature"})


def canonical(value: raw_json.Value) -> bytes:
    """The form of RFC 8785 of what raw_json parsed. Raises Invalid for numbers beyond a double."""
    found: list[str] = []
    _write(value, found)
    return "".join(found).encode("utf-8")


def _write(value: raw_json.Value, found: list[str]) -> None:
    match value:
        case raw_json.Raw():
            _write(raw_json.parse(value), found)
        case raw_json.Number() | int() | float() if not isinstance(value, bool):
            found.append(_number(str(value)))
        case dict():
            found.append("{")
            for place, name in enumerate(sorted(value, key=_utf16)):
                found.append(f"{',' if place else ''}{raw_json.write(name, del_as_is=True)}:")
                _write(value[name], found)
            found.append("}")
        case list() | tuple():
            found.append("[")
            for place, each in enumerate(value):
                found.append("," if place else "")
                _write(each, found)
            found.append("]")
        case _:
            found.append(raw_json.write(value, del_as_is=True))


def _utf16(name: str) -> bytes:
    """RFC 8785, section 3.2.3: names are ordered by their UTF-16 code units."""
    return name.encode("utf-16-be")


def _number(token: str) -> str:
    """A number as ECMAScript prints it (RFC 8785, section 3.2.2.3)."""
    value = float(token) if len(token) <= _LONGEST_NUMBER else math.inf
    if not math.isfinite(value):
        raise Invalid("a number beyond a double cannot be signed (RFC 7493)")
    if value == 0:
        return "0"
    sign = "-" if value < 0 else ""
    mantissa, _, exponent = repr(abs(value)).partition("e")
    whole, _, fraction = mantissa.partition(".")
    fraction = "" if fraction == "0" else fraction
    digits = (whole + fraction).lstrip("0")
    point = len(whole) + int(exponent or 0) - (len(whole + fraction) - len(digits))
    return sign + _placed(digits.rstrip("0"), point)


def _placed(digits: str, point: int) -> str:
    """The point comes after the first `point` digits (ECMA-262, Number::toString)."""
    count = len(digits)
    if count <= point <= 21:
        return digits + "0" * (point - count)
    if 0 < point <= 21:
        return f"{digits[:point]}.{digits[point:]}"
    if -6 < point <= 0:
        return f"0.{'0' * -point}{digits}"
    tail = f".{digits[1:]}" if count > 1 else ""
    return f"{digits[0]}{tail}e{point - 1:+d}"
