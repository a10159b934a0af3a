"""How far a message got: by recipient, step by step, and what it waits for now.

Nothing is said here that is not on disk, but for the attempts: those are this process's memory.
"""

import base64
import json
import sqlite3
from collections.abc import Callable
from typing import Final

from ampd.core.agents import Agent, Agents
from ampd.core.letters import Attempts
from ampd.core.lists import Lists
from ampd.core.receipts import receipt_for
from ampd.core.submission import overall
from ampd.model.errors import Refused
from ampd.model.message import Message, id_text
from ampd.model.values import value
from ampd.storage.index import read_payload
from ampd.storage.records import Kept
from ampd.storage.store import Store

_STAGES: Final = (
    ("relayed_at", "relayed", "a relay holds it"),
    ("delivered_at", "delivered", "on the recipient's disk"),
    ("read_at", "read", "shown to the recipient"),
    ("acked_at", "acked", "processed by the recipient"),
)


@value
class DeliveryState:
    """One recipient's copy."""

    address: str
    status: str
    via: str
    attempts: int
    next_attempt_at: int
    error: str
    delivered_at: int
    read_at: int


@value
class Proof:
    """A receipt that can be shown to a third party."""

    address: str
    stage: str
    at: int
    receipt: bytes

    @property
    def text(self) -> str:
        """For `amp status --proof`."""
        return base64.b64encode(self.receipt).decode("ascii")


@value
class Step:
    """One step in the life of a message."""

    at: int
    place: str
    what: str
    detail: str = ""


