"""What stands behind the AMTP service: other gateways, schemas, workflows, webhooks, dead letters.

It only puts these rooms together; each of them says in its own module what it promises.
"""

import logging
from collections.abc import Mapping, Sequence
from typing import Any, Final

import trio

from ampd.core.agents import Agent
from ampd.core.ports import Parcel
from ampd.crypto.foreign_keys import ForeignSigner
from ampd.edge.amp.counting import Counting
from ampd.edge.amtp.answers import Answers
from ampd.edge.amtp.dead_letters import DeadLetters
from ampd.edge.amtp.failures import Failure
from ampd.edge.amtp.gateways import Gateways
from ampd.edge.amtp.inbound import Inbound
from ampd.edge.amtp.outbound import Outbound
from ampd.edge.amtp.outcomes import Outcomes
from ampd.edge.amtp.policies import Policies
from ampd.edge.amtp.ports import Mail
from ampd.edge.amtp.schema_routes import SchemaRoutes
from ampd.edge.amtp.schemas import Schemas
from ampd.edge.amtp.verification import Verifier
from ampd.edge.amtp.webhooks import Webhooks
from ampd.edge.amtp.workflow_views import WorkflowViews
from ampd.edge.amtp.workflows import Workflows
from ampd.edge.gateway_mail import Piece
from ampd.edge.gateway_values import GatewayValues, Shared
from ampd.edge.http.words import Answer, Request, Route
from ampd.edge.lasting import lasting
from ampd.model.address import Address
from ampd.model.errors import Invalid
from ampd.model.message import Delivery
from ampd.protocol.amtp.dns_record import key_name

# Requests a minute; config.toml's limits.KIND is another number, 0 none at all. A gateway brings
# the mail of many agents, so it may do as much as one agent here.
LIMITS: Final = {"amtp": 6000, "amtp_denied": 30, "amtp_federation": 6000}

log = logging.getLogger("ampd.amtp")


