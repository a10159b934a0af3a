"""Where nodes might be: sightings of mDNS, settings and sessions, in memory only.

A sighting is a hint and never an identity: whoever is dialled must prove the node's key.

  H1  At most MAX_SIGHTED nodes are kept that only mDNS knows, and MAX_RELAYS that only a card or a
      setting names as a relay; the one seen longest ago goes first, and is sighted again by whoever
      still needs it.
  H2  A node keeps at most MAX_ENDPOINTS endpoints, the newest first; static ones stay.
  H3  Every change makes a new `generation` and wakes all who wait in `changed`.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

import trio

Endpoint = tuple[str, int]

MAX_SIGHTED: Final = 512  # a LAN of a /23; announcements are unauthenticated
MAX_RELAYS: Final = 64  # each is called until it answers, and any stranger's card may name 16
MAX_ENDPOINTS: Final = 8


@dataclass(slots=True)
class _Place:
    endpoints: dict[Endpoint, str] = field(default_factory=dict)  # endpoint -> found_by
    seen_at: float = 0.0


class Whereabouts:
    """Node key -> endpoints, and how each was found: "static", "relay", "mdns" or "inbound"."""

    def __init__(self) -> None:
        self._places: dict[bytes, _Place] = {}
        self._changed = trio.Event()
        self.generation = 0

    def sighted(self, node: bytes, endpoints: Iterable[Endpoint], found_by: str) -> None:
        """`node` may be at `endpoints`; replaces what `found_by` said of it before (H1-H3)."""
        place = self._places.setdefault(node, _Place())
        kept = {point: by for point, by in place.endpoints.items() if by != found_by}
        fresh = dict.fromkeys(list(endpoints)[:MAX_ENDPOINTS], found_by)
        static = {point: by for point, by in kept.items() if by == "static"}
        merged = {**fresh, **kept, **static}
        limited = dict(list(merged.items())[:MAX_ENDPOINTS])
        place.endpoints = {**limited, **static}
        place.seen_at = trio.current_time()
        self._forget_the_oldest("mdns", MAX_SIGHTED)
        self._forget_the_oldest("relay", MAX_RELAYS)
        self._wake()

    def lost(self, node: bytes, found_by: str) -> None:
        """What `found_by` said of `node` no longer holds."""
        place = self._places.get(node)
        if place is None:
            return
        place.endpoints = {p: by for p, by in place.endpoints.items() if by != found_by}
        if not place.endpoints:
            del self._places[node]
        self._wake()

    def endpoints(self, node: bytes) -> list[Endpoint]:
        """Where `node` might be, the best guess first."""
        place = self._places.get(node)
        return list(place.endpoints) if place else []

    def found_by(self, node: bytes) -> str:
        """How `node` was found: the first of static, relay, mdns, inbound; "" if it was not."""
        place = self._places.get(node)
        ways = set(place.endpoints.values()) if place else set()
        return next((way for way in ("static", "relay", "mdns", "inbound") if way in ways), "")

    def seen_at(self, node: bytes) -> float:
        """When `node` was sighted last, by trio's clock; 0 if it was not."""
        place = self._places.get(node)
        return place.seen_at if place else 0.0

    def nodes(self) -> list[bytes]:
        """All nodes that something is known of."""
        return list(self._places)

    def wake(self) -> None:
        """Something else changed (a network, a clock): whoever waits should look again."""
        self._wake()

    async def changed(self, since: int) -> int:
        """Wait until `generation` is not `since`; return it."""
        while self.generation == since:
            await self._changed.wait()
        return self.generation

    def _wake(self) -> None:
        self.generation += 1
        self._changed.set()
        self._changed = trio.Event()

    def _forget_the_oldest(self, found_by: str, most: int) -> None:
        known = [n for n, p in self._places.items() if set(p.endpoints.values()) <= {found_by}]
        if len(known) > most:
            del self._places[min(known, key=lambda node: self._places[node].seen_at)]
