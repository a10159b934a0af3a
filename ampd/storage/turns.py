"""Whose turn it is to write: how much one agent may have at the store at the same time.

The store takes works in the order of their calls (store.py, T2). What is handed in cannot be taken
back, and whoever comes next waits for all of it. So nobody hands in more than a little at a time.

  TU1  Of one agent, works for at most `most` messages are at the store at the same time; a larger
       work is there alone.
  TU2  An agent's works have their turns in the order in which they were asked for. One agent waits
       for no turn of another's.
  TU3  What waits for its turn was not begun: it can be cancelled, and when the store ends it is
       refused.

Not here: what a work does (transaction.py), or how large it is (core/submission.py, marks.py).
"""

from collections import deque
from collections.abc import AsyncIterator, Hashable
from contextlib import asynccontextmanager
from typing import Final

import outcome
import trio

from ampd.model.errors import StorageError

AT_ONCE: Final = 64  # messages: some 15 ms of the writing thread; as many as share a sync well


class _Waiting:
    """A work that waits for its turn."""

    __slots__ = ("size", "task")

    def __init__(self, size: int) -> None:
        self.size = size
        self.task = trio.lowlevel.current_task()


class Turns:
    """Counts what each agent has at the store."""

    def __init__(self, most: int = AT_ONCE) -> None:
        self._most = most
        self._there: dict[Hashable, int] = {}
        self._waiting: dict[Hashable, deque[_Waiting]] = {}
        self._ended = False

    @asynccontextmanager
    async def of(self, agent: Hashable, size: int = 1) -> AsyncIterator[None]:
        """The turn of a work of `agent` for `size` messages; StorageError when the store ends."""
        size = min(size, self._most)  # a larger one is there alone (TU1)
        if self._ended:
            raise _ended()
        if agent in self._waiting or not self._fits(agent, size):
            await self._wait(agent, size)
        else:
            self._there[agent] = self._there.get(agent, 0) + size
        try:
            yield
        finally:
            self._give_back(agent, size)

    def end(self) -> None:
        """Refuse whoever waits, and whoever comes (TU3)."""
        self._ended = True
        waiting, self._waiting = self._waiting, {}
        for line in waiting.values():
            for each in line:
                trio.lowlevel.reschedule(each.task, outcome.Error(_ended()))

    def _fits(self, agent: Hashable, size: int) -> bool:
        return self._there.get(agent, 0) + size <= self._most

    async def _wait(self, agent: Hashable, size: int) -> None:
        mine = _Waiting(size)
        self._waiting.setdefault(agent, deque()).append(mine)

        def cancelled(_raise_cancel: object) -> trio.lowlevel.Abort:
            self._waiting[agent].remove(mine)
            self._call(agent)  # a smaller one behind it may fit
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(cancelled)

    def _give_back(self, agent: Hashable, size: int) -> None:
        self._there[agent] -= size
        self._call(agent)
        if not self._there[agent]:
            del self._there[agent]

    def _call(self, agent: Hashable) -> None:
        """Whose turn it is now (TU2)."""
        line = self._waiting.get(agent)
        while line and self._fits(agent, line[0].size):
            first = line.popleft()
            self._there[agent] = self._there.get(agent, 0) + first.size
            trio.lowlevel.reschedule(first.task)
        if line is not None and not line:
            del self._waiting[agent]


def _ended() -> StorageError:
    return StorageError("the store has ended", hint="amp daemon restart")
