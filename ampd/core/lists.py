"""Lists of an agent's messages, and which message a person means.

V1  An agent sees its own mail and nobody else's.
V2  A list is the newest that fit, oldest first; its cost does not grow with the mailbox.
V3  Quarantined mail is in no list but the quarantine's, and its trust is `untrusted`.
V4  A message is meant by its number in the mailbox, its id, or a prefix or suffix of the id of 6
    or more characters that fits only one.
"""

import json
import re
import sqlite3
from dataclasses import replace
from typing import Any, Final

from ampd.core.agents import Agent
from ampd.core.submission import overall
from ampd.core.trust import TRUST, TRUST_JOIN
from ampd.model.address import MAX_ADDRESS
from ampd.model.errors import Invalid, Refused
from ampd.model.message import id_text
from ampd.model.values import value
from ampd.storage.records import State
from ampd.storage.store import Store

BOXES: Final = ("inbox", "all", "sent", "outbox", "quarantine")
MAX_LIST: Final = 1000  # summaries in one answer: about 500 KiB of JSON

COLUMNS: Final = (
    "m.seq, m.id, m.sender, m.sender_key, m.recipients, m.subject, m.type, m.priority, m.thread,"
    " m.re, m.sent, m.at, m.size, m.preview, m.via, m.encrypted, m.gap, m.receipt"
)

# A box is walked from its newest message; a thread is short, and walked first. What is acked is not
# walked over to find what waits: SQLite by itself takes the primary key, which has both.
_BY_BOX: Final = "boxes b{} CROSS JOIN messages m ON m.seq=b.message"
_HELD_IN: Final = {"inbox": "boxes_inbox", "quarantine": "boxes_quarantine"}
_BY_SENDER: Final = "boxes b INDEXED BY boxes_sender CROSS JOIN messages m ON m.seq=b.message"
_BY_THREAD: Final = "messages m CROSS JOIN boxes b ON b.message=m.seq"


_STATUSES: Final = "(SELECT group_concat(d.status) FROM deliveries d WHERE d.message=m.seq)"


@value
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
    size: int
    preview: str
    via: str
    missing: int  # messages of this sender right before this one that never came
    receipt: bool
    status: str = ""  # how far it got, of what was sent; "" of what came


@value
class Listing:
    """A list, and how much there is in all."""

    unread: int
    total: int
    quarantined: int
    more: int
    messages: tuple[Summary, ...]


@value
class Filter:
    """What a list is narrowed to."""

    box: str = "inbox"
    unread: bool = False
    sender: str = ""
    thread: bytes | None = None
    limit: int = 50
    before: str = ""
    after: str = ""
    oldest: bool = False  # of more than `limit`, the oldest instead of the newest


