"""Questions to the DNS, kept as long as their answers say, within limits.

  DN1  An answer is kept for its TTL, but at least KEPT_AT_LEAST and at most KEPT_AT_MOST; that
       there is none is kept, too (RFC 2308). That nobody answered is not.
  DN2  `gateway.dns` names a server to ask instead of the system's.

Answers are not authenticated: whoever uses one treats it as a stranger's word. Host names are
resolved as every program on this machine resolves them, /etc/hosts included, unless DN2 says
otherwise.
"""

import ipaddress
import socket
from typing import Final

import dns.asyncbackend
import dns.asyncresolver
import dns.exception
import dns.message
import dns.rdatatype
import dns.resolver
import trio

from ampd.model.errors import Invalid, Unavailable

KEPT_AT_LEAST: Final = 30.0  # seconds: a TTL of 0 must not mean a question for every message
KEPT_AT_MOST: Final = 3600.0  # seconds: a domain that moves is followed within the hour
NONE_KEPT_AT_MOST: Final = 300.0  # seconds; RFC 2308, section 5, would allow hours
ASKS_FOR: Final = 5.0  # seconds in which all servers together must answer
_MAX_KEPT: Final = 2000  # names: strangers choose them
_MAX_STRINGS: Final = 50  # records of one name


class Dns:
    """Asks, and remembers."""

    def __init__(self, server: str = "") -> None:
        """`server` is HOST:PORT, its host an IP address; "" asks the system's servers (DN2)."""
        self._own_server = bool(server)
        self._resolver: dns.asyncresolver.Resolver | None = _asking(server) if server else None
        self._kept: dict[tuple[str, str], tuple[float, tuple[str, ...]]] = {}

    async def txt(self, name: str) -> tuple[list[str], int]:
        """The TXT records of a name, each with its strings joined, and seconds until to ask again;
        [] if there are none. Unavailable if no server answers (DN1)."""
        return await self._answer(name, "TXT")

    async def addresses(self, host: str) -> list[str]:
        """The addresses of a host, in the order to try them; Unavailable if there are none."""
        try:
            return [str(ipaddress.ip_address(host))]
        except ValueError:
            pass
        if self._own_server and host.rstrip(".") != "localhost":
            six, _ = await self._answer(host, "AAAA")
            four, _ = await self._answer(host, "A")
            found = four + six
        else:
            found = await _as_the_system(host)
        if not found:
            raise Unavailable(f"there is no host {host}")
        return found

    async def _answer(self, name: str, kind: str) -> tuple[list[str], int]:
        key = (name.lower().rstrip("."), kind)
        now = trio.current_time()
        until, texts = self._kept.get(key, (0.0, ()))
        if until <= now:
            texts, seconds = await self._ask(key[0], kind)
            until = now + seconds
            self._kept.pop(key, None)
            while len(self._kept) >= _MAX_KEPT:
                del self._kept[next(iter(self._kept))]
            self._kept[key] = (until, texts)
        return list(texts), max(1, round(until - now))

    async def _ask(self, name: str, kind: str) -> tuple[tuple[str, ...], float]:
        try:
            if self._resolver is None:
                self._resolver = dns.asyncresolver.Resolver()
            answer = await self._resolver.resolve(
                f"{name}.", kind, lifetime=ASKS_FOR, raise_on_no_answer=False,
                backend=dns.asyncbackend.get_backend("trio"),
            )  # fmt: skip
        except dns.resolver.NXDOMAIN as exc:
            replies = exc.responses().values()  # type: ignore[no-untyped-call]
            return (), _none_for(next(iter(replies), None))
        except (dns.exception.DNSException, OSError) as exc:
            raise Unavailable(f"the DNS does not say {kind} of {name}: {exc}") from None
        if answer.rrset is None:
            return (), _none_for(answer.response)
        texts = tuple(_text(record) for record in list(answer.rrset)[:_MAX_STRINGS])
        return texts, min(max(float(answer.rrset.ttl), KEPT_AT_LEAST), KEPT_AT_MOST)


def _text(record: object) -> str:
    strings = getattr(record, "strings", None)
    if strings is None:
        return str(record)
    return b"".join(strings).decode("utf-8", "replace")


def _none_for(response: dns.message.Message | None) -> float:
    """How long there being none is kept: the SOA's say (RFC 2308, section 5)."""
    said = [
        min(each.ttl, each[0].minimum)
        for each in (response.authority if response is not None else ())
        if each.rdtype == dns.rdatatype.SOA
    ]
    return min(max(float(min(said, default=0)), KEPT_AT_LEAST), NONE_KEPT_AT_MOST)


def _asking(server: str) -> dns.asyncresolver.Resolver:
    host, _, port = server.rpartition(":")
    host = host.strip("[]")
    try:
        ipaddress.ip_address(host)
    except ValueError:
        raise Invalid(
            f"gateway.dns is {server!r}", hint="write the name server's IP address and port"
        ) from None
    made = dns.asyncresolver.Resolver(configure=False)
    made.nameservers = [host]
    made.port = int(port)
    return made


async def _as_the_system(host: str) -> list[str]:
    try:
        found = await trio.socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as exc:
        why = exc.strerror if isinstance(exc, OSError) and exc.strerror else str(exc)
        raise Unavailable(f"there is no host {host}: {why.lower()}") from None
    return list(dict.fromkeys(str(each[4][0]) for each in found))
