"""Works on their way from trio's thread to the one that writes: handed over together.

The two threads share one interpreter lock. A work that is handed over at once, while trio's loop
has more to do, makes them change places at every system call, and is often a batch of its own: a
send over HTTP cost 15 changes of thread, and a fifth more than it does now.

  GA1  Works are handed over in the order in which they were added.
  GA2  That happens when the loop has nothing else to do, before it waits; and in a busy loop at
       its first turn WITHIN seconds after the first of them was added.

Not here: what is done with them (store.py, writer.py).
"""

from collections.abc import Callable
from time import monotonic
from typing import Final, Generic, TypeVar

import trio

T = TypeVar("T")

WITHIN: Final = 0.01  # seconds: ten sends over HTTP; a sync takes as long on a slow disk


class Gathering(trio.abc.Instrument, Generic[T]):
    """Gathers works; add it to the loop (trio.lowlevel.add_instrument)."""

    def __init__(self, put: Callable[[T], None]) -> None:
        """`put` hands over one work."""
        self._put = put
        self._works: list[T] = []
        self._since = 0.0

    def add(self, work: T) -> None:
        """One more."""
        if not self._works:
            self._since = monotonic()
        self._works.append(work)

    def hand_over(self) -> None:
        """All of them, now."""
        works, self._works = self._works, []
        for work in works:
            self._put(work)

    def before_io_wait(self, timeout: float) -> None:
        """GA2. `timeout` is 0 when tasks can run, and under a test's clock that jumps."""
        if self._works and (
            timeout > 0
            or monotonic() - self._since >= WITHIN
            or not trio.lowlevel.current_statistics().tasks_runnable
        ):
            self.hand_over()
