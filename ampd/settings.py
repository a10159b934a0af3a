"""The sections of config.toml: every key, its default, what it may be, what it is read as.

One dataclass a section, one field a key. A section made without arguments holds the
defaults, so `Peer()` is what an empty config.toml means.

Not here: where a value comes from, and which place an error names (config.py).
"""

import ipaddress
import os
import re
import reprlib
import socket
from collections.abc import Callable, Mapping
from dataclasses import field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final
from urllib.parse import urlsplit

from ampd.model.address import NodeUri, RelayUri, check_domain
from ampd.model.errors import Invalid
from ampd.model.values import value

Endpoint = tuple[str, int]  # (host, port), as socket.bind takes it; port 0: the system picks one

MAX_DOMAIN: Final = 252  # characters: an address has 254, and "a@" before its domain
MAX_MESSAGE: Final = 4 << 20  # bytes: in base64 and JSON it still fits the socket's 8 MiB line
MAX_RATE: Final = 1_000_000  # a minute: more than any machine answers, so it means no limit
# What gateway.limits may name: requests a minute, but "hourly"; the services have the defaults.
RATES: Final = frozenset(
    (
        *("route", "pending", "register", "api", "hourly", "received"),
        *("federation", "federation_recipient", "federation_total"),
        *("amtp", "amtp_denied", "amtp_federation"),
    )
)


_ADDRESS: Final = "HOST:PORT or [IPV6]:PORT"


def expected(what: str, value: object, *, hint: str = "") -> Invalid:
    """The error for a value that is not `what`; the value is shown shortened and escaped."""
    shown = reprlib.Repr()
    shown.maxstring = shown.maxother = 80
    return Invalid(f"expected {what}, not {shown.repr(value)}", hint=hint)


def did_you_mean(word: str, known: list[str]) -> str:
    """A hint for a word that is none of `known`."""
    return _meant(word, known) or f"known are {', '.join(known)}"


def _meant(word: str, known: list[str]) -> str:
    import difflib

    close = difflib.get_close_matches(word, known, n=1)
    return f"did you mean {close[0]}?" if close else ""


# Readers: from a value of the right shape to what the daemon uses, or Invalid.


def default_domain(hostname: str) -> str:
    """This host's name as a domain: its first label, made a DNS label, and `.local`."""
    label = re.sub(r"[^a-z0-9-]+", "-", hostname.lower().partition(".")[0])
    return f"{label.strip('-')[:63].rstrip('-') or 'localhost'}.local"


def _domain(text: str) -> str:
    if len(text) > MAX_DOMAIN:
        raise expected(f"a domain of at most {MAX_DOMAIN} characters", text)
    return check_domain(text)


def _node_domain(text: str) -> str:
    return _domain(text) if text else default_domain(socket.gethostname())


def read_endpoint(text: str) -> Endpoint | None:
    """`HOST:PORT` or `[IPv6]:PORT`; None for "": off."""
    try:
        return read_address(text) if text else None
    except Invalid:
        raise expected(f'{_ADDRESS} or "" for off', text) from None


def read_address(text: str) -> Endpoint:
    """`HOST:PORT` or `[IPv6]:PORT`."""
    match = re.fullmatch(
        r"(?:\[(?P<six>[^\[\]]+)\]|(?P<host>[^\[\]:]+)):(?P<port>[0-9]{1,5})", text
    )
    if not match or int(match["port"]) > 65535:
        raise expected(_ADDRESS, text)
    try:
        if match["six"]:
            ipaddress.IPv6Address(match["six"])
        elif re.fullmatch(r"[0-9.]+", match["host"]):
            ipaddress.IPv4Address(match["host"])
        else:
            check_domain(match["host"])
    except (ValueError, Invalid):
        raise expected(_ADDRESS, text) from None
    return match["six"] or match["host"], int(match["port"])


def _nodes(texts: list[str]) -> tuple[NodeUri, ...]:
    return tuple(NodeUri.parse(text) for text in texts)


def _relays(texts: list[str]) -> tuple[RelayUri, ...]:
    return tuple(RelayUri.parse(text) for text in texts)


def _names(texts: list[str]) -> tuple[str, ...]:
    if not all(texts):
        raise expected("names of interfaces", texts)
    return tuple(texts)


def _one_of(*words: str) -> Callable[[str], str]:
    def read(text: str) -> str:
        if text not in words:
            raise expected(" or ".join(words), text, hint=_meant(text, list(words)))
        return text

    return read


def _file(text: str) -> Path | None:
    if not text:
        return None
    path = Path(os.path.expanduser(text))  # noqa: PTH111 - Path.expanduser raises for an unknown user
    if not path.is_absolute():
        raise expected('an absolute path, one that begins with ~/, or ""', text)
    return path


def _urls(table: dict[str, str]) -> Mapping[str, str]:
    for domain, url in table.items():
        check_domain(domain)
        try:
            parts = urlsplit(url)
            sound = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
        except ValueError:
            sound = False
        if not sound:
            raise expected("http://HOST:PORT or https://HOST:PORT", url)
    return MappingProxyType({domain.lower(): url for domain, url in table.items()})


