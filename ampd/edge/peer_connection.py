"""One peer session over one stream: pumps bytes between a trio stream and a Session.

Decides nothing: what may be said is protocol/session.py, what is taken is the door
(core/mailbox.py), whom to call and which of two sessions stays is edge/peer_tcp.py.

What a peer can make us hold: 64 KiB of a record, one frame (1.1 MiB), WINDOW_BYTES of its
unanswered envelopes (4 MiB) and MAX_UNWRITTEN of what it does not read (6 MiB). A session that
reads too slowly, is silent for two pings or leaves an envelope unanswered ends; what was unanswered
is Unavailable, and still in the sender's journal.
"""

import logging
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Final

import trio

from ampd.core.ports import Door
from ampd.model.errors import (
    AmpdError,
    ProtocolError,
    Refused,
    RemoteProtocolError,
    StaleKey,
    Unavailable,
)
from ampd.model.message import Delivery, Envelope
from ampd.protocol.events import (
    MAX_ADDRESSES,
    MAX_CARD,
    MAX_CARDS,
    MAX_TEXT,
    Accept,
    Cards,
    Deliver,
    Event,
    Goodbye,
    Hello,
    Ping,
    Pong,
    Refuse,
    WantCards,
)
from ampd.protocol.handshake import MAX_UNPROVED, Channel, Handshake
from ampd.protocol.session import TEMPORARY, WINDOW_BYTES, Session

HANDSHAKE_WITHIN: Final = 10.0  # seconds; and as long again for the peer's Hello
PING_EVERY: Final = 20.0  # seconds; under the 30 s after which home routers forget a connection
SILENT_FOR: Final = 2 * PING_EVERY  # then the peer is gone
PROBE_WITHIN: Final = 5.0  # seconds for an answer after the machine slept or changed networks
ANSWER_WITHIN: Final = 60.0  # seconds; a disk that syncs this slowly is broken
RETIRE_WITHIN: Final = ANSWER_WITHIN  # for the answers that are open at Goodbye
LINGER: Final = 5.0  # seconds for the peer to close after our last byte
MAX_AGE: Final = 3600.0  # seconds, as wire.md: fresh keys every hour
MAX_READ: Final = 65536
MAX_WRITE: Final = 65536  # many small words in one system call
MAX_UNWRITTEN: Final = WINDOW_BYTES + (2 << 20)  # our open envelopes, and cards and answers

LINK_BROKE: Final = (trio.BrokenResourceError, trio.ClosedResourceError, OSError)

log = logging.getLogger("ampd.peer")


class Offer:
    """An envelope on its way to one node, and what became of it."""

    __slots__ = ("_answered", "_outcome", "abandoned", "envelope")

    def __init__(self, envelope: Envelope) -> None:
        self.envelope = envelope
        self.abandoned = False  # nobody waits any more
        self._answered = trio.Event()
        self._outcome: Delivery | AmpdError | None = None

    def settle(self, outcome: Delivery | AmpdError) -> None:
        """Say what became of it, once."""
        self._outcome = outcome
        self._answered.set()

    async def outcome(self) -> Delivery:
        """Wait for the answer; raises what `deliver` of a Carrier raises."""
        try:
            await self._answered.wait()
        except trio.Cancelled:
            self.abandoned = True
            raise
        if isinstance(self._outcome, Delivery):
            return self._outcome
        assert self._outcome is not None  # noqa: S101  settle() has set it
        raise self._outcome


async def prove(stream: trio.abc.Stream, handshake: Handshake) -> Channel:
    """Run `handshake` over `stream`; RemoteProtocolError or a broken link if it fails."""
    if first := handshake.start():
        await stream.send_all(first)
    left = MAX_UNPROVED
    while handshake.channel is None:
        data = await stream.receive_some(left)
        if not data:
            raise RemoteProtocolError("it hung up during the handshake")
        left -= len(data)
        if answer := handshake.receive(bytes(data)):
            await stream.send_all(answer)
    return handshake.channel


