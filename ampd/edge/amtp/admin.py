"""Agents by HTTP, for holders of an admin key: /v1/admin/agents.

  AD1  A registration makes an agent of this node, and an account for it. A name that is taken by
       any agent of this node is refused: nobody is handed mail that is not theirs.
  AD2  The API key is shown once, nested as Agentry does and at the top as its Node client reads it.
  AD3  Who registered an agent here removes it with its mail: the next owner of the name is another
       agent and reads nothing of it. An agent that `amp init` made only loses its account.
  AD4  An agent may remove itself with its own key; everything else takes an admin key.
  AD5  A new key for an agent makes the old one worthless at once; an agent without an account gets
       one by it, which is how the owner opens the API for an agent of `amp init`.
  AD6  A crash in the middle of a registration leaves no agent that nobody has the key of.

Not here: who holds an admin key (accounts.py); schemas of the administrator (transport.py).
"""

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import trio

from ampd.core.agents import Agent, Profile
from ampd.edge.amtp.accounts import AGENT, Account, Accounts, hash_of
from ampd.edge.amtp.admin_keys import new_key
from ampd.edge.amtp.failures import Failure
from ampd.edge.amtp.mail import Mail
from ampd.edge.amtp.times import time_text
from ampd.edge.gateway_values import Shared
from ampd.edge.http.addresses import target_of
from ampd.edge.http.words import Answer, Request, Route
from ampd.model.address import check_name
from ampd.model.errors import Invalid, Refused
from ampd.model.values import value
from ampd.protocol import raw_json

_MAKING: Final = "amtp.making"
_MAX_KEY: Final = 256  # characters of a key that a caller chose
_MAX_HEADERS: Final = 20  # of a push
_HEADER: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,64}")  # RFC 9110, section 5.6.2
_NOT_YOURS: Final = frozenset(("host", "content-length", "transfer-encoding", "connection"))
_MAX_WORD: Final = 64

CheckPatterns = Callable[[Sequence[object]], None]
Changed = Callable[[], Awaitable[None]]


@value
class Wanted:
    """What a registration asks for."""

    name: str
    mode: str
    target: str
    headers: Mapping[str, str]
    key: str
    schemas: tuple[str, ...]
    role: str
    profile: Profile


