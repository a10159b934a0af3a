"""The tables of the index. Change anything here and raise VERSION: the index is then made anew.

Numbers that identify: `seq` is a record's number in the journal; `agent` a row of `agents`; a
message is known by the seq of its Kept record, an outbox item by that of its Queued record.

sqlite_stat1 is written by hand (https://sqlite.org/fileformat2.html#stat1tab): without it, a query
for a message by id and sender would walk through all that the sender ever sent.
"""

from typing import Final

VERSION: Final = 2

TABLES: Final = """
CREATE TABLE meta(name TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE places(seq INTEGER PRIMARY KEY, segment INTEGER, offset INTEGER);
CREATE TABLE agents(
    id INTEGER PRIMARY KEY, key BLOB UNIQUE, name TEXT, created INTEGER, card BLOB,
    removed INTEGER DEFAULT 0, last INTEGER DEFAULT 0,
    unread INTEGER DEFAULT 0, read INTEGER DEFAULT 0, acked INTEGER DEFAULT 0,
    quarantined INTEGER DEFAULT 0);
CREATE TABLE messages(
    seq INTEGER PRIMARY KEY, id BLOB, sender TEXT, sender_key BLOB, by INTEGER, recipients TEXT,
    sent INTEGER, at INTEGER, expires INTEGER, thread BLOB, re BLOB, priority TEXT, type TEXT,
    subject TEXT, preview TEXT, size INTEGER, flags TEXT, via TEXT, encrypted INTEGER, gap INTEGER,
    receipt INTEGER);
CREATE INDEX messages_id ON messages(id);
CREATE INDEX messages_thread ON messages(thread, seq);
CREATE INDEX messages_by ON messages(by, seq) WHERE by IS NOT NULL;
CREATE TABLE boxes(
    agent INTEGER, number INTEGER, message INTEGER, state INTEGER, reason TEXT,
    read_at INTEGER, acked_at INTEGER, PRIMARY KEY(agent, number)) WITHOUT ROWID;
CREATE INDEX boxes_inbox ON boxes(agent, number) WHERE state < 2;
CREATE INDEX boxes_unread ON boxes(agent, number) WHERE state = 0;
CREATE INDEX boxes_quarantine ON boxes(agent, number) WHERE state = 3;
CREATE INDEX boxes_message ON boxes(message);
CREATE TABLE deliveries(
    message INTEGER, recipient INTEGER, address TEXT, key BLOB, status TEXT, via TEXT, at INTEGER,
    relayed_at INTEGER, delivered_at INTEGER, read_at INTEGER, acked_at INTEGER, error TEXT,
    changed INTEGER DEFAULT 0, PRIMARY KEY(message, recipient)) WITHOUT ROWID;
CREATE INDEX deliveries_changed ON deliveries(changed) WHERE changed > 0;
CREATE TABLE receipts(
    message INTEGER, recipient INTEGER, stage TEXT, at INTEGER, signed BLOB,
    PRIMARY KEY(message, recipient, stage)) WITHOUT ROWID;
CREATE TABLE outbox(
    item INTEGER PRIMARY KEY, what TEXT, message BLOB, recipient INTEGER, by INTEGER, address TEXT,
    key BLOB, mailbox BLOB, expires INTEGER, at INTEGER, status TEXT);
CREATE INDEX outbox_message ON outbox(message, recipient);
CREATE TABLE idempotency(
    agent INTEGER, key TEXT, message INTEGER, at INTEGER, PRIMARY KEY(agent, key)) WITHOUT ROWID;
CREATE TABLE seen(
    sender BLOB, id BLOB, agent BLOB, at INTEGER, until INTEGER, PRIMARY KEY(sender, id, agent)
    ) WITHOUT ROWID;
CREATE TABLE pairs_out(
    sender BLOB, recipient BLOB, epoch BLOB, last INTEGER, PRIMARY KEY(sender, recipient)
    ) WITHOUT ROWID;
CREATE TABLE pairs_in(
    recipient BLOB, sender BLOB, epoch BLOB, last INTEGER, PRIMARY KEY(recipient, sender, epoch)
    ) WITHOUT ROWID;
CREATE TABLE gaps(
    recipient BLOB, sender BLOB, epoch BLOB, number INTEGER, upto INTEGER, at INTEGER,
    PRIMARY KEY(recipient, sender, epoch, number)) WITHOUT ROWID;
CREATE TABLE cards(
    key BLOB PRIMARY KEY, address TEXT, number INTEGER, signed BLOB, node BLOB, at INTEGER,
    withdrawn INTEGER, seq INTEGER) WITHOUT ROWID;
CREATE INDEX cards_address ON cards(address);
CREATE TABLE contacts(
    address TEXT, key BLOB, state TEXT, blocked INTEGER, since INTEGER, source TEXT, relays TEXT,
    note TEXT, seq INTEGER, PRIMARY KEY(address, key)) WITHOUT ROWID;
ANALYZE;
INSERT INTO sqlite_stat1 VALUES
    ('messages', 'messages_id', '1000000 1'),
    ('messages', 'messages_thread', '1000000 5 1'),
    ('messages', 'messages_by', '1000000 100000 1');
ANALYZE sqlite_schema;
"""
