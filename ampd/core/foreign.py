"""Senders and recipients of the foreign protocols (AMP, AMTP) as if they were contacts of ours.

Whoever is known by an address only has no key of this protocol. For each such address the node
derives a shadow key from a secret of its own: what came in by a gateway is signed with it and lies
in the mailbox like all other mail, and what goes out is queued for it like all other mail.

  X1  A shadow key is made of the node's secret and the address: the same after a restart, another
      one on every node, and nobody else's.
  X2  A foreign sender is never taken for somebody of this node, nor for a native contact: a claim
      to an address in this node's domain is refused, one to a native contact's is quarantined.
  X3  What is proved is shown as `external`; what is not, as `untrusted`, under a key that is never
      pinned. Neither is ever `verified`.
  X4  Blocked addresses are refused, and strangers are judged by the user's policy, as for peers.
  X5  A message is kept once for each agent: by its sender, its id, and whether it was proved.
      Something else under the same id is refused, code conflict.
  X6  `take_in` returns once it is on disk (P1), with order numbers without a gap for each pair.
  X7  What a stranger did not prove and the policy holds back makes no contact. If the user accepts
      its address, it is let in, as what is proved is, and stays `untrusted`.

Not here: what a proof is (edge/amp, edge/amtp), how mail gets out (abroad.py).
"""

import hashlib
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from typing import Final

from ampd.core import json_text
from ampd.core.agents import Agent, Agents
from ampd.core.contacts import FOREIGN_SOURCES, Contacts
from ampd.core.mailbox import AHEAD, LONGEST_EXPIRY, held_at
from ampd.core.trust import Known, known_at
from ampd.crypto.keys import SigningKey
from ampd.model.address import Address
from ampd.model.errors import Invalid, Refused
from ampd.model.message import (
    MAX_RECIPIENTS,
    MAX_SUBJECT,
    MESSAGE_CONTEXT,
    PRIORITIES,
    Message,
    Recipient,
)
from ampd.model.values import value
from ampd.storage.index import read_payload
from ampd.storage.records import Contact, Kept, State
from ampd.storage.store import MAX_BATCH, Store, Transaction
from ampd.storage.view import Reader

_USABLE: Final = ("seen", "pinned", "verified")
_MAX_TYPE: Final = 64
_MAX_NOTE: Final = 200


@value
class Incoming:
    """A message that came by a foreign protocol. `payload` and `context` are JSON texts.

    `to` are the agents of this node that it is for. A subject that is too long is cut, as is a
    type: what came stands whole in the context.
    """

    id: bytes
    sender: Address
    to: tuple[Agent, ...]
    sent: int
    expires: int
    thread: bytes
    in_reply_to: bytes | None
    priority: str
    type: str
    subject: str
    body: str
    payload: str | None
    context: str | None
    proved: bool
    protocol: str = ""  # by which a proved sender can be answered: "amp" or "amtp"


