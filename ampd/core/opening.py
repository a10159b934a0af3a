"""A letter opened: every check of what came that needs no memory (mailbox.py, B1, B5).

    Opening.open   the message in an envelope, verified, for an agent here; or its receipts, which
                   are verified only if they are awaited (receipts.py, Q6)

A message that its sender signed for an agent here, and that can not be kept for what it is (too
large, no JSON), is opened with a `refusal`: its sender can be told (mailbox.py, B9).

Not here: who may write, what was seen before (mailbox.py), what a receipt does (receipts.py).
"""

from ampd.core import json_text
from ampd.core.agents import Agent, Agents
from ampd.core.cards import read_card
from ampd.crypto.keys import open1
from ampd.model.card import MAX_CARD, Card
from ampd.model.errors import Invalid, Refused, StaleKey
from ampd.model.message import (
    MESSAGE_CONTEXT,
    Envelope,
    Letter,
    Message,
    digest,
    receipts_from_bytes,
)
from ampd.model.values import value


@value
class Opened:
    """A message that held up."""

    agent: Agent
    message: Message
    signed: bytes
    digest: bytes  # of `signed`
    key: bytes
    card: tuple[bytes, Card] | None  # the sender's, if it was in the letter and is its own
    refusal: Refused | None = None


@value
class Receipts:
    """What is said to be receipts for what an agent here sent; nothing of it is proved."""

    agent: Agent
    signed: tuple[bytes, ...]


class Opening:
    """Opens what is for the agents of this node."""

    def __init__(self, agents: Agents, message_bytes: int) -> None:
        self._agents = agents
        self.message_bytes = message_bytes

    def open(self, envelope: Envelope) -> Opened | Receipts:
        """What an envelope holds. Raises Refused (StaleKey with the newer card)."""
        agent = self._agents.of_mailbox(envelope.mailbox)
        if agent is None:
            raise Refused("there is no such mailbox here", code="recipient_unknown")
        if len(envelope.sealed) > 2 * (self.message_bytes + MAX_CARD):  # a letter and its padding
            raise self._too_large()
        plain = agent.keys.open(envelope.sealed)
        if plain is None:
            raise StaleKey("sealed to a key that is gone", agent.signed_card)
        letter = Letter.from_bytes(plain)
        if letter.kind == "receipts":
            return Receipts(agent, tuple(receipts_from_bytes(letter.signed)))
        return self._message(letter, agent)

    def _message(self, letter: Letter, agent: Agent) -> Opened:
        key, payload = open1(letter.signed, MESSAGE_CONTEXT)
        message = Message.from_bytes(payload)
        if all(to.key != agent.key for to in message.to):
            raise Refused("not addressed to this agent", code="forged")
        return Opened(
            agent, message, letter.signed, digest(letter.signed), key,
            _own_card(letter.card, key, message), self._refusal(letter, message),
        )  # fmt: skip

    def _refusal(self, letter: Letter, message: Message) -> Refused | None:
        if len(letter.signed) > self.message_bytes:
            return self._too_large()
        try:
            for text in (message.payload, message.context):
                if text is not None:
                    json_text.to_value(text)
        except Invalid as exc:
            return exc
        return None

    def _too_large(self) -> Refused:
        return Refused(f"a message of more than {self.message_bytes} bytes", code="too_large")


def _own_card(signed: bytes, key: bytes, message: Message) -> tuple[bytes, Card] | None:
    """The card in a letter, if it is the sender's own; another one is passed over."""
    if not signed:
        return None
    try:
        signer, card = read_card(signed)
    except Refused:
        return None
    return (signed, card) if signer == key and card.address == message.sender else None
