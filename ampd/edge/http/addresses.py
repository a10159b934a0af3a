"""Which addresses a URL that somebody else chose may lead to. Pure.

A webhook or another provider's endpoint is said by a stranger; with it, he must not reach what only
this machine or its network can reach (server-side request forgery).

  SA1  An address counts by its bits, not by how it is written, and one that carries an IPv4 address
       inside (mapped, compatible, 6to4, Teredo, NAT64) counts as that, too.
  SA2  Only what is globally reachable by IANA's registries (RFC 6890) is public, and no multicast;
       the metadata addresses of clouds are not, also the one that is globally reachable.
  SA3  A URL is http or https with a host, without user and password, and in characters on which
       every parser agrees.
"""

import ipaddress
import re
from typing import Final
from urllib.parse import urlsplit

from ampd.model.errors import Invalid
from ampd.model.values import value

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

MAX_URL: Final = 2048  # characters: what every server takes
# What `ipaddress` calls global, and is not for us: IETF protocol assignments (RFC 6890, section
# 2.2.2; Oracle's metadata are there), 6to4 relays (RFC 7526), Azure's metadata.
_NOT_FOR_US: Final = tuple(
    ipaddress.IPv4Network(net) for net in ("192.0.0.0/24", "192.88.99.0/24", "168.63.129.16/32")
)
_NAT64: Final = (
    ipaddress.IPv6Network("64:ff9b::/96"),  # RFC 6052
    ipaddress.IPv6Network("64:ff9b:1::/48"),  # RFC 8215
)
_COMPATIBLE: Final = ipaddress.IPv6Network("::/96")  # RFC 4291, section 2.5.5.1
_SOUND: Final = re.compile(r"[!-\[\]^-~]+")  # printable ASCII but a backslash; no blank
_HOST: Final = re.compile(r"[A-Za-z0-9._~-]+|\[[0-9A-Fa-f:.]+\]")


@value
class Target:
    """A URL, taken apart."""

    scheme: str
    host: str  # lower case, without brackets
    port: int
    path: str  # with the query; never empty

    @property
    def origin(self) -> tuple[str, str, int]:
        """What RFC 6454 compares."""
        return self.scheme, self.host, self.port

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}{self.path}"


def target_of(url: str) -> Target:
    """The parts of a URL (SA3), or Invalid."""
    if len(url) > MAX_URL or not _SOUND.fullmatch(url):
        raise Invalid(f"a URL has at most {MAX_URL} characters, and they are printable ASCII")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as exc:
        raise Invalid(f"this is no URL: {exc}") from None
    if parts.scheme not in ("http", "https"):
        raise Invalid("a URL begins with http:// or https://")
    if "@" in parts.netloc:
        raise Invalid("a URL has no user and no password")
    host, _, rest = parts.netloc.partition("]") if parts.netloc.startswith("[") else ("", "", "")
    written = host + "]" if host else parts.netloc.partition(":")[0]
    if not _HOST.fullmatch(written) or (host and rest and not rest.startswith(":")):
        raise Invalid("the URL has no host that everybody reads in the same way")
    if port == 0:
        raise Invalid("a URL's port is not 0")
    path = parts.path or "/"
    if not path.startswith("/"):
        raise Invalid("a URL's path begins with /")
    default = 443 if parts.scheme == "https" else 80
    query = f"?{parts.query}" if parts.query else ""
    return Target(parts.scheme, written.strip("[]").lower(), port or default, path + query)


def is_public(text: str) -> bool:
    """Whether an address may be reached on a stranger's word (SA1, SA2)."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    return all(_global(each) for each in (address, *_inside(address)))


def _global(address: Address) -> bool:
    if address.is_multicast or address.is_unspecified or address.is_link_local:
        return False
    if isinstance(address, ipaddress.IPv6Address):
        if any(address in net for net in _NAT64):
            return True  # as what it carries
        if address.is_site_local or address.is_reserved:
            return False
    elif any(address in net for net in _NOT_FOR_US):
        return False
    return address.is_global and not address.is_loopback


def _inside(address: Address) -> list[Address]:
    """The IPv4 addresses that an IPv6 address carries (SA1)."""
    if not isinstance(address, ipaddress.IPv6Address):
        return []
    low = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    found: list[Address | None] = [address.ipv4_mapped, address.sixtofour]
    found += list(address.teredo or ())
    if any(address in net for net in _NAT64) or address in _COMPATIBLE:
        found.append(low)
    return [each for each in found if each is not None]
