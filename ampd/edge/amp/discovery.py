"""Other AMP providers: where their API is, and the key by which they sign (section 06).

  DY1  A domain in gateway.resolve is where that says, and nowhere else; only there may it be http.
  DY2  Else the TXT record `_amp._tcp.DOMAIN` says it, else https://DOMAIN/.well-known/
       agent-messaging.json. What lies on this network (*.local, *.internal, *.localhost) is never
       looked up.
  DY3  The key is what the provider's own documents hold; if the TXT record names a fingerprint, no
       other key counts. A document that names another provider counts for nothing.
  DY4  Answers are kept: the record's TTL, at least 5 minutes; a well-known document an hour; that
       there is none, 5 minutes. When nobody answers, what was known counts for a day more.
  DY5  At most MAX_KNOWN are kept: strangers choose the names.

There is no central registry to ask: the specification names one that does not exist yet.
"""

import base64
import binascii
import hashlib
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from typing import Final
from urllib.parse import urlsplit

from ampd.crypto.foreign_keys import ForeignKey
from ampd.edge.gateway_values import Shared
from ampd.edge.http.addresses import target_of
from ampd.edge.http.client import Reply
from ampd.model.errors import Invalid, Refused, Unavailable
from ampd.model.values import value
from ampd.protocol import raw_json
from ampd.protocol.amp.address import AmpAddress, is_local_network

DNS_KEPT: Final = 300.0  # seconds, at least
DOCUMENT_KEPT: Final = 3600.0
NONE_KEPT: Final = 300.0
STALE_FOR: Final = 86_400.0
MAX_KNOWN: Final = 1000
_LIMIT: Final = 1 << 16  # bytes of a document
_WITHIN: Final = 10.0  # seconds
_WELL_KNOWN: Final = "/.well-known/agent-messaging.json"


@value
class OtherProvider:
    """A provider elsewhere."""

    domain: str
    endpoint: str  # of its API, "/v1" included
    key: ForeignKey | None
    found_by: str  # "resolve", "dns" or "well-known"
    anywhere: bool = False  # the user named its URL: private addresses are meant


@value
class _Known:
    provider: OtherProvider | None
    until: float


