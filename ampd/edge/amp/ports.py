"""What the ways in and out (transport.py) ask of the mail and the accounts, as types.

Implemented by mail.py and accounts.py.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final, Protocol

from ampd.core.agents import Agent
from ampd.core.reading import Full
from ampd.edge.http.words import Request
from ampd.model.errors import AmpdError
from ampd.protocol.raw_json import Value

Document = dict[str, Any]  # for raw_json.write
_PREFIX: Final = "amp_"


def token_of(request: Request) -> str:
    """The API key of a request; AI Maestro's clients send it without "Bearer"."""
    raw = request.headers.get("authorization", "").strip()
    return request.bearer or (raw if raw.startswith(_PREFIX) else "")


class Account(Protocol):
    """An agent that registered over HTTP."""

    @property
    def name(self) -> str:
        """Of the agent of this node that it is."""

    @property
    def address(self) -> str:
        """NAME@[SCOPE.]TENANT.PROVIDER."""

    @property
    def tenant(self) -> str:
        """Its organisation."""

    @property
    def public_key(self) -> str:
        """PEM."""

    @property
    def delivery(self) -> Mapping[str, Any]:
        """webhook_url, webhook_secret, prefer_websocket, as it asked for."""


class Mail(Protocol):
    """The mail of accounts, in the words of AMP."""

    def account_of_token(self, token: str) -> Account:
        """Whose API key this is. Raises Refused."""

    def account_of(self, agent_name: str) -> Account | None:
        """The account of an agent of this node, if it has one."""

    def accounts_with_webhooks(self) -> Sequence[Account]:
        """All that asked for a webhook."""

    def recipient(self, address: str) -> Agent:
        """The agent of this node that an AMP address means. Refused if there is none."""

    def amp_address(self, agent: Agent) -> str:
        """The full AMP address of an agent of this node."""

    def item(self, agent: Agent, full: Full) -> Document:
        """A message as AMP has it: id, envelope, payload, sender_public_key, ..."""

    async def acknowledge(self, account: Account, identifier: str) -> bool:
        """Out of the queue; whether it was there."""

    def native_id(self, identifier: str) -> bytes:
        """The 16 bytes by which this node knows a message id of AMP. Raises Invalid."""

    async def route(self, account: Account, body: Value) -> Document:
        """What POST /route does and answers. Raises AmpdError."""

    def failure_of(self, exc: AmpdError) -> Document:
        """An error as AMP has it: error, message, field, details."""
