"""Peer sessions over TCP: listens, calls every node that is known, keeps one session with each.

  P1  One session with a node is current. Of two that the same side dialled the newer one stays; of
      two that both sides dialled, the one that the smaller node key dialled. The other one retires:
      it answers what is open, and then what waits goes over the one that stays.
  P2  After a failed call the next one comes after 1 s and a random part of 1 s, doubling to 5 min
      ("full jitter"); a fresh sighting, wake() and a session that held start again at once.
  P4  `deliver` waits for a session that is being opened, and for no pause: then it is Unavailable.
  P5  What one peer does ends that session at most.
  P6  Whoever follows a node's whereabouts hears of each new session; `session_id` names it.
  P7  A sighting that no longer names where the session was called to, probes it.
  P8  When this node stops, it says Goodbye, and waits for GOODBYE_WITHIN at most.

Not here: what is said (protocol/session.py), the bytes (peer_connection.py), the order of what is
offered (peer_offers.py), how many and how much (peer_budget.py), calls and their pace, P3
(peer_calls.py), the sockets (peer_sockets.py), where nodes might be (core/whereabouts.py).
"""

import logging
import random
from collections.abc import Callable, Collection, Sequence
from contextlib import AsyncExitStack
from typing import Final

import trio

from ampd.core.ports import Door
from ampd.core.whereabouts import Whereabouts
from ampd.crypto.keys import random_bytes
from ampd.edge.peer_budget import Budget
from ampd.edge.peer_calls import Caller
from ampd.edge.peer_connection import LINK_BROKE, PeerConnection
from ampd.edge.peer_sockets import (
    HANDSHAKE_WITHIN,
    Endpoint,
    HalfOpen,
    endpoint_text,
    far_end,
    keep_alive,
    open_listeners,
    prove,
    source_of,
)
from ampd.edge.peer_state import Callers, LocalNode, Peer, PeerState
from ampd.edge.peer_words import collect_request, join_request
from ampd.model.errors import ProtocolError, Unavailable
from ampd.model.message import Delivery, Envelope
from ampd.protocol.events import Hello
from ampd.protocol.handshake import Handshake, WrongNode
from ampd.protocol.session import VERSION

FIRST_PAUSE: Final = 1.0  # seconds
LONGEST_PAUSE: Final = 300.0  # seconds; as wire.md for a LAN
HELD: Final = 10.0  # seconds; a session that ends sooner counts as a failed call
GOODBYE_WITHIN: Final = 0.5  # seconds; a daemon that stops has 2 in all

log = logging.getLogger("ampd.peer")


