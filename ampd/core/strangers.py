"""How much mail of strangers is taken in a day (mailbox.py, B11).

  ST1  A sender that no agent here wrote to, and whom the user did not add, brings STRANGER_BYTES a
       day, and all of them together STRANGERS_BYTES.
  ST2  All is counted that stays here because of a letter: the message, its sender's card if that is
       another than the one known, and for what a carrier brought the answer that waits in the
       outbox. Else small messages would fill the disk with large cards and answers.
  ST3  A refusal of a stranger's letter is counted alike: it is told as long as there is room for
       it. A flood is not answered beyond that; a few letters too many are.

Not here: cards that come without letters (cards.py, CD3).
"""

from collections.abc import Callable
from typing import Final

from ampd.core.meters import Meters
from ampd.core.opening import Opened
from ampd.storage.view import Reader

STRANGER_BYTES: Final = 64 << 20  # a hundred of the largest messages
STRANGERS_BYTES: Final = 512 << 20  # keys cost nothing: this is what a crowd of them can fill
ANSWER_BYTES: Final = 512  # of the outbox: what is written of a letter of receipts, and of one


class Allowance:
    """Who of the strangers has brought how much; in memory only."""

    def __init__(self, wanted: Callable[[Reader, bytes], bool]) -> None:
        """`wanted` says whether the holder of a key is no stranger."""
        self.wanted = wanted
        self.each, self.all = Meters(STRANGER_BYTES), Meters(STRANGERS_BYTES)

    def bringing(self, db: Reader, now: int, *, answered: bool) -> "Bringing":
        """For one work at the time `now` (ms); `answered` if letters answer what it takes (B8)."""
        return Bringing(self, db, now, answered=answered)


class Bringing:
    """What one work takes: what is known of its senders is looked up once."""

    def __init__(self, allowance: Allowance, db: Reader, now: int, *, answered: bool) -> None:
        self._allowance = allowance
        self._db = db
        self._now = now / 1000
        self._answered = answered
        self._wanted: dict[bytes, bool] = {}
        self._answers: set[tuple[bytes, bytes]] = set()  # letters that were counted

    def wait(self, opened: Opened) -> float:
        """Count a message and what comes with it: 0, or how many seconds to wait for room."""
        return self._count(opened, len(opened.signed))

    def may_tell(self, opened: Opened) -> bool:
        """Count a refusal, and whether there is room for it (ST3)."""
        return not self._count(opened, 0)

    def _count(self, opened: Opened, size: int) -> float:
        key = opened.key
        if self._is_wanted(key):
            return 0.0
        pair = (opened.agent.key, key)
        card = opened.card[0] if opened.card and not self._is_known(key, opened.card[0]) else b""
        size += len(card)
        if self._answered:
            size += ANSWER_BYTES
            size += 0 if pair in self._answers else len(opened.agent.signed_card)
        each, everybody = self._allowance.each, self._allowance.all
        wait = each.wait(key, size, self._now) or everybody.wait(b"", size, self._now)
        if not wait:
            self._answers.add(pair)
        return wait

    def _is_wanted(self, key: bytes) -> bool:
        if key not in self._wanted:
            self._wanted[key] = self._allowance.wanted(self._db, key)
        return self._wanted[key]

    def _is_known(self, key: bytes, card: bytes) -> bool:
        sql = "SELECT 1 FROM cards WHERE key=? AND signed=?"
        return self._db.execute(sql, (key, card)).fetchone() is not None
