"""Requests of `message.send` that came together: prepared one by one, kept under one sync.

Not here: what a send is (core/submission.py), in which order requests are read (connection.py).
"""

from collections.abc import Awaitable, Callable
from typing import Protocol

from ampd.core.submission import MOST_AT_ONCE, Sent
from ampd.edge import documents
from ampd.edge.json_rpc import Answer, Request, application_error, checked, result
from ampd.model.errors import AmpdError
from ampd.storage.store import Transaction

Prepared = Callable[[Transaction], Sent]


class Sender(Protocol):
    """A connection, as its sends see it."""

    def prepare(self, request: Request) -> Prepared:
        """The work of one `message.send`; raises what is wrong with it."""
        ...

    async def send_all(self, works: list[Prepared]) -> list[Sent | AmpdError]:
        """What became of each, under one sync."""
        ...


class Sends:
    """What was prepared and not kept yet; at most MOST_AT_ONCE."""

    def __init__(self, sender: Sender, say: Callable[[list[Answer]], Awaitable[None]]) -> None:
        self._sender = sender
        self._say = say
        self._works: list[tuple[Request, Prepared]] = []

    async def add(self, document: object) -> bool:
        """Whether it was a send that can share; anything else is for the caller to carry out."""
        if not isinstance(document, dict) or document.get("method") != "message.send":
            return False
        request = checked(document)
        if not isinstance(request, Request):
            return False
        try:
            self._works.append((request, self._sender.prepare(request)))
        except AmpdError:
            return False  # the ordinary way finds the same, and says it
        if len(self._works) >= MOST_AT_ONCE:
            await self.flush()
        return True

    async def flush(self) -> None:
        """Keep what was prepared, and answer."""
        if not self._works:
            return
        works, self._works = self._works, []
        found = await self._sender.send_all([work for _, work in works])
        said = [
            result(request.id, documents.sent(sent))
            if isinstance(sent, Sent)
            else application_error(request.id, sent)
            for (request, _), sent in zip(works, found, strict=True)
            if not request.is_notification
        ]
        if said:
            await self._say(said)
