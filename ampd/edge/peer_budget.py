"""How many sessions peers may have, and how much memory they may make us hold with them.

  M1  All sessions together hold at most MAX_HELD: words that are not complete, not answered or not
      yet read by the peer. Beyond that, the largest session of the address that holds the most
      ends; whoever sends from many sessions is no better off.
  M2  An address has at most `each` sessions that it opened, nodes that are known only because
      they called have at most `strangers`, and there are `sessions` in all.

An address of IPv6 is a /64. Not here: handshakes (peer_sockets.py, HalfOpen).
"""

from collections import Counter
from typing import Final, Protocol

from ampd.model.values import value

MAX_HELD: Final = 64 << 20  # bytes; 16 full windows, and 1/16 of the smallest board with 1 GiB


@value
class Limits:
    """How many sessions there may be (M2). A relay serves strangers: it sets more."""

    sessions: int = 1024  # idle ones cost 50 KiB each; a LAN of agents has dozens
    strangers: int = 256
    each: int = 32


class Holder(Protocol):
    """A session, as the budget sees it."""

    source: str  # the address at the other end

    def end(self, why: str) -> None:
        """Cut the session now."""
        ...


class Budget:
    """Counts what the sessions of this node hold, and how many there are."""

    def __init__(self, limits: Limits | None = None, max_held: int = MAX_HELD) -> None:
        self.limits = limits or Limits()
        self.held = 0
        self.sessions = 0
        self._max_held = max_held
        self._holders: dict[Holder, int] = {}
        self._called_from: Counter[str] = Counter()
        self._strangers = 0

    def refuses(self, source: str, *, stranger: bool) -> str:
        """Why no session may be opened from `source` now; "" if it may (M2)."""
        limits = self.limits
        if self.sessions >= limits.sessions:
            return f"there are {limits.sessions} sessions"
        if self._called_from[source] >= limits.each:
            return f"there are {limits.each} sessions from this address"
        if stranger and self._strangers >= limits.strangers:
            return f"there are {limits.strangers} sessions with nodes that nobody knows"
        return ""

    def open(self, source: str, *, stranger: bool) -> None:
        """A session begins; `source` is "" for one that we opened."""
        self.sessions += 1
        self._strangers += stranger
        if source:
            self._called_from[source] += 1

    def close(self, source: str, *, stranger: bool) -> None:
        """It has ended."""
        self.sessions -= 1
        self._strangers -= stranger
        if source:
            self._called_from[source] -= 1
            self._called_from += Counter()  # drop what is nought

    def hold(self, holder: Holder, size: int) -> None:
        """`holder` holds `size` bytes now (M1)."""
        self.held += size - self._holders.pop(holder, 0)
        if size:
            self._holders[holder] = size
        while self.held > self._max_held:
            largest = self._largest()
            self.held -= self._holders.pop(largest)
            largest.end("all sessions together hold too much, and this one the most")

    def _largest(self) -> Holder:
        by_source: Counter[str] = Counter()
        for holder, size in self._holders.items():
            by_source[holder.source] += size
        ((source, _),) = by_source.most_common(1)
        return max((h for h in self._holders if h.source == source), key=self._holders.__getitem__)
