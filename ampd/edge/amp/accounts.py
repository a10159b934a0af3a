"""Who registered over HTTP: accounts, and the API keys by which they are known.

    amp.account  NAME               what was registered (see Account); owner: the agent
    amp.key      SHA-256 of a key   {"name": NAME}; with an expiry if it was replaced
    amp.held     NAME               {"public_key": PEM}: left within the last 30 days

  AC1  An API key is amp_live_sk_ and 256 random bits; only its SHA-256 is kept, and nothing slower
       is needed for what cannot be guessed.
  AC2  A key that was replaced works for 24 hours more; one that was revoked does not work at all.
  AC3  An account is that of one native agent, by its key: an agent that takes the name later has
       none, and the old API keys open nothing.
  AC4  A user key (uk_...) is no API key.
  AC5  A name that was left is held for 30 days.

Not here: who may register (register.py), what is asked with a key (the other modules).
"""

import functools
import hashlib
import secrets
from collections.abc import Callable, Mapping
from dataclasses import asdict, field, replace
from typing import Any, Final

from ampd.core.agents import Agent, Agents
from ampd.crypto.foreign_keys import ForeignKey
from ampd.model.errors import Refused
from ampd.model.values import value
from ampd.protocol.amp.address import Names
from ampd.protocol.amp.faults import unauthorized
from ampd.storage.registry import Batch, Registry, Value

ACCOUNT: Final = "amp.account"
KEY: Final = "amp.key"
HELD: Final = "amp.held"
PREFIX: Final = "amp_live_sk_"
USER_PREFIX: Final = "uk_"
GRACE: Final = 86_400_000  # milliseconds: section 03, "Key Rotation"
HOLD_FOR: Final = 30 * 86_400_000  # section 03, "Deregistration"
MAX_KEYS: Final = 20  # of one account: re-registering makes one more each time
_MADE: Final = 4096  # accounts that are kept as objects: 1 KiB each
_NO_KEY: Final = "Missing or invalid API key: register with POST /v1/register"


@value
class Account:
    """An agent that registered over HTTP; `name` is that of the agent of this node."""

    name: str
    agent_key: str  # of the native agent, as hex (AC3)
    tenant: str
    scope: tuple[str, ...]  # the labels before the tenant: repo, platform
    address: str
    short_address: str
    public_key: str  # PEM
    registered_at: int
    agent_id: str
    own_id: str = ""  # what the client calls it
    alias: str = ""
    delivery: Mapping[str, Any] = field(default_factory=dict)
    metadata: Mapping[str, Any] = field(default_factory=dict)
    owner_id: str = ""

    @property
    def key(self) -> ForeignKey:
        """Its public key."""
        return _key(self.public_key)

    @property
    def fingerprint(self) -> str:
        """Of its public key."""
        return self.key.fingerprint


@functools.lru_cache(maxsize=1024)
def _key(pem: str) -> ForeignKey:
    return ForeignKey.from_pem(pem)


