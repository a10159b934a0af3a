"""The one door for local agents: from a draft to a message that is signed, sealed and on disk.

U1  When `send` returns, the message is on disk, signed, with its order numbers, and for every
    recipient elsewhere the sealed bytes lie in the outbox: "queued" is true (P1).
U2  Order numbers are drawn and used in one work of the store, so that none is ever burnt and
    the numbers follow the journal (P3).
U3  A recipient on this node has the message in the same moment: "delivered", via "local".
U4  The same idempotency key of the same agent gives the first answer again, for 7 days.
U5  A message with a recipient that cannot be resolved is refused whole, and nothing is sent.
U6  An id that the caller gave is that of one message of this agent: sending the same again gives
    the first answer, for as long as the message or a mark of it is there; anything else under
    this id is refused, code conflict.
U7  An agent's sends have their turns (storage/turns.py): nobody's wait for all of another's.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import field
from typing import Final

from ampd.core.agents import Agent, Agents
from ampd.core.cards import read_card
from ampd.core.contacts import Contacts, Target
from ampd.core.recipients import Recipients
from ampd.crypto.keys import random_bytes, seal, seal_to_signer
from ampd.model.card import mailbox_of
from ampd.model.errors import Invalid, Refused, StorageError
from ampd.model.message import (
    MAX_RECIPIENTS,
    MAX_SUBJECT,
    MESSAGE_CONTEXT,
    PRIORITIES,
    Letter,
    Message,
    Recipient,
    digest,
    id_text,
    new_id,
)
from ampd.model.values import value
from ampd.storage.index import read_payload
from ampd.storage.records import Contact, Kept, Queued, State
from ampd.storage.store import MAX_BATCH, Store, Transaction
from ampd.storage.turns import AT_ONCE
from ampd.storage.view import Reader

EXPIRES_AFTER: Final = 30 * 86_400_000
LONGEST_EXPIRY: Final = 30 * 86_400_000  # the mark as seen is kept 31 days
REPEAT_WITHIN: Final = 7 * 86_400_000  # U4
MOST_AT_ONCE: Final = AT_ONCE  # sends in one work: as many as an agent may have at the store
_MAX_KEY: Final = 200


@value
class Draft:
    """What a local agent wants sent. `payload` and `context` are JSON texts."""

    to: tuple[str, ...]
    subject: str = ""
    text: str = ""
    payload: str | None = None
    type: str = "message"
    priority: str = "normal"
    context: str | None = None
    in_reply_to: bytes | None = None
    thread: bytes | None = None
    expires_in: int = EXPIRES_AFTER
    receipt: bool = False
    key: str = ""
    id: bytes | None = None  # 16 bytes; None: a new one (U6)


@value
class SentTo:
    """What became of one recipient's copy."""

    address: str
    status: str
    via: str
    error: str = ""


@value
class Sent:
    """The answer to a submission."""

    id: str
    thread: str
    recipients: tuple[SentTo, ...]
    at: int = field(default=0, compare=False)  # when it was kept, ms; 0: it was sent before

    @property
    def status(self) -> str:
        """The one that is furthest back speaks for the message."""
        return overall([to.status for to in self.recipients])


_BACKMOST: Final = ("failed", "expired", "queued", "relayed", "delivered", "read")


def overall(statuses: Sequence[str]) -> str:
    """The status of a message with several recipients: what is still to happen, or went wrong."""
    return min(statuses, key=_BACKMOST.index)


