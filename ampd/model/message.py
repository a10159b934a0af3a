"""What agents write to each other, and the forms in which it is signed, sealed and answered.

    Message   everything a reader is shown; encoded, it is the payload of a COSE_Sign1
              (RFC 9052) with external_aad "ampd/message/1"
    Letter    what is inside the seal: the signed message or receipt, and the sender's card
    Envelope  what a carrier sees: a mailbox, an expiry, sealed bytes
    Receipt   what the recipient's node signs (external_aad "ampd/receipt/1"); many travel in one
              letter
    Delivery  what `deliver` returns: how far the envelope got

Rules:

  M1  A message names every recipient with its key and order number, so that nobody can pass it on
      as if it had been sent to somebody else, and a dropped one leaves a gap.
  M2  Times are milliseconds since 1970 in UTC; ids are UUIDv7 (RFC 9562, section 5.7).
  M3  payload and context are JSON texts, byte for byte as the sender's node wrote them.
  M4  A letter is padded with zeros to its bucket (Padmé: at most 12 % more, at least 512 bytes)
      and no further, so that a carrier learns little from its size.
  M5  An envelope is known by the BLAKE2b-256 of its sealed bytes.

Not here: who may sign (crypto), who is believed (core/mailbox.py).
"""

import hashlib
import uuid
from collections.abc import Sequence
from typing import Final, Self

from ampd.model.address import Address
from ampd.model.encoding import decode, encode, encode_in_order
from ampd.model.errors import Invalid
from ampd.model.fields import MAX_INTEGER, Fields
from ampd.model.values import value

MESSAGE_CONTEXT: Final = "ampd/message/1"
RECEIPT_CONTEXT: Final = "ampd/receipt/1"

MAX_RECIPIENTS: Final = 100  # RFC 5321, section 4.5.3.1.8
MAX_SUBJECT: Final = 256  # characters, as AMP section 04
MAX_ENVELOPE: Final = 16 << 20  # what any setting of limits.message_bytes may allow
PRIORITIES: Final = ("low", "normal", "high", "urgent")
KINDS: Final = ("message", "receipts")
STAGES: Final = ("delivered", "read", "acked", "refused")
MAX_REASON: Final = 512  # characters; one line for a person, as in a session's Refuse
MAX_RECEIPTS: Final = 500  # in one letter: about 120 KiB, and half a MiB with the longest of names
MAX_RECEIPT: Final = 4096  # bytes signed, as in a session's Accept
_MAX_TYPE: Final = 64
_MIN_LETTER: Final = 512


@value
class Recipient:
    """One addressee: who, by which key, and the number of this message for that pair."""

    address: Address
    key: bytes
    order: int


