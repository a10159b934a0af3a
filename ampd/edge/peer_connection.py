"""One peer session over one stream: pumps bytes between a trio stream and a Session.

Decides nothing: what may be said is protocol/session.py, what is taken is the door
(core/mailbox.py, core/relay.py), in which order we offer is peer_offers.py, whom to call and which
of two sessions stays is edge/peer_tcp.py.

What a peer can make us hold: 64 KiB of a record, one frame (1.1 MiB), WINDOW_BYTES of what it asked
and we did not answer (4 MiB) and MAX_UNWRITTEN of what it does not read (6 MiB); all of them
together no more than peer_budget.py says. Of what we offer, one envelope waits to be written; the
others wait in the queue. A session that reads too slowly, is silent for two pings or leaves a
question unanswered ends; what was unanswered is Unavailable, and still in the sender's journal.
"""

import logging
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Final

import trio

from ampd.core.ports import Door
from ampd.edge.peer_asked import Asked
from ampd.edge.peer_budget import Budget
from ampd.edge.peer_offers import Answer, Offer, Offers, Request
from ampd.edge.peer_words import batches, outcome_of, too_large
from ampd.model.errors import ProtocolError, RemoteProtocolError, Unavailable
from ampd.protocol.events import (
    MAX_ADDRESSES,
    Accept,
    Cards,
    Collect,
    Deliver,
    Event,
    Goodbye,
    Hello,
    Join,
    Ping,
    Pong,
    Refuse,
    WantCards,
)
from ampd.protocol.handshake import Handshake
from ampd.protocol.session import ENVELOPE_BYTES, Session

PING_EVERY: Final = 20.0  # seconds; under the 30 s after which home routers forget a connection
SILENT_FOR: Final = 2 * PING_EVERY  # then the peer is gone
PROBE_WITHIN: Final = 5.0  # seconds for an answer after the machine slept or changed networks
ANSWER_WITHIN: Final = 60.0  # seconds; a disk that syncs this slowly is broken
RETIRE_WITHIN: Final = ANSWER_WITHIN  # for the answers that are open at Goodbye
LINGER: Final = 5.0  # seconds for the peer to close after our last byte
MAX_AGE: Final = 3600.0  # seconds, as wire.md: fresh keys every hour
MAX_READ: Final = 65536
MAX_WRITE: Final = 65536  # many small words in one system call
MAX_UNWRITTEN: Final = 6 << 20  # an answer of 256 cards, an envelope of ours, the small words

LINK_BROKE: Final = (trio.BrokenResourceError, trio.ClosedResourceError, OSError)

log = logging.getLogger("ampd.peer")