class Foreign:
    """Takes mail in from the gateways, and knows whom they reach."""

    def __init__(
        self,
        store: Store,
        agents: Agents,
        contacts: Contacts,
        secret: bytes,
        now: Callable[[], int],
        message_bytes: int,
    ) -> None:
        """`secret` is 32 bytes that nobody else has."""
        self._store = store
        self._agents = agents
        self._contacts = contacts
        self._secret = secret
        self._now = now
        self.message_bytes = message_bytes
        self._unsettled: dict[int, Message] = {}
        contacts.shadows = self

    # --- shadow keys (X1) ------------------------------------------------------------------

    def key_of(self, address: Address) -> bytes:
        """The public key that stands for a foreign address."""
        return _shadow(self._secret, str(address), True).public

    def protocol_of(self, key: bytes) -> str:
        """By which protocol the holder of a shadow key is reached; "" if it is no shadow key."""
        rows = self._store.view.execute("SELECT address, source FROM contacts WHERE key=?", (key,))
        for address, source in rows:
            if source in FOREIGN_SOURCES and self.is_shadow(address, key):
                return str(source)
        return ""

    def is_shadow(self, address: str, key: bytes) -> bool:
        """Whether this is the shadow key of this address."""
        return _shadow(self._secret, address, True).public == key

    def unproved_of(self, contact: Known) -> bytes | None:
        """The key of what came unproved from the address of a contact; None if it has its own."""
        if not self.is_shadow(contact.address, contact.key):
            return None
        return _shadow(self._secret, contact.address, False).public

    def held(self, text: str) -> Known | None:
        """The contact that an address can be made, of which mail is held back that nobody proved.

        None if there is no such mail, or if the address is a contact with a key of its own (X7).
        """
        if "@" not in text:
            return None
        address = Address.parse(text)
        key = self.key_of(address)
        row = self._store.view.execute(
            "SELECT m.seq FROM boxes b JOIN messages m ON m.seq=b.message"
            " WHERE b.state=3 AND m.sender=? AND m.sender_key=? LIMIT 1",
            (str(address), _shadow(self._secret, str(address), False).public),
        ).fetchone()
        known = known_at(self._store.view, str(address))
        if row is None or any(c.key != key and c.state in _USABLE for c in known):
            return None
        fresh = Known(
            str(address), key, "pending", False, self._now(), self._protocol_in(row[0]), (), ""
        )
        return next((c for c in known if c.key == key), fresh)

    def _protocol_in(self, seq: int) -> str:
        """By which protocol a message came: what comes by AMP always says so in its context."""
        record = self._store.payload(seq)
        read = Message.from_bytes(read_payload(record.signed)) if isinstance(record, Kept) else None
        context = json_text.to_value(read.context) if read and read.context else None
        return "amp" if isinstance(context, dict) and "amp" in context else "amtp"

    # --- whom we may write to --------------------------------------------------------------

    async def introduce(self, address: Address, protocol: str, note: str = "") -> None:
        """From now on Contacts.resolve finds this address; mail for it waits for `protocol`.

        Refused if it is an address of this node, blocked, or a native contact's (X2).
        """
        if protocol not in FOREIGN_SOURCES:
            raise Invalid(f"no protocol {protocol!r}", hint="use " + ", ".join(FOREIGN_SOURCES))
        self._check_domain(address)
        key = self.key_of(address)

        def work(tx: Transaction) -> None:
            known = known_at(tx.db, str(address))
            _check_blocked(address, known)
            if any(c.key != key and c.state in _USABLE for c in known):
                raise Refused(
                    f"{address} is a contact with a key of its own", code="conflict",
                    hint=f"amp contact show {address}",
                )  # fmt: skip
            same = next((c for c in known if c.key == key), None)
            if same is None or (same.state, same.source) != ("pinned", protocol):
                since = same.since if same else tx.now
                said = note[:_MAX_NOTE] or (same.note if same else "")
                tx.append(Contact(str(address), key, "pinned", False, since, protocol, (), said))

        if not self._is_introduced(address, key, protocol):
            await self._store.write(work)

    def _is_introduced(self, address: Address, key: bytes, protocol: str) -> bool:
        known = known_at(self._store.view, str(address))
        return any((c.key, c.state, c.source) == (key, "pinned", protocol) for c in known) and (
            not any(c.blocked for c in known)
        )

    def _check_domain(self, address: Address) -> None:
        """X2."""
        if address.domain == self._agents.domain:
            raise Refused(f"{address} is an address of this node: no other host speaks for it")

    # --- what comes in ---------------------------------------------------------------------

    async def take_in(self, incoming: Incoming) -> list[tuple[Agent, bool]]:
        """Keep a message for the agents here that it is for; which of them it is new to (X2-X6).

        Raises Refused (blocked, forbidden, conflict, expired, too_large ...) or StorageError.
        """
        self._check_domain(incoming.sender)
        now = self._now()
        to = list({agent.key: agent for agent in incoming.to}.values())
        if not 0 < len(to) <= MAX_RECIPIENTS:
            raise Invalid(f"{len(to)} recipients, not 1 to {MAX_RECIPIENTS}")
        if incoming.expires <= now:
            raise Refused("by this node's clock it is expired", code="expired")
        draft = _message(incoming, now)
        return await self._store.write(lambda tx: self._keep(tx, incoming, to, draft))

    def _keep(
        self, tx: Transaction, incoming: Incoming, to: list[Agent], draft: Message
    ) -> list[tuple[Agent, bool]]:
        shadow = _shadow(self._secret, str(draft.sender), incoming.proved)
        new = [not self._has(tx, agent, shadow.public, draft) for agent in to]
        fresh = [agent for agent, is_new in zip(to, new, strict=True) if is_new]
        if fresh:
            self._append(tx, incoming, shadow, draft, fresh)
        return list(zip(to, new, strict=True))

    def _append(
        self, tx: Transaction, incoming: Incoming, shadow: SigningKey, draft: Message,
        fresh: list[Agent],
    ) -> None:  # fmt: skip
        for agent in fresh:
            if name := tx.rows.removed(agent.key):
                raise Refused(f"{name} was removed from this node", code="recipient_unknown")
        reason = self._judge(tx, incoming, shadow.public)
        message = _to(draft, fresh, tx, shadow.public)
        signed = shadow.sign1(MESSAGE_CONTEXT, message.to_bytes())
        if len(signed) > self.message_bytes:
            raise Refused(
                f"a message of {len(signed)} bytes, over {self.message_bytes}", code="too_large"
            )
        Message.from_bytes(read_payload(signed))  # what is kept must pass our own checks
        state = int(State.QUARANTINED if reason else State.UNREAD)
        boxes = tuple((a.key, tx.rows.next_number(a.key), state, reason) for a in fresh)
        kept = Kept(signed, tx.now, "gateway", False, b"", boxes)
        self._remember(tx.append(kept), message)

    def _has(self, tx: Transaction, agent: Agent, sender: bytes, draft: Message) -> bool:
        """X5. Refused if only the id is the same."""
        at, seq, _ = held_at(tx, agent.key, sender, draft.id)
        before = self._before(tx.db, seq, draft.id) if seq else None
        if before is not None and _content(before) != _content(draft):
            raise Refused(f"another message of {draft.sender} has the same id", code="conflict")
        return bool(at)

    def _before(self, db: Reader, seq: int, identifier: bytes) -> Message | None:
        settled = db.execute("SELECT 1 FROM places WHERE seq=?", (seq,)).fetchone()
        if settled is None:  # it came in this very moment: nothing can be read yet
            before = self._unsettled.get(seq)
            return before if before is not None and before.id == identifier else None
        record = self._store.payload_at(db, seq)
        if not isinstance(record, Kept):
            return None
        return Message.from_bytes(read_payload(record.signed))

    def _judge(self, tx: Transaction, incoming: Incoming, key: bytes) -> str:
        """Why it is quarantined, or "" (X2-X4). Raises Refused."""
        sender = incoming.sender
        if incoming.proved:
            return self._contacts.judge(tx, sender, key, incoming.protocol or "gateway")
        known = known_at(tx.db, str(sender))
        _check_blocked(sender, known)
        shadow = self.key_of(sender)
        usable = [c for c in known if c.state in _USABLE]
        if any(c.key != shadow for c in usable):
            return "key_changed"
        if usable or self._contacts.unknown_senders == "accept":
            return ""
        if self._contacts.unknown_senders == "reject":
            raise Refused(f"{sender} is not known here, and strangers are not let in")
        return "unknown_sender"

    def _remember(self, seq: int, message: Message) -> None:
        """What cannot be read before its sync; a batch of the store is the most that can be."""
        self._unsettled[seq] = message
        if len(self._unsettled) > MAX_BATCH:
            del self._unsettled[next(iter(self._unsettled))]


