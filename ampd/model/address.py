"""Names and keys as people and programs write them.

    address      name@domain            alice@laptop.local
    key          52 characters of lower-case base32 without padding (RFC 4648, section 6)
    fingerprint  SHA256: + base64 without padding of the SHA-256 of the raw public key
    node URI     amp://KEY@HOST:PORT    where a node or a relay listens
    relay URI    amp://KEY@HOST:PORT?invite=TOKEN, the invitation if there is one
    contact link amp://KEY/alice@laptop.local?relay=amp://KEY@HOST:PORT

An address is a name; an identity is a key. Everything is kept in lower case, and ASCII: parse()
is kind to what a person typed (case, space around it), `from_wire` takes the one spelling only.
"""

import base64
import functools
import hashlib
import ipaddress
import re
from dataclasses import dataclass
from typing import Final, Self
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from ampd.model.errors import Invalid
from ampd.model.values import value

MAX_ADDRESS: Final = 254  # RFC 5321, section 4.5.3.1.3, less the angle brackets
_NAME: Final = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,61}[a-z0-9])?")
_LABEL: Final = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")  # RFC 1123, section 2.1
_KEY_CHARACTERS: Final = 52
_NODE: Final = re.compile(
    r"(?i:amp)://([A-Za-z0-9]{1,64})@(\[[^\[\]\s]{1,80}\]|[A-Za-z0-9.-]{1,253}):(\d{1,5})", re.ASCII
)
_ZONE: Final = re.compile(r"[A-Za-z0-9._-]{1,15}")  # IFNAMSIZ of Linux, less the zero
MAX_LINK: Final = 8192  # bytes: as many hints as a link may hold, and more than a QR code does
MAX_HINTS: Final = 16  # relays, and nodes, in one link; a card has no more
_SHOWN: Final = 80  # characters of a wrong text that an error repeats


def check_name(name: str) -> str:
    """`name` in lower case, or Invalid."""
    lowered = name.lower()
    if not name.isascii() or not _NAME.fullmatch(lowered):  # the Kelvin sign in lower case is a k
        raise Invalid(
            f"{name[:_SHOWN]!r} is not an agent name",
            hint="use 1 to 63 of a-z 0-9 - _ . that start and end with a letter or digit",
        )
    return lowered


def check_domain(domain: str) -> str:
    """`domain` in lower case, or Invalid."""
    lowered = domain.lower()
    fits = domain.isascii() and len(domain) <= MAX_ADDRESS
    if not fits or not all(_LABEL.fullmatch(label) for label in lowered.split(".")):
        raise Invalid(
            f"{domain[:_SHOWN]!r} is not a domain", hint="use DNS labels, e.g. laptop.local"
        )
    return lowered


@dataclass(frozen=True, slots=True, order=True)
class Address:
    """`name@domain`, in lower case."""

    name: str
    domain: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """The address that `text` is, or Invalid."""
        stripped = text.strip()
        if "@" not in stripped or stripped[0] == "@" or stripped[-1] == "@":
            shown = f"{text[:_SHOWN]!r}"
            raise Invalid(f"{shown} is not an address", hint="write it as name@domain")
        if len(stripped) > MAX_ADDRESS:
            raise Invalid(f"an address of more than {MAX_ADDRESS} characters")
        return cls(*_name_and_domain(stripped))

    @classmethod
    def from_wire(cls, text: str) -> "Address":
        """The address whose one spelling `text` is, or Invalid: what is signed is not mended."""
        return _from_wire(text)

    def __str__(self) -> str:
        return f"{self.name}@{self.domain}"


@functools.lru_cache(maxsize=1024)  # under 1 MiB; every message names the same few
def _name_and_domain(text: str) -> tuple[str, str]:
    name, _, domain = text.rpartition("@")
    return check_name(name), check_domain(domain)


@functools.lru_cache(maxsize=1024)  # the same
def _from_wire(text: str) -> Address:
    address = Address.parse(text)
    if str(address) != text:
        raise Invalid(f"{text[:_SHOWN]!r} is not in lower case")
    return address


def key_text(key: bytes) -> str:
    """A public key as people see it: base32, lower case, no padding."""
    return base64.b32encode(key).decode("ascii").rstrip("=").lower()


def key_from_text(text: str) -> bytes:
    """The 32 bytes of a key that `text` spells, or Invalid."""
    try:
        key = base64.b32decode(text.upper() + "====")
    except ValueError:
        key = b""
    if len(text) != _KEY_CHARACTERS or len(key) != 32 or key_text(key) != text.lower():
        raise Invalid(
            f"{text[:60]!r} is not a key", hint="a key is 52 letters and digits of base32"
        )
    return key


