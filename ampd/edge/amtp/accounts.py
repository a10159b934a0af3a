"""Who is asking: agents by their API keys, the node's owner by an admin key.

  AC1  An account belongs to one agent of this node. When that agent is gone, or another one has
       its name, the account is nobody's.
  AC2  API keys are kept as their SHA-256 only (they are random), and no two agents share one.
  AC3  An agent acts for itself only: it sends as itself, reads its own inbox. The holder of an
       admin key may do both for every agent that has an account.
  AC4  With gateway.amtp_auth "local", a program on this machine may send as an agent that has an
       account, and ask how far a message got, without any key, as the public clients do. A caller
       behind a proxy is not on this machine, nor one who calls it by another name than a program
       here would: a proxy may not say that it is one.
  AC5  An agent that has no account (`amp init`) cannot be acted for over HTTP at all.
  AC6  Who shows wrong keys too often is told to wait (429): keys that people chose can be guessed.

Kinds in the registry: "amtp.agent" by name, "amtp.key" by the hash of a key.
"""

import hashlib
import ipaddress
from collections.abc import Callable, Mapping
from typing import Any, Final
from urllib.parse import urlsplit

from ampd.core.agents import Agent, Agents
from ampd.edge.amtp.admin_keys import AdminKeys
from ampd.edge.amtp.failures import Failure
from ampd.edge.http.words import Request
from ampd.model.errors import Refused
from ampd.model.values import value
from ampd.storage.registry import Registry

AGENT: Final = "amtp.agent"
KEY: Final = "amtp.key"
_ACCESS_EVERY: Final = 3_600_000  # ms between writes of when an agent was last here
_MADE: Final = 4096  # accounts that are kept as objects: 1 KiB each
_PROXIES: Final = (
    *("x-forwarded-for", "x-forwarded-host", "x-forwarded-proto"),
    *("forwarded", "x-real-ip", "via"),
)


@value
class Account:
    """What the gateway knows of an agent."""

    agent: Agent
    made: bool  # by this gateway, which then also removes it
    mode: str  # pull or push
    target: str
    headers: Mapping[str, str]  # of a push
    schemas: tuple[str, ...]
    role: str
    created: int
    used: int
    key_hash: str

    @property
    def name(self) -> str:
        """The agent's name."""
        return self.agent.name


@value
class Caller:
    """Who asks."""

    account: Account | None
    admin: bool
    local: bool  # a program on this machine, where that is enough (AC4)

    def is_agent(self, agent: Agent) -> bool:
        """Whether the key of this very agent was shown."""
        return self.account is not None and self.account.agent.key == agent.key


def hash_of(key: str) -> str:
    """What is kept of an API key (AC2)."""
    return hashlib.sha256(key.encode()).hexdigest()


def is_local(request: Request) -> bool:
    """Whether a program of this machine asks, and no proxy for somebody else."""
    if any(name in request.headers for name in _PROXIES):
        return False
    host = urlsplit(request.base).hostname or ""
    return _is_loopback(request.peer) and (host == "localhost" or _is_loopback(host))


def _is_loopback(host: str) -> bool:
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback


