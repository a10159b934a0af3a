"""Workflows of the agents here: their messages go out, answers come in, and their sender hears how
it ended (AMTP 1.0, section 7).

  WF1  A workflow's id is the message_id of the message that began it. Messages of later legs have
       ids of their own, made of the workflow's, and its id as workflow_id.
  WF2  What is to be done is on disk before it is done: a workflow survives a restart at any point,
       and what was asked twice is sent once (the same id of the same sender).
  WF3  An answer is a message in the sender's mailbox that names the workflow, or one of its
       messages, with response_type workflow_response, workflow_error or error; an answer in the
       node's own protocol needs no type. Who signed it is who answered; a bad signature answers
       nothing.
  WF4  A notice that a message could not be delivered is that participant's failure.
  WF6  Whoever has the sender's name later is another agent, and hears nothing of its workflows.
  WF5  The sender gets one message of the node when it is over: its results, by participant.

Not here: who is asked when (protocol/amtp/coordination.py), how it is shown (workflow_views.py).
"""

import hashlib
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import trio

from ampd.core.agents import Agent
from ampd.core.lists import Filter
from ampd.core.notices import write
from ampd.core.submission import SentTo
from ampd.edge.amtp import workflow_records as records
from ampd.edge.amtp.answers import Answers
from ampd.edge.amtp.failures import Failure
from ampd.edge.amtp.ports import Mail
from ampd.edge.amtp.workflow_views import outcome
from ampd.edge.gateway_mail import GatewayMail, Piece
from ampd.edge.gateway_values import Shared
from ampd.model.errors import AmpdError, Invalid, Refused, StorageError, Unavailable
from ampd.model.message import id_from_text, id_text
from ampd.protocol import raw_json
from ampd.protocol.amtp.coordination import (
    Action,
    Answered,
    Ask,
    Elapsed,
    Event,
    Plan,
    Workflow,
    plan_of,
    start,
    step,
)
from ampd.protocol.amtp.message import derived_key
from ampd.storage.registry import Batch
from ampd.storage.store import Transaction

MOST_OPEN: Final = 200  # of one agent: each is looked at whenever one begins
_LOOK_EVERY: Final = 30.0  # seconds: clocks are set, and what could not be sent is tried again
_AT_ONCE: Final = 50  # messages of a mailbox that are looked at before others get their turn

log = logging.getLogger("ampd.amtp")

Find = Callable[[Sequence[str]], Awaitable[None]]
Ended = Callable[[Agent, dict[str, Any]], Awaitable[None]]