class Accounts:
    """The accounts of this node."""

    def __init__(
        self, registry: Registry, agents: Agents, names: Names, now: Callable[[], int]
    ) -> None:
        self._registry = registry
        self._agents = agents
        self._names = names
        self._now = now
        self._made: dict[str, tuple[Mapping[str, Any], Account]] = {}  # by name, of what was read
        self._seen: dict[str, int] = {}  # name -> when it last asked for something

    # --- who ------------------------------------------------------------------------------

    def of_token(self, token: str) -> Account:
        """Whose API key this is. Fault 401 if nobody's (AC2, AC3, AC4)."""
        if token.startswith(USER_PREFIX):
            raise unauthorized("a user key registers agents; messages need an agent's API key")
        found = self._registry.get(KEY, _hashed(token)) if token.startswith("amp_") else None
        account = self.of(str(found["name"])) if found else None
        if account is None:
            raise unauthorized(_NO_KEY)
        self._seen[account.name] = self._now()
        return account

    def of(self, name: str) -> Account | None:
        """The account of the agent of this name, if it has one (AC3)."""
        found = self._registry.shared(ACCOUNT, name)
        try:
            agent = self._agents.named(name)
        except Refused:
            return None
        if found is None or found["agent_key"] != agent.key.hex():
            return None
        known = self._made.get(name)
        if known is None or known[0] is not found:
            account = Account(**{**found, "scope": tuple(found["scope"])})
            if len(self._made) >= _MADE:
                self._made.clear()
            known = self._made[name] = found, account
        return known[1]

    def agent(self, account: Account) -> Agent:
        """The native agent of an account."""
        return self._agents.named(account.name)

    def all(self) -> list[Account]:
        """Every account, by name."""
        found, after = [], ""
        while entries := self._registry.find(ACCOUNT, after=after):
            found += [self.of(entry.key) for entry in entries]
            after = entries[-1].key
        return [each for each in found if each is not None]

    def last_seen(self, account: Account) -> int:
        """When it last asked for something, as far as this daemon knows."""
        return self._seen.get(account.name, account.registered_at)

    def held(self, name: str) -> str | None:
        """The public key of who left this name less than 30 days ago (AC5)."""
        found = self._registry.get(HELD, name)
        return None if found is None else str(found["public_key"])

    # --- changes --------------------------------------------------------------------------

    async def open(self, agent: Agent, said: Account) -> tuple[Account, str]:
        """The account of a new agent, and its first API key."""
        account = replace(
            said,
            agent_key=agent.key.hex(),
            address=self._names.address(said.name, said.tenant, said.scope),
            short_address=self._names.address(said.name, said.tenant),
            registered_at=self._now(),
            agent_id="agt_" + hashlib.sha256(agent.key).hexdigest()[:24],
        )
        token = _new_token()

        def work(batch: Batch) -> None:
            _forget(batch, said.name)
            batch.delete(HELD, said.name)
            batch.put(ACCOUNT, said.name, _value(account), owner=said.name)
            batch.put(KEY, _hashed(token), {"name": said.name}, owner=said.name)

        await self._registry.change(work)
        return account, token

    async def new_key(self, account: Account) -> str:
        """One more API key; the oldest of too many goes."""
        token = _new_token()

        def work(batch: Batch) -> None:
            _make_room(batch, account.name)
            batch.put(KEY, _hashed(token), {"name": account.name}, owner=account.name)

        await self._registry.change(work)
        return token

    async def rotate_key(self, account: Account) -> tuple[str, int]:
        """A new API key, and until when the others still work (AC2)."""
        token = _new_token()
        until = self._now() + GRACE

        def work(batch: Batch) -> None:
            for entry in batch.find(KEY, owner=account.name):
                ends = min(until, entry.expires or until)
                batch.put(KEY, entry.key, entry.value, owner=entry.owner, expires=ends)
            _make_room(batch, account.name)
            batch.put(KEY, _hashed(token), {"name": account.name}, owner=account.name)

        await self._registry.change(work)
        return token, until

    async def revoke_keys(self, account: Account) -> None:
        """No API key of this account works any more (AC2)."""
        await self._registry.change(lambda batch: _forget(batch, account.name))

    async def change(self, account: Account) -> None:
        """From now on the account is this."""
        await self._registry.put(ACCOUNT, account.name, _value(account), owner=account.name)

    async def close(self, account: Account) -> None:
        """The account is gone with its API keys; its name is held (AC5)."""

        def work(batch: Batch) -> None:
            _forget(batch, account.name)
            batch.delete(ACCOUNT, account.name)
            held = {"public_key": account.public_key}
            batch.put(HELD, account.name, held, expires=batch.now + HOLD_FOR)

        await self._registry.change(work)
        self._seen.pop(account.name, None)


def _value(account: Account) -> Value:
    return {**asdict(account), "scope": list(account.scope)}


def _make_room(batch: Batch, name: str) -> None:
    """Of too many keys those go that end first, then the oldest."""
    found = batch.find(KEY, owner=name)
    keys = sorted(found, key=lambda entry: (entry.expires is None, entry.expires or entry.at))
    for entry in keys[: -MAX_KEYS + 1]:
        batch.delete(KEY, entry.key)


def _forget(batch: Batch, name: str) -> None:
    for entry in batch.find(KEY, owner=name):
        batch.delete(KEY, entry.key)


def _new_token() -> str:
    return PREFIX + secrets.token_hex(32)


def _hashed(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()
