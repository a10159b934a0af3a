"""Messages between AMTP's form and this node's, and back.

A message of AMTP is carried whole inside a native one, so that a recipient who speaks AMTP gets the
same members back: its payload is the native payload, byte for byte as read; what the native message
has no place for (schema, headers, attachments, an idempotency key or a time that the client gave,
...) stands in the native context as {"amtp": {...}}. A plain message has none.

  MA1  Who sent a message, to whom, and under which id is never read from a context: that is what
       the native signature proved. Nor is a subject that is not the beginning of the native one;
       and a context that is no part of a message of AMTP is passed over whole.
  MA2  A message's id is its native id. Gateways that want version 7 get the same bytes with the
       digit 7 (`as_v7`); an in_reply_to of theirs is looked for under both.
  MA3  What a client reads is never refused by the reader of the Python SDK: sender, recipients and
       a time it understands are always there.
  MA4  A subject that is longer than a native one is cut there, and whole in the context.
  MA5  What the client left out takes no room in the message: it is made again when it is shown. A
       payload that is a text and nothing else, {"text": ...}, is the native body, and stands once.

Not here: who may ask (accounts.py), how far a message got (views.py).
"""

import hashlib
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from ampd.core.agents import Agent
from ampd.core.foreign import Incoming
from ampd.core.ports import Parcel
from ampd.core.submission import EXPIRES_AFTER, Draft
from ampd.edge.amtp.accounts import Accounts
from ampd.edge.amtp.addresses import Addresses
from ampd.edge.amtp.failures import Failure
from ampd.edge.amtp.times import as_sent, parse_time, time_text
from ampd.edge.gateway_mail import Piece
from ampd.edge.gateway_values import Shared
from ampd.edge.http.words import Request
from ampd.model.address import Address
from ampd.model.errors import Invalid
from ampd.model.message import MAX_SUBJECT, PRIORITIES, id_text
from ampd.model.values import value
from ampd.protocol import raw_json
from ampd.protocol.amtp.message import (
    VERSION,
    Message,
    derived_key,
    ordered,
    read,
    text_of,
)

_MAX_TYPE: Final = 64
_IN_CONTEXT: Final = "amtp"
# What the native message has no place for.
_CARRIED: Final = (
    *("schema", "coordination", "headers", "attachments", "signature", "response_type"),
    *("workflow_id", "idempotency_key", "timestamp", "subject"),
)
_VERSION_DIGIT: Final = 14  # where a UUID's text says its version


class Made(str):
    """A text that this gateway filled in, because the client gave none (MA5)."""

    __slots__ = ()


def as_v7(identifier: str) -> str:
    """An id as gateways take it that insist on version 7 (MA2)."""
    return f"{identifier[:_VERSION_DIGIT]}7{identifier[_VERSION_DIGIT + 1 :]}"


def native_id(identifier: str) -> bytes:
    """The 16 bytes of a UUID."""
    return uuid.UUID(identifier).bytes


def dedupe_prefix(key: str) -> str:
    """What the native idempotency keys of all sends under one key of a client begin with."""
    return f"amtp:{key.lower()}:"


@value
class _Facts:
    """The native parts of a message."""

    id: str
    sender: str
    to: tuple[str, ...]
    sent: int
    subject: str
    type: str
    priority: str
    in_reply_to: str
    body: str
    payload: str | None
    context: str | None


