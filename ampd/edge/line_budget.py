"""How much memory the unfinished lines of local programs may hold together.

  L1  All lines that have begun and not ended hold at most MAX_UNFINISHED; beyond that, the longest
      line of the socket that holds the most is given up: its caller hears why, and the others do
      not notice. Whoever sends on many connections of one agent's socket is no better off.

Not here: how long one line may be (protocol/local.py).
"""

from collections import Counter
from collections.abc import Callable
from typing import Final

MAX_UNFINISHED: Final = 64 << 20  # bytes: eight of the longest lines at the same time


class LineBudget:
    """Counts what the connections of this node have begun to say."""

    def __init__(self, most: int = MAX_UNFINISHED) -> None:
        self._most = most
        self._held: dict[Callable[[], None], tuple[str, int]] = {}
        self._total = 0

    def holds(self, give_up: Callable[[], None], socket: str, size: int) -> None:
        """The caller that `give_up` ends holds `size` bytes on a socket now; 0: none (L1)."""
        self._total += size - self._held.pop(give_up, ("", 0))[1]
        if size:
            self._held[give_up] = (socket, size)
        while self._total > self._most:
            self._give_up_one()

    def _give_up_one(self) -> None:
        sums: Counter[str] = Counter()
        for socket, size in self._held.values():
            sums[socket] += size
        greediest = sums.most_common(1)[0][0]
        longest = max(
            (each for each, (socket, _) in self._held.items() if socket == greediest),
            key=lambda each: self._held[each][1],
        )
        self._total -= self._held.pop(longest)[1]
        longest()
