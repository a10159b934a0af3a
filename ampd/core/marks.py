"""The marks that an agent leaves in its mailbox: read, acked, unread again, deleted.

W1  A mark is on disk when the call returns; it goes on when the disk is full.
W2  The first time a message is read, and the first time it is acked, its sender is told, signed.
W3  Quarantined mail takes no marks.
W4  What is deleted stays known as seen until it could not be valid any more, so that it cannot
    come back, and by the hash of its bytes, so that no other message is taken for it.
W5  An agent's marks have their turns (storage/turns.py), and looking for what they are of lets
    others in between: nobody's request waits for a thousand of another's.
"""

import sqlite3
from collections.abc import Sequence
from typing import Final

from ampd.core.agents import Agent, Agents
from ampd.core.lists import Lists, Summary
from ampd.core.reading import Full, find_all
from ampd.core.receipts import note_local, queue_receipts, receipt_for
from ampd.model.errors import Refused, StorageError
from ampd.model.message import Message, digest, id_text
from ampd.storage.index import read_payload
from ampd.storage.records import Deleted, Kept, Marked, State
from ampd.storage.store import Store, Transaction

_AT_ONCE: Final = 500  # marks in one work: each may sign and seal a receipt
_SEEN_FOR: Final = 86_400_000  # a day longer than the message could be valid


class Marks:
    """Marks for the agents of this node."""

    def __init__(self, store: Store, agents: Agents, lists: Lists) -> None:
        self._store = store
        self._agents = agents
        self._lists = lists

    async def set(self, agent: Agent, texts: Sequence[str], state: State) -> list[str]:
        """Mark messages of the mailbox (W1-W3); the ids that were marked."""
        return await self._in_turns(agent, await find_all(self._lists, agent, texts), state)

    async def set_all(self, agent: Agent, state: State) -> list[str]:
        """Mark everything in the inbox, some at a time, so that others get their turn."""
        rows = self._store.view.execute(
            "SELECT b.message FROM boxes b JOIN agents a ON a.id=b.agent"
            " WHERE a.key=? AND b.state<2 ORDER BY b.number",
            (agent.key,),
        ).fetchall()
        return await self._in_turns(agent, [row[0] for row in rows], state)

    async def _in_turns(self, agent: Agent, seqs: Sequence[int], state: State) -> list[str]:
        done = []
        for start in range(0, len(seqs), _AT_ONCE):
            done += await self._set(agent, seqs[start : start + _AT_ONCE], state)
        return done

    async def shown(self, agent: Agent, messages: Sequence[Full]) -> None:
        """What was shown is read, if nobody has marked it since; its sender is told."""
        await self.seen(agent, [each.summary for each in messages])

    async def seen(self, agent: Agent, summaries: Sequence[Summary]) -> None:
        """The same, when only their summaries are still there."""
        seqs = [each.seq for each in summaries if each.state == "unread"]
        if seqs:
            await self._set(agent, seqs, State.READ, only_unread=True)

    async def _set(
        self, agent: Agent, seqs: Sequence[int], state: State, *, only_unread: bool = False
    ) -> list[str]:
        def work(tx: Transaction) -> list[str]:
            done: list[str] = []
            numbers: list[int] = []
            owed: dict[bytes, list[tuple[bytes, bytes]]] = {}
            for seq in seqs:
                row = tx.db.execute(
                    "SELECT b.number, b.state, b.read_at, b.acked_at, m.id FROM boxes b"
                    " JOIN agents a ON a.id=b.agent JOIN messages m ON m.seq=b.message"
                    " WHERE a.key=? AND b.message=?",
                    (agent.key, seq),
                ).fetchone()
                if row is None or row["state"] == State.QUARANTINED:
                    continue
                done.append(id_text(row["id"]))
                if row["state"] != state and not (only_unread and row["state"] != State.UNREAD):
                    numbers.append(row["number"])
                    self._tell_sender(tx, agent, seq, row, state, owed)
            for sender, receipts in owed.items():
                queue_receipts(tx, agent, sender, receipts)
            if numbers:
                tx.append(Marked(agent.key, tuple(numbers), int(state), tx.now))
            return done

        async with self._store.turns.of(agent.key, len(seqs)):
            return await self._store.write(work, urgent=True)

    def _tell_sender(
        self,
        tx: Transaction,
        agent: Agent,
        seq: int,
        row: sqlite3.Row,
        state: State,
        owed: dict[bytes, list[tuple[bytes, bytes]]],
    ) -> None:
        """Sign that it was read or acked, once each, and owe that to its sender."""
        first = {State.READ: "read_at", State.ACKED: "acked_at"}.get(state)
        if first is None or row[first]:
            return
        stage = "read" if state == State.READ else "acked"
        found = tx.db.execute(
            "SELECT m.sender_key, m.by, c.key FROM messages m LEFT JOIN cards c"
            " ON c.key=m.sender_key AND c.withdrawn=0 WHERE m.seq=?",
            (seq,),
        ).fetchone()
        if found["by"] is not None:
            note_local(tx, self._agents, agent, seq, stage)
        elif found["key"] is not None:
            record = self._store.payload_at(tx.db, seq)
            if isinstance(record, Kept):
                message = Message.from_bytes(read_payload(record.signed))
                receipt = receipt_for(agent, message, record.signed, stage, tx.now)
                owed.setdefault(found["key"], []).append((message.id, receipt))

    async def delete(self, agent: Agent, texts: Sequence[str]) -> list[str]:
        """Take messages out of the mailbox; their bytes go with the next compaction."""
        seqs = await find_all(self._lists, agent, texts)

        def work(tx: Transaction) -> list[str]:
            done = []
            for seq in seqs:
                row = tx.db.execute(
                    "SELECT id, sender_key, expires FROM messages WHERE seq=?", (seq,)
                ).fetchone()
                if row is None:
                    continue
                waiting = tx.db.execute(
                    "SELECT 1 FROM outbox o JOIN agents a ON a.id=o.by WHERE o.what='message'"
                    " AND o.message=? AND a.key=? AND o.status='queued'",
                    (row["id"], agent.key),
                ).fetchone()
                if waiting:
                    raise Refused(
                        f"{id_text(row['id'])} is still queued for a recipient", code="conflict",
                        hint="delete it when it was delivered or has failed",
                    )  # fmt: skip
                until = max(row["expires"], tx.now) + _SEEN_FOR
                of = self._digest(tx, seq)
                tx.append(Deleted(agent.key, row["id"], row["sender_key"], until, tx.now, of))
                done.append(id_text(row["id"]))
            return done

        async with self._store.turns.of(agent.key, len(seqs)):
            return await self._store.write(work, urgent=True)

    def _digest(self, tx: Transaction, seq: int) -> bytes:
        """Of the signed bytes that go; b"" if a damage took them before (W4)."""
        try:
            kept = self._store.payload_at(tx.db, seq)
        except StorageError:
            return b""
        return digest(kept.signed) if isinstance(kept, Kept) else b""
