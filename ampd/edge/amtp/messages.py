"""POST and GET of /v1/messages (AMTP 1.0, sections 5.2 and 12.1).

  ME1  A send is answered with 202 once it is on disk; with 200 if an agent with a push target
       answered within REPLY_WITHIN, and then with the reply; with 400, the statuses and an error
       only if nobody could be found (5.2.1). Both public clients take 200 and 202 for a success.
  ME2  Who shows no key learns from an id how far its message got, and only on this machine
       (accounts.py, AC4). The message itself is for its sender, its recipients and the owner.
  ME3  X-AMTP-Version, if it is there, is 1.0.
  ME4  Nobody elsewhere speaks for this node: a sender under one of its domains is an agent here,
       or refused.

Not here: sending (sending.py), senders of other domains (transport.py).
"""

from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol

import trio

from ampd.core.agents import Agent
from ampd.edge.amtp.accounts import Accounts, Caller
from ampd.edge.amtp.failures import Failure
from ampd.edge.amtp.mail import Mail, native_id
from ampd.edge.amtp.push import Push
from ampd.edge.amtp.sending import Outcome, Sending
from ampd.edge.amtp.times import parse_time, time_text
from ampd.edge.amtp.views import STATUSES, Found, Views, Wanted, failed_copies
from ampd.edge.amtp.views import status_members as members_of
from ampd.edge.gateway_mail import GatewayMail
from ampd.edge.gateway_values import GatewayValues, Shared
from ampd.edge.http.words import Answer, Request, Route
from ampd.model.errors import Invalid
from ampd.protocol.amtp.message import VERSION, Message, is_uuid, read
from ampd.protocol.amtp.statuses import http_status, overall

REPLY_WITHIN: Final = 2.0  # seconds: longer than an agent that answers at once, short for a POST
MAX_PAGE: Final = 1000
_LONGEST_OFFSET: Final = 1_000_000


class Abroad(Protocol):
    """What takes messages of other domains in (transport.py)."""

    async def take_in(self, request: Request, message: Mapping[str, Any]) -> Answer:
        """All of a POST /v1/messages whose sender lives elsewhere."""

    def verification_of(self, message_id: str) -> dict[str, Any] | None:
        """What was found of a message's signature."""


Limit = Callable[[str, str], None]  # of a kind, for somebody; Failure 429
Count = Callable[[str, str], None]


