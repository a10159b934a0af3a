"""Receipts: what a recipient's key says of a message, made here and believed here.

  Q1  A receipt names the message by id and by the hash of its signed bytes, a stage and a time:
      delivered (on the recipient's disk), read (shown to it), acked (processed).
  Q2  It counts only if the key signed it that the message was addressed to, for the bytes that
      were sent, and only once.
  Q3  A sender that asked for it hears of "delivered" and "read" by a message, too (notices.py).

On one node nothing travels: the marks are the receipts, and are signed when somebody asks.
"""

from typing import Final

from ampd.core.agents import Agent, Agents
from ampd.core.notices import notify
from ampd.crypto.keys import open1, seal
from ampd.model.card import CARD_CONTEXT, Card
from ampd.model.message import RECEIPT_CONTEXT, Letter, Message, Receipt, digest
from ampd.storage.index import read_payload
from ampd.storage.records import Kept, Progress, Queued
from ampd.storage.store import Store, Transaction

WORTH_A_NOTICE: Final = ("delivered", "read")
VALID_FOR: Final = 30 * 86_400_000  # a receipt waits as long as a message may


def receipt_for(agent: Agent, message: Message, signed: bytes, stage: str, at: int) -> bytes:
    """What the agent's key says of a message that it got."""
    receipt = Receipt(message.id, digest(signed), agent.address, message.sender, stage, at)
    return agent.keys.signing.sign1(RECEIPT_CONTEXT, receipt.to_bytes())


def note_receipt(
    tx: Transaction,
    store: Store,
    agents: Agents,
    agent: bytes,
    key: bytes,
    receipt: Receipt,
    signed: bytes,
    via: str,
) -> None:
    """Within a work: note what a recipient's key said of a message that an agent here sent (Q2)."""
    row = tx.db.execute(
        "SELECT m.seq FROM messages m JOIN agents a ON a.id=m.by WHERE m.id=? AND a.key=?",
        (receipt.message, agent),
    ).fetchone()
    if row is None:
        return  # a message that was deleted, or never sent from here
    record = store.payload_at(tx.db, row[0])
    if isinstance(record, Kept) and receipt.digest == digest(record.signed):
        note_believed(tx, agents, agent, key, receipt, signed, via)


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
        "SELECT d.recipient, d.via, d.address, m.receipt, r.at FROM messages m"
        " JOIN agents a ON a.id=m.by JOIN deliveries d ON d.message=m.seq"
        " LEFT JOIN receipts r ON r.message=m.seq AND r.recipient=d.recipient AND r.stage=?"
        " WHERE m.id=? AND a.key=? AND d.key=?",
        (receipt.stage, receipt.message, agent, key),
    ).fetchone()
    if row is None:
        return False  # a message that was deleted, or was not for this key
    place, known_via, address, wanted, known_at = row
    if known_at is not None:
        return False
    way = known_via or via
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


def queue_receipt(  # a work's facts, all from one row
    tx: Transaction, agent: Agent, signed: bytes, sender_card: bytes, stage: str
) -> None:
    """Within a work: seal the agent's word on a message for its sender, into the outbox."""
    key, payload = open1(sender_card, CARD_CONTEXT)
    card = Card.from_bytes(payload)
    message = Message.from_bytes(read_payload(signed))
    letter = Letter(
        "receipt", receipt_for(agent, message, signed, stage, tx.now), agent.signed_card
    ).to_bytes()
    tx.append(
        Queued(
            "receipt", message.id, 0, agent.key, str(card.address), key, card.mailbox,
            tx.now + VALID_FOR, seal(card.seal_to(tx.now), letter), tx.now,
        )
    )  # fmt: skip
