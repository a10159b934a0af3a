"""What the other side of a session asks of this node: handed to the door, and answered.

  PA1 Delivers that come while the door is busy with others are one run for it, in their order, so
      that one work of the store keeps them, and at most about MAX_RUN; each is answered by itself.
  PA2 What is held back (rule S10 of protocol/session.py) is refused without asking the door.

Not here: when it may be said (protocol/session.py), the bytes (peer_connection.py), what is taken
(core/mailbox.py, core/relay.py).
"""

import logging
from collections.abc import Callable, Sequence
from typing import Any, Final

from ampd.core.ports import Door, Run
from ampd.edge.peer_words import batches, refusal
from ampd.model.errors import Refused, Unavailable
from ampd.model.message import Delivery, Envelope
from ampd.protocol.events import Accept, Cards, Collect, Deliver, Event, Join, Refuse
from ampd.protocol.session import Held

MAX_RUN: Final = 64  # words: the store works on them for 30 ms, and others wait
MAX_ANSWER: Final = 256  # cards in answer to one question; the largest are 4 MiB

log = logging.getLogger("ampd.peer")


class _Envelopes(Sequence[Envelope]):
    """Those of a run, also while it grows."""

    def __init__(self, words: Sequence[Deliver]) -> None:
        self._words = words

    def __len__(self) -> int:
        return len(self._words)

    def __getitem__(self, place: Any) -> Any:
        return self._words[place].envelope


class Asked:
    """Answers one peer. `say` says a word to it; `done` is called when an answer was said."""

    def __init__(
        self, door: Door, node: bytes, say: Callable[[Event], None], done: Callable[[], None]
    ) -> None:
        self.held = Held()
        self._door = door
        self._node = node
        self._say = say
        self._done = done
        self._filling: list[Deliver] = []  # the run that waits for its turn

    def refuse_held(self, event: Deliver) -> bool:
        """PA2: whether it was."""
        held = event.envelope.mailbox in self.held
        if held:
            self._say(Refuse(event.number, "unavailable", "one before it could not be kept"))
        return held

    def take(self, words: Sequence[Deliver]) -> list[Deliver]:
        """Words for the door: they go with a run that waits for its turn there, if there is one;
        else they are a run, which is returned, to be handed to `deliver`."""
        if self._filling and len(self._filling) + len(words) <= MAX_RUN:
            self._filling += words
            return []
        self._filling = list(words)
        return self._filling

    async def deliver(self, words: list[Deliver]) -> None:
        """Hand a run to the door (PA1). It grows until the door begins with it."""
        answered: set[int] = set()
        envelopes = _Envelopes(words)

        def begin(place: int) -> bool:
            if words is self._filling:
                self._filling = []
            held = self.refuse_held(words[place])
            if held:
                answered.add(place)
            return not held

        def answer(place: int, outcome: Delivery | Refused | Unavailable) -> None:
            answered.add(place)
            self._answer(words[place], outcome)

        try:
            await self._door.deliver_run(Run(envelopes, answer, begin), self._node)
        except (Refused, Unavailable) as exc:
            for place in range(len(words)):
                if place not in answered:
                    answer(place, exc)
        self._done()

    def _answer(self, event: Deliver, outcome: Delivery | Refused | Unavailable) -> None:
        if isinstance(outcome, Delivery):
            self._say(Accept(event.number, outcome.status, outcome.receipt))
            return
        word = refusal(event.number, outcome)
        self.held.refuse(event.envelope.mailbox, word.code)
        self._say(word)

    async def request(self, event: Join | Collect) -> None:
        """Do what it asks."""
        try:
            if isinstance(event, Join):
                await self._door.join(event.token, self._node)
                self._say(Accept(event.number, "joined", b""))
            else:
                await self._door.collect(list(event.cards), self._node)
                self._say(Accept(event.number, "collecting", b""))
        except (Refused, Unavailable) as exc:
            self._say(refusal(event.number, exc))
        self._done()

    async def show_cards(self, number: int, addresses: tuple[str, ...]) -> None:
        """Answer a WantCards."""
        try:
            cards = await self._door.cards_for(addresses, self._node)
        except (Refused, Unavailable) as exc:
            log.debug("no cards are shown node=%s why=%s", self._node.hex()[:16], exc)
            cards = []
        *most, last = [*batches(cards[:MAX_ANSWER])] or [()]
        for some in most:
            self._say(Cards(0, some))
        self._say(Cards(number, last))
        self._done()