class Lists:
    """Lists of messages, and which message is meant, for the agents of this node."""

    def __init__(self, store: Store) -> None:
        self._store = store

    # --- lists ----------------------------------------------------------------------------

    def listing(self, agent: Agent, wanted: Filter) -> Listing:
        """The newest messages that fit, oldest first (V1, V2)."""
        if wanted.box not in BOXES:
            raise Invalid(f"no box {wanted.box!r}", hint="use one of " + ", ".join(BOXES))
        if not 0 < wanted.limit <= MAX_LIST:
            raise Invalid(f"a list has 1 to {MAX_LIST} messages", hint=f"--limit {MAX_LIST}")
        if len(wanted.sender) > MAX_ADDRESS:
            raise Invalid(f"an address has at most {MAX_ADDRESS} characters", hint="--from A")
        row = self._row(agent)
        if wanted.box in ("sent", "outbox"):
            found = self._sent(row["id"], wanted)
            total = len(found) if wanted.box == "outbox" else self._count_sent(row["id"])
        else:
            found = self._received(row["id"], agent, wanted)
            total = _total(row, wanted)
        more = max(0, len(found) - wanted.limit)
        kept = found[: wanted.limit] if wanted.oldest else found[-wanted.limit :]
        if more and not (wanted.sender or wanted.thread or wanted.before or wanted.after):
            more = max(more, total - len(kept))
        return Listing(row["unread"], total, row["quarantined"], more, tuple(kept))

    def _row(self, agent: Agent) -> sqlite3.Row:
        row: sqlite3.Row = self._store.view.execute(
            "SELECT id, unread, read, acked, quarantined, last FROM agents WHERE key=?",
            (agent.key,),
        ).fetchone()
        return row

    def _received(self, agent_id: int, agent: Agent, wanted: Filter) -> list[Summary]:
        where = ["b.agent=?"]
        values: list[Any] = [agent_id]
        states = {"inbox": "b.state<2", "all": "b.state<3", "quarantine": "b.state=3"}
        only_unread = wanted.unread and wanted.box != "quarantine"
        where.append("b.state=0" if only_unread else states[wanted.box])
        senders = self._senders(wanted.sender) if wanted.sender else []
        if wanted.sender:
            where.append(f"b.sender IN ({','.join('?' * len(senders))})")
            values += senders
        if wanted.thread is not None:
            where.append("m.thread=?")
            values.append(wanted.thread)
        for text, sign in ((wanted.before, "<"), (wanted.after, ">")):
            if text:
                where.append(f"b.number{sign}?")
                values.append(self._number(agent, text))
        forward = wanted.oldest
        rows = self._store.view.execute(
            f"SELECT b.number, b.state, b.reason, {TRUST} AS trust, {COLUMNS}"  # noqa: S608
            f" FROM {_walk(wanted, senders)}{TRUST_JOIN}"
            f" WHERE {' AND '.join(where)} ORDER BY b.number {'ASC' if forward else 'DESC'}"
            " LIMIT ?",
            (*values, wanted.limit + 1),
        ).fetchall()
        found = [summary_of(row, row["number"], State(row["state"]).name.lower()) for row in rows]
        return found if forward else found[::-1]

    def _senders(self, text: str) -> list[int]:
        """The rows of an address, or of a name at any domain."""
        rows = self._store.view.execute(
            "SELECT id FROM senders WHERE address LIKE ? ESCAPE '\\' LIMIT 100",
            (_like(text),),
        )
        return [row[0] for row in rows]

    def _sent(self, agent_id: int, wanted: Filter) -> list[Summary]:
        where = ["m.by=?"]
        values: list[Any] = [agent_id]
        if wanted.box == "outbox":
            where.append(
                "m.id IN (SELECT o.message FROM outbox o WHERE o.what='message' AND o.by=m.by)"
            )
        if wanted.sender:
            where.append("m.sender LIKE ? ESCAPE '\\'")
            values.append(_like(wanted.sender))
        if wanted.thread is not None:
            where.append("m.thread=?")
            values.append(wanted.thread)
        for text, sign in ((wanted.before, "<"), (wanted.after, ">")):
            if text:
                where.append(f"m.seq{sign}?")
                values.append(self._find_sent(agent_id, text))
        rows = self._store.view.execute(
            f"SELECT NULL, NULL, '' AS reason, 'verified' AS trust, {COLUMNS}, {_STATUSES}"  # noqa: S608
            " AS statuses FROM messages m"
            f" WHERE {' AND '.join(where)} ORDER BY m.seq DESC LIMIT ?",
            (*values, wanted.limit + 1),
        ).fetchall()
        return [
            replace(summary_of(row, None, "read"), status=overall(row["statuses"].split(",")))
            for row in rows[::-1]
        ]

    def _count_sent(self, agent_id: int) -> int:
        row = self._store.view.execute("SELECT sent FROM agents WHERE id=?", (agent_id,))
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
            f"SELECT b.number, b.state, b.reason, {TRUST} AS trust, {COLUMNS}"  # noqa: S608
            f" FROM messages m LEFT JOIN boxes b ON b.message=m.seq AND b.agent=?{TRUST_JOIN}"
            " WHERE m.thread=? AND (b.number IS NOT NULL OR m.by=?)"
            " AND coalesce(b.state,0)<3 ORDER BY m.seq DESC LIMIT ?",
            (row["id"], thread, row["id"], MAX_LIST),
        ).fetchall()
        found = [
            summary_of(each, each["number"], State(each["state"] or 0).name.lower()
                     if each["number"] else "read")
            for each in rows[::-1]
        ]  # fmt: skip
        return Listing(row["unread"], len(found), row["quarantined"], 0, tuple(found))

    def last_number(self, agent: Agent) -> int:
        """The number of the newest message that ever came."""
        return int(self._row(agent)["last"])

    def one(self, agent: Agent, seq: int) -> Summary:
        """The summary of one message, as this agent has it."""
        row = self._store.view.execute(
            f"SELECT b.number, b.state, b.reason, {TRUST} AS trust, {COLUMNS}"  # noqa: S608
            " FROM messages m LEFT JOIN boxes b ON b.message=m.seq AND b.agent="
            f"(SELECT id FROM agents WHERE key=?){TRUST_JOIN} WHERE m.seq=?",
            (agent.key, seq),
        ).fetchone()
        if row is None:
            raise unknown(str(seq))
        number = row["number"]
        state = State(row["state"]).name.lower() if number else "read"
        return summary_of(row, number, state)

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
            raise unknown(text)
        return int(row[0])

    def _find_sent(self, agent_id: int, text: str) -> int:
        found = self._matching(agent_id, text)
        if len(found) != 1:
            raise unknown(text)
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
            if found:
                return int(found[0])
            if len(text) < 6:  # too short for a part of an id, which may be digits only
                raise unknown(text)
        found = self._matching(row["id"], text)
        if len(found) > 1:
            raise Refused(
                f"{text!r} fits {len(found)} messages",
                code="ambiguous",
                hint="write more of the id",
            )
        if not found:
            raise unknown(text)
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
                f"SELECT m.id, min(m.seq) FROM messages m WHERE substr(m.id, -3)=:e"  # noqa: S608
                f" AND hex(m.id) LIKE :t AND {held}"
                " GROUP BY m.id, m.sender_key LIMIT 3",
                {"a": agent_id, "t": "%" + bare.upper(), "e": bytes.fromhex(bare[-6:])},
            ).fetchall()
        return [row[1] for row in rows]


