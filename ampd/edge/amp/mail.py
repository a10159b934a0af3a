"""The mail of accounts, in the words of AMP: what the ways in and out ask for (ports.py, Mail).

ML1  An address means an agent here if its labels fit: those of its account; for an agent without
     one, one label, whichever tenant its sender believes it to be in.
"""

from collections.abc import Awaitable, Callable, Sequence

from ampd.core.agents import Agent, Agents
from ampd.edge.amp import ports
from ampd.edge.amp.accounts import Account, Accounts
from ampd.edge.amp.rendering import Document, Rendering, Whole
from ampd.edge.gateway_mail import GatewayMail
from ampd.edge.http.words import outward
from ampd.model.address import Address
from ampd.model.errors import AmpdError, Refused
from ampd.protocol.amp.address import Elsewhere, Here, Names, Nearby, Place
from ampd.protocol.amp.faults import fault_of, not_found, unauthorized
from ampd.protocol.amp.ids import native_id
from ampd.protocol.raw_json import Value


class Mail:
    """Finds accounts, agents and messages for AMP."""

    def __init__(
        self,
        accounts: Accounts,
        agents: Agents,
        names: Names,
        rendering: Rendering,
        mail: GatewayMail,
    ) -> None:
        self._accounts = accounts
        self._agents = agents
        self._names = names
        self._rendering = rendering
        self._mail = mail
        self.send: Callable[[Account, Value], Awaitable[tuple[Document, dict[str, str]]]]

    def account_of_token(self, token: str) -> Account:
        """Whose API key this is. Fault 401."""
        return self._accounts.of_token(token)

    def account_of(self, agent_name: str) -> Account | None:
        """The account of an agent of this node, if it has one."""
        return self._accounts.of(agent_name)

    def accounts_with_webhooks(self) -> Sequence[Account]:
        """All that asked for a webhook."""
        return [each for each in self._accounts.all() if each.delivery.get("webhook_url")]

    def recipient(self, address: str) -> Agent:
        """The agent of this node that an AMP address means. Fault 404."""
        match self._names.place(address):
            case Here() as place:
                found = self.here(place)
            case Nearby(_, place):
                found = self.here(place)
            case Elsewhere():
                found = None
        if found is None:
            raise not_found(f"no agent {address} here")
        return found

    def here(self, place: Here) -> Agent | None:
        """The agent that a place of this provider means (ML1)."""
        agent = self._agents.at(Address(place.name, self._names.node))
        if agent is None:
            return None
        account = self._accounts.of(agent.name)
        if account is not None:
            fits = self._names.fits(place.path, account.tenant, account.scope)
            return agent if fits else None
        plain = place.path is None or len(place.path) == 1
        return agent if plain or self._names.fits(place.path, self._names.home, ()) else None

    def is_self(self, account: Account, said: str) -> bool:
        """Whether an address that somebody gave as its own is that of this account."""
        try:
            place: Place = self._names.place(said, account.tenant)
        except Refused:
            return False
        found = place if isinstance(place, Here) else getattr(place, "here", None)
        return (
            found is not None
            and found.name == account.name
            and self._names.fits(found.path, account.tenant, account.scope)
        )

    def amp_address(self, agent: Agent) -> str:
        """The full AMP address of an agent of this node."""
        return self._rendering.amp_address(agent)

    def item(self, agent: Agent, full: Whole) -> Document:
        """A message as AMP has it."""
        return self._rendering.item(agent, full)

    async def acknowledge(self, account: ports.Account, identifier: str) -> bool:
        """Out of the queue; whether it was there."""
        agent = self._agents.named(account.name)
        return bool(await self._mail.acknowledge(agent, [native_id(identifier)]))

    @staticmethod
    def native_id(identifier: str) -> bytes:
        """The 16 bytes by which this node knows a message id of AMP."""
        return native_id(identifier)

    async def route(self, account: ports.Account, body: Value) -> Document:
        """What POST /route does and answers. Raises AmpdError."""
        known = self._accounts.of(account.name)
        if known is None:  # it left while it was connected
            raise unauthorized(f"{account.name} has no account here any more")
        return (await self.send(known, body))[0]

    @staticmethod
    def failure_of(exc: AmpdError) -> Document:
        """An error as AMP has it."""
        return fault_of(outward(exc, "a WebSocket")).document()
