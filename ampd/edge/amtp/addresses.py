"""Addresses as AMTP clients see them, and as this node keeps them.

    alice@localhost    gateway.amtp_domain    <->    alice@laptop.local    node.domain

Addresses of other nodes and of other gateways are the same on both sides.
"""

from ampd.core.agents import Agent, Agents
from ampd.model.address import Address
from ampd.model.errors import Invalid


class Addresses:
    """Translates for one node."""

    def __init__(self, agents: Agents, node_domain: str, amtp_domain: str) -> None:
        self._agents = agents
        self.node_domain = node_domain.lower()
        self.domain = amtp_domain.lower()

    def is_ours(self, domain: str) -> bool:
        """Whether agents of this domain live on this node."""
        return domain.lower() in (self.domain, self.node_domain)

    def native(self, text: str) -> Address:
        """The address that this node has for `text`, or Invalid."""
        address = Address.parse(text)
        if address.domain == self.domain:
            return Address(address.name, self.node_domain)
        return address

    def shown(self, address: Address | str) -> str:
        """An address of this node as AMTP clients know it."""
        text = str(address)
        name, _, domain = text.rpartition("@")
        return f"{name}@{self.domain}" if domain == self.node_domain else text

    def of_agent(self, agent: Agent) -> str:
        """The AMTP address of an agent of this node."""
        return f"{agent.name}@{self.domain}"

    def agent_at(self, text: str) -> Agent | None:
        """The agent of this node that `text` means."""
        try:
            return self._agents.at(self.native(text))
        except Invalid:
            return None
