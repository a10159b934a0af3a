"""What an agent sees of its mailbox, and the marks it leaves there.

V1  An agent sees its own mail and nobody else's.
V2  A list is the newest that fit, oldest first; its cost does not grow with the mailbox.
V3  A mark is on disk when the call returns; it goes on when the disk is full.
V4  Quarantined mail is in no list but the quarantine's, and cannot be read as ordinary mail.
"""

import json
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from ampd.core.agents import Agent, Agents
from ampd.core.contacts import TRUST, TRUST_JOIN
from ampd.core.mailbox import receipt_for
from ampd.core.safety import shown, wrap
from ampd.crypto.keys import seal
from ampd.model.address import fingerprint
from ampd.model.errors import Invalid, Refused, StorageError
from ampd.model.message import Letter, Message, id_text
from ampd.storage.index import read_payload, read_signed
from ampd.storage.records import Deleted, Kept, Marked, Progress, Queued, State
from ampd.storage.store import Store, Transaction

BOXES: Final = ("inbox", "all", "sent", "outbox", "quarantine")
MAX_LIST: Final = 1000  # summaries in one answer: about 500 KiB of JSON
_SEEN_FOR: Final = 86_400_000  # a day longer than the message could be valid

_COLUMNS: Final = (
    "m.seq, m.id, m.sender, m.sender_key, m.recipients, m.subject, m.type, m.priority, m.thread,"
    " m.re, m.sent, m.at, m.size, m.preview, m.flags, m.via, m.encrypted, m.gap, m.receipt"
)


@dataclass(frozen=True, slots=True)
class Summary:
    """One line of a list."""

    number: int | None
    seq: int
    id: str
    sender: str
    key: bytes
    to: tuple[str, ...]
    subject: str
    type: str
    priority: str
    thread: str
    in_reply_to: str | None
    sent: int
    received: int
    state: str
    reason: str
    trust: str
    encrypted: bool
    flags: tuple[str, ...]
    size: int
    preview: str
    via: str
    missing: int  # messages of this sender right before this one that never came
    receipt: bool


@dataclass(frozen=True, slots=True)
class Listing:
    """A list, and how much there is in all."""

    unread: int
    total: int
    quarantined: int
    more: int
    messages: tuple[Summary, ...]


@dataclass(frozen=True, slots=True)
class Full:
    """A whole message: the text as sent, and what an assistant may be shown."""

    summary: Summary
    body: str
    payload: str | None
    context: str | None
    content: str
    signer: str


@dataclass(frozen=True, slots=True)
class Filter:
    """What a list is narrowed to."""

    box: str = "inbox"
    unread: bool = False
    sender: str = ""
    thread: bytes | None = None
    limit: int = 50
    before: str = ""
    after: str = ""


