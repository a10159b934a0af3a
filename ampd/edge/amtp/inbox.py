"""The inbox over HTTP: GET and DELETE of /v1/inbox/{address} (AMTP 1.0, section 12.1.5).

  IN1  The answer is that of the draft and that of Agentry at once: message_count and count, status
       of each message, has_more. `limit` is 100 unless asked for, 1000 at most; the oldest first.
  IN2  What was handed out is read, and its sender is told; it stays in the inbox until it is
       acknowledged, however often it is handed out.
  IN3  An acknowledged message is out of the inbox for good; to acknowledge it again, or one that
       never came, is 404.
  IN4  A page ends early once it holds MAX_PAGE characters, and says that there are more.

Not here: whose inbox it is (accounts.py).
"""

from collections.abc import Iterator
from typing import Any, Final

import trio

from ampd.core.agents import Agent
from ampd.core.lists import MAX_LIST, Filter, Summary
from ampd.edge.amtp.accounts import Account, Accounts
from ampd.edge.amtp.failures import Failure
from ampd.edge.amtp.mail import Mail, native_id
from ampd.edge.amtp.messages import Limit, page_of, since_of
from ampd.edge.amtp.times import time_text
from ampd.edge.gateway_mail import GatewayMail, Piece
from ampd.edge.gateway_values import Shared
from ampd.edge.http.words import Answer, Request, Route
from ampd.protocol import raw_json
from ampd.protocol.amtp.message import is_uuid
from ampd.storage.records import State

MAX_PAGE: Final = 4 << 20  # characters: eight of the largest messages, or 1000 small ones
_AT_ONCE: Final = 8  # messages, of half a megabyte at most: then others get their turn
_STATUSES: Final = ("", "unread", "read")


class Inbox:
    """The routes under /v1/inbox."""

    def __init__(self, shared: Shared, accounts: Accounts, mail: Mail, limit: Limit) -> None:
        self._rooms = shared.rooms
        self._now = shared.now
        self._accounts = accounts
        self._mail = mail
        self._limit = limit
        self._pieces = GatewayMail(shared.rooms)

    def routes(self) -> list[Route]:
        """What this module answers."""
        return [
            Route("GET", "/v1/inbox/{address}", self.get),
            Route("DELETE", "/v1/inbox/{address}/{id}", self.acknowledge),
        ]

    async def _account(self, request: Request) -> Account:
        agent = self._mail.agent_at(request.params["address"])
        account = self._accounts.check_inbox(request, agent)
        self._limit("amtp", account.name)
        await self._accounts.note_use(account, self._now())
        return account

    async def get(self, request: Request) -> Answer:
        """GET /v1/inbox/{address}."""
        account = await self._account(request)
        limit, offset = page_of(request)
        status, since = request.query.get("status", ""), since_of(request)
        if status not in _STATUSES:
            raise Failure(400, "INVALID_STATUS", "status is unread or read")
        found = []
        for summary in self._waiting(account.agent, offset + limit + 1):
            if status in ("", summary.state) and summary.received >= since:
                found.append(summary)
                if len(found) > offset + limit:
                    break
        messages, shown = await self._opened(account.agent, found[offset : offset + limit])
        await self._mark(account.agent, shown)
        return Answer.json(200, {
            "recipient": self._mail.address_of(account.agent),
            "messages": messages,
            "count": len(messages),
            "message_count": len(messages),
            "has_more": len(found) > offset + len(shown),
            "timestamp": time_text(self._now()),
        })  # fmt: skip

    async def _opened(
        self, agent: Agent, wanted: list[Summary]
    ) -> tuple[list[raw_json.Raw], list[Summary]]:
        """Messages as they are handed out, and how far they go (IN4)."""
        lines: list[raw_json.Raw] = []
        size = done = 0
        while done < len(wanted) and size < MAX_PAGE:
            step = wanted[done : done + _AT_ONCE]
            for piece in self._pieces.whole(step):
                lines.append(raw_json.Raw(raw_json.write(self._line(agent, piece))))
                size += len(lines[-1])
            done += len(step)
            await trio.lowlevel.checkpoint()
        return lines, wanted[:done]

    def _waiting(self, agent: Agent, at_once: int) -> Iterator[Summary]:
        """What is not acknowledged, the oldest first."""
        after = 0
        while True:
            wanted = Filter(limit=min(at_once, MAX_LIST), after=str(after), oldest=True)
            listing = self._rooms.lists.listing(agent, wanted)
            yield from listing.messages
            if not listing.more or not listing.messages:
                return
            after = listing.messages[-1].number or 0

    def _line(self, agent: Agent, piece: Piece) -> dict[str, Any]:
        summary = piece.summary
        return {
            **self._mail.document(agent, piece),
            "status": summary.state,
            "security": {"trust": summary.trust, "flags": list(piece.flags)},
        }

    async def _mark(self, agent: Agent, shown: list[Summary]) -> None:
        """IN2."""
        unread = [str(each.number) for each in shown if each.state == "unread"]
        if unread:
            await self._rooms.marks.set(agent, unread, State.READ)

    async def acknowledge(self, request: Request) -> Answer:
        """DELETE /v1/inbox/{address}/{id}."""
        account = await self._account(request)
        text = request.params["id"].lower()
        numbers = self._numbers(account.agent, text) if is_uuid(text) else []
        if not numbers:
            raise Failure(404, "MESSAGE_NOT_FOUND", "Message not found in the inbox")
        await self._rooms.marks.set(account.agent, numbers, State.ACKED)
        return Answer.json(200, {
            "message": "Message acknowledged successfully",
            "recipient": self._mail.address_of(account.agent),
            "message_id": text,
            "status": "acknowledged",
            "timestamp": time_text(self._now()),
        })  # fmt: skip

    def _numbers(self, agent: Agent, text: str) -> list[str]:
        """The un-acked messages of this id, by their numbers in the mailbox."""
        rows = self._rooms.store.view.execute(
            "SELECT b.number FROM messages m CROSS JOIN boxes b ON b.message=m.seq"
            " JOIN agents a ON a.id=b.agent WHERE m.id=? AND a.key=? AND b.state<2",
            (native_id(text), agent.key),
        )
        return [str(row[0]) for row in rows]
