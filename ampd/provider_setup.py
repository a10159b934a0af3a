"""The accounts at foreign AMP providers, loaded when somebody has one.

  PS1  Nothing of AMP or HTTP is imported, and no file made, before the first account: a daemon
       without one starts as fast and takes as little memory as before.

Not here: what an account does (edge/amp/external.py).
"""

import random
from collections.abc import Sequence
from typing import TYPE_CHECKING

import trio

from ampd.clock import wall_clock
from ampd.config import Config
from ampd.core.agents import Agent, Agents
from ampd.core.foreign import Foreign
from ampd.core.lists import Lists
from ampd.core.ports import Parcel
from ampd.core.reading import Reading
from ampd.edge.bugs import contained
from ampd.edge.lasting import lasting
from ampd.edge.provider_methods import AccountState
from ampd.model.address import Address
from ampd.model.errors import Refused
from ampd.model.message import Delivery

if TYPE_CHECKING:
    from ampd.edge.amp.external import Providers
    from ampd.edge.amp.provider_words import Registration

COURIER_OF = ("provider",)  # the protocol's name in the contacts that it reaches


class LazyProviders:
    """Stands for edge.amp.external.Providers until it is needed."""

    def __init__(
        self, config: Config, agents: Agents, foreign: Foreign, lists: Lists, reading: Reading
    ) -> None:
        self._path = config.paths.data / "gateway.db"
        self._dns = config.gateway.dns
        self._rooms = (agents, foreign, lists, reading)
        self._made: Providers | None = None
        self._needed = trio.Event()

    def _load(self) -> "Providers":
        if self._made is None:
            from ampd.edge.amp.external import Providers

            chance = random.Random()  # noqa: S311 - the pauses between two looks
            self._made = Providers(*self._rooms, self._path, wall_clock, chance, dns=self._dns)
            self._needed.set()
        return self._made

    def _if_any(self) -> "Providers | None":
        """PS1."""
        return self._load() if self._made is not None or self._path.exists() else None

    async def run(self) -> None:
        """Until cancelled."""
        self._if_any()
        await self._needed.wait()
        made = self._load()
        try:
            await lasting("providers", made.run)
        finally:
            with trio.move_on_after(0.1, shield=True):
                await made.aclose()

    async def register(
        self, agent: Agent, url: str, tenant: str, *, name: str, user_key: str, invite: str
    ) -> "Registration":
        """See edge.amp.external."""
        given = {"name": name, "user_key": user_key, "invite": invite}
        return await self._load().register(agent, url, tenant, **given)

    async def remove(self, agent: Agent, provider: str) -> "Registration":
        """See edge.amp.external."""
        return await self._load().remove(agent, provider)

    def accounts(self) -> "Sequence[Registration]":
        """See edge.amp.external."""
        found = self._if_any()
        return found.accounts() if found else ()

    def state(self, account: "Registration") -> AccountState:
        """See edge.amp.external."""
        return self._load().state(account)

    async def find(self, address: Address) -> str:
        """See ports.Courier."""
        await trio.lowlevel.checkpoint()
        found = self._if_any()
        if found is None:
            return ""
        with contained("finding by a provider"):
            return await found.find(address)

    async def carry(self, protocol: str, parcel: Parcel) -> Delivery:
        """See ports.Courier."""
        found = self._if_any()
        if found is None:
            raise Refused(f"there is no account at the provider of {parcel.recipient} any more")
        with contained("carrying by a provider"):  # a bug is tried again later
            return await found.carry(protocol, parcel)