class Discovery:
    """Finds providers, and remembers."""

    def __init__(self, shared: Shared, clock: Callable[[], float]) -> None:
        """`clock` is monotonic, in seconds."""
        self._shared = shared
        self._clock = clock
        self._known: OrderedDict[str, _Known] = OrderedDict()

    async def of_address(self, domain: str) -> OtherProvider | None:
        """The provider of an address' domain: [SCOPE.]TENANT.PROVIDER, or PROVIDER alone.

        Raises Unavailable if none is found and somebody did not answer.
        """
        for candidate in _suffixes(domain):
            if candidate in self._shared.values.resolve:
                return await self.provider(candidate)
        failed: Unavailable | None = None
        for candidate in _suffixes(domain):
            try:
                if found := await self.provider(candidate):
                    return found
            except Unavailable as exc:  # there need be no host of a tenant's name
                failed = exc
        if failed is not None:
            raise failed
        return None

    async def provider(self, domain: str) -> OtherProvider | None:
        """The provider of exactly this domain; None if there is none. Raises Unavailable (DY4)."""
        if is_local_network(domain):
            return None
        known, now = self._known.get(domain), self._clock()
        if known is not None and now < known.until:
            return known.provider
        try:
            found, kept_for = await self._look_up(domain)
        except Unavailable:
            if known is None or known.provider is None or now > known.until + STALE_FOR:
                raise
            return known.provider
        self._known[domain] = _Known(found, self._clock() + kept_for)
        if len(self._known) > MAX_KNOWN:
            self._known.popitem(last=False)
        return found

    async def _look_up(self, domain: str) -> tuple[OtherProvider | None, float]:
        url = self._shared.values.resolve.get(domain)
        if url is not None:
            return await self._resolved(domain, url), DOCUMENT_KEPT
        records, ttl = await self._shared.dns.txt(f"_amp._tcp.{domain}")
        for record in records:
            if fields := read_record(record):
                found = await self._by_record(domain, fields)
                return found, max(DNS_KEPT, float(ttl))
        found = await self._well_known(f"https://{domain}", domain)
        return found, DOCUMENT_KEPT if found else NONE_KEPT

    async def _resolved(self, domain: str, url: str) -> OtherProvider | None:
        """DY1: the API is where the user said, whatever the document says."""
        parts = urlsplit(url)
        found = await self._well_known(f"{parts.scheme}://{parts.netloc}", domain, anywhere=True)
        if found is None:
            return None
        return replace(found, endpoint=versioned(url), found_by="resolve", anywhere=True)

    async def _by_record(self, domain: str, fields: dict[str, str]) -> OtherProvider | None:
        """DY3."""
        endpoint = fields["endpoint"]
        if not _is_https(endpoint):
            return None
        origin = f"https://{urlsplit(endpoint).netloc}"
        for url in (f"{versioned(endpoint)}/info", origin + _WELL_KNOWN):
            key = _key_of(await self._document(url), domain)
            if key is not None and same_fingerprint(key, fields["pubkey"]):
                return OtherProvider(domain, versioned(endpoint), key, "dns")
        return OtherProvider(domain, versioned(endpoint), None, "dns")

    async def _well_known(
        self, origin: str, domain: str, *, anywhere: bool = False
    ) -> OtherProvider | None:
        document = await self._document(origin + _WELL_KNOWN, anywhere=anywhere)
        endpoint = document.get("endpoint") if document else None
        if document is None or not isinstance(endpoint, str) or not _is_of(document, domain):
            return None
        if not _is_https(endpoint) and not anywhere:
            return None
        key = _key_of(document, domain)
        return OtherProvider(domain, versioned(endpoint), key, "well-known", anywhere)

    async def _document(self, url: str, *, anywhere: bool = False) -> dict[str, object] | None:
        """A JSON object; None if there is none. Unavailable if the server does not answer."""
        try:
            reply: Reply = await self._shared.http.send(
                "GET", url, timeout=_WITHIN, anywhere=anywhere, limit=_LIMIT, redirects=3
            )
            found = raw_json.plain(raw_json.parse(reply.body)) if reply.status == 200 else None
        except Refused:  # a private address, or no JSON
            return None
        if reply.status >= 500:
            raise Unavailable(f"{url} answered {reply.status}")
        return found if isinstance(found, dict) else None


def read_record(text: str) -> dict[str, str]:
    """The fields of a TXT record: `v=AMP1; endpoint=URL; pubkey=FINGERPRINT`; {} if it is none."""
    pairs = (part.partition("=") for part in text.split(";"))
    fields = {name.strip().lower(): value.strip() for name, _, value in pairs}
    wanted = fields.get("v", "").upper() == "AMP1" and {"endpoint", "pubkey"} <= set(fields)
    return fields if wanted else {}


def versioned(endpoint: str) -> str:
    """The base of all paths: providers write it with and without /v1."""
    bare = endpoint.rstrip("/")
    return bare if bare.endswith("/v1") else f"{bare}/v1"


def same_fingerprint(key: ForeignKey, said: str) -> bool:
    """Whether a fingerprint is this key's: of its SPKI, as clients make it, or of its raw bytes."""
    text = said.removeprefix("SHA256:").rstrip("=")
    try:
        digest = base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError):
        return False
    return digest in (hashlib.sha256(key.spki).digest(), hashlib.sha256(key.raw).digest())


def _suffixes(domain: str) -> list[str]:
    """The domain, and what is left without its first labels, while there are two."""
    labels = AmpAddress.parse(f"x@{domain}").labels
    return [".".join(labels[start:]) for start in range(max(1, len(labels) - 1))][:4]


def _is_https(url: str) -> bool:
    """Whether a URL that a stranger wrote is one of https at all."""
    try:
        return target_of(url).scheme == "https"
    except Invalid:
        return False


def _is_of(document: dict[str, object], domain: str) -> bool:
    named = document.get("provider")
    return not isinstance(named, str) or named.lower() == domain


def _key_of(document: dict[str, object] | None, domain: str) -> ForeignKey | None:
    if document is None or not _is_of(document, domain):
        return None
    pem = document.get("public_key")
    try:
        return ForeignKey.from_pem(pem) if isinstance(pem, str) else None
    except Invalid:
        return None