def fingerprint(key: bytes) -> str:
    """What people compare, in the form that ssh made familiar."""
    digest = base64.b64encode(hashlib.sha256(key).digest()).decode("ascii")
    return f"SHA256:{digest.rstrip('=')}"


@value
class NodeUri:
    """Where a node listens, and the key it must prove: `amp://KEY@HOST:PORT`."""

    key: bytes
    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """The node URI that `text` is, or Invalid."""
        hint = "write it as amp://KEY@HOST:PORT"
        found = _NODE.fullmatch(text.strip())
        if not found or not 0 < int(found[3]) < 1 << 16:
            raise Invalid(f"{text[:_SHOWN]!r} is not a node URI", hint=hint)
        return cls(key_from_text(found[1]), _host(found[2]), int(found[3]))

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"amp://{key_text(self.key)}@{host}:{self.port}"


def _host(text: str) -> str:
    """A domain or an IP address in its one spelling; a zone (RFC 6874) keeps its case."""
    if not text.startswith("["):
        return check_domain(text)
    address, percent, zone = text[1:-1].partition("%")
    try:
        host = ipaddress.IPv6Address(address)
    except ValueError:
        raise Invalid(f"{text!r} is not an IPv6 address") from None
    if host.ipv4_mapped:  # two spellings, and which is printed depends on the Python
        raise Invalid(f"{text!r} is an IPv4 address", hint=f"write it as {host.ipv4_mapped}")
    if percent and not _ZONE.fullmatch(zone):
        raise Invalid(f"{text!r} has a zone that is no interface name")
    return host.compressed + percent + zone


@value
class RelayUri:
    """A relay, with the invitation to it: `amp://KEY@HOST:PORT?invite=TOKEN`."""

    node: NodeUri
    token: bytes = b""

    @classmethod
    def parse(cls, text: str) -> Self:
        """The relay URI that `text` is, or Invalid."""
        place, mark, query = text.strip().partition("?")
        name, equals, value = query.partition("=")
        if mark and (name != "invite" or not equals):
            raise Invalid("not a relay URI", hint="write it as `ampd relay invite` printed it")
        return cls(NodeUri.parse(place), _token(value) if mark else b"")

    def __str__(self) -> str:
        token = base64.b32encode(self.token).decode("ascii").rstrip("=").lower()
        return f"{self.node}?invite={token}" if token else str(self.node)


def _token(text: str) -> bytes:
    try:
        token = base64.b32decode(text.upper() + "=" * (-len(text) % 8))
    except ValueError:
        token = b""
    if len(token) != 16:
        raise Invalid("the invitation in a relay URI is damaged", hint="copy it again, whole")
    return token


@value
class ContactLink:
    """Who somebody is and where to reach them: `amp://KEY/ADDRESS?relay=URI`."""

    key: bytes
    address: Address
    relays: tuple[NodeUri, ...] = ()
    nodes: tuple[NodeUri, ...] = ()

    @classmethod
    def parse(cls, text: str) -> Self:
        """The contact link that `text` is, or Invalid."""
        hint = "write it as amp://KEY/name@domain, as `amp card` prints it"
        shown = f"{text[:_SHOWN]!r}"
        if len(text) > MAX_LINK or not text.isascii() or not text.strip().isprintable():
            raise Invalid(f"{shown} is not a contact link", hint=hint)
        try:
            parts = urlsplit(text.strip())
            query = parse_qsl(
                parts.query, strict_parsing=bool(parts.query), max_num_fields=2 * MAX_HINTS
            )
        except ValueError as exc:
            raise Invalid(f"{shown} is not a contact link: {exc}", hint=hint) from None
        if parts.scheme != "amp" or not parts.path.startswith("/") or parts.fragment:
            raise Invalid(f"{shown} is not a contact link", hint=hint)
        return cls(
            key_from_text(parts.netloc),
            Address.parse(unquote(parts.path[1:])),
            tuple(NodeUri.parse(value) for name, value in query if name == "relay"),
            tuple(NodeUri.parse(value) for name, value in query if name == "node"),
        )

    def __str__(self) -> str:
        query = [("relay", uri) for uri in self.relays] + [("node", uri) for uri in self.nodes]
        tail = "&".join(f"{name}={quote(str(uri), safe=':/@[]')}" for name, uri in query)
        return f"amp://{key_text(self.key)}/{self.address}" + (f"?{tail}" if tail else "")