def _hosts(texts: list[str]) -> tuple[str, ...]:
    """`HOST` or `HOST:PORT` each, in lower case."""
    for text in texts:
        try:
            read_address(text if re.search(r":[0-9]+$|\]$", text) else f"{text}:1")
        except Invalid:
            raise expected("HOST or HOST:PORT", text) from None
    return tuple(text.lower() for text in texts)


def _name_server(text: str) -> str:
    """`IP:PORT`; "" is the system's."""
    try:
        if text:
            ipaddress.ip_address(read_address(text)[0])
    except (ValueError, Invalid):
        what = 'the IP address and port of a name server, or "" for the system\'s'
        raise expected(what, text) from None
    return text


def _labels(texts: list[str]) -> tuple[str, ...]:
    for text in texts:
        if not re.fullmatch(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?", text):
            raise expected("names of small letters, digits and hyphens", text)
    return tuple(texts)


def _label(text: str) -> str:
    return _labels([text])[0]


def _domains(texts: list[str]) -> tuple[str, ...]:
    return tuple(check_domain(text).lower() for text in texts)


def _rates(table: dict[str, int]) -> Mapping[str, int]:
    for kind, number in table.items():
        if kind not in RATES:
            raise Invalid(f"there is no limit {kind!r}", hint=did_you_mean(kind, sorted(RATES)))
        if not 0 <= number <= MAX_RATE:
            raise expected(f"0 (no limit) to {MAX_RATE}", number)
    return MappingProxyType(dict(table))


def _message_bytes(number: int) -> int:
    if not 1024 <= number <= MAX_MESSAGE:  # under 1 KiB no signed message fits
        raise expected(f"1024 to {MAX_MESSAGE} bytes", number)
    return number


def _setting(default: object, read: Callable[[Any], object], items: type = str) -> Any:
    """A key of config.toml: its default as it would stand there, and its reader.

    `items` is what a list or a table of it holds.
    """
    return field(
        default_factory=lambda: read(default),
        metadata={"shape": type(default), "read": read, "items": items},
    )


@value
class Node:
    """Who this node is."""

    domain: str = _setting("", _node_domain)


@value
class Peer:
    """Sessions with other nodes."""

    listen: Endpoint | None = _setting("0.0.0.0:4160", read_endpoint)
    static: tuple[NodeUri, ...] = _setting([], _nodes)


@value
class Discovery:
    """How nodes on this network are found."""

    mdns: bool = _setting(True, bool)
    interfaces: tuple[str, ...] = _setting([], _names)


@value
class Relay:
    """Who keeps mail for us while we are away, tried in order."""

    servers: tuple[RelayUri, ...] = _setting([], _relays)


@value
class Policy:
    """What becomes of mail from somebody new."""

    unknown_senders: str = _setting("accept", _one_of("accept", "quarantine", "reject"))


@value
class Gateway:
    """The HTTP interfaces for AMP and AMTP."""

    listen: Endpoint | None = _setting("", read_endpoint)
    amp_domain: str = _setting("aimaestro.local", _domain)
    amtp_domain: str = _setting("localhost", _domain)
    admin_keys: Path | None = _setting("", _file)
    resolve: Mapping[str, str] = _setting({}, _urls)
    certificate: Path | None = _setting("", _file)
    key: Path | None = _setting("", _file)
    plain_http: bool = _setting(False, bool)
    hosts: tuple[str, ...] = _setting([], _hosts)
    webhook_hosts: tuple[str, ...] = _setting([], _hosts)
    dns: str = _setting("", _name_server)
    limits: Mapping[str, int] = _setting({}, _rates, int)
    registration: str = _setting("open", _one_of("open", "invite", "owner"))
    tenants: tuple[str, ...] = _setting([], _labels)
    federation: str = _setting("allowlist", _one_of("open", "allowlist", "closed"))
    federation_allow: tuple[str, ...] = _setting([], _domains)
    amp_signatures: str = _setting("strict", _one_of("strict", "open"))
    mesh: Mapping[str, str] = _setting({}, _urls)
    amtp_auth: str = _setting("local", _one_of("local", "agent"))
    amtp_signatures: str = _setting("flag", _one_of("accept", "flag", "reject"))
    amtp_signing_key: Path | None = _setting("", _file)
    amtp_selector: str = _setting("ampd", _label)
    mirror: bool = _setting(False, bool)


@value
class Limits:
    """What one message may take."""

    message_bytes: int = _setting(524288, _message_bytes)


@value
class Metrics:
    """Figures for Prometheus, and /healthz and /readyz, over HTTP."""

    listen: Endpoint | None = _setting("", read_endpoint)


@value
class Log:
    """How much is logged, and in which form."""

    level: str = _setting("info", _one_of("debug", "info", "warning", "error"))
    format: str = _setting("auto", _one_of("auto", "text", "journald", "json"))
