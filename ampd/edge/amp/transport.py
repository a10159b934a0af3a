"""The ways in and out of AMP, as one object: what service.py builds and asks.

WebSockets and webhooks bring mail to agents here; federation and mesh bring it from and to other
hosts; receipts, attachments and limits belong to all of them. Each is a module of its own; here
they are wired.

  TR1  Mail lies in the mailbox before any of this is asked, and stays there until it is
       acknowledged: what is tried here can fail without loss.
  TR2  The order is that of section 05: another host of the mesh, WebSocket, webhook, relay.
"""

from collections.abc import Sequence
from typing import Final

import trio

from ampd.core.agents import Agent
from ampd.core.lists import Summary
from ampd.core.ports import Parcel
from ampd.edge.amp.abuse import Abuse
from ampd.edge.amp.attachments import Attachments
from ampd.edge.amp.carrying import Carrying
from ampd.edge.amp.departing import Departures
from ampd.edge.amp.discovery import Discovery
from ampd.edge.amp.federation import Federation
from ampd.edge.amp.intake import Intake
from ampd.edge.amp.limits import Limits
from ampd.edge.amp.mesh import Mesh
from ampd.edge.amp.outcomes import WAIT, Outcome, Outcomes
from ampd.edge.amp.ports import Document, Mail
from ampd.edge.amp.provider import Provider
from ampd.edge.amp.webhooks import Webhooks
from ampd.edge.amp.websocket import Sockets
from ampd.edge.gateway_values import Shared
from ampd.edge.http.words import Answer, Request, Route, SocketRoute
from ampd.edge.lasting import lasting
from ampd.model.address import Address
from ampd.model.message import Delivery, id_from_text, id_text

_GONE_ON: Final = ("relayed", "delivered", "read")


class Transport:
    """Everything that moves mail of AMP."""

    def __init__(self, shared: Shared, mail: Mail, provider: Provider | None = None) -> None:
        values = shared.values
        self._shared = shared
        self._mail = mail
        self._outcomes = Outcomes()
        self.provider = provider or Provider(values.amp_domain, values.state)
        self.abuse = Abuse(trio.current_time)
        self.limits = Limits(values.limits, self.abuse, shared.now, trio.current_time)
        self.attachments = Attachments(shared, mail, self.limits)
        self._sockets = Sockets(shared.rooms, mail, shared.now, self._took)
        self._webhooks = Webhooks(shared, mail, self._sockets.online, self._took, self._gave_up)
        intake = Intake(shared, mail, self.abuse)
        discovery = Discovery(shared, trio.current_time)
        self.mesh = Mesh(shared, intake, self.limits, self.outcome)
        self._federation = Federation(
            shared, discovery, intake, self.limits, self.abuse, self.outcome
        )
        departures = Departures(shared.rooms, mail, self.provider)
        self._carrying = Carrying(shared, discovery, self.mesh, departures, self.provider)

    def routes(self) -> Sequence[Route]:
        """What is asked of these by HTTP."""
        return (
            *self.attachments.routes(),
            Route("POST", "/messages/{id}/read", self._read),
            Route("POST", "/federation/deliver", self._federation.deliver),
        )

    async def _read(self, request: Request) -> Answer:
        return await self._sockets.receipts.read(request, self.limits)

    def sockets(self) -> Sequence[SocketRoute]:
        """Where a WebSocket opens."""
        return (SocketRoute("/ws", self._sockets.handle),)

    async def run(self) -> None:
        """Bring mail to webhooks, and sweep what is over, until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lasting, "webhooks", self._webhooks.run)
            nursery.start_soon(lasting, "attachments", self.attachments.run)

    # --- what became of a message -------------------------------------------------------------

    async def outcome(self, agent: Agent, message: bytes) -> Outcome:
        """What became of a message for an agent here, as far as can be said soon (TR2)."""
        account = self._mail.account_of(agent.name)
        if account is None:  # it reads its mailbox here: nothing is left to be brought to it
            return Outcome("delivered", "local", self._shared.now())
        if self._sockets.online(agent.name) or self._webhooks.wanted(account):
            found = await self._outcomes.of(agent.key, message)
            if found is not None:
                return found
        return Outcome("queued", "relay", self._shared.now())

    async def outcome_abroad(self, sender: Agent, message: bytes) -> Outcome:
        """The same of a message for somebody elsewhere, whom the outbox is bringing it to."""
        tracking, store = self._shared.rooms.tracking, self._shared.rooms.store
        text = id_text(message)
        with trio.move_on_after(WAIT):
            while True:
                changed = store.changed(("sent", sender.key))
                _, status, states = tracking.deliveries(sender, text)
                if status in _GONE_ON:
                    host = self.mesh.host_of(states[0].address)
                    method = "mesh" if host else "relay"
                    word = "queued" if status == "relayed" else "delivered"
                    return Outcome(word, method, self._shared.now(), host)
                if status in ("failed", "expired"):
                    return Outcome("failed", "relay", self._shared.now())
                await changed.wait()
        return Outcome("queued", "relay", self._shared.now())

    async def _took(self, agent: Agent, message: Summary, method: str) -> None:
        at = self._shared.now()
        outcome = Outcome("delivered", method, at)
        self._outcomes.settle(agent.key, id_from_text(message.id), outcome)
        await self._sockets.receipts.delivered(agent, message, method, at)

    def _gave_up(self, agent: Agent, message: Summary) -> None:
        outcome = Outcome("queued", "relay", self._shared.now())
        self._outcomes.settle(agent.key, id_from_text(message.id), outcome)

    # --- what others ask ------------------------------------------------------------------

    def accounts_changed(self) -> None:
        """An account was made, changed or removed."""
        self._webhooks.accounts_changed()

    def online(self, name: str) -> bool:
        """Whether the agent of this name is connected by WebSocket."""
        return self._sockets.online(name)

    def online_count(self) -> int:
        """How many agents are connected."""
        return self._sockets.count

    def mesh_status(self) -> Document:
        """The mesh block of /health."""
        return self.mesh.status

    @property
    def federation(self) -> bool:
        """Whether this provider federates."""
        return self._carrying.federates

    def mesh_host(self, address: str) -> str:
        """The mesh host that an address is for; "" if it is for none."""
        return self.mesh.host_of(address)

    async def mesh_from(self, request: Request) -> str:
        """The mesh host that forwarded a request; "" if none did. Fault 403 if the header lies."""
        return await self.mesh.forwarder(request)

    async def take_in_forwarded(self, request: Request) -> Answer:
        """What POST /route does with what a mesh host forwarded."""
        return await self.mesh.take_in(request)

    async def find(self, address: Address) -> bool:
        """Whether AMP reaches an address elsewhere."""
        return await self._carrying.find(address)

    async def carry(self, parcel: Parcel) -> Delivery:
        """Bring a message elsewhere."""
        return await self._carrying.carry(parcel)