class PeerConnection:
    """A session with a node that has proved its key.

    `waiting` is what is to be offered to that node, in order. It belongs to the caller, so that the
    next session goes on where this one retired.
    """

    def __init__(
        self,
        stream: trio.abc.HalfCloseableStream,
        handshake: Handshake,
        door: Door,
        waiting: deque[Offer],
    ) -> None:
        assert handshake.channel is not None and handshake.peer is not None  # noqa: S101, PT018
        self.node = handshake.peer
        self.hello: Hello | None = None  # the peer's
        self.rtt: float | None = None  # seconds
        self.heard_at = trio.current_time()
        self.ended = ""  # why, once it has
        self.leaving = trio.Event()  # nothing more will be offered here
        self.closed = trio.Event()
        self._stream = stream
        self._channel = handshake.channel
        self._session = Session()
        self._door = door
        self._waiting = waiting
        self._early = self._session.receive(self._channel.open(handshake.rest))
        self._open: dict[int, tuple[Offer, float]] = {}
        self._questions: dict[int, trio.Event] = {}
        self._unwritten: deque[bytes] = deque()
        self._unwritten_bytes = 0
        self._work = trio.Event()
        self._scope = trio.CancelScope()
        self._nursery: trio.Nursery | None = None
        self._born = self._pinged_at = self.heard_at

    async def greet(self, hello: Hello) -> Hello:
        """Say Hello and wait for the peer's; RemoteProtocolError if it says something else."""
        await self._stream.send_all(self._channel.seal(self._session.send(hello)))
        while not self._early:
            data = await self._stream.receive_some(MAX_READ)
            if not data:
                raise RemoteProtocolError("it hung up before it said who it is")
            self._early = self._session.receive(self._channel.open(bytes(data)))
        first = self._early.pop(0)
        assert isinstance(first, Hello)  # noqa: S101  by rule S1
        self.hello = first
        self.heard_at = trio.current_time()
        return first

    async def run(self) -> None:
        """Until either side closes, the link breaks, or the peer breaks the protocol."""
        with self._scope:
            try:
                async with trio.open_nursery() as nursery:
                    self._nursery = nursery
                    nursery.start_soon(self._write)
                    nursery.start_soon(self._keep_alive)
                    await self._read()
                    nursery.cancel_scope.cancel()
            finally:
                self._settle_what_is_open()
                self._nursery = None
                self.leaving.set()
                self.closed.set()
                await trio.aclose_forcefully(self._stream)

    def end(self, why: str) -> None:
        """Cut the session now."""
        self.ended = self.ended or why
        self._scope.cancel()

    def retire(self, why: str) -> None:
        """End the session once what is open is answered; what waits is left to the next one."""
        if self._session.open_for_us:
            self._say(Goodbye(why))
            self.ended = self.ended or why
            self._scope.deadline = trio.current_time() + RETIRE_WITHIN
            self.leaving.set()

    def admit(self) -> None:
        """Offer what waits, as far as the window allows; in order."""
        waiting, session = self._waiting, self._session
        while waiting and session.may_deliver(len(waiting[0].envelope.sealed)):
            offer = waiting.popleft()
            if offer.abandoned:
                continue
            if self._is_too_large(offer):
                continue
            number = session.next_number
            self._open[number] = (offer, trio.current_time())
            self._say(Deliver(number, offer.envelope))

    def show(self, cards: Iterable[bytes]) -> None:
        """Show the peer these signed cards."""
        if self._session.open_for_us:
            for some in _batches(cards):
                self._say(Cards(0, some))

    async def want_cards(self, addresses: Iterable[str]) -> None:
        """Ask for the newest cards of `addresses`; return when the door has learned the answer.

        Raises Unavailable when the session ends first.
        """
        wanted = tuple(addresses)[:MAX_ADDRESSES]
        while (number := self._session.next_question) is None and self._questions:
            await next(iter(self._questions.values())).wait()
        if number is None or not self._session.open_for_us:
            raise Unavailable("the session with this node has ended")
        answered = self._questions[number] = trio.Event()
        self._say(WantCards(number, wanted))
        await answered.wait()
        if self._nursery is None:
            raise Unavailable(f"the session with this node ended: {self.ended}")

    def probe(self) -> None:
        """Find out soon whether the peer is still there."""
        if self._nursery is not None:
            self._nursery.start_soon(self._probe)

    async def _read(self) -> None:
        try:
            await self._hear_all(self._early)
            while data := await self._stream.receive_some(MAX_READ):
                self.heard_at = trio.current_time()
                await self._hear_all(self._session.receive(self._channel.open(bytes(data))))
            self.ended = self.ended or "the peer hung up"
        except ProtocolError as exc:
            log.warning("session ended node=%s why=%s", self.node.hex()[:16], exc)
            self.end(str(exc))
        except LINK_BROKE as exc:
            self.end(f"the link broke: {exc}")

    async def _hear_all(self, events: list[Event]) -> None:
        for event in events:
            match event:
                case Deliver(number, envelope):
                    assert self._nursery is not None  # noqa: S101  only run() reads
                    self._nursery.start_soon(self._take, number, envelope)
                    # Trio runs what became ready together in any order. One round for each keeps
                    # the calls of the door in the order of the numbers.
                    await trio.lowlevel.checkpoint()
                case Accept() | Refuse():
                    self._answered(event)
                case Cards(number, cards):
                    await self._door.learn(list(cards), self.node)
                    if number:
                        self._questions.pop(number).set()
                case _:
                    self._hear(event)
        self.admit()
        self._finish_when_over()

    def _hear(self, event: Hello | WantCards | Ping | Pong | Goodbye) -> None:
        match event:
            case WantCards(number):
                self._answer_with_cards(number)
            case Ping(nonce):
                self._say(Pong(nonce))
            case Pong():
                self.rtt = trio.current_time() - self._pinged_at
            case Goodbye(reason):
                self.retire(reason or "the peer said goodbye")
            case Hello():
                pass  # greet() has heard it

    async def _take(self, number: int, envelope: Envelope) -> None:
        answer: Accept | Refuse
        try:
            delivery = await self._door.deliver(envelope, self.node)
            answer = Accept(number, delivery.status, delivery.receipt)
        except StaleKey as exc:
            answer = Refuse(number, exc.code, _one_line(str(exc)), exc.card)
        except Refused as exc:
            answer = Refuse(number, exc.code, _one_line(str(exc)))
        except Unavailable as exc:
            code = exc.code if exc.code in TEMPORARY else "unavailable"
            answer = Refuse(number, code, _one_line(str(exc)))
        self._say(answer)
        self._finish_when_over()

    def _answered(self, event: Accept | Refuse) -> None:
        offer, _ = self._open.pop(event.number)
        match event:
            case Accept(_, status, receipt):
                offer.settle(Delivery(status, receipt))
            case Refuse(_, "stale_key", reason, card):
                offer.settle(StaleKey(reason, card))
            case Refuse(_, code, reason) if code in TEMPORARY:
                offer.settle(Unavailable(reason, code=code))
            case Refuse(_, code, reason):
                offer.settle(Refused(reason, code=code))

    def _answer_with_cards(self, number: int) -> None:
        """With all of ours: the door knows which are whose, and there are few."""
        *most, last = [*_batches(self._door.cards())] or [()]
        for some in most:
            self._say(Cards(0, some))
        self._say(Cards(number, last))

    def _is_too_large(self, offer: Offer) -> bool:
        size = len(offer.envelope.sealed)
        limit = self.hello.envelope_bytes if self.hello else 0
        if size > limit:
            text = f"the message is {size} bytes sealed, the recipient's node takes {limit}"
            offer.settle(Refused(text, code="too_large"))
        return size > limit

    def _say(self, event: Event) -> None:
        if self._scope.cancel_called:
            return  # it is over: there is nobody to say it to
        data = self._session.send(event)
        self._unwritten.append(data)
        self._unwritten_bytes += len(data)
        if self._unwritten_bytes > MAX_UNWRITTEN:
            self.end("the peer does not read")
        self._work.set()

    async def _write(self) -> None:
        try:
            while not self._session.over or self._unwritten:
                await self._work.wait()
                self._work = trio.Event()
                while data := self._next_to_write():
                    await self._stream.send_all(self._channel.seal(data))
                    self._unwritten_bytes -= len(data)
            await self._stream.send_eof()
        except ProtocolError as exc:
            self.end(str(exc))
        except LINK_BROKE as exc:
            self.end(f"the link broke: {exc}")
        self._scope.deadline = min(self._scope.deadline, trio.current_time() + LINGER)

    def _next_to_write(self) -> bytes:
        words, size = [], 0
        while self._unwritten and size < MAX_WRITE:
            words.append(self._unwritten.popleft())
            size += len(words[-1])
        return b"".join(words)

    async def _keep_alive(self) -> None:
        while True:
            self._ping()
            await trio.sleep(PING_EVERY)
            now = trio.current_time()
            oldest = next(iter(self._open.values()), None)
            if now - self.heard_at >= SILENT_FOR:
                self.end("the peer is silent")
            elif oldest is not None and now - oldest[1] > ANSWER_WITHIN:
                self.end("the peer does not answer")
            elif now - self._born > MAX_AGE or self._session.worn:
                self.retire("a new session takes over")

    async def _probe(self) -> None:
        asked_at = trio.current_time()
        self._ping()
        await trio.sleep(PROBE_WITHIN)
        if self.heard_at < asked_at:
            self.end("the peer is silent")

    def _ping(self) -> None:
        if self._session.open_for_us and not self._session.pinging:
            self._pinged_at = trio.current_time()
            self._say(Ping(0))

    def _finish_when_over(self) -> None:
        if self._session.over:
            self._work.set()

    def _settle_what_is_open(self) -> None:
        self.ended = self.ended or "the daemon is stopping"
        for offer, _ in self._open.values():
            offer.settle(Unavailable(f"the session with the node ended: {self.ended}"))
        self._open.clear()
        for answered in self._questions.values():
            answered.set()
        self._questions.clear()


def _batches(cards: Iterable[bytes]) -> Iterator[tuple[bytes, ...]]:
    """As many to a word as it may hold; a card that is too large for any is not shown."""
    fitting = [card for card in cards if 0 < len(card) <= MAX_CARD]
    for start in range(0, len(fitting), MAX_CARDS):
        yield tuple(fitting[start : start + MAX_CARDS])


def _one_line(text: str) -> str:
    """A reason as it may travel: printable, bounded."""
    return "".join(c if c.isprintable() else "?" for c in text[:MAX_TEXT])