class Transport:
    """One for a node."""

    def __init__(self, shared: Shared, mail: Mail) -> None:
        """Invalid if the signing key, or an entry of gateway.resolve, is none."""
        values, registry = shared.values, shared.registry
        self._values = values
        self._now = shared.now
        self._limits = {**LIMITS, **values.limits}
        self._counts = {kind: Counting(60.0, trio.current_time) for kind in LIMITS}
        self.gateways = Gateways(shared.dns, values.resolve, plain_http=values.plain_http)
        self.schemas = Schemas(registry, mail)
        self.policies = Policies(registry, shared.foreign, self.gateways, values, trio.current_time)
        self._inbound = Inbound(
            registry, shared.foreign, mail, self.schemas, self.policies,
            Verifier(self.gateways, values.amtp_signatures),
        )  # fmt: skip
        self._outbound = Outbound(
            shared.http, self.gateways, registry, mail, signer_of(values), shared.now
        )
        self.webhooks = Webhooks(shared, mail)
        answers = Answers(shared.rooms, mail, self.verification_of, shared.now)
        self.workflows = Workflows(shared, mail, answers, self._find, self.webhooks.ended)
        self.dead_letters = DeadLetters(shared, mail, self._outbound.tries)
        listeners = (self.webhooks.heard, self.dead_letters.heard)
        self._outcomes = Outcomes(shared, listeners, self._is_wanted, self._told)
        self._views = WorkflowViews(registry, mail)
        self._mail = mail
        self._rooms = shared.rooms

    def _is_wanted(self, agent: Agent, event: str) -> bool:
        """Failures are dead letters; of the rest webhooks may want to hear."""
        return event == "failed" or self.webhooks.wants(agent, event)

    def _told(self) -> None:
        self.webhooks.changed.set()

    def routes(self) -> Sequence[Route]:
        """Every method of every path that these rooms answer."""
        return (
            *SchemaRoutes(self.schemas, self._mail, self._now).routes(),
            *self.webhooks.routes(),
            *self._views.routes(),
            *self.dead_letters.routes(),
            *self.policies.routes(self._mail),
        )

    async def run(self) -> None:
        """What these rooms do without being asked, until cancelled."""
        async with trio.open_nursery() as nursery:
            for room in (self.schemas, self.workflows, self.webhooks, self._outcomes):
                nursery.start_soon(lasting, type(room).__name__, room.run)

    # --- other gateways --------------------------------------------------------------------

    async def take_in(self, request: Request, message: Mapping[str, Any]) -> Answer:
        """All of a POST /v1/messages whose sender lives elsewhere (inbound.py)."""
        self.limit("amtp_federation", request.peer)
        return await self._inbound.take_in(request, message, self._now())

    async def find(self, address: Address) -> bool:
        """Whether AMTP reaches an address."""
        return await self._outbound.find(address)

    async def carry(self, parcel: Parcel) -> Delivery:
        """Bring a message to the gateway of its recipient. Refused, Unavailable (outbound.py)."""
        return await self._outbound.carry(parcel)

    def verification_of(self, message_id: str) -> dict[str, str] | None:
        """What was found out about the sender of a message."""
        return self._inbound.verification_of(message_id)

    def attempts_of(self, message_id: str, address: str) -> tuple[int, int, int]:
        """How often a message was offered abroad, when first and last (ms)."""
        tries = self._outbound.tries(message_id, address)
        return tries.count, tries.first, tries.last

    async def capabilities(self, domain: str) -> dict[str, Any] | None:
        """What another domain says of its gateway; None if it has none. Unavailable."""
        try:
            found = await self.gateways.of(domain.lower())
        except Invalid:
            return None
        if found is None:
            return None
        record = found.record
        return {
            "version": "1.0",
            "gateway": record.gateway,
            "auth": list(record.auth),
            "max_size": record.max_size,
            "features": list(record.features),
            "ttl": found.ttl * 1_000_000_000,  # nanoseconds, as the reference has it
        }

    def features(self) -> list[str]:
        """What our own record may name."""
        return ["agent-discovery", "schemas", "workflows", "webhooks"]

    async def _find(self, addresses: Sequence[str]) -> None:
        """Ask relays, then other gateways, for addresses that nobody here knows."""
        await self._rooms.relays.find(list(addresses))
        if self._rooms.abroad is not None:
            await self._rooms.abroad.find(addresses)

    # --- others ----------------------------------------------------------------------------

    def limit(self, kind: str, who: str) -> None:
        """Count one request; Failure if there were too many (row 35 of AMTP 1.0: 429)."""
        most = self._limits[kind]
        if not most:
            return
        counting = self._counts[kind]
        window = counting.window(who)
        if window.count >= most:
            wait = max(1, round(counting.left(window)))
            raise Failure(
                429, "RATE_LIMIT_EXCEEDED", f"more than {most} requests a minute",
                headers={"Retry-After": str(wait)},
            )  # fmt: skip
        window.count += 1

    def report_of(self, piece: Piece) -> dict[str, Any] | None:
        """The payload of a delivery_failure report, if a message is one (dead_letters.py)."""
        return self.dead_letters.report_of(piece)

    async def bury(
        self, agent: Agent, piece: Piece, recipient: str, code: str, reason: str, attempts: int,
        first_ms: int, last_ms: int,
    ) -> None:  # fmt: skip
        """Keep what an agent here could not be pushed (dead_letters.py)."""
        await self.dead_letters.bury(
            agent, piece, recipient, code, reason, attempts, first_ms, last_ms
        )


def signer_of(values: GatewayValues) -> tuple[ForeignSigner, str] | None:
    """The key by which our domain signs, and its selector. Invalid."""
    if values.amtp_signing_key is None:
        return None
    try:
        text = values.amtp_signing_key.read_text(encoding="ascii")
    except (OSError, UnicodeError) as exc:
        raise Invalid(
            f"gateway.amtp_signing_key cannot be read: {exc}",
            hint="make one with: openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256",
        ) from None
    signer = ForeignSigner.from_pem(text)
    if signer.scheme not in ("ES256", "RS256"):
        raise Invalid("gateway.amtp_signing_key is neither EC on P-256 nor RSA")
    key_name(values.amtp_selector, values.amtp_domain)
    return signer, values.amtp_selector
