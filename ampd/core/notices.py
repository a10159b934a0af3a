"""What the node itself writes to an agent here: that mail was not delivered, or that it was read.

G1  What fails comes back to its sender as a message of type "system", with the reason; nobody has
    to poll to learn of it (RFC 3464 is the same idea).
G2  The node signs its notices with its own key, under the address ampd@DOMAIN.
G3  What another node gave as its reason stands in a notice as foreign text, wrapped.
"""

import json

from ampd.core.agents import Agent, Agents
from ampd.core.safety import wrap
from ampd.crypto.keys import random_bytes
from ampd.model.address import Address
from ampd.model.message import MAX_SUBJECT, MESSAGE_CONTEXT, Message, Recipient, id_text, new_id
from ampd.storage.records import Kept, State
from ampd.storage.store import Transaction

_VALID_FOR = 30 * 86_400_000
_LONGEST_REASON = 500  # characters: a sentence or two
_WORDS = {
    "failed": "was not delivered",
    "expired": "expired before it could be delivered",
    "delivered": "was delivered",
    "read": "was read",
}


def notify(  # one call site for each fact; all of them are needed to write the sentence
    tx: Transaction,
    agents: Agents,
    sender: bytes,
    message: bytes,
    recipient: str,
    event: str,
    reason: str = "",
    said_by: str = "",
) -> None:
    """Within a work: tell the local agent `sender` what became of its message (G1-G3).

    `said_by` is the node whose words `reason` are; "" if they are ours.
    """
    agent = agents.of_key(sender)
    row = tx.db.execute(
        "SELECT m.subject, m.thread FROM messages m JOIN agents a ON a.id=m.by"
        " WHERE m.id=? AND a.key=?",
        (message, sender),
    ).fetchone()
    if agent is None or row is None:
        return
    what = f'Your message "{row["subject"]}" to {recipient} {_WORDS[event]}'
    facts = {"event": event, "message": id_text(message), "recipient": recipient, "reason": reason}
    if said_by:
        source = {"source": "node", "sender": said_by, "trust": "external"}
        body = f"{what}. Its node says:\n" + wrap(reason[:_LONGEST_REASON], flags=(), **source)
    else:
        body = f"{what}: {reason}" if reason else f"{what}."
    write(
        tx, agents, agent, subject=f"{event}: {row['subject']}", body=body,
        payload=json.dumps(facts, ensure_ascii=False), in_reply_to=message, thread=row["thread"],
    )  # fmt: skip


def write(
    tx: Transaction,
    agents: Agents,
    agent: Agent,
    *,
    subject: str,
    body: str,
    payload: str,
    in_reply_to: bytes,
    thread: bytes,
    context: str | None = None,
) -> None:
    """Within a work: a message of the node to an agent of its own (G2)."""
    number = tx.rows.next_number(agent.key)
    notice = Message(
        id=new_id(tx.now, random_bytes(10)),
        sender=Address("ampd", agents.domain),
        to=(Recipient(agent.address, agent.key, number),),
        epoch=bytes(8),
        sent=tx.now,
        expires=tx.now + _VALID_FOR,
        thread=thread,
        in_reply_to=in_reply_to,
        type="system",
        subject=subject[:MAX_SUBJECT],
        body=body,
        payload=payload,
        context=context,
    )
    signed = agents.node.sign1(MESSAGE_CONTEXT, notice.to_bytes())
    box = (agent.key, number, int(State.UNREAD), "")
    tx.append(Kept(signed, tx.now, "system", True, b"", (box,)))
