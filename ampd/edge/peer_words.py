"""What the words of a session mean to the rooms: answers as errors, errors as answers; pure.

Not here: who says them, when (peer_connection.py).
"""

from collections.abc import Iterable, Iterator, Sequence

from ampd.edge.peer_offers import Request
from ampd.model.errors import AmpdError, Refused, StaleKey, Unavailable
from ampd.model.message import Delivery, Envelope
from ampd.protocol.events import (
    MAX_CARD,
    MAX_CARDS,
    MAX_CLAIM_BYTES,
    MAX_CLAIMS,
    MAX_TEXT,
    MAX_TOKEN,
    Accept,
    Collect,
    Hello,
    Join,
    Refuse,
)
from ampd.protocol.session import TEMPORARY


def refusal(number: int, why: Refused | Unavailable) -> Refuse:
    """The word that says `why` something was not done."""
    code, card = why.code, b""
    if isinstance(why, Unavailable) and code not in TEMPORARY:
        code = "unavailable"
    if isinstance(why, StaleKey):
        card = why.card
    return Refuse(number, code, one_line(str(why)), card)


def outcome_of(answer: Accept | Refuse) -> Delivery | AmpdError:
    """What `answer` says, as a Carrier says it (core/ports.py)."""
    match answer:
        case Accept(_, status, receipt):
            return Delivery(status, receipt)
        case Refuse(_, "stale_key", reason, card):
            return StaleKey(reason, card)
        case Refuse(_, code, reason) if code in TEMPORARY:
            return Unavailable(reason, code=code)
        case Refuse(_, code, reason):
            return Refused(reason, code=code)


def too_large(envelope: Envelope, hello: Hello | None) -> Refused | None:
    """Why an envelope is not to be said to a node that said `hello`; None if it may be."""
    size, limit = len(envelope.sealed), hello.envelope_bytes if hello else 0
    if size <= limit:
        return None
    return Refused(
        f"the message is {size} bytes sealed, the recipient's node takes {limit}", code="too_large"
    )


def join_request(token: bytes) -> Request:
    """The request of a Join; Refused unless it can be said."""
    if not 0 < len(token) <= MAX_TOKEN:
        raise Refused(f"an invitation has 1 to {MAX_TOKEN} bytes", code="invalid")
    return Request(lambda number: Join(number, token), len(token))


def collect_request(cards: Sequence[bytes]) -> Request:
    """The request of a Collect; Refused unless it can be said."""
    claims, size = tuple(cards), sum(map(len, cards))
    if len(claims) > MAX_CLAIMS or size > MAX_CLAIM_BYTES:
        text = (
            f"a relay keeps the mail of {MAX_CLAIMS} agents of a node, this one has {len(claims)}"
        )
        raise Refused(text, code="too_large")
    if not all(0 < len(card) <= MAX_CARD for card in claims):
        raise Refused(f"a card has 1 to {MAX_CARD} bytes", code="invalid")
    return Request(lambda number: Collect(number, claims), size)


def batches(cards: Iterable[bytes]) -> Iterator[tuple[bytes, ...]]:
    """As many to a word as it may hold; a card that is too large for any is not shown."""
    fitting = [card for card in cards if 0 < len(card) <= MAX_CARD]
    for start in range(0, len(fitting), MAX_CARDS):
        yield tuple(fitting[start : start + MAX_CARDS])


def one_line(text: str) -> str:
    """A reason as it may travel: printable, bounded."""
    return "".join(c if c.isprintable() else "?" for c in text[:MAX_TEXT])
