"""Webhooks: a URL that is told when mail was delivered or has failed (AMTP 1.0, section 12.1.4).

  POST   /v1/webhooks        {url, events, secret?}   201; without a secret one is made, shown once
  GET    /v1/webhooks        those of the caller
  DELETE /v1/webhooks/{id}

  POST URL    {"event", "webhook_id", "timestamp", "message_id", "recipient", "status", ...}
  X-AMTP-Signature: sha256=HEX of HMAC-SHA-256(secret, TIMESTAMP "." BODY)
  X-AMTP-Timestamp: SECONDS        X-AMTP-Event: EVENT        X-AMTP-Event-Id: ID

WK1  An agent's key makes webhooks for what that agent sends; an administrator's for all agents.
     Whoever has the agent's name later is another one.
WK2  Events are on disk before they are sent, and leave it when the URL answered 2xx: each is sent
     at least once, with the same X-AMTP-Event-Id, the older first.
WK3  No answer, 408, 425, 429 and 5xx are tried again after 1 s doubling to 1 h, with jitter, at
     most MOST_TRIES times. Another 4xx, or a URL that may not be reached (http/client.py), drops
     the event; the log says so.
WK4  The secret is shown to nobody after it was set.
"""

import json
import logging
import random
import secrets
from collections.abc import Mapping, Sequence
from typing import Any, Final

import trio

from ampd.core.agents import Agent
from ampd.edge.amp.webhooks import signature
from ampd.edge.amtp.failures import Failure
from ampd.edge.amtp.outcomes import Outcome
from ampd.edge.amtp.ports import Mail
from ampd.edge.amtp.times import time_text
from ampd.edge.bugs import contained
from ampd.edge.gateway_values import Shared
from ampd.edge.http.addresses import target_of
from ampd.edge.http.words import Answer, Request, Route
from ampd.model.errors import AmpdError, Invalid, Refused, Unavailable
from ampd.protocol import raw_json
from ampd.storage.registry import Batch, Entry

EVENTS: Final = (
    *("message.delivered", "message.failed"),
    *("workflow.completed", "workflow.failed", "workflow.timeout"),
)
MOST_TRIES: Final = 30  # about a day
ANSWER_WITHIN: Final = 15.0  # seconds
_MAX_HOOKS: Final = 20  # of one agent
_MAX_WAITING: Final = 10_000  # events of one URL; then the newest are dropped
_MAX_SECRET: Final = 256  # characters
_LONGEST_PAUSE: Final = 3600.0
_JITTER: Final = 0.25
_AGAIN: Final = frozenset((408, 425, 429))
_HOOK: Final = "amtp.webhook"
_EVENT: Final = "amtp.webhook.event"

log = logging.getLogger("ampd.amtp")


