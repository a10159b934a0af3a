"""What the programs of one agent may have of this node at the same time.

Memory and the loop are everybody's. A program that holds one agent's socket, on as many connections
as it is allowed, must leave the others theirs.

  SH1  Of one agent, at most READERS requests have whole messages or lists in memory that were not
       turned into a line yet.
  SH2  Of one agent, one long line is read at a time; between two of them all others have a turn.
  SH3  What begins to be said, and what was not taken yet, has a limit for the whole node
       (line_budget.py); beyond it whoever holds the most gives way.

Not here: what an agent has at the store (storage/turns.py), how many connections (local_socket.py).
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import trio

from ampd.edge.line_budget import LineBudget

READERS: Final = 2  # 16 MiB of texts each; one may wait for a sync while the other one reads


class Shares:
    """Counts by agent; "" is whoever did not say who it is."""

    def __init__(self) -> None:
        self.lines = LineBudget()
        self.answers = LineBudget()
        self._readers: dict[str, trio.CapacityLimiter] = {}
        self._long_lines: dict[str, trio.Lock] = {}

    def readers(self, agent: str) -> trio.CapacityLimiter:
        """To be held while whole messages or lists of an agent are in memory (SH1)."""
        return self._readers.setdefault(agent, trio.CapacityLimiter(READERS))

    @asynccontextmanager
    async def long_line(self, agent: str) -> AsyncIterator[None]:
        """To be held while a long line is read (SH2)."""
        async with self._long_lines.setdefault(agent, trio.Lock()):
            await trio.lowlevel.checkpoint()
            yield