class Mail:
    """Translates for the agents of one node; implements ports.Mail."""

    def __init__(self, shared: Shared, accounts: Accounts, addresses: Addresses) -> None:
        self._rooms = shared.rooms
        self._now = shared.now
        self._accounts = accounts
        self.addresses = addresses
        self.report_of: Callable[[Piece], Mapping[str, Any] | None] = _no_report

    # --- agents ---------------------------------------------------------------------------

    def agent_at(self, address: str) -> Agent | None:
        """The agent of this node that an AMTP address means."""
        return self.addresses.agent_at(address)

    def is_ours(self, domain: str) -> bool:
        """Whether a domain is this node's."""
        return self.addresses.is_ours(domain)

    def address_of(self, agent: Agent) -> str:
        """The AMTP address of an agent of this node."""
        return self.addresses.of_agent(agent)

    def supported(self, agent: Agent) -> tuple[str, ...]:
        """The schemas that an agent takes; none: all."""
        account = self._accounts.of(agent.name)
        return account.schemas if account else ()

    def delivery_mode(self, agent: Agent) -> str:
        """How an agent gets its mail: pull or push."""
        account = self._accounts.of(agent.name)
        return account.mode if account else "pull"

    def caller(self, request: Request) -> Agent | None:
        """Whose key the bearer is; None without one. Failure if it is nobody's."""
        if not request.bearer:
            return None
        account = self._accounts.with_key(request.bearer)
        if account is None:
            raise Failure(403, "ACCESS_DENIED", "The API key is not valid")
        return account.agent

    def check_admin(self, request: Request) -> None:
        """Failure unless an administrator asks."""
        self._accounts.check_admin(request)

    # --- in -------------------------------------------------------------------------------

    def filled(self, message: Message, fresh: str) -> Message:
        """A message of a client with all that it may leave out; `fresh` is an id for it."""
        now = self._now()
        message_id = message.get("message_id", fresh)
        return message | {
            "message_id": message_id,
            "idempotency_key": message.get("idempotency_key") or Made(derived_key(message_id)),
            "timestamp": _as_given(message.get("timestamp", ""), now),
        }

    def draft(self, message: Mapping[str, Any], to: Sequence[str]) -> Draft:
        """The native form of a message of an agent here, for these of its recipients."""
        reply = message.get("in_reply_to", "")
        answered = self._answered(self.agent_at(message["sender"]), reply) if reply else None
        native = tuple(dict.fromkeys(str(self.addresses.native(each)) for each in to))
        whom = hashlib.blake2b("\n".join(sorted(native)).encode(), digest_size=12).hexdigest()
        return Draft(
            to=native,
            subject=message.get("subject", "")[:MAX_SUBJECT],
            text=text_of(message.get("payload")),
            payload=self._payload(message),
            type=_type(message),
            priority=_priority(message),
            context=self._context(message),
            in_reply_to=answered[0] if answered else None,
            thread=answered[1] if answered else None,
            id=native_id(message["message_id"]),
            key=dedupe_prefix(message["idempotency_key"]) + whom,
        )

    def incoming(
        self, message: Mapping[str, Any], sender: Address, to: tuple[Agent, ...], *, proved: bool
    ) -> Incoming:
        """The native form of a message from elsewhere."""
        now = self._now()
        identifier = native_id(message["message_id"])
        reply = message.get("in_reply_to", "")
        answered = self._answered(to[0], reply) if reply and to else None
        sent = parse_time(message.get("timestamp", ""))
        return Incoming(
            id=identifier,
            sender=sender,
            to=to,
            sent=now if sent is None else min(max(0, sent), now),
            expires=now + EXPIRES_AFTER,
            thread=answered[1] if answered else identifier,
            in_reply_to=answered[0] if answered else None,
            priority=_priority(message),
            type=_type(message),
            subject=message.get("subject", ""),
            body=text_of(message.get("payload")),
            payload=self._payload(message),
            context=self._context(message),
            proved=proved,
            protocol="amtp",
        )

    def _payload(self, message: Mapping[str, Any]) -> str | None:
        """None for {"text": ...} and nothing else: that is what the body says (MA5)."""
        payload = message.get("payload")
        plain = isinstance(payload, dict) and list(payload) == ["text"] and text_of(payload)
        return raw_json.write(payload) if "payload" in message and not plain else None

    def _context(self, message: Mapping[str, Any]) -> str | None:
        """What has no place of its own (MA5). Invalid if it is nested too deep for others."""
        members = {
            name: message[name]
            for name in _CARRIED
            if name in message and not isinstance(message[name], Made)
        }
        if len(message.get("subject", "")) <= MAX_SUBJECT:
            members.pop("subject", None)
        if not members and "in_reply_to" not in message:
            return None  # an answer keeps the mark that it came by AMTP (answers.py)
        context = {_IN_CONTEXT: ordered(members)}
        text = raw_json.write(context)
        raw_json.check_depth(text, context)
        return text

    def _answered(self, agent: Agent | None, text: str) -> tuple[bytes, bytes]:
        """The id and the thread of the message that is answered, as this agent knows it (MA2)."""
        wanted = native_id(text)
        if agent is not None:
            for identifier in dict.fromkeys((wanted, native_id(_as_v4(text)))):
                row = self._rooms.store.view.execute(
                    "SELECT m.id, m.thread FROM messages m JOIN agents a ON a.key=:key"
                    " WHERE m.id=:id AND (m.by=a.id OR EXISTS("
                    "SELECT 1 FROM boxes b WHERE b.message=m.seq AND b.agent=a.id)) LIMIT 1",
                    {"key": agent.key, "id": identifier},
                ).fetchone()
                if row is not None:
                    return row["id"], row["thread"]
        return wanted, wanted

    # --- out ------------------------------------------------------------------------------

    def document(self, _agent: Agent | None, piece: Piece) -> Message:
        """The AMTP form of a message here, as a reader is shown it."""
        summary = piece.summary
        facts = _Facts(
            summary.id, summary.sender, summary.to, summary.sent, summary.subject, summary.type,
            summary.priority, summary.in_reply_to or "", piece.body, piece.payload, piece.context,
        )  # fmt: skip
        found = self._written(facts)
        report = self.report_of(piece)
        return found if report is None else ordered(found | {"payload": dict(report)})

    def outgoing(self, parcel: Parcel) -> Message:
        """The AMTP form of a message for the gateway of its recipient, without a signature."""
        message = parcel.message
        facts = _Facts(
            id_text(message.id), str(message.sender), (str(parcel.recipient),), message.sent,
            message.subject, message.type, message.priority,
            id_text(message.in_reply_to) if message.in_reply_to else "",
            message.body, message.payload, message.context,
        )  # fmt: skip
        found = self._written(facts)
        found.pop("signature", None)
        key = found["idempotency_key"]
        is_v4 = uuid.UUID(key).version == 4
        found |= {
            "message_id": as_v7(found["message_id"]),
            "idempotency_key": key if is_v4 else derived_key(found["message_id"]),
            "recipients": [str(parcel.recipient)],
            "workflow_id": found.get("workflow_id", ""),
        }
        if "in_reply_to" in found:
            found["in_reply_to"] = as_v7(found["in_reply_to"])
        return ordered(found)

    def _written(self, facts: _Facts) -> Message:
        members = {
            "headers": {"priority": facts.priority} if facts.priority != "normal" else None,
            "idempotency_key": derived_key(facts.id),
            "timestamp": time_text(facts.sent) or "",
            "subject": facts.subject,
            **_carried(facts),
            "version": VERSION,
            "message_id": facts.id,
            "sender": self.addresses.shown(facts.sender),
            "recipients": [self.addresses.shown(each) for each in facts.to],
            "in_reply_to": facts.in_reply_to,
        }
        found = {name: value for name, value in members.items() if value not in (None, "")}
        if facts.payload is not None:
            found["payload"] = raw_json.Raw(facts.payload)
        elif facts.body:
            found["payload"] = {"text": facts.body}
        return ordered(found)


