"""The words of a peer session, and their form on the wire.

A word is a CBOR array (model/encoding.py) that begins with its tag:

    0  Hello      version, domain, epoch, port, envelope_bytes, features (later ones: more)
    1  Goodbye    reason
    2  Ping       nonce
    3  Pong       nonce
    4  Cards      number (0: nobody asked), cards
    5  WantCards  number, addresses
    8  Deliver    number, mailbox, expires, sealed
    9  Accept     number, status, receipt
    10 Refuse     number, code, reason, card
    16 Join       number, token
    17 Collect    number, cards

  V1  Every word has one spelling: from_wire(to_wire(word)) is the word again.
  V2  A word with a field missing, too many, of another type or over its limit is a violation.
  V3  Tags 64-127 are extensions: a node that does not know one ignores the word. Any other tag
      that is not in the table is a violation. 16-31 are kept for the words of a relay.
  V4  Text that people may be shown is printable and bounded; a domain is DNS labels in lower case.

Not here: who may say what, when (session.py).
"""

from typing import Final

from ampd.model.address import check_domain
from ampd.model.errors import Invalid, ProtocolError
from ampd.model.message import Envelope
from ampd.model.values import value

MAX_NUMBER: Final = 1 << 32  # of any word; a session ends long before
MAX_CARDS: Final = 64  # in one word; with MAX_CARD the word is under 1 MiB + 1 KiB
MAX_CARD: Final = 16384  # as in a letter (model/message.py)
MAX_ADDRESSES: Final = 64
MAX_CLAIMS: Final = 256  # mailboxes of one node
MAX_CLAIM_BYTES: Final = MAX_CARDS * MAX_CARD  # so that Collect is no longer than Cards may be
MAX_TOKEN: Final = 64  # of an invitation
MAX_RECEIPT: Final = 4096  # a receipt has one signature and two addresses: about 500 bytes
MAX_TEXT: Final = 512  # characters of a reason; one line for a person
MAX_DOMAIN: Final = 254  # RFC 5321, section 4.5.3.1
MAX_FEATURES: Final = 32
MAX_NAME: Final = 64  # of a feature or a code
EXTENSIONS: Final = range(64, 128)
STATUSES: Final = ("delivered", "relayed", "joined", "collecting")


@value
class Hello:
    """Who speaks.

    The domain it serves, its store's epoch (8 bytes), the port at which it listens (0: it does
    not), the largest envelope that it takes (sealed bytes), and what it can beyond version 1.
    """

    version: int
    domain: str
    epoch: bytes
    port: int
    envelope_bytes: int
    features: tuple[str, ...] = ()


@value
class Goodbye:
    """From here on answers only."""

    reason: str


@value
class Ping:
    nonce: int


@value
class Pong:
    nonce: int


@value
class Cards:
    """Signed cards: shown unasked (number 0), or in answer to WantCards."""

    number: int
    cards: tuple[bytes, ...]


@value
class WantCards:
    """The newest cards, please, of these addresses; "@domain" is all of a domain, "" everybody."""

    number: int
    addresses: tuple[str, ...]


@value
class Deliver:
    number: int
    envelope: Envelope


@value
class Accept:
    """The envelope is on the disk of the side that says so; or it does what it was asked to."""

    number: int
    status: str
    receipt: bytes


@value
class Refuse:
    """Nothing was kept or done. `code` says whether it may be offered again (session.py)."""

    number: int
    code: str
    reason: str
    card: bytes = b""


@value
class Join:
    """Let me use this relay: here is an invitation."""

    number: int
    token: bytes


@value
class Collect:
    """Bring me the mail of these agents, and of no others; their cards name this node."""

    number: int
    cards: tuple[bytes, ...]


Event = (
    Hello | Goodbye | Ping | Pong | Cards | WantCards | Deliver | Accept | Refuse | Join | Collect
)


def to_wire(event: Event) -> list[object]:
    """The array that says `event`."""
    match event:
        case Hello(version, domain, epoch, port, size, features):
            word: list[object] = [0, version, domain, epoch, port, size, list(features)]
        case Goodbye(reason):
            word = [1, reason]
        case Ping(nonce):
            word = [2, nonce]
        case Pong(nonce):
            word = [3, nonce]
        case Cards(number, cards):
            word = [4, number, list(cards)]
        case WantCards(number, addresses):
            word = [5, number, list(addresses)]
        case _:
            word = _request_to_wire(event)
    return word