def _total(row: sqlite3.Row, wanted: Filter) -> int:
    if wanted.box == "quarantine":
        return int(row["quarantined"])
    if wanted.unread:
        return int(row["unread"])
    return int(row["unread"] + row["read"] + (row["acked"] if wanted.box == "all" else 0))


def summary_of(row: sqlite3.Row, number: int | None, state: str) -> Summary:
    """`row` has a number and a state, the reason of a quarantine, the trust, and COLUMNS."""
    (
        reason, trust, seq, identifier, sender, key, to, subject, kind, priority, thread, answered,
        sent, received, size, preview, via, encrypted, missing, receipt,
    ) = row[2:22]  # fmt: skip
    return Summary(
        number, seq, id_text(identifier), sender, key, tuple(json.loads(to)), subject, kind,
        priority, id_text(thread), id_text(answered) if answered else None, sent, received, state,
        reason or "", "untrusted" if state == "quarantined" else trust, bool(encrypted), size,
        preview, via, missing, bool(receipt),
    )  # fmt: skip


def _walk(wanted: Filter, senders: list[int]) -> str:
    if wanted.thread is not None:
        return _BY_THREAD
    if len(senders) == 1:
        return _BY_SENDER
    unread = wanted.unread and wanted.box != "quarantine"
    index = "boxes_unread" if unread else _HELD_IN.get(wanted.box)
    chosen = index and not wanted.sender  # of several senders or none SQLite knows better
    return _BY_BOX.format(f" INDEXED BY {index}" if chosen else "")


def _like(sender: str) -> str:
    """A pattern for an address, or for a name at any domain."""
    plain = re.sub(r"([\\%_])", r"\\\1", sender.lower())
    return plain if "@" in plain else plain + "@%"


def unknown(text: str) -> Refused:
    return Refused(f"no message {text}", code="message_unknown", hint="amp inbox --all")
