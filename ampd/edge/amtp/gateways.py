"""Where the gateway of a domain is, and by which key a domain signs: the settings, then the DNS.

  GW1  gateway.resolve goes before the DNS. What the owner wrote there may be plain HTTP, and in
       this network; what the DNS says is at a public address or a host of gateway.webhook_hosts,
       and https unless gateway.plain_http is set.
  GW2  A name that only this network has (no dot, .local and the like) is asked of no DNS.
  GW3  An answer is believed as long as its record says (http/dns.py); a DNS that does not answer
       is Unavailable, which is not the same as a domain without a gateway.

Not here: what the records say (protocol/amtp/dns_record.py).
"""

from collections.abc import Mapping
from typing import Final

from ampd.edge.http.dns import Dns
from ampd.model.errors import Invalid, Unavailable
from ampd.model.values import value
from ampd.protocol.amtp.dns_record import (
    GatewayRecord,
    KeyRecord,
    domain_of,
    gateway_name,
    gateway_record,
    gateway_url,
    key_name,
    key_record,
)

# RFC 6761, RFC 6762, RFC 8375 and the ICANN's name for private use: nobody's public DNS has them.
_PRIVATE: Final = (".local", ".localhost", ".internal", ".home.arpa", ".test", ".invalid")


@value
class Known:
    """A gateway, how it was found, and for how many seconds that holds."""

    record: GatewayRecord
    configured: bool  # by the owner: it may be anywhere
    ttl: int


class Gateways:
    """Looks up domains."""

    def __init__(self, dns: Dns, resolve: Mapping[str, str], *, plain_http: bool) -> None:
        """`resolve` has a URL, or the text of a whole record, for each domain."""
        self._dns = dns
        self._plain_http = plain_http
        self._resolve = {domain_of(domain): _configured(text) for domain, text in resolve.items()}

    def is_configured(self, domain: str) -> bool:
        """Whether the owner wrote down where this domain's gateway is."""
        return domain in self._resolve

    async def of(self, domain: str) -> Known | None:
        """The gateway of a domain, None if it has none. Unavailable if the DNS does not answer."""
        if found := self._resolve.get(domain):
            return Known(found, configured=True, ttl=300)
        if not _is_public(domain):
            return None
        texts, ttl = await self._dns.txt(gateway_name(domain))
        record = gateway_record(texts, plain_http=self._plain_http)
        return None if record is None else Known(record, configured=False, ttl=ttl)

    async def key(self, selector: str, domain: str) -> KeyRecord:
        """The key of a selector (dns_record.key_record); Unavailable if the DNS does not answer."""
        name = key_name(selector, domain)
        if not _is_public(domain) and not self.is_configured(domain):
            raise Unavailable(f"{domain} is in no public DNS: its key cannot be looked up")
        texts, _ = await self._dns.txt(name)
        return key_record(texts)


def _is_public(domain: str) -> bool:
    """GW2."""
    return "." in domain and not domain.endswith(_PRIVATE)


def _configured(text: str) -> GatewayRecord:
    if text.startswith("v="):
        found = gateway_record([text], plain_http=True)
        if found is None:
            raise Invalid(f"gateway.resolve: {text[:80]!r} is no record of AMTP")
        return found
    return GatewayRecord(gateway_url(text, plain_http=True))