class PeerTcp:
    """The peer sessions of this node; a Carrier (core/ports.py)."""

    def __init__(
        self,
        me: LocalNode,
        whereabouts: Whereabouts,
        door: Door,
        now: Callable[[], int],
        rng: random.Random,
    ) -> None:
        self._me = me
        self._whereabouts = whereabouts
        self._door = door
        self._now = now
        self._rng = rng
        self._static = random_bytes(32)  # X25519, for as long as this process lives
        self._caller = Caller(me.key, self._static)
        self._callers = Callers(whereabouts)
        self._peers: dict[bytes, Peer] = {}
        self._half_open = HalfOpen()
        self._budget = Budget(me.limits)
        self._running: set[PeerConnection] = set()
        self._last_session = 0
        self._nursery: trio.Nursery | None = None
        self._stopping = False
        self.port = 0

    async def serve(self, task_status: trio.TaskStatus[int] = trio.TASK_STATUS_IGNORED) -> None:
        """Listen and call until cancelled; `started` gives the port (0: nobody can call us).

        Raises Unavailable if the address cannot be had.
        """
        listeners = await open_listeners(self._me.listen) if self._me.listen else []
        self.port = listeners[0].socket.getsockname()[1] if listeners else 0
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                nursery.start_soon(self._say_goodbye)
                if listeners:
                    nursery.start_soon(trio.serve_listeners, self._answer, listeners)
                nursery.start_soon(self._follow_whereabouts)
                task_status.started(self.port)
        finally:
            self._nursery = None
            for peer in self._peers.values():
                peer.offers.give_up("this node is stopping")

    async def _say_goodbye(self) -> None:
        """P8: `_run` shields the sessions, so that they end with what this gives them."""
        try:
            await trio.sleep_forever()
        finally:
            self._stopping = True
            for connection in self._running:
                connection.retire("this node is stopping", within=GOODBYE_WITHIN)

    async def deliver(self, node: bytes, envelope: Envelope) -> Delivery:
        """Return once the envelope is safe at `node`. Raises as Carrier says (core/ports.py).

        Calls for one node are offered in the order in which they were made.
        """
        peer = self._peer(node)
        self._keep_if_known(peer)
        if peer.connection is None and not peer.calling:
            self._forget_if_idle(peer)
            reason = peer.last_error or "no address of it is known"
            raise Unavailable(f"the recipient's node is away: {reason}")
        offer = peer.offers.make(envelope)
        if peer.connection is not None:
            peer.connection.admit()
        try:
            return await peer.offers.outcome(offer)
        finally:
            self._forget_if_idle(peer)

    async def join(self, node: bytes, token: bytes) -> None:
        """Redeem an invitation at the relay `node`. Raises Refused or Unavailable."""
        await self._session(node).request(join_request(token))

    async def collect(self, node: bytes, cards: Sequence[bytes]) -> None:
        """Ask the relay `node` for the mail of the agents of these signed cards, and of no others;
        it then comes to the door. Holds for this session. Raises Refused or Unavailable."""
        await self._session(node).request(collect_request(cards))

    def session_id(self, node: bytes) -> int:
        """A number of its own for each session; 0 while there is none (P6)."""
        return self._peers[node].session if node in self.connected() else 0

    def _session(self, node: bytes) -> PeerConnection:
        peer = self._peers.get(node)
        if peer is None or peer.connection is None:
            raise Unavailable("there is no session with this node")
        return peer.connection

    async def show_cards(self) -> None:
        """Show our cards on every session."""
        cards = self._door.cards()
        for peer in list(self._peers.values()):
            if peer.connection is not None:
                peer.connection.show(cards)
        await trio.lowlevel.checkpoint()

    async def want_cards(self, node: bytes, addresses: Sequence[str]) -> None:
        """Return when `node` has shown what it has for `addresses`, and the door has learned it.

        Raises Unavailable when there is no session, or it ends first.
        """
        await self._session(node).want_cards(addresses)

    def wake(self, node: bytes | None = None) -> None:
        """Somebody waits for `node`: call now. None: the network or the clock changed; call every
        node, and see who is still there."""
        for peer in self._peers.values():
            if node in {None, peer.node}:
                peer.failures = 0
                peer.wake()
                if peer.connection is not None and node is None:
                    peer.connection.probe()

    def connected(self, domains: Collection[str] = ("",)) -> set[bytes]:
        """The nodes that there is a session with, and that are of these domains; "" is any."""
        return {peer.node for peer in self._peers.values() if peer.is_there(domains)}

    def peers(self) -> list[PeerState]:
        """What is known of each node, for people."""
        now = self._now()
        return [peer.state(now, self._whereabouts) for peer in self._peers.values()]

    def _peer(self, node: bytes) -> Peer:
        return self._peers.setdefault(node, Peer(node))

    def _forget_if_idle(self, peer: Peer) -> None:
        if not (peer.connection or peer.kept or peer.offers or peer.greeting):
            self._peers.pop(peer.node, None)

    # Calling

    async def _follow_whereabouts(self) -> None:
        generation = -1
        while True:
            generation = await self._whereabouts.changed(generation)
            for node in self._whereabouts.nodes():
                peer = self._peer(node)
                sighted = (self._whereabouts.seen_at(node), self._whereabouts.endpoints(node))
                if sighted != peer.sighted:
                    peer.sighted = sighted
                    self._doubt(peer, sighted[1])
                    peer.failures = 0
                    peer.wake()
                self._keep_if_known(peer)

    def _doubt(self, peer: Peer, endpoints: list[Endpoint]) -> None:
        """P7."""
        gone = peer.endpoint is not None and peer.endpoint not in endpoints
        if gone and endpoints and peer.connection is not None:
            peer.connection.probe()

    def _keep_if_known(self, peer: Peer) -> None:
        """Have a task that keeps a session with `peer`, if there is anywhere to call."""
        somewhere = peer.node != self._me.key.public and self._whereabouts.endpoints(peer.node)
        if somewhere and not peer.kept and self._nursery is not None:
            peer.kept = True
            peer.calling = peer.connection is None
            self._nursery.start_soon(self._keep, peer)
        elif not peer.kept:
            self._forget_if_idle(peer)

    async def _keep(self, peer: Peer) -> None:
        """Call whenever there is no session, until no address of the node is left."""
        while endpoints := self._whereabouts.endpoints(peer.node):
            if peer.connection is not None:
                await peer.changed.wait()
                if peer.connection is None:
                    await self._pause(peer, opened=True, held=True)
                continue
            peer.calling, peer.next_try = True, None
            opened = held = False
            try:
                held = await self._call(peer, endpoints)
                opened = True
            except (ProtocolError, Unavailable) as exc:
                peer.last_error = str(exc)
                level = logging.WARNING if isinstance(exc, WrongNode) else logging.DEBUG
                log.log(level, "call failed node=%s why=%s", peer.node.hex()[:16], exc)
            await self._pause(peer, opened=opened, held=held)
        peer.kept = peer.calling = False
        peer.offers.give_up("no address of the recipient's node is known any more")
        self._forget_if_idle(peer)

    async def _pause(self, peer: Peer, *, opened: bool, held: bool) -> None:
        """After a call failed or a session ended (P2)."""
        peer.failures = 0 if held else peer.failures + 1
        peer.calling = opened and peer.failures < 2  # then deliveries wait for the next session
        if peer.connection is not None:
            return
        if not peer.calling:
            peer.offers.give_up(f"the recipient's node is away: {peer.last_error}")
        longest = min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** min(peer.failures, 10) / 2)
        # The side that called the last session calls first, so that seldom both do.
        shortest = 0.0 if held and peer.called_by_us else FIRST_PAUSE
        pause = shortest + self._rng.uniform(0, longest)
        peer.next_try = self._now() + round(pause * 1000)
        with trio.move_on_after(pause):
            await peer.changed.wait()
            if not held:  # whatever the news, a node is called once a second at most
                await trio.sleep_until(min(trio.current_time(), peer.called_at) + FIRST_PAUSE)

    async def _call(self, peer: Peer, endpoints: list[Endpoint]) -> bool:
        """Whether a session came of it that held; raises why not."""
        trusted = peer.proved or self._whereabouts.found_by(peer.node) in {"static", "relay"}
        try:
            found = await self._caller.call(peer.node, endpoints, trusted=trusted)
        finally:
            peer.called_at = trio.current_time()
        endpoint, stream, handshake = found
        async with AsyncExitStack() as on_failure:
            on_failure.push_async_callback(trio.aclose_forcefully, stream)
            try:
                source = source_of(far_end(stream))
                connection = await self._greet(stream, handshake, peer, source)
            except (trio.TooSlowError, *LINK_BROKE):
                raise Unavailable(f"{endpoint_text(endpoint)}: it hung up") from None
            on_failure.pop_all()
        peer.endpoint, peer.shown_at = endpoint, endpoint_text(endpoint)
        self._take_up(peer, connection, called_by_us=True)
        await connection.leaving.wait()
        return trio.current_time() - peer.called_at >= HELD

    # Being called

    async def _answer(self, stream: trio.SocketStream) -> None:
        """A session, or nothing; serve_listeners closes the stream behind us."""
        try:
            host = far_end(stream)
            keep_alive(stream)
        except OSError:
            return
        source = source_of(host)
        if self._budget.refuses(source, stranger=False) or not self._half_open.admit(host):
            return
        handshake = Handshake.answering(self._me.key, self._static)
        try:
            with trio.fail_after(HANDSHAKE_WITHIN):
                await prove(stream, handshake)
            if why := self._budget.refuses(source, stranger=self._is_stranger(handshake.peer)):
                log.info("call refused from=%s why=%s", host, why)
                return
            peer = self._peer(handshake.peer or b"")
            connection = await self._greet(stream, handshake, peer, source)
        except (ProtocolError, trio.TooSlowError, *LINK_BROKE) as exc:
            log.debug("call refused from=%s why=%s", host, exc)
            if caller := self._peers.get(handshake.peer or b""):
                self._forget_if_idle(caller)
            return
        finally:
            self._half_open.release(host)
        del handshake  # what it needed is kilobytes, and the session may last for an hour
        await self._be_called(peer, connection, host)

    def _is_stranger(self, node: bytes | None) -> bool:
        return node is None or self._whereabouts.found_by(node) in {"", "inbound"}

    async def _be_called(self, peer: Peer, connection: PeerConnection, host: str) -> None:
        """Where it called from, with the port it says it listens at, is a place to call it."""
        port = connection.hello.port if connection.hello else 0
        if port:
            self._callers.note(peer.node, (host, port))
        peer.endpoint = (host, port) if port else None
        peer.shown_at = endpoint_text((host, port)) if port else host
        self._take_up(peer, connection, called_by_us=False)
        with trio.CancelScope(shield=True):  # the stream is closed behind us: not before Goodbye
            await connection.closed.wait()

    async def _greet(
        self, stream: trio.SocketStream, handshake: Handshake, peer: Peer, source: str
    ) -> PeerConnection:
        me, largest = self._me, self._me.envelope_bytes
        connection = PeerConnection(
            stream, handshake, self._door, peer.offers, self._budget, source, largest
        )
        hello = Hello(VERSION, me.domain, me.epoch, self.port, largest)
        peer.greeting += 1
        try:
            with trio.fail_after(HANDSHAKE_WITHIN):
                theirs = await connection.greet(hello)
        finally:
            peer.greeting -= 1
        peer.domain, peer.proved = theirs.domain, True
        return connection

    def _take_up(self, peer: Peer, new: PeerConnection, *, called_by_us: bool) -> None:
        """Run the session, and see which one stays (P1)."""
        assert self._nursery is not None  # noqa: S101  only tasks of serve() come here
        self._nursery.start_soon(self._run, peer, new, "" if called_by_us else new.source)
        old, why = peer.connection, "another session of these nodes stays"
        smaller = min(self._me.key.public, peer.node) == self._me.key.public
        if old is not None and called_by_us not in {peer.called_by_us, smaller}:
            new.retire(why)
            old.probe()  # why did it call, if that one is alive?
            return
        peer.connection, peer.called_by_us = new, called_by_us
        self._last_session += 1
        peer.session = self._last_session
        new.show(self._door.cards())
        if old is not None:
            old.retire(why)
        self._whereabouts.wake()
        peer.wake()

    async def _run(self, peer: Peer, connection: PeerConnection, caller: str) -> None:
        stranger = self._is_stranger(peer.node)
        self._budget.open(caller, stranger=stranger)
        self._running.add(connection)
        if self._stopping:
            connection.retire("this node is stopping", within=GOODBYE_WITHIN)
        with trio.CancelScope(shield=True):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(connection.run)
                await connection.leaving.wait()
                await self._let_go(peer, connection)
                await connection.drained.wait()
                if peer.connection is not None:
                    peer.connection.admit()  # it waited for the answers of this one (P1)
        self._running.discard(connection)
        self._budget.close(caller, stranger=stranger)
        peer.last_error = peer.last_error or connection.ended
        self._forget_if_idle(peer)

    async def _let_go(self, peer: Peer, connection: PeerConnection) -> None:
        """Nothing more can be offered on this session."""
        if peer.connection is not connection:
            return
        peer.connection = None
        peer.last_error = connection.ended
        peer.last_seen = self._now()
        if not peer.kept:
            peer.offers.give_up(f"the session with the node ended: {connection.ended}")
        peer.wake()
        await self._door.left(peer.node)
