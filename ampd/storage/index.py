"""The SQLite view of the journal: made from its records, and from nothing else.

  X1  Deleted, damaged, or of another VERSION, it is made anew from the journal, and the same
      answers come back (P10).
  X2  It is never ahead of the journal: what is applied is committed after the journal's sync.
  X3  `checkpoint` says up to which record it knows; it is written in the same transaction.

Write-ahead logging with synchronous=NORMAL: a power failure can set the view back to an earlier
checkpoint, from which it catches up, but cannot tear it (https://sqlite.org/pragma.html).
Not here: what may be asked (queries.py), when it is committed (store.py).
"""

import json
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from ampd.model.encoding import decode_own
from ampd.storage import schema
from ampd.storage.records import (
    Agent,
    CardSeen,
    Contact,
    Counters,
    Deleted,
    Dropped,
    Epoch,
    Kept,
    Marked,
    Progress,
    Queued,
    Record,
    Released,
    State,
)

STATES: Final = ("unread", "read", "acked", "quarantined")
PREVIEW: Final = 120  # characters: one line of a wide terminal


class IndexUnusableError(Exception):
    """The file is no index of this version, or is damaged: make it anew."""


def connect(path: Path, *, read_only: bool = False) -> sqlite3.Connection:
    """A connection to the index; every thread has its own, for one writer and any readers."""
    connection = sqlite3.connect(
        path, isolation_level=None, check_same_thread=False, cached_statements=256, timeout=10
    )
    connection.row_factory = sqlite3.Row
    connection.execute("PRAGMA cache_size=-4096")  # 4 MiB: memory must not grow with the mailbox
    if read_only:
        connection.execute("PRAGMA query_only=1")
    else:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")
        connection.execute("PRAGMA wal_autocheckpoint=2000")
    return connection