class Messages:
    """The routes under /v1/messages."""

    def __init__(
        self, shared: Shared, accounts: Accounts, mail: Mail, views: Views, sending: Sending,
        push: Push, abroad: Abroad, limit: Limit, count: Count,
    ) -> None:  # fmt: skip
        self._shared = shared
        self._accounts = accounts
        self._mail = mail
        self._views = views
        self._sending = sending
        self._push = push
        self._abroad = abroad
        self._limit = limit
        self._count = count
        self._pieces = GatewayMail(shared.rooms)

    def routes(self) -> list[Route]:
        """What this module answers."""
        return [
            Route("POST", "/v1/messages", self.post, limit=largest(self._shared.values)),
            Route("GET", "/v1/messages", self.list),
            Route("GET", "/v1/messages/{id}", self.show),
            Route("GET", "/v1/messages/{id}/status", self.status),
        ]

    # --- send -----------------------------------------------------------------------------

    async def post(self, request: Request) -> Answer:
        """POST /v1/messages."""
        check_version(request)
        message = read(request.json())
        domain = message["sender"].strip().rpartition("@")[2]
        if not self._mail.is_ours(domain):
            self._check_foreign(domain.lower())
            fresh = self._sending.fresh_id()
            return await self._abroad.take_in(request, self._mail.filled(message, fresh))
        agent = self._mail.agent_at(message["sender"])
        if agent is None:
            raise Failure(
                403,
                "SENDER_CREDENTIAL_MISMATCH",
                f"{message['sender']} is no agent of this gateway",
            )
        caller = self._accounts.check_sender(request, agent)
        self._limit("amtp", agent.name)
        if caller.account is not None:
            await self._accounts.note_use(caller.account, self._shared.now())
        outcome = await self._sending.send(agent, message)
        reply = await self._reply(outcome)
        answer = self._sent(outcome, reply)
        self._count("sent", overall(outcome.recipients))
        return answer

    def _check_foreign(self, domain: str) -> None:
        """ME4, of the domain under which AMP clients know this node's agents."""
        amp = self._shared.values.amp_domain.lower()
        if domain == amp or domain.endswith(f".{amp}"):
            raise Failure(403, "SENDER_CREDENTIAL_MISMATCH", f"no other host speaks for {domain}")

    async def _reply(self, outcome: Outcome) -> Message | None:
        """The answer of the one recipient, if it is pushed to and answers at once (ME1)."""
        if outcome.repeated or outcome.workflow_id or len(outcome.recipients) != 1:
            return None
        only = outcome.recipients[0]
        if only.delivery_mode != "push" or only.status != "delivering":
            return None
        agent = self._mail.agent_at(only.address)
        with trio.move_on_after(REPLY_WITHIN):
            return await self._push.reply_of(agent, outcome.message_id) if agent else None
        return None

    def _sent(self, outcome: Outcome, reply: Message | None) -> Answer:
        copies = list(outcome.recipients)
        if reply is not None:
            found = self._views.found(native_id(outcome.message_id), None)
            copies = self._views.recipients(found) if found else copies
        status = http_status(copies, replied=reply is not None)
        body: dict[str, Any] = {
            "message_id": outcome.message_id,
            "status": overall(copies),
            "recipients": [each.document() for each in copies],
        }
        if outcome.workflow_id:
            body["workflow_id"] = outcome.workflow_id
        if reply is not None:
            body |= {"reply": reply, "response": reply.get("payload")}
        if status != 400:
            return Answer.json(status, body)
        first = copies[0]
        listed = ", ".join(f"{each.address}: {each.error_message}" for each in copies)
        raise Failure(
            400, first.error_code, f"No recipient got the message: {listed}",
            details={"recipients": [each.address for each in copies]}, members=body,
        )  # fmt: skip

    # --- ask ------------------------------------------------------------------------------

    def _identifier(self, request: Request) -> str:
        text = request.params["id"]
        if not is_uuid(text):
            raise Failure(400, "INVALID_MESSAGE_ID", "Invalid message ID format")
        return text.lower()

    def _reader(self, request: Request) -> Caller:
        """Who asks, if they may ask anything at all (ME2)."""
        caller = self._accounts.caller(request)
        if caller.account is None and not caller.admin:
            if request.bearer or request.headers.get("x-admin-key"):
                raise Failure(403, "ACCESS_DENIED", "The key is not valid")
            if not caller.local:
                raise Failure(
                    401, "AUTHENTICATION_REQUIRED", "Authorization: Bearer with an agent's API key"
                )
        return caller

    def _find(self, request: Request, caller: Caller) -> tuple[str, Found | None]:
        """The id, and its message; None if nobody was found for it. Failure if there is none."""
        identifier = self._identifier(request)
        agent = caller.account.agent if caller.account and not caller.admin else None
        found = self._views.found(native_id(identifier), agent)
        if found is None and self._views.unsent(identifier, agent) is None:
            raise Failure(404, "MESSAGE_NOT_FOUND", "Message not found")
        return identifier, found

    async def status(self, request: Request) -> Answer:
        """GET /v1/messages/{id}/status."""
        caller = self._reader(request)
        identifier, found = self._find(request, caller)
        return Answer.json(200, self._status(identifier, found, caller))

    def _status(self, identifier: str, found: Found | None, caller: Caller) -> dict[str, Any]:
        if found is None:
            agent = caller.account.agent if caller.account and not caller.admin else None
            value = self._views.unsent(identifier, agent) or {"recipients": []}
            copies = failed_copies(value)
            created = min((each.timestamp for each in copies), default="")
        else:
            copies = self._views.recipients(found)
            created = time_text(found.at) or ""
        body = {"message_id": identifier, **members_of(copies, created)}
        verified = self._abroad.verification_of(identifier)
        return body | ({"sender_verification": verified} if verified else {})

    async def show(self, request: Request) -> Answer:
        """GET /v1/messages/{id}: how far it got, and, for who may read it, the message."""
        caller = self._reader(request)
        identifier, found = self._find(request, caller)
        body = self._status(identifier, found, caller)
        if found is not None and (caller.account is not None or caller.admin):
            agent = caller.account.agent if caller.account and not caller.admin else None
            message = self._message(found, agent)
            body = message | body | {"message": message}
        return Answer.json(200, body)

    def _message(self, found: Found, agent: Agent | None) -> Message:
        reader = agent or found.by or next(iter(self._shared.rooms.agents))
        summary = self._shared.rooms.lists.one(reader, found.seq)
        pieces = self._pieces.whole([summary])
        if not pieces:
            raise Failure(503, "TEMPORARY_FAILURE", "The message is damaged here: amp check")
        return self._mail.document(agent, pieces[0])

    async def list(self, request: Request) -> Answer:
        """GET /v1/messages: what the caller sent and got, the newest first."""
        caller = self._reader(request)
        if caller.account is None and not caller.admin:
            raise Failure(
                401, "AUTHENTICATION_REQUIRED", "A list needs the key of an agent, or an admin key"
            )
        wanted = self._wanted(request)
        agent = None if caller.admin or not caller.account else caller.account.agent
        found, total = self._views.listing(agent, wanted)
        body = {
            "messages": [self._line(each) for each in found],
            "total": total,
            "limit": wanted.limit,
            "offset": wanted.offset,
            "has_more": wanted.offset + len(found) < total,
        }
        return Answer.json(200, body)

    def _line(self, found: Found) -> dict[str, Any]:
        copies = self._views.recipients(found)
        shown = self._mail.addresses.shown
        return {
            "message_id": found.id,
            "sender": shown(found.sender),
            "subject": found.subject,
            "timestamp": time_text(found.sent),
            **members_of(copies, time_text(found.at) or ""),
        }

    def _wanted(self, request: Request) -> Wanted:
        status = request.query.get("status", "")
        if status and status not in STATUSES:
            raise Failure(
                400, "INVALID_STATUS", "Unknown status", details={"known": list(STATUSES)}
            )
        limit, offset = page_of(request)
        return Wanted(
            status, self._native(request, "sender"), self._native(request, "recipient"),
            since_of(request), limit, offset,
        )  # fmt: skip

    def _native(self, request: Request, name: str) -> str:
        text = request.query.get(name, "")
        try:
            return str(self._mail.addresses.native(text)) if text else ""
        except Invalid as exc:
            raise Failure(400, "INVALID_RECIPIENT", f"{name}: {exc}") from None


