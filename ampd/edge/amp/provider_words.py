"""What an agent of this node and a foreign AMP provider say to each other, as values. Pure.

  PW1  A provider is known by the domain of the addresses it gives: it may name no domain that the
       address it gave does not lie in, none of one label, and not this node's own.
  PW2  What goes out is a full envelope (section 04), from the address that the provider gave, and
       signed by the agent's key for AMP; its id names the native message.
  PW3  An answer names what it answers as its sender did: by the id and the thread of the message
       that came, where the agent has it.

Not here: HTTP (provider_client.py), when it is asked (external.py), native mail (core).
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, fields
from typing import Any, Final, Self

from ampd.core.ports import Parcel
from ampd.core.safety import shown
from ampd.crypto.foreign_keys import ForeignSigner
from ampd.edge.amp.rendering import seconds_text
from ampd.model.address import Address
from ampd.model.errors import Invalid, Refused
from ampd.model.values import value
from ampd.protocol import raw_json
from ampd.protocol.amp import signing
from ampd.protocol.amp.address import AmpAddress
from ampd.protocol.amp.envelope import VERSION
from ampd.protocol.amp.ids import amp_id
from ampd.protocol.raw_json import Raw, Value

_MAX_KEY: Final = 512  # characters of an API key
_MAX_WORDS: Final = 200  # characters of a provider's own words that we repeat
_NO_SUBJECT: Final = "(no subject)"  # AMP wants one
_TYPES: Final = {"message": "notification"}  # native words that AMP says otherwise


@value
class Registration:
    """An agent's account at a foreign provider. `api_key` is never shown and never logged."""

    agent: str
    key: str  # the agent's native public key, in hex: whoever takes the name later is another
    provider: str  # the domain of its addresses, without the tenant
    url: str  # that the API's paths are appended to
    route: str  # where to send
    tenant: str
    address: str
    api_key: str
    agent_id: str
    at: int  # milliseconds

    @property
    def id(self) -> str:
        """Its key in the registry."""
        return f"{self.agent}/{self.provider}"

    def to_value(self) -> dict[str, Any]:
        """As the registry keeps it."""
        return asdict(self)

    @classmethod
    def from_value(cls, value: Mapping[str, Any]) -> Self:
        """What `to_value` made."""
        return cls(**{each.name: value[each.name] for each in fields(cls)})

    def covers(self, domain: str) -> bool:
        """Whether addresses of this domain are this provider's."""
        return domain == self.provider or domain.endswith(f".{self.provider}")

    def is_ours(self, to: str) -> bool:
        """Whether an AMP address, maybe a short one, means this account."""
        mine = Address.parse(self.address)
        try:
            said = AmpAddress.parse(to)
        except Invalid:
            return False
        ends = ("", self.tenant, self.provider, mine.domain)
        return said.name == mine.name and (
            said.domain in ends or said.domain.endswith(f".{mine.domain}")
        )

    def __repr__(self) -> str:
        return f"Registration({self.address} at {self.url})"


def asked_for(
    name: str, tenant: str, signer: ForeignSigner, *, alias: str = "", invite: str = ""
) -> dict[str, Any]:
    """The body of POST /register."""
    body = {
        "name": name,
        "public_key": signer.public.pem(),
        "key_algorithm": "Ed25519",
    }
    more = {"tenant": tenant, "alias": alias, "invite_code": invite}
    return body | {name: text for name, text in more.items() if text}


def registered(  # one call site; what the provider says and what we asked for belong together
    said: Mapping[str, Any], agent: str, key: bytes, url: str, tenant: str, node: str, now: int
) -> Registration:
    """The account that an answer to POST /register speaks of. Refused if it cannot be used."""
    api_key = _text(said, "api_key", "apiKey")
    if not 8 <= len(api_key) <= _MAX_KEY or not api_key.isascii() or not api_key.isprintable():
        raise Refused("the provider gave no API key that can be used")
    if " " in api_key:
        raise Refused("the provider gave no API key that can be used")
    try:
        address = Address.parse(_text(said, "address"))
    except Invalid as exc:
        raise Refused(f"the provider gave no address that can be used: {exc}") from None
    about = said.get("provider")
    named = about if isinstance(about, dict) else {}
    said_tenant = _text(said, "tenant").lower() or tenant
    provider = _domain(address.domain, _text(named, "name").lower(), said_tenant, node)
    return Registration(
        agent=agent, key=key.hex(), provider=provider, url=url,
        route=_route(_text(named, "route_url"), url), tenant=said_tenant, address=str(address),
        api_key=api_key, agent_id=_text(said, "agent_id", "agentId"), at=now,
    )  # fmt: skip


