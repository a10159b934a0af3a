"""Receipts: what a recipient's key says of a message, made here and believed here.

  Q1  A receipt names the message by id and by the hash of its signed bytes, a stage and a time:
      delivered (on the recipient's disk), read (shown to it), acked (processed); or refused, for
      good, with the reason.
  Q2  It counts only if the key signed it that the message was addressed to, for the bytes that
      were sent, and only once.
  Q3  A sender that asked for it hears of "delivered" and "read" by a message, too (notices.py).
  Q4  What one work makes for one sender travels as one letter (of MAX_RECEIPTS at most), written
      in that work: a receipt is owed by nobody, it is in the outbox when its message is kept.
  Q5  A refusal makes a message that waits fail, with the reason, and its sender is told. It never
      takes back a "delivered", and one that comes later takes back the refusal.
  Q6  A signature is verified only if the key that is named was written to by the agent: whoever was
      not cannot make us verify anything. Local programs have their turn between a few of them.

On one node nothing travels: the marks are the receipts, and are signed when somebody asks.
"""

from collections.abc import Sequence
from typing import Final

import trio

from ampd.core.agents import Agent, Agents
from ampd.core.cards import read_card, signed_by
from ampd.core.notices import notify
from ampd.crypto.keys import open1, seal
from ampd.model.message import (
    MAX_REASON,
    MAX_RECEIPTS,
    RECEIPT_CONTEXT,
    Letter,
    Message,
    Receipt,
    digest,
    receipts_to_bytes,
)
from ampd.model.values import value
from ampd.storage.records import Kept, Progress, Queued
from ampd.storage.store import Store, Transaction
from ampd.storage.view import Reader

WORTH_A_NOTICE: Final = ("delivered", "read")
VALID_FOR: Final = 30 * 86_400_000  # a receipt waits as long as a message may
_AT_ONCE: Final = 8  # receipts verified before others get their turn: about 1 ms


def receipt_for(
    agent: Agent, message: Message, signed: bytes, stage: str, at: int, reason: str = ""
) -> bytes:
    """What the agent's key says of a message that came to it as these signed bytes."""
    why = "".join(c if c.isprintable() else "?" for c in reason[:MAX_REASON])
    receipt = Receipt(message.id, digest(signed), agent.address, message.sender, stage, at, why)
    return agent.keys.signing.sign1(RECEIPT_CONTEXT, receipt.to_bytes())


@value
class Said:
    """A receipt that held up, from a key that the agent has written to."""

    key: bytes
    receipt: Receipt
    signed: bytes


async def proved(view: Reader, agent: Agent, receipts: Sequence[bytes]) -> list[Said]:
    """Those of these receipts that may mean something (Q6). Refused if one of them is forged."""
    written: dict[bytes, bool] = {}
    said: list[Said] = []
    for signed in receipts:
        key = signed_by(signed)
        if key not in written:
            sql = "SELECT 1 FROM pairs_out WHERE sender=? AND recipient=?"
            written[key] = view.execute(sql, (agent.key, key)).fetchone() is not None
        if not written[key]:
            continue
        if len(said) % _AT_ONCE == _AT_ONCE - 1:
            await trio.lowlevel.checkpoint()
        key, payload = open1(signed, RECEIPT_CONTEXT)
        said.append(Said(key, Receipt.from_bytes(payload), signed))
    return said


def note_receipt(
    tx: Transaction,
    store: Store,
    agents: Agents,
    agent: bytes,
    said: Said,
    via: str,
) -> None:
    """Within a work: note what a recipient's key said of a message that an agent here sent (Q2)."""
    row = tx.db.execute(
        "SELECT m.seq FROM messages m JOIN agents a ON a.id=m.by WHERE m.id=? AND a.key=?",
        (said.receipt.message, agent),
    ).fetchone()
    if row is None:
        return  # a message that was deleted, or never sent from here
    record = store.payload_at(tx.db, row[0])
    if isinstance(record, Kept) and said.receipt.digest == digest(record.signed):
        note_believed(tx, agents, agent, said.key, said.receipt, said.signed, via)


def note_believed(
    tx: Transaction,
    agents: Agents,
    agent: bytes,
    key: bytes,
    receipt: Receipt,
    signed: bytes,
    via: str,
) -> bool:
    """The same, of a receipt about the bytes that were sent; whether it is new."""
    row = tx.db.execute(
        "SELECT d.recipient, d.via, d.address, m.receipt, r.at, d.status FROM messages m"
        " JOIN agents a ON a.id=m.by JOIN deliveries d ON d.message=m.seq"
        " LEFT JOIN receipts r ON r.message=m.seq AND r.recipient=d.recipient AND r.stage=?"
        " WHERE m.id=? AND a.key=? AND d.key=?",
        (receipt.stage, receipt.message, agent, key),
    ).fetchone()
    if row is None:
        return False  # a message that was deleted, or was not for this key
    place, known_via, address, wanted, known_at, status = row
    if known_at is not None:
        return False
    way = known_via or via
    if receipt.stage == "refused":
        if status not in ("queued", "relayed"):
            return False  # Q5
        why, at = receipt.reason, receipt.at
        tx.append(Progress(receipt.message, agent, place, "failed", way, at, why, signed))
        notify(tx, agents, agent, receipt.message, address, "failed", why, said_by=address)
        return True
    tx.append(Progress(receipt.message, agent, place, receipt.stage, way, receipt.at, "", signed))
    if wanted and receipt.stage in WORTH_A_NOTICE:
        notify(tx, agents, agent, receipt.message, address, receipt.stage)
    return True


def note_local(tx: Transaction, agents: Agents, agent: Agent, seq: int, stage: str) -> None:
    """Within a work: an agent here read, or acked, what another agent here sent it."""
    row = tx.db.execute(
        "SELECT m.id, m.receipt, a.key, d.recipient, d.address FROM messages m"
        " JOIN agents a ON a.id=m.by JOIN deliveries d ON d.message=m.seq AND d.key=?"
        " WHERE m.seq=?",
        (agent.key, seq),
    ).fetchone()
    if row is None:
        return
    tx.append(Progress(row["id"], row["key"], row["recipient"], stage, "local", tx.now))
    if row["receipt"] and stage in WORTH_A_NOTICE:
        notify(tx, agents, row["key"], row["id"], row["address"], stage)


def queue_receipts(
    tx: Transaction, agent: Agent, sender: bytes, receipts: Sequence[tuple[bytes, bytes]]
) -> None:
    """Within a work: seal the agent's words on messages (their ids, and the signed receipts) for
    the one who sent them, into the outbox (Q4). Nothing, if no card of it is known."""
    row = tx.db.execute("SELECT signed FROM cards WHERE key=?", (sender,)).fetchone()
    if row is None:
        return
    card = read_card(row[0])[1]
    for start in range(0, len(receipts), MAX_RECEIPTS):
        some = receipts[start : start + MAX_RECEIPTS]
        signed = receipts_to_bytes([each for _, each in some])
        letter = Letter("receipts", signed, agent.signed_card).to_bytes()
        tx.append(
            Queued(
                "receipt", some[0][0], 0, agent.key, str(card.address), sender, card.mailbox,
                tx.now + VALID_FOR, seal(card.seal_to(tx.now), letter), tx.now,
            )
        )  # fmt: skip
