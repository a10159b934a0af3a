"""The methods of the local socket: one request, one call of the core, one document.

  Y1  A caller acts as the agent it named, or as the only one there is; on an agent's own socket as
      that agent and no other.
  Y2  A caller on an agent's own socket changes nothing but that agent's mail.
  Y3  Every parameter is checked before anything is done; an unknown one is an error.

Not here: connections and lines (connection.py), subscriptions (subscriptions.py), the address book
(contact_methods.py), forms of documents (documents.py).
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final

import trio

import ampd
from ampd.core.abroad import Abroad
from ampd.core.agents import Agent, Agents, Profile
from ampd.core.bundles import Bundles
from ampd.core.checkup import Checkup
from ampd.core.contacts import Contacts
from ampd.core.directory import Directory
from ampd.core.flagging import Flagging
from ampd.core.foreign import Foreign
from ampd.core.lists import Filter, Listing, Lists
from ampd.core.marks import Marks
from ampd.core.reading import Reading
from ampd.core.relays import Relays
from ampd.core.submission import EXPIRES_AFTER, Draft, Submission
from ampd.core.tracking import Tracking
from ampd.edge import documents
from ampd.edge.contact_methods import ContactMethods
from ampd.edge.documents import Document
from ampd.edge.params import Params
from ampd.edge.peer_state import PeerState
from ampd.edge.provider_methods import ProviderMethods, Providers
from ampd.edge.relay_methods import RelayMethods
from ampd.edge.shares import Shares
from ampd.edge.waiting import Handed, Waiting
from ampd.model.errors import Invalid, Refused
from ampd.model.message import id_from_text
from ampd.model.values import value
from ampd.protocol.local import PROTOCOL
from ampd.storage.records import State
from ampd.storage.store import Store

Method = Callable[["Caller", Params], Awaitable[Document]]

# What a program on an agent's own socket may ask (Y2).
OPEN_TO_AGENTS: Final = frozenset(
    (
        *("system.hello", "system.status", "agent.show", "agent.list"),
        *("message.send", "message.list", "message.get", "message.ack", "message.delete"),
        *("message.mark", "message.thread", "message.status", "message.trace", "message.wait"),
        *("inbox.subscribe", "inbox.unsubscribe", "directory.list", "peer.list"),
        *("contact.list", "contact.show"),
    )
)


@dataclass(slots=True)
class Caller:
    """Who is at the other end of a connection."""

    bound: str = ""  # the agent whose own socket this is
    acting: str = ""  # the agent that system.hello named
    handed: list[Handed] = field(default_factory=list)  # what is marked when it was written (Y4)

    def may(self, method: str) -> None:
        """Refused if this caller may not ask `method`."""
        if self.bound and method not in OPEN_TO_AGENTS:
            raise Refused(
                f"{method} is not for the socket of one agent",
                hint="ask the node's owner, or use the main socket",
            )


@value
class Rooms:
    """The rooms of the core that methods call."""

    store: Store
    agents: Agents
    contacts: Contacts
    submission: Submission
    lists: Lists
    reading: Reading
    flagging: Flagging
    marks: Marks
    tracking: Tracking
    directory: Directory
    checkup: Checkup
    relays: Relays
    bundles: Bundles
    status: Callable[[str], Document]  # of one agent's view, or "" for the owner's
    peers: Callable[[], list[PeerState]]
    agents_changed: Callable[[], Awaitable[None]]
    settling: Callable[[], float]  # seconds until the neighbours should have been found
    stop: Callable[[], None]
    socket_of: Callable[[str], str]
    foreign: Foreign | None = None  # None: nobody is reached by another protocol
    abroad: Abroad | None = None
    providers: Providers | None = None


class Methods:
    """The table of methods."""

    def __init__(self, rooms: Rooms) -> None:
        self._rooms = rooms
        self.shares = Shares()
        self.waiting = Waiting(rooms.store, rooms.lists, rooms.reading, rooms.marks, self.shares)
        self.table: dict[str, Method] = {
            "system.hello": self._hello,
            "system.status": self._status,
            "system.stop": self._stop,
            "agent.create": self._agent_create,
            "agent.show": self._agent_show,
            "agent.list": self._agent_list,
            "agent.remove": self._agent_remove,
            "message.send": self._send,
            "message.list": self._list,
            "message.get": self._get,
            "message.ack": self._ack,
            "message.delete": self._delete,
            "message.mark": self._mark,
            "message.thread": self._thread,
            "message.status": self._message_status,
            "message.trace": self._trace,
            "message.wait": self._wait,
            "directory.list": self._discover,
            "journal.check": self._check,
            **ContactMethods(rooms.contacts, rooms.agents).table,
            **RelayMethods(rooms.store, rooms.relays, rooms.bundles, rooms.peers).table,
            **ProviderMethods(rooms.providers, self.agent).table,
        }

    # --- who ------------------------------------------------------------------------------

    def agent(self, caller: Caller) -> Agent:
        """The agent that a caller acts as (Y1), or Refused."""
        agents = self._rooms.agents
        name = caller.bound or caller.acting
        if name:
            return agents.named(name)
        everybody = list(agents)
        if len(everybody) == 1:
            return everybody[0]
        if not everybody:
            raise Refused(
                "there is no agent on this node yet", code="agent_unknown", hint="amp init NAME"
            )
        listed = ", ".join(sorted(agent.name for agent in everybody))
        raise Refused(
            f"several agents live here: {listed}", code="ambiguous",
            hint="say which: amp --agent NAME, or export AMP_AGENT=NAME for every command",
        )  # fmt: skip

    async def settled(self, caller: Caller) -> None:
        """What a caller asks now finds what it was told before (waiting.py, Y5)."""
        if self.waiting.has_handed:
            await self.waiting.settled(self.agent(caller))

    def _whoami(self, agent: Agent) -> Document:
        return documents.whoami(agent, self._rooms.socket_of(agent.name))

    async def _hello(self, caller: Caller, params: Params) -> Document:
        name = params.text("agent")
        params.text("client")
        params.done()
        agents = self._rooms.agents
        if name:
            agent = agents.named(name)
            if caller.bound and agent.name != caller.bound:
                raise Refused(f"this socket acts as {caller.bound}, not as {name}")
            caller.acting = agent.name
        return {
            "version": ampd.__version__,
            "protocol": PROTOCOL,
            "agent": caller.bound or caller.acting or None,
            "domain": agents.domain,
        }

    async def _status(self, caller: Caller, params: Params) -> Document:
        params.done()
        return self._rooms.status(caller.bound)

    async def _stop(self, _caller: Caller, params: Params) -> Document:
        params.done()
        self._rooms.stop()
        return {"stopping": True}

    # --- agents ---------------------------------------------------------------------------

    async def _agent_create(self, _caller: Caller, params: Params) -> Document:
        name = params.required("name")
        capabilities = params.texts("capabilities")
        profile = Profile(
            params.optional("alias"), params.optional("description"),
            None if capabilities is None else tuple(capabilities),
        )  # fmt: skip
        params.done()
        self._rooms.socket_of(name)  # its path may be too long: better known before than after
        agent, created = await self._rooms.agents.create(name, profile)
        if created:
            await self._rooms.agents_changed()
        return self._whoami(agent) | {"is_new": created}

    async def _agent_show(self, caller: Caller, params: Params) -> Document:
        name = params.text("name")
        params.done()
        if caller.bound and name and name != caller.bound:
            raise Refused(f"this socket acts as {caller.bound}")
        return self._whoami(self._rooms.agents.named(name) if name else self.agent(caller))

    async def _agent_list(self, caller: Caller, params: Params) -> Document:
        params.done()
        agents = [self.agent(caller)] if caller.bound else list(self._rooms.agents)
        return {"agents": [self._whoami(agent) for agent in agents]}

    async def _agent_remove(self, _caller: Caller, params: Params) -> Document:
        name, purge = params.required("name"), params.flag("purge")
        params.done()
        agent = await self._rooms.agents.remove(name, purge=purge)
        await self._rooms.agents_changed()
        return self._whoami(agent) | {"purged": purge}

    # --- messages -------------------------------------------------------------------------

    def draft(self, params: Params, agent: Agent) -> Draft:
        """The draft that `message.send` describes."""
        expires = params.seconds("expires_in_s")
        reply = params.message("in_reply_to")
        if params.texts("attachments"):
            raise Invalid("attachments are not supported by this version")
        answered = self._answering(agent, reply)
        draft = Draft(
            to=tuple(params.texts("to", one_will_do=True) or ()),
            subject=params.text("subject"),
            text=params.text("text"),
            payload=params.json("payload"),
            type=params.text("type", "message"),
            priority=params.text("priority", "normal"),
            context=params.json("context"),
            receipt=params.flag("receipt"),
            key=params.text("key"),
            expires_in=EXPIRES_AFTER if expires is None else int(expires * 1000),
            in_reply_to=answered.get("in_reply_to"),
            thread=answered.get("thread"),
        )
        params.done()
        return draft

    def _answering(self, agent: Agent, reply: str) -> dict[str, bytes]:
        if not reply:
            return {}
        summary = self._rooms.lists.one(agent, self._rooms.lists.find(agent, reply))
        return {
            "in_reply_to": id_from_text(summary.id),
            "thread": id_from_text(summary.thread),
        }

    async def _send(self, caller: Caller, params: Params) -> Document:
        agent = self.agent(caller)
        draft = self.draft(params, agent)
        try:
            return documents.sent(await self._rooms.submission.send(agent, draft))
        except Refused as exc:
            if exc.code != "recipient_unknown":
                raise
        addresses = [to for to in draft.to if "@" in to]
        await self._rooms.relays.find(addresses)
        await self._settle(draft)
        if self._rooms.abroad is not None:
            await self._rooms.abroad.find(addresses)
        return documents.sent(await self._rooms.submission.send(agent, draft))

    async def _settle(self, draft: Draft) -> None:
        """A daemon that was just started has not met its neighbours yet: give it the time."""
        with trio.move_on_after(self._rooms.settling()):
            while True:
                changed = self._rooms.store.changed("contacts")
                if self._rooms.submission.knows(draft):
                    return
                await changed.wait()

    async def _list(self, caller: Caller, params: Params) -> Document:
        agent = self.agent(caller)
        thread = params.message("thread")
        wanted = Filter(
            box=params.text("box", "inbox"),
            unread=params.flag("unread"),
            sender=params.sender("from"),
            thread=self._thread_id(agent, thread) if thread else None,
            limit=params.integer("limit", 50),
            before=params.message("before"),
            after=params.message("after"),
        )
        params.done()
        return await self._listed(agent, lambda: self._rooms.lists.listing(agent, wanted))

    async def _listed(self, agent: Agent, look: Callable[[], Listing]) -> Document:
        async with self.shares.readers(agent.name):
            listing = look()
            flags = await self._rooms.flagging.of(listing.messages)
        return documents.inbox(agent, listing, flags)

    def _thread_id(self, agent: Agent, text: str) -> bytes:
        try:
            return self._answering(agent, text)["thread"]
        except Refused:
            if len(text) != 36:
                raise
            return id_from_text(text)  # a thread none of whose messages is here yet

    async def _get(self, caller: Caller, params: Params) -> Document:
        agent = self.agent(caller)
        ids, peek, raw = params.messages(), params.flag("peek"), params.flag("raw")
        params.done()
        async with self.shares.readers(agent.name):
            found = await self._rooms.reading.get(agent, ids)
            if not peek:
                await self._rooms.marks.shown(agent, found)
        return {"messages": [documents.message(each, raw=raw) for each in found]}

    async def _ack(self, caller: Caller, params: Params) -> Document:
        agent = self.agent(caller)
        if params.flag("all"):
            params.done()
            return {"done": await self._rooms.marks.set_all(agent, State.ACKED)}
        ids = params.messages()
        params.done()
        return {"done": await self._rooms.marks.set(agent, ids, State.ACKED)}

    async def _mark(self, caller: Caller, params: Params) -> Document:
        agent, ids, word = self.agent(caller), params.messages(), params.required("state")
        params.done()
        states = {"unread": State.UNREAD, "read": State.READ, "acked": State.ACKED}
        if word not in states:
            raise Invalid(f"no state {word!r}", hint="use unread, read or acked")
        return {"done": await self._rooms.marks.set(agent, ids, states[word])}

    async def _delete(self, caller: Caller, params: Params) -> Document:
        agent, ids = self.agent(caller), params.messages()
        params.done()
        return {"done": await self._rooms.marks.delete(agent, ids)}

    async def _thread(self, caller: Caller, params: Params) -> Document:
        agent, text = self.agent(caller), params.message("id")
        params.done()
        return await self._listed(agent, lambda: self._rooms.lists.thread(agent, text))

    async def _message_status(self, caller: Caller, params: Params) -> Document:
        agent, text, proof = self.agent(caller), params.message("id"), params.flag("proof")
        params.done()
        document = documents.delivery(*self._rooms.tracking.deliveries(agent, text))
        if proof:
            document["receipts"] = documents.proofs(self._rooms.tracking.proofs(agent, text))
        return document

    async def _trace(self, caller: Caller, params: Params) -> Document:
        agent, text = self.agent(caller), params.message("id")
        params.done()
        return documents.trace(*self._rooms.tracking.trace(agent, text))

    async def _wait(self, caller: Caller, params: Params) -> Document:
        agent, thread, after = self.agent(caller), params.message("thread"), params.message("after")
        wanted = Filter(
            unread=not after,
            sender=params.sender("from"),
            thread=self._thread_id(agent, thread) if thread else None,
            limit=1,
            after=after or "0",
            oldest=True,
        )
        timeout, peek = params.seconds("timeout_s"), params.flag("peek")
        params.done()
        return await self.waiting.wait(agent, wanted, timeout, None if peek else caller.handed)

    # --- others ---------------------------------------------------------------------------

    async def _discover(self, _caller: Caller, params: Params) -> Document:
        domain, capability = params.text("domain"), params.text("capability")
        within = params.seconds("wait_s") or 0.0
        params.done()
        await self._rooms.relays.find([f"@{domain.lower()}" if domain else ""])
        with trio.move_on_after(within):
            while within and not self._others(domain, capability):
                await self._rooms.store.changed("contacts").wait()
        return documents.discovered(self._rooms.directory.listed(domain, capability))

    def _others(self, domain: str, capability: str) -> bool:
        return any(e.via != "local" for e in self._rooms.directory.listed(domain, capability))

    async def _check(self, _caller: Caller, params: Params) -> Document:
        repair = params.flag("repair")
        params.done()
        return documents.checked(await self._rooms.checkup.run(repair=repair))
