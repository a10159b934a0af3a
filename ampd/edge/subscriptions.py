"""What is pushed to a local program: its agent's mail as it comes, and how its sent mail fares.

S1  A subscriber is given, in order, what its cursor has not seen: `after` a number, else from
    now on. Nothing is kept for it here: it is read from the store when its turn comes.
S2  One that does not read for WRITE_WITHIN seconds (answers.py) is dropped, holds up nobody,
    and loses nothing: it subscribes again with the last number it saw.
S3  A message that cannot be shown hides no other.
S4  A number that the mailbox does not have yet is of one that was lost since, by a backup that was
    put back: what comes from now on is pushed, and not only what comes after that number.
"""

import logging
from collections.abc import Awaitable, Callable
from typing import Final

import trio

from ampd.core.agents import Agent
from ampd.core.lists import Filter
from ampd.edge import documents
from ampd.edge.answers import as_text
from ampd.edge.bugs import contained
from ampd.edge.documents import Document
from ampd.edge.json_rpc import application_error, notification
from ampd.edge.methods import Rooms
from ampd.edge.shares import Shares
from ampd.model.errors import AmpdError, Invalid, Unavailable

MAX_SUBSCRIPTIONS: Final = 64  # of one connection: more agents than one program acts for
_LARGEST: Final = 10**9  # more messages than any mailbox ever had (lists.py)

log = logging.getLogger("ampd.socket")


class Subscriptions:
    """The subscriptions of one connection."""

    def __init__(
        self,
        rooms: Rooms,
        write: Callable[[str], Awaitable[None]],
        hang_up: Callable[[], Awaitable[None]],
        shares: Shares,
    ) -> None:
        self._rooms = rooms
        self._shares = shares
        self._write = write
        self._hang_up = hang_up
        self._scopes: dict[str, trio.CancelScope] = {}
        self._count = 0

    def add(self, nursery: trio.Nursery, agent: Agent, after: int | None) -> Document:
        """Push what comes for `agent`, first what came after a number (S1)."""
        if after is not None and not 0 <= after < _LARGEST:
            raise Invalid("after must be a message's number, or 0")
        if len(self._scopes) >= MAX_SUBSCRIPTIONS:
            raise Unavailable("too many subscriptions on this connection", code="rate_limited")
        last = self._rooms.lists.last_number(agent)
        self._count += 1
        name = f"{agent.name}-{self._count}"
        self._scopes[name] = trio.CancelScope()
        cursor = self._rooms.tracking.cursor()
        start = last if after is None else min(after, last)  # S4
        nursery.start_soon(self._push, name, agent, start, cursor)
        return {"subscription": name, "last": last}

    def remove(self, name: str) -> Document:
        """End one, or all of them; Invalid if there is none of that name."""
        names = [name] if name else list(self._scopes)
        for each in names:
            if each not in self._scopes:
                raise Invalid(f"no subscription {each[:80]!r} on this connection")
            self._scopes.pop(each).cancel()
        return {"done": names}

    async def _push(self, name: str, agent: Agent, number: int, cursor: int) -> None:
        try:
            with self._scopes[name]:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._push_mail, agent, number)
                    nursery.start_soon(self._push_status, agent, cursor)
        except* trio.TooSlowError:
            log.warning("a subscriber does not read", extra={"agent": agent.name})
            await self._hang_up()
        except* AmpdError as group:
            await self._end(agent, group)

    async def _end(self, agent: Agent, group: ExceptionGroup[AmpdError]) -> None:
        """Say why, and hang up: whoever wants to go on subscribes again."""
        for exc in group.exceptions:
            if isinstance(exc, AmpdError):
                log.warning("a subscription ended", extra={"agent": agent.name, "why": str(exc)})
                await self._write(as_text(application_error(None, exc)))
        await self._hang_up()

    async def _push_mail(self, agent: Agent, number: int) -> None:
        while True:
            changed = self._rooms.store.changed(("box", agent.key))
            found = self._rooms.lists.listing(
                agent, Filter(after=str(number), oldest=True)
            ).messages
            for summary in found:
                number = summary.number or number
                try:
                    async with self._shares.readers(agent.name):
                        line = self._new(agent, summary.seq)
                except AmpdError as exc:  # S3
                    log.warning("a message is not shown", extra={"id": summary.id, "why": str(exc)})
                    continue
                await self._write(line)
            if not found:
                await changed.wait()

    def _new(self, agent: Agent, seq: int) -> str:
        with contained("message.new"):
            params = documents.message(self._rooms.reading.full(agent, seq))
        return as_text(notification("message.new", params))

    async def _push_status(self, agent: Agent, cursor: int) -> None:
        while True:
            changed = self._rooms.store.changed(("sent", agent.key))
            before = cursor
            with contained("message.status"):
                cursor, moved = self._rooms.tracking.changed(agent, cursor)
                found = [documents.delivery(*state) for state in moved]
            for params in found:
                await self._write(as_text(notification("message.status", params)))
            if cursor == before:
                await changed.wait()
