"""An agent's mail as the gateways hand it out: what is not acked yet, whole, the oldest first.

  M1  A page costs what it shows: nothing is counted or read that is not on it.
  M2  What is handed out was proved against the journal in the same moment (as reading.py, O2); a
      damaged message holds up none behind it: it is left out, and the log names it.
  M3  An agent gets its own mail only; what is quarantined or acked is not handed out.

Not here: how a message looks in a foreign protocol (amp/rendering.py, amtp/rendering.py).
"""

import logging
from collections.abc import Sequence
from typing import Final

import trio

from ampd.core.agents import Agent
from ampd.core.lists import Filter, Summary
from ampd.edge.methods import Rooms
from ampd.model.errors import Refused, StorageError
from ampd.model.message import id_text
from ampd.model.values import value
from ampd.storage.index import read_signed
from ampd.storage.journal import Position
from ampd.storage.records import Kept, State, from_bytes

log = logging.getLogger("ampd.gateway")

PAGE: Final = 100  # messages on a page where nobody says how many


@value
class Piece:
    """One whole message. `payload` and `context` are JSON texts, or None."""

    summary: Summary
    body: str
    payload: str | None
    context: str | None
    expires: int  # milliseconds
    flags: tuple[str, ...]


@value
class Page:
    """Some pieces, and where the next page begins."""

    pieces: tuple[Piece, ...]
    next: int  # `after` of the next page; 0 if this is the last
    waiting: int  # messages that are not acked, on this page and elsewhere


class GatewayMail:
    """Reads and acknowledges for the agents of this node."""

    def __init__(self, rooms: Rooms) -> None:
        self._rooms = rooms

    def page(self, agent: Agent, limit: int = PAGE, after: int = 0) -> Page:
        """The oldest un-acked messages behind the number `after` (M1-M3)."""
        wanted = Filter(limit=limit, after=str(after), oldest=True)
        listing = self._rooms.lists.listing(agent, wanted)
        last = listing.messages[-1].number if listing.more else None
        return Page(tuple(self.whole(listing.messages)), last or 0, listing.total)

    def whole(self, summaries: Sequence[Summary]) -> list[Piece]:
        """The messages of a list, opened (M2)."""
        places = self._places([summary.seq for summary in summaries])
        found = [self._whole(each, places.get(each.seq)) for each in summaries]
        return [each for each in found if each is not None]

    def _places(self, seqs: list[int]) -> dict[int, Position]:
        """Where records lie, by one question for all of them: a page has a hundred."""
        rows = self._rooms.store.view.execute(
            f"SELECT seq, segment, offset FROM places WHERE seq IN ({','.join('?' * len(seqs))})",  # noqa: S608
            seqs,
        )
        return {row[0]: Position(row[1], row[2]) for row in rows}

    def _one(self, agent: Agent, seq: int) -> Piece | None:
        return self._whole(self._rooms.lists.one(agent, seq), self._places([seq]).get(seq))

    def waiting(self, agent: Agent) -> int:
        """How many messages are not acked."""
        row = self._rooms.store.view.execute(
            "SELECT unread+read FROM agents WHERE key=?", (agent.key,)
        ).fetchone()
        return int(row[0])

    def received(self, agent: Agent, identifier: bytes) -> Piece | None:
        """The message of this id in the agent's mailbox, acked or not; of several the newest."""
        row = self._rooms.store.view.execute(
            "SELECT m.seq FROM messages m CROSS JOIN boxes b ON b.message=m.seq"
            " JOIN agents a ON a.id=b.agent WHERE m.id=? AND a.key=? AND b.state<3"
            " ORDER BY b.number DESC LIMIT 1",
            (identifier, agent.key),
        ).fetchone()
        return self._one(agent, row[0]) if row else None

    def sent(self, agent: Agent, identifier: bytes) -> Piece | None:
        """The message of this id that the agent sent."""
        row = self._rooms.store.view.execute(
            "SELECT m.seq FROM messages m JOIN agents a ON a.id=m.by WHERE m.id=? AND a.key=?",
            (identifier, agent.key),
        ).fetchone()
        return self._one(agent, row[0]) if row else None

    def sender_of(self, identifier: bytes) -> Agent | None:
        """The agent of this node that sent the message of this id."""
        row = self._rooms.store.view.execute(
            "SELECT a.key FROM messages m JOIN agents a ON a.id=m.by WHERE m.id=?", (identifier,)
        ).fetchone()
        return self._rooms.agents.of_key(row[0]) if row else None

    async def acknowledge(self, agent: Agent, identifiers: Sequence[bytes]) -> list[bytes]:
        """Ack those that wait; the ids that were there, also those that were acked before."""
        found = []
        texts = []
        for identifier in dict.fromkeys(identifiers):
            rows = self._rooms.store.view.execute(
                "SELECT b.number, b.state FROM messages m CROSS JOIN boxes b ON b.message=m.seq"
                " JOIN agents a ON a.id=b.agent WHERE m.id=? AND a.key=? AND b.state<3",
                (identifier, agent.key),
            ).fetchall()
            if rows:
                found.append(identifier)
            texts += [str(row["number"]) for row in rows if row["state"] != State.ACKED]
        if texts:
            await self._rooms.marks.set(agent, texts, State.ACKED)
        return found

    def news(self, agent: Agent) -> trio.Event:
        """Set when something came for the agent, or changed, after this call. Ask before you look:
        then nothing is missed."""
        return self._rooms.store.changed(("box", agent.key))

    def agent_named(self, name: str) -> Agent | None:
        """The local agent of this name."""
        try:
            return self._rooms.agents.named(name)
        except Refused:
            return None

    def _whole(self, summary: Summary, place: Position | None) -> Piece | None:
        try:
            if place is None:
                raise StorageError("it is not in the journal", hint="amp check --repair")
            record = from_bytes(self._rooms.store.journal.read(place, summary.seq))
            if not isinstance(record, Kept):
                raise StorageError("the index points to another record", hint="amp check --repair")
        except StorageError as exc:
            why = {"id": summary.id, "why": str(exc)}
            log.error("a message cannot be handed out", extra=why)  # noqa: TRY400 - not our bug
            return None
        said = read_signed(record.signed)[1]
        body, payload, context = said["body"], said["payload"], said["context"]
        flags = self._rooms.flagging.of_text(summary.seq, summary.subject, body, payload, context)
        return Piece(summary, body, payload, context, said["expires"], flags)


def text_of(identifier: bytes) -> str:
    """A native id as text: a UUID."""
    return id_text(identifier)
