"""Letters under way to one place, in the order of the queue, as many as a session has room for.

  W1  Those that wait are offered in their order, at most AT_ONCE and BYTES_AT_ONCE at a time; one
      that is larger by itself goes alone.
  W2  Once one of them has to be offered again, no more are offered in this round; those that were
      are waited for, and the queue as it is then is where the next round begins.
  W3  Once a recipient's mailbox is full, no more are offered for it in this round, and the others
      go on.

Not here: which letters wait, what their answers mean, and when the next round is (transfer.py,
handover.py).
"""

import logging
from collections.abc import Awaitable, Callable, Collection
from typing import Final

import trio

from ampd.core.letters import Attempts, Waiting
from ampd.model.errors import AmpdError, StorageError

AT_ONCE: Final = 256  # letters: as many words as a session has open (protocol/session.py, S4)
BYTES_AT_ONCE: Final = 4 << 20  # of sealed letters: the same, and what it holds in memory

log = logging.getLogger("ampd.offering")


class Flow:
    """One round.

    `waiting` answers the first AT_ONCE letters that wait, in their order and without those for the
    keys it is given; it may raise StorageError.
    """

    def __init__(
        self, tried: Attempts, waiting: Callable[[Collection[bytes]], list[Waiting]]
    ) -> None:
        self.halted = False  # no more are offered (W2)
        self.later = False  # some have to be offered again, and not at once
        self._tried = tried
        self._waiting = waiting
        self._under_way: dict[int, int] = {}  # bytes, by item
        self._full: set[bytes] = set()  # recipients' keys (W3)
        self._changed = trio.Event()  # there may be more to offer

    def wait(self, why: AmpdError) -> None:
        """One could not be taken, or written down."""
        if isinstance(why, StorageError):
            log.warning("a letter cannot be carried now", extra={"why": str(why)})
        self._tried.last_error = str(why)
        self.halted = self.later = True

    def is_full(self, key: bytes, why: AmpdError) -> None:
        """This recipient's mailbox is (W3)."""
        self._tried.last_error = str(why)
        self._full.add(key)
        self.later = True

    def look(self) -> None:
        """Look at the queue, if there is room for more."""
        if self.halted or len(self._under_way) <= AT_ONCE // 2:  # many ends share one look
            self._changed.set()

    async def run(self, offer: Callable[[Waiting], Awaitable[None]]) -> bool:
        """Offer until none is left or one has to be offered again; whether there were any.

        `offer` returns once a letter is answered and that is written down, and says by `wait` or
        `is_full` if it was not taken. Of the first in the queue those go out that are not under
        way yet: what is older can only have come since, by another card, and passes nobody.
        """
        offered = False
        async with trio.open_nursery() as nursery:
            while not self.halted:
                self._changed = trio.Event()
                fresh = self._fresh()
                if not fresh and (self.halted or not self._under_way):
                    break
                for item in fresh:
                    offered = True
                    self._under_way[item.item] = item.size
                    nursery.start_soon(self._offer, item, offer)
                    # Trio runs what became ready together in any order: one round each keeps W1.
                    await trio.lowlevel.checkpoint()
                    if self.halted:
                        break  # what comes behind it must not come before it
                await self._changed.wait()
        return offered or self.later

    def _fresh(self) -> list[Waiting]:
        """What goes out next (W1)."""
        try:
            items = self._waiting(self._full)
        except StorageError as exc:
            self.wait(exc)
            return []
        count, size = len(self._under_way), sum(self._under_way.values())
        fresh: list[Waiting] = []
        for item in items:
            if item.item in self._under_way:
                continue
            count, size = count + 1, size + item.size
            if count > AT_ONCE or (count > 1 and size > BYTES_AT_ONCE):
                break
            fresh.append(item)
        return fresh

    async def _offer(self, item: Waiting, offer: Callable[[Waiting], Awaitable[None]]) -> None:
        try:
            if not self.halted and item.key not in self._full:  # else one before it failed since
                await offer(item)
        finally:
            del self._under_way[item.item]
            self.look()
