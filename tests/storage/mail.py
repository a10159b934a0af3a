"""Records as a node writes them, and every answer of an index, for the tests of the store."""

import os
import shutil

from ampd.core.checkup import _TABLES, _rows
from ampd.crypto.keys import SigningKey
from ampd.model.address import Address
from ampd.model.message import MESSAGE_CONTEXT, Message, Recipient, new_id
from ampd.storage.index import read_signed
from ampd.storage.records import Agent, Deleted, Epoch, Kept, Queued, State
from ampd.storage.store import Store

KEY = b"k" * 32
ALICE, BOB, CAROL = (SigningKey(letter * 32) for letter in (b"a", b"b", b"c"))
NAMES = {ALICE: "alice", BOB: "bob", CAROL: "carol"}


class Clock:
    def __init__(self):
        self.now = 1_700_000_000_000

    def __call__(self):
        self.now += 1
        return self.now


def signed(sender, recipient, order, body="hello", at=1, epoch=bytes(8)):
    message = Message(
        id=new_id(at, os.urandom(10)),
        sender=Address(NAMES[sender], "here.local"),
        to=(Recipient(Address(NAMES[recipient], "here.local"), recipient.public, order),),
        epoch=epoch,
        sent=at,
        expires=at + 1000,
        thread=bytes(16),
        subject="a subject",
        body=body,
    )
    return sender.sign1(MESSAGE_CONTEXT, message.to_bytes())


def agents(tx):
    tx.append(Epoch(bytes(8), b"here"))
    for key in (ALICE, BOB):
        tx.append(Agent(key.public, NAMES[key], 1, b"card"))


def number(tx, agent):
    row = tx.db.execute("SELECT last FROM holders WHERE key=?", (agent.public,)).fetchone()
    return row[0] + 1 if row else 1


def order(tx, sender, recipient):
    row = tx.db.execute(
        "SELECT last FROM pairs_out WHERE sender=? AND recipient=?",
        (sender.public, recipient.public),
    ).fetchone()
    return row[0] + 1 if row else 1


def local(body="hello"):
    """A work: alice writes to bob."""

    def work(tx):
        box = (BOB.public, number(tx, BOB), int(State.UNREAD), "")
        letter = signed(ALICE, BOB, order(tx, ALICE, BOB), body, tx.now)
        return tx.append(Kept(letter, tx.now, "local", True, ALICE.public, (box,)))

    return work


def outgoing(body="hello", sealed=b"s" * 300):
    """A work of two records: alice writes to carol, who is elsewhere."""

    def work(tx):
        letter = signed(ALICE, CAROL, order(tx, ALICE, CAROL), body, tx.now)
        tx.append(Kept(letter, tx.now, "local", True, ALICE.public, ()))
        identifier = read_signed(letter)[1]["id"]
        tx.append(
            Queued(
                "message", identifier, 0, ALICE.public, "carol@there.local", CAROL.public,
                bytes(16), tx.now + 1000, sealed, tx.now,
            )
        )  # fmt: skip
        return identifier

    return work


def incoming(at_order, body="hello", epoch=bytes(8)):
    """A work: carol's letter of that order number comes for bob."""

    def work(tx):
        letter = signed(CAROL, BOB, at_order, body, tx.now, epoch)
        box = (BOB.public, number(tx, BOB), int(State.UNREAD), "")
        return tx.append(Kept(letter, tx.now, "direct", True, b"", (box,)))

    return work


def deleted(seq):
    """A work: everybody here deletes a message."""

    def work(tx):
        row = tx.db.execute("SELECT id, sender_key FROM messages WHERE seq=?", (seq,)).fetchone()
        for agent in (ALICE, BOB) if row else ():
            tx.append(Deleted(agent.public, row[0], row[1], tx.now + 5, tx.now))

    return work


def answers(store):
    """Everything that the index knows, whatever its rows are called."""
    db = store.reader()
    try:
        return {table: list(_rows(db, table)) for table in _TABLES}
    finally:
        db.close()


def opened(folder, clock=None, **how):
    return Store(folder, KEY, clock or Clock(), **how)


def rebuilt(store):
    """The answers of a copy of this store whose index was deleted."""
    there = store.index_path.parent.with_name("copy")
    shutil.rmtree(there, ignore_errors=True)
    shutil.copytree(store.index_path.parent, there)
    (there / "index.sqlite").unlink()
    other = opened(there, segment_bytes=8192)
    found = answers(other)
    other.close()
    return found
