"""One peer session, without I/O: bytes in, events out; events in, bytes out.

    session.receive(data) -> the events the peer said
    session.send(event)   -> the bytes that say it to the peer

The bytes are plaintext: handshake.Channel seals and opens them. Each side goes through the same
states on its own:

              Hello         Goodbye
    OPENING ---------> OPEN ---------> CLOSING       any violation: BROKEN

Rules, each tested by name in tests/protocol/test_session.py:

  S1  Hello comes first, and once.
  S2  The numbers of Deliver, Join and Collect count up from 1, in one row; those of WantCards in a
      row of their own.
  S3  Accept and Refuse answer an open Deliver, Join or Collect, Accept with a status that fits;
      Cards with a number an open WantCards, Pong the open Ping: each once.
  S4  At most WINDOW words of that row are open for a side, and WINDOW_BYTES of sealed bytes, cards
      and tokens; a word that is alone may be larger.
  S5  After Goodbye a side says answers only.
  S6  At most one WantCards, one Ping, and one Join or Collect of a side are open.
  S7  Deliver, Join and Collect come after the other side's Hello, and no envelope is larger than
      that Hello allows.
  S8  A side says Goodbye when it has said MAX_WORDS words; twice as many are a violation.
  S9  Both having said Goodbye, and nothing open, the session is over.
  S10  What is refused with a code of AGAIN holds its mailbox back: every later Deliver for it is
       refused too, until a Pong has answered a Ping that was said after that Refuse. Then what
       comes was said by somebody who knows, and begins again at the first that was not taken
       (edge/peer_offers.py, O3).

A session holds no mail: the queue on disk does. If the session breaks, every open number is offered
again on the next one, so an envelope may come twice; the receiver drops duplicates by the id of the
envelope (core/mailbox.py). Refuse with a code of TEMPORARY asks for another try later; with any
other code, also one that is not known, the envelope is given up. ("stale_key": this envelope is,
and its message is sealed again.)
"""

from collections.abc import Iterator
from enum import Enum
from typing import Final

from ampd.model.encoding import decode, encode
from ampd.model.errors import Invalid, LocalProtocolError, ProtocolError, RemoteProtocolError
from ampd.protocol.events import (
    MAX_CLAIM_BYTES,
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
    from_wire,
    to_wire,
)
from ampd.protocol.framing import frame, frames

VERSION: Final = 1
WINDOW: Final = 256  # several runs (edge/peer_asked.py): one is kept while the next one comes
WINDOW_BYTES: Final = 4 << 20  # four of the largest default envelopes: what a peer makes us hold
ENVELOPE_BYTES: Final = (
    1 << 20
)  # sealed: limits.message_bytes, 12 % of padding, two cards, and room
FRAME_ROOM: Final = 64 << 10  # of a frame, beside the envelope or the cards
MAX_WORDS: Final = 1 << 20
TEMPORARY: Final = ("unavailable", "rate_limited", "quota_exceeded", "timeout")
MAX_HELD: Final = 1024  # mailboxes held back; then all are, until the peer says Pong
AGAIN: Final = (*TEMPORARY, "stale_key")  # the same message will come once more

_Said = Deliver | Join | Collect


class State(Enum):
    """How far a side has got."""

    OPENING = "opening"
    OPEN = "open"
    CLOSING = "closing"
    BROKEN = "broken"


