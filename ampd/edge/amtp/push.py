"""Mail for agents that are pushed to: POST to their target, as AMTP 1.0, section 12.2.1.

  PU1  A message is on disk in the agent's mailbox first; it is acknowledged there when its target
       answered 2xx. A crash between the two pushes it once more, with the same message_id.
  PU2  No answer, 408, 425, 429 and 5xx are tried again after 1 s doubling to 1 h, with 25 % of
       jitter, at most MOST_TRIES times (5.3.2); what was tried is on disk (kind "amtp.push").
       Another 4xx is final. Messages of one agent go in their order, one at a time.
  PU3  What failed for good is dead mail: it is put away with its reason, its sender is told, and
       what came behind it goes on.
  PU4  An answer {status, response} becomes a message of the agent to the sender, in_reply_to the
       one that was pushed; it is sent before that one is acknowledged, under an id made of it, so
       that it is sent once.
  PU5  Targets are set by holders of an admin key only, who may name any host (admin.py).

Not here: dead letters (transport.py); how a status says it (views.py).
"""

import hashlib
import logging
import random
import uuid
from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol

import trio

import ampd
from ampd.core.agents import Agent
from ampd.core.lists import Filter
from ampd.edge.amtp.accounts import Account, Accounts
from ampd.edge.amtp.mail import Mail
from ampd.edge.amtp.sending import Sending
from ampd.edge.amtp.views import PUSH, REMEMBER, push_key
from ampd.edge.gateway_mail import GatewayMail, Piece
from ampd.edge.gateway_values import Shared
from ampd.edge.http.client import Reply
from ampd.model.errors import AmpdError, Invalid, Refused, StorageError, Unavailable
from ampd.protocol import raw_json
from ampd.protocol.amtp.message import Message
from ampd.storage.records import State

MOST_TRIES: Final = 168
FIRST_PAUSE: Final = 1.0  # seconds
LONGEST_PAUSE: Final = 3600.0
JITTER: Final = 0.25
ANSWER_WITHIN: Final = 30.0  # seconds, as the reference gives an agent
LONGEST_REPLY: Final = 1 << 20  # bytes of an answer: more than a message may have
_AT_ONCE: Final = 20  # messages read together
_LATER: Final = frozenset((408, 425, 429))
_NO_TARGET: Final = 60.0  # seconds until the disk or a bug of a message is asked again
_WAITING_REPLIES: Final = 1000  # sends that wait for their reply at once

log = logging.getLogger("ampd.amtp")


class Burial(Protocol):
    """Where dead mail goes (transport.py)."""

    async def bury(
        self, agent: Agent, piece: Piece, recipient: str, code: str, reason: str, attempts: int,
        first_ms: int, last_ms: int,
    ) -> None:  # fmt: skip
        """Keep it with its reason, and tell its sender."""


