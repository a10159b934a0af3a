"""What is known of the nodes that this one has sessions with, in memory only.

Not here: where a node might be (core/whereabouts.py), what to do about it (peer_tcp.py).
"""

from collections.abc import Collection
from dataclasses import field
from typing import Final

import trio

from ampd.core.whereabouts import Whereabouts
from ampd.crypto.keys import SigningKey
from ampd.edge.peer_budget import Limits
from ampd.edge.peer_connection import PeerConnection
from ampd.edge.peer_offers import Offers
from ampd.edge.peer_sockets import Endpoint, endpoint_text
from ampd.model.values import value
from ampd.protocol.session import ENVELOPE_BYTES

MAX_INBOUND: Final = 256  # nodes that are remembered only because they called us


@value
class LocalNode:
    """What this node says of itself. `listen` is HOST:PORT, or "" to be called by nobody."""

    key: SigningKey
    domain: str
    epoch: bytes
    listen: str
    envelope_bytes: int = ENVELOPE_BYTES
    limits: Limits = field(default_factory=Limits)


@value
class PeerState:
    """A line of the `peers` document. Times are milliseconds since 1970."""

    node: bytes
    domain: str
    endpoint: str
    found_by: str
    state: str  # connected, connecting or away
    rtt_ms: float | None
    last_error: str
    last_seen: int | None
    next_try: int | None


class Peer:
    """What is known of one node."""

    def __init__(self, node: bytes) -> None:
        self.node = node
        self.offers = Offers()
        self.connection: PeerConnection | None = None
        self.session = 0  # a number for each that was current
        self.called_by_us = False  # the current session
        self.calling = False
        self.kept = False  # a task of _keep is at work
        self.greeting = 0  # sessions that are about to begin
        self.proved = False
        self.domain = ""
        self.endpoint: Endpoint | None = None  # where we called it, or could
        self.shown_at = ""  # the same for people, or where it called from
        self.last_error = ""
        self.last_seen: int | None = None
        self.next_try: int | None = None
        self.failures = 0
        self.called_at = 0.0
        self.sighted: tuple[float, list[Endpoint]] = (0.0, [])
        self.changed = trio.Event()

    def is_there(self, domains: Collection[str]) -> bool:
        """Whether there is a session with it, and it says that it is of one of these domains."""
        return self.connection is not None and ("" in domains or self.domain.lower() in domains)

    def wake(self) -> None:
        self.changed.set()
        self.changed = trio.Event()

    def state(self, now: int, whereabouts: Whereabouts) -> PeerState:
        """For people, at the time `now`."""
        endpoints = whereabouts.endpoints(self.node)
        connection = self.connection
        state = "connecting" if self.calling else "away"
        endpoint, rtt, seen = self.shown_at, None, self.last_seen
        if connection is not None:
            state = "connected"
            rtt = None if connection.rtt is None else round(connection.rtt * 1000, 2)
            seen = now - round((trio.current_time() - connection.heard_at) * 1000)
        elif endpoints:
            endpoint = endpoint_text(endpoints[0])
        return PeerState(
            node=self.node,
            domain=self.domain,
            endpoint=endpoint,
            found_by=whereabouts.found_by(self.node) or "inbound",
            state=state,
            rtt_ms=rtt,
            last_error="" if connection is not None else self.last_error,
            last_seen=seen,
            next_try=None if connection is not None else self.next_try,
        )


class Callers:
    """Where nodes called from: places to call them, for the MAX_INBOUND that called last."""

    def __init__(self, whereabouts: Whereabouts) -> None:
        self._whereabouts = whereabouts
        self._nodes: dict[bytes, None] = {}  # in the order of the last call

    def note(self, node: bytes, endpoint: Endpoint) -> None:
        """`node` called, and says that it listens at `endpoint`."""
        self._nodes.pop(node, None)
        self._nodes[node] = None
        if len(self._nodes) > MAX_INBOUND:
            oldest = next(iter(self._nodes))
            del self._nodes[oldest]
            self._whereabouts.lost(oldest, "inbound")
        self._whereabouts.sighted(node, [endpoint], "inbound")
