"""The tables of the index. Change anything here and raise VERSION: the index is then made anew.

Numbers that identify: `seq` is a record's number in the journal; `agent` a row of `holders`; a
message is known by the seq of its Kept record, an outbox item by that of its Queued record.

`holders` has a row for every key that records speak of, also when the record that made it an agent
comes later (after a compaction) or was lost; `agents` shows those whose record is here. `garbage`
lists the dead Kept and Queued records that still lie in the journal, and which record killed them:
that one must outlive them (cleaning.py).

sqlite_stat1 is written by hand (https://sqlite.org/fileformat2.html#stat1tab): without it, a query
for a message by id and sender would walk through all that the sender ever sent.
"""

from typing import Final

VERSION: Final = 9

TABLES: Final = """
CREATE TABLE meta(name TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE places(seq INTEGER PRIMARY KEY, segment INTEGER, offset INTEGER);
CREATE TABLE garbage(seq INTEGER PRIMARY KEY, size INTEGER, killer INTEGER, id BLOB);
CREATE TABLE holders(
    id INTEGER PRIMARY KEY, key BLOB UNIQUE, name TEXT, created INTEGER, card BLOB,
    removed INTEGER DEFAULT 0, outside INTEGER DEFAULT 0, last INTEGER DEFAULT 0,
    unread INTEGER DEFAULT 0, read INTEGER DEFAULT 0, acked INTEGER DEFAULT 0,
    quarantined INTEGER DEFAULT 0, sent INTEGER DEFAULT 0, seq INTEGER DEFAULT 0);
CREATE VIEW agents AS SELECT * FROM holders WHERE name IS NOT NULL;
CREATE TABLE senders(id INTEGER PRIMARY KEY, address TEXT UNIQUE);
CREATE TABLE messages(
    seq INTEGER PRIMARY KEY, id BLOB, sender TEXT, sender_key BLOB, by INTEGER, recipients TEXT,
    sent INTEGER, at INTEGER, expires INTEGER, thread BLOB, re BLOB, priority TEXT, type TEXT,
    subject TEXT, preview TEXT, size INTEGER, via TEXT, encrypted INTEGER, gap INTEGER,
    receipt INTEGER, key TEXT);
CREATE INDEX messages_id ON messages(id);
CREATE VIEW idempotency AS
    SELECT by AS agent, key, seq AS message, at FROM messages WHERE key IS NOT NULL;
CREATE TABLE boxes(
    agent INTEGER, number INTEGER, message INTEGER, sender INTEGER, state INTEGER, reason TEXT,
    read_at INTEGER, acked_at INTEGER, PRIMARY KEY(agent, number)) WITHOUT ROWID;
CREATE INDEX boxes_message ON boxes(message);
CREATE TABLE deliveries(
    message INTEGER, recipient INTEGER, address TEXT, key BLOB, status TEXT, via TEXT, at INTEGER,
    relayed_at INTEGER, delivered_at INTEGER, read_at INTEGER, acked_at INTEGER, error TEXT,
    changed INTEGER DEFAULT 0, PRIMARY KEY(message, recipient)) WITHOUT ROWID;
CREATE TABLE receipts(
    message INTEGER, recipient INTEGER, stage TEXT, at INTEGER, signed BLOB,
    PRIMARY KEY(message, recipient, stage)) WITHOUT ROWID;
CREATE TABLE outbox(
    item INTEGER PRIMARY KEY, what TEXT, message BLOB, recipient INTEGER, by INTEGER, address TEXT,
    key BLOB, mailbox BLOB, expires INTEGER, at INTEGER, status TEXT, size INTEGER);
CREATE INDEX outbox_message ON outbox(message, recipient);
CREATE TABLE seen(
    sender BLOB, id BLOB, agent BLOB, at INTEGER, until INTEGER, digest BLOB,
    PRIMARY KEY(sender, id, agent)
    ) WITHOUT ROWID;
CREATE TABLE pairs_out(
    sender BLOB, recipient BLOB, epoch BLOB, last INTEGER, PRIMARY KEY(sender, recipient)
    ) WITHOUT ROWID;
CREATE TABLE pairs_in(
    recipient BLOB, sender BLOB, epoch BLOB, last INTEGER, age INTEGER,
    PRIMARY KEY(recipient, sender, epoch)
    ) WITHOUT ROWID;
CREATE TABLE gaps(
    recipient BLOB, sender BLOB, epoch BLOB, number INTEGER, upto INTEGER, at INTEGER,
    PRIMARY KEY(recipient, sender, epoch, number)) WITHOUT ROWID;
CREATE TABLE relays(uri TEXT PRIMARY KEY, token BLOB, seq INTEGER) WITHOUT ROWID;
CREATE TABLE cards(
    key BLOB PRIMARY KEY, address TEXT, number INTEGER, signed BLOB, node BLOB, at INTEGER,
    withdrawn INTEGER, seq INTEGER) WITHOUT ROWID;
CREATE TABLE contacts(
    address TEXT, key BLOB, state TEXT, blocked INTEGER, since INTEGER, source TEXT, relays TEXT,
    note TEXT, seq INTEGER, PRIMARY KEY(address, key)) WITHOUT ROWID;
CREATE TABLE lost(
    segment INTEGER, offset INTEGER, first INTEGER, last INTEGER, reason TEXT,
    PRIMARY KEY(segment, offset, first, last)) WITHOUT ROWID;
ANALYZE;
"""

# What only questions need: a rebuild makes these at its end, which is faster.
INDEXES: Final = """
CREATE INDEX garbage_killer ON garbage(killer);
CREATE INDEX garbage_id ON garbage(id) WHERE id IS NOT NULL;
CREATE INDEX messages_tail ON messages(substr(id, -3));
CREATE INDEX messages_thread ON messages(thread);
CREATE INDEX messages_by ON messages(by) WHERE by IS NOT NULL;
CREATE INDEX messages_key ON messages(by, key, seq DESC) WHERE key IS NOT NULL;
CREATE INDEX boxes_inbox ON boxes(agent, number) WHERE state < 2;
CREATE INDEX boxes_unread ON boxes(agent, number) WHERE state = 0;
CREATE INDEX boxes_quarantine ON boxes(agent, number) WHERE state = 3;
CREATE INDEX boxes_sender ON boxes(agent, sender, number);
CREATE INDEX deliveries_changed ON deliveries(changed) WHERE changed > 0;
CREATE INDEX outbox_key ON outbox(key);
CREATE INDEX outbox_expires ON outbox(expires);
CREATE INDEX cards_address ON cards(address);
CREATE INDEX contacts_key ON contacts(key);
INSERT INTO sqlite_stat1 VALUES
    ('messages', 'messages_id', '1000000 1'),
    ('messages', 'messages_tail', '1000000 1'),
    ('messages', 'messages_thread', '1000000 5'),
    ('messages', 'messages_by', '1000000 100000'),
    ('boxes', 'boxes_sender', '1000000 100000 1000 1'),
    ('boxes', 'boxes_message', '1000000 1');
ANALYZE sqlite_schema;
"""