class Accounts:
    """The accounts of a node, and who may do what."""

    def __init__(
        self, registry: Registry, agents: Agents, admin_keys: AdminKeys, *, keyless: bool
    ) -> None:
        """`keyless`: gateway.amtp_auth is "local" (AC4)."""
        self.registry = registry
        self._agents = agents
        self._admin_keys = admin_keys
        self._keyless = keyless
        self._made: dict[str, tuple[Mapping[str, Any], Account]] = {}  # by name, of what was read
        self.denied: Callable[[str], None] = lambda _host: None  # told of wrong keys (AC6)

    # --- accounts -------------------------------------------------------------------------

    def of(self, name: str) -> Account | None:
        """The account of the agent of this name (AC1)."""
        value = self.registry.shared(AGENT, name)
        if value is None:
            return None
        known = self._made.get(name)
        if known is not None and known[0] is value and self._is_here(known[1]):
            return known[1]
        account = self._account(name, value)
        if account is not None:
            if len(self._made) >= _MADE:
                self._made.clear()
            self._made[name] = value, account
        return account

    def _is_here(self, account: Account) -> bool:
        agent = self._agents.of_key(account.agent.key)
        return agent is account.agent

    def _account(self, name: str, value: dict[str, Any]) -> Account | None:
        try:
            agent = self._agents.named(name)
        except Refused:
            return None
        if agent.key.hex() != value.get("agent"):
            return None
        return Account(
            agent, value["made"], value["mode"], value["target"], value["headers"],
            tuple(value["schemas"]), value["role"], value["created"], value["used"], value["key"],
        )  # fmt: skip

    def all(self) -> list[Account]:
        """All accounts, by name."""
        found, after = [], ""
        while entries := self.registry.find(AGENT, after=after):
            after = entries[-1].key
            found += [self._account(entry.key, entry.value) for entry in entries]
        return [each for each in found if each is not None]

    async def keep(self, account: Account) -> None:
        """From now on this is the account, and its key the only one."""
        value = {
            "agent": account.agent.key.hex(), "made": account.made, "mode": account.mode,
            "target": account.target, "headers": dict(account.headers),
            "schemas": list(account.schemas), "role": account.role, "created": account.created,
            "used": account.used, "key": account.key_hash,
        }  # fmt: skip
        name, by_key = account.name, {"name": account.name}

        def work(batch: Any) -> None:
            holder = batch.get(KEY, account.key_hash)
            if holder is not None and holder["name"] != name:
                raise Refused("this api_key is in use already", code="conflict")
            before = batch.get(AGENT, name)
            if before is not None and before["key"] != account.key_hash:
                batch.delete(KEY, before["key"])
            batch.put(AGENT, name, value, owner=name)
            batch.put(KEY, account.key_hash, by_key, owner=name)

        await self.registry.change(work)

    async def forget(self, account: Account) -> None:
        """The account is gone; the agent stays."""

        def work(batch: Any) -> None:
            batch.delete(AGENT, account.name)
            batch.delete(KEY, account.key_hash)

        await self.registry.change(work)

    async def note_use(self, account: Account, now: int) -> None:
        """The agent was here; written down once an hour at most."""
        if now - account.used < _ACCESS_EVERY:
            return

        def work(batch: Any) -> None:
            value = batch.get(AGENT, account.name)
            if value is not None:
                batch.put(AGENT, account.name, value | {"used": now}, owner=account.name)

        await self.registry.change(work)

    # --- who may --------------------------------------------------------------------------

    def with_key(self, key: str) -> Account | None:
        """The account whose API key this is (AC2)."""
        hashed = hash_of(key)
        found = self.registry.get(KEY, hashed) if key else None
        account = self.of(found["name"]) if found else None
        return account if account is not None and account.key_hash == hashed else None

    def caller(self, request: Request) -> Caller:
        """Who asks; nobody if no key was shown, or a wrong one."""
        account = self.with_key(request.bearer)
        asks_more = account is None or "x-admin-key" in request.headers
        return Caller(
            account, asks_more and self._is_admin(request), self._keyless and is_local(request)
        )

    def _is_admin(self, request: Request) -> bool:
        shown = (request.headers.get("x-admin-key", "").strip(), request.bearer)
        return any(key and self._admin_keys.holds(key) for key in shown)

    def check_admin(self, request: Request) -> None:
        """Failure unless an admin key was shown, as X-Admin-Key or as a Bearer token."""
        if self._is_admin(request):
            return
        if not request.headers.get("x-admin-key", "").strip() and not request.bearer:
            raise Failure(
                401, "ADMIN_AUTHENTICATION_REQUIRED", "An admin key is required",
                details={"required_header": "X-Admin-Key", "endpoint": request.path},
            )  # fmt: skip
        self.denied(request.peer)
        raise Failure(403, "ADMIN_ACCESS_DENIED", "The admin key is not valid")

    def check_inbox(self, request: Request, agent: Agent | None) -> Account:
        """The account of `agent`, whose key was shown; Failure says no more than that it was not.

        An agent that does not exist, another one's key and a wrong one are the same (AC3).
        """
        header = request.headers.get("authorization", "")
        if not header.lower().startswith("bearer"):
            raise Failure(
                401, "MISSING_AUTHORIZATION", "Authorization: Bearer with the agent's API key"
            )
        if not request.bearer:
            raise Failure(401, "EMPTY_API_KEY", "The API key is empty")
        account = self.with_key(request.bearer)
        if account is None or agent is None or account.agent.key != agent.key:
            self.denied(request.peer)
            raise Failure(403, "ACCESS_DENIED", "The API key is not valid for this inbox")
        return account

    def check_sender(self, request: Request, agent: Agent) -> Caller:
        """Who sends as `agent`; Failure if nobody may (AC3-AC5)."""
        caller = self.caller(request)
        if caller.is_agent(agent):
            return caller
        if self.of(agent.name) is None:
            raise Failure(
                403, "SENDER_CREDENTIAL_MISMATCH",
                f"{agent.name} has no AMTP account; an admin gives it a key with"
                f" POST /v1/admin/agents/{agent.name}/rotate-key",
            )  # fmt: skip
        if caller.admin:
            return caller
        if request.bearer:
            self.denied(request.peer)
            raise Failure(
                403, "SENDER_CREDENTIAL_MISMATCH", f"The API key is not that of {agent.name}"
            )
        if not caller.local:
            raise Failure(
                401, "LOCAL_SENDER_AUTH_REQUIRED", "Authorization: Bearer with the sender's API key"
            )
        return caller
