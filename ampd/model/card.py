"""A card says who an agent is, by whom it may be reached, and to which keys mail is sealed.

Its bytes are the payload of a COSE_Sign1 by the agent's own key, external_aad "ampd/card/1".

  C1  The newest card (highest `number`) of a key counts; an older one never replaces it.
  C2  A withdrawn card says that the agent is gone; it replaces every older card.
  C3  Mail is sealed to `inbox` while `inbox_until` has not passed, then to `fallback`.
  C4  A mailbox is known by a hash of its agent's key, so that nobody can claim another's: a relay
      hands its mail only to the nodes that a card of this key names.
"""

import hashlib
from typing import Final, Self

from ampd.model.address import Address, NodeUri
from ampd.model.encoding import decode, encode
from ampd.model.errors import Invalid
from ampd.model.fields import Fields, texts
from ampd.model.values import value

CARD_CONTEXT: Final = "ampd/card/1"
MAX_CARD: Final = 16384  # bytes, signed: a few times the largest sensible one
MAX_ALIAS: Final = 128
MAX_DESCRIPTION: Final = 1024
MAX_CAPABILITIES: Final = 64


@value
class Card:
    """What one agent says of itself."""

    address: Address
    number: int
    issued: int
    mailbox: bytes
    nodes: tuple[bytes, ...]  # node keys that may collect its mail
    inbox: bytes  # X25519, renewed weekly
    inbox_until: int
    fallback: bytes  # X25519, for life
    relays: tuple[str, ...] = ()
    alias: str = ""
    description: str = ""
    capabilities: tuple[str, ...] = ()
    withdrawn: bool = False

    def to_bytes(self) -> bytes:
        """The bytes that are signed."""
        return encode(
            {
                "v": 1,
                "address": str(self.address),
                "number": self.number,
                "issued": self.issued,
                "mailbox": self.mailbox,
                "nodes": list(self.nodes),
                "inbox": self.inbox,
                "inbox_until": self.inbox_until,
                "fallback": self.fallback,
                "relays": list(self.relays),
                "alias": self.alias,
                "description": self.description,
                "capabilities": list(self.capabilities),
                "withdrawn": self.withdrawn,
            }
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """The card that `data` spells, or Invalid."""
        fields = Fields(decode(data, limit=MAX_CARD), "card")
        fields.version(1)
        card = cls(
            address=Address.from_wire(fields.text("address", 254)),
            number=fields.integer("number"),
            issued=fields.integer("issued"),
            mailbox=fields.data("mailbox", 16),
            nodes=_keys(fields.items("nodes", 16)),
            inbox=fields.data("inbox", 32),
            inbox_until=fields.integer("inbox_until"),
            fallback=fields.data("fallback", 32),
            relays=texts(fields.items("relays", 16), 512, "card: relays"),
            alias=fields.text("alias", MAX_ALIAS),
            description=fields.text("description", MAX_DESCRIPTION),
            capabilities=texts(
                fields.items("capabilities", MAX_CAPABILITIES), 64, "card: capabilities"
            ),
            withdrawn=fields.boolean("withdrawn"),
        )
        fields.done()
        if any(str(NodeUri.parse(relay)) != relay for relay in card.relays):
            raise Invalid("card: a relay that is not in its one spelling")
        return card

    def seal_to(self, now: int) -> bytes:
        """The X25519 key that mail is sealed to at the time `now` (C3)."""
        return self.inbox if now < self.inbox_until else self.fallback


def mailbox_of(key: bytes) -> bytes:
    """The mailbox id of an agent's key (C4)."""
    return hashlib.blake2b(key, digest_size=16, person=b"ampd/mailbox/1").digest()


def _keys(items: list[object]) -> tuple[bytes, ...]:
    checked = tuple(item for item in items if type(item) is bytes and len(item) == 32)
    if len(checked) != len(items):
        raise Invalid("card: nodes must be keys of 32 bytes")
    return checked