def _request_to_wire(event: Deliver | Accept | Refuse | Join | Collect) -> list[object]:
    """The words of the row of Deliver, and their answers."""
    match event:
        case Deliver(number, envelope):
            return [8, number, *envelope.to_wire()]
        case Accept(number, status, receipt):
            return [9, number, status, receipt]
        case Refuse(number, code, reason, card):
            return [10, number, code, reason, card]
        case Join(number, token):
            return [16, number, token]
        case Collect(number, cards):
            return [17, number, list(cards)]


def from_wire(value: object) -> Event | None:
    """The word that `value` says; None for an extension (V3); ProtocolError if it says none."""
    event: Event | None = None
    match value:
        case [bool(), *_]:
            pass  # True is no tag 1
        case [int(tag), *_] if tag in EXTENSIONS:
            return None
        case [int(tag), int(first), *fields] if _number(first):
            event = _numbered(tag, first, fields)
        case [1, str(reason)] if _shown(reason, MAX_TEXT):
            event = Goodbye(reason)
    if event is None:
        raise ProtocolError("V2: not a word of this protocol")
    return event


def _numbered(tag: int, first: int, fields: list[object]) -> Event | None:
    """The words whose first field is a number."""
    match tag, fields:
        case 0, _ if first:
            return _hello(first, fields)
        case 2, []:
            return Ping(first)
        case 3, []:
            return Pong(first)
        case 4, [list(cards)] if len(cards) <= MAX_CARDS:
            return Cards(first, tuple(_card(card) for card in cards))
        case 5, [list(addresses)] if 0 < len(addresses) <= MAX_ADDRESSES:
            return WantCards(first, tuple(_address(address) for address in addresses))
        case _:
            return _request(tag, first, fields)


def _request(tag: int, number: int, fields: list[object]) -> Event | None:
    """The words of the row of Deliver, and their answers."""
    event: Event | None = None
    match tag, fields:
        case 8, envelope:
            event = Deliver(number, _envelope(envelope))
        case 9, [str(status), bytes(receipt)]:
            if status in STATUSES and len(receipt) <= MAX_RECEIPT:
                event = Accept(number, status, receipt)
        case 10, [str(code), str(reason), bytes(card)]:
            if _shown(code, MAX_NAME) and _shown(reason, MAX_TEXT) and len(card) <= MAX_CARD:
                event = Refuse(number, code, reason, card)
        case 16, [bytes(token)] if 0 < len(token) <= MAX_TOKEN:
            event = Join(number, token)
        case 17, [list(cards)] if len(cards) <= MAX_CLAIMS:
            claims = tuple(_card(card) for card in cards)
            if sum(map(len, claims)) <= MAX_CLAIM_BYTES:
                event = Collect(number, claims)
    return event


def _hello(version: int, fields: list[object]) -> Hello | None:
    match fields:
        case [str(domain), bytes(epoch), int(port), int(size), list(features), *_] if (
            _is_domain(domain)
            and len(epoch) == 8
            and _number(port)
            and port < 65536
            and _number(size)
            and len(features) <= MAX_FEATURES
        ):
            names = tuple(_word(feature, MAX_NAME) for feature in features)
            return Hello(version, domain, epoch, port, size, names)
    return None


def _number(value: int) -> bool:
    return type(value) is int and 0 <= value < MAX_NUMBER


def _shown(text: str, limit: int) -> bool:
    return len(text) <= limit and text.isprintable()


def _word(value: object, limit: int) -> str:
    if (
        isinstance(value, str)
        and 0 < len(value) <= limit
        and value.isascii()
        and _shown(value, limit)
    ):
        return value
    raise ProtocolError("V2: an address or a feature that is no short text")


def _is_domain(text: str) -> bool:
    """In its one spelling: people and programs are shown whatever a stranger says it serves."""
    try:
        return check_domain(text) == text
    except Invalid:
        return False


def may_be_asked(address: str) -> bool:
    """Whether a WantCards may name `address`."""
    return len(address) <= MAX_DOMAIN and address.isascii() and address.isprintable()


def _address(value: object) -> str:
    return "" if value == "" else _word(value, MAX_DOMAIN)


def _card(value: object) -> bytes:
    if isinstance(value, bytes) and 0 < len(value) <= MAX_CARD:
        return value
    raise ProtocolError(f"V2: a card must be 1 to {MAX_CARD} bytes")


def _envelope(fields: list[object]) -> Envelope:
    try:
        return Envelope.from_wire(fields)
    except Invalid as exc:
        raise ProtocolError(f"V2: {exc}") from None