class Workflows:
    """The workflows of one node."""

    def __init__(
        self, shared: Shared, mail: Mail, answers: Answers, find: Find, ended: Ended
    ) -> None:
        """`find` looks for addresses that nobody knows; `ended` is told of every end."""
        self._rooms = shared.rooms
        self._registry = shared.registry
        self._now = shared.now
        self._mail = mail
        self._kept = GatewayMail(shared.rooms)
        self._answers = answers
        self._find = find
        self._ended = ended
        self._turn = trio.Lock()  # one event at a time: each reads, decides and writes
        self._woken = trio.Event()
        self._followed: set[bytes] = set()

    # --- beginning -------------------------------------------------------------------------

    async def begin(self, agent: Agent, message: Mapping[str, Any]) -> list[SentTo]:
        """Send what a message's `coordination` asks for first (WF1, WF2). Raises AmpdError, and
        then nothing was begun."""
        identifier = message["message_id"]
        plan = self._plan(message)
        workflow, actions = start(identifier, self._mail.address_of(agent), plan, self._now())
        cursor = self._rooms.lists.last_number(agent)

        def work(batch: Batch) -> bool:
            if (before := batch.get(records.WORKFLOW, identifier)) is not None:
                unsent = self._kept.sent(agent, id_from_text(identifier)) is None
                return unsent and before["sender"] == workflow.sender  # it was cut off here
            if batch.get(records.LEG, records.as_v7(identifier)) is not None:
                return False  # a message of another workflow, whose answers would come here
            if records.unfinished_of(batch, agent.name) >= MOST_OPEN:
                raise Failure(429, "RATE_LIMIT_EXCEEDED", f"{MOST_OPEN} workflows are not over")
            records.save(batch, workflow, agent.name, told=False)
            expires = workflow.deadline + records.KEPT_FOR
            leg = {"workflow": identifier}
            batch.put(
                records.LEG, records.as_v7(identifier), leg, owner=agent.name, expires=expires
            )
            if batch.get(records.CURSOR, agent.name) is None:
                batch.put(records.CURSOR, agent.name, {"number": cursor}, owner=agent.name)
            return True

        if not await self._registry.change(work):
            raise Failure(409, "VALIDATION_FAILED", "there is a workflow of this id already")
        first = [each.address for each in actions if isinstance(each, Ask)]
        try:
            sent = await self._send(agent, _leg(message, identifier, identifier, first))
        except AmpdError:
            await self._registry.change(lambda batch: records.forget(batch, workflow))
            raise
        self._woken.set()
        return [replace(each, address=self._answers.address(each.address)) for each in sent]

    def _plan(self, message: Mapping[str, Any]) -> Plan:
        """The plan, with every address in the one form by which answers are known."""
        try:
            plan = plan_of(message["coordination"], message["recipients"])
        except Invalid as exc:
            raise Failure(400, "VALIDATION_FAILED", str(exc)) from None
        known = self._answers.address
        branches = tuple(
            replace(
                each, then=tuple(map(known, each.then)), otherwise=tuple(map(known, each.otherwise))
            )
            for each in plan.branches
        )
        first = tuple((known(address), required) for address, required in plan.first)
        return replace(plan, first=first, branches=branches)

    async def _send(self, agent: Agent, message: Mapping[str, Any]) -> list[SentTo]:
        draft = self._mail.draft(message, message["recipients"])
        if not self._rooms.submission.knows(draft):
            await self._find(draft.to)
        return list((await self._rooms.submission.send(agent, draft)).recipients)

    # --- going on --------------------------------------------------------------------------

    async def run(self) -> None:
        """Take answers and watch deadlines, until cancelled (WF2-WF5)."""
        async with trio.open_nursery() as nursery:
            while True:
                self._woken = woken = trio.Event()
                soonest = _LOOK_EVERY
                for identifier, owner, deadline in list(records.unfinished(self._registry)):
                    agent = self._kept.agent_named(owner)
                    if agent is None:
                        await self._registry.delete(records.WORKFLOW, identifier)
                        continue
                    await self._look_at(agent, identifier)
                    if agent.key not in self._followed:
                        self._followed.add(agent.key)
                        nursery.start_soon(self._follow, agent)
                    soonest = min(soonest, max(0.01, (deadline - self._now()) / 1000))
                with trio.move_on_after(soonest):
                    await woken.wait()

    async def _look_at(self, agent: Agent, identifier: str) -> None:
        """Do again what a restart or a full disk kept from being done, and look at the clock."""
        try:
            async with self._turn:
                found = records.load(self._registry, identifier)
                if found is None:
                    return
                workflow, told = found
                if workflow.created < agent.created:  # of another agent, that had this name (WF6)
                    await self._registry.delete(records.WORKFLOW, identifier)
                    return
                if workflow.is_over:
                    await self._finish(agent, workflow, told=told)
                    return
                for place, each in enumerate(workflow.participants):
                    if each.status == "pending":
                        await self._ask(agent, workflow, place)
            await self.take(agent, identifier, Elapsed(self._now()))
        except (Unavailable, StorageError) as exc:
            log.warning("a workflow waits", extra={"id": identifier, "why": str(exc)})

    async def take(
        self, agent: Agent, identifier: str, event: Event, cursor: int | None = None
    ) -> None:
        """Let an event happen to a workflow, and do what follows from it (WF2)."""
        async with self._turn:
            await self._take(agent, identifier, event, cursor)

    async def _take(
        self, agent: Agent, identifier: str, event: Event, cursor: int | None = None
    ) -> None:
        found = records.load(self._registry, identifier)
        if found is None:
            return
        before, told = found
        workflow, actions = step(before, event)
        if workflow == before and cursor is None:
            return

        def work(batch: Batch) -> None:
            if workflow != before:
                records.save(batch, workflow, agent.name, told=told)
            if cursor is not None:
                batch.put(records.CURSOR, agent.name, {"number": cursor}, owner=agent.name)

        await self._registry.change(work)
        await self._act(agent, workflow, actions, told=told)

    async def _act(
        self, agent: Agent, workflow: Workflow, actions: Sequence[Action], *, told: bool
    ) -> None:
        for action in actions:
            if isinstance(action, Ask):
                place = workflow.place_of(action.address)
                if place is not None:
                    await self._ask(agent, workflow, place)
            else:
                await self._finish(agent, workflow, told=told)

    async def _ask(self, agent: Agent, workflow: Workflow, place: int) -> None:
        """Send a participant its message; the same one, however often this is called (WF2)."""
        original = self._kept.sent(agent, id_from_text(workflow.id))
        if original is None or place < _first_asked(workflow):
            return  # the first message is sent, or was refused, when the workflow began
        address = workflow.participants[place].address
        leg = _leg_id(workflow, place)
        value = {"workflow": workflow.id}
        expires = workflow.deadline + records.KEPT_FOR
        await self._registry.add(
            records.LEG, records.as_v7(leg), value, owner=agent.name, expires=expires
        )
        if self._kept.sent(agent, id_from_text(leg)) is not None:
            return
        message = _leg(self._mail.document(agent, original), workflow.id, leg, [address])
        try:
            await self._send(agent, message)
        except Refused as exc:
            answered = Answered(address, self._now(), failed=True, error=str(exc))
            await self._take(agent, workflow.id, answered)

    # --- answers ---------------------------------------------------------------------------

    async def _follow(self, agent: Agent) -> None:
        """Look at everything that comes for an agent, while it has workflows (WF3, WF4)."""
        try:
            while any(owner == agent.name for _, owner, _ in records.unfinished(self._registry)):
                changed = self._kept.news(agent)
                if not await self._look_through(agent):
                    await changed.wait()
            await self._registry.delete(records.CURSOR, agent.name)
        except Refused as exc:
            log.info("an agent's workflows end", extra={"agent": agent.name, "why": str(exc)})
        finally:
            self._followed.discard(agent.key)

    async def _look_through(self, agent: Agent) -> bool:
        """Take the next answers behind the cursor; whether there was anything to look at."""
        cursor = self._registry.get(records.CURSOR, agent.name) or {"number": 0}
        wanted = Filter(box="all", after=str(cursor["number"]), oldest=True, limit=_AT_ONCE)
        found = self._rooms.lists.listing(agent, wanted).messages
        for piece in self._kept.whole(found):  # what is damaged answers nothing
            await self._saw(agent, piece)
        if found:
            await self._looked_at(agent, found[-1].number or 0)
        return bool(found)

    async def _saw(self, agent: Agent, piece: Piece) -> None:
        answer = self._answers.of(agent, piece)
        if answer is None or not self._is_asked(agent, answer.names):
            return
        number = piece.summary.number or 0
        await self.take(agent, self._workflow_of(answer.names), answer.event, number)

    async def _looked_at(self, agent: Agent, number: int) -> None:
        await self._registry.put(records.CURSOR, agent.name, {"number": number}, owner=agent.name)

    def _is_asked(self, agent: Agent, names: Sequence[str]) -> bool:
        found = self._registry.get(records.WORKFLOW, self._workflow_of(names))
        mine = self._mail.address_of(agent)
        is_mine = found is not None and found["sender"] == mine
        return is_mine and found is not None and found["created"] >= agent.created

    def _workflow_of(self, names: Sequence[str]) -> str:
        """The workflow that one of these ids is, or belongs to; "" if none is."""
        for name in names:
            found = self._registry.get(records.LEG, records.as_v7(name))
            if found is not None:
                return str(found["workflow"])
        return ""

    # --- the end ---------------------------------------------------------------------------

    async def _finish(self, agent: Agent, workflow: Workflow, *, told: bool) -> None:
        """Tell the sender once (WF5); webhooks hear of it too."""
        if told:
            return
        document = outcome(workflow)
        await self._rooms.store.write(lambda tx: self._tell(tx, agent, workflow, document))
        await self._ended(agent, document)
        await self._registry.change(
            lambda batch: records.save(batch, workflow, agent.name, told=True)
        )

    def _tell(
        self, tx: Transaction, agent: Agent, workflow: Workflow, document: dict[str, Any]
    ) -> None:
        original = id_from_text(workflow.id)
        members = {
            "version": "1.0", "sender": f"ampd@{self._rooms.agents.domain}",
            "recipients": [str(agent.address)], "in_reply_to": workflow.id,
            "workflow_id": workflow.id,
        }  # fmt: skip
        ends = {"completed": "is complete", "failed": "has failed", "timeout": "took too long"}
        write(
            tx, self._rooms.agents, agent,
            subject=f"workflow {workflow.status}",
            body=f"Your {workflow.plan.kind} workflow {workflow.id} {ends[workflow.status]}.",
            payload=raw_json.write(document),
            in_reply_to=original,
            thread=original,
            context=raw_json.write({"amtp": members}),
        )  # fmt: skip


