"""Mail that will never arrive: kept for an administrator, and reported to its sender (AMTP 1.0,
section 8.2).

    GET    /v1/dead-letters[?limit=N][&after=KEY]    the records, with the messages themselves
    DELETE /v1/dead-letters/{id}                     forget all records of a message

  DL1  Every recipient that failed for good, or whose copy expired, is a record: here for
       KEPT_FOR, or until an administrator deletes it.
  DL2  The sender has a message of the node (core/notices.py), which AMTP clients see as a
       delivery_failure report.
  DL3  A target that an agent here is pushed to and that refused is a dead letter as well; a sender
       on this node is told.

Not here: when something has failed (core/abroad.py, core/transfer.py, push.py).
"""

import json
from collections.abc import Callable, Sequence
from typing import Any, Final

from ampd.core.agents import Agent
from ampd.core.notices import notify
from ampd.edge.amtp.failures import Failure
from ampd.edge.amtp.outbound import Tries
from ampd.edge.amtp.outcomes import Outcome
from ampd.edge.amtp.ports import Mail
from ampd.edge.amtp.times import time_text
from ampd.edge.gateway_mail import GatewayMail, Piece
from ampd.edge.gateway_values import Shared
from ampd.edge.http.words import Answer, Request, Route
from ampd.model.message import id_from_text
from ampd.storage.registry import Batch, Entry
from ampd.storage.store import Transaction

KEPT_FOR: Final = 31 * 86_400_000  # ms: the message itself lasts no longer
_KIND: Final = "amtp.dead"
_MOST: Final = 200  # records on a page, each with a whole message
_UNAVAILABLE: Final = "recipient_unavailable"
_REFUSED: Final = "delivery_rejected"


class DeadLetters:
    """The dead letters of one node."""

    def __init__(self, shared: Shared, mail: Mail, tries: Callable[[str, str], Tries]) -> None:
        """`tries` knows how often a copy was offered abroad."""
        self._rooms = shared.rooms
        self._registry = shared.registry
        self._now = shared.now
        self._mail = mail
        self._tries = tries
        self._pieces = GatewayMail(shared.rooms)

    # --- burying ---------------------------------------------------------------------------

    def heard(self, batch: Batch, agent: Agent, outcome: Outcome) -> None:
        """Within a change: a recipient has a message, or never will (DL1)."""
        if outcome.event != "failed":
            return
        state = outcome.state
        tries = self._tries(outcome.message_id, state.address)
        reason = _UNAVAILABLE if state.status == "expired" or not state.via else _REFUSED
        value = {
            "recipient": state.address,
            "reason": reason,
            "error": state.error,
            "attempts": tries.count,
            "first": tries.first,
            "last": tries.last,
            "key": agent.key.hex(),
        }
        _keep(batch, outcome.message_id, value, agent.name)

    async def bury(
        self, agent: Agent, piece: Piece, recipient: str, code: str, reason: str, attempts: int,
        first_ms: int, last_ms: int,
    ) -> None:  # fmt: skip
        """Keep what an agent here could not be pushed, and tell its sender (DL3)."""
        identifier = piece.summary.id
        value = {
            "recipient": recipient, "reason": code, "error": reason, "attempts": attempts,
            "first": first_ms, "last": last_ms, "key": agent.key.hex(),
        }  # fmt: skip
        if self._registry.get(_KIND, f"{identifier}/{recipient}") is not None:
            return  # it was put away before a restart
        message, sender = id_from_text(identifier), piece.summary.key

        def tell(tx: Transaction) -> None:
            notify(tx, self._rooms.agents, sender, message, recipient, "failed", reason)

        await self._rooms.store.write(tell)
        await self._registry.change(lambda batch: _keep(batch, identifier, value, agent.name))

    # --- the report ------------------------------------------------------------------------

    def report_of(self, piece: Piece) -> dict[str, Any] | None:
        """The payload of a delivery_failure report, if this message is such a notice (DL2)."""
        summary = piece.summary
        if summary.type != "system" or summary.key != self._rooms.agents.node.public:
            return None
        facts = json.loads(piece.payload or "{}")
        if facts.get("event") not in ("failed", "expired"):
            return None
        recipient = str(facts["recipient"])
        tries = self._tries(facts["message"], recipient)
        return {
            "version": "1.0",
            "message_type": "delivery_failure",
            "original_message_id": facts["message"],
            "failed_recipients": [self._address(recipient)],
            "error_code": _UNAVAILABLE if facts["event"] == "expired" else "delivery_failed",
            "error_message": facts.get("reason") or "it expired before it could be delivered",
            "retry_count": tries.count,
            "final_attempt": time_text(tries.last or summary.sent),
        }

    # --- requests --------------------------------------------------------------------------

    def routes(self) -> Sequence[Route]:
        """Every method of every path."""
        return (
            Route("GET", "/v1/dead-letters", self._list),
            Route("DELETE", "/v1/dead-letters/{id}", self._forget),
        )

    async def _list(self, request: Request) -> Answer:
        self._mail.check_admin(request)
        asked = request.query.get("limit", "100")
        limit = int(asked) if asked.isascii() and asked.isdecimal() and len(asked) < 5 else 0
        if not 0 < limit <= _MOST:
            raise Failure(400, "INVALID_LIMIT", f"limit is 1 to {_MOST}")
        after = request.query.get("after", "")
        found = self._registry.find(_KIND, after=after, limit=limit + 1)
        page = found[:limit]
        document = {
            "dead_letters": [self._shown(entry) for entry in page],
            "count": len(page),
            "has_more": len(found) > limit,
            "next": page[-1].key if len(found) > limit else None,
        }
        return Answer.json(200, document)

    async def _forget(self, request: Request) -> Answer:
        self._mail.check_admin(request)
        identifier = request.params["id"].lower()
        found = self._registry.find(_KIND, prefix=f"{identifier}/")
        if not found:
            raise Failure(404, "MESSAGE_NOT_FOUND", "there is no dead letter of this id")
        for entry in found:
            await self._registry.delete(_KIND, entry.key)
        return Answer.json(200, {"message_id": identifier, "status": "deleted"})

    def _shown(self, entry: Entry) -> dict[str, Any]:
        identifier = entry.key.partition("/")[0]
        value = entry.value
        return {
            "message_id": identifier,
            "recipient": self._address(value["recipient"]),
            "original_message": self._original(identifier, entry.owner),
            "failure_reason": value["reason"],
            "error_message": value["error"],
            "attempts": value["attempts"],
            "first_attempt": time_text(value["first"]),
            "last_attempt": time_text(value["last"]),
            "dlq_timestamp": time_text(entry.at),
        }

    def _original(self, identifier: str, owner: str) -> dict[str, Any] | None:
        """The message, while it is kept here."""
        agent = self._pieces.agent_named(owner)
        if agent is None:
            return None
        wanted = id_from_text(identifier)
        piece = self._pieces.sent(agent, wanted) or self._pieces.received(agent, wanted)
        return None if piece is None else self._mail.document(agent, piece)

    def _address(self, native: str) -> str:
        agent = self._mail.agent_at(native)
        return self._mail.address_of(agent) if agent else native


def _keep(batch: Batch, identifier: str, value: dict[str, Any], owner: str) -> None:
    key = f"{identifier}/{value['recipient']}"
    batch.add(_KIND, key, value, owner=owner, expires=batch.now + KEPT_FOR)