class Admin:
    """The routes under /v1/admin/agents."""

    def __init__(
        self, shared: Shared, accounts: Accounts, mail: Mail, check_patterns: CheckPatterns,
        changed: Callable[[], None],
    ) -> None:  # fmt: skip
        """`changed` is told when there is another set of accounts."""
        self._rooms = shared.rooms
        self._registry = shared.registry
        self._now = shared.now
        self._accounts = accounts
        self._mail = mail
        self._check_patterns = check_patterns
        self._changed = changed
        self._one = trio.Lock()  # one change at a time: a name is looked up and taken at once

    def routes(self) -> list[Route]:
        """What this module answers."""
        return [
            Route("POST", "/v1/admin/agents", self.register),
            Route("GET", "/v1/admin/agents", self.list),
            Route("DELETE", "/v1/admin/agents/{name}", self.unregister),
            Route("POST", "/v1/admin/agents/{name}/rotate-key", self.rotate),
        ]

    # --- register -------------------------------------------------------------------------

    async def register(self, request: Request) -> Answer:
        """POST /v1/admin/agents."""
        self._accounts.check_admin(request)
        body = request.json()
        if not isinstance(body, dict):
            raise Invalid("the body is no JSON object", code="json")
        try:
            wanted = self._wanted(body)
            async with self._one:
                account = await self._make(wanted)
        except Refused as exc:
            raise _not_registered(exc) from None
        await self._rooms.agents_changed()
        self._changed()
        return Answer.json(201, {
            "message": "Agent registered successfully",
            "agent": self._document(account, wanted.key),
            "address": self._mail.address_of(account.agent),
            "api_key": wanted.key,
            "timestamp": time_text(self._now()),
        })  # fmt: skip

    def _wanted(self, body: dict[str, raw_json.Value]) -> Wanted:
        mode = _text(body, "delivery_mode") or "pull"
        if mode not in ("pull", "push"):
            raise Invalid("delivery_mode is pull or push")
        target = _text(body, "push_target")
        if mode == "push":
            _check_target(target)
        schemas = _texts(body, "supported_schemas")
        self._check_patterns(schemas)
        capabilities = _texts(body, "capabilities")
        profile = Profile(
            description=_text(body, "description") or None, capabilities=tuple(capabilities) or None
        )
        return Wanted(
            self._name(_text(body, "address")), mode, target, _headers(body),
            _key(_text(body, "api_key")), tuple(schemas), _text(body, "role")[:_MAX_WORD], profile,
        )  # fmt: skip

    def _name(self, text: str) -> str:
        """A bare name, or one with a domain of ours."""
        name, at, domain = text.strip().partition("@")
        if at and not self._mail.is_ours(domain):
            raise Invalid(f"{domain!r} is not the domain of this gateway")
        return check_name(name)

    async def _make(self, wanted: Wanted) -> Account:
        """AD1, AD6."""
        if self._rooms.agents.is_taken(wanted.name):
            raise Refused(f"agent already exists: {wanted.name}", code="conflict")
        await self._registry.put(_MAKING, wanted.name, {})
        agent, is_new = await self._rooms.agents.create(wanted.name, wanted.profile)
        try:
            if not is_new:
                raise Refused(f"agent already exists: {wanted.name}", code="conflict")
            account = Account(
                agent, True, wanted.mode, wanted.target, wanted.headers, wanted.schemas,
                wanted.role, self._now(), 0, hash_of(wanted.key),
            )  # fmt: skip
            await self._accounts.keep(account)
        except Refused:
            if is_new:
                await self._rooms.agents.remove(wanted.name, purge=True)
            raise
        finally:
            with trio.CancelScope(shield=True):
                await self._registry.delete(_MAKING, wanted.name)
        return account

    async def clean(self) -> None:
        """At a start: what a crash left half made, and accounts whose agent is gone (AD6)."""
        for entry in self._registry.find(_MAKING):
            agent = self._mail.agent_at(f"{entry.key}@{self._mail.addresses.domain}")
            fresh = agent is not None and agent.created >= entry.at and not self._has_mail(agent)
            if fresh and self._accounts.of(entry.key) is None:
                await self._rooms.agents.remove(entry.key, purge=True)
                await self._rooms.agents_changed()
            await self._registry.delete(_MAKING, entry.key)
        for entry in self._registry.find(AGENT):
            if self._accounts.of(entry.key) is None:
                await self._registry.delete(AGENT, entry.key)

    def _has_mail(self, agent: Agent) -> bool:
        row = self._rooms.store.view.execute(
            "SELECT last+sent FROM agents WHERE key=?", (agent.key,)
        ).fetchone()
        return bool(row and row[0])

    # --- the others -----------------------------------------------------------------------

    async def list(self, request: Request) -> Answer:
        """GET /v1/admin/agents: a map by address."""
        self._accounts.check_admin(request)
        found = self._accounts.all()
        agents = {self._mail.address_of(each.agent): self._document(each, "") for each in found}
        return Answer.json(
            200, {"agents": agents, "count": len(agents), "timestamp": time_text(self._now())}
        )

    async def unregister(self, request: Request) -> Answer:
        """DELETE /v1/admin/agents/{name} (AD3, AD4)."""
        name = request.params["name"]
        agent = self._agent(name)
        own = self._accounts.with_key(request.bearer)
        if own is None or agent is None or own.agent.key != agent.key:
            self._accounts.check_admin(request)
        async with self._one:
            account = self._accounts.of(agent.name) if agent else None
            if account is None:
                raise Failure(
                    400, "AGENT_UNREGISTRATION_FAILED", "Failed to unregister agent",
                    details={"error": f"agent not found: {name}"},
                )  # fmt: skip
            await self._remove(account)
        await self._rooms.agents_changed()
        self._changed()
        return Answer.json(
            200,
            {
                "message": "Agent unregistered successfully",
                "name": account.name,
                "timestamp": time_text(self._now()),
            },
        )

    async def _remove(self, account: Account) -> None:
        """The agent first: an account without its agent is nobody's (accounts.py, AC1)."""
        if not account.made:
            await self._accounts.forget(account)
            return
        await self._rooms.agents.remove(account.name, purge=True)
        await self._registry.delete_owned(account.name)

    async def rotate(self, request: Request) -> Answer:
        """POST /v1/admin/agents/{address}/rotate-key (AD5)."""
        self._accounts.check_admin(request)
        agent = self._agent(request.params["name"])
        if agent is None:
            raise Failure(404, "AGENT_UNKNOWN", f"No agent {request.params['name']} on this node")
        body = request.json() if request.body.strip() else {}
        key = _key(_text(body, "api_key") if isinstance(body, dict) else "")
        async with self._one:
            account = self._accounts.of(agent.name) or Account(
                agent, False, "pull", "", {}, (), "", self._now(), 0, ""
            )
            account = replace(account, key_hash=hash_of(key))
            try:
                await self._accounts.keep(account)
            except Refused as exc:
                raise _not_registered(exc) from None
        self._changed()
        return Answer.json(200, {
            "message": "API key rotated successfully",
            "address": self._mail.address_of(agent),
            "api_key": key,
            "agent": self._document(account, key),
            "timestamp": time_text(self._now()),
        })  # fmt: skip

    def _agent(self, text: str) -> Agent | None:
        name, at, domain = text.partition("@")
        return self._mail.agent_at(f"{name}@{domain if at else self._mail.addresses.domain}")

    def _document(self, account: Account, key: str) -> dict[str, Any]:
        """An agent as Agentry and its administrators' client know it."""
        card = account.agent.card
        more = {
            "role": account.role,
            "description": card.description,
            "capabilities": list(card.capabilities),
        }
        return {
            "address": self._mail.address_of(account.agent),
            "delivery_mode": account.mode,
            "push_target": account.target,
            "headers": dict(account.headers) or None,
            "api_key": key,
            "supported_schemas": list(account.schemas) or None,
            "requires_schema": bool(account.schemas),
            "created_at": time_text(account.created),
            "last_access": time_text(account.used),
            **{name: value for name, value in more.items() if value},
        }


