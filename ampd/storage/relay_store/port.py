"""This module is what a relay asks of its store: the port, its values and its limits.

  RS1  `deposit` returns after the mail is durable. It returns False for mail that the store holds
       or held before, also after its removal, until the mail's expiry: nothing twice.
  RS2  Mail is known by mailbox, expiry and sealed bytes together (`mark`): who got hold of a copy
       cannot use up its mark for another mailbox or with an earlier end.
  RS3  `after` hands out a mailbox in the order of deposit, and nothing whose time is over.
  RS4  A full mailbox, a full store and a full disk refuse new mail and overwrite nothing; handing
       out and removing go on, and deposits go on by themselves when there is room.
  RS5  `changed` is taken before `after` is asked: then nothing is missed. It may be set in vain.
  RS6  Of one key the card with the highest number is kept, withdrawn ones too; an older one never
       replaces it.
  RS7  An invitation lets in as many nodes as it has uses, until its end, and each node once. Who
       was removed comes back by `add_member` only.
  RS8  Memory does not grow with the number of mailboxes.

`SqliteRelayStore` keeps RS4 to the byte; on a cluster each further relay may exceed the quota of a
mailbox by a twentieth (JM5 of jetstream_mail.py).

Nothing is kept of who deposited: a relay cannot tell what it does not know. Times are milliseconds
since 1970. Every method may raise Unavailable: the store is away or failing, and what was asked may
or may not have happened; asking again is safe.

Not here: whether a card's signature is good, who may ask (core).
"""

import hashlib
from collections.abc import Sequence
from typing import Final, Protocol

import trio

from ampd.model.errors import Invalid, Refused, Unavailable
from ampd.model.message import Envelope
from ampd.model.values import value

Token = int | str  # where a held envelope lies; opaque, and good for one mailbox only

DAY: Final = 24 * 60 * 60 * 1000
PAGE_BYTES: Final = 4 << 20  # `after` stops behind this much, so that a reader takes bounded memory
RETRY_MAILBOX: Final = 900.0  # seconds; a mailbox empties when its owner comes: a relay's back-off
RETRY_STORE: Final = 60.0  # seconds; expiry runs about as often
MOST_USES: Final = 10_000  # of an invitation
FEWEST_LEFT: Final = 1000  # milliseconds; mail with less to live cannot reach anybody


@value
class Limits:
    """How much a relay keeps."""

    mailbox_messages: int = 1000  # as AMP section 09 has it for its relay queue
    mailbox_bytes: int = 32 << 20
    total_bytes: int = 10 << 30  # a third of a small SD card
    message_bytes: int = 16 << 20  # what an envelope can be at most
    ttl: int = 31 * DAY  # the longest life of a message, and a day for clocks that differ
    cards: int = 100_000  # a card is at most 16 KiB
    spare_bytes: int = 64 << 20  # of the disk, for removing and for the log of the database


@value
class Held:
    """An envelope in a mailbox; `token` is the cursor behind it and the word to remove it by."""

    token: Token
    envelope: Envelope


@value
class Usage:
    """What lies somewhere; `bytes` counts sealed bytes."""

    messages: int
    bytes: int


class Full(Unavailable):
    """No room now; `retry_after` seconds are a good time to wait."""

    code = "quota_exceeded"

    def __init__(self, message: str, retry_after: float, *, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.retry_after = retry_after


class RelayStore(Protocol):
    """A relay's memory. Its methods work while `run` does."""

    async def run(self, task_status: trio.TaskStatus[None] = ...) -> None:
        """Open the store (StorageError or Unavailable when it cannot be), say so, and serve.

        Cancelled, it finishes what was handed in, and closes; a cluster that does not answer is not
        waited for.
        """

    async def deposit(self, envelope: Envelope) -> bool:
        """Keep `envelope` (RS1): True when it is new, False when it is or was held already.

        Raises Full; Refused "expired" or "too_large". Cancelled, it may or may not have happened.
        """

    async def after(self, mailbox: bytes, cursor: Token | None, limit: int) -> list[Held]:
        """At most `limit` envelopes, and about PAGE_BYTES, from behind `cursor` on (RS3).

        Empty only when there is nothing more, or when `changed` will say that there is.
        """

    def changed(self, mailbox: bytes) -> trio.Event:
        """An event that is set when mail was deposited after this call, at any relay (RS5)."""

    async def remove(self, mailbox: bytes, tokens: Sequence[Token]) -> None:
        """Forget this mail, durably; what is gone already is no error."""

    async def count(self) -> int:
        """How many messages are held in all."""

    async def usage(self, mailbox: bytes) -> Usage:
        """What lies in one mailbox."""

    async def expire(self, now: int) -> int:
        """Drop what ended at or before `now`; how many messages. A store that does this by itself
        answers 0. Once a minute is enough."""

    async def put_card(
        self,
        key: bytes,
        address: str,
        number: int,
        signed: bytes,
        *,
        withdrawn: bool,
        renew: bool = False,
    ) -> bool:
        """Keep a card, durably, if it is newer than what is kept of its key (RS6); with `renew`,
        also if it is as new."""

    async def card(self, key: bytes) -> bytes | None:
        """What is kept as the newest card of a key."""

    async def cards(self, pattern: str, limit: int = 1000) -> list[bytes]:
        """Signed cards of an address ("alice@x.local"), a domain ("@x.local") or of all ("").

        Withdrawn ones last; more than `limit` are cut off by the store as it likes.
        """

    async def add_invitation(self, token_hash: bytes, until: int, uses: int) -> None:
        """Let the holder of the token in, `uses` times, until a time (RS7)."""

    async def redeem(self, token_hash: bytes, node: bytes, now: int) -> bool:
        """Make `node` a member by an invitation; True also when it is one already."""

    async def is_member(self, node: bytes) -> bool:
        """Whether the relay may be used by this node."""

    async def add_member(self, node: bytes) -> None:
        """Let this node in, also after it was removed."""

    async def remove_member(self, node: bytes) -> None:
        """Keep this node out, whatever invitation it has."""


def check_uses(uses: int) -> None:
    """Invalid when an invitation is for too many (the list of its guests is one record)."""
    if not 0 < uses <= MOST_USES:
        raise Invalid(f"an invitation is for 1 to {MOST_USES} nodes, not {uses}")


def mark(envelope: Envelope) -> bytes:
    """What an envelope is recognised by (RS2), 16 bytes."""
    return hashlib.blake2b(
        envelope.mailbox + envelope.expires.to_bytes(8, "big") + envelope.id,
        digest_size=16,
        person=b"ampd/relay mark",
    ).digest()


def lasts_until(envelope: Envelope, limits: Limits, now: int, largest: int) -> int:
    """When the store may forget this envelope; Refused when it cannot be kept at all."""
    size = len(envelope.sealed)
    if size > largest:
        raise Refused(f"{size} bytes, and this relay takes at most {largest}", code="too_large")
    if envelope.expires < now + FEWEST_LEFT:
        raise Refused("its time is over", code="expired")
    return min(envelope.expires, now + limits.ttl)


def check_room(limits: Limits, size: int, mailbox: Usage, total: Usage) -> None:
    """Full when `size` bytes more are too much for the mailbox or for the store (RS4)."""
    if mailbox.messages >= limits.mailbox_messages or mailbox.bytes + size > limits.mailbox_bytes:
        raise Full(
            f"the mailbox is full: {mailbox.messages} messages, {mailbox.bytes} bytes",
            RETRY_MAILBOX,
        )
    if total.bytes + size > limits.total_bytes:
        raise Full(f"the relay is full: {total.bytes} bytes", RETRY_STORE)
