"""The relays that keep this node's mail, as their user: which, in which order, and how they are.

I1  Those of the settings come first, in their order; then those that the user added, which are in
    the journal.
I2  With every session to a relay: the invitation is redeemed once, and the mail of all agents
    here is asked for; again whenever a card changes.
I3  Somebody who is not known is asked for at all relays, and at the nodes of the domain that there
    is a session with (`find`); what they answer is a signed card or nothing.
I4  The agents' cards name these relays, so that others know where to leave their mail.
"""

import logging
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

import trio

from ampd.core.agents import Agents
from ampd.core.whereabouts import Whereabouts
from ampd.model.address import NodeUri, RelayUri
from ampd.model.errors import AmpdError, Invalid, Refused, Unavailable
from ampd.protocol.events import may_be_asked
from ampd.storage.records import RelayUsed
from ampd.storage.store import Store, Transaction

ASK_WITHIN: Final = 5.0  # seconds for a relay to answer who somebody is
GREET_WITHIN: Final = 10.0  # seconds for a relay to say that it brings our mail
MAX_RELAYS: Final = 8  # that one node uses; a card names them all
_TRY_AGAIN: Final = 30.0  # seconds after a relay refused to let us collect

log = logging.getLogger("ampd.relays")


class RelaySessions(Protocol):
    """What is needed of the sessions (edge/peer_tcp.py)."""

    def session_id(self, node: bytes) -> int:
        """A number of its own for each session; 0 while there is none."""
        ...

    def connected(self, domains: Collection[str]) -> set[bytes]:
        """The nodes that there is a session with, and that are of these domains; "" is any."""
        ...

    async def join(self, node: bytes, token: bytes) -> None:
        """Redeem an invitation. Raises Refused or Unavailable."""
        ...

    async def collect(self, node: bytes, cards: Sequence[bytes]) -> None:
        """Ask for the mail of the agents of these cards. Raises Refused or Unavailable."""
        ...

    async def show_cards(self) -> None:
        """Show our cards, which changed, on every session."""
        ...

    async def want_cards(self, node: bytes, addresses: Sequence[str]) -> None:
        """Ask who somebody is; the door has learned the answer when this returns."""
        ...


@dataclass(slots=True)
class RelayState:
    """One relay in use."""

    uri: NodeUri
    token: bytes
    source: str  # "settings" or "added"
    collecting: int = 0  # the session in which it was asked for our mail
    last_error: str = ""
    answered: trio.Event = field(default_factory=trio.Event)  # once it serves us, or refused to


