"""How a native message looks in AMP, and how an AMP message lies inside a native one.

  native context     {"amp": {"envelope": {...}, "sender_public_key": HEX}}
  native payload     the AMP payload's JSON text, with the number tokens it came with
  subject, body, type, priority: the readable part, from envelope and payload

AM1  A message that came as AMP goes out with the envelope and payload that were signed.
AM2  Such an envelope is believed only if its `from` is the native sender, and what it says is what
     the native message says; else the message gets a fresh one.
AM3  A fresh envelope is signed with the sender's AMP key if its sender is an agent of this node
     that has no key of its own at a client; else its signature is empty.
AM4  Nothing is wrapped or altered; trust stands beside it (local.security).
AM5  No body over 64 KiB goes to a client, which would lose it: a notice of the node goes instead,
     that says where the message is.
"""

from typing import Any, Final, Protocol

from ampd.core.agents import RESERVED, Agent, Agents
from ampd.core.lists import Summary
from ampd.crypto.foreign_keys import ForeignSigner
from ampd.edge.amp.accounts import Account, Accounts
from ampd.edge.amp.keys import key_hex
from ampd.edge.amp.provider import Provider
from ampd.edge.documents import time_text
from ampd.edge.gateway_mail import GatewayMail
from ampd.model.address import Address
from ampd.model.errors import Invalid
from ampd.model.message import id_from_text
from ampd.model.values import value
from ampd.protocol import raw_json
from ampd.protocol.amp import signing
from ampd.protocol.amp.address import Elsewhere, Here, Names
from ampd.protocol.amp.envelope import MAX_BODY, VERSION, Post
from ampd.protocol.amp.ids import amp_id, is_message_id, native_id
from ampd.protocol.raw_json import Raw
from ampd.storage.store import Store

Document = dict[str, Any]
_SIGNATURES: Final = 4096  # remembered: 2 MiB, and forty pages
_CARRIED: Final = 2000  # envelopes remembered: twenty pages, and 20 MiB at most
_SMALL: Final = 4096  # characters of a context with such an envelope
_NO_SUBJECT: Final = "(no subject)"
_TYPES: Final = {"message": "notification"}  # native words that AMP says otherwise


class Whole(Protocol):
    """A whole message, as core/reading.py and gateway_mail.py have it."""

    @property
    def summary(self) -> Summary:
        """Its line in a list."""

    @property
    def body(self) -> str:
        """The text."""

    @property
    def payload(self) -> str | None:
        """A JSON text."""

    @property
    def context(self) -> str | None:
        """A JSON text."""

    @property
    def flags(self) -> tuple[str, ...]:
        """Injection flags (core/flagging.py)."""


@value
class Carried:
    """The AMP message inside a native one."""

    envelope: Document
    sender_key: str


def seconds_text(milliseconds: int) -> str:
    """A time as AMP's own examples write it."""
    return (time_text(milliseconds) or "1970-01-01T00:00:00.000Z")[:19] + "Z"


def carrying(envelope: Document, sender_key: str) -> str:
    """The native context of an AMP message. Invalid if it is nested too deep for others."""
    context = {"amp": {"envelope": envelope, "sender_public_key": sender_key}}
    text = raw_json.write(context)
    raw_json.check_depth(text, context)
    return text


def envelope_of(post: Post, identifier: str, sender: str, thread: str, now: int) -> Document:
    """The envelope under which a post goes on: what its sender said and signed stays as it was."""
    made = {
        "version": VERSION,
        "id": identifier,
        "from": sender,
        "to": post.to,
        "subject": post.subject,
        "priority": post.priority,
        "timestamp": seconds_text(now),
        "thread_id": thread,
        "in_reply_to": post.in_reply_to or None,
        "signature": post.signature,
    }
    return {**made, **{name: each for name, each in post.envelope.items() if each is not None}}


