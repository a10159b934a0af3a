"""The queue of an account: its messages that are not acknowledged yet (sections 05, 08 and 09).

  GET     /messages/pending?limit=&cursor=&wait=   also /messages, /inbox
  GET     /messages/pending/count
  DELETE  /messages/pending/{id}                   also /messages/pending?id=, POST /inbox/{id}/ack
  POST    /messages/pending/ack {ids}              also /messages/pending, /inbox/ack

PE1  First in, first out; what is not acknowledged is handed out again, as often as it is asked for.
PE2  A page has 100 messages unless `limit` says less: clients ask for one page and no more.
PE3  What has expired is not handed out.
PE4  Acknowledging twice is as good as once; what never was there is 404.
PE6  A page ends early once it holds MAX_PAGE bytes of messages.
PE5  `wait` (at most 30 seconds) waits for a message if there is none.
"""

from typing import Any, Final

import trio

from ampd.core.agents import Agent
from ampd.edge.amp.accounts import Account, Accounts
from ampd.edge.amp.rendering import Rendering
from ampd.edge.gateway_mail import GatewayMail
from ampd.edge.gateway_values import Shared
from ampd.edge.http.words import Answer, Request
from ampd.protocol.amp.faults import Fault, invalid, missing, not_found
from ampd.protocol.amp.ids import MAX_ID, native_id
from ampd.protocol.raw_json import Raw, write

PAGE: Final = 100
MAX_PAGE: Final = 4 << 20  # bytes: eight of the largest messages
_AT_ONCE: Final = 25  # messages read together: about 2 ms
_A_TURN: Final = 4  # messages rendered before others get their turn: under 1 ms
MAX_ACKS: Final = 1000  # ids at once: as many as may wait
LONGEST_WAIT: Final = 30.0  # seconds: proxies give up after 60


class Pending:
    """Hands out and acknowledges."""

    def __init__(
        self, shared: Shared, accounts: Accounts, rendering: Rendering, mail: GatewayMail
    ) -> None:
        self._shared = shared
        self._accounts = accounts
        self._rendering = rendering
        self._mail = mail

    async def show(self, request: Request, account: Account) -> Answer:
        """One page (PE1-PE3, PE5)."""
        agent = self._accounts.agent(account)
        limit = min(PAGE, _number(request, "limit", PAGE, least=1))
        after = _number(request, "cursor", 0)
        wait = min(LONGEST_WAIT, _number(request, "wait", 0))
        with trio.move_on_after(wait):
            while wait:
                news = self._mail.news(agent)
                if (await self._page(agent, 1, after))[0]:
                    break
                await news.wait()
        items, cursor, total, skipped = await self._page(agent, limit, after)
        answer: dict[str, Any] = {
            "messages": items,
            "count": len(items),
            "remaining": max(0, total - len(items) - skipped) if cursor else 0,
            "total": total,
            "has_more": cursor > 0,
        }
        return Answer.json(200, answer | ({"cursor": str(cursor)} if cursor else {}))

    async def _page(self, agent: Agent, limit: int, after: int) -> tuple[list[Raw], int, int, int]:
        """Items that have not expired, the next cursor, how many wait, how many have expired.

        Others get their turn in between, and a page of large messages is a short one (PE6).
        """
        now = self._shared.now()
        found: list[Raw] = []
        skipped = size = 0
        while True:
            page = self._mail.page(agent, min(_AT_ONCE, limit - len(found)), after)
            for piece in page.pieces:
                if piece.expires <= now:
                    skipped += 1
                    continue
                found.append(Raw(write(self._rendering.item(agent, piece, piece.expires))))
                size += piece.summary.size
                if len(found) % _A_TURN == 0:
                    await trio.lowlevel.checkpoint()
            if not page.next or len(found) >= limit or size >= MAX_PAGE:
                return found, page.next, page.waiting, skipped
            after = page.next

    async def count(self, _request: Request, account: Account) -> Answer:
        """How many wait."""
        waiting = self._mail.waiting(self._accounts.agent(account))
        return Answer.json(200, {"count": waiting})

    async def acknowledge(self, request: Request, account: Account) -> Answer:
        """One message, by the path or by `?id=` (PE4)."""
        identifier = request.params.get("id") or request.query.get("id", "")
        if not identifier:
            raise missing("id")
        if len(identifier) > MAX_ID:
            raise invalid("id", f"an id has at most {MAX_ID} characters")
        agent = self._accounts.agent(account)
        if not await self._mail.acknowledge(agent, [native_id(identifier)]):
            raise not_found(f"no message {identifier} waits")
        return Answer.json(200, {"acknowledged": True, "id": identifier})

    async def acknowledge_many(self, request: Request, account: Account) -> Answer:
        """Several messages (PE4); those that are not there are not counted."""
        body = request.json()
        ids = body.get("ids") if isinstance(body, dict) else None
        if ids is None:
            raise missing("ids")
        good = isinstance(ids, list) and all(type(each) is str for each in ids)
        if not good or len(ids) > MAX_ACKS:
            raise Fault(
                "invalid_field", 400, f"ids must be a list of at most {MAX_ACKS}", field="ids"
            )
        agent = self._accounts.agent(account)
        done = await self._mail.acknowledge(agent, [native_id(each) for each in ids])
        return Answer.json(200, {"acknowledged": len(done)})


def _number(request: Request, name: str, default: int, least: int = 0) -> int:
    text = request.query.get(name, "")
    if not text:
        return default
    if not text.isascii() or not text.isdecimal() or len(text) > 9 or int(text) < least:
        raise invalid(name, f"{name} must be a number of at least {least}")
    return int(text)