class Submission:
    """Takes drafts from the agents of this node."""

    def __init__(
        self,
        store: Store,
        agents: Agents,
        contacts: Contacts,
        now: Callable[[], int],
        message_bytes: int,
    ) -> None:
        self._store = store
        self._agents = agents
        self._contacts = contacts
        self._now = now
        self.message_bytes = message_bytes
        self._recipients = Recipients(store.view, agents, contacts)
        self._unsettled: dict[int, Message] = {}  # under ids that callers gave (U6)

    async def send(self, agent: Agent, draft: Draft) -> Sent:
        """Send one draft (U1-U7)."""
        prepared = self.prepare(agent, draft)
        async with self._store.turns.of(agent.key):
            return await self._store.write(prepared)

    async def send_many(
        self, agent: Agent, prepared: Sequence[Callable[[Transaction], Sent]]
    ) -> list[Sent | Refused]:
        """Send what `prepare` made of one agent, in order, under one sync; each is sent or refused
        alone. MOST_AT_ONCE of them at the most (U7).
        """

        def work(tx: Transaction) -> list[Sent | Refused]:
            answers: list[Sent | Refused] = []
            for each in prepared:
                try:
                    answers.append(each(tx))
                except Refused as exc:
                    answers.append(exc)
            return answers

        async with self._store.turns.of(agent.key, len(prepared)):
            return await self._store.write(work)

    def knows(self, draft: Draft) -> bool:
        """Whether every recipient can be resolved now."""
        try:
            self._targets(draft)
        except Refused:
            return False
        return True

    def prepare(self, agent: Agent, draft: Draft) -> Callable[[Transaction], Sent]:
        """Check the draft and resolve its recipients; the work that sends it. Raises Refused."""
        self._check(draft)
        try:
            targets = self._targets(draft)
        except Refused:
            if not self._repeated(self._store.view, agent, draft, self._now()):
                raise
            targets = []  # whoever it was for then need not be known any more
        identifier = draft.id or new_id(self._now(), random_bytes(10))
        return lambda tx: self._submit(tx, agent, draft, targets, identifier)

    def _check(self, draft: Draft) -> None:
        if not draft.to:
            raise Invalid("no recipient", hint="amp send TO SUBJECT BODY")
        if len(draft.to) > MAX_RECIPIENTS:
            raise Invalid(f"{len(draft.to)} recipients, over {MAX_RECIPIENTS}", code="too_large")
        if len(draft.subject) > MAX_SUBJECT:
            raise Invalid(
                f"a subject of {len(draft.subject)} characters, over {MAX_SUBJECT}",
                code="too_large", hint="put the rest into the body",
            )  # fmt: skip
        length = len(draft.text) + len(draft.payload or "") + len(draft.context or "")
        if length > self.message_bytes:  # in characters; better known before it is signed
            raise self._too_large(f"a message of more than {self.message_bytes} bytes")
        if draft.priority not in PRIORITIES:
            raise Invalid(f"priority {draft.priority!r}", hint="use " + ", ".join(PRIORITIES))
        if not 0 < draft.expires_in <= LONGEST_EXPIRY:
            raise Invalid("a message lasts more than 0 seconds and at most 30 days")
        if not 0 < len(draft.type) <= 64 or len(draft.key) > _MAX_KEY:
            raise Invalid("a type has 1 to 64 characters, an idempotency key at most 200")
        if draft.id is not None and len(draft.id) != 16:
            raise Invalid("an id has 16 bytes")
        _no_surrogates(
            draft.subject, draft.text, draft.type, draft.payload, draft.context, draft.key
        )

    def _too_large(self, what: str) -> Refused:
        hint = "send less, or raise limits.message_bytes on both nodes"
        return Refused(what, code="too_large", hint=hint)

    def _targets(self, draft: Draft) -> list[Target]:
        return self._recipients.targets(draft.to, draft.in_reply_to)

    def _submit(
        self, tx: Transaction, agent: Agent, draft: Draft, targets: list[Target], identifier: bytes
    ) -> Sent:
        if (draft.key or draft.id) and (before := self._repeated(tx.db, agent, draft, tx.now)):
            return before
        targets = targets or self._targets(draft)
        _check_here(tx, [agent.key, *(target.key for target in targets if target.local)])
        message = self._message(tx, agent, draft, targets, identifier)
        payload = message.to_bytes()
        signed = agent.keys.signing.sign1(MESSAGE_CONTEXT, payload)
        if len(signed) > self.message_bytes:
            raise self._too_large(f"a message of {len(signed)} bytes, over {self.message_bytes}")
        boxes = self._boxes(tx, message, agent, targets)
        letters = self._letters(tx, agent, message, targets, signed)
        kept = Kept(signed, tx.now, "local", True, agent.key, tuple(boxes), key=draft.key)
        seq = tx.append(kept)
        if draft.id is not None:
            self._remember(seq, message)
        for target, queued in letters:  # nothing from here on can be refused
            tx.append(queued)
            _write_to(tx, target)
        here = {box[0] for box in boxes}
        return Sent(
            id_text(message.id),
            id_text(message.thread),
            tuple(
                SentTo(str(to.address), "delivered" if to.key in here else "queued",
                       "local" if to.key in here else "")
                for to in message.to
            ),
            tx.now,
        )  # fmt: skip

    def _message(
        self, tx: Transaction, agent: Agent, draft: Draft, targets: list[Target], identifier: bytes
    ) -> Message:
        return Message(
            id=identifier,
            sender=agent.address,
            to=tuple(
                Recipient(target.address, target.key, tx.rows.next_order(agent.key, target.key))
                for target in targets
            ),
            epoch=tx.rows.epoch,
            sent=tx.now,
            expires=tx.now + draft.expires_in,
            thread=draft.thread or identifier,
            in_reply_to=draft.in_reply_to,
            priority=draft.priority,
            type=draft.type,
            subject=draft.subject,
            body=draft.text,
            payload=draft.payload,
            context=draft.context,
            receipt=draft.receipt,
        )

    def _boxes(
        self, tx: Transaction, message: Message, agent: Agent, targets: list[Target]
    ) -> list[tuple[bytes, int, int, str]]:
        boxes = []
        for target in targets:
            if target.local is not None:
                reason = self._contacts.judge(tx, message.sender, agent.key, "local")
                state = State.QUARANTINED if reason else State.UNREAD
                number = tx.rows.next_number(target.key)
                boxes.append((target.key, number, int(state), reason))
        return boxes

    def _letters(
        self, tx: Transaction, agent: Agent, message: Message, targets: list[Target], signed: bytes
    ) -> list[tuple[Target, Queued]]:
        """For every recipient elsewhere, the sealed bytes for the outbox."""
        letters = []
        letter = sent = b""
        for place, target in enumerate(targets):
            if target.local is not None:
                continue
            letter = letter or Letter("message", signed, agent.signed_card).to_bytes()
            sent = sent or digest(signed)
            queued = Queued(
                "message", message.id, place, agent.key, str(target.address), target.key,
                mailbox_of(target.key), message.expires,
                _sealed(tx, target, letter), tx.now, digest=sent,
            )  # fmt: skip
            letters.append((target, queued))
        return letters

    def _repeated(self, db: Reader, agent: Agent, draft: Draft, now: int) -> Sent | None:
        """The first answer, if this was sent before (U4, U6)."""
        if draft.key:
            row = db.execute(
                "SELECT i.message, i.at FROM idempotency i JOIN agents a ON a.id=i.agent"
                " WHERE a.key=? AND i.key=?",
                (agent.key, draft.key),
            ).fetchone()
            if row is not None and row["at"] + REPEAT_WITHIN >= now:
                return _answer(db, row["message"])
        return self._same_id(db, agent, draft) if draft.id is not None else None

    def _same_id(self, db: Reader, agent: Agent, draft: Draft) -> Sent | None:
        """U6."""
        row = db.execute(
            "SELECT m.seq, m.by, p.seq AS place FROM messages m LEFT JOIN places p ON p.seq=m.seq"
            " WHERE m.id=:id AND m.sender_key=:key"
            " UNION ALL SELECT 0, NULL, 0 FROM seen WHERE sender=:key AND id=:id LIMIT 1",
            {"id": draft.id, "key": agent.key},
        ).fetchone()
        if row is None:
            return None
        if row["by"] is not None:
            before = self._unsettled.get(row["seq"]) if row["place"] is None else None
            if before is None or before.id != draft.id:
                before = self._kept(db, row["seq"])
            if self._is(before, draft):
                return _answer(db, row["seq"])
        raise Refused(
            "another message was sent under this id", code="conflict", hint="give it a new id"
        )

    def _kept(self, db: Reader, seq: int) -> Message:
        record = self._store.payload_at(db, seq)
        if not isinstance(record, Kept):
            raise StorageError("the index points to another record", hint="amp check --repair")
        return Message.from_bytes(read_payload(record.signed))

    def _is(self, message: Message, draft: Draft) -> bool:
        """Whether this is what the draft would make; it may have been late then, and be now."""
        fields = ("subject", "payload", "type", "priority", "context", "in_reply_to", "receipt")
        if any(getattr(message, name) != getattr(draft, name) for name in fields):
            return False
        if (message.body, message.thread) != (draft.text, draft.thread or message.id):
            return False
        return {to.key for to in message.to} == {self._key_of(text, message) for text in draft.to}

    def _key_of(self, text: str, message: Message) -> bytes:
        """Whom a draft means: by the message that was sent, if it names them."""
        named = next((to.key for to in message.to if str(to.address) == text.lower()), None)
        return named or self._contacts.resolve(text).key

    def _remember(self, seq: int, message: Message) -> None:
        """What cannot be read before its sync; a batch of the store is the most that can be."""
        self._unsettled[seq] = message
        if len(self._unsettled) > MAX_BATCH:
            del self._unsettled[next(iter(self._unsettled))]


