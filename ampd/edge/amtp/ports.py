"""What the rooms of this folder ask of mail.py, as a type: agents by AMTP addresses, and messages
in both forms."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from ampd.core.agents import Agent
from ampd.core.foreign import Incoming
from ampd.core.ports import Parcel
from ampd.core.submission import Draft
from ampd.edge.gateway_mail import Piece
from ampd.edge.http.words import Request
from ampd.model.address import Address


class Mail(Protocol):
    """Between AMTP's words and this node's. A message is a mapping of AMTP's members; what is not
    set is not there, and its payload is a value of raw_json."""

    def agent_at(self, address: str) -> Agent | None:
        """The agent of this node that an AMTP address means."""

    def is_ours(self, domain: str) -> bool:
        """Whether a domain is this node's."""

    def address_of(self, agent: Agent) -> str:
        """The AMTP address of an agent of this node."""

    def supported(self, agent: Agent) -> tuple[str, ...]:
        """The schemas that an agent takes; none: all."""

    def delivery_mode(self, agent: Agent) -> str:
        """How an agent gets its mail: pull or push."""

    def caller(self, request: Request) -> Agent | None:
        """Whose key the bearer is; None without one. Failure if it is nobody's."""

    def check_admin(self, request: Request) -> None:
        """Failure unless an administrator asks."""

    def draft(self, message: Mapping[str, Any], to: Sequence[str]) -> Draft:
        """The native form of a message for these of its recipients."""

    def incoming(
        self, message: Mapping[str, Any], sender: Address, to: tuple[Agent, ...], *, proved: bool
    ) -> Incoming:
        """The native form of a message from elsewhere."""

    def document(self, agent: Agent | None, piece: Piece) -> dict[str, Any]:
        """The AMTP form of a message here, as a reader is shown it."""

    def outgoing(self, parcel: Parcel) -> dict[str, Any]:
        """The AMTP form of a message for the gateway of its recipient, without a signature."""
