"""Follows how the mail of the agents here fares, for whoever wants to be told: webhooks and dead
letters.

  OC1  Every recipient of every message is told of once as delivered and once as failed, also after
       a restart: what was told, the cursor and what the listeners keep are one change on disk.
  OC2  What happened before this was first started is not told.
  OC3  What nobody wants to be told of is not written down either: a send costs no second sync.

Kinds in the registry: "amtp.outcome.cursor" by agent, "amtp.outcome.told" by agent, message,
recipient and outcome.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final

import trio

from ampd.core.agents import Agent
from ampd.core.tracking import DeliveryState
from ampd.edge.gateway_values import Shared
from ampd.model.errors import StorageError, Unavailable
from ampd.model.message import id_text
from ampd.model.values import value
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
_GATHER: Final = 0.1  # seconds
_PAUSE: Final = 30.0  # seconds until a disk that failed is asked again


@value
class Outcome:
    """One recipient's copy has arrived, or never will."""

    message_id: str
    event: str  # delivered or failed
    state: DeliveryState


_State = tuple[str, str, list[DeliveryState]]
Listener = Callable[[Batch, Agent, Outcome], None]
Wanted = Callable[[Agent, str], bool]  # an event
Told = Callable[[], None]


class Outcomes:
    """Follows every agent of the node."""

    def __init__(
        self, shared: Shared, listeners: Sequence[Listener], wanted: Wanted, told: Told
    ) -> None:
        """Each listener writes what it keeps into the batch; `told` is called when that is kept.

        `wanted` says whether any listener would keep anything of an event (OC3).
        """
        self._shared = shared
        self._rooms = shared.rooms
        self._registry = shared.registry
        self._listeners = listeners
        self._wanted = wanted
        self._told = told
        self._cursors: dict[bytes, _Cursor] = {}  # where we are; on disk it may lie behind

    async def run(self) -> None:
        """Until cancelled."""
        followed: dict[bytes, trio.CancelScope] = {}
        is_new = False  # whoever is here before the first look
        async with trio.open_nursery() as nursery:
            while True:
                changed = self._rooms.store.changed("agents")
                keys = self._keys()
                for key in followed.keys() - keys:
                    followed.pop(key).cancel()
                for key in keys - followed.keys():
                    followed[key] = trio.CancelScope()
                    nursery.start_soon(self._follow, key, followed[key], is_new)
                is_new = True
                await changed.wait()

    def _keys(self) -> set[bytes]:
        """Of all agents. Their record wakes us before their room knows them: so from the store."""
        rows = self._rooms.store.view.execute("SELECT key FROM agents WHERE removed=0")
        return {row[0] for row in rows}

    async def _follow(self, key: bytes, scope: trio.CancelScope, is_new: bool) -> None:  # noqa: FBT001
        with scope:
            await self._follow_on(key, is_new=is_new)

    async def _follow_on(self, key: bytes, *, is_new: bool) -> None:
        try:
            while True:
                changed = self._rooms.store.changed(("sent", key))
                try:
                    agent = self._rooms.agents.of_key(key)
                    went_on = agent is not None and await self._look(agent, is_new=is_new)
                except (StorageError, Unavailable):
                    await trio.sleep(_PAUSE)
                    continue
                if not went_on:
                    await changed.wait()
                    await trio.sleep(_GATHER)  # several sends are looked at together
        finally:
            with trio.CancelScope(shield=True):
                await self._write_down(key)

    async def _write_down(self, key: bytes) -> None:
        """Keep where we are, so that the next start has less to look at."""
        agent, cursor = self._rooms.agents.of_key(key), self._cursors.pop(key, None)
        if agent is not None and cursor is not None:
            with suppress(StorageError):
                await self._registry.change(lambda batch: _keep(batch, agent, cursor))

    async def _look(self, agent: Agent, *, is_new: bool) -> bool:
        """Tell of what changed since the cursor; whether anything did."""
        old = self._cursors.get(agent.key) or await self._start(agent, is_new=is_new)
        changed, moved = self._rooms.tracking.changed(agent, old.changed)
        if self._wanted(agent, "delivered"):
            sent, fresh = self._sent(agent, old.sent)  # what stays on this node arrives at once
        else:
            sent, fresh = self._last_sent(agent), []
        if (changed, sent) == (old.changed, old.sent):
            return False
        found = [
            Outcome(identifier, _EVENTS[state.status], state)
            for identifier, _, states in (*fresh, *moved)
            for state in states
            if state.status in _EVENTS
        ]
        cursor = self._cursors[agent.key] = _Cursor(changed, sent)
        if any(self._wanted(agent, each.event) for each in found):
            await self._registry.change(lambda batch: self._tell(batch, agent, cursor, found))
            self._told()
        return True

    async def _start(self, agent: Agent, *, is_new: bool) -> "_Cursor":
        """Where to begin (OC2)."""
        before = self._registry.get(_CURSOR, agent.key.hex())
        newest = self._rooms.tracking.cursor()
        if before is not None and before["changed"] <= newest:
            return _Cursor(before["changed"], before["sent"])
        found = _Cursor(0, 0) if is_new else _Cursor(newest, self._last_sent(agent))
        await self._registry.change(lambda batch: _keep(batch, agent, found))
        return found

    def _last_sent(self, agent: Agent) -> int:
        row = self._rooms.store.view.execute(
            "SELECT max(m.seq) FROM agents a JOIN messages m ON m.by=a.id WHERE a.key=?",
            (agent.key,),
        ).fetchone()
        return int(row[0] or 0)

    def _sent(self, agent: Agent, after: int) -> tuple[int, list[_State]]:
        """The states of what an agent sent after a cursor, and the new cursor."""
        rows = self._rooms.store.view.execute(
            "SELECT m.seq, m.id FROM agents a JOIN messages m ON m.by=a.id"
            " WHERE a.key=? AND m.seq>? ORDER BY m.seq LIMIT 100",
            (agent.key, after),
        ).fetchall()
        states = [self._rooms.tracking.deliveries(agent, id_text(row["id"])) for row in rows]
        return (rows[-1]["seq"] if rows else after), states

    def _tell(
        self, batch: Batch, agent: Agent, cursor: "_Cursor", found: list[Outcome]
    ) -> None:  # fmt: skip
        """OC1."""
        for each in found:
            key = f"{agent.key.hex()}/{each.message_id}/{each.state.address}/{each.event}"
            until = batch.now + _TOLD_FOR
            if not self._wanted(agent, each.event):
                continue
            if batch.add(_TOLD, key, {}, owner=agent.name, expires=until):
                for listener in self._listeners:
                    listener(batch, agent, each)
        _keep(batch, agent, cursor)


@value
class _Cursor:
    changed: int  # of statuses (tracking.py)
    sent: int  # the number of a message in the journal


def _keep(batch: Batch, agent: Agent, cursor: _Cursor) -> None:
    value = {"changed": cursor.changed, "sent": cursor.sent}
    batch.put(_CURSOR, agent.key.hex(), value, owner=agent.name)
