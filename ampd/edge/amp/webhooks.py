"""Webhooks of AMP (section 05): mail is brought to the URL that an agent named.

    POST URL        {"envelope": ..., "payload": ...}
    X-AMP-Signature: sha256=HEX     HMAC-SHA-256 of TIMESTAMP "." BODY, keyed with the secret
    X-AMP-Timestamp: SECONDS
    X-AMP-Message-Id: msg_...

  WH1  A 2xx answer is the receiver's word that it has the message: it leaves the queue. Any other
       leaves it where it was, on disk, for `/messages/pending`.
  WH2  5xx, 408, 429 and no answer are tried again after 30 s and 2 min; 4xx and a URL that may not
       be reached (http/client.py) are not. Redirects are not followed: they count as refusals.
  WH3  A message is brought to a webhook by one task; at most AT_ONCE of one agent are under way,
       and begin in their order. A message that fails holds up no other.
  WH4  Who is connected by WebSocket gets its mail there, unless it said prefer_websocket false.
  WH5  What was given up stays given up after a restart; what was under way is tried anew.

The receiver should check the time, within 5 minutes, and compare the signature in constant time:
`verify` is that check.
"""

import hashlib
import hmac
import logging
from collections.abc import Callable
from typing import Final

import trio

from ampd.core.agents import Agent
from ampd.core.lists import Filter, Summary
from ampd.edge.amp.ports import Account, Mail
from ampd.edge.amp.websocket import Took
from ampd.edge.bugs import contained
from ampd.edge.gateway_values import Shared
from ampd.model.errors import AmpdError, Refused, Unavailable
from ampd.protocol import raw_json
from ampd.storage.records import State

PAUSES: Final = (30.0, 120.0)  # seconds before the second and the third attempt
ANSWER_WITHIN: Final = 15.0
AT_ONCE: Final = 8  # of one agent: a webhook that hangs for minutes must not stop the others
TOLERANCE: Final = 300  # seconds between the two clocks
_KIND: Final = "amp.webhook"  # in the registry: the number up to which all is settled
_PAGE: Final = 50
_AGAIN: Final = (408, 429)

log = logging.getLogger("ampd.amp.webhooks")


def signature(secret: str, timestamp: int, body: bytes) -> str:
    """The value of X-AMP-Signature."""
    signed = f"{timestamp}.".encode() + body
    return "sha256=" + hmac.new(secret.encode(), signed, hashlib.sha256).hexdigest()


def verify(secret: str, timestamp: str, body: bytes, given: str, now: int) -> bool:
    """Whether a webhook's request is fresh and signed; `now` in seconds."""
    if not timestamp.isdecimal() or len(timestamp) > 12 or not given.isascii():
        return False
    fresh = abs(now - int(timestamp)) <= TOLERANCE
    return hmac.compare_digest(signature(secret, int(timestamp), body), given) and fresh


