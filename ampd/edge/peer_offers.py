"""What is on its way to one node, in order, over whichever session there is.

  O1  Offers go out in the order in which they were made, over one session at a time: while an
      older session has offers open, the newer one waits for their answers.
  O2  When a session breaks with offers open, these and all that wait are Unavailable.
  O3  When an offer has to be made again (Unavailable, StaleKey), all that wait for the same
      mailbox are Unavailable; and nothing more is taken for that mailbox until everything that is
      open for it was answered, and whoever offered it has heard so.

So whoever offers in the order of a queue, and begins again at the first that was not taken, has
them taken in that order. The other half is rule S10 of a session (protocol/session.py).

Not here: the window and the words (peer_connection.py), who offers what (core/transfer.py).
"""

from collections import Counter, deque
from collections.abc import Callable

import trio

from ampd.model.errors import AmpdError, StaleKey, Unavailable
from ampd.model.message import Delivery, Envelope
from ampd.protocol.events import Collect, Join


class Answer:
    """What becomes of one thing that a node was asked."""

    __slots__ = ("_answered", "_outcome")

    def __init__(self) -> None:
        self._answered = trio.Event()
        self._outcome: Delivery | AmpdError | None = None

    @property
    def is_there(self) -> bool:
        return self._answered.is_set()

    def settle(self, outcome: Delivery | AmpdError) -> None:
        """Say it, once."""
        self._outcome = outcome
        self._answered.set()

    async def outcome(self) -> Delivery:
        """Wait for it; raises what `deliver` of a Carrier raises."""
        await self._answered.wait()
        if isinstance(self._outcome, Delivery):
            return self._outcome
        assert self._outcome is not None  # noqa: S101  settle() has set it
        raise self._outcome


class Request(Answer):
    """A Join or a Collect that waits for its turn; `word` makes it, given its number."""

    __slots__ = ("size", "word")

    def __init__(self, word: Callable[[int], Join | Collect], size: int) -> None:
        super().__init__()
        self.word = word
        self.size = size


class Offer(Answer):
    """An envelope on its way."""

    __slots__ = ("envelope", "heard")

    def __init__(self, envelope: Envelope) -> None:
        super().__init__()
        self.envelope = envelope
        self.heard = False  # whoever offered it has its answer, or waits no more

    @property
    def mailbox(self) -> bytes:
        return self.envelope.mailbox


class Offers:
    """All offers to one node. A session is any object, the same for as long as it lasts."""

    def __init__(self) -> None:
        self._waiting: deque[Offer] = deque()
        self._open: Counter[object] = Counter()  # by session
        self._unfinished: Counter[bytes] = Counter()  # by mailbox: unanswered, or unheard
        self._stopped: dict[bytes, str] = {}  # mailbox -> why (O3)

    def __bool__(self) -> bool:
        """Whether anybody still waits for an answer, or for a place."""
        return bool(self._unfinished)

    def make(self, envelope: Envelope) -> Offer:
        """One more, behind the others; Unavailable while its mailbox is stopped (O3)."""
        if envelope.mailbox in self._stopped:
            raise Unavailable(f"behind another one: {self._stopped[envelope.mailbox]}")
        offer = Offer(envelope)
        self._waiting.append(offer)
        self._unfinished[offer.mailbox] += 1
        return offer

    async def outcome(self, offer: Offer) -> Delivery:
        """Wait for what becomes of it; who is cancelled here takes it back, if it still waits."""
        try:
            return await offer.outcome()
        finally:
            offer.heard = True
            if offer.is_there:
                self._finish(offer)

    def next(self, session: object) -> Offer | None:
        """The first that waits, if `session` may say it now (O1)."""
        while self._waiting and self._waiting[0].heard:
            self._finish(self._waiting.popleft())
        if not self._waiting or any(busy is not session for busy in self._open):
            return None
        return self._waiting[0]

    def begin(self, session: object) -> Offer:
        """`session` says what `next` gave it."""
        self._open[session] += 1
        return self._waiting.popleft()

    def answer(self, session: object, offer: Offer, outcome: Delivery | AmpdError) -> None:
        """`session` heard what became of it."""
        self._open[session] -= 1
        if not self._open[session]:
            del self._open[session]
        self._settle(offer, outcome)
        if isinstance(outcome, Unavailable | StaleKey):
            self._stop(offer.mailbox, str(outcome))

    def refuse_next(self, outcome: AmpdError) -> None:
        """The first that waits is not to be said at all."""
        self._settle(self._waiting.popleft(), outcome)

    def broke(self, session: object, open_there: list[Offer], why: str) -> None:
        """`session` ended without these answers (O2)."""
        if open_there:
            for offer in open_there:
                self.answer(session, offer, Unavailable(why))
            self.give_up(why)

    def give_up(self, why: str) -> None:
        """All that wait are Unavailable."""
        waiting, self._waiting = self._waiting, deque()
        for offer in waiting:
            self._stopped.setdefault(offer.mailbox, why)
            self._settle(offer, Unavailable(why))

    def _stop(self, mailbox: bytes, why: str) -> None:
        if self._unfinished[mailbox] and mailbox not in self._stopped:
            self._stopped[mailbox] = why
            behind = [offer for offer in self._waiting if offer.mailbox == mailbox]
            self._waiting = deque(offer for offer in self._waiting if offer.mailbox != mailbox)
            for offer in behind:
                self._settle(offer, Unavailable(f"behind another one: {why}"))

    def _settle(self, offer: Offer, outcome: Delivery | AmpdError) -> None:
        offer.settle(outcome)
        if offer.heard:
            self._finish(offer)

    def _finish(self, offer: Offer) -> None:
        """It is answered (or taken back), and nobody has still to hear of it."""
        self._unfinished[offer.mailbox] -= 1
        if not self._unfinished[offer.mailbox]:
            del self._unfinished[offer.mailbox]
            self._stopped.pop(offer.mailbox, None)
