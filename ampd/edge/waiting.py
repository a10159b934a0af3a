"""`message.wait`: the next message, for a program that waits for it.

  Y4  A message that was waited for is marked read when its answer was handed to the caller's
      socket, and not before: when the caller is gone, it is unread still. With `peek` it is not
      marked: whoever must be sure that it was shown asks for it again, by `message.get`.
  Y5  What an agent asks after such an answer finds the mark: it waits for it, MARKED_WITHIN seconds
      at the most (a caller that does not read holds up nobody for longer).

Not here: who writes the answer (connection.py).
"""

from typing import Final

import trio

from ampd.core.agents import Agent
from ampd.core.lists import Filter, Lists, Summary
from ampd.core.marks import Marks
from ampd.core.reading import Reading
from ampd.edge import documents
from ampd.edge.documents import Document
from ampd.edge.shares import Shares
from ampd.model.errors import AmpdError
from ampd.storage.store import Store

LONGEST_WAIT: Final = 86_400.0
MARKED_WITHIN: Final = 1.0  # seconds: many syncs of a busy disk


class Handed:
    """A message on its way to whoever waited for it."""

    def __init__(self, agent: Agent, summary: Summary) -> None:
        self.agent = agent
        self.summary = summary
        self.is_over = trio.Event()


class Waiting:
    """Finds what is waited for, and marks it when it was handed over."""

    def __init__(
        self, store: Store, lists: Lists, reading: Reading, marks: Marks, shares: Shares
    ) -> None:
        self._store = store
        self._lists = lists
        self._reading = reading
        self._marks = marks
        self._shares = shares
        self._handed: dict[bytes, list[Handed]] = {}

    async def wait(
        self, agent: Agent, wanted: Filter, within: float | None, handed: list[Handed] | None
    ) -> Document:
        """The `read` document of the first message; `handed` takes what is to be marked."""
        seq = 0
        with trio.move_on_after(LONGEST_WAIT if within is None else within):
            seq = await self._first(agent, wanted)
        if not seq:
            raise AmpdError("no message came in time", code="timeout")
        async with self._shares.readers(agent.name):
            full = self._reading.full(agent, seq)
        if handed is not None:
            handed.append(Handed(agent, full.summary))
            self._handed.setdefault(agent.key, []).append(handed[-1])
        return {"messages": [documents.message(full)]}

    async def _first(self, agent: Agent, wanted: Filter) -> int:
        while True:
            changed = self._store.changed(("box", agent.key))
            found = self._lists.listing(agent, wanted).messages
            if found:
                return found[0].seq
            await changed.wait()

    async def taken(self, handed: list[Handed]) -> None:
        """Their answers were written (Y4)."""
        for each in handed:
            await self._marks.seen(each.agent, [each.summary])

    def over(self, handed: list[Handed]) -> None:
        """They are marked, or their caller is gone."""
        for each in handed:
            each.is_over.set()
            left = self._handed[each.agent.key]
            left.remove(each)
            if not left:
                del self._handed[each.agent.key]

    @property
    def has_handed(self) -> bool:
        """Whether anything is on its way at all."""
        return bool(self._handed)

    async def settled(self, agent: Agent) -> None:
        """What was handed to an agent's programs until now is marked, or given up (Y5)."""
        if before := self._handed.get(agent.key):
            with trio.move_on_after(MARKED_WITHIN):
                for each in list(before):
                    await each.is_over.wait()
