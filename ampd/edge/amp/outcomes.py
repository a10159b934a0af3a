"""What became of a message right after it was sent: what the route's answer says of it.

OC1  "delivered" is said only of what a WebSocket or a webhook of the recipient took, another host
     answered for, or an agent without an account has in its mailbox on this node; all else is
     "queued": it lies on disk and waits to be fetched.
OC2  Nobody waits longer than WAIT: what comes later is told by receipts (receipts.py).
"""

from collections import OrderedDict
from typing import Final

import trio

from ampd.model.values import value

WAIT: Final = 5.0  # seconds: AMP's clients give up after 15
_REMEMBERED: Final = 4096  # takes that came before somebody asked; each is about 200 bytes

Key = tuple[bytes, bytes]  # of the recipient, of the message


@value
class Outcome:
    """`status` "delivered" or "queued", `method` as AMP section 05 has it, `at` in milliseconds."""

    status: str
    method: str
    at: int
    remote_host: str = ""


class Outcomes:
    """Who took what a moment ago, and who waits to hear of it."""

    def __init__(self) -> None:
        self._known: OrderedDict[Key, Outcome] = OrderedDict()
        self._waiting: dict[Key, trio.Event] = {}

    def settle(self, recipient: bytes, message: bytes, outcome: Outcome) -> None:
        """A way out took the message, or gave it up for now."""
        key = recipient, message
        self._known[key] = outcome
        if len(self._known) > _REMEMBERED:
            self._known.popitem(last=False)
        if key in self._waiting:
            self._waiting.pop(key).set()

    async def of(self, recipient: bytes, message: bytes) -> Outcome | None:
        """What became of it, or None if nothing did within WAIT (OC2)."""
        key = recipient, message
        if key not in self._known:
            with trio.move_on_after(WAIT):
                await self._waiting.setdefault(key, trio.Event()).wait()
            self._waiting.pop(key, None)
        return self._known.get(key)