def _not_registered(exc: Refused) -> Failure:
    return Failure(
        400, "AGENT_REGISTRATION_FAILED", f"Failed to register agent: {exc}",
        details={"error": str(exc)},
    )  # fmt: skip


def _text(body: Mapping[str, raw_json.Value], name: str) -> str:
    value = body.get(name)
    if value is None:
        return ""
    if not isinstance(value, str) or isinstance(value, raw_json.Number):
        raise Invalid(f"{name} is a text")
    return value


def _texts(body: Mapping[str, raw_json.Value], name: str) -> list[str]:
    value = body.get(name) or []
    if not isinstance(value, list) or not all(
        isinstance(each, str) and not isinstance(each, raw_json.Number) for each in value
    ):
        raise Invalid(f"{name} is a list of texts")
    return value


def _key(chosen: str) -> str:
    """The key that a caller chose, or a new one."""
    if not chosen:
        return new_key()
    if len(chosen) > _MAX_KEY or not chosen.isascii() or not chosen.isprintable() or " " in chosen:
        raise Invalid(f"an api_key is at most {_MAX_KEY} printable characters without blanks")
    if chosen.startswith("amp_"):
        raise Invalid("an api_key does not begin with amp_: such keys are AMP's")
    return chosen


def _check_target(url: str) -> None:
    try:
        target_of(url)
    except Invalid as exc:
        raise Invalid(f"push delivery needs a push_target, http://HOST/...: {exc}") from None


def _headers(body: Mapping[str, raw_json.Value]) -> dict[str, str]:
    value = body.get("headers") or {}
    if not isinstance(value, dict) or len(value) > _MAX_HEADERS:
        raise Invalid(f"headers is an object of at most {_MAX_HEADERS} texts")
    for name, each in value.items():
        sound = isinstance(each, str) and each.isprintable() and each.isascii()
        if not sound or not _HEADER.fullmatch(name) or name.lower() in _NOT_YOURS:
            raise Invalid(f"{name[:_MAX_WORD]!r} cannot be a header of a push")
    return {name: str(each) for name, each in value.items()}
