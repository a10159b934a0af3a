"""Messages for the gateways of other domains: POST {gateway}/v1/messages, one for each recipient.

  OU1  One delivery carries one recipient, the sender's ids, and the signature of our domain if
       there is a key for it (gateway.amtp_signing_key). Only agents of this node send: what came
       from elsewhere is never signed anew (9.3.3).
  OU2  2xx: it is theirs. 4xx: no, for good, and their reason goes to the sender. 408, 425, 429,
       5xx, a redirect or no answer: later (core/abroad.py says when).
  OU3  What is larger than the record of the domain allows is not sent at all.
  OU4  Each try is remembered, with its time, for status reports and dead letters.

Not here: when it is tried again (core/abroad.py), what a message looks like (mail.py).
"""

from collections.abc import Callable
from typing import Any, Final

from ampd.core.ports import Parcel
from ampd.crypto.foreign_keys import ForeignSigner
from ampd.edge.amtp.gateways import Gateways, Known
from ampd.edge.amtp.ports import Mail
from ampd.edge.http.client import HttpClient, Reply
from ampd.model.address import Address
from ampd.model.errors import Invalid, Refused, Unavailable
from ampd.model.message import Delivery, id_text
from ampd.model.values import value
from ampd.protocol import raw_json
from ampd.protocol.amtp.domain_signature import sign
from ampd.storage.registry import Registry

ANSWER_WITHIN: Final = 35.0  # seconds: an Agentry delivers inside the request, for up to 30
_LATER: Final = frozenset((408, 425, 429))
_TRIES: Final = "amtp.tries"
_KEPT_FOR: Final = 31 * 86_400_000  # ms
_LONGEST: Final = 300  # characters of another gateway's reason


@value
class Tries:
    """How often a copy was offered, when first and last (ms), and what was wrong."""

    count: int = 0
    first: int = 0
    last: int = 0
    reason: str = ""


class Outbound:
    """Brings messages to other gateways."""

    def __init__(
        self,
        http: HttpClient,
        gateways: Gateways,
        registry: Registry,
        mail: Mail,
        signer: tuple[ForeignSigner, str] | None,
        now: Callable[[], int],
    ) -> None:
        """`signer` is our domain's key and its selector."""
        self._http = http
        self._gateways = gateways
        self._registry = registry
        self._mail = mail
        self._signer = signer
        self._now = now

    async def find(self, address: Address) -> bool:
        """Whether the domain of an address has a gateway."""
        if self._mail.is_ours(address.domain):
            return False
        return await self._gateways.of(address.domain) is not None

    async def carry(self, parcel: Parcel) -> Delivery:
        """Bring one message to the gateway of its recipient (OU1-OU4). Refused, Unavailable."""
        try:
            delivery = await self._carry(parcel)
        except (Refused, Unavailable) as exc:
            await self._note(parcel, str(exc))
            raise
        await self._note(parcel, "")
        return delivery

    def tries(self, identifier: str, address: str) -> Tries:
        """What is known of the tries to bring a message to an address (OU4)."""
        found = self._registry.get(_TRIES, f"{identifier}/{address.lower()}")
        return Tries(**found) if found else Tries()

    async def _carry(self, parcel: Parcel) -> Delivery:
        domain = parcel.recipient.domain
        known = await self._gateways.of(domain)
        if known is None:
            raise Unavailable(f"{domain} has no AMTP gateway in the DNS (any more)")
        body = self._body(parcel, known)
        reply = await self._http.send(
            "POST",
            f"{known.record.gateway}/v1/messages",
            headers={
                "Content-Type": "application/json",
                "Accept": "application/json",
                "User-Agent": "AMTP/1.0 (ampd)",
                "X-AMTP-Version": "1.0",
            },
            body=body,
            timeout=ANSWER_WITHIN,
            anywhere=known.configured,
        )
        return _outcome(domain, reply)

    def _body(self, parcel: Parcel, known: Known) -> bytes:
        message = self._mail.outgoing(parcel)
        if self._signer is not None:
            message["signature"] = sign(message, *self._signer)
        body = raw_json.write(message).encode()
        if len(body) > known.record.max_size:
            raise Refused(
                f"{len(body)} bytes, and {parcel.recipient.domain} takes {known.record.max_size}",
                code="too_large",
            )  # fmt: skip
        return body

    async def _note(self, parcel: Parcel, reason: str) -> None:
        """OU4. What is delivered at the first try needs no note."""
        key = f"{id_text(parcel.message.id)}/{parcel.recipient}"
        before, now = self._registry.get(_TRIES, key), self._now()
        if not reason and before is None:
            return
        first = before["first"] if before else now
        count = (before["count"] if before else 0) + 1
        tries = {"count": count, "first": first, "last": now, "reason": reason[:_LONGEST]}
        await self._registry.put(
            _TRIES, key, tries, owner=parcel.sender.name, expires=now + _KEPT_FOR
        )


def _outcome(domain: str, reply: Reply) -> Delivery:
    """OU2."""
    said = _said(reply)
    if 200 <= reply.status < 300:
        status = _status_of(said)
        if status == "failed":
            raise Refused(f"{domain}: {_reason(said) or 'it says it could not deliver it'}")
        held = status in ("queued", "pending", "accepted", "delivering", "retrying")
        return Delivery("relayed" if held else "delivered", b"")
    why = _reason(said) or f"HTTP {reply.status}"
    if 400 <= reply.status < 500 and reply.status not in _LATER:
        raise Refused(f"{domain}: {why}")
    raise Unavailable(f"{domain}: {why}")


def _said(reply: Reply) -> dict[str, Any]:
    try:
        value = raw_json.parse(reply.body)
    except Invalid:
        return {}
    return value if isinstance(value, dict) else {}


def _recipient(said: dict[str, Any]) -> dict[str, Any]:
    recipients = said.get("recipients")
    if isinstance(recipients, list) and len(recipients) == 1 and isinstance(recipients[0], dict):
        return recipients[0]
    return said


def _status_of(said: dict[str, Any]) -> str:
    status = _recipient(said).get("status")
    return status if isinstance(status, str) else "delivered"


def _reason(said: dict[str, Any]) -> str:
    """The other gateway's words, for the sender: a stranger's, cut short."""
    error = said.get("error")
    found = error if isinstance(error, dict) else _recipient(said)
    names = ("code", "message") if isinstance(error, dict) else ("error_code", "error_message")
    words = [str(found[name]) for name in names if isinstance(found.get(name), str) and found[name]]
    return ": ".join(words)[:_LONGEST]