def _answer(db: Reader, seq: int) -> Sent:
    """What became of a message that an agent here sent."""
    row = db.execute("SELECT id, thread FROM messages WHERE seq=?", (seq,)).fetchone()
    found = db.execute(
        "SELECT address, status, via, error FROM deliveries WHERE message=? ORDER BY recipient",
        (seq,),
    )
    recipients = tuple(SentTo(*(value or "" for value in each)) for each in found)
    return Sent(id_text(row["id"]), id_text(row["thread"]), recipients)


def _sealed(tx: Transaction, target: Target, letter: bytes) -> bytes:
    """A letter to the newest card, which may have come since the target was resolved; to the key
    itself, if nothing else is known yet (a contact link).
    """
    row = tx.db.execute("SELECT signed FROM cards WHERE key=?", (target.key,)).fetchone()
    if row is None:
        return seal_to_signer(target.key, letter)
    return seal(read_card(row[0])[1].seal_to(tx.now), letter)


def _write_to(tx: Transaction, target: Target) -> None:
    """Who is written to is known from then on, and not a stranger when it answers."""
    row = tx.db.execute(
        "SELECT * FROM contacts WHERE address=? AND key=? AND state='seen'",
        (str(target.address), target.key),
    ).fetchone()
    if row is not None:
        relays = tuple(json.loads(row["relays"]))
        tx.append(
            Contact(
                row["address"], row["key"], "pinned", bool(row["blocked"]), row["since"],
                row["source"], relays, row["note"],
            )
        )  # fmt: skip


def _check_here(tx: Transaction, keys: Sequence[bytes]) -> None:
    """Refused if an agent of this node was removed since it was looked up."""
    for key in keys:
        if name := tx.rows.removed(key):
            raise Refused(f"{name} was removed from this node", code="recipient_unknown")


def _no_surrogates(*texts: str | None) -> None:
    for text in texts:
        try:
            (text or "").encode()
        except UnicodeEncodeError:
            raise Invalid("text with a lone surrogate, which no UTF-8 can carry") from None
