"""How much memory bodies and answers may hold together: callers who send or read slowly are many.

  HM1  All bodies that are being read and answers that are being sent hold at most MOST; what would
       be beyond that is refused with 503, and the others do not notice. What is SMALL counts not.

Not here: how large one body may be (app.py, H2).
"""

from typing import Final, Self

from ampd.edge.http.words import HttpRefused

MOST: Final = 256 << 20  # bytes: 150 of the largest messages
SMALL: Final = 64 << 10  # bytes: five hundred connections hold 32 MiB of these


class Memory:
    """What is held."""

    def __init__(self) -> None:
        self.held = 0

    def share(self) -> "Share":
        """One request's share; use it as a context manager."""
        return Share(self)


class Share:
    """What one request holds."""

    __slots__ = ("_memory", "_size")

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self._size = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._memory.held -= self._size

    def holds(self, size: int) -> None:
        """So many bytes from now on. HttpRefused if that is too much (HM1)."""
        counted = size if size > SMALL else 0
        if counted > self._size and self._memory.held + counted - self._size > MOST:
            raise HttpRefused("too much is being sent at once: try again", code="busy")
        self._memory.held += counted - self._size
        self._size = counted
