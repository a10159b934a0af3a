"""Receipts in the words of AMP: message.delivered and message.read.

  RC1  Who asked for a receipt and is connected gets `message.delivered` when the recipient has the
       message: once for each recipient.
  RC2  `message.read` goes to the sender when the recipient read it (POST /messages/{id}/read, or
       its own `amp read`).
  RC3  Reading is marked once and never undone: what was acknowledged stays so.

A sender that is not connected finds what the node itself writes into its mailbox (core/notices.py).
On disk are ampd's own marks and signed receipts, here are only their words.
"""

import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Final

from ampd.core.agents import Agent
from ampd.core.lists import Summary
from ampd.core.tracking import DeliveryState
from ampd.edge.amp.limits import Limits
from ampd.edge.amp.ports import Document, Mail, token_of
from ampd.edge.bugs import contained
from ampd.edge.documents import time_text
from ampd.edge.http.words import Answer, Request
from ampd.edge.methods import Rooms
from ampd.model.errors import AmpdError, Refused
from ampd.model.message import id_text

_TOLD: Final = 1024  # events of one connection that are not told twice
_METHODS: Final = {"local": "local", "direct": "mesh", "relay": "relay", "gateway": "relay"}

Tell = Callable[[Document], Awaitable[None]]

log = logging.getLogger("ampd.amp.receipts")


class Receipts:
    """Tells senders, and takes readers' word."""

    def __init__(
        self, rooms: Rooms, mail: Mail, tell: Callable[[str, Document], Awaitable[None]]
    ) -> None:
        """`tell` sends a frame to every connection of the agent of a name."""
        self._rooms = rooms
        self._mail = mail
        self._tell = tell

    async def delivered(self, recipient: Agent, message: Summary, method: str, at: int) -> None:
        """A connection or a webhook of a recipient here took a message (RC1)."""
        sender = self._rooms.agents.of_key(message.key)
        if sender is None or not message.receipt:
            return
        found = self._message(sender, message.id)
        if found is None:
            return
        to = self._mail.amp_address(recipient)
        await self._tell(sender.name, _delivered(found[1], to, at, method))

    async def follow(self, agent: Agent, tell: Tell) -> None:
        """Tell one connection what becomes of the agent's messages elsewhere (RC1, RC2)."""
        cursor = self._rooms.tracking.cursor()
        told: OrderedDict[tuple[str, str, str], None] = OrderedDict()
        while True:
            changed = self._rooms.store.changed(("sent", agent.key))
            before = cursor
            with contained("message.delivered"):
                cursor, moved = self._rooms.tracking.changed(agent, cursor)
            for identifier, _, states in moved:
                for state in states:
                    for stage, frame in self._frames(agent, identifier, state):
                        if (identifier, state.address, stage) not in told:
                            told[identifier, state.address, stage] = None
                            await tell(frame)
            while len(told) > _TOLD:
                told.popitem(last=False)
            if cursor == before:
                await changed.wait()

    def _frames(
        self, agent: Agent, identifier: str, state: DeliveryState
    ) -> list[tuple[str, Document]]:
        """What there is to tell of one recipient's copy now, by stage."""
        message = self._message(agent, identifier)
        if message is None:
            return []
        summary, known = message
        frames = []
        if summary.receipt and state.delivered_at and state.via != "local":
            method = _METHODS.get(state.via, "relay")
            at = state.delivered_at
            frames.append(("delivered", _delivered(known, state.address, at, method)))
        if state.read_at:
            frames.append(("read", _read(known, state.read_at)))
        return frames

    def _message(self, agent: Agent, identifier: str) -> tuple[Summary, str] | None:
        """A message that the agent sent, and its id in AMP; None if it is not to be had."""
        try:
            full = self._rooms.reading.full(agent, self._rooms.lists.find(agent, identifier))
        except AmpdError as exc:  # deleted in this moment, or damaged: others are told
            log.warning("no receipt is told", extra={"id": identifier, "why": str(exc)})
            return None
        return full.summary, str(self._mail.item(agent, full)["id"])

    async def read(self, request: Request, limits: Limits) -> Answer:
        """POST /messages/{id}/read (RC2, RC3)."""
        account = self._mail.account_of_token(token_of(request))
        headers = limits.take("api", account.name)
        agent = self._rooms.agents.named(account.name)
        native = self._mail.native_id(request.params["id"])
        full = self._rooms.reading.full(agent, self._rooms.lists.find(agent, id_text(native)))
        if full.summary.number is None or full.summary.state == "quarantined":
            raise Refused(f"no message {request.params['id']}", code="message_unknown")
        await self._rooms.marks.shown(agent, [full])
        answer = {
            "read_receipt_sent": True,
            "receipt_sent": True,  # as AI Maestro has it
            "message_id": request.params["id"],
        }
        return Answer.json(200, answer, headers)


def _delivered(identifier: str, to: str, at: int, method: str) -> Document:
    data = {"id": identifier, "to": to, "delivered_at": time_text(at), "method": method}
    return {"type": "message.delivered", "data": data}


def _read(identifier: str, at: int) -> Document:
    return {"type": "message.read", "data": {"id": identifier, "read_at": time_text(at)}}
