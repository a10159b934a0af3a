"""Who behaves oddly: what AMP section 07 (Abuse Prevention) wants watched, as counts.

  X1  Counted are wrong signatures, unknown recipients, injection patterns and refused bursts, each
      for whoever did it (an agent, a provider, a host), within WINDOW seconds.
  X2  At NOTICED of a kind it is said once in the log, and again at each tenfold.
  X3  At SLOWED of a kind the doer's limits are a quarter (limits.py) until its window ends: no
      account is closed by a count.

Nothing is dropped or refused here.
"""

import logging
from collections import Counter
from collections.abc import Callable
from typing import Final, Literal, get_args

from ampd.edge.amp.counting import Counting

Kind = Literal["signature", "unknown_recipient", "injection", "rate"]
KINDS: Final[tuple[str, ...]] = get_args(Kind)
WINDOW: Final = 600.0  # seconds
NOTICED: Final = 10
SLOWED: Final = 50

log = logging.getLogger("ampd.amp.abuse")


class Abuse:
    """Counts by kind and by doer."""

    def __init__(self, clock: Callable[[], float]) -> None:
        """`clock` is monotonic, in seconds."""
        self._counts = {kind: Counting(WINDOW, clock) for kind in KINDS}
        self.totals: Counter[str] = Counter()

    def note(self, kind: Kind, who: str) -> None:
        """`who` did it once more (X1, X2)."""
        self.totals[kind] += 1
        count = self._counts[kind].count(who)
        if count >= NOTICED and str(count).strip("0") == "1":
            log.warning("odd behaviour", extra={"kind": kind, "who": who, "count": count})

    def slowed(self, who: str) -> bool:
        """X3."""
        return any(counting.seen(who) >= SLOWED for counting in self._counts.values())