class Tracking:
    """Answers where a message is."""

    def __init__(
        self,
        store: Store,
        agents: Agents,
        lists: Lists,
        attempts: Callable[[str], Attempts | None],
    ) -> None:
        self._store = store
        self._agents = agents
        self._lists = lists
        self._attempts = attempts

    def _message(self, agent: Agent, text: str) -> sqlite3.Row:
        seq = self._lists.find(agent, text)
        row: sqlite3.Row = self._store.view.execute(
            "SELECT m.*, a.key AS by_key FROM messages m LEFT JOIN agents a ON a.id=m.by"
            " WHERE m.seq=?",
            (seq,),
        ).fetchone()
        return row

    def _sent_message(self, agent: Agent, text: str) -> sqlite3.Row:
        """The same of one that the agent sent; how it went is nobody else's business (V1)."""
        row = self._message(agent, text)
        if row["by_key"] != agent.key:
            raise Refused(
                f"{id_text(row['id'])} was received, not sent, by {agent.address}",
                code="message_unknown", hint="amp sent",
            )  # fmt: skip
        return row

    def deliveries(self, agent: Agent, text: str) -> tuple[str, str, list[DeliveryState]]:
        """The id, the overall status and each recipient's state of a message that was sent."""
        row = self._sent_message(agent, text)
        states = self._states(row["seq"])
        return id_text(row["id"]), overall([state.status for state in states]), states

    def _states(self, seq: int) -> list[DeliveryState]:
        rows = self._store.view.execute(
            "SELECT * FROM deliveries WHERE message=? ORDER BY recipient", (seq,)
        )
        return [self._delivery(each) for each in rows]

    def _delivery(self, row: sqlite3.Row) -> DeliveryState:
        waiting = row["status"] in ("queued", "relayed")
        tried = self._attempts(row["address"]) if waiting else None
        return DeliveryState(
            address=row["address"],
            status=row["status"],
            via=row["via"] or (tried.via if tried else ""),
            attempts=tried.count if tried else 0,
            next_attempt_at=tried.next_at if tried else 0,
            error=row["error"] or (tried.last_error if tried else ""),
            delivered_at=row["delivered_at"] or 0,
            read_at=row["read_at"] or 0,
        )

    def changed(
        self, agent: Agent, after: int
    ) -> tuple[int, list[tuple[str, str, list[DeliveryState]]]]:
        """What `deliveries` says of an agent's messages that went on after a cursor, and the new
        cursor."""
        rows = self._store.view.execute(
            "SELECT d.changed, m.seq, m.id FROM deliveries d"
            " CROSS JOIN messages m ON m.seq=d.message CROSS JOIN agents a ON a.id=m.by"
            " WHERE d.changed>0 AND d.changed>? AND a.key=? ORDER BY d.changed LIMIT 100",
            (after, agent.key),
        ).fetchall()
        last = rows[-1][0] if rows else after
        found = []
        for seq, identifier in dict.fromkeys((row[1], row[2]) for row in rows):
            if states := self._states(seq):  # none: it was deleted in this moment
                found.append((id_text(identifier), overall([s.status for s in states]), states))
        return last, found

    def cursor(self) -> int:
        """Where `changed` starts for somebody who wants to hear what comes."""
        row = self._store.view.execute("SELECT max(changed) FROM deliveries WHERE changed>0")
        return int(row.fetchone()[0] or 0)

    def proofs(self, agent: Agent, text: str) -> list[Proof]:
        """The signed receipts of a message that was sent; those of agents here are signed now."""
        row = self._sent_message(agent, text)
        found = [
            Proof(address, stage, at, signed)
            for address, stage, at, signed in self._store.view.execute(
                "SELECT d.address, r.stage, r.at, r.signed FROM receipts r JOIN deliveries d"
                " ON d.message=r.message AND d.recipient=r.recipient WHERE r.message=?"
                " ORDER BY r.at, r.stage='acked', r.stage='read'",
                (row["seq"],),
            )
        ]
        record = self._store.payload(row["seq"])
        if isinstance(record, Kept):
            found += self._local_proofs(row["seq"], record.signed)
        return found

    def _local_proofs(self, seq: int, signed: bytes) -> list[Proof]:
        message = Message.from_bytes(read_payload(signed))
        proofs = []
        for row in self._store.view.execute(
            "SELECT * FROM deliveries WHERE message=? AND via='local'", (seq,)
        ):
            agent = self._agents.of_key(row["key"])
            for column, stage, _ in _STAGES[1:]:
                if agent is not None and row[column]:
                    receipt = receipt_for(agent, message, signed, stage, row[column])
                    proofs.append(Proof(row["address"], stage, row[column], receipt))
        return proofs

    def trace(self, agent: Agent, text: str) -> tuple[str, list[Step], str]:
        """The id, the steps in the order of time, and what the message waits for now."""
        row = self._message(agent, text)
        here = str(agent.address)
        steps = [Step(row["sent"], row["sender"], "signed", f"to {_listed(row['recipients'])}")]
        waiting = ""
        if row["by_key"] == agent.key:
            steps.append(Step(row["at"], here, "queued", "on this node's disk"))
            waiting = self._sent_steps(row["seq"], steps)
        else:
            steps.append(Step(row["at"], here, "kept", f"came by {row['via']}, on disk"))
        self._box_steps(row, agent, steps)
        return id_text(row["id"]), sorted(steps, key=lambda step: step.at), waiting

    def _sent_steps(self, seq: int, steps: list[Step]) -> str:
        waits = []
        for row in self._store.view.execute(
            "SELECT * FROM deliveries WHERE message=? ORDER BY recipient", (seq,)
        ):
            for column, what, detail in _STAGES:
                if row[column] and row["via"] == "gateway":
                    said = "as the other provider says"
                    steps.append(Step(row[column], row["address"], what, said))
                elif row[column]:
                    place = "a relay" if what == "relayed" else row["address"]
                    steps.append(Step(row[column], place, what, detail))
            if row["status"] in ("failed", "expired"):
                steps.append(Step(row["at"], row["address"], row["status"], row["error"] or ""))
            state = self._delivery(row)
            if state.status in ("queued", "relayed"):
                waits.append(f"{state.address}: {state.error or _quiet(state)}")
        return "; ".join(waits)

    def _box_steps(self, message: sqlite3.Row, agent: Agent, steps: list[Step]) -> None:
        for row in self._store.view.execute(
            "SELECT b.* FROM boxes b JOIN agents a ON a.id=b.agent WHERE b.message=? AND a.key=?",
            (message["seq"], agent.key),
        ):
            here = str(agent.address)
            if row["reason"]:
                steps.append(Step(message["at"], here, "quarantined", row["reason"]))
            for column, what in (("read_at", "read"), ("acked_at", "acked")):
                if row[column]:
                    steps.append(Step(row[column], here, what))


def _quiet(state: DeliveryState) -> str:
    """What is waited for, when nothing went wrong."""
    if state.via != "gateway":
        return "its node was not seen since"
    if state.status == "relayed":
        return "the other provider has it, and said nothing since"
    return "the gateway is about to carry it"


def _listed(recipients: str) -> str:
    return ", ".join(json.loads(recipients))
