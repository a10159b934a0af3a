"""What the journal's records say: one CBOR array each, its first item the kind.

  1 Kept      a message in this node's mailboxes, sent by or received for agents here
  2 Queued    sealed bytes that wait in the outbox for one recipient
  3 Progress  how far one recipient's copy of a sent message got; the signed receipt
  4 Marked    a message in a mailbox was read, acked, or marked again
  5 Deleted   a message left a mailbox; its mark as seen stays until it could not be valid any more
  6 Agent     an agent of this node: its key, its signed card, or that it was removed
  7 CardSeen  somebody else's signed card
  8 Contact   what the user, or first sight, said of an address and a key
  9 Epoch     the random epoch of this store, and the file it was drawn for
 10 Counters  numbers that must not run backwards when old records are compacted away
 11 Released  a quarantined message was let into the mailbox under a new number
 12 Dropped   a queued item ended without a recipient's word (its receipt is of no use any more)
 13 (part)    place, number of parts, and the record: one of several that count together or not
 14 Void      a crash left some parts of a group, and not all: they count for nothing
 15 Lost      damage that was reported and written off, and the messages that went with it
 16 RelayUsed a relay that the user added, with the invitation to it, or took away again

R1  A record is never changed; a later one overrides.
R2  Whatever the index knows, it knows from these records.
R3  The parts of a group count only together. A group that a crash tore is told from one whose dead
    parts were compacted away by the Void that is written right behind it before anything else.
"""

from dataclasses import fields
from enum import IntEnum
from typing import Any, ClassVar, Final

from ampd.model.encoding import decode_own, encode_own
from ampd.model.errors import Invalid, StorageError
from ampd.model.values import value


class State(IntEnum):
    """Where a message stands in a mailbox."""

    UNREAD = 0
    READ = 1
    ACKED = 2
    QUARANTINED = 3


@value
class Kept:
    kind: ClassVar[int] = 1
    signed: bytes  # the COSE_Sign1 as it came
    at: int
    via: str
    encrypted: bool
    by: bytes  # key of the local agent that sent it, or b""
    boxes: tuple[tuple[bytes, int, int, str], ...]  # agent key, number, State, reason of quarantine
    unused: tuple[str, ...] = ()  # injection flags, in records of earlier versions
    key: str = ""  # the sender's idempotency key
    missing: int = -1  # letters of its sender missing right before it; -1: not counted yet


@value
class Queued:
    kind: ClassVar[int] = 2
    what: str  # "message" or "receipt"
    message: bytes  # id of the message it carries, or that the receipt is about
    recipient: int  # place among the message's recipients
    by: bytes  # key of the local agent
    address: str
    key: bytes
    mailbox: bytes
    expires: int
    sealed: bytes
    at: int
    replaces: int = 0  # an earlier item, sealed to a key that was stale
    digest: bytes = b""  # of the signed message inside, as its receipt must name it


@value
class Progress:
    kind: ClassVar[int] = 3
    message: bytes
    by: bytes
    recipient: int
    status: str
    via: str
    at: int
    error: str = ""
    receipt: bytes = b""


@value
class Marked:
    kind: ClassVar[int] = 4
    agent: bytes
    messages: tuple[int, ...]  # numbers in that agent's mailbox
    state: int
    at: int


@value
class Deleted:
    kind: ClassVar[int] = 5
    agent: bytes
    id: bytes
    sender: bytes  # key
    until: int
    at: int
    digest: bytes = b""  # of the signed bytes: another message with this id is another message


@value
class Agent:
    kind: ClassVar[int] = 6
    key: bytes
    name: str
    created: int
    card: bytes
    removed: bool = False
    purged: bool = False
    outside: bool = False  # it belongs to somebody who never showed to be of this node


@value
class CardSeen:
    kind: ClassVar[int] = 7
    card: bytes
    node: bytes
    at: int