class Rendering:
    """Native messages in the words of AMP."""

    def __init__(
        self,
        store: Store,
        agents: Agents,
        accounts: Accounts,
        names: Names,
        provider: Provider,
        mail: GatewayMail,
    ) -> None:
        self._store = store
        self._agents = agents
        self._accounts = accounts
        self._names = names
        self._provider = provider
        self._mail = mail
        self._signatures: dict[tuple[object, ...], str] = {}  # of fresh envelopes
        self._inside: dict[int, Carried | None] = {}

    # --- whole items ----------------------------------------------------------------------

    def item(self, agent: Agent, whole: Whole, expires: int = 0) -> Document:
        """A message as `GET /messages/pending` and the pushes have it, for one of its agents.

        `expires` is when it ends, if that is known already.
        """
        summary = whole.summary
        expires = expires or self.expires(summary.seq)
        carried = None
        if len(whole.body.encode()) > MAX_BODY:
            envelope, payload, key = self._notice(agent, whole)
        elif carried := self.carried(whole):
            envelope, payload, key = (
                carried.envelope,
                Raw(whole.payload or "{}"),
                carried.sender_key,
            )
        else:
            envelope, payload, key = self._fresh(agent, whole)
        envelope.setdefault("expires_at", seconds_text(expires))
        return {
            "id": envelope["id"],
            "envelope": envelope,
            "payload": payload,
            "sender_public_key": key or None,
            "queued_at": seconds_text(summary.received),
            "expires_at": seconds_text(expires),
            "delivery_attempts": 0,
            "local": {"security": self._security(agent, whole, carried)},
        }

    def expires(self, seq: int) -> int:
        """When a message ends."""
        row = self._store.view.execute("SELECT expires FROM messages WHERE seq=?", (seq,))
        found = row.fetchone()
        return int(found[0]) if found else 0

    def carried(self, whole: Whole) -> Carried | None:
        """The AMP message inside, if it is to be believed (AM2): looked for once for as long as it
        is remembered, for a message never changes."""
        seq = whole.summary.seq
        if len(whole.context or "") > _SMALL:
            return self._carried(whole)
        if seq not in self._inside:
            if len(self._inside) >= _CARRIED:
                self._inside.clear()
            self._inside[seq] = self._carried(whole)
        found = self._inside[seq]
        return found and Carried(dict(found.envelope), found.sender_key)

    def _carried(self, whole: Whole) -> Carried | None:
        if not whole.context or not whole.payload or '"amp"' not in whole.context:
            return None
        try:
            context, payload = raw_json.parse(whole.context), raw_json.parse(whole.payload)
        except Invalid:
            return None
        amp = context.get("amp") if isinstance(context, dict) else None
        envelope = amp.get("envelope") if isinstance(amp, dict) else None
        if amp is None or not isinstance(envelope, dict) or not isinstance(payload, dict):
            return None
        priority = envelope.get("priority") or "normal"
        said = (envelope.get("subject"), priority, payload.get("message"))
        is_so = said == (whole.summary.subject, whole.summary.priority, whole.body)
        texts = all(type(envelope.get(name)) is str for name in ("id", "from", "to", "thread_id"))
        is_id = texts and is_message_id(envelope["id"])  # clients name files by it
        if not is_so or not is_id or native_id(envelope["id"]) != id_from_text(whole.summary.id):
            return None
        if not self._is_native(envelope["from"], whole.summary.sender):
            return None
        key = amp.get("sender_public_key")
        return Carried(envelope, key if type(key) is str else "")

    def _is_native(self, amp_address: str, native: str) -> bool:
        try:
            place = self._names.place(amp_address)
        except Invalid:
            return False
        match place:
            case Here(name):  # or somebody on another host of the mesh, who has such an address too
                return native in (f"{name}@{self._names.node}", amp_address.lower())
            case Elsewhere(address):
                return native == str(address)
        return native in (str(place.address), f"{place.here.name}@{self._names.node}")

    # --- fresh ones -----------------------------------------------------------------------

    def _fresh(self, agent: Agent, whole: Whole) -> tuple[Document, Raw, str]:
        """AM3."""
        summary = whole.summary
        said = {
            "type": _TYPES.get(summary.type, summary.type),
            "message": whole.body or whole.payload or summary.subject or _NO_SUBJECT,
            "context": _context(whole),
        }
        payload = raw_json.write(said)
        sent_by_it = summary.key == agent.key and summary.number is None
        to = Address.parse(summary.to[0]) if sent_by_it else agent.address
        identifier = amp_id(id_from_text(summary.id))
        is_first = summary.thread == summary.id  # of its thread
        envelope = {
            "version": VERSION,
            "id": identifier,
            "from": self.address_of(summary.sender),
            "to": self.address_of(str(to)),
            "subject": summary.subject or _NO_SUBJECT,
            "priority": summary.priority,
            "timestamp": seconds_text(summary.sent),
            "thread_id": identifier if is_first else self.id_for(agent, summary.thread),
            "in_reply_to": self.id_for(agent, summary.in_reply_to) if summary.in_reply_to else None,
            "signature": "",
        }
        sender = self._agents.of_key(summary.key)
        account = self._accounts.of(sender.name) if sender else None
        if sender is None or account is not None:
            return envelope, Raw(payload), key_hex(account.key) if account else ""
        signer = self._provider.signer_of(sender)
        envelope["signature"] = self._signature(summary.seq, envelope, said, payload, signer)
        return envelope, Raw(payload), key_hex(signer.public)

    def _signature(
        self, seq: int, envelope: Document, said: Document, payload: str, signer: ForeignSigner
    ) -> str:
        """Made once for as long as it is remembered: what waits is asked for again and again."""
        signed = (seq, signer.public.raw, envelope["from"], envelope["to"], envelope["in_reply_to"])
        found = self._signatures.get(signed)
        if found is None:
            plain = said if said["context"] is None else raw_json.parse(payload)
            found = signing.sign(envelope, plain, signer.sign)
            if len(self._signatures) >= _SIGNATURES:
                self._signatures.clear()
            self._signatures[signed] = found
        return found

    def _notice(self, agent: Agent, whole: Whole) -> tuple[Document, Raw, str]:
        """AM5."""
        summary = whole.summary
        size = len(whole.body.encode())
        text = (
            f"A message of {size} bytes from {self.address_of(summary.sender)} is here; AMP carries"
            f" at most {MAX_BODY}. On this node: amp read --agent {agent.name} {summary.id}"
        )
        envelope = {
            "version": VERSION,
            "id": amp_id(id_from_text(summary.id)),
            "from": self._names.address(min(RESERVED)),
            "to": self.amp_address(agent),
            "subject": f"Too large for AMP: {summary.subject}"[:256],
            "priority": summary.priority,
            "timestamp": seconds_text(summary.sent),
            "thread_id": self.id_for(agent, summary.thread),
            "in_reply_to": None,
            "signature": "",
        }
        payload = raw_json.write({"type": "system", "message": text, "context": None})
        return envelope, Raw(payload), ""

    def id_for(self, agent: Agent, text: str) -> str:
        """The AMP id of a message of which the native id is known: its sender's own word for it, if
        the agent has the message."""
        native = id_from_text(text)
        found = self._mail.received(agent, native) or self._mail.sent(agent, native)
        carried = self.carried(found) if found else None
        return str(carried.envelope["id"]) if carried else amp_id(native)

    def thread_for(self, agent: Agent, text: str) -> str:
        """The thread of the message of an AMP id, if the agent has it; else ""."""
        native = native_id(text)
        found = self._mail.received(agent, native) or self._mail.sent(agent, native)
        if found is None:
            return ""
        carried = self.carried(found)
        return (
            str(carried.envelope["thread_id"])
            if carried
            else self.id_for(agent, found.summary.thread)
        )

    # --- addresses and trust --------------------------------------------------------------

    def amp_address(self, agent: Agent) -> str:
        """The full AMP address of an agent of this node."""
        account = self._accounts.of(agent.name)
        return account.address if account else self._names.address(agent.name)

    def address_of(self, native: str) -> str:
        """The AMP address of a native one."""
        address = Address.parse(native)
        if address.domain != self._names.node:
            return native
        agent = self._agents.at(address)
        return self.amp_address(agent) if agent else self._names.address(address.name)

    def _security(self, agent: Agent, whole: Whole, carried: Carried | None) -> Document:
        summary = whole.summary
        return {
            "trust": self._trust(agent, summary, carried),
            "injection_flags": list(whole.flags),
            "wrapped": False,
            "verified_at": seconds_text(summary.received),
        }

    def _trust(self, agent: Agent, summary: Summary, carried: Carried | None) -> str:
        """Section 07: verified is signed and of the same tenant; external, signed by others."""
        sender = self._agents.of_key(summary.key)
        theirs = self._accounts.of(sender.name) if sender else None
        if theirs is None:
            return summary.trust
        if carried is not None and not carried.envelope.get("signature"):
            return "untrusted"
        mine: Account | None = self._accounts.of(agent.name)
        same = mine is None or mine.tenant == theirs.tenant
        return "verified" if same else "external"


def _context(whole: Whole) -> Raw | Document | None:
    context = Raw(whole.context) if whole.context else None
    if whole.payload and whole.body:
        return {"payload": Raw(whole.payload)} | ({"context": context} if context else {})
    return context
