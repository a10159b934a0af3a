"""What the rooms of the core ask of those above, as types: no room above is imported here."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

import trio

from ampd.core.agents import Agent
from ampd.model.address import Address
from ampd.model.errors import Refused, Unavailable
from ampd.model.message import Delivery, Envelope, Message
from ampd.model.values import value


@value
class Run:
    """Envelopes that came together, and who waits for what becomes of each, by its place.

    There may be more of them until `begin` was asked for the first time.

    `answer` is told once for each what `Door.deliver` returns or raises. `begin` is asked when one
    would be begun: False if it was answered meanwhile, for one before it could not be kept.
    """

    envelopes: Sequence[Envelope]
    answer: Callable[[int, Delivery | Refused | Unavailable], None]
    begin: Callable[[int], bool] = lambda _: True


class Door(Protocol):
    """The way in for what other hosts bring: this node's own mailbox, or its relay.

    `node` is always the key that the other node proved.
    """

    async def deliver(self, envelope: Envelope, node: bytes) -> Delivery:
        """Return once the envelope is safe here: on disk, with its mark as seen.

        Raises Refused (for good; StaleKey carries a newer card) or Unavailable (offer it again).
        The same envelope may be offered twice. Calls keep their order: what was called first is
        kept first, although several calls may be under way, so that one sync serves them all.
        After Unavailable and StaleKey the session holds back what comes behind.
        """
        ...

    async def deliver_run(self, run: Run, node: bytes) -> None:
        """`deliver` for many, in their order: no refusal of one keeps another from being kept.

        What is not answered when this ends by an error was perhaps not kept.
        """
        ...

    def cards(self) -> list[bytes]:
        """The signed cards of this node's agents, withdrawn ones included."""
        ...

    async def cards_for(self, addresses: Sequence[str], node: bytes) -> list[bytes]:
        """The newest signed cards of these addresses; "@domain" is all of one, "" everybody.

        Raises Refused or Unavailable: then the node is shown none.
        """
        ...

    async def learn(self, cards: list[bytes], node: bytes) -> None:
        """Keep the signed cards that a node showed; what does not hold is passed over."""
        ...

    async def join(self, token: bytes, node: bytes) -> None:
        """Let `node` use this relay, by an invitation. Raises Refused or Unavailable."""
        ...

    async def collect(self, cards: list[bytes], node: bytes) -> None:
        """Bring `node` the mail of the agents of these cards, from now on, and no other.

        Raises Refused or Unavailable. One call at a time for one node.
        """
        ...

    async def left(self, node: bytes) -> None:
        """There is no session with `node` any more."""
        ...


class Carrier(Protocol):
    """A way to another host."""

    async def deliver(self, node: bytes, envelope: Envelope) -> Delivery:
        """Return once the envelope is safe there. Raises Refused (give it up), StaleKey (seal
        it again) or Unavailable (offer it again later).

        Calls for one mailbox at one node keep their order, which is the one in which they begin:
        what was called later is not taken there before what was called earlier. So when one is
        Unavailable, or StaleKey, the later ones of that mailbox are Unavailable too, unless they
        were taken already; and when a session breaks, all that was called for that node is.
        """
        ...

    def wake(self, node: bytes) -> None:
        """Somebody waits for this node: if there is no session, call it soon."""
        ...


@value
class Parcel:
    """One message for one recipient of a foreign protocol."""

    sender: Agent
    recipient: Address
    message: Message
    signed: bytes  # the same, as the sender signed it
    attempts: int  # that were made before this one


class Courier(Protocol):
    """A way to hosts that speak another protocol."""

    async def find(self, address: Address) -> str:
        """The protocol by which this address can be reached; "" if by none of ours.

        May ask other hosts. Raises Refused or Unavailable.
        """
        ...

    async def carry(self, protocol: str, parcel: Parcel) -> Delivery:
        """Return once the other side answered for it: "delivered", or "relayed" when it holds it.

        Raises Refused (for good) or Unavailable (later). The same parcel may be given twice.
        """
        ...


async def deliver_each(
    deliver: Callable[[Envelope, bytes], Awaitable[Delivery]],
    turn: trio.Lock,
    run: Run,
    node: bytes,
) -> None:
    """`Door.deliver_run` for a door that takes them one by one, several at a time.

    `turn` is one for all runs of a node: it keeps their order.
    """

    async def one(place: int, envelope: Envelope) -> None:
        if run.begin(place):
            try:
                run.answer(place, await deliver(envelope, node))
            except (Refused, Unavailable) as exc:
                run.answer(place, exc)

    async with trio.open_nursery() as nursery, turn:
        for place, envelope in enumerate(run.envelopes):
            nursery.start_soon(one, place, envelope)
            # Trio runs what became ready together in any order. One round for each keeps theirs.
            await trio.lowlevel.checkpoint()
            if not place:  # one more: from now on the first is begun, and no more come
                await trio.lowlevel.checkpoint()