class Reading:
    """Lists and marks for the agents of this node."""

    def __init__(self, store: Store, agents: Agents, now: Callable[[], int]) -> None:
        self._store = store
        self._agents = agents
        self._now = now

    # --- lists ----------------------------------------------------------------------------

    def listing(self, agent: Agent, wanted: Filter) -> Listing:
        """The newest messages that fit, oldest first (V1, V2)."""
        if wanted.box not in BOXES:
            raise Invalid(f"no box {wanted.box!r}", hint="use one of " + ", ".join(BOXES))
        if not 0 < wanted.limit <= MAX_LIST:
            raise Invalid(f"a list has 1 to {MAX_LIST} messages", hint="--limit")
        row = self._row(agent)
        if wanted.box in ("sent", "outbox"):
            found = self._sent(row["id"], wanted)
            total = len(found) if wanted.box == "outbox" else self._count_sent(row["id"])
        else:
            found = self._received(row["id"], agent, wanted)
            total = _total(row, wanted)
        more = max(0, len(found) - wanted.limit)
        if wanted.after and not wanted.before:
            kept = found[: wanted.limit]
        else:
            kept = found[-wanted.limit :]
        return Listing(row["unread"], total, row["quarantined"], more, tuple(kept))

    def _row(self, agent: Agent) -> sqlite3.Row:
        row: sqlite3.Row = self._store.view.execute(
            "SELECT id, unread, read, acked, quarantined, last FROM agents WHERE key=?",
            (agent.key,),
        ).fetchone()
        return row

    def _received(self, agent_id: int, agent: Agent, wanted: Filter) -> list[Summary]:
        where, values = ["b.agent=?"], [agent_id]
        states = {"inbox": "b.state<2", "all": "b.state<3", "quarantine": "b.state=3"}
        where.append("b.state=0" if wanted.unread else states[wanted.box])
        self._narrow(where, values, wanted)
        for text, sign in ((wanted.before, "<"), (wanted.after, ">")):
            if text:
                where.append(f"b.number{sign}?")
                values.append(self._number(agent, text))
        forward = bool(wanted.after and not wanted.before)
        rows = self._store.view.execute(
            f"SELECT b.number, b.state, b.reason, {TRUST} AS trust, {_COLUMNS}"  # noqa: S608
            f" FROM boxes b CROSS JOIN messages m ON m.seq=b.message{TRUST_JOIN}"
            f" WHERE {' AND '.join(where)} ORDER BY b.number {'ASC' if forward else 'DESC'}"
            " LIMIT ?",
            (*values, wanted.limit + 1),
        ).fetchall()
        found = [_summary(row, row["number"], State(row["state"]).name.lower()) for row in rows]
        return found if forward else found[::-1]

    def _narrow(self, where: list[str], values: list[Any], wanted: Filter) -> None:
        if wanted.sender:
            sender = wanted.sender.lower()
            where.append("m.sender LIKE ? ESCAPE '\\'" if "@" not in sender else "m.sender=?")
            values.append(sender if "@" in sender else sender.replace("_", "\\_") + "@%")
        if wanted.thread is not None:
            where.append("m.thread=?")
            values.append(wanted.thread)

    def _sent(self, agent_id: int, wanted: Filter) -> list[Summary]:
        where, values = ["m.by=?"], [agent_id]
        if wanted.box == "outbox":
            where.append(
                "EXISTS(SELECT 1 FROM outbox o WHERE o.what='message' AND o.message=m.id"
                " AND o.by=m.by)"
            )
        self._narrow(where, values, wanted)
        for text, sign in ((wanted.before, "<"), (wanted.after, ">")):
            if text:
                where.append(f"m.seq{sign}?")
                values.append(self._find_sent(agent_id, text))
        rows = self._store.view.execute(
            f"SELECT 'verified' AS trust, '' AS reason, {_COLUMNS} FROM messages m"  # noqa: S608
            f" WHERE {' AND '.join(where)} ORDER BY m.seq DESC LIMIT ?",
            (*values, wanted.limit + 1),
        ).fetchall()
        return [_summary(row, None, "read") for row in rows[::-1]]

    def _count_sent(self, agent_id: int) -> int:
        row = self._store.view.execute("SELECT count(*) FROM messages WHERE by=?", (agent_id,))
        count: int = row.fetchone()[0]
        return count

    def thread(self, agent: Agent, text: str) -> Listing:
        """Every message of the thread that `text` (a message's id or number) belongs to."""
        seq = self.find(agent, text)
        row = self._row(agent)
        thread = self._store.view.execute(
            "SELECT thread FROM messages WHERE seq=?", (seq,)
        ).fetchone()[0]
        rows = self._store.view.execute(
            f"SELECT b.number, b.state, b.reason, {TRUST} AS trust, {_COLUMNS}"  # noqa: S608
            f" FROM messages m LEFT JOIN boxes b ON b.message=m.seq AND b.agent=?{TRUST_JOIN}"
            " WHERE m.thread=? AND (b.number IS NOT NULL OR m.by=?)"
            " AND coalesce(b.state,0)<3 ORDER BY m.seq DESC LIMIT ?",
            (row["id"], thread, row["id"], MAX_LIST),
        ).fetchall()
        found = [
            _summary(each, each["number"], State(each["state"] or 0).name.lower()
                     if each["number"] else "read")
            for each in rows[::-1]
        ]  # fmt: skip
        return Listing(row["unread"], len(found), row["quarantined"], 0, tuple(found))

    # --- which message -------------------------------------------------------------------

    def _number(self, agent: Agent, text: str) -> int:
        if text.isdecimal() and len(text) < 10:
            return int(text)
        seq = self.find(agent, text)
        row = self._store.view.execute(
            "SELECT b.number FROM boxes b JOIN agents a ON a.id=b.agent"
            " WHERE a.key=? AND b.message=?",
            (agent.key, seq),
        ).fetchone()
        if row is None:
            raise _unknown(text)
        return int(row[0])

    def _find_sent(self, agent_id: int, text: str) -> int:
        found = self._matching(agent_id, text)
        if len(found) != 1:
            raise _unknown(text)
        return found[0]

    def find(self, agent: Agent, text: str) -> int:
        """The message that a number, an id, or a part of one names; Refused if none or several."""
        row = self._row(agent)
        if text.isdecimal() and len(text) < 10:
            found = [
                each[0]
                for each in self._store.view.execute(
                    "SELECT message FROM boxes WHERE agent=? AND number=?", (row["id"], int(text))
                )
            ]
            if not found:
                raise _unknown(text)
            return int(found[0])
        found = self._matching(row["id"], text)
        if len(found) > 1:
            raise Refused(
                f"{text!r} fits {len(found)} messages",
                code="ambiguous",
                hint="write more of the id",
            )
        if not found:
            raise _unknown(text)
        return int(found[0])

    def _matching(self, agent_id: int, text: str) -> list[int]:
        bare = text.lower().replace("-", "")
        if len(bare) < 6 or len(bare) > 32 or set(bare) - set("0123456789abcdef"):
            raise Invalid(
                f"{text[:60]!r} is no message id",
                hint="use the number that `amp inbox` shows, or 6 or more characters of the id",
            )
        first = bytes.fromhex(bare.ljust(32, "0"))
        last = bytes.fromhex(bare.ljust(32, "f"))
        held = "(m.by=:a OR EXISTS(SELECT 1 FROM boxes b WHERE b.agent=:a AND b.message=m.seq))"
        rows = self._store.view.execute(
            f"SELECT m.id, min(m.seq) FROM messages m WHERE m.id BETWEEN :f AND :l AND {held}"  # noqa: S608
            " GROUP BY m.id, m.sender_key LIMIT 3",
            {"a": agent_id, "f": first, "l": last},
        ).fetchall()
        if not rows and len(bare) < 32:
            rows = self._store.view.execute(
                f"SELECT m.id, min(m.seq) FROM messages m WHERE hex(m.id) LIKE :t AND {held}"  # noqa: S608
                " GROUP BY m.id, m.sender_key LIMIT 3",
                {"a": agent_id, "t": "%" + bare.upper()},
            ).fetchall()
        return [row[1] for row in rows]

    # --- reading --------------------------------------------------------------------------

    def full(self, agent: Agent, seq: int) -> Full:
        """A whole message, proved as it lies in the journal (P4)."""
        row = self._store.view.execute(
            f"SELECT b.number, b.state, b.reason, {TRUST} AS trust, {_COLUMNS}"  # noqa: S608
            " FROM messages m LEFT JOIN boxes b ON b.message=m.seq AND b.agent="
            f"(SELECT id FROM agents WHERE key=?){TRUST_JOIN} WHERE m.seq=?",
            (agent.key, seq),
        ).fetchone()
        if row is None:
            raise _unknown(str(seq))
        number = row["number"]
        state = State(row["state"]).name.lower() if number else "read"
        return self._shown(_summary(row, number, state))

    def _shown(self, summary: Summary) -> Full:
        record = self._store.payload(summary.seq)
        if not isinstance(record, Kept):
            raise StorageError("the index points to another record", hint="amp check --repair")
        key, members = read_signed(record.signed)
        body = members["body"]
        if summary.trust == "verified":
            content = shown(body)
        else:
            content = wrap(
                body, source="agent", sender=summary.sender, trust=summary.trust,
                flags=summary.flags,
            )  # fmt: skip
        return Full(
            summary, body, members["payload"], members["context"], content, fingerprint(key)
        )

    def get(self, agent: Agent, texts: Sequence[str]) -> list[Full]:
        """Whole messages, in the order asked for."""
        return [self.full(agent, self.find(agent, text)) for text in texts]

    def since(self, agent: Agent, number: int, limit: int = 100) -> list[Full]:
        """What came into the inbox after a number, oldest first."""
        wanted = Filter(limit=limit, after=str(number))
        return [self._shown(summary) for summary in self.listing(agent, wanted).messages]

    def last_number(self, agent: Agent) -> int:
        """The number of the newest message that ever came."""
        return int(self._row(agent)["last"])

    # --- marks ----------------------------------------------------------------------------

    async def mark(self, agent: Agent, texts: Sequence[str], state: State) -> list[str]:
        """Mark messages of the mailbox (V3); the ids that were marked."""
        seqs = [self.find(agent, text) for text in texts]
        return await self._mark(agent, seqs, state)

    async def mark_all(self, agent: Agent, state: State) -> list[str]:
        """Mark everything in the inbox."""
        rows = self._store.view.execute(
            "SELECT b.message FROM boxes b JOIN agents a ON a.id=b.agent"
            " WHERE a.key=? AND b.state<2 ORDER BY b.number",
            (agent.key,),
        ).fetchall()
        return await self._mark(agent, [row[0] for row in rows], state)

    async def mark_read(self, agent: Agent, messages: Sequence[Full]) -> None:
        """What was shown is read; its sender is told."""
        seqs = [each.summary.seq for each in messages if each.summary.state == "unread"]
        if seqs:
            await self._mark(agent, seqs, State.READ)

    async def _mark(self, agent: Agent, seqs: Sequence[int], state: State) -> list[str]:
        def work(tx: Transaction) -> list[str]:
            done: list[str] = []
            numbers: list[int] = []
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
                if row["state"] != state:
                    numbers.append(row["number"])
                    self._tell_sender(tx, agent, seq, row, state)
            if numbers:
                tx.append(Marked(agent.key, tuple(numbers), int(state), tx.now))
            return done

        return await self._store.write(work, urgent=True)

    def _tell_sender(
        self, tx: Transaction, agent: Agent, seq: int, row: sqlite3.Row, state: State
    ) -> None:
        """Sign that it was read or acked, once each, and queue that for its sender."""
        first = {State.READ: "read_at", State.ACKED: "acked_at"}.get(state)
        if first is None or row[first]:
            return
        stage = "read" if state == State.READ else "acked"
        found = tx.db.execute(
            "SELECT m.sender_key, m.by, c.signed FROM messages m LEFT JOIN cards c"
            " ON c.key=m.sender_key WHERE m.seq=?",
            (seq,),
        ).fetchone()
        if found["by"] is not None:
            _note_local(tx, agent, seq, found["by"], stage)
        elif found["signed"] is not None:
            self._queue_receipt(tx, agent, seq, found["signed"], stage)

    def _queue_receipt(
        self, tx: Transaction, agent: Agent, seq: int, signed_card: bytes, stage: str
    ) -> None:
        key, card = read_signed(signed_card)
        record = self._store.payload_at(tx.db, seq)
        if not isinstance(record, Kept):
            return
        message = Message.from_bytes(read_payload(record.signed))
        receipt = receipt_for(agent, message, record.signed, stage, tx.now)
        letter = Letter("receipt", receipt, agent.signed_card).to_bytes()
        to = card["inbox"] if tx.now < card["inbox_until"] else card["fallback"]
        tx.append(
            Queued(
                "receipt", message.id, 0, agent.key, card["address"], key, card["mailbox"],
                tx.now + 30 * 86_400_000, seal(to, letter), tx.now,
            )
        )  # fmt: skip

    async def delete(self, agent: Agent, texts: Sequence[str]) -> list[str]:
        """Take messages out of the mailbox; their bytes go with the next compaction."""
        seqs = [self.find(agent, text) for text in texts]

        def work(tx: Transaction) -> list[str]:
            done = []
            for seq in seqs:
                row = tx.db.execute(
                    "SELECT id, sender_key, expires, by FROM messages WHERE seq=?", (seq,)
                ).fetchone()
                if row is None:
                    continue
                waiting = tx.db.execute(
                    "SELECT 1 FROM outbox WHERE what='message' AND message=? AND by=?"
                    " AND status='queued'",
                    (row["id"], row["by"]),
                ).fetchone()
                if waiting:
                    raise Refused(
                        f"{id_text(row['id'])} is still queued for a recipient", code="conflict",
                        hint="delete it when it was delivered or has failed",
                    )  # fmt: skip
                until = max(row["expires"], tx.now) + _SEEN_FOR
                tx.append(Deleted(agent.key, row["id"], row["sender_key"], until, tx.now))
                done.append(id_text(row["id"]))
            return done

        return await self._store.write(work, urgent=True)


