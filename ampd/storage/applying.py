"""What each record does to the tables of the index.

  A1  The same records in the same order give the same tables, whether they come one by one or in a
      rebuild, and whether or not dead records before them were compacted away.
  A2  A record whose company was lost (its agent, its message) does what is left to do: damage to
      one record never stops the reading of another (P4).

Each handler runs within the caller's transaction. What a record kills is put into `garbage`.
Not here: the file, when it is committed (index.py, writer.py), who is whose row (rows.py).
"""

import json
import sqlite3
from collections.abc import Callable, Sequence
from typing import Any, Final

from ampd.storage.pending import MOST, STATES
from ampd.storage.records import (
    Agent,
    CardSeen,
    Contact,
    Counters,
    Deleted,
    Dropped,
    Epoch,
    Kept,
    Lost,
    Marked,
    Progress,
    Queued,
    Record,
    RelayUsed,
    Released,
    State,
    Void,
)
from ampd.storage.rows import Rows, preview, read_signed

_TIMES: Final = {
    "relayed": ("relayed_at",),
    "delivered": ("delivered_at",),
    "read": ("delivered_at", "read_at"),
    "acked": ("delivered_at", "read_at", "acked_at"),
}


class Applier(Rows):
    """Takes records into the tables behind one connection."""

    def __init__(self, db: sqlite3.Connection) -> None:
        super().__init__(db)
        self._handlers: dict[type, Callable[[int, Any], int | None]] = {
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
            Void: self._void,
            Lost: self._lost,
            RelayUsed: self._relay_used,
        }

    def apply(self, seq: int, record: Record) -> int:
        """Take in one record; for a Kept, how many of its sender are missing right before it.

        The rows of a Kept may wait until `flush` (pending.py).
        """
        if type(record) is not Kept or len(self._pending.messages) >= MOST:
            self.flush()
        return self._handlers[type(record)](seq, record) or 0

    # --- messages --------------------------------------------------------------------------

    def _kept(self, seq: int, record: Kept) -> int:
        sender_key, message = read_signed(record.signed)
        by = self.holder(record.by) if record.by else None
        counted = not by and record.via != "system"  # notices are no pair's letters
        gap = self._count_received(seq, sender_key, message, record) if counted else 0
        to = message["to"]
        self._pending.messages.append(
            (
                seq, message["id"], message["from"], sender_key, by,
                _json([each[0] for each in to]), message["sent"], record.at,
                message["expires"], message["thread"], message["re"], message["priority"],
                message["type"], message["subject"], preview(message["body"]),
                len(record.signed), record.via, record.encrypted, gap, message["receipt"],
                record.key or None,
            )
        )  # fmt: skip
        sender = self.sender(message["from"])
        for agent, number, state, reason in record.boxes:
            holder = self._known(agent)
            holder.last = max(holder.last, number)
            self._pending.box(holder.id, number, seq, sender, state, reason)
        if by:
            self._sent(seq, message, record, sender_key, by)
        return gap

    def _sent(
        self, seq: int, message: dict[str, Any], record: Kept, sender_key: bytes, by: int
    ) -> None:
        held = {box[0] for box in record.boxes}
        epoch, at = message["epoch"], record.at
        for place, (address, key, order) in enumerate(message["to"]):
            here = key in held
            status, via = ("delivered", "local") if here else ("queued", "")
            done = at if here else None
            self._pending.deliveries.append((seq, place, address, key, status, via, at, done))
            self._pending.order(sender_key, key, epoch, order)
            self._ordered(sender_key, key, epoch, order)
        self._pending.sent(by)

    def _count_received(
        self, seq: int, sender: bytes, message: dict[str, Any], record: Kept
    ) -> int:
        """Note the order numbers; answer how many are missing right before this message."""
        held = {box[0] for box in record.boxes}
        counted = 0
        for _, key, order in message["to"]:
            if key in held:
                pair = (key, sender, message["epoch"])
                counted = max(counted, self._received(seq, pair, order, record))
        return counted if record.missing < 0 else record.missing

    def _received(
        self, seq: int, pair: tuple[bytes, bytes, bytes], order: int, record: Kept
    ) -> int:
        last = self.last_received(pair)
        if order <= last:
            self._fill_gap(pair, order)
            return 0
        if not last:
            self.make_room(pair[0], pair[1])
        self.received(pair, order, seq)
        missing = order - last - 1 if record.missing < 0 else min(record.missing, order - 1)
        if missing:
            self._db.execute(
                "INSERT OR REPLACE INTO gaps VALUES(?,?,?,?,?,?)",
                (*pair, order - missing, order - 1, record.at),
            )
        return missing

    def _fill_gap(self, pair: tuple[bytes, bytes, bytes], order: int) -> None:
        where = "recipient=? AND sender=? AND epoch=? AND number<=? AND upto>=?"
        row = self._db.execute(
            f"SELECT number, upto, at FROM gaps WHERE {where}",  # noqa: S608
            (*pair, order, order),
        ).fetchone()
        if row is None:
            return
        first, last, at = row
        self._db.execute(f"DELETE FROM gaps WHERE {where}", (*pair, order, order))  # noqa: S608
        for start, end in ((first, order - 1), (order + 1, last)):
            if start <= end:
                self._db.execute("INSERT INTO gaps VALUES(?,?,?,?,?,?)", (*pair, start, end, at))

    # --- marks -----------------------------------------------------------------------------

    def _marked(self, _seq: int, record: Marked) -> None:
        agent = self.holder(record.agent)
        column = {State.READ: "read_at", State.ACKED: "acked_at"}.get(State(record.state))
        for number in record.messages:
            self._move(agent, number, record.state)
            if column:
                self._db.execute(
                    f"UPDATE boxes SET {column}=coalesce({column},?)"  # noqa: S608
                    " WHERE agent=? AND number=?",
                    (record.at, agent, number),
                )

    def _move(self, agent: int, number: int, state: int) -> None:
        row = self._db.execute(
            "SELECT state FROM boxes WHERE agent=? AND number=?", (agent, number)
        ).fetchone()
        if row is None or row[0] == state:
            return
        old, new = STATES[row[0]], STATES[state]
        self._db.execute(
            "UPDATE boxes SET state=? WHERE agent=? AND number=?", (state, agent, number)
        )
        self._db.execute(
            f"UPDATE holders SET {old}={old}-1, {new}={new}+1 WHERE id=?",  # noqa: S608
            (agent,),
        )

    def _released(self, _seq: int, record: Released) -> None:
        agent = self.holder(record.agent)
        self._move(agent, record.number, State.UNREAD)
        self._db.execute(
            "UPDATE OR REPLACE boxes SET number=?, reason='' WHERE agent=? AND number=?",
            (record.new_number, agent, record.number),
        )
        self._db.execute(
            "UPDATE holders SET last=max(last,?) WHERE id=?", (record.new_number, agent)
        )
        self._forget_counts()

    def _deleted(self, seq: int, record: Deleted) -> None:
        agent = self.holder(record.agent)
        self._db.execute(
            "INSERT OR REPLACE INTO seen VALUES(?,?,?,?,?,?)",
            (record.sender, record.id, record.agent, record.at, record.until, record.digest),
        )
        for message, by in self._db.execute(
            "SELECT seq, by FROM messages WHERE id=? AND sender_key=?", (record.id, record.sender)
        ).fetchall():
            for number, state in self._db.execute(
                "SELECT number, state FROM boxes WHERE message=? AND agent=?", (message, agent)
            ).fetchall():
                column = STATES[state]
                self._db.execute("DELETE FROM boxes WHERE agent=? AND number=?", (agent, number))
                self._db.execute(
                    f"UPDATE holders SET {column}={column}-1 WHERE id=?",  # noqa: S608
                    (agent,),
                )
            if by == agent:
                self._db.execute("UPDATE messages SET by=NULL WHERE seq=?", (message,))
                self._db.execute("UPDATE holders SET sent=sent-1 WHERE id=?", (agent,))
            self.drop_if_unheld(message, seq)

    # --- the outbox ------------------------------------------------------------------------

    def _queued(self, seq: int, record: Queued) -> None:
        if record.replaces:
            self.kill_items("item=?", (record.replaces,), seq)
        self._db.execute(
            "INSERT OR REPLACE INTO outbox VALUES(?,?,?,?,?,?,?,?,?,?,'queued',?)",
            (
                seq, record.what, record.message, record.recipient, self.holder(record.by),
                record.address, record.key, record.mailbox, record.expires, record.at,
                len(record.sealed),
            ),
        )  # fmt: skip

    def _dropped(self, seq: int, record: Dropped) -> None:
        self.kill_items("item=?", (record.item,), seq)

    def _progress(self, seq: int, record: Progress) -> None:
        where = "message=? AND recipient=? AND by=? AND what='message'"  # senders choose ids
        copy = (record.message, record.recipient, self.holder(record.by))
        if record.status == "relayed":
            self._db.execute(f"UPDATE outbox SET status='relayed' WHERE {where}", copy)  # noqa: S608
        elif record.via != "local":
            self.kill_items(where, copy, seq)
        row = self._db.execute(
            "SELECT seq FROM messages WHERE id=? AND by=?", (record.message, self.holder(record.by))
        ).fetchone()
        if row is None:
            return
        self._delivery(seq, row[0], record)
        if record.receipt:
            self._db.execute(
                "INSERT OR IGNORE INTO receipts VALUES(?,?,?,?,?)",
                (row[0], record.recipient, _stage(record.status), record.at, record.receipt),
            )

    def _delivery(self, seq: int, message: int, record: Progress) -> None:
        """Times are set once; a status never goes back from read, nor from delivered to relayed."""
        times = "".join(
            f" {column}=coalesce({column},:at)," for column in _TIMES.get(record.status, ())
        )
        self._db.execute(
            f"UPDATE deliveries SET{times} changed=:seq, at=:at, error=:error,"
            " via=CASE :via WHEN '' THEN via ELSE :via END,"
            " status=CASE WHEN status='read' OR (status='delivered' AND :status='relayed')"
            " THEN status ELSE :status END WHERE message=:message AND recipient=:recipient",
            {
                "seq": seq, "at": record.at, "error": record.error, "via": record.via,
                "status": "read" if record.status == "acked" else record.status,
                "message": message, "recipient": record.recipient,
            },
        )  # fmt: skip

    # --- who -------------------------------------------------------------------------------

    def _agent(self, seq: int, record: Agent) -> None:
        row = self.holder(record.key)
        self._db.execute(
            "UPDATE holders SET name=?, created=?, card=?, removed=?, outside=?, seq=? WHERE id=?",
            (record.name, record.created, record.card, record.removed, record.outside, seq, row),
        )
        self._forget_counts()
        if record.purged:
            self._purge(row, seq)

    def _purge(self, agent: int, killer: int) -> None:
        messages = [
            row[0]
            for row in self._db.execute(
                "SELECT message FROM boxes WHERE agent=? UNION SELECT seq FROM messages WHERE by=?",
                (agent, agent),
            )
        ]
        self._db.execute("DELETE FROM boxes WHERE agent=?", (agent,))
        self._db.execute("UPDATE messages SET by=NULL WHERE by=?", (agent,))
        self.kill_items("by=?", (agent,), killer)
        self._db.execute(
            "UPDATE holders SET unread=0, read=0, acked=0, quarantined=0, sent=0 WHERE id=?",
            (agent,),
        )
        for message in messages:
            self.drop_if_unheld(message, killer)

    def _card_seen(self, seq: int, record: CardSeen) -> None:
        key, card = read_signed(record.card)
        self._db.execute(
            "INSERT OR REPLACE INTO cards VALUES(?,?,?,?,?,?,?,?)",
            (
                key, card["address"], card["number"], record.card, record.node, record.at,
                card["withdrawn"], seq,
            ),
        )  # fmt: skip

    def _contact(self, seq: int, record: Contact) -> None:
        if record.state == "removed":
            self._db.execute(
                "DELETE FROM contacts WHERE address=? AND key=?", (record.address, record.key)
            )
            return
        self._db.execute(
            "INSERT OR REPLACE INTO contacts VALUES(?,?,?,?,?,?,?,?,?)",
            (
                record.address, record.key, record.state, record.blocked, record.since,
                record.source, json.dumps(record.relays), record.note, seq,
            ),
        )  # fmt: skip

    def _relay_used(self, seq: int, record: RelayUsed) -> None:
        if record.removed:
            self._db.execute("DELETE FROM relays WHERE uri=?", (record.uri,))
            return
        self._db.execute(
            "INSERT INTO relays VALUES(?,?,?) ON CONFLICT(uri) DO UPDATE SET token=excluded.token",
            (record.uri, record.token, seq),
        )

    # --- the store itself ------------------------------------------------------------------

    def _meta(self, name: str, value: object) -> None:
        self._db.execute("INSERT OR REPLACE INTO meta VALUES(?,?)", (name, value))

    def _epoch(self, seq: int, record: Epoch) -> None:
        self._meta("epoch", record.epoch)
        self._meta("place", record.place)
        self._meta("epoch_seq", seq)
        self._forget_counts()

    def _counters(self, seq: int, record: Counters) -> None:
        """A snapshot: what stood before it stands no more, since its records may be gone."""
        for key, last in record.agents:
            self._db.execute(
                "UPDATE holders SET last=max(last,?) WHERE id=?", (last, self.holder(key))
            )
        count = len(record.received)
        received = [(*row, place - count) for place, row in enumerate(record.received)]
        for table, rows in (
            ("pairs_out", record.sent), ("pairs_in", received), ("gaps", record.gaps),
        ):  # fmt: skip
            self._db.execute(f"DELETE FROM {table}")  # noqa: S608
            marks = ",".join("?" * {"pairs_out": 4, "pairs_in": 5, "gaps": 6}[table])
            self._db.executemany(f"INSERT INTO {table} VALUES({marks})", rows)
        self.forget_epochs_over()
        self._meta("counters_seq", seq)
        self._forget_counts()

    def _void(self, _seq: int, _record: Void) -> None:
        """The writer passed the torn group over; nothing of it came here."""

    def _lost(self, _seq: int, record: Lost) -> None:
        self._db.execute(
            "INSERT OR REPLACE INTO lost VALUES(?,?,?,?,?)",
            (record.segment, record.offset, record.first, record.last, record.reason),
        )


def _stage(status: str) -> str:
    """What the receipt says by which a message is as it is: that it failed says no recipient."""
    return "refused" if status == "failed" else status


def _json(texts: Sequence[str]) -> str:
    """A JSON list of addresses, which need no escaping."""
    return '["' + '", "'.join(texts) + '"]' if texts else "[]"
