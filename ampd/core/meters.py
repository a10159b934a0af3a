"""Buckets of bytes that fill again in a day, one for each who is counted; in memory only.

BK1 A bucket is full at first, and holds what may come at once; as much again comes in a day.
BK2 At most `most` are remembered; then the one that was used longest ago is full again.
"""

from collections.abc import Hashable
from typing import Final

DAY: Final = 86400.0  # seconds


class Meters:
    """Who took how much of a daily allowance."""

    def __init__(self, size: int, most: int = 4096) -> None:
        """`size` in bytes."""
        self._size = size
        self._most = most
        self._left: dict[Hashable, tuple[float, float]] = {}  # bytes, as of when

    def __len__(self) -> int:
        """How many are remembered."""
        return len(self._left)

    def wait(self, who: Hashable, size: int, now: float) -> float:
        """Take `size` bytes at the time `now` (seconds): 0, or how many seconds to wait for them;
        then nothing was taken."""
        left, since = self._left.pop(who, (float(self._size), now))
        left = min(self._size, left + max(0.0, now - since) * self._size / DAY)
        enough = size <= left
        self._left[who] = (left - size if enough else left, now)
        if len(self._left) > self._most:
            del self._left[next(iter(self._left))]
        return 0.0 if enough else (size - left) * DAY / self._size
