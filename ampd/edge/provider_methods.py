"""The methods of the local socket about accounts at foreign AMP providers (amp/external.py)."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol

from ampd.core.agents import Agent
from ampd.edge.documents import Document, time_text
from ampd.edge.params import Params
from ampd.model.errors import Unavailable


class Account(Protocol):
    """An agent's account at a provider."""

    @property
    def agent(self) -> str: ...
    @property
    def provider(self) -> str: ...
    @property
    def address(self) -> str: ...
    @property
    def tenant(self) -> str: ...
    @property
    def url(self) -> str: ...
    @property
    def at(self) -> int: ...


class AccountState(Protocol):
    """How it is doing; times in milliseconds since 1970."""

    fetched: int
    looked_at: int
    last_error: str


class Providers(Protocol):
    """What is asked of amp/external.py, which cannot be imported here: it builds on methods.py."""

    async def register(
        self, agent: Agent, url: str, tenant: str, *, name: str, user_key: str, invite: str
    ) -> Account:
        """Make an account, or renew its key. Raises Refused or Unavailable."""
        ...

    def accounts(self) -> Sequence[Account]:
        """All of this node."""
        ...

    def state(self, account: Any) -> AccountState:
        """Of one of them."""
        ...

    async def remove(self, agent: Agent, provider: str) -> Account:
        """Use an account no more. Raises Invalid if there is none."""
        ...


class ProviderMethods:
    """`provider.*`: no document has an API key in it."""

    def __init__(self, providers: Providers | None, agent: Callable[[Any], Agent]) -> None:
        """`agent` says as whom a caller acts."""
        self._given = providers
        self._agent = agent
        self.table: dict[str, Callable[[Any, Params], Awaitable[Document]]] = {
            "provider.register": self._register,
            "provider.list": self._list,
            "provider.remove": self._remove,
        }

    @property
    def _providers(self) -> Providers:
        if self._given is None:
            raise Unavailable("this daemon keeps no accounts at foreign providers")
        return self._given

    async def _register(self, caller: Any, params: Params) -> Document:
        agent = self._agent(caller)
        url, tenant = params.required("url"), params.text("tenant")
        name, invite = params.text("name"), params.text("invite")
        user_key = params.text("user_key")
        params.done()
        account = await self._providers.register(
            agent, url, tenant, name=name, user_key=user_key, invite=invite
        )
        return self._document(account)

    async def _list(self, _caller: Any, params: Params) -> Document:
        params.done()
        return {"providers": [self._document(each) for each in self._providers.accounts()]}

    async def _remove(self, caller: Any, params: Params) -> Document:
        agent, provider = self._agent(caller), params.required("provider")
        params.done()
        return self._document(await self._providers.remove(agent, provider))

    def _document(self, account: Account) -> Document:
        state = self._providers.state(account)
        return {
            "agent": account.agent,
            "provider": account.provider,
            "address": account.address,
            "tenant": account.tenant,
            "url": account.url,
            "registered_at": time_text(account.at),
            "fetched": state.fetched,
            "looked_at": time_text(state.looked_at),
            "last_error": state.last_error or None,
        }