@value
class Contact:
    kind: ClassVar[int] = 8
    address: str
    key: bytes
    state: str  # "pinned", "verified", "pending", "conflict", "removed"
    blocked: bool
    since: int
    source: str
    relays: tuple[str, ...] = ()
    note: str = ""


@value
class Epoch:
    kind: ClassVar[int] = 9
    epoch: bytes
    place: bytes  # what tells this copy of the store from another


@value
class Counters:
    kind: ClassVar[int] = 10
    agents: tuple[tuple[bytes, int], ...]  # key, last number
    sent: tuple[tuple[bytes, bytes, bytes, int], ...]  # sender, recipient, epoch, last order
    received: tuple[tuple[bytes, bytes, bytes, int], ...]
    gaps: tuple[tuple[bytes, bytes, bytes, int, int, int], ...] = ()


@value
class Released:
    kind: ClassVar[int] = 11
    agent: bytes
    number: int
    new_number: int
    at: int


@value
class Dropped:
    kind: ClassVar[int] = 12
    item: int
    at: int


@value
class Void:
    kind: ClassVar[int] = 14
    first: int  # number of the first part, whether it survived or not
    parts: int


@value
class Lost:
    kind: ClassVar[int] = 15
    segment: int
    offset: int
    first: int  # numbers of the records that are lost; 0 when none is
    last: int
    reason: str
    ids: tuple[str, ...]
    at: int


@value
class RelayUsed:
    kind: ClassVar[int] = 16
    uri: str
    token: bytes  # the invitation, until it was redeemed
    removed: bool


Record = (
    Kept | Queued | Progress | Marked | Deleted | Agent | CardSeen | Contact | Epoch | Counters
    | Released | Dropped | Void | Lost | RelayUsed
)  # fmt: skip

_KINDS: Final[dict[int, type[Any]]] = {
    each.kind: each
    for each in (
        Kept, Queued, Progress, Marked, Deleted, Agent, CardSeen, Contact, Epoch, Counters,
        Released, Dropped, Void, Lost, RelayUsed,
    )
}  # fmt: skip
_NAMES: Final = {kind: tuple(field.name for field in fields(each)) for kind, each in _KINDS.items()}
_PART: Final = 13
_ARRAY_OF_4: Final = b"\x84"


def to_bytes(record: Record, missing: int = -1) -> bytes:
    """The bytes that the journal keeps; `missing` is what the index counted for a Kept."""
    value = [record.kind, *[getattr(record, name) for name in _NAMES[record.kind]]]
    if missing >= 0 and record.kind == Kept.kind:
        value[-1] = missing
    return encode_own(value)


def grouped(payloads: list[bytes]) -> list[bytes]:
    """The same payloads as parts of one group (R3)."""
    of = encode_own(len(payloads))
    head = _ARRAY_OF_4 + encode_own(_PART)
    return [b"".join((head, encode_own(i), of, each)) for i, each in enumerate(payloads)]


def from_bytes(payload: bytes) -> Record:
    """The record that `payload` is; StorageError if this program does not know it."""
    return part_from_bytes(payload)[0]


def part_from_bytes(payload: bytes) -> tuple[Record, int, int]:
    """The record, its place in its group, and the parts of that group (0, 0 if it is alone)."""
    try:
        value: Any = decode_own(payload)
    except Invalid as exc:
        raise StorageError(f"a record that cannot be read: {exc}") from exc
    place = parts = 0
    if isinstance(value, list) and len(value) == 4 and value[0] == _PART:
        _, place, parts, value = value
    if not isinstance(value, list) or not value or value[0] not in _KINDS:
        raise StorageError(
            "a record of a kind that this version does not know", hint="install a newer ampd"
        )
    if len(value) - 1 > len(_NAMES[value[0]]):
        raise StorageError(
            "a record with more members than this version knows", hint="install a newer ampd"
        )
    members = [_frozen(item) if type(item) is list else item for item in value[1:]]
    return _KINDS[value[0]](*members), place, parts


def _frozen(items: list[Any]) -> Any:
    return tuple([_frozen(item) if type(item) is list else item for item in items])