class Webhooks:
    """The webhooks of one node."""

    def __init__(self, shared: Shared, mail: Mail) -> None:
        self._http = shared.http
        self._registry = shared.registry
        self._now = shared.now
        self._mail = mail
        self._count = 0
        self.changed = trio.Event()  # replaced by a new one when it was set

    # --- events ----------------------------------------------------------------------------

    def wants(self, agent: Agent, outcome: str) -> bool:
        """Whether any webhook is to be told of this ("delivered", "failed")."""
        event = f"message.{outcome}"
        hooks = (
            *self._registry.find(_HOOK, owner=agent.name), *self._registry.find(_HOOK, owner="")
        )  # fmt: skip
        return any(event in hook.value["events"] and _is_for(hook, agent) for hook in hooks)

    def heard(self, batch: Batch, agent: Agent, outcome: Outcome) -> None:
        """Within a change: a recipient has a message, or never will (outcomes.py)."""
        state = outcome.state
        members = {
            "message_id": outcome.message_id,
            "sender": self._mail.address_of(agent),
            "recipient": self._address(state.address),
            "status": outcome.event,
        }
        if state.delivered_at:
            members["delivered_at"] = time_text(state.delivered_at) or ""
        if outcome.event == "failed":
            members["error_message"] = state.error or "it expired"
        happened = state.delivered_at or batch.now
        self._queue(batch, agent, f"message.{outcome.event}", members, happened)

    async def ended(self, agent: Agent, document: Mapping[str, Any]) -> None:
        """A workflow of an agent is over."""
        members = {name: document[name] for name in ("workflow_id", "coordination_type", "status")}
        event = f"workflow.{document['status']}"
        await self._registry.change(
            lambda batch: self._queue(batch, agent, event, members, batch.now)
        )
        self.changed.set()

    def _address(self, native: str) -> str:
        agent = self._mail.agent_at(native)
        return self._mail.address_of(agent) if agent else native

    def _queue(
        self, batch: Batch, agent: Agent, event: str, members: Mapping[str, Any], happened: int
    ) -> None:
        for hook in (*batch.find(_HOOK, owner=agent.name), *batch.find(_HOOK, owner="")):
            if event not in hook.value["events"] or hook.value["created_at"] > happened:
                continue
            if not _is_for(hook, agent):
                continue
            if len(batch.find(_EVENT, prefix=f"{hook.key}/", limit=_MAX_WAITING)) >= _MAX_WAITING:
                log.warning("a webhook's events are dropped", extra={"webhook": hook.key})
                continue
            self._count += 1
            key = f"{hook.key}/{batch.now:015d}-{self._count:08d}"
            body = {
                "event": event, "webhook_id": hook.key, "timestamp": time_text(batch.now), **members
            }  # fmt: skip
            batch.put(_EVENT, key, {"event": event, "body": body}, owner=hook.owner)

    # --- bringing them ---------------------------------------------------------------------

    async def run(self) -> None:
        """Bring events until cancelled."""
        served: dict[str, trio.CancelScope] = {}
        async with trio.open_nursery() as nursery:
            while True:
                self.changed = changed = trio.Event()
                hooks = {entry.key for entry in self._registry.find(_HOOK)}
                for key in [key for key in served if key not in hooks]:
                    served.pop(key).cancel()
                for key in hooks:
                    if key not in served and self._next(key):
                        served[key] = trio.CancelScope()
                        nursery.start_soon(self._serve, key, served[key], served)
                await changed.wait()

    def _next(self, hook: str) -> Entry | None:
        return next(iter(self._registry.find(_EVENT, prefix=f"{hook}/", limit=1)), None)

    async def _serve(
        self, hook: str, scope: trio.CancelScope, served: dict[str, trio.CancelScope]
    ) -> None:
        """Bring the events of one webhook, the oldest first, until there is none (WK2)."""
        with scope:
            while entry := self._next(hook):
                found = self._registry.get(_HOOK, hook)
                if found is None:
                    break
                try:
                    with contained("a webhook"):
                        await self._bring(hook, found, entry)
                    await self._registry.delete(_EVENT, entry.key)
                except AmpdError as exc:
                    log.warning("a webhook waits", extra={"webhook": hook, "why": str(exc)})
                    await trio.sleep(_LONGEST_PAUSE)
            served.pop(hook, None)  # no await since there was none: nothing came in between

    async def _bring(self, hook: str, found: Mapping[str, Any], entry: Entry) -> None:
        """Until it is taken, or given up (WK3)."""
        for number in range(MOST_TRIES):
            try:
                await self._post(found, entry)
            except Refused as exc:
                log.warning("a webhook refuses", extra={"webhook": hook, "why": str(exc)})
                return
            except Unavailable as exc:
                log.info("a webhook is tried again", extra={"webhook": hook, "why": str(exc)})
                pause = min(_LONGEST_PAUSE, 2.0**number)
                await trio.sleep(pause * random.uniform(1 - _JITTER, 1 + _JITTER))  # noqa: S311
            else:
                return
        log.warning("a webhook's event is dropped", extra={"webhook": hook, "tries": MOST_TRIES})

    async def _post(self, hook: Mapping[str, Any], entry: Entry) -> None:
        body = json.dumps(entry.value["body"], ensure_ascii=False).encode()
        seconds = self._now() // 1000
        headers = {
            "Content-Type": "application/json",
            "X-AMTP-Event": entry.value["event"],
            "X-AMTP-Event-Id": entry.key.rpartition("/")[2],
            "X-AMTP-Timestamp": str(seconds),
            "X-AMTP-Signature": signature(hook["secret"], seconds, body),
        }
        reply = await self._http.send(
            "POST", hook["url"], headers=headers, body=body, timeout=ANSWER_WITHIN
        )
        if 200 <= reply.status < 300:
            return
        if 400 <= reply.status < 500 and reply.status not in _AGAIN:
            raise Refused(f"HTTP {reply.status}")
        raise Unavailable(f"HTTP {reply.status}")

    # --- requests --------------------------------------------------------------------------

    def routes(self) -> Sequence[Route]:
        """Every method of every path."""
        return (
            Route("POST", "/v1/webhooks", self._make),
            Route("GET", "/v1/webhooks", self._list),
            Route("DELETE", "/v1/webhooks/{id}", self._remove),
        )

    def _owner(self, request: Request) -> tuple[str, str]:
        """Whose webhooks are meant: an agent's name and key, or "" of an administrator (WK1)."""
        if "x-admin-key" not in request.headers:
            caller = self._mail.caller(request)
            if caller is not None:
                return caller.name, caller.key.hex()
        self._mail.check_admin(request)
        return "", ""

    def _of(self, owner: str, key: str) -> list[Entry]:
        found = self._registry.find(_HOOK, owner=owner)
        return [each for each in found if each.value.get("agent", "") == key]

    async def _make(self, request: Request) -> Answer:
        owner, agent = self._owner(request)
        body = request.json()
        if not isinstance(body, dict):
            raise _wrong("the body is a JSON object")
        url, secret = body.get("url"), body.get("secret")
        _check(url, secret)
        given = secret or secrets.token_urlsafe(32)
        if self._registry.count(_HOOK, owner=owner) >= _MAX_HOOKS:
            raise _wrong(f"there are {_MAX_HOOKS} webhooks already")
        key = f"whk_{secrets.token_hex(12)}"
        value = {
            "url": str(url), "events": _events(body.get("events")),
            "secret": str(given), "created_at": self._now(), "agent": agent,
        }  # fmt: skip
        await self._registry.put(_HOOK, key, value, owner=owner)
        shown = _shown(key, value)
        return Answer.json(201, shown if secret else shown | {"secret": given})

    async def _list(self, request: Request) -> Answer:
        found = self._of(*self._owner(request))
        hooks = [_shown(entry.key, entry.value) for entry in found]
        return Answer.json(200, {"webhooks": hooks, "count": len(hooks)})

    async def _remove(self, request: Request) -> Answer:
        mine, key = self._owner(request), request.params["id"]
        if not any(entry.key == key for entry in self._of(*mine)):
            raise Failure(404, "WEBHOOK_NOT_FOUND", "there is no such webhook of yours")

        def work(batch: Batch) -> None:
            while events := batch.find(_EVENT, prefix=f"{key}/"):
                for entry in events:
                    batch.delete(_EVENT, entry.key)
            batch.delete(_HOOK, key)

        await self._registry.change(work)
        self.changed.set()
        return Answer.json(200, {"message": "Webhook deleted successfully", "webhook_id": key})