class _Side:
    """What one side has said so far. It does not know whether it is us or the peer, so the same
    rules bind both."""

    __slots__ = (
        *("asked", "bytes", "hello", "last", "last_asked", "open", "ping", "requesting", "state"),
        "words",
    )

    def __init__(self) -> None:
        self.state = State.OPENING
        self.hello: Hello | None = None
        self.last = 0  # of Deliver, Join and Collect
        self.open: dict[int, tuple[int, tuple[str, ...]]] = {}  # number -> bytes, fitting statuses
        self.bytes = 0
        self.requesting: int | None = None  # the open Join or Collect
        self.last_asked = 0
        self.asked: int | None = None  # the open WantCards
        self.ping: int | None = None  # the nonce of the open Ping
        self.words = 0

    def say(self, event: Event, other: "_Side") -> None:
        """Apply `event`, or raise ProtocolError and change nothing."""
        if self.words >= 2 * MAX_WORDS:
            raise ProtocolError("S8: too many words in one session")
        match event:
            case Accept() | Refuse():
                self._may_answer(event)
                other.hear(event)
            case Cards(number) if number:
                self._may_answer(event)
                if number != other.asked:
                    raise ProtocolError(f"S3: cards {number} were not asked for")
                other.asked = None
            case Pong(nonce):
                self._may_answer(event)
                if nonce != other.ping:
                    raise ProtocolError("S3: a Pong without its Ping")
                other.ping = None
            case Hello():
                if self.state is not State.OPENING:
                    raise ProtocolError(f"S1: Hello while {self.state.value}")
                self.state, self.hello = State.OPEN, event
            case _:
                self._begin(event, other)
        self.words += 1

    def hear(self, event: Accept | Refuse) -> None:
        """The other side's answer to something of this one."""
        if event.number not in self.open:
            raise ProtocolError(f"S3: {event.number} is not open")
        size, fitting = self.open[event.number]
        if isinstance(event, Accept) and event.status not in fitting:
            raise ProtocolError(f"S3: {event.status} is no answer to {event.number}")
        del self.open[event.number]
        self.bytes -= size
        if self.requesting == event.number:
            self.requesting = None

    def _may_answer(self, event: Event) -> None:
        if self.state not in {State.OPEN, State.CLOSING}:
            raise ProtocolError(f"S1: {type(event).__name__} while {self.state.value}")

    def _begin(self, event: Event, other: "_Side") -> None:
        """The words that answer nothing."""
        if self.state is not State.OPEN:
            rule = "S1" if self.state is State.OPENING else "S5"
            raise ProtocolError(f"{rule}: {type(event).__name__} while {self.state.value}")
        match event:
            case Deliver() | Join() | Collect():
                self._ask(event, other)
            case WantCards(number):
                if self.asked is not None or number != self.last_asked + 1:
                    raise ProtocolError(f"S2, S6: WantCards {number} after {self.last_asked}")
                self.last_asked = self.asked = number
            case Ping(nonce):
                if self.ping is not None:
                    raise ProtocolError("S6: a second Ping")
                self.ping = nonce
            case Goodbye():
                self.state = State.CLOSING

    def _ask(self, event: _Said, other: "_Side") -> None:
        size = size_of(event)
        if event.number != self.last + 1:
            raise ProtocolError(f"S2: {type(event).__name__} {event.number} after {self.last}")
        if not self.has_room(size):
            raise ProtocolError(f"S4: more than {WINDOW} or {WINDOW_BYTES} bytes unanswered")
        if other.hello is None:
            raise ProtocolError(f"S7: {type(event).__name__} before the other side said Hello")
        match event:
            case Deliver():
                if size > other.hello.envelope_bytes:
                    raise ProtocolError(f"S7: an envelope of {size} bytes was not asked for")
                fitting: tuple[str, ...] = ("delivered", "relayed")
            case _:
                if self.requesting is not None:
                    raise ProtocolError("S6: a second Join or Collect")
                self.requesting = event.number
                fitting = ("joined",) if isinstance(event, Join) else ("collecting",)
        self.last = event.number
        self.open[event.number] = (size, fitting)
        self.bytes += size

    def has_room(self, size: int) -> bool:
        """Whether `size` bytes more keep S4."""
        if not self.open:
            return True
        return len(self.open) < WINDOW and self.bytes + size <= WINDOW_BYTES

    @property
    def settled(self) -> bool:
        """Whether it has said Goodbye and waits for no answer."""
        return self.state is State.CLOSING and not self.open and self.asked is None


