"""What another provider or mesh host brings, checked against its sender's key, and kept.

IN1  A wrong signature is refused, and so is none, unless gateway.amp_signatures is "open": then
     it is kept as unproved.
IN2  The first key that proved an address is remembered for it. Another one proves nothing: what
     it signed is kept as untrusted, until the user removes the contact (`amp contact remove`).
IN3  The same signed message under another id, within REPEAT_WITHIN, is a replay and refused:
     the sender's signature does not cover the id. After that it may be said again.
IN4  Nobody elsewhere speaks for an agent of this node.
IN5  What is kept once is answered as kept, however often it comes (core/foreign.py, X5).
"""

import hashlib
from typing import Final

from ampd.core.agents import Agent
from ampd.core.foreign import Incoming
from ampd.core.safety import flags
from ampd.crypto.foreign_keys import ForeignKey
from ampd.edge.amp.abuse import Abuse
from ampd.edge.amp.keys import checker, key_hex
from ampd.edge.amp.ports import Mail
from ampd.edge.amp.rendering import carrying
from ampd.edge.gateway_values import Shared
from ampd.model.address import Address
from ampd.model.errors import Invalid, Refused
from ampd.model.values import value
from ampd.protocol import raw_json
from ampd.protocol.amp import signing
from ampd.protocol.amp.envelope import Post
from ampd.protocol.amp.faults import Fault
from ampd.protocol.amp.ids import native_id, thread_of

REPEAT_WITHIN: Final = 300_000  # milliseconds: how long a provider's own signature is fresh
REPLAY: Final = "replay_detected"  # not "duplicate": the sender must not take it for kept
KEPT_FOR: Final = 7 * 86_400_000  # what says no end itself
KEY_KEPT_FOR: Final = 400 * 86_400_000
KEYS: Final = "amp.sender_key"  # of external.py, too
_SEEN: Final = "amp.seen"


@value
class Taken:
    """What came in, for whom, and whether it was new."""

    agent: Agent
    id: bytes
    fresh: bool


def key_said(text: object) -> ForeignKey | None:
    """A sender's key as PEM, or as hex of its raw bytes or its SPKI; None if it is none."""
    if not isinstance(text, str) or not text:
        return None
    try:
        if "BEGIN" in text:
            return ForeignKey.from_pem(text)
        data = bytes.fromhex(text)
        return ForeignKey.from_raw_ed25519(data) if len(data) == 32 else ForeignKey.from_spki(data)
    except (Invalid, ValueError):
        return None


def incoming_of(
    post: Post, agent: Agent, sender: Address, key: ForeignKey | None, now: int, *, proved: bool,
    protocol: str,
) -> Incoming:  # fmt: skip
    """What somebody else's message is here, whichever way it came; `key` is what signed it."""
    thread = thread_of(post.id, post.thread, post.in_reply_to, "")
    envelope = {**post.envelope, "thread_id": thread, "priority": post.priority}
    return Incoming(
        id=native_id(post.id),
        sender=sender,
        to=(agent,),
        sent=min(post.timestamp or now, now),
        expires=post.expires or now + KEPT_FOR,
        thread=native_id(thread),
        in_reply_to=native_id(post.in_reply_to) if post.in_reply_to else None,
        priority=post.priority,
        type=post.type,
        subject=post.subject,
        body=post.message,
        payload=raw_json.write(post.payload),
        context=carrying(envelope, key_hex(key) if key else ""),
        proved=proved,
        protocol=protocol,
    )


class Intake:
    """Takes in messages of senders elsewhere."""

    def __init__(self, shared: Shared, mail: Mail, abuse: Abuse) -> None:
        self._shared = shared
        self._mail = mail
        self._abuse = abuse

    def recipient(self, to: str, who: str) -> Agent:
        """Whom a message is for; Fault 404 that says so, and `who` is remembered for it."""
        try:
            return self._mail.recipient(to)
        except Refused:
            self._abuse.note("unknown_recipient", who)
            raise Fault(
                "recipient_not_found", 404, f"Agent {to[:254]!r} does not exist", field="to"
            ) from None

    async def take(self, post: Post, agent: Agent, key: ForeignKey | None, who: str) -> Taken:
        """Keep it (IN1-IN5). Raises Fault or another AmpdError; `who` brought it."""
        sender = self._sender(post)
        signed = self._check_signature(post, key, who)
        await self._check_replay(post)
        proved = key is not None and signed and await self._proves(sender, key)
        if flags(post.subject, post.message):
            self._abuse.note("injection", str(sender))
        incoming = incoming_of(
            post, agent, sender, key if signed else None, self._shared.now(), proved=proved,
            protocol="amp",
        )  # fmt: skip
        kept = await self._shared.foreign.take_in(incoming)
        return Taken(agent, incoming.id, kept[0][1])

    def _sender(self, post: Post) -> Address:
        """IN4."""
        sender = Address.parse(post.sender)
        try:
            self._mail.recipient(post.sender)
        except Refused:
            return sender
        raise Fault("forbidden", 403, f"{sender} is an agent of this node", field="from")

    def _check_signature(self, post: Post, key: ForeignKey | None, who: str) -> bool:
        """Whether it is signed (IN1)."""
        if not post.signature:
            if self._shared.values.amp_signatures == "open":
                return False
            raise Fault("signature_missing", 403, "unsigned messages are not taken from others")
        if key is None:
            raise Fault("key_not_found", 403, "the sender's public key is missing, or no key")
        if not signing.verify(post.envelope, post.payload, checker(key)):
            self._abuse.note("signature", who)
            raise Fault("signature_invalid", 403, "the sender's signature does not hold")
        return True

    async def _check_replay(self, post: Post) -> None:
        """IN3."""
        if not post.signature:
            return
        signed = f"{post.sender}|{post.to}|{post.signature}".encode()
        key = hashlib.blake2b(signed, digest_size=32).hexdigest()
        expires = self._shared.now() + REPEAT_WITHIN
        if await self._shared.registry.add(_SEEN, key, {"id": post.id}, expires=expires):
            return
        known = self._shared.registry.get(_SEEN, key)
        if known is not None and known["id"] != post.id:
            raise Fault(
                REPLAY, 409, "this message came already, under another id, in the last 5 minutes",
                headers={"Retry-After": str(REPEAT_WITHIN // 1000)},
            )  # fmt: skip

    async def _proves(self, sender: Address, key: ForeignKey) -> bool:
        """IN2."""
        registry, foreign = self._shared.registry, self._shared.foreign
        known = registry.get(KEYS, str(sender))
        is_contact = bool(foreign.protocol_of(foreign.key_of(sender)))
        if known is None or not is_contact:
            expires = self._shared.now() + KEY_KEPT_FOR
            value = {"spki": key.spki.hex()}
            await registry.put(KEYS, str(sender), value, expires=expires)
            return True
        return bool(known["spki"] == key.spki.hex())
