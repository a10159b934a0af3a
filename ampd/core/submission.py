"""The one door for local agents: from a draft to a message that is signed, sealed and on disk.

U1  When `send` returns, the message is on disk, signed, with its order numbers, and for every
    recipient elsewhere the sealed bytes lie in the outbox: "queued" is true (P1).
U2  Order numbers are drawn and used in one work of the store, so that none is ever burnt and
    the numbers follow the journal (P3).
U3  A recipient on this node has the message in the same moment: "delivered", via "local".
U4  The same idempotency key of the same agent gives the first answer again, for 7 days.
U5  A message with a recipient that cannot be resolved is refused whole, and nothing is sent.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from ampd.core.agents import Agent, Agents
from ampd.core.contacts import Contacts, Target, read_card
from ampd.core.safety import flags
from ampd.crypto.keys import random_bytes, seal, seal_to_signer
from ampd.model.card import mailbox_of
from ampd.model.errors import Invalid, Refused
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
from ampd.storage.records import Contact, Kept, Queued, State
from ampd.storage.store import Store, Transaction
from ampd.storage.view import Reader

EXPIRES_AFTER: Final = 30 * 86_400_000
LONGEST_EXPIRY: Final = 30 * 86_400_000  # the mark as seen is kept 31 days
REPEAT_WITHIN: Final = 7 * 86_400_000  # U4
_MAX_KEY: Final = 200


@dataclass(frozen=True, slots=True)
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


@dataclass(frozen=True, slots=True)
class SentTo:
    """What became of one recipient's copy."""

    address: str
    status: str
    via: str
    error: str = ""


@dataclass(frozen=True, slots=True)
class Sent:
    """The answer to a submission."""

    id: str
    thread: str
    recipients: tuple[SentTo, ...]

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

    async def send(self, agent: Agent, draft: Draft) -> Sent:
        """Send one draft (U1-U5)."""
        prepared = self.prepare(agent, draft)
        return await self._store.write(prepared)

    async def send_many(
        self, prepared: Sequence[Callable[[Transaction], Sent]]
    ) -> list[Sent | Refused]:
        """Send what `prepare` made, in order, under one sync; each is sent or refused alone."""

        def work(tx: Transaction) -> list[Sent | Refused]:
            answers: list[Sent | Refused] = []
            for each in prepared:
                try:
                    answers.append(each(tx))
                except Refused as exc:
                    answers.append(exc)
            return answers

        return await self._store.write(work)

    def knows(self, draft: Draft) -> bool:
        """Whether every recipient can be resolved now."""
        try:
            self._targets(draft.to)
        except Refused:
            return False
        return True

    def prepare(self, agent: Agent, draft: Draft) -> Callable[[Transaction], Sent]:
        """Check the draft and resolve its recipients; the work that sends it. Raises Refused."""
        self._check(draft)
        if draft.key and self._repeated(self._store.view, agent, draft.key, self._now()):
            targets = []  # whoever it was for then need not be known any more
        else:
            targets = self._targets(draft.to)
        identifier = new_id(self._now(), random_bytes(10))
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
        if draft.priority not in PRIORITIES:
            raise Invalid(f"priority {draft.priority!r}", hint="use " + ", ".join(PRIORITIES))
        if not 0 < draft.expires_in <= LONGEST_EXPIRY:
            raise Invalid("a message lasts more than 0 seconds and at most 30 days")
        if not 0 < len(draft.type) <= 64 or len(draft.key) > _MAX_KEY:
            raise Invalid("a type has 1 to 64 characters, an idempotency key at most 200")
        _no_surrogates(
            draft.subject, draft.text, draft.type, draft.payload, draft.context, draft.key
        )

    def _targets(self, to: Sequence[str]) -> list[Target]:
        targets: dict[bytes, Target] = {}
        for text in to:
            target = self._contacts.resolve(text)
            targets.setdefault(target.key, target)
        return list(targets.values())

    def _submit(
        self, tx: Transaction, agent: Agent, draft: Draft, targets: list[Target], identifier: bytes
    ) -> Sent:
        if draft.key and (before := self._repeated(tx.db, agent, draft.key, tx.now)):
            return before
        targets = targets or self._targets(draft.to)
        _check_here(tx, [agent.key, *(target.key for target in targets if target.local)])
        message = self._message(tx, agent, draft, targets, identifier)
        payload = message.to_bytes()
        signed = agent.keys.signing.sign1(MESSAGE_CONTEXT, payload)
        if len(signed) > self.message_bytes:
            raise Refused(
                f"a message of {len(signed)} bytes, over {self.message_bytes}", code="too_large",
                hint="send less, or raise limits.message_bytes on both nodes",
            )  # fmt: skip
        boxes = self._boxes(tx, message, agent, targets)
        found = flags(draft.subject, draft.text, draft.payload or "", draft.context or "")
        letters = self._letters(tx, agent, message, targets, signed)
        tx.append(Kept(signed, tx.now, "local", True, agent.key, tuple(boxes), found, draft.key))
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

    def _repeated(self, db: Reader, agent: Agent, key: str, now: int) -> Sent | None:
        """U4."""
        row = db.execute(
            "SELECT m.seq, m.id, m.thread, i.at FROM idempotency i JOIN messages m"
            " ON m.seq=i.message JOIN agents a ON a.id=i.agent WHERE a.key=? AND i.key=?",
            (agent.key, key),
        ).fetchone()
        if row is None or row["at"] + REPEAT_WITHIN < now:
            return None
        rows = db.execute(
            "SELECT address, status, via, error FROM deliveries WHERE message=? ORDER BY recipient",
            (row["seq"],),
        )
        recipients = tuple(SentTo(*(value or "" for value in each)) for each in rows)
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
