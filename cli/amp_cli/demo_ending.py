"""How `amp demo` ends when a signal asks for it: SIGINT, SIGTERM, SIGHUP, SIGQUIT.

E1  The first signal raises Ended where the demo is, and the exit code is 128 and its number.
E2  `held` keeps a signal back until its block is done: what was begun there is known to whoever
    cleans up, and the cleaning up is not cut short.
E3  Every signal after the first one is ignored, and one that the caller ignores stays ignored.
"""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final, Self

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


class Ended(BaseException):
    """A signal ends the demo; `exit_code` is what shells make of it."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.exit_code = 128 + number


class Ending:
    """While this is entered, E1 to E3 hold."""

    def __init__(self) -> None:
        self._number = 0
        self._is_held = False
        self._before: dict[int, object] = {}

    def __enter__(self) -> Self:
        for number in _SIGNALS:
            if (before := signal.getsignal(number)) != signal.SIG_IGN:  # E3: nohup
                signal.signal(number, self._signalled)
                self._before[number] = before
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]  # what signal() gave

    def _signalled(self, number: int, _frame: FrameType | None) -> None:
        if self._number:
            return
        self._number = number
        if not self._is_held:
            raise Ended(number)

    @contextmanager
    def held(self) -> Iterator[None]:
        """E2."""
        had = self._number
        self._is_held = True
        try:
            yield
        finally:
            self._is_held = False
        if self._number and not had:
            raise Ended(self._number)
