"""POST /federation/deliver: mail that other AMP providers bring (section 06).

  FD1  Only over TLS; plain http counts from this machine, where a proxy may end TLS, and from a
       provider that gateway.resolve names by http.
  FD2  Trust: "closed" takes nothing, "allowlist" takes providers of gateway.federation_allow,
       "open" takes every provider that proves its domain.
  FD3  The provider proves itself by a signature over TIMESTAMP "." BODY, at most 5 minutes old,
       with the key that its domain publishes (discovery.py).
  FD4  It speaks only for its own domain: `from` ends in it.
  FD5  Then the sender's own signature is checked (intake.py).
  FD6  Limits count for each host, each provider, each recipient, and all together (limits.py).
  FD7  What is taken and what is refused stands in the log, one line each, without its text.

Not here: mail that goes out (carrying.py).
"""

import base64
import binascii
import ipaddress
import logging
from collections.abc import Awaitable, Callable
from typing import Final

from ampd.core.agents import Agent
from ampd.crypto.foreign_keys import ForeignKey
from ampd.edge.amp.abuse import Abuse
from ampd.edge.amp.discovery import Discovery
from ampd.edge.amp.intake import Intake, key_said
from ampd.edge.amp.keys import checker
from ampd.edge.amp.limits import Limits
from ampd.edge.amp.outcomes import Outcome
from ampd.edge.gateway_values import Shared
from ampd.edge.http.words import Answer, Request, outward
from ampd.model.errors import AmpdError
from ampd.model.values import value
from ampd.protocol import raw_json
from ampd.protocol.amp.address import AmpAddress, is_local_network
from ampd.protocol.amp.envelope import Post, check_times, read_envelope
from ampd.protocol.amp.faults import Fault, fault_of
from ampd.protocol.amp.signing import MAX_SIGNATURE

FRESH: Final = 300  # seconds between the two clocks

log = logging.getLogger("ampd.amp.federation")


@value
class _Claim:
    """What the headers of a request say."""

    provider: str
    timestamp: int
    signature: bytes


