"""What the daemon answers, as values: the JSON documents of the interface contract.

Each class has the contract's fields under the contract's names, `from` alone is called `sender`.
Times are RFC 3339 texts in UTC, as they came. A field that an older daemon does not send has its
default; one that a newer daemon adds is left out here, and `Amp.call` shows it.
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any, TypeVar

from ampd.model.errors import LocalProtocolError

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class Agent:
    """An agent of this node."""

    name: str = ""
    address: str = ""
    fingerprint: str = ""
    contact: str = ""  # the link that others add
    alias: str = ""
    description: str = ""
    capabilities: tuple[str, ...] = ()
    domain: str = ""
    created: str = ""


@dataclass(frozen=True, slots=True)
class Recipient:
    """What became of a message for one recipient."""

    address: str = ""
    status: str = ""  # queued, relayed, delivered, read; failed, expired
    via: str | None = None  # local, direct, relay, gateway
    error: str | None = None
    attempts: int = 0
    next_attempt_at: str | None = None
    delivered_at: str | None = None
    read_at: str | None = None


@dataclass(frozen=True, slots=True)
class Sent:
    """A message that was accepted, or the delivery of one."""

    id: str = ""
    thread_id: str = ""
    status: str = ""
    recipients: tuple[Recipient, ...] = ()


@dataclass(frozen=True, slots=True)
class Message:
    """A message; `body` to `signer` are empty in lists.

    `content` is what a language model may be shown: wrapped as data unless `trust` is
    `verified`. `body` is the text as it was sent.
    """

    id: str = ""
    number: int = 0
    sender: str = ""
    to: tuple[str, ...] = ()
    subject: str = ""
    type: str = ""
    priority: str = ""
    thread_id: str = ""
    in_reply_to: str | None = None
    sent_at: str = ""
    received_at: str = ""
    state: str = ""  # unread, read, acked, quarantined
    trust: str = ""  # verified, external, untrusted
    encrypted: bool = False
    flags: tuple[str, ...] = ()
    size: int = 0
    preview: str = ""
    attachments: tuple[Any, ...] = ()
    body: str = ""
    payload: Any = None
    context: Any = None
    content: str = ""
    via: str | None = None
    signer: str | None = None
    missing_before: int = 0  # messages of this sender right before this one that never came
    reason: str | None = None  # why it is in quarantine


@dataclass(frozen=True, slots=True)
class Listing:
    """Some messages of a mailbox, oldest first; iterates over them."""

    agent: str = ""
    unread: int = 0
    total: int = 0  # in this box, shown or not
    quarantined: int = 0
    more: int = 0  # over 0: there are more that fit
    messages: tuple[Message, ...] = ()

    def __iter__(self) -> Iterator[Message]:
        return iter(self.messages)

    def __len__(self) -> int:
        return len(self.messages)


@dataclass(frozen=True, slots=True)
class Reachable:
    """An agent that can be written to."""

    address: str = ""
    alias: str = ""
    description: str = ""
    capabilities: tuple[str, ...] = ()
    fingerprint: str = ""
    via: str | None = None
    online: bool = False
    trust: str = ""


@dataclass(frozen=True, slots=True)
class Peer:
    """A node that this one talks to."""

    node: str = ""
    domain: str = ""
    endpoint: str = ""
    found_by: str = ""
    state: str = ""
    rtt_ms: float | None = None
    last_error: str = ""
    last_seen: str = ""
    next_try: str = ""
    queued: int = 0  # messages that wait for it
    oldest_queued_at: str = ""


@dataclass(frozen=True, slots=True)
class Contact:
    """An entry of the address book."""

    address: str = ""
    fingerprint: str = ""
    trust: str = ""
    state: str = ""  # conflict: another key was shown; pending: an unknown sender waits
    blocked: bool = False
    first_seen: str = ""
    source: str = ""
    relays: tuple[str, ...] = ()
    note: str = ""


_INNER = {"recipients": Recipient, "messages": Message}
_RENAMED = {"sender": "from"}


def build(kind: type[Value], document: object) -> Value:
    """`document` as a `kind`; LocalProtocolError if it is no JSON object."""
    if not isinstance(document, dict):
        raise LocalProtocolError(f"the daemon answered {type(document).__name__}, not an object")
    found = {}
    for field in fields(kind):  # type: ignore[arg-type]  # every kind here is a dataclass
        name = _RENAMED.get(field.name, field.name)
        value = document.get(name)
        if value is None:
            continue
        if isinstance(value, list):
            inner = _INNER.get(field.name)
            value = tuple(build(inner, item) for item in value) if inner else tuple(value)
        elif isinstance(field.default, tuple):
            value = (value,)
        found[field.name] = value
    return kind(**found)


def build_each(kind: type[Value], document: object, name: str) -> list[Value]:
    """The objects of the list `name` of `document`."""
    found = document.get(name) if isinstance(document, dict) else None
    if not isinstance(found, list):
        raise LocalProtocolError(f"the daemon's answer has no list of {name}")
    return [build(kind, item) for item in found]
