"""Follows how the mail of the agents here fares, for whoever wants to be told: webhooks and dead
letters.

  OC1  Every recipient of every message is told of once as delivered and once as failed, also after
       a restart: what was told, the cursor and what the listeners keep are one change on disk.
  OC2  What happened before this was first started, or before an agent was first seen, is not told.

Kinds in the registry: "amtp.outcome.cursor" by agent, "amtp.outcome.told" by agent, message,
recipient and outcome.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import trio

from ampd.core.agents import Agent
from ampd.core.tracking import DeliveryState
from ampd.edge.gateway_values import Shared
from ampd.model.errors import StorageError, Unavailable
from ampd.storage.registry import Batch

_CURSOR: Final = "amtp.outcome.cursor"
_TOLD: Final = "amtp.outcome.told"
_TOLD_FOR: Final = 62 * 86_400_000  # ms: as long as mail waits, and a receipt after it
_EVENTS: Final = {
    "delivered": "delivered",
    "read": "delivered",
    "failed": "failed",
    "expired": "failed",
}
_PAUSE: Final = 30.0  # seconds until a disk that failed is asked again


@dataclass(frozen=True, slots=True)
class Outcome:
    """One recipient's copy has arrived, or never will."""

    message_id: str
    event: str  # delivered or failed
    state: DeliveryState


Listener = Callable[[Batch, Agent, Outcome], None]
Told = Callable[[], None]


class Outcomes:
    """Follows every agent of the node."""

    def __init__(self, shared: Shared, listeners: Sequence[Listener], told: Told) -> None:
        """Each listener writes what it keeps into the batch; `told` is called when that is kept."""
        self._shared = shared
        self._rooms = shared.rooms
        self._registry = shared.registry
        self._listeners = listeners
        self._told = told

    async def run(self) -> None:
        """Until cancelled."""
        followed: dict[bytes, trio.CancelScope] = {}
        async with trio.open_nursery() as nursery:
            while True:
                changed = self._rooms.store.changed("agents")
                agents = {agent.key: agent for agent in self._rooms.agents}
                for key in [key for key in followed if key not in agents]:
                    followed.pop(key).cancel()
                for key, agent in agents.items():
                    if key not in followed:
                        followed[key] = trio.CancelScope()
                        nursery.start_soon(self._follow, agent, followed[key])
                await changed.wait()

    async def _follow(self, agent: Agent, scope: trio.CancelScope) -> None:
        with scope:
            while True:
                changed = self._rooms.store.changed(("sent", agent.key))
                try:
                    went_on = await self._look(agent)
                except (StorageError, Unavailable):
                    await trio.sleep(_PAUSE)
                    continue
                if not went_on:
                    await changed.wait()

    async def _look(self, agent: Agent) -> bool:
        """Tell of what changed since the cursor; whether anything did."""
        saved = self._registry.get(_CURSOR, agent.key.hex())
        newest = self._rooms.tracking.cursor()
        if saved is None or saved["changed"] > newest:  # OC2; or the index was made anew
            await self._registry.put(
                _CURSOR, agent.key.hex(), {"changed": newest}, owner=agent.name
            )
            return False
        cursor, moved = self._rooms.tracking.changed(agent, saved["changed"])
        if cursor == saved["changed"]:
            return False
        found = [
            Outcome(identifier, _EVENTS[state.status], state)
            for identifier, _, states in moved
            for state in states
            if state.status in _EVENTS
        ]
        await self._registry.change(lambda batch: self._tell(batch, agent, cursor, found))
        self._told()
        return True

    def _tell(self, batch: Batch, agent: Agent, cursor: int, found: list[Outcome]) -> None:
        """OC1."""
        for each in found:
            key = f"{agent.key.hex()}/{each.message_id}/{each.state.address}/{each.event}"
            until = batch.now + _TOLD_FOR
            if batch.add(_TOLD, key, {}, owner=agent.name, expires=until):
                for listener in self._listeners:
                    listener(batch, agent, each)
        batch.put(_CURSOR, agent.key.hex(), {"changed": cursor}, owner=agent.name)