class Relays:
    """Keeps in touch with the relays of this node."""

    def __init__(
        self,
        store: Store,
        agents: Agents,
        sessions: RelaySessions,
        whereabouts: Whereabouts,
        settings: Sequence[RelayUri],
        keys: set[bytes],
    ) -> None:
        """`keys` is kept to the node keys of the relays in use."""
        self._store = store
        self._agents = agents
        self._sessions = sessions
        self._whereabouts = whereabouts
        self._keys = keys
        self._relays: dict[bytes, RelayState] = {}
        self._renewed = trio.Event()
        for uri in settings:
            self._relays[uri.node.key] = RelayState(uri.node, uri.token, "settings")
        for row in store.view.execute("SELECT uri, token FROM relays ORDER BY seq"):
            added = NodeUri.parse(row["uri"])
            self._relays.setdefault(added.key, RelayState(added, row["token"], "added"))
        self._keys.update(self._relays)

    @property
    def uris(self) -> tuple[str, ...]:
        """What cards say (I4)."""
        return tuple(str(state.uri) for state in self._relays.values())[:MAX_RELAYS]

    def states(self) -> list[RelayState]:
        """In the order in which they are used."""
        return list(self._relays.values())

    async def add(self, text: str) -> None:
        """Use one more relay (I1)."""
        uri = RelayUri.parse(text)
        if uri.node.key == self._agents.node.public:
            raise Invalid("this is the node itself: it cannot be its own relay")
        if len(self._relays) >= MAX_RELAYS and uri.node.key not in self._relays:
            raise Refused(
                f"{MAX_RELAYS} relays are in use already", code="quota_exceeded",
                hint="amp relay remove URI",
            )  # fmt: skip
        before = self._relays.get(uri.node.key)
        record = RelayUsed(str(uri.node), uri.token, removed=False)

        def work(tx: Transaction) -> None:
            if before is not None and before.uri != uri.node and before.source == "added":
                tx.append(RelayUsed(str(before.uri), b"", removed=True))  # it has moved
            tx.append(record)

        await self._store.write(work)
        source = before.source if before else "added"
        self._relays[uri.node.key] = RelayState(uri.node, uri.token, source)
        self._keys.add(uri.node.key)
        self._whereabouts.lost(uri.node.key, "relay")
        await self._cards_say_so()

    async def answer(self, text: str) -> None:
        """Wait until the relay of this URI serves us or refused to, or ASK_WITHIN has passed."""
        state = self._relays.get(RelayUri.parse(text).node.key)
        if state is not None:
            with trio.move_on_after(ASK_WITHIN):
                await state.answered.wait()

    async def remove(self, text: str) -> None:
        """Use a relay no more; what it still holds for us stays there until it expires."""
        uri = RelayUri.parse(text).node
        state = self._relays.get(uri.key)
        if state is None:
            raise Refused(
                f"{uri} is no relay of this node", code="contact_unknown", hint="amp relay list"
            )
        if state.uri != uri:
            raise Invalid(
                f"this relay is used at {state.uri.host}:{state.uri.port}",
                hint=f"amp relay remove {state.uri}",
            )
        if state.source == "settings":
            raise Invalid(
                f"{uri} stands in the settings", hint="take it out of [relay] servers there"
            )
        record = RelayUsed(str(state.uri), b"", removed=True)
        await self._store.write(lambda tx: tx.append(record))
        del self._relays[uri.key]
        self._keys.discard(uri.key)
        self._whereabouts.lost(uri.key, "relay")
        await self._cards_say_so()

    async def _cards_say_so(self) -> None:
        if await self._agents.use_relays(self.uris):
            await self._sessions.show_cards()
        self.cards_changed()
        self._whereabouts.wake()

    def cards_changed(self) -> None:
        """Ask for the mail of the agents that there are now (I2)."""
        for state in self._relays.values():
            state.collecting = 0
        self._renewed.set()
        self._renewed = trio.Event()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            generation, renewed = self._whereabouts.generation, self._renewed
            for state in self.states():
                if not self._whereabouts.endpoints(state.uri.key):
                    place = (state.uri.host, state.uri.port)
                    self._whereabouts.sighted(state.uri.key, [place], "relay")
            async with trio.open_nursery() as nursery:
                for state in self.states():
                    nursery.start_soon(self._greet, state)
            with trio.move_on_after(_TRY_AGAIN):
                await self._something_new(generation, renewed)

    async def _something_new(self, generation: int, renewed: trio.Event) -> None:
        async with trio.open_nursery() as nursery:

            async def wait_for(happening: Callable[[], object]) -> None:
                await happening()  # type: ignore[misc]
                nursery.cancel_scope.cancel()

            nursery.start_soon(wait_for, lambda: self._whereabouts.changed(generation))
            nursery.start_soon(wait_for, renewed.wait)

    async def _greet(self, state: RelayState) -> None:
        """I2, for one relay, if its session is a new one."""
        node = state.uri.key
        session = self._sessions.session_id(node)
        if not session or state.collecting == session:
            return
        renewed = self._renewed
        try:
            with trio.fail_after(GREET_WITHIN):
                if state.token:
                    await self._join(state)
                await self._sessions.collect(node, self._agents.cards())
        except trio.TooSlowError:
            state.last_error = f"it does not answer within {GREET_WITHIN:g} s"
            return
        except AmpdError as exc:
            state.last_error = str(exc)
            log.warning(
                "a relay does not serve us", extra={"relay": str(state.uri), "why": str(exc)}
            )
        else:
            state.last_error = ""
            if renewed is self._renewed:  # else the cards changed meanwhile: once more
                state.collecting = session
        state.answered.set()

    async def _join(self, state: RelayState) -> None:
        await self._sessions.join(state.uri.key, state.token)
        state.token = b""
        if state.source == "added":
            record = RelayUsed(str(state.uri), b"", removed=False)
            await self._store.write(lambda tx: tx.append(record))

    async def find(self, addresses: Sequence[str]) -> None:
        """Ask everybody who may know for the cards of these addresses (I3).

        What no address can be is left out: asking for it would end the session.
        """
        asked = [address for address in addresses if may_be_asked(address)]
        if not asked:
            return
        domains = {each.partition("@")[2].lower() for each in asked}
        nodes = self._sessions.connected(domains - {""})  # not everybody: one may be asleep
        nodes |= {node for node in self._relays if self._sessions.session_id(node)}
        with trio.move_on_after(ASK_WITHIN):
            async with trio.open_nursery() as nursery:
                for node in nodes:
                    nursery.start_soon(self._ask, node, asked)

    async def _ask(self, node: bytes, addresses: Sequence[str]) -> None:
        try:
            await self._sessions.want_cards(node, addresses)
        except (Refused, Unavailable) as exc:
            if node in self._relays:
                self._relays[node].last_error = str(exc)
