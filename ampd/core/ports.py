"""What the rooms of the core ask of those above, as types: no room above is imported here."""

from typing import Protocol

from ampd.model.message import Delivery, Envelope


class Door(Protocol):
    """The way in for what other hosts bring: this node's own mailbox, or its relay."""

    async def deliver(self, envelope: Envelope, node: bytes) -> Delivery:
        """Return once the envelope is safe here: on disk, with its mark as seen.

        `node` is the key that the offering node proved. Raises Refused (for good; StaleKey
        carries a newer card) or Unavailable (offer it again). The same envelope may be offered
        twice. Calls keep their order: what was called first is kept first, although several
        calls may be under way, so that one sync serves them all.
        """
        ...

    def cards(self) -> list[bytes]:
        """The signed cards of this node's agents, withdrawn ones included."""
        ...

    async def learn(self, cards: list[bytes], node: bytes) -> None:
        """Keep the signed cards that a node showed; what does not hold is passed over."""
        ...


class Carrier(Protocol):
    """A way to another host."""

    async def deliver(self, node: bytes, envelope: Envelope) -> Delivery:
        """Return once the envelope is safe there. Raises Refused (give it up), StaleKey (seal
        it again) or Unavailable (offer it again later).

        Calls for one node keep their order: what was called later is not taken there before what
        was called earlier, and when a session ends without an answer, everything that was called
        for that node and not answered is Unavailable.
        """
        ...
