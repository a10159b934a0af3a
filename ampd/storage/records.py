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

R1  A record is never changed; a later one overrides.
R2  Whatever the index knows, it knows from these records.
"""

from dataclasses import dataclass, fields
from enum import IntEnum
from typing import Any, ClassVar, Final

from ampd.model.encoding import decode_own, encode
from ampd.model.errors import Invalid, StorageError


class State(IntEnum):
    """Where a message stands in a mailbox."""

    UNREAD = 0
    READ = 1
    ACKED = 2
    QUARANTINED = 3


@dataclass(frozen=True, slots=True)
class Kept:
    kind: ClassVar[int] = 1
    signed: bytes  # the COSE_Sign1 as it came
    at: int
    via: str
    encrypted: bool
    by: bytes  # key of the local agent that sent it, or b""
    boxes: tuple[tuple[bytes, int, int, str], ...]  # agent key, number, State, reason of quarantine
    flags: tuple[str, ...] = ()
    key: str = ""  # the sender's idempotency key


@dataclass(frozen=True, slots=True)
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


@dataclass(frozen=True, slots=True)
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


@dataclass(frozen=True, slots=True)
class Marked:
    kind: ClassVar[int] = 4
    agent: bytes
    messages: tuple[int, ...]  # numbers in that agent's mailbox
    state: int
    at: int


@dataclass(frozen=True, slots=True)
class Deleted:
    kind: ClassVar[int] = 5
    agent: bytes
    id: bytes
    sender: bytes  # key
    until: int
    at: int


@dataclass(frozen=True, slots=True)
class Agent:
    kind: ClassVar[int] = 6
    key: bytes
    name: str
    created: int
    card: bytes
    removed: bool = False
    purged: bool = False


@dataclass(frozen=True, slots=True)
class CardSeen:
    kind: ClassVar[int] = 7
    card: bytes
    node: bytes
    at: int


@dataclass(frozen=True, slots=True)
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


@dataclass(frozen=True, slots=True)
class Epoch:
    kind: ClassVar[int] = 9
    epoch: bytes
    place: bytes  # what tells this copy of the store from another


@dataclass(frozen=True, slots=True)
class Counters:
    kind: ClassVar[int] = 10
    agents: tuple[tuple[bytes, int], ...]  # key, last number
    sent: tuple[tuple[bytes, bytes, bytes, int], ...]  # sender, recipient, epoch, last order
    received: tuple[tuple[bytes, bytes, bytes, int], ...]


@dataclass(frozen=True, slots=True)
class Released:
    kind: ClassVar[int] = 11
    agent: bytes
    number: int
    new_number: int
    at: int


@dataclass(frozen=True, slots=True)
class Dropped:
    kind: ClassVar[int] = 12
    item: int
    at: int


Record = (
    Kept | Queued | Progress | Marked | Deleted | Agent | CardSeen | Contact | Epoch | Counters
    | Released | Dropped
)  # fmt: skip

_KINDS: Final[dict[int, type[Any]]] = {
    each.kind: each
    for each in (
        Kept, Queued, Progress, Marked, Deleted, Agent, CardSeen, Contact, Epoch, Counters,
        Released, Dropped,
    )
}  # fmt: skip
_NAMES: Final = {kind: tuple(field.name for field in fields(each)) for kind, each in _KINDS.items()}


def to_bytes(record: Record) -> bytes:
    """The bytes that the journal keeps."""
    return encode([record.kind, *(getattr(record, name) for name in _NAMES[record.kind])])


def from_bytes(payload: bytes) -> Record:
    """The record that `payload` is; StorageError if this program does not know it."""
    try:
        value = decode_own(payload)
    except Invalid as exc:
        raise StorageError(f"a record that cannot be read: {exc}") from exc
    if not isinstance(value, list) or not value or value[0] not in _KINDS:
        raise StorageError(
            "a record of a kind that this version does not know", hint="install a newer ampd"
        )
    names = _NAMES[value[0]]
    if len(value) - 1 > len(names):
        raise StorageError("a record with more members than this version knows")
    return _KINDS[value[0]](*(_frozen(item) for item in value[1:]))  # type: ignore[no-any-return]


def _frozen(item: Any) -> Any:
    return tuple(_frozen(each) for each in item) if isinstance(item, list) else item