def remove(path: Path) -> None:
    """Take the index off the disk; the journal has everything."""
    for suffix in ("", "-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


class Index:
    """The writing end of the view. One thread uses it at a time."""

    def __init__(self, path: Path) -> None:
        """Open the index in `path`, or make an empty one; IndexUnusableError if it is neither."""
        self.path = path
        try:
            self.db = connect(path)
            if not self.db.execute("SELECT 1 FROM sqlite_master").fetchone():
                self.db.executescript(f"BEGIN;{schema.TABLES}COMMIT;")
                self.set_meta("version", schema.VERSION)
            version = self.meta("version")
        except sqlite3.DatabaseError as exc:
            raise IndexUnusableError(str(exc)) from exc
        if version != schema.VERSION:
            self.db.close()
            raise IndexUnusableError(f"version {version!r}")
        self._agents: dict[bytes, int] = {}
        self._apply: dict[type, Callable[[int, Any], None]] = {
            Kept: self._kept,
            Queued: self._queued,
            Progress: self._progress,
            Marked: self._marked,
            Deleted: self._deleted,
            Agent: self._agent,
            CardSeen: self._card_seen,
            Contact: self._contact,
            Epoch: self._epoch,
            Counters: self._counters,
            Released: self._released,
            Dropped: self._dropped,
        }

    def meta(self, name: str) -> Any:
        """A value that `set_meta` kept, or None."""
        row = self.db.execute("SELECT value FROM meta WHERE name=?", (name,)).fetchone()
        return row[0] if row else None

    def set_meta(self, name: str, value: object) -> None:
        """Keep one value by its name."""
        self.db.execute("INSERT OR REPLACE INTO meta VALUES(?,?)", (name, value))

    def apply(self, seq: int, record: Record) -> None:
        """Take in one record, within the caller's transaction."""
        self._apply[type(record)](seq, record)

    def agent_id(self, key: bytes) -> int | None:
        """The row of a local agent's key."""
        found = self._agents.get(key)
        if found is None:
            row = self.db.execute("SELECT id FROM agents WHERE key=?", (key,)).fetchone()
            if row is None:
                return None
            found = self._agents[key] = row[0]
        return found

    def forget_cache(self) -> None:
        """After a rollback, what was remembered may not exist."""
        self._agents.clear()

    def _kept(self, seq: int, record: Kept) -> None:
        sender_key, message = read_signed(record.signed)
        by = self.agent_id(record.by) if record.by else None
        gap = 0
        if not by:
            gap = self._count_received(sender_key, message, record)
        self.db.execute(
            "INSERT INTO messages VALUES(?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)",
            (
                seq, message["id"], message["from"], sender_key, by,
                json.dumps([to[0] for to in message["to"]]), message["sent"], record.at,
                message["expires"], message["thread"], message["re"], message["priority"],
                message["type"], message["subject"], preview(message["body"]),
                len(record.signed), json.dumps(record.flags) if record.flags else "[]",
                record.via, record.encrypted, gap, message["receipt"],
            ),
        )  # fmt: skip
        for agent, number, state, reason in record.boxes:
            self._into_box(agent, number, seq, state, reason)
        if by:
            self._sent(seq, message, record, sender_key)

    def _sent(self, seq: int, message: dict[str, Any], record: Kept, sender_key: bytes) -> None:
        held = {agent for agent, _, _, _ in record.boxes}
        rows = []
        for place, (address, key, order) in enumerate(message["to"]):
            here = key in held
            status, via = ("delivered", "local") if here else ("queued", "")
            done = record.at if here else None
            rows.append((seq, place, address, key, status, via, record.at, done))
            self.db.execute(
                "INSERT OR REPLACE INTO pairs_out VALUES(?,?,?,?)",
                (sender_key, key, message["epoch"], order),
            )
        self.db.executemany(
            "INSERT INTO deliveries(message,recipient,address,key,status,via,at,delivered_at)"
            " VALUES(?,?,?,?,?,?,?,?)",
            rows,
        )
        if record.key:
            self.db.execute(
                "INSERT OR REPLACE INTO idempotency VALUES(?,?,?,?)",
                (self.agent_id(record.by), record.key, seq, record.at),
            )

    def _into_box(self, agent: bytes, number: int, seq: int, state: int, reason: str) -> None:
        row = self.agent_id(agent)
        self.db.execute(
            "INSERT INTO boxes(agent,number,message,state,reason) VALUES(?,?,?,?,?)",
            (row, number, seq, state, reason),
        )
        column = STATES[state]
        self.db.execute(
            f"UPDATE agents SET last=max(last,?), {column}={column}+1 WHERE id=?",  # noqa: S608
            (number, row),
        )

    def _count_received(self, sender: bytes, message: dict[str, Any], record: Kept) -> int:
        """Note the order numbers; answer how many are missing right before this message."""
        held = {agent for agent, _, _, _ in record.boxes}
        missing = 0
        for _, key, order in message["to"]:
            if key in held:
                missing = max(
                    missing, self._received(key, sender, message["epoch"], order, record.at)
                )
        return missing

    def _received(self, recipient: bytes, sender: bytes, epoch: bytes, order: int, at: int) -> int:
        pair = (recipient, sender, epoch)
        row = self.db.execute(
            "SELECT last FROM pairs_in WHERE recipient=? AND sender=? AND epoch=?", pair
        ).fetchone()
        last = row[0] if row else 0
        if order <= last:
            self._fill_gap(pair, order, at)
            return 0
        self.db.execute("INSERT OR REPLACE INTO pairs_in VALUES(?,?,?,?)", (*pair, order))
        if order > last + 1:
            self.db.execute(
                "INSERT OR REPLACE INTO gaps VALUES(?,?,?,?,?,?)", (*pair, last + 1, order - 1, at)
            )
        return order - last - 1

    def _fill_gap(self, pair: tuple[bytes, bytes, bytes], order: int, at: int) -> None:
        where = "recipient=? AND sender=? AND epoch=? AND number<=? AND upto>=?"
        row = self.db.execute(
            f"SELECT number, upto FROM gaps WHERE {where}",  # noqa: S608
            (*pair, order, order),
        ).fetchone()
        if row is None:
            return
        first, last = row
        self.db.execute(f"DELETE FROM gaps WHERE {where}", (*pair, order, order))  # noqa: S608
        for start, end in ((first, order - 1), (order + 1, last)):
            if start <= end:
                self.db.execute("INSERT INTO gaps VALUES(?,?,?,?,?,?)", (*pair, start, end, at))

    def _queued(self, seq: int, record: Queued) -> None:
        if record.replaces:
            self.db.execute("DELETE FROM outbox WHERE item=?", (record.replaces,))
        self.db.execute(
            "INSERT INTO outbox VALUES(?,?,?,?,?,?,?,?,?,?,'queued')",
            (
                seq, record.what, record.message, record.recipient, self.agent_id(record.by),
                record.address, record.key, record.mailbox, record.expires, record.at,
            ),
        )  # fmt: skip

    def _progress(self, seq: int, record: Progress) -> None:
        row = self.db.execute(
            "SELECT seq FROM messages WHERE id=? AND by=?",
            (record.message, self.agent_id(record.by)),
        ).fetchone()
        place = (record.message, record.recipient)
        if record.status == "relayed":
            self.db.execute(
                "UPDATE outbox SET status='relayed' WHERE what='message' AND message=?"
                " AND recipient=?",
                place,
            )
        else:
            self.db.execute(
                "DELETE FROM outbox WHERE what='message' AND message=? AND recipient=?", place
            )
        if row is None:
            return
        self._delivery(seq, row[0], record)
        if record.receipt:
            self.db.execute(
                "INSERT OR IGNORE INTO receipts VALUES(?,?,?,?,?)",
                (row[0], record.recipient, record.status, record.at, record.receipt),
            )

    def _delivery(self, seq: int, message: int, record: Progress) -> None:
        """Times are set once; a status never goes back from read, nor from delivered to relayed."""
        times = {
            "relayed": ("relayed_at",),
            "delivered": ("delivered_at",),
            "read": ("delivered_at", "read_at"),
            "acked": ("delivered_at", "read_at", "acked_at"),
        }.get(record.status, ())
        for column in times:
            self.db.execute(
                f"UPDATE deliveries SET {column}=coalesce({column},?)"  # noqa: S608
                " WHERE message=? AND recipient=?",
                (record.at, message, record.recipient),
            )
        status = "read" if record.status == "acked" else record.status
        self.db.execute(
            "UPDATE deliveries SET changed=:seq, at=:at, error=:error,"
            " via=CASE :via WHEN '' THEN via ELSE :via END,"
            " status=CASE WHEN status='read' OR (status='delivered' AND :status='relayed')"
            " THEN status ELSE :status END WHERE message=:message AND recipient=:recipient",
            {
                "seq": seq, "at": record.at, "error": record.error, "via": record.via,
                "status": status, "message": message, "recipient": record.recipient,
            },
        )  # fmt: skip

    def _marked(self, _seq: int, record: Marked) -> None:
        agent = self.agent_id(record.agent)
        for number in record.messages:
            self._move(agent, number, record.state)
            if record.state in (State.READ, State.ACKED):
                column = "read_at" if record.state == State.READ else "acked_at"
                self.db.execute(
                    f"UPDATE boxes SET {column}=coalesce({column},?)"  # noqa: S608
                    " WHERE agent=? AND number=?",
                    (record.at, agent, number),
                )

    def _move(self, agent: int | None, number: int, state: int) -> None:
        row = self.db.execute(
            "SELECT state FROM boxes WHERE agent=? AND number=?", (agent, number)
        ).fetchone()
        if row is None or row[0] == state:
            return
        old, new = STATES[row[0]], STATES[state]
        self.db.execute(
            "UPDATE boxes SET state=? WHERE agent=? AND number=?", (state, agent, number)
        )
        self.db.execute(
            f"UPDATE agents SET {old}={old}-1, {new}={new}+1 WHERE id=?",  # noqa: S608
            (agent,),
        )

    def _released(self, _seq: int, record: Released) -> None:
        agent = self.agent_id(record.agent)
        self._move(agent, record.number, State.UNREAD)
        self.db.execute(
            "UPDATE boxes SET number=?, reason='' WHERE agent=? AND number=?",
            (record.new_number, agent, record.number),
        )
        self.db.execute("UPDATE agents SET last=max(last,?) WHERE id=?", (record.new_number, agent))

    def _deleted(self, _seq: int, record: Deleted) -> None:
        agent = self.agent_id(record.agent)
        self.db.execute(
            "INSERT OR REPLACE INTO seen VALUES(?,?,?,?,?)",
            (record.sender, record.id, record.agent, record.at, record.until),
        )
        for row in self.db.execute(
            "SELECT seq, by FROM messages WHERE id=? AND sender_key=?", (record.id, record.sender)
        ).fetchall():
            for number, state in self.db.execute(
                "SELECT number, state FROM boxes WHERE agent=? AND message=?", (agent, row["seq"])
            ).fetchall():
                column = STATES[state]
                self.db.execute("DELETE FROM boxes WHERE agent=? AND number=?", (agent, number))
                self.db.execute(
                    f"UPDATE agents SET {column}={column}-1 WHERE id=?",  # noqa: S608
                    (agent,),
                )
            if row["by"] == agent:
                self.db.execute("UPDATE messages SET by=NULL WHERE seq=?", (row["seq"],))
            self._drop_if_unheld(row["seq"])

    def _drop_if_unheld(self, seq: int) -> None:
        held = self.db.execute(
            "SELECT 1 FROM messages WHERE seq=? AND by IS NOT NULL"
            " UNION ALL SELECT 1 FROM boxes WHERE message=? LIMIT 1",
            (seq, seq),
        ).fetchone()
        if held is None:
            for table, column in (
                ("messages", "seq"), ("deliveries", "message"), ("receipts", "message"),
                ("places", "seq"),
            ):  # fmt: skip
                self.db.execute(f"DELETE FROM {table} WHERE {column}=?", (seq,))  # noqa: S608

    def _agent(self, _seq: int, record: Agent) -> None:
        self.db.execute(
            "INSERT INTO agents(key,name,created,card,removed) VALUES(?,?,?,?,?)"
            " ON CONFLICT(key) DO UPDATE SET card=excluded.card, removed=excluded.removed",
            (record.key, record.name, record.created, record.card, record.removed),
        )
        if record.purged:
            self._purge(self.agent_id(record.key))

    def _purge(self, agent: int | None) -> None:
        seqs = [
            row[0]
            for row in self.db.execute(
                "SELECT message FROM boxes WHERE agent=? UNION SELECT seq FROM messages WHERE by=?",
                (agent, agent),
            )
        ]
        self.db.execute("DELETE FROM boxes WHERE agent=?", (agent,))
        self.db.execute("UPDATE messages SET by=NULL WHERE by=?", (agent,))
        self.db.execute("DELETE FROM outbox WHERE by=?", (agent,))
        self.db.execute(
            "UPDATE agents SET unread=0, read=0, acked=0, quarantined=0 WHERE id=?", (agent,)
        )
        for seq in seqs:
            self._drop_if_unheld(seq)

    def _card_seen(self, seq: int, record: CardSeen) -> None:
        key, card = read_signed(record.card)
        self.db.execute(
            "INSERT OR REPLACE INTO cards VALUES(?,?,?,?,?,?,?,?)",
            (
                key, card["address"], card["number"], record.card, record.node, record.at,
                card["withdrawn"], seq,
            ),
        )  # fmt: skip

    def _contact(self, seq: int, record: Contact) -> None:
        if record.state == "removed":
            self.db.execute(
                "DELETE FROM contacts WHERE address=? AND key=?", (record.address, record.key)
            )
            return
        self.db.execute(
            "INSERT OR REPLACE INTO contacts VALUES(?,?,?,?,?,?,?,?,?)",
            (
                record.address, record.key, record.state, record.blocked, record.since,
                record.source, json.dumps(record.relays), record.note, seq,
            ),
        )  # fmt: skip

    def _epoch(self, _seq: int, record: Epoch) -> None:
        self.set_meta("epoch", record.epoch)
        self.set_meta("place", record.place)

    def _counters(self, _seq: int, record: Counters) -> None:
        self.db.executemany(
            "UPDATE agents SET last=max(last,?) WHERE key=?",
            [(last, key) for key, last in record.agents],
        )
        for table, pairs in (("pairs_out", record.sent), ("pairs_in", record.received)):
            self.db.executemany(f"INSERT OR IGNORE INTO {table} VALUES(?,?,?,?)", pairs)

    def _dropped(self, _seq: int, record: Dropped) -> None:
        self.db.execute("DELETE FROM outbox WHERE item=?", (record.item,))


def read_signed(signed: bytes) -> tuple[bytes, dict[str, Any]]:
    """The signer's key and the members of a COSE_Sign1's payload.

    Only for bytes that were verified when they came and lay in the journal since.
    """
    outer: Any = decode_own(signed)
    payload: Any = decode_own(outer[2])
    return outer[0][-32:], payload


def read_payload(signed: bytes) -> bytes:
    """The signed bytes inside a COSE_Sign1; the same caution."""
    outer: Any = decode_own(signed)
    payload: bytes = outer[2]
    return payload


def preview(body: str) -> str:
    """The first words of a body, on one line."""
    return " ".join(body[: 4 * PREVIEW].split())[:PREVIEW]
