"""Sends of the agents of this node: found, checked, sent once, and answered by recipient.

  SE1  A send is repeated if it has the idempotency key of an earlier one of the same agent, not
       older than 7 days: each recipient that had it then has it still, with the first id, and only
       those that are new get it. Keys of different agents never meet.
  SE2  Without a key, the message_id is the key; without both, every send is a message of its own:
       the same words said twice are two messages.
  SE3  Nothing that failed is remembered as the answer to a key: a retry tries again.
  SE4  A recipient that cannot be found fails alone, with AGENT_UNKNOWN (no such agent here) or
       RECIPIENT_NOT_FOUND (no way there); the others get the message.
  SE5  What is answered is on disk before it is said (submission.py, U1).

Not here: HTTP (messages.py), senders that live elsewhere (transport.py).
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, Protocol
from weakref import WeakValueDictionary

import trio

from ampd.core.agents import Agent
from ampd.core.submission import REPEAT_WITHIN, Draft, Sent, SentTo
from ampd.crypto.keys import random_bytes
from ampd.edge.amtp.failures import Failure
from ampd.edge.amtp.mail import Mail, dedupe_prefix, native_id
from ampd.edge.amtp.times import time_text
from ampd.edge.amtp.views import FAILED, REMEMBER, Found, Views, failed_key
from ampd.edge.gateway_values import Shared
from ampd.model.errors import Refused
from ampd.model.message import id_text, new_id
from ampd.model.values import value
from ampd.protocol.amtp.message import Message
from ampd.protocol.amtp.statuses import RecipientStatus

_NOT_FOUND: Final = {
    "AGENT_UNKNOWN": "no agent of this name lives here",
    "RECIPIENT_NOT_FOUND": "no way to this domain is known",
}


class Schemas(Protocol):
    """What holds payloads against schemas (schemas.py)."""

    async def check(self, message: Mapping[str, Any], recipients: Sequence[Agent]) -> None:
        """Failure unless the payload fits its schema, and somebody takes it."""


class Workflows(Protocol):
    """What coordinates several agents (workflows.py)."""

    async def begin(self, agent: Agent, message: Mapping[str, Any]) -> list[SentTo]:
        """Send what `coordination` asks for first; what became of it."""


Find = Callable[[Sequence[str]], Awaitable[None]]


@value
class Outcome:
    """What became of a send."""

    message_id: str
    recipients: tuple[RecipientStatus, ...]
    workflow_id: str = ""
    repeated: bool = False  # nothing was sent now


@value
class Targets:
    """The recipients of a send, by what can be done for them."""

    reachable: dict[str, str]  # native address -> as the client wrote it
    failed: tuple[RecipientStatus, ...]


class Sending:
    """Sends for the agents of one node."""

    def __init__(
        self, shared: Shared, mail: Mail, views: Views, schemas: Schemas, workflows: Workflows,
        find: Find,
    ) -> None:  # fmt: skip
        """`find` asks relays and other gateways for addresses that are not known."""
        self._rooms = shared.rooms
        self._registry = shared.registry
        self._now = shared.now
        self._mail = mail
        self._addresses = mail.addresses
        self._views = views
        self._schemas = schemas
        self._workflows = workflows
        self._find = find
        self._turns: WeakValueDictionary[str, trio.Lock] = WeakValueDictionary()

    def fresh_id(self) -> str:
        """A new message id: UUIDv7."""
        return id_text(new_id(self._now(), random_bytes(10)))

    async def send(self, agent: Agent, message: Message) -> Outcome:
        """Send a message as `read` gave it (SE1-SE5). Raises AmpdError."""
        keyed = "idempotency_key" in message or "message_id" in message
        given = "message_id" in message
        filled = self._mail.filled(message, self.fresh_id())
        turn = f"{agent.name} {filled['idempotency_key']}"
        lock = self._turns.setdefault(turn, trio.Lock())
        async with lock:
            is_new = not keyed or self._is_new(agent, filled)
            before = [] if is_new else self._before(agent, filled)
            return await self._send(agent, filled, before, given=given and not is_new)

    def _is_new(self, agent: Agent, message: Message) -> bool:
        """Nothing was sent under this key or id, as of nearly all."""
        prefix = dedupe_prefix(message["idempotency_key"])
        return self._views.is_new(agent, prefix, native_id(message["message_id"]))

    def _before(self, agent: Agent, message: Message) -> list[Found]:
        """What was sent under this key, for whom (SE1)."""
        since = self._now() - REPEAT_WITHIN
        prefix = dedupe_prefix(message["idempotency_key"])
        return self._views.repeats(agent, prefix, since)

    async def _send(
        self, agent: Agent, message: Message, before: list[Found], *, given: bool
    ) -> Outcome:
        wanted = {str(self._addresses.native(each)): each for each in message["recipients"]}
        had = {address for found in before for address in found.to}
        if before and ("coordination" in message or had.issuperset(wanted)):
            return self._first_answer(before, message)
        if before or (given and self._views.has_id(agent, native_id(message["message_id"]))):
            message = self._another(agent, message, before)
        targets = await self._targets({k: v for k, v in wanted.items() if k not in had})
        here = [a for a in map(self._mail.agent_at, targets.reachable.values()) if a]
        await self._schemas.check(message, here)
        if "coordination" in message:
            return await self._begin(agent, message)
        sent = None
        if targets.reachable:
            draft = self._mail.draft(message, tuple(targets.reachable.values()))
            sent = await self._submit(agent, draft)
        await self._remember(message["message_id"], agent, targets.failed)
        message_id = before[0].id if before else message["message_id"]
        return self._answer(message_id, agent, message, before, sent, targets)

    def _another(self, agent: Agent, message: Message, before: list[Found]) -> Message:
        """A message that may not have its own id, because one for others has it already."""
        if not before:
            raise Failure(
                409, "VALIDATION_FAILED", "Another message was sent under this message_id",
                details={"validation_error": "message_id belongs to another message"},
            )  # fmt: skip
        if not self._views.has_id(agent, native_id(message["message_id"])):
            return message
        return message | {"message_id": self.fresh_id()}

    async def _begin(self, agent: Agent, message: Message) -> Outcome:
        sent = await self._workflows.begin(agent, message)
        copies = [
            RecipientStatus(
                each.address, "failed" if each.status in ("failed", "expired") else "queued",
                self._time(), error_code="COORDINATION_FAILED" if each.error else "",
                error_message=each.error,
            )
            for each in sent
        ]  # fmt: skip
        return Outcome(message["message_id"], tuple(copies), message["message_id"])

    async def _submit(self, agent: Agent, draft: Draft) -> Sent:
        try:
            return await self._rooms.submission.send(agent, draft)
        except Refused as exc:
            if exc.code == "conflict":
                raise Failure(
                    409, "VALIDATION_FAILED", "Another message was sent under this message_id",
                    details={"validation_error": str(exc)},
                ) from exc  # fmt: skip
            raise

    # --- recipients -----------------------------------------------------------------------

    async def _targets(self, wanted: dict[str, str]) -> Targets:
        """SE4."""
        known = {each for each in wanted if self._known(each)}
        abroad = [each for each in wanted if each not in known and not self._is_ours(each)]
        if abroad:
            await self._find(abroad)
            known.update(each for each in abroad if self._known(each))
        reachable, failed = {}, []
        for native, written in wanted.items():
            if native in known:
                reachable[native] = written
            else:
                word = "AGENT_UNKNOWN" if self._is_ours(native) else "RECIPIENT_NOT_FOUND"
                failed.append(
                    RecipientStatus(
                        written, "failed", self._time(), error_code=word,
                        error_message=_NOT_FOUND[word],
                    )
                )  # fmt: skip
        return Targets(reachable, tuple(failed))

    def _known(self, native: str) -> bool:
        return self._rooms.submission.knows(Draft((native,)))

    def _is_ours(self, native: str) -> bool:
        return self._mail.is_ours(native.rpartition("@")[2])

    async def _remember(
        self, message_id: str, agent: Agent, failed: Sequence[RecipientStatus]
    ) -> None:
        """Statuses name those who were not found, until a retry finds them (SE3; views.py, VI4)."""
        key = failed_key(message_id, agent)
        if not failed:
            if self._registry.get(FAILED, key) is not None:
                await self._registry.delete(FAILED, key)
            return
        value = {
            "recipients": [
                {
                    "address": each.address, "at": each.timestamp, "code": each.error_code,
                    "message": each.error_message,
                }
                for each in failed
            ],
        }  # fmt: skip
        expires = self._now() + REMEMBER
        await self._registry.put(FAILED, key, value, owner=agent.name, expires=expires)

    # --- answers --------------------------------------------------------------------------

    def _answer(
        self, message_id: str, agent: Agent, message: Message, before: list[Found],
        sent: Sent | None, targets: Targets,
    ) -> Outcome:  # fmt: skip
        """One status for each recipient that was named, in that order."""
        fresh = self._views.just_sent(sent) if sent else []
        found = None
        if sent and not fresh:
            found = self._views.found(native_id(message["message_id"]), agent)
        copies = self._copies([*before, *([found] if found else [])])
        for copy in fresh:
            copies.setdefault(str(self._addresses.native(copy.address)), copy)
        copies |= {str(self._addresses.native(each.address)): each for each in targets.failed}
        return Outcome(message_id, self._in_order(message, copies))

    def _first_answer(self, before: list[Found], message: Message) -> Outcome:
        copies = self._copies(before)
        workflow = before[0].id if "coordination" in message else ""
        recipients = self._in_order(message, copies) or tuple(copies.values())
        return Outcome(before[0].id, recipients, workflow, repeated=True)

    def _copies(self, found: Sequence[Found]) -> dict[str, RecipientStatus]:
        copies: dict[str, RecipientStatus] = {}
        for each in found:
            for copy in self._views.recipients(each):
                copies.setdefault(str(self._addresses.native(copy.address)), copy)
        return copies

    def _in_order(
        self, message: Message, copies: dict[str, RecipientStatus]
    ) -> tuple[RecipientStatus, ...]:
        named = [(each, str(self._addresses.native(each))) for each in message["recipients"]]
        return tuple(
            replace(copies[native], address=written)
            for written, native in named
            if native in copies
        )

    def _time(self) -> str:
        return time_text(self._now()) or ""
