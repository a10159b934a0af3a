"""What a domain says of its AMTP gateway in the DNS: where it is, and by which key it signs.

    _amtp.DOMAIN            TXT  v=amtp1;gateway=URL[;auth=a,b][;max-size=BYTES][;features=a,b]
    SELECTOR._amtpkey.DOMAIN TXT v=amtpkey1;alg=ES256|RS256;p=BASE64 of the DER SubjectPublicKeyInfo

(AMTP 1.0, sections 3.2.1 and 3.2.3.)

  N1  The first valid gateway record wins; what is no valid one is passed over; unknown parameters
      are ignored, quotation marks around the text are taken off.
  N2  A gateway is an https URL without user, query and fragment; http only where it is allowed.
  N3  A key holds if exactly one valid key record is there: with none or two nobody may choose.
  N4  A selector is one lower-case label, so that it cannot lead a question into another zone.
  N5  `p` may be in either alphabet of RFC 4648, with or without padding: the text of the standard
      and the documentation of its first implementation differ.

Not here: asking the DNS (edge/http/dns.py); what is done with a key (domain_signature.py).
"""

import base64
import binascii
import re
from collections.abc import Sequence
from typing import Final, Literal
from urllib.parse import urlsplit

from ampd.crypto.foreign_keys import ForeignKey
from ampd.model.errors import Invalid
from ampd.model.values import value

DEFAULT_MAX_SIZE: Final = 10 * 1024 * 1024  # bytes; AMTP 1.0, 4.3
_LONGEST: Final = 4096  # characters: a key of RSA-4096 takes 800
_SELECTOR: Final = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_DOMAIN: Final = re.compile(r"(?:[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9])?\.?)+")
Algorithm = Literal["ES256", "RS256"]
_KINDS: Final[dict[str, tuple[Algorithm, str]]] = {
    "ES256": ("ES256", "P-256"),
    "RS256": ("RS256", "RSA"),
}


@value
class GatewayRecord:
    """Where the gateway of a domain is."""

    gateway: str
    auth: tuple[str, ...] = ()
    max_size: int = DEFAULT_MAX_SIZE
    features: tuple[str, ...] = ()

    def __str__(self) -> str:
        """The text to publish."""
        parts = [f"v=amtp1;gateway={self.gateway}"]
        if self.auth:
            parts.append("auth=" + ",".join(self.auth))
        parts.append(f"max-size={self.max_size}")
        if self.features:
            parts.append("features=" + ",".join(self.features))
        return ";".join(parts)


@value
class KeyRecord:
    """By which key a domain signs, and how."""

    algorithm: Algorithm
    key: ForeignKey

    def __str__(self) -> str:
        """The text to publish."""
        der = base64.b64encode(self.key.spki).decode("ascii")
        return f"v=amtpkey1;alg={self.algorithm};p={der}"


class NoKey(Invalid):
    """The domain shows no record at all under this selector: it may come later."""


def domain_of(text: str) -> str:
    """A domain as it is compared and asked for: lower case, no dot at its end. Raises Invalid."""
    domain = text.removesuffix(".").lower()
    if len(domain) > 253 or not _DOMAIN.fullmatch(domain):
        raise Invalid(f"{text[:80]!r} is no domain name of ASCII labels")
    return domain


def gateway_name(domain: str) -> str:
    """Where the gateway record of a domain stands."""
    return f"_amtp.{domain_of(domain)}"


def key_name(selector: str, domain: str) -> str:
    """Where a key record stands. Raises Invalid (N4)."""
    if not _SELECTOR.fullmatch(selector):
        raise Invalid(f"{selector[:80]!r} is no selector: one lower-case label of the DNS")
    return f"{selector}._amtpkey.{domain_of(domain)}"


def gateway_record(texts: Sequence[str], *, plain_http: bool = False) -> GatewayRecord | None:
    """The first valid gateway record among the TXT records of a domain, or None (N1)."""
    for text in texts:
        try:
            return _gateway(text, plain_http=plain_http)
        except Invalid:
            continue
    return None


def key_record(texts: Sequence[str]) -> KeyRecord:
    """The one valid key record among these (N3). Raises NoKey if there are none, else Invalid."""
    if not texts:
        raise NoKey("the domain publishes no key under this selector")
    found = []
    for text in texts:
        try:
            found.append(_key(text))
        except Invalid:
            continue
    if len(found) != 1:
        raise Invalid(f"the domain publishes {len(found)} valid keys under one selector, not one")
    return found[0]


def _parameters(text: str, version: str) -> dict[str, str]:
    if len(text) > _LONGEST:
        raise Invalid(f"a record of {len(text)} characters, over {_LONGEST}")
    found: dict[str, str] = {}
    for part in text.strip().strip('"').split(";"):
        name, equals, value = part.strip().partition("=")
        if not equals:
            continue
        if name.strip() in found:
            raise Invalid(f"{name.strip()!r} stands twice")
        found[name.strip()] = value.strip()
    if found.get("v") != version or next(iter(found)) != "v":
        raise Invalid(f"not a record of {version}")
    return found


def _gateway(text: str, *, plain_http: bool) -> GatewayRecord:
    found = _parameters(text, "amtp1")
    size = found.get("max-size", "")
    if size and not (size.isascii() and size.isdigit() and len(size) < 16 and int(size)):
        raise Invalid(f"max-size={size[:40]}")
    return GatewayRecord(
        gateway=gateway_url(found.get("gateway", ""), plain_http=plain_http),
        auth=_words(found.get("auth", "")),
        max_size=int(size) if size else DEFAULT_MAX_SIZE,
        features=_words(found.get("features", "")),
    )


def gateway_url(text: str, *, plain_http: bool = False) -> str:
    """A gateway's URL without a slash at its end. Raises Invalid (N2)."""
    try:
        url = urlsplit(text)
        port = url.port
    except ValueError as exc:
        raise Invalid(f"gateway={text[:80]}: {exc}") from None
    schemes = ("https", "http") if plain_http else ("https",)
    if url.scheme not in schemes or not url.hostname or port == 0:
        raise Invalid(f"gateway={text[:80]} is no {' or '.join(schemes)} URL")
    plain = text.isascii() and text.isprintable() and " " not in text
    if not plain or "@" in url.netloc or url.query or url.fragment:
        raise Invalid(f"gateway={text[:80]}: only scheme, host, port and path may stand there")
    return text.rstrip("/")


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(",") if word.strip())


def _key(text: str) -> KeyRecord:
    found = _parameters(text, "amtpkey1")
    if found.get("alg") not in _KINDS:
        raise Invalid("alg is ES256 or RS256")
    algorithm, kind = _KINDS[found["alg"]]
    encoded = found.get("p", "").rstrip("=").replace("-", "+").replace("_", "/")
    try:
        der = base64.b64decode(encoded + "=" * (-len(encoded) % 4), validate=True)
    except binascii.Error as exc:
        raise Invalid(f"p= is no base64: {exc}") from None
    key = ForeignKey.from_spki(der)
    if key.algorithm != kind:
        raise Invalid(f"alg={algorithm} with a key of {key.algorithm}")
    return KeyRecord(algorithm, key)
