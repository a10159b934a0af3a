"""What the recipients' nodes answered, written down: many receipts in one work.

  Z1  `settle` returns once the receipt is on disk and its letter has left the outbox.
  Z2  What is answered while a write is under way shares the next one, in the order of the outbox.
  Z3  A letter whose end cannot be written keeps no other from its own.

Not here: whether a receipt is believed (transfer.py, D6), what it says of a message (receipts.py).
"""

from dataclasses import dataclass, field

import trio

from ampd.core.agents import Agents
from ampd.core.letters import Waiting
from ampd.core.receipts import note_believed
from ampd.model.errors import AmpdError, StorageError
from ampd.model.message import Receipt
from ampd.model.values import value
from ampd.storage.records import Dropped
from ampd.storage.store import Store, Transaction


@value
class Settled:
    """A letter that was taken, and what its recipient signed; None for a letter with a receipt."""

    item: Waiting
    receipt: Receipt | None = None
    signed: bytes = b""


@dataclass(slots=True)
class _Batch:
    """Those that share a write."""

    members: list[Settled] = field(default_factory=list)
    done: trio.Event = field(default_factory=trio.Event)
    errors: dict[int, AmpdError] = field(default_factory=dict)  # by item
    failed: StorageError | None = None


class Settling:
    """Writes down how letters ended well."""

    def __init__(self, store: Store, agents: Agents) -> None:
        self._store = store
        self._agents = agents
        self._turn = trio.Lock()
        self._next = _Batch()

    async def settle(self, one: Settled) -> None:
        """Z1. Raises StorageError if it could not be written."""
        batch = self._next
        batch.members.append(one)
        if len(batch.members) == 1:
            await self._write(batch)
        else:
            await batch.done.wait()
        if failed := batch.failed or batch.errors.get(one.item.item):
            raise failed

    async def _write(self, batch: _Batch) -> None:
        """Write the batch when the one before it is written; its first member does it for all."""
        batch.failed = StorageError("it was not written: the daemon is stopping")
        try:
            async with self._turn:
                self._next = _Batch()
                batch.members.sort(key=lambda one: one.item.item)
                await self._store.write(lambda tx: self._work(tx, batch), urgent=True)
            batch.failed = None
        except StorageError as exc:
            batch.failed = exc
        finally:
            if self._next is batch:
                self._next = _Batch()
            batch.done.set()

    def _work(self, tx: Transaction, batch: _Batch) -> None:
        batch.errors.clear()
        for one in batch.members:
            try:
                self._end(tx, one)
            except AmpdError as exc:  # a damaged record is that letter's alone (Z3)
                batch.errors[one.item.item] = exc

    def _end(self, tx: Transaction, one: Settled) -> None:
        item = one.item
        if one.receipt is not None and note_believed(
            tx, self._agents, item.by, item.key, one.receipt, one.signed, "direct"
        ):
            return  # the index took the letter out of the outbox with it
        row = tx.db.execute("SELECT 1 FROM outbox WHERE item=?", (item.item,)).fetchone()
        if row is not None:
            tx.append(Dropped(item.item, tx.now))