@value
class Message:
    """Everything that a reader is shown; all of it is signed."""

    id: bytes
    sender: Address
    to: tuple[Recipient, ...]
    epoch: bytes
    sent: int
    expires: int
    thread: bytes
    in_reply_to: bytes | None = None
    priority: str = "normal"
    type: str = "message"
    subject: str = ""
    body: str = ""
    payload: str | None = None
    context: str | None = None
    receipt: bool = False

    def to_bytes(self) -> bytes:
        """The bytes that are signed."""
        return encode_in_order(
            {
                "v": 1,
                "id": self.id,
                "re": self.in_reply_to,
                "to": [[str(to.address), to.key, to.order] for to in self.to],
                "body": self.body,
                "from": str(self.sender),
                "sent": self.sent,
                "type": self.type,
                "epoch": self.epoch,
                "thread": self.thread,
                "context": self.context,
                "expires": self.expires,
                "payload": self.payload,
                "receipt": self.receipt,
                "subject": self.subject,
                "priority": self.priority,
            }
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """The message that `data` spells, or Invalid."""
        fields = Fields(decode(data, limit=MAX_ENVELOPE), "message")
        fields.version(1)
        message = cls(
            id=fields.data("id", 16),
            sender=Address.from_wire(fields.text("from", 254)),
            to=tuple(_recipient(item) for item in fields.items("to", MAX_RECIPIENTS)),
            epoch=fields.data("epoch", 8),
            sent=fields.integer("sent"),
            expires=fields.integer("expires"),
            thread=fields.data("thread", 16),
            in_reply_to=fields.optional_data("re", 16),
            priority=fields.text("priority", 16),
            type=fields.text("type", _MAX_TYPE, empty=False),
            subject=fields.text("subject", MAX_SUBJECT),
            body=fields.text("body", MAX_ENVELOPE),
            payload=fields.optional_text("payload", MAX_ENVELOPE),
            context=fields.optional_text("context", MAX_ENVELOPE),
            receipt=fields.boolean("receipt"),
        )
        fields.done()
        if not message.to or message.priority not in PRIORITIES:
            raise Invalid("message: no recipient, or a priority that is not known")
        if len({recipient.key for recipient in message.to}) != len(message.to):
            raise Invalid("message: a recipient is named twice")  # with which order number? (M1)
        return message


def _recipient(item: object) -> Recipient:
    if type(item) is list and len(item) == 3:
        address, key, order = item
        if (
            (type(address) is str and type(key) is bytes and type(order) is int)
            and len(key) == 32
            and 0 < order <= MAX_INTEGER
        ):
            return Recipient(Address.from_wire(address), key, order)
    raise Invalid("message: a recipient must be an address, a key and an order number")


@value
class Receipt:
    """That a message got to a stage, or why it never will ("refused"), signed by the key it was
    addressed to."""

    message: bytes  # its id
    digest: bytes  # BLAKE2b-256 of the signed message as it came
    recipient: Address
    sender: Address
    stage: str
    at: int
    reason: str = ""  # of a refusal

    def to_bytes(self) -> bytes:
        """The bytes that are signed."""
        return encode_in_order(
            {
                "v": 1,
                "at": self.at,
                "id": self.message,
                "stage": self.stage,
                "digest": self.digest,
                "reason": self.reason,
                "sender": str(self.sender),
                "recipient": str(self.recipient),
            }
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """The receipt that `data` spells, or Invalid."""
        fields = Fields(decode(data), "receipt")
        fields.version(1)
        receipt = cls(
            message=fields.data("id", 16),
            digest=fields.data("digest", 32),
            recipient=Address.from_wire(fields.text("recipient", 254)),
            sender=Address.from_wire(fields.text("sender", 254)),
            stage=fields.text("stage", 16),
            at=fields.integer("at"),
            reason=fields.text("reason", MAX_REASON),
        )
        fields.done()
        if receipt.stage not in STAGES:
            raise Invalid(f"receipt: the stage {receipt.stage!r} is not known")
        if receipt.reason and receipt.stage != "refused":
            raise Invalid("receipt: a reason, and no refusal")
        return receipt


def receipts_to_bytes(receipts: Sequence[bytes]) -> bytes:
    """Signed receipts, at most MAX_RECEIPTS, as `signed` of a letter of the kind "receipts"."""
    return encode(list(receipts))


def receipts_from_bytes(data: bytes) -> list[bytes]:
    """The signed receipts that `data` spells, not verified; or Invalid."""
    match decode(data, limit=MAX_ENVELOPE):
        case [_, *_] as receipts if len(receipts) <= MAX_RECEIPTS:
            signed = [each for each in receipts if isinstance(each, bytes)]
            if len(signed) == len(receipts) and max(map(len, signed)) <= MAX_RECEIPT:
                return signed
    raise Invalid(f"letter: not 1 to {MAX_RECEIPTS} receipts")


@value
class Letter:
    """What is inside the seal. `kind` is "message", then `signed` is a COSE_Sign1, or "receipts",
    then it is what `receipts_to_bytes` makes of many."""

    kind: str
    signed: bytes
    card: bytes  # the sender's signed card, so that the reader can answer

    def to_bytes(self) -> bytes:
        """Length, content, zeros up to the bucket (M4)."""
        content = encode_in_order(
            {"v": 1, "card": self.card, "kind": self.kind, "signed": self.signed}
        )
        size = 4 + len(content)
        return len(content).to_bytes(4, "big") + content + bytes(_bucket(size) - size)

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """The letter that `data` spells, or Invalid."""
        end = 4 + int.from_bytes(data[:4], "big")
        if len(data) < 4 or len(data) != _bucket(end) or data.count(0, end) != len(data) - end:
            raise Invalid("letter: its length or its padding is wrong")
        fields = Fields(decode(data[4:end], limit=MAX_ENVELOPE), "letter")
        fields.version(1)
        letter = cls(
            kind=fields.text("kind", 16),
            signed=fields.some_data("signed", MAX_ENVELOPE),
            card=fields.some_data("card", 16384),
        )
        fields.done()
        if letter.kind not in KINDS:
            raise Invalid(f"letter: the kind {letter.kind!r} is not known")
        return letter


def _bucket(size: int) -> int:
    """Padmé (Nikitin and others, 2019): keep as many leading bits as the length's length needs."""
    if size <= _MIN_LETTER:
        return _MIN_LETTER
    exponent = size.bit_length() - 1
    mask = (1 << (exponent - exponent.bit_length())) - 1
    return (size + mask) & ~mask


@value
class Envelope:
    """What travels: sealed bytes for a mailbox, until an expiry."""

    mailbox: bytes
    expires: int
    sealed: bytes

    @property
    def id(self) -> bytes:
        """BLAKE2b-256 of the sealed bytes (M5)."""
        return digest(self.sealed)

    def to_wire(self) -> list[object]:
        """As a member of a session's word or of a record."""
        return [self.mailbox, self.expires, self.sealed]

    @classmethod
    def from_wire(cls, value: object) -> Self:
        """The envelope that `value` is, or Invalid."""
        match value:
            case [bytes(mailbox), int(expires), bytes(sealed)] if (
                len(mailbox) == 16
                and type(expires) is int
                and 0 <= expires <= MAX_INTEGER
                and len(sealed) <= MAX_ENVELOPE
            ):
                return cls(mailbox, expires, sealed)
        raise Invalid("an envelope must be a mailbox, an expiry and sealed bytes")


@value
class Delivery:
    """How far an envelope got: `delivered` (with the signed receipt) or `relayed` (b"")."""

    status: str
    receipt: bytes = b""


def digest(data: bytes) -> bytes:
    """BLAKE2b-256 (RFC 7693)."""
    return hashlib.blake2b(data, digest_size=32).digest()


def new_id(now: int, chance: bytes) -> bytes:
    """A UUIDv7 of the time `now` and 10 random bytes (RFC 9562, section 5.7)."""
    raw = bytearray((now & 0xFFFFFFFFFFFF).to_bytes(6, "big") + chance[:10])
    raw[6] = (raw[6] & 0x0F) | 0x70
    raw[8] = (raw[8] & 0x3F) | 0x80
    return bytes(raw)


def id_text(identifier: bytes) -> str:
    """An id as people and programs see it."""
    digits = identifier.hex()
    if len(digits) != 32:
        raise ValueError("an id has 16 bytes")
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def id_from_text(text: str) -> bytes:
    """The 16 bytes of an id, or Invalid."""
    try:
        identifier = uuid.UUID(text).bytes
    except ValueError:
        identifier = b""
    if not identifier or id_text(identifier) != text.lower():  # UUID() also takes braces, "_", ...
        raise Invalid(
            f"{text[:60]!r} is no message id",
            hint="use the number that `amp inbox` shows, or 6 or more characters of the id",
        )
    return identifier