def largest(values: GatewayValues) -> int:
    """Bytes of the longest body that may be a message: Python's clients write \\u escapes, which
    are three times as long as what they stand for, and members that we leave out."""
    return 3 * values.message_bytes + (64 << 10)


def check_version(request: Request) -> None:
    """ME3."""
    said = request.headers.get("x-amtp-version", VERSION).strip()
    if said != VERSION:
        raise Failure(
            400, "UNSUPPORTED_VERSION", "Protocol version not supported",
            details={"supported": [VERSION]},
        )  # fmt: skip


def page_of(request: Request) -> tuple[int, int]:
    """`limit` and `offset` of a query (section 12.1.3)."""
    limit = _number(request.query.get("limit", "100"))
    if limit is None or not 1 <= limit <= MAX_PAGE:
        raise Failure(400, "INVALID_LIMIT", f"limit is a number from 1 to {MAX_PAGE}")
    offset = _number(request.query.get("offset", "0"))
    if offset is None or offset > _LONGEST_OFFSET:
        raise Failure(400, "INVALID_OFFSET", f"offset is a number from 0 to {_LONGEST_OFFSET}")
    return limit, offset


def since_of(request: Request) -> int:
    """`since` of a query, in milliseconds; 0 if it is not there."""
    text = request.query.get("since", "")
    since = parse_time(text.replace(" ", "+")) if text else 0  # a + in a query is a blank
    if since is None:
        raise Failure(400, "INVALID_SINCE_FORMAT", "since is a time as in RFC 3339")
    return since


def _number(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 10 else None