class Push:
    """Pushes for all agents that have a target."""

    def __init__(
        self, shared: Shared, accounts: Accounts, mail: Mail, burial: Burial,
        chance: Callable[[], float] = random.random,
    ) -> None:  # fmt: skip
        self._shared = shared
        self._rooms = shared.rooms
        self._registry = shared.registry
        self._accounts = accounts
        self._mail = mail
        self._burial = burial
        self._chance = chance
        self._pieces = GatewayMail(shared.rooms)
        self._changed = trio.Event()
        self._replies: dict[str, tuple[trio.Event, list[Message]]] = {}
        self.sending: Sending | None = None  # set by the service: both know each other

    def accounts_changed(self) -> None:
        """An account was made, changed or removed."""
        self._changed.set()
        self._changed = trio.Event()

    async def run(self) -> None:
        """Push until cancelled."""
        async with trio.open_nursery() as nursery:
            served: dict[str, tuple[Account, trio.CancelScope]] = {}
            while True:
                changed = self._changed
                wanted = {each.name: each for each in self._accounts.all() if each.mode == "push"}
                for name, (account, scope) in list(served.items()):
                    if name not in wanted or _moved(account, wanted[name]):
                        scope.cancel()
                        del served[name]
                for name, account in wanted.items():
                    if name not in served:
                        scope = trio.CancelScope()
                        served[name] = (account, scope)
                        nursery.start_soon(self._serve, account, scope)
                await changed.wait()

    async def _serve(self, account: Account, scope: trio.CancelScope) -> None:
        with scope:
            while True:
                news = self._pieces.news(account.agent)
                try:
                    found = await self._round(account)
                except AmpdError as exc:  # this disk, for now; other agents go on
                    log.warning("a push waits", extra={"agent": account.name, "why": str(exc)})
                    await trio.sleep(_NO_TARGET)
                    continue
                if not found:
                    await news.wait()

    async def _round(self, account: Account) -> bool:
        """Push what waits, the oldest first; whether anything did."""
        wanted = Filter(limit=_AT_ONCE, after="0", oldest=True)
        summaries = self._rooms.lists.listing(account.agent, wanted).messages
        pieces = {each.summary.seq: each for each in self._pieces.whole(summaries)}
        for summary in summaries:
            piece = pieces.get(summary.seq)  # a damaged one is gone, as `amp check` says
            written = None if piece is None else await self._push(account, piece)
            await self._rooms.marks.set(account.agent, [str(summary.number)], State.ACKED)
            self._replied(summary.id, written)
        return bool(summaries)

    # --- one message ----------------------------------------------------------------------

    async def _push(self, account: Account, piece: Piece) -> Message | None:
        """Return when the target took it, with its answer, or when it failed for good."""
        key = push_key(account.name, piece.summary.id)
        state = self._registry.get(PUSH, key)
        while state is None or not state["failed"]:
            if state is not None:
                await trio.sleep(max(0.0, (state["next"] - self._shared.now()) / 1000))
            message = self._mail.document(account.agent, piece)
            word, reason, reply = await self._try(account, message)
            if reply is not None:
                written = await self._answer(account, message, reply)
                await self._registry.delete(PUSH, key)
                return written
            state = self._tried(state, word, reason)
            if state["failed"]:  # put away before it is marked: a crash between says it twice
                await self._bury(account, piece, state)
            expires = self._shared.now() + REMEMBER
            await self._registry.put(PUSH, key, state, owner=account.name, expires=expires)
        return None

    def _tried(self, state: Mapping[str, Any] | None, word: str, reason: str) -> dict[str, Any]:
        """What is remembered of a try that failed."""
        now = self._shared.now()
        attempts = (state["attempts"] if state else 0) + 1
        pause = min(FIRST_PAUSE * 2 ** min(attempts - 1, 30), LONGEST_PAUSE)
        pause *= 1 - JITTER + 2 * JITTER * self._chance()
        return {
            "attempts": attempts,
            "first": state["first"] if state else now,
            "at": now,
            "next": now + int(pause * 1000),
            "code": word,
            "error": reason,
            "failed": word != "TEMPORARY_FAILURE" or attempts >= MOST_TRIES,
        }

    async def _bury(self, account: Account, piece: Piece, state: Mapping[str, Any]) -> None:
        await self._burial.bury(
            account.agent, piece, self._mail.address_of(account.agent), state["code"],
            state["error"], state["attempts"], state["first"], state["at"],
        )  # fmt: skip

    async def _try(self, account: Account, message: Message) -> tuple[str, str, Reply | None]:
        """One POST: the target's answer if it took it, else AMTP's code and the reason."""
        body = _pushed(message, self._mail.address_of(account.agent))
        headers = {
            "Content-Type": "application/json",
            "User-Agent": f"ampd/{ampd.__version__}",
            "X-AMTP-Local-Delivery": "true",
            **account.headers,
        }
        try:
            reply = await self._shared.http.send(
                "POST", account.target, headers=headers, body=raw_json.write(body).encode(),
                timeout=ANSWER_WITHIN, anywhere=True, limit=LONGEST_REPLY, redirects=3,
            )  # fmt: skip
        except Unavailable as exc:
            return "TEMPORARY_FAILURE", str(exc), None
        except Refused as exc:
            return "DELIVERY_FAILED", str(exc), None
        if 200 <= reply.status < 300:
            return "", "", reply
        later = reply.status in _LATER or reply.status >= 500
        word = "TEMPORARY_FAILURE" if later else "DELIVERY_FAILED"
        return word, f"the push target answered {reply.status}", None

    # --- replies (PU4) --------------------------------------------------------------------

    async def _answer(self, account: Account, message: Message, reply: Reply) -> Message | None:
        """Send what the target answered; the message, if there is one."""
        written = self._reply(account, message, reply)
        if written is None or self.sending is None:
            return None
        try:
            await self.sending.send(account.agent, written)
        except StorageError:
            raise
        except AmpdError as exc:
            why = {"agent": account.name, "why": str(exc)}
            log.warning("the answer of a push target was not sent", extra=why)
            return None
        return written

    def _reply(self, account: Account, message: Message, reply: Reply) -> Message | None:
        try:
            said = raw_json.parse(reply.body) if reply.whole and reply.body.strip() else None
        except Invalid:
            return None  # an answer in another form says no more than its status does
        if not isinstance(said, dict) or said.get("response") is None:
            return None
        digest = hashlib.blake2b(
            f"ampd/amtp-reply {account.name} {message['message_id']}".encode(), digest_size=16
        ).digest()
        written: Message = {
            "version": "1.0",
            "message_id": str(uuid.UUID(bytes=digest, version=4)),
            "sender": self._mail.address_of(account.agent),
            "recipients": [message["sender"]],
            "subject": f"Re: {message.get('subject', 'Message')}",
            "payload": said["response"],
            "in_reply_to": message["message_id"],
        }
        workflow = _workflow_of(message)
        if workflow:
            failed = said.get("status") in ("error", "failed", "rejected")
            written["response_type"] = "workflow_error" if failed else "workflow_response"
            written["workflow_id"] = workflow
        return written

    async def reply_of(self, agent: Agent, message_id: str) -> Message | None:
        """The answer of a push target to a message that waits for it; None if it gave none."""
        del agent  # ids are unique enough for those who wait at the same moment
        if len(self._replies) >= _WAITING_REPLIES:
            return None
        event, found = self._replies.setdefault(message_id, (trio.Event(), []))
        try:
            await event.wait()
        finally:
            self._replies.pop(message_id, None)
        return found[0] if found else None

    def _replied(self, message_id: str, written: Message | None) -> None:
        waiting = self._replies.get(message_id)
        if waiting is not None:
            if written is not None:
                waiting[1].append(written)
            waiting[0].set()


def _moved(before: Account, now: Account) -> bool:
    return (before.agent.key, before.target, before.headers) != (
        now.agent.key, now.target, now.headers,
    )  # fmt: skip


def _workflow_of(message: Message) -> str:
    """The workflow that a message asks for an answer to."""
    found = message.get("workflow_id", "")
    return str(found or (message["message_id"] if "coordination" in message else ""))


def _pushed(message: Message, recipient: str) -> dict[str, Any]:
    """The body of a push: what is not set is null or "", as the reference writes it."""
    body: dict[str, Any] = {
        "message_id": message["message_id"],
        "sender": message["sender"],
        "recipient": recipient,
        "subject": message.get("subject", ""),
        "schema": message.get("schema", ""),
        "timestamp": message["timestamp"],
        "headers": message.get("headers"),
        "payload": message.get("payload"),
        "attachments": message.get("attachments"),
        "coordination": message.get("coordination"),
        "in_reply_to": message.get("in_reply_to", ""),
        "response_type": message.get("response_type", ""),
    }
    workflow = _workflow_of(message)
    if workflow and body["response_type"] == "":
        plan = body["coordination"] or {"type": "parallel"}
        body["coordination"] = {**plan, "workflow_id": workflow, "requires_response": True}
    return body