class Webhooks:
    """One follower for every account that has a webhook."""

    def __init__(
        self,
        shared: Shared,
        mail: Mail,
        online: Callable[[str], bool],
        took: Took,
        gave_up: Callable[[Agent, Summary], None],
    ) -> None:
        """`online` is of WebSockets (WH4); `took` and `gave_up` are told what became of it."""
        self._shared = shared
        self._rooms = shared.rooms
        self._mail = mail
        self._online = online
        self._took = took
        self._gave_up = gave_up
        self._changed = trio.Event()
        self._followers: dict[str, trio.CancelScope] = {}

    def accounts_changed(self) -> None:
        """An account was made, changed or removed."""
        self._changed.set()

    def wanted(self, account: Account | None) -> bool:
        """Whether a message of this moment would be brought to a webhook (WH4)."""
        if account is None or not account.delivery.get("webhook_url"):
            return False
        connected = self._online(account.name)
        return not connected or account.delivery.get("prefer_websocket") is False

    async def run(self) -> None:
        """Follow the mailboxes of all accounts that have a webhook, until cancelled."""
        self._followers.clear()  # of a run that failed
        async with trio.open_nursery() as nursery:
            while True:
                self._changed = trio.Event()
                names = {account.name for account in self._mail.accounts_with_webhooks()}
                for name in set(self._followers) - names:
                    self._followers.pop(name).cancel()
                for name in names - set(self._followers):
                    scope = self._followers[name] = trio.CancelScope()
                    nursery.start_soon(self._guarded, name, scope)
                await self._changed.wait()

    async def _guarded(self, name: str, scope: trio.CancelScope) -> None:
        """A follower that failed begins again; one whose agent is gone is forgotten."""
        with scope:
            again = True
            while again:
                again = await self._goes_on(name)
                await trio.sleep(PAUSES[0] if again else 0)
        if self._followers.get(name) is scope:
            del self._followers[name]

    async def _goes_on(self, name: str) -> bool:
        again = True
        try:
            with contained("webhooks"):
                await self._follow(name)
        except* Refused:
            again = False
        except* AmpdError as group:
            why = str(group.exceptions[0])
            log.warning("the webhooks of an agent wait", extra={"agent": name, "why": why})
        return again

    async def _follow(self, name: str) -> None:
        agent = self._rooms.agents.named(name)
        cursor = _Cursor(self._saved(agent))
        slots = trio.Semaphore(AT_ONCE)
        async with trio.open_nursery() as nursery:
            while True:
                changed = self._rooms.store.changed(("box", agent.key))
                wanted = Filter(after=str(cursor.last), oldest=True, limit=_PAGE)
                found = self._rooms.lists.listing(agent, wanted).messages
                for summary in found:
                    number = summary.number or cursor.last
                    await slots.acquire()
                    cursor.begin(number)
                    nursery.start_soon(self._bring, agent, summary, cursor, slots)
                if not found:
                    await changed.wait()

    def _saved(self, agent: Agent) -> int:
        """Where to begin: a new webhook begins with what waits (WH5)."""
        found = self._shared.registry.get(_KIND, agent.name)
        mine = found is not None and found.get("key") == agent.key.hex()
        return int(found["number"]) if found is not None and mine else 0

    async def _bring(
        self, agent: Agent, summary: Summary, cursor: "_Cursor", slots: trio.Semaphore
    ) -> None:
        try:
            try:
                with contained("a webhook"):
                    await self._attempts(agent, summary)
            except AmpdError as exc:  # it lies in the queue, as before
                log.warning("a webhook failed", extra={"id": summary.id, "why": str(exc)})
            if cursor.end(summary.number or 0):
                value = {"number": cursor.settled, "key": agent.key.hex()}
                await self._shared.registry.put(_KIND, agent.name, value, owner=agent.name)
        finally:
            slots.release()

    async def _attempts(self, agent: Agent, summary: Summary) -> None:
        """WH2. Each attempt looks at the account anew: it may have changed meanwhile."""
        for pause in (*PAUSES, None):
            account = self._mail.account_of(agent.name)
            if account is None or not self.wanted(account):
                return  # the WebSocket has it (WH4), or nobody wants it any more
            if not self._waits(agent, summary):
                return  # it was fetched and acknowledged in the meantime
            try:
                await self._post(account, agent, summary)
            except Unavailable as exc:
                if pause is None:
                    raise
                self._gave_up(agent, summary)
                log.info("a webhook waits", extra={"id": summary.id, "why": str(exc)})
                await trio.sleep(pause)
            except Refused:
                self._gave_up(agent, summary)
                raise
            else:
                await self._rooms.marks.set(agent, [summary.id], State.ACKED)
                await self._took(agent, summary, "webhook")
                return

    def _waits(self, agent: Agent, summary: Summary) -> bool:
        found = self._rooms.lists.one(agent, summary.seq)
        return found.number is not None and found.state in ("unread", "read")

    async def _post(self, account: Account, agent: Agent, summary: Summary) -> None:
        """One attempt; Unavailable if it may be tried again, Refused if not."""
        item = self._mail.item(agent, self._rooms.reading.full(agent, summary.seq))
        text = raw_json.write({"envelope": item["envelope"], "payload": item["payload"]})
        body, seconds = text.encode(), self._shared.now() // 1000
        headers = {
            "Content-Type": "application/json",
            "X-AMP-Timestamp": str(seconds),
            "X-AMP-Message-Id": str(item["id"]),
        }
        if secret := account.delivery.get("webhook_secret"):
            headers["X-AMP-Signature"] = signature(str(secret), seconds, body)
        reply = await self._shared.http.send(
            "POST", str(account.delivery["webhook_url"]), headers=headers, body=body,
            timeout=ANSWER_WITHIN,
        )  # fmt: skip
        if 200 <= reply.status < 300:
            return
        if reply.status >= 500 or reply.status in _AGAIN:
            raise Unavailable(f"the webhook answered {reply.status}")
        raise Refused(f"the webhook answered {reply.status}")


class _Cursor:
    """Numbers that are under way, and the one up to which all are settled."""

    def __init__(self, settled: int) -> None:
        self.settled = self.last = settled
        self._open: set[int] = set()

    def begin(self, number: int) -> None:
        self.last = max(self.last, number)
        self._open.add(number)

    def end(self, number: int) -> bool:
        """Whether `settled` went on."""
        self._open.discard(number)
        before, self.settled = self.settled, min(self._open, default=self.last + 1) - 1
        return self.settled > before
