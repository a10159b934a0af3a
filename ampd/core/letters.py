"""The outbox's rows as what they stand for: letters that wait, and the envelopes they go in."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from ampd.crypto.keys import open1, seal
from ampd.model.card import CARD_CONTEXT, Card
from ampd.model.errors import StorageError
from ampd.model.message import Envelope, Letter, digest
from ampd.model.values import value
from ampd.storage.records import Kept, Queued
from ampd.storage.store import Store

FIRST_PAUSE: Final = 1.0  # seconds
_WAITING: Final = (
    "SELECT o.item, o.what, o.message, o.recipient, a.key, o.address, o.key, o.mailbox, o.expires,"
    " o.size"
    " FROM outbox o JOIN agents a ON a.id=o.by "
)


@value
class Waiting:
    """One row of the outbox."""

    item: int
    what: str
    message: bytes
    recipient: int
    by: bytes
    address: str
    key: bytes
    mailbox: bytes
    expires: int
    size: int  # of the sealed letter


@dataclass(slots=True)
class Attempts:
    """What is remembered of one destination, in memory only."""

    count: int = 0
    in_a_row: int = 0  # since something changed: the exponent of the pause
    next_at: int = 0  # milliseconds; 0: as soon as something changes
    last_error: str = ""
    via: str = ""  # "gateway" if nothing else leads there

    def next_pause(self, longest: float) -> float:
        """Seconds before the next try, without jitter: FIRST_PAUSE, doubling to `longest`."""
        return min(longest, FIRST_PAUSE * (1 << min(self.in_a_row, 20)))

    def failed(self, now: int, pause: float) -> None:
        """One try more was in vain; the next is in `pause` seconds."""
        self.count += 1
        self.in_a_row += 1
        self.next_at = now + round(pause * 1000)

    def failed_at_random(self, now: int, longest: float, rng: random.Random) -> float:
        """The same with full jitter; how many seconds it is until the next try."""
        pause = FIRST_PAUSE / 2 + rng.uniform(0, self.next_pause(longest))
        self.failed(now, pause)
        return pause


class Letters:
    """Takes letters out of the journal."""

    def __init__(self, store: Store, now: Callable[[], int]) -> None:
        self._store = store
        self._now = now

    def waiting(self, which: str, *values: object) -> list[Waiting]:
        """The rows of the outbox that `which` says: the rest of a query that has the outbox as o,
        the agents who sent as a, and these values."""
        rows = self._store.view.execute(_WAITING + which, values).fetchall()
        return [Waiting(*row) for row in rows]

    def envelope(self, item: Waiting) -> Envelope:
        """The letter as it was sealed; sealed anew if there is a newer card (transfer.py, D5)."""
        return self.letter(item)[0]

    def letter(self, item: Waiting) -> tuple[Envelope, bytes]:
        """The same, and the hash of the signed bytes in it, which a receipt must name; b"" of a
        letter with a receipt."""
        record = self._store.payload(item.item)
        if not isinstance(record, Queued):
            raise StorageError("the outbox points to another record", hint="amp check --repair")
        newer = self._store.view.execute(
            "SELECT signed FROM cards WHERE key=? AND seq>?", (item.key, item.item)
        ).fetchone()
        if newer is None or item.what == "receipt":
            return Envelope(item.mailbox, item.expires, record.sealed), self._digest(item, record)
        card = Card.from_bytes(open1(newer[0], CARD_CONTEXT)[1])
        kept, own_card = self.message(item)
        letter = Letter("message", kept.signed, own_card).to_bytes()
        envelope = Envelope(card.mailbox, item.expires, seal(card.seal_to(self._now()), letter))
        return envelope, digest(kept.signed)

    def _digest(self, item: Waiting, record: Queued) -> bytes:
        if record.digest or item.what == "receipt":
            return record.digest
        return digest(self.message(item)[0].signed)  # queued by a version that did not note it

    def message(self, item: Waiting) -> tuple[Kept, bytes]:
        """What a letter carries, as it was signed, and the card of its sender."""
        row = self._store.view.execute(
            "SELECT m.seq, a.card FROM messages m JOIN agents a ON a.id=m.by"
            " WHERE m.id=? AND a.key=?",
            (item.message, item.by),
        ).fetchone()
        record = self._store.payload(row[0]) if row else None
        if not isinstance(record, Kept):
            raise StorageError("a queued message is not here any more", hint="amp check --repair")
        return record, row[1]