@lru_cache(maxsize=4096)  # correspondents repeat, and a key pair costs 20 us
def _shadow(secret: bytes, address: str, proved: bool) -> SigningKey:  # noqa: FBT001
    """X1, X3: whoever is not proved has another key, that no contact ever has."""
    what = b"ampd/foreign/1\0" + (b"" if proved else b"unproved\0") + address.encode()
    return SigningKey(hashlib.blake2b(what, digest_size=32, key=secret).digest())


def _check_blocked(address: Address, known: list[Known]) -> None:
    if any(contact.blocked for contact in known):
        raise Refused(
            f"{address} is blocked here", code="blocked", hint=f"amp contact unblock {address}"
        )


def _message(incoming: Incoming, now: int) -> Message:
    """What is kept, but for its recipients and their numbers. Raises Invalid."""
    for text in (incoming.subject, incoming.body, incoming.type):
        try:
            text.encode()
        except UnicodeEncodeError:
            raise Invalid("text with a lone surrogate, which no UTF-8 can carry") from None
    for json in (incoming.payload, incoming.context):
        if json is not None:
            json_text.to_value(json)
    return Message(
        id=incoming.id,
        sender=incoming.sender,
        to=(),
        epoch=b"",
        sent=max(0, min(incoming.sent, now + AHEAD)),
        expires=min(incoming.expires, now + LONGEST_EXPIRY),
        thread=incoming.thread,
        in_reply_to=incoming.in_reply_to,
        priority=incoming.priority if incoming.priority in PRIORITIES else "normal",
        type=incoming.type[:_MAX_TYPE] or "message",
        subject=_cut(incoming.subject),
        body=incoming.body,
        payload=incoming.payload,
        context=incoming.context,
    )


def _cut(subject: str) -> str:
    return subject if len(subject) <= MAX_SUBJECT else subject[: MAX_SUBJECT - 1] + "\u2026"


def _to(draft: Message, agents: list[Agent], tx: Transaction, sender: bytes) -> Message:
    """The message with its recipients, and the next number of each pair (X6)."""
    epoch = tx.rows.epoch
    to = []
    for agent in agents:
        row = tx.db.execute(
            "SELECT last FROM pairs_in WHERE recipient=? AND sender=? AND epoch=?",
            (agent.key, sender, epoch),
        ).fetchone()
        to.append(Recipient(agent.address, agent.key, (row[0] if row else 0) + 1))
    return replace(draft, to=tuple(to), epoch=epoch)


def _content(message: Message) -> tuple[object, ...]:
    """What makes two messages under one id the same."""
    return (
        message.sender, message.type, message.subject, message.body, message.payload,
        message.thread, message.in_reply_to,
    )  # fmt: skip