def _note_local(tx: Transaction, agent: Agent, seq: int, by: int, stage: str) -> None:
    row = tx.db.execute(
        "SELECT m.id, a.key, d.recipient FROM messages m JOIN agents a ON a.id=m.by"
        " JOIN deliveries d ON d.message=m.seq AND d.key=? WHERE m.seq=? AND a.id=?",
        (agent.key, seq, by),
    ).fetchone()
    if row is not None:
        tx.append(Progress(row["id"], row["key"], row["recipient"], stage, "local", tx.now))


def _total(row: sqlite3.Row, wanted: Filter) -> int:
    if wanted.box == "quarantine":
        return int(row["quarantined"])
    if wanted.unread:
        return int(row["unread"])
    return int(row["unread"] + row["read"] + (row["acked"] if wanted.box == "all" else 0))


def _summary(row: sqlite3.Row, number: int | None, state: str) -> Summary:
    return Summary(
        number=number,
        seq=row["seq"],
        id=id_text(row["id"]),
        sender=row["sender"],
        key=row["sender_key"],
        to=tuple(json.loads(row["recipients"])),
        subject=row["subject"],
        type=row["type"],
        priority=row["priority"],
        thread=id_text(row["thread"]),
        in_reply_to=id_text(row["re"]) if row["re"] else None,
        sent=row["sent"],
        received=row["at"],
        state=state,
        reason=row["reason"] or "",
        trust="untrusted" if state == "quarantined" else row["trust"],
        encrypted=bool(row["encrypted"]),
        flags=tuple(json.loads(row["flags"])),
        size=row["size"],
        preview=row["preview"],
        via=row["via"],
        missing=row["gap"],
        receipt=bool(row["receipt"]),
    )


def _unknown(text: str) -> Refused:
    return Refused(f"no message {text}", code="message_unknown", hint="amp inbox --all")
