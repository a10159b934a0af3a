"""How often agents, hosts and providers may ask (AMP sections 06, 07 and 08).

  R1  Each limit counts for each agent, host or provider alone, and for a minute; "hourly" for an
      hour. A setting of 0 lifts it.
  R2  Who asks too often gets RateLimited with X-RateLimit-Limit, -Remaining, -Reset and
      Retry-After; who does not gets the first three with its answer.
  R3  Several limits that hold for one request are asked together, and count only if all allow it.

Time is monotonic and memory bounded (counting.py). A restart forgets the counts.
"""

import math
from collections.abc import Callable, Mapping
from typing import Final

from ampd.edge.amp.abuse import Abuse
from ampd.edge.amp.counting import Counting
from ampd.model.errors import Refused

# What the specification names: requests of an agent a minute (08), messages (07), providers (06).
DEFAULTS: Final[Mapping[str, int]] = {
    "route": 60,
    "pending": 30,
    "register": 10,
    "api": 100,
    "hourly": 500,  # messages an agent sends in an hour
    "received": 120,  # messages that come for an agent
    "federation": 100,  # messages of one provider
    "federation_recipient": 20,  # messages of all providers for one agent
    "federation_total": 1000,
}
_SLOWER: Final = 4  # abuse.py, X3


class RateLimited(Refused):
    """Asked too often; `headers` say when to ask again."""

    code = "rate_limited"

    def __init__(self, message: str, headers: Mapping[str, str]) -> None:
        super().__init__(message)
        self.headers = headers


class Limits:
    """The limits of one node."""

    def __init__(
        self,
        settings: Mapping[str, int],
        abuse: Abuse,
        now: Callable[[], int],
        clock: Callable[[], float],
    ) -> None:
        """`now` is the wall clock in milliseconds, for headers; `clock` is monotonic, seconds."""
        self._limits = {**DEFAULTS, **settings}
        self._abuse = abuse
        self._now = now
        self._counts = {
            kind: Counting(3600.0 if kind == "hourly" else 60.0, clock) for kind in self._limits
        }

    def take(self, kind: str, who: str) -> dict[str, str]:
        """Count one request; the headers of its answer (R2). Raises RateLimited."""
        return self.take_all(((kind, who),))

    def take_all(self, wanted: tuple[tuple[str, str], ...]) -> dict[str, str]:
        """The same under several limits (R3); the headers are those of the first that holds."""
        headers: list[dict[str, str]] = []
        for kind, who in wanted:
            limit = self.of(kind, who)
            if limit and self._counts[kind].window(who).count >= limit:
                self._abuse.note("rate", who)
                raise self._refused(kind, who, limit)
        for kind, who in wanted:
            if limit := self.of(kind, who):
                used = self._counts[kind].count(who)
                headers.append(self._headers(kind, who, limit, limit - used))
        return headers[0] if headers else {}

    def of(self, kind: str, who: str) -> int:
        """How often `who` may; 0 is without limit (R1)."""
        limit = self._limits[kind]
        return max(1, limit // _SLOWER) if limit and self._abuse.slowed(who) else limit

    def _left(self, kind: str, who: str) -> int:
        counting = self._counts[kind]
        return max(1, math.ceil(counting.left(counting.window(who))))

    def _headers(self, kind: str, who: str, limit: int, remaining: int) -> dict[str, str]:
        return {
            "X-RateLimit-Limit": str(limit),
            "X-RateLimit-Remaining": str(max(0, remaining)),
            "X-RateLimit-Reset": str(self._now() // 1000 + self._left(kind, who)),
        }

    def _refused(self, kind: str, who: str, limit: int) -> RateLimited:
        wait = self._left(kind, who)
        headers = {**self._headers(kind, who, limit, 0), "Retry-After": str(wait)}
        span = "hour" if kind == "hourly" else "minute"
        return RateLimited(
            f"{who} has reached its limit of {limit} each {span} ({kind}): try again in {wait} s",
            headers,
        )