class Federation:
    """Takes in what other providers bring."""

    def __init__(
        self,
        shared: Shared,
        discovery: Discovery,
        intake: Intake,
        limits: Limits,
        abuse: Abuse,
        outcome: Callable[[Agent, bytes], Awaitable[Outcome]],
    ) -> None:
        """`outcome` says what became of a message for an agent here."""
        self._shared = shared
        self._discovery = discovery
        self._intake = intake
        self._limits = limits
        self._abuse = abuse
        self._outcome = outcome

    async def deliver(self, request: Request) -> Answer:
        """The route. Whatever goes wrong is said with accepted: false."""
        provider = request.headers.get("x-amp-provider", "")[:254]
        try:
            return await self._deliver(request)
        except AmpdError as exc:
            fault = fault_of(outward(exc, request.path))
            log.warning(
                "federation.refused",
                extra={"from_provider": provider, "error": fault.error, "peer": request.peer},
            )
            more = {**fault.more, "accepted": False}
            raise Fault(
                fault.error, fault.status, str(fault), field=fault.field, details=fault.details,
                more=more, headers=fault.headers,
            ) from exc  # fmt: skip

    async def _deliver(self, request: Request) -> Answer:
        claim = self._claim(request)
        self._check_transport(request, claim.provider)
        if not is_loopback(request.peer):
            self._limits.take("federation", f"host {request.peer}")
        await self._check_provider(request, claim)
        body = request.json()
        if not isinstance(body, dict):
            raise Fault("invalid_request", 400, "the body must be a JSON object")
        post = read_envelope(body.get("envelope"), body.get("payload"))
        check_times(post, self._shared.now(), queued_at=claim.timestamp * 1000)
        self._check_domain(post, claim.provider)
        agent = self._intake.recipient(post.to, claim.provider)
        headers = self._limits.take_all(
            (
                ("federation", claim.provider),
                ("federation_recipient", agent.name),
                ("federation_total", "all providers"),
            )
        )
        key = key_said(body.get("sender_public_key"))
        taken = await self._intake.take(post, agent, key, claim.provider)
        outcome = await self._outcome(agent, taken.id)
        delivered = outcome.status == "delivered"
        log.info(
            "federation.received",
            extra={
                "from_provider": claim.provider, "message_id": post.id, "sender": post.sender,
                "recipient": post.to, "delivered": delivered, "repeated": not taken.fresh,
            },
        )  # fmt: skip
        answer = {
            "accepted": True,
            "id": post.id,
            "delivered": delivered,
            "method": outcome.method,
            "status": outcome.status,  # as AI Maestro has it
        }
        return Answer.json(200, answer, headers)

    def _claim(self, request: Request) -> _Claim:
        """The headers, in their form (FD3)."""
        if self._shared.values.federation == "closed":
            raise Fault("provider_not_trusted", 403, "this provider federates with nobody")
        said = {name: request.headers.get(f"x-amp-{name}", "") for name in _HEADERS}
        for name, text in said.items():
            if not text:
                raise Fault("unauthorized", 401, f"the header X-AMP-{name.title()} is missing")
        provider = said["provider"].lower()
        labels = AmpAddress.parse(f"x@{provider}").labels
        if len(labels) < 2 or is_local_network(provider):
            raise Fault("provider_not_trusted", 403, f"{provider} is no public provider")
        stamp = said["timestamp"]
        if not stamp.isdecimal() or len(stamp) > 12:
            raise Fault("invalid_request", 400, "X-AMP-Timestamp is a number of seconds")
        if abs(self._shared.now() // 1000 - int(stamp)) > FRESH:
            raise Fault("timestamp_expired", 403, "X-AMP-Timestamp is over 5 minutes off")
        return _Claim(provider, int(stamp), _signature(said["signature"]))

    def _check_transport(self, request: Request, provider: str) -> None:
        """FD1."""
        by_http = self._shared.values.resolve.get(provider, "").startswith("http://")
        if not (request.secure or by_http or is_loopback(request.peer)):
            raise Fault("https_required", 403, "federation goes over https only")

    async def _check_provider(self, request: Request, claim: _Claim) -> None:
        """FD2, FD3."""
        values = self._shared.values
        allowed = {each.lower() for each in values.federation_allow}
        if values.federation != "open" and claim.provider not in allowed:
            text = f"Provider {claim.provider!r} is not in our trust list"
            raise Fault("provider_not_trusted", 403, text)
        found = await self._discovery.provider(claim.provider)
        if found is None or found.key is None:
            raise Fault("provider_not_trusted", 403, f"{claim.provider} publishes no key")
        if not _signed(found.key, claim, request):
            self._abuse.note("signature", claim.provider)
            raise Fault("signature_invalid", 403, "the provider's signature does not hold")

    def _check_domain(self, post: Post, provider: str) -> None:
        """FD4."""
        domain = post.sender.lower().rpartition("@")[2]
        if domain != provider and not domain.endswith(f".{provider}"):
            text = f"{provider} does not speak for {post.sender}"
            raise Fault("forbidden", 403, text, field="from")


_HEADERS: Final = ("provider", "signature", "timestamp")


def is_loopback(peer: str) -> bool:
    """Whether a request came from this machine."""
    try:
        return ipaddress.ip_address(peer).is_loopback
    except ValueError:
        return False


def _signature(text: str) -> bytes:
    try:
        if len(text) <= MAX_SIGNATURE:
            return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        pass
    raise Fault("signature_invalid", 403, "X-AMP-Signature is no base64")


def _signed(key: ForeignKey, claim: _Claim, request: Request) -> bool:
    """Over the body as it came; or as compact JSON, which some may sign and not send."""
    check, stamp = checker(key), f"{claim.timestamp}.".encode()
    if check(claim.signature, stamp + request.body):
        return True
    value = request.json()
    texts = (raw_json.write(value), raw_json.write(value, ascii_only=True))
    return any(check(claim.signature, stamp + text.encode()) for text in texts)