class Held:
    """The mailboxes that a side holds back (S10)."""

    __slots__ = ("_mailboxes", "_until_pong")

    def __init__(self) -> None:
        self._mailboxes: set[bytes] = set()
        self._until_pong: set[bytes] = set()  # those refused before the open Ping

    def __contains__(self, mailbox: bytes) -> bool:
        return mailbox in self._mailboxes or len(self._mailboxes) >= MAX_HELD

    def refuse(self, mailbox: bytes, code: str) -> None:
        """This side says Refuse with `code` to a Deliver for `mailbox`."""
        if code in AGAIN and mailbox not in self:
            self._mailboxes.add(mailbox)

    def ping(self) -> None:
        """This side says Ping."""
        self._until_pong = set(self._mailboxes)

    def pong(self) -> None:
        """The other one has answered it."""
        self._mailboxes -= self._until_pong
        self._until_pong = set()

    @property
    def want_ping(self) -> bool:
        """Whether any is held back that no open Ping will release."""
        return self._mailboxes != self._until_pong


class Session:
    """Both sides of a session, as one sees it. `envelope_bytes` is what our Hello will say."""

    def __init__(self, envelope_bytes: int = ENVELOPE_BYTES) -> None:
        self._ours = _Side()
        self._theirs = _Side()
        self._limit = max(envelope_bytes, MAX_CLAIM_BYTES) + FRAME_ROOM
        self._frames = frames(self._limit)

    def send(self, event: Event) -> bytes:
        """Raise LocalProtocolError if we may not say `event` now."""
        if self._theirs.state is State.BROKEN:
            raise LocalProtocolError("the session is broken")
        body = encode(to_wire(event))
        try:
            self._ours.say(event, self._theirs)
        except ProtocolError as exc:
            raise LocalProtocolError(str(exc)) from None
        return frame(body)

    def receive(self, data: bytes) -> list[Event]:
        """Raise RemoteProtocolError, and nothing else, whatever `data` is."""
        if self._theirs.state is State.BROKEN:
            raise RemoteProtocolError("the session is broken")
        try:
            return list(self._events(data))
        except (ProtocolError, Invalid) as exc:
            self._theirs.state = State.BROKEN
            raise RemoteProtocolError(str(exc)) from None

    def _events(self, data: bytes) -> Iterator[Event]:
        for body in self._frames.feed(data):
            event = from_wire(decode(body, limit=self._limit))
            if event is not None:
                self._theirs.say(event, self._ours)
                yield event

    def may_deliver(self, size: int) -> bool:
        """Whether a Deliver of `size` sealed bytes may be said now (S4, S5)."""
        return self._ours.state is State.OPEN and self._ours.has_room(size)

    def may_request(self, size: int) -> bool:
        """Whether a Join or Collect of `size` bytes may be said now (S4-S6)."""
        return self.may_deliver(size) and self._ours.requesting is None

    @property
    def taken(self) -> int:
        """The bytes that the peer makes us hold: unanswered words, and the beginning of one."""
        return self._theirs.bytes + self._frames.held

    @property
    def next_number(self) -> int:
        """That of our next Deliver, Join or Collect (S2)."""
        return self._ours.last + 1

    @property
    def next_question(self) -> int | None:
        """The number of our next WantCards (S2); None while one is open (S6)."""
        return self._ours.last_asked + 1 if self._ours.asked is None else None

    @property
    def open_for_us(self) -> bool:
        """Whether we may begin something: Hello is said, Goodbye is not."""
        return self._ours.state is State.OPEN

    @property
    def pinging(self) -> bool:
        """Whether a Ping of ours is open (S6)."""
        return self._ours.ping is not None

    @property
    def worn(self) -> bool:
        """Whether it is time for Goodbye (S8)."""
        return max(self._ours.words, self._theirs.words) >= MAX_WORDS

    @property
    def over(self) -> bool:
        """Whether nothing is left to be said (S9)."""
        return self._ours.settled and self._theirs.settled


def size_of(event: _Said) -> int:
    """The bytes that count for S4."""
    match event:
        case Deliver(_, envelope):
            return len(envelope.sealed)
        case Join(_, token):
            return len(token)
        case Collect(_, cards):
            return sum(map(len, cards))