def _domain(given: str, named: str, tenant: str, node: str) -> str:
    """PW1."""
    fits = named and (given == named or given.endswith(f".{named}"))
    domain = named if fits else given
    if domain == given and tenant and given.startswith(f"{tenant}."):
        rest = given[len(tenant) + 1 :]
        domain = rest if "." in rest else domain
    if "." not in domain:
        raise Refused(f"the provider calls itself {shown(domain)!r}, which is no domain of its own")
    if node == domain or node.endswith(f".{domain}"):
        raise Refused(
            f"the provider calls itself {domain}, which is this node's own domain", code="conflict"
        )
    return domain


def _route(said: str, url: str) -> str:
    """Where to send: as the provider says, if that is at the place where it was registered."""
    return said if said.startswith(f"{_origin(url)}/") else f"{url}/route"


def _origin(url: str) -> str:
    return "/".join(url.split("/")[:3])


def _text(found: Mapping[str, Any], *names: str) -> str:
    values = (found.get(name) for name in names)
    return next((value for value in values if type(value) is str), "")


def words_of(value: Value) -> str:
    """What a provider says went wrong, made harmless; "" if it says nothing."""
    if not isinstance(value, dict):
        return ""
    said = [_text(value, name) for name in ("message", "error")]
    details = value.get("details")
    found = value.get("suggestions") or (isinstance(details, dict) and details.get("suggestions"))
    names = [each for each in found if type(each) is str] if isinstance(found, list) else []
    text = next((each for each in said if each), "")
    if names:
        text += f" (free are {', '.join(names[:5])})"
    return shown(" ".join(text.split()))[:_MAX_WORDS]


# --- what goes out -----------------------------------------------------------------------


def outgoing(
    parcel: Parcel,
    account: Registration,
    signer: ForeignSigner,
    answered: Callable[[bytes], Mapping[str, Any] | None],
) -> str:
    """The body of POST /route (PW2, PW3).

    `answered` gives the AMP envelope with which a message came, by its native id.
    """
    message = parcel.message
    before = answered(message.in_reply_to) if message.in_reply_to else None
    reply = str(before["id"]) if before else None
    if reply is None and message.in_reply_to:
        reply = amp_id(message.in_reply_to)
    thread = str(before.get("thread_id") or before["id"]) if before else amp_id(message.thread)
    payload = raw_json.parse(_payload(parcel))
    envelope: dict[str, Any] = {
        "version": VERSION,
        "id": amp_id(message.id),
        "from": account.address,
        "to": str(parcel.recipient),
        "subject": message.subject or _NO_SUBJECT,
        "priority": message.priority,
        "timestamp": seconds_text(message.sent),
        "thread_id": thread,
        "in_reply_to": reply,
        "expires_at": seconds_text(message.expires),
    }
    envelope["signature"] = signing.sign(envelope, payload, signer.sign)
    return raw_json.write({"envelope": envelope, "payload": payload})


def _payload(parcel: Parcel) -> str:
    """A payload of AMP; a native message's own, if it is one."""
    message = parcel.message
    if message.payload is not None:
        found = raw_json.parse(message.payload)
        if isinstance(found, dict) and (found.get("type"), found.get("message")) == (
            message.type, message.body,
        ):  # fmt: skip
            return message.payload
    parts = {"payload": message.payload if message.body else None, "context": message.context}
    context = {name: Raw(text) for name, text in parts.items() if text is not None}
    return raw_json.write(
        {
            "type": _TYPES.get(message.type, message.type),
            "message": message.body or message.payload or message.subject or _NO_SUBJECT,
            "context": context or None,
        }
    )