def _is_for(hook: Entry, agent: Agent) -> bool:
    """Whether it is of this very agent, not of one that had its name before; or of the owner."""
    return not hook.owner or bool(hook.value.get("agent") == agent.key.hex())


def _events(value: Any) -> list[str]:
    if not isinstance(value, list) or not value or not all(each in EVENTS for each in value):
        raise _wrong("events is a list of " + ", ".join(EVENTS))
    return [each for each in EVENTS if each in value]


def _check(url: object, secret: object) -> None:
    if not isinstance(url, str):
        raise _wrong("url is required")
    try:
        target_of(url)
    except Invalid as exc:
        raise _wrong(str(exc)) from None
    is_text = isinstance(secret, str) and not isinstance(secret, raw_json.Number)
    if secret is not None and not (is_text and 0 < len(str(secret)) <= _MAX_SECRET):
        raise _wrong(f"secret is a text of 1 to {_MAX_SECRET} characters")


def _shown(key: str, value: Mapping[str, Any]) -> dict[str, Any]:
    """WK4."""
    return {
        "webhook_id": key,
        "url": value["url"],
        "events": value["events"],
        "created_at": time_text(value["created_at"]),
    }


def _wrong(why: str) -> Failure:
    return Failure(400, "VALIDATION_FAILED", why)
