"""What is done without being asked, and must not end for good: it fails, waits, and begins again.

  LA1  One mistake of ours, or a full disk, ends neither the daemon nor any other part of it.

Not here: what a part does when it begins again; each starts from what is on disk.
"""

import logging
from collections.abc import Awaitable, Callable
from typing import Final

import trio

from ampd.edge.bugs import contained
from ampd.model.errors import AmpdError

PAUSE: Final = 30.0  # seconds until a part that failed (a full disk) goes on

log = logging.getLogger("ampd.lasting")


async def lasting(name: str, run: Callable[[], Awaitable[None]]) -> None:
    """Run a part until cancelled (LA1)."""
    while True:
        try:
            with contained(name):
                await _warned(name, run)
        except AmpdError as exc:  # a bug; contained has logged it
            log.warning("a part of the gateway waits", extra={"part": name, "why": str(exc)})
        await trio.sleep(PAUSE)


async def _warned(name: str, run: Callable[[], Awaitable[None]]) -> None:
    """Until the part fails by what may happen: a full disk, an agent that is gone."""
    try:
        await run()
    except* AmpdError as group:
        for exc in group.exceptions:
            log.warning("a part of the gateway waits", extra={"part": name, "why": str(exc)})