class PeerConnection:
    """A session with a node that has proved its key.

    `offers` is what is to be offered to that node, in order. It belongs to the caller, so that the
    next session goes on where this one retired. `source` is the address at the other end.
    """

    def __init__(
        self,
        stream: trio.abc.HalfCloseableStream,
        handshake: Handshake,
        door: Door,
        offers: Offers,
        budget: Budget,
        source: str = "",
        envelope_bytes: int = ENVELOPE_BYTES,
    ) -> None:
        assert handshake.channel is not None and handshake.peer is not None  # noqa: S101, PT018
        self.node = handshake.peer
        self.source = source
        self.hello: Hello | None = None  # the peer's
        self.rtt: float | None = None  # seconds
        self.heard_at = trio.current_time()
        self.ended = ""  # why, once it has
        self.leaving = trio.Event()  # nothing more will be offered here
        self.drained = trio.Event()  # and nothing that was is unanswered
        self.closed = trio.Event()
        self._stream = stream
        self._channel = handshake.channel
        self._session = Session(envelope_bytes)
        self._door = door
        self._offers = offers
        self._budget = budget
        self._early = self._session.receive(self._channel.open(handshake.rest))
        self._open: dict[int, tuple[Answer, float]] = {}
        self._requests: deque[Request] = deque()
        self._questions: dict[int, trio.Event] = {}
        self._asked = Asked(door, self.node, self._say, self._answered_one)
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
                self._nursery = None
                self._settle_what_is_open()
                self._budget.hold(self, 0)
                for event in (self.leaving, self.drained, self.closed):
                    event.set()
                await trio.aclose_forcefully(self._stream)

    def end(self, why: str) -> None:
        """Cut the session now."""
        self.ended = self.ended or why
        self._scope.cancel()

    def retire(self, why: str, within: float = RETIRE_WITHIN) -> None:
        """End the session once what is open is answered; what waits is left to the next one."""
        self._scope.deadline = min(self._scope.deadline, trio.current_time() + within)
        if self._session.open_for_us:
            self._say(Goodbye(why))
            self.ended = self.ended or why
            self.leaving.set()
            while self._requests:
                self._requests.popleft().settle(Unavailable(f"the session ended: {why}"))
            self._see_what_is_left()

    def admit(self) -> None:
        """Say what waits, as far as the window and the writer allow; in order."""
        session = self._session
        while self._requests and session.may_request(self._requests[0].size):
            request = self._requests.popleft()
            self._begin(request, request.word(session.next_number))
        while not self._requests and self._unwritten_bytes < MAX_WRITE:
            offer = self._offers.next(self)
            if offer is None or not session.may_deliver(len(offer.envelope.sealed)):
                return
            if refused := too_large(offer.envelope, self.hello):
                self._offers.refuse_next(refused)
            else:
                self._begin(self._offers.begin(self), Deliver(session.next_number, offer.envelope))

    def _begin(self, asked: Answer, word: Deliver | Join | Collect) -> None:
        self._open[word.number] = (asked, trio.current_time())
        self._say(word)

    def show(self, cards: Iterable[bytes]) -> None:
        """Show the peer these signed cards."""
        if self._session.open_for_us:
            for some in batches(cards):
                self._say(Cards(0, some))

    async def request(self, request: Request) -> None:
        """Say a Join or a Collect, and wait for the answer; raises Refused or Unavailable."""
        if not self._session.open_for_us or self.closed.is_set():
            raise Unavailable("the session with this node has ended")
        self._requests.append(request)
        self.admit()
        await request.outcome()

    async def want_cards(self, addresses: Sequence[str]) -> None:
        """Ask for the newest cards of `addresses`; return when the door has learned the answer.

        Raises Unavailable when the session ends first.
        """
        while (number := self._session.next_question) is None and self._questions:
            await next(iter(self._questions.values())).wait()
        if number is None or not self._session.open_for_us:
            raise Unavailable("the session with this node has ended")
        answered = self._questions[number] = trio.Event()
        self._say(WantCards(number, tuple(addresses[:MAX_ADDRESSES])))
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
                events = self._session.receive(self._channel.open(bytes(data)))
                self._count()
                await self._hear_all(events)
            self.ended = self.ended or "the peer hung up"
        except ProtocolError as exc:
            log.warning("session ended node=%s why=%s", self.node.hex()[:16], exc)
            self.end(str(exc))
        except LINK_BROKE as exc:
            self.end(f"the link broke: {exc}")

    async def _hear_all(self, events: list[Event]) -> None:
        assert self._nursery is not None  # noqa: S101  only run() reads
        run: list[Deliver] = []
        for event in events:
            if isinstance(event, Deliver):
                if not self._asked.refuse_held(event):
                    run.append(event)
                continue
            await self._take_up(run)
            run = []
            match event:
                case Join() | Collect():
                    self._nursery.start_soon(self._asked.request, event)
                    await trio.lowlevel.checkpoint()
                case Accept() | Refuse():
                    self._answered(event)
                case Cards(number, cards):
                    await self._door.learn(list(cards), self.node)
                    if number:
                        self._questions.pop(number).set()
                case _:
                    self._hear(event, self._nursery)
        await self._take_up(run)
        self.admit()
        self._see_what_is_left()

    async def _take_up(self, run: list[Deliver]) -> None:
        """What was read together is handed to the door together (peer_asked.py, PA1)."""
        if run and self._nursery is not None and (words := self._asked.take(run)):
            self._nursery.start_soon(self._asked.deliver, words)
            # Trio runs what became ready together in any order. One round for each keeps the calls
            # of the door in the order of the numbers.
            await trio.lowlevel.checkpoint()

    def _hear(self, event: Hello | WantCards | Ping | Pong | Goodbye, run: trio.Nursery) -> None:
        match event:
            case WantCards(number, addresses):
                run.start_soon(self._asked.show_cards, number, addresses)
            case Ping(nonce):
                self._say(Pong(nonce))
            case Pong():
                self.rtt = trio.current_time() - self._pinged_at
                self._asked.held.pong()
                self._release_soon()
            case Goodbye(reason):
                self.retire(reason or "the peer said goodbye")
            case Hello():
                pass  # greet() has heard it

    def _answered_one(self) -> None:
        """What the peer asked has its answer."""
        self._release_soon()
        self._count()
        self._see_what_is_left()

    def _answered(self, event: Accept | Refuse) -> None:
        asked, _ = self._open.pop(event.number)
        if isinstance(asked, Offer):
            self._offers.answer(self, asked, outcome_of(event))
        else:
            asked.settle(outcome_of(event))

    def _say(self, event: Event) -> None:
        if self._scope.cancel_called:
            return  # it is over: there is nobody to say it to
        data = self._session.send(event)
        self._unwritten.append(data)
        self._unwritten_bytes += len(data)
        if self._unwritten_bytes > MAX_UNWRITTEN:
            self.end("the peer does not read")
        self._count()
        self._work.set()

    def _count(self) -> None:
        """What this session holds (peer_budget.py, M1)."""
        self._budget.hold(self, self._session.taken + self._unwritten_bytes)

    async def _write(self) -> None:
        try:
            while not self._session.over or self._unwritten:
                await self._work.wait()
                self._work = trio.Event()
                while data := self._next_to_write():
                    await self._stream.send_all(self._channel.seal(data))
                    self._unwritten_bytes -= len(data)
                    self._count()
                    self.admit()
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
            self._asked.held.ping()
            self._say(Ping(0))

    def _release_soon(self) -> None:
        """Ask whether the peer has heard what was refused (S10)."""
        if self._asked.held.want_ping:
            self._ping()

    def _see_what_is_left(self) -> None:
        if self.leaving.is_set() and not self._open:
            self.drained.set()
        if self._session.over:
            self._work.set()

    def _settle_what_is_open(self) -> None:
        self.ended = self.ended or "the daemon is stopping"
        why = f"the session with the node ended: {self.ended}"
        asked = [answer for answer, _ in self._open.values()]
        self._open.clear()
        self._offers.broke(self, [each for each in asked if isinstance(each, Offer)], why)
        for each in (*asked, *self._requests):
            if not isinstance(each, Offer):
                each.settle(Unavailable(why))
        self._requests.clear()
        for answered in self._questions.values():
            answered.set()
        self._questions.clear()