def _as_given(timestamp: str, now: int) -> str:
    return as_sent(timestamp, now) if parse_time(timestamp) is not None else Made(as_sent("", now))


def _no_report(_piece: Piece) -> Mapping[str, Any] | None:
    return None


def _as_v4(identifier: str) -> str:
    return f"{identifier[:_VERSION_DIGIT]}4{identifier[_VERSION_DIGIT + 1 :]}"


def _type(message: Mapping[str, Any]) -> str:
    found = str(message.get("response_type", ""))
    return found if 0 < len(found) <= _MAX_TYPE else "message"


def _priority(message: Mapping[str, Any]) -> str:
    found = (message.get("headers") or {}).get("priority")
    return found if found in PRIORITIES else "normal"


def _carried(facts: _Facts) -> Message:
    """What the sender wrote beside the native parts, if it is sound (MA1, MA3)."""
    if facts.context is None:
        return {}
    try:
        context = raw_json.parse(facts.context)
        if not isinstance(context, dict) or not isinstance(context.get(_IN_CONTEXT), dict):
            return {}
        said = {name: context[_IN_CONTEXT].get(name) for name in _CARRIED}
        found = read({**said, "sender": facts.sender, "recipients": list(facts.to)})
    except Invalid:
        return {}
    if not found.get("subject", "").startswith(facts.subject):
        found.pop("subject", None)
    found["timestamp"] = as_sent(found.get("timestamp", ""), facts.sent)
    return {name: found[name] for name in _CARRIED if name in found}