def _first_asked(workflow: Workflow) -> int:
    """How many participants the first message goes to."""
    return 1 if workflow.plan.kind == "sequential" else len(workflow.plan.first)


def _leg_id(workflow: Workflow, place: int) -> str:
    """The id of a later message: UUIDv7 in form, always the same (WF1)."""
    seed = f"ampd/amtp-leg {workflow.id} {place}".encode()
    raw = bytearray(hashlib.blake2b(seed, digest_size=16).digest())
    raw[:6] = workflow.created.to_bytes(6, "big")
    raw[6] = 0x70 | raw[6] & 0x0F
    raw[8] = 0x80 | raw[8] & 0x3F
    return id_text(bytes(raw))


def _leg(
    message: Mapping[str, Any], workflow: str, identifier: str, to: Sequence[str]
) -> dict[str, Any]:
    """The message as one leg of a workflow carries it (12.2.1)."""
    found = dict(message) | {
        "message_id": identifier,
        "recipients": list(to),
        "workflow_id": workflow,
        "coordination": message["coordination"]
        | {"workflow_id": workflow, "requires_response": True},
    }
    if identifier != workflow:
        found["idempotency_key"] = derived_key(identifier)
    if isinstance(found.get("payload"), raw_json.Raw):
        found["payload"] = raw_json.parse(found["payload"])
    return found
