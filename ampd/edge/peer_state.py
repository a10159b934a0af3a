"""What is known of the nodes that this one has sessions with, in memory only.

Not here: where a node might be (core/whereabouts.py), what to do about it (peer_tcp.py).
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import trio

from ampd.crypto.keys import SigningKey
from ampd.edge.peer_connection import Offer, PeerConnection
from ampd.edge.peer_sockets import Endpoint, endpoint_text
from ampd.model.errors import Unavailable
from ampd.protocol.session import ENVELOPE_BYTES


@dataclass(frozen=True, slots=True)
class LocalNode:
    """What this node says of itself. `listen` is HOST:PORT, or "" to be called by nobody."""

    key: SigningKey
    domain: str
    epoch: bytes
    listen: str
    envelope_bytes: int = ENVELOPE_BYTES


@dataclass(frozen=True, slots=True)
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
        self.waiting: deque[Offer] = deque()
        self.connection: PeerConnection | None = None
        self.called_by_us = False  # the current session
        self.calling = False
        self.kept = False  # a task of _keep is at work
        self.proved = False
        self.domain = ""
        self.endpoint = ""
        self.last_error = ""
        self.last_seen: int | None = None
        self.next_try: int | None = None
        self.failures = 0
        self.called_at = 0.0
        self.sighted: tuple[float, list[Endpoint]] = (0.0, [])
        self.changed = trio.Event()

    def wake(self) -> None:
        self.changed.set()
        self.changed = trio.Event()

    def give_up_waiting(self, why: str) -> None:
        while self.waiting:
            self.waiting.popleft().settle(Unavailable(why))

    def state(self, now: int, endpoints: Sequence[Endpoint], found_by: str) -> PeerState:
        """For people, at the time `now`."""
        connection = self.connection
        state = "connecting" if self.calling else "away"
        endpoint, rtt, seen = self.endpoint, None, self.last_seen
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
            found_by=found_by,
            state=state,
            rtt_ms=rtt,
            last_error="" if connection is not None else self.last_error,
            last_seen=seen,
            next_try=None if connection is not None else self.next_try,
        )
