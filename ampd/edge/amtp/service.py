"""The AMTP gateway: wires the rooms of this folder, and says what went wrong in AMTP's words.

    accounts  who asks                     messages  inbox  admin  discovery  info    the routes
    mail      AMTP's form and ours         sending   views  push                      behind them
    transport everything between domains, schemas, workflows, webhooks

  SV1  Every error has the body of AMTP 1.0, section 13.2: code, message, details, timestamp and
       request_id; what only a try later can mend is 503, too many requests 429 with Retry-After.

Not here: HTTP itself (edge/http).
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import trio

from ampd.core.ports import Parcel
from ampd.edge.amtp.accounts import Accounts
from ampd.edge.amtp.addresses import Addresses
from ampd.edge.amtp.admin import Admin
from ampd.edge.amtp.admin_keys import AdminKeys
from ampd.edge.amtp.discovery import Discovery
from ampd.edge.amtp.failures import Failure
from ampd.edge.amtp.inbox import Inbox
from ampd.edge.amtp.info import Info
from ampd.edge.amtp.mail import Mail
from ampd.edge.amtp.messages import Messages
from ampd.edge.amtp.push import Push
from ampd.edge.amtp.sending import Sending
from ampd.edge.amtp.times import time_text
from ampd.edge.amtp.transport import Transport
from ampd.edge.amtp.views import Views
from ampd.edge.gateway_values import Shared
from ampd.edge.http.words import Answer, HttpRefused, Request, Route, SocketRoute
from ampd.edge.lasting import lasting
from ampd.model.address import Address
from ampd.model.errors import AmpdError, Refused, Unavailable
from ampd.model.message import Delivery
from ampd.protocol.amtp.message import Unacceptable

# Codes of our own errors -> status, AMTP's code. What is not here: 400 or 403.
_WORDS: Final[Mapping[str, tuple[int, str]]] = {
    "no_route": (404, "NOT_FOUND"),
    "no_method": (405, "METHOD_NOT_ALLOWED"),
    "too_large": (413, "PAYLOAD_TOO_LARGE"),
    "rate_limited": (429, "RATE_LIMIT_EXCEEDED"),
    "quota_exceeded": (429, "RATE_LIMIT_EXCEEDED"),
    "json": (400, "INVALID_REQUEST_FORMAT"),
    "recipient_unknown": (404, "AGENT_UNKNOWN"),
    "agent_unknown": (404, "AGENT_UNKNOWN"),
    "message_unknown": (404, "MESSAGE_NOT_FOUND"),
    "conflict": (409, "VALIDATION_FAILED"),
    "expired": (400, "MESSAGE_VALIDATION_FAILED"),
    "forbidden": (403, "ACCESS_DENIED"),
    "blocked": (403, "ACCESS_DENIED"),
    "invalid": (400, "VALIDATION_FAILED"),
    "media_type": (415, "INVALID_REQUEST_FORMAT"),
    "misdirected": (421, "ACCESS_DENIED"),
    "foreign_origin": (403, "ACCESS_DENIED"),
    "too_slow": (408, "TEMPORARY_FAILURE"),
    "busy": (503, "TEMPORARY_FAILURE"),
}


class AmtpService:
    """AMTP 1.0 for the agents of one node."""

    name = "amtp"

    def __init__(self, shared: Shared) -> None:
        values, rooms = shared.values, shared.rooms
        self._now = shared.now
        self._rooms = rooms
        self.admin_keys = AdminKeys(values.admin_keys)
        self.admin_keys.make()
        addresses = Addresses(rooms.agents, values.node_domain, values.amtp_domain)
        self.accounts = Accounts(
            shared.registry, rooms.agents, self.admin_keys, keyless=values.amtp_auth == "local"
        )
        mail = Mail(shared, self.accounts, addresses)
        self.transport = transport = Transport(shared, mail)
        mail.report_of = transport.report_of
        self.accounts.denied = lambda host: transport.limit("amtp_denied", host)
        views = Views(shared, self.accounts, addresses, transport.attempts_of)
        self._push = push = Push(shared, self.accounts, mail, transport)
        sending = Sending(
            shared, mail, views, transport.schemas, transport.workflows, self._look_for
        )
        push.sending = sending
        self._info = info = Info(shared, lambda: len(self.accounts.all()))
        self._admin = Admin(
            shared, self.accounts, mail, transport.schemas.check_patterns, push.accounts_changed
        )
        self._parts = (
            Messages(
                shared, self.accounts, mail, views, sending, push, transport, transport.limit,
                info.count,
            ),
            Inbox(shared, self.accounts, mail, transport.limit),
            self._admin,
            Discovery(
                shared, self.accounts, addresses, transport.capabilities, transport.features
            ),
            info,
            transport,
        )  # fmt: skip

    async def _look_for(self, addresses: Sequence[str]) -> None:
        """Ask relays, then other gateways, for addresses that are not known."""
        await self._rooms.relays.find(list(addresses))
        if self._rooms.abroad is not None:
            await self._rooms.abroad.find(addresses)

    def routes(self) -> Sequence[Route]:
        """Every method of every path."""
        return [route for part in self._parts for route in part.routes()]

    def sockets(self) -> Sequence[SocketRoute]:
        """AMTP has no WebSockets."""
        return ()

    async def run(self) -> None:
        """Push, retry, follow workflows, until cancelled."""
        await self._admin.clean()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lasting, "push", self._push.run)
            nursery.start_soon(self.transport.run)

    async def find(self, address: Address) -> bool:
        """Whether another gateway takes mail for an address."""
        return await self.transport.find(address)

    async def carry(self, parcel: Parcel) -> Delivery:
        """Bring a message to the gateway of its recipient. Raises Refused or Unavailable."""
        return await self.transport.carry(parcel)

    # --- errors ---------------------------------------------------------------------------

    def failure(self, request: Request, exc: AmpdError) -> Answer:
        """An error in AMTP's words (SV1)."""
        status, word, details = _sorted(exc)
        self._info.count("errors", word)
        error: dict[str, Any] = {"code": word, "message": _said(exc)}
        if details:
            error["details"] = details
        error |= {"timestamp": time_text(self._now()), "request_id": request.id}
        members = exc.members if isinstance(exc, Failure) else {}
        headers = dict(getattr(exc, "headers", {}) or {})
        if status == 503:
            headers.setdefault("Retry-After", "5")
        return Answer.json(status, {**members, "error": error}, headers)


def _said(exc: AmpdError) -> str:
    if isinstance(exc, Unacceptable):
        return exc.title
    return f"{exc}; {exc.hint}" if exc.hint else str(exc)


def _sorted(exc: AmpdError) -> tuple[int, str, dict[str, Any]]:
    """The status, the code and the details of an error."""
    status, word, details = 500, "PROCESSING_FAILED", dict[str, Any]()
    match exc:
        case Failure():
            status, word, details = exc.status, exc.word, exc.details
        case Unacceptable():
            status, word, details = 400, exc.word, dict(exc.details)
        case HttpRefused():
            status, word = exc.status, _WORDS.get(exc.code, (400, "INVALID_REQUEST_FORMAT"))[1]
        case Unavailable():
            status, word = 503, "TEMPORARY_FAILURE"
        case Refused():
            status, word = _WORDS.get(exc.code, (400, "PROCESSING_FAILED"))
            if exc.code == "json":
                details = {"parse_error": str(exc)}
    return status, word, details
