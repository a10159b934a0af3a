"""How often each of many did something within a window of time, in bounded memory.

Z1  A window begins with the first count after the one before it ended; time is monotonic, so that
    a clock that is set forgets and invents nothing.
Z2  At most MAX_WATCHED are counted one by one. Who comes when all places are taken by windows
    that still run shares one window with all others: a flood of names frees nobody's count.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

MAX_WATCHED: Final = 10_000  # about 2 MiB; more agents and hosts than one node ever serves


@dataclass(slots=True)
class Window:
    """A count, and when it begins anew (in seconds of the clock that was handed in)."""

    ends: float
    count: int = 0


class Counting:
    """Windows by name."""

    def __init__(self, seconds: float, clock: Callable[[], float]) -> None:
        """`clock` is monotonic, in seconds."""
        self._seconds = seconds
        self._clock = clock
        self._windows: dict[str, Window] = {}
        self._others = Window(0.0)
        self._all_run_until = 0.0  # before that, looking for ended windows finds none

    def window(self, who: str) -> Window:
        """The window of `who` that runs now (Z1)."""
        now = self._clock()
        found = self._windows.get(who)
        if found is None:
            found = self._place(who, now)
        if found.ends <= now:
            found.ends, found.count = now + self._seconds, 0
        return found

    def count(self, who: str) -> int:
        """How often it did, this time included."""
        window = self.window(who)
        window.count += 1
        return window.count

    def seen(self, who: str) -> int:
        """How often it did in the window that runs now; counts nothing and takes no place."""
        found = self._windows.get(who)
        return found.count if found is not None and found.ends > self._clock() else 0

    def left(self, window: Window) -> float:
        """Seconds until a window ends."""
        return max(0.0, window.ends - self._clock())

    def _place(self, who: str, now: float) -> Window:
        """Z2."""
        if len(self._windows) >= MAX_WATCHED and now >= self._all_run_until:
            self._windows = {name: each for name, each in self._windows.items() if each.ends > now}
            ends = [each.ends for each in self._windows.values()]
            self._all_run_until = min(ends) if len(ends) >= MAX_WATCHED else now
        if len(self._windows) >= MAX_WATCHED:
            return self._others
        found = self._windows[who] = Window(now + self._seconds)
        return found
