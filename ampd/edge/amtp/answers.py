"""Which messages in a mailbox answer a workflow, and what they say (workflows.py, WF3 and WF4)."""

from collections.abc import Callable
from typing import Any, Final

from ampd.core.agents import Agent
from ampd.core.lists import Summary
from ampd.edge.amtp.ports import Mail
from ampd.edge.amtp.workflow_records import MAX_REPLY
from ampd.edge.gateway_mail import Piece
from ampd.edge.methods import Rooms
from ampd.model.errors import Invalid
from ampd.model.values import value
from ampd.protocol import raw_json
from ampd.protocol.amtp.coordination import Answered

_GOOD: Final = "workflow_response"
_BAD: Final = ("workflow_error", "error")
_NOT_BELIEVED: Final = ("invalid", "key_unavailable")


@value
class Reply:
    """An answer, and the ids by one of which it may name its workflow."""

    names: tuple[str, ...]
    event: Answered


class Answers:
    """Reads the messages of agents here."""

    def __init__(
        self,
        rooms: Rooms,
        mail: Mail,
        verification_of: Callable[[str], dict[str, str] | None],
        now: Callable[[], int],
    ) -> None:
        self._rooms = rooms
        self._mail = mail
        self._verification_of = verification_of
        self._now = now

    def address(self, text: str) -> str:
        """The one form of an address by which participants are known."""
        agent = self._mail.agent_at(text)
        return self._mail.address_of(agent) if agent else text.lower()

    def of(self, agent: Agent, piece: Piece) -> Reply | None:
        """What a message answers, if it may be an answer at all."""
        summary = piece.summary
        if self._is_the_nodes(summary):
            return self._failure(piece)
        members = self._mail.document(agent, piece)
        kind = members.get("response_type", "")
        is_native = "amtp" not in _object(piece.context)
        if is_native:
            kind = summary.type if summary.type in _BAD else _GOOD
        if kind != _GOOD and kind not in _BAD:
            return None
        proof = self._verification_of(summary.id) or {}
        names = tuple(members[name] for name in ("workflow_id", "in_reply_to") if members.get(name))
        if not names or proof.get("result") in _NOT_BELIEVED:
            return None
        payload = raw_json.write(members.get("payload"))
        if len(payload) > MAX_REPLY:
            payload = raw_json.write({"message_id": summary.id, "bytes": len(payload.encode())})
        sender = self.address(summary.sender)
        return Reply(names, Answered(sender, self._now(), payload, kind in _BAD))

    def _is_the_nodes(self, summary: Summary) -> bool:
        agents = self._rooms.agents
        return summary.type == "system" and summary.key == agents.node.public

    def _failure(self, piece: Piece) -> Reply | None:
        """A notice of core/notices.py that a message did not get to its recipient (WF4)."""
        facts = _object(piece.payload)
        if facts.get("event") not in ("failed", "expired"):
            return None
        sender = self.address(str(facts["recipient"]))
        error = str(facts.get("reason", "")) or "it expired"
        return Reply(
            (str(facts["message"]),),
            Answered(sender, self._now(), "null", failed=True, error=error[:300]),
        )


def _object(text: str | None) -> dict[str, Any]:
    try:
        value = raw_json.parse(text) if text else {}
    except Invalid:
        return {}
    return value if isinstance(value, dict) else {}
