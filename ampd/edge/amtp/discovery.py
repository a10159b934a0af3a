"""Who is here, and what this gateway can do: /v1/discovery/* and /v1/capabilities/{domain}.

  DI1  Agents with an account are listed for everybody, as AMTP's discovery is public (3.4.2).
  DI2  Agents of `amp init` and the node's contacts are listed only for those who show an agent's
       key or an admin key, and on this machine (accounts.py, AC4). For them alone the DNS is asked
       about another domain: nobody else makes this node ask for names.
  DI3  The filters of the draft narrow the list: address, delivery_mode, active_only, role,
       capability, schema. Active is who was here, or was made, in the last 30 days.
  DI4  Of another domain, the agents that are known are listed; a domain of which nobody is known
       is 404.

Not here: the look-up of other domains' records (transport.py).
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from ampd.core.contacts import FOREIGN_SOURCES
from ampd.core.directory import Listed
from ampd.edge.amtp.accounts import Account, Accounts
from ampd.edge.amtp.addresses import Addresses
from ampd.edge.amtp.failures import Failure
from ampd.edge.amtp.times import time_text
from ampd.edge.gateway_values import Shared
from ampd.edge.http.words import Answer, Request, Route
from ampd.model.values import value

ACTIVE_FOR: Final = 30 * 86_400_000  # ms, as the draft says
_TTL: Final = 300_000_000_000  # nanoseconds, as the reference's clients read it
_USABLE: Final = frozenset(("seen", "pinned", "verified"))
_FILTERS: Final = ("address", "delivery_mode", "role", "capability", "schema")

Capabilities = Callable[[str], Awaitable[Mapping[str, Any] | None]]


@value
class Line:
    """One agent of a list."""

    address: str
    mode: str
    schemas: tuple[str, ...]
    capabilities: tuple[str, ...]
    role: str
    description: str
    created: int
    active_at: int  # ms; 0: not known
    active: bool

    def document(self) -> dict[str, Any]:
        """As clients read it; what is empty is left out."""
        more = {
            "created_at": time_text(self.created),
            "supported_schemas": list(self.schemas),
            "capabilities": list(self.capabilities),
            "role": self.role,
            "description": self.description,
            "last_active": time_text(self.active_at) if self.active else None,
        }
        return {
            "address": self.address,
            "delivery_mode": self.mode,
            "active": self.active,
            **{name: value for name, value in more.items() if value},
        }


class Discovery:
    """The routes under /v1/discovery and /v1/capabilities."""

    def __init__(
        self, shared: Shared, accounts: Accounts, addresses: Addresses,
        abroad: Capabilities, features: Callable[[], list[str]],
    ) -> None:  # fmt: skip
        self._shared = shared
        self._accounts = accounts
        self._addresses = addresses
        self._abroad = abroad
        self._features = features

    def routes(self) -> list[Route]:
        """What this module answers."""
        return [
            Route("GET", "/v1/discovery/agents", self.everybody),
            Route("GET", "/v1/discovery/agents/{domain}", self.of_domain),
            Route("GET", "/v1/capabilities/{domain}", self.capabilities),
        ]

    async def everybody(self, request: Request) -> Answer:
        """GET /v1/discovery/agents."""
        lines = self._here(request)
        if self._is_known(request):
            lines += self._elsewhere("")
        return self._answer(request, lines, self._addresses.domain)

    async def of_domain(self, request: Request) -> Answer:
        """GET /v1/discovery/agents/{domain} (DI4)."""
        domain = request.params["domain"].lower()
        if self._addresses.is_ours(domain):
            return self._answer(request, self._here(request), self._addresses.domain)
        lines = self._elsewhere(domain) if self._is_known(request) else []
        if not lines:
            raise Failure(404, "DOMAIN_NOT_FOUND", f"No agents of {domain} are known here")
        return self._answer(request, lines, domain)

    def _is_known(self, request: Request) -> bool:
        """DI2."""
        caller = self._accounts.caller(request)
        return caller.account is not None or caller.admin or caller.local

    def _here(self, request: Request) -> list[Line]:
        accounts = {each.name: each for each in self._accounts.all()}
        known = self._is_known(request)
        found = []
        for each in self._shared.rooms.directory.listed(self._addresses.node_domain):
            account = accounts.get(each.address.partition("@")[0]) if each.via == "local" else None
            if account is not None or known:
                found.append(self._line(each, account))
        return found

    def _elsewhere(self, domain: str) -> list[Line]:
        """Agents of other nodes whose cards are known, then those of other gateways."""
        listed = self._shared.rooms.directory.listed(domain)
        ours = f"@{self._addresses.node_domain}"
        found = [self._line(each, None) for each in listed if not each.address.endswith(ours)]
        seen = {line.address for line in found}
        return found + [
            Line(known.address, "pull", (), (), "", known.note, 0, 0, active=True)
            for known in self._shared.rooms.contacts.listed()
            if known.source in FOREIGN_SOURCES and known.state in _USABLE and not known.blocked
            if known.address not in seen
            if not domain or known.address.endswith(f"@{domain}")
        ]

    def _line(self, listed: Listed, account: Account | None) -> Line:
        agent = account.agent if account else None
        active_at = max(account.used, account.created) if account else 0
        active = listed.online if account is None else self._is_active(active_at)
        return Line(
            self._addresses.shown(listed.address), account.mode if account else "pull",
            account.schemas if account else (), listed.capabilities,
            account.role if account else "", listed.description or listed.alias,
            agent.created if agent else 0, active_at, active,
        )  # fmt: skip

    def _is_active(self, at: int) -> bool:
        return at + ACTIVE_FOR >= self._shared.now()

    def _answer(self, request: Request, lines: list[Line], domain: str) -> Answer:
        query = {name: request.query[name] for name in _FILTERS if request.query.get(name)}
        only_active = request.query.get("active_only", "").lower() in ("true", "1")
        if "address" in query:
            asked = self._shown(query["address"])
            lines = [each for each in lines if each.address == asked]
        found = [
            each.document()
            for each in lines
            if _fits(each, query) and (each.active or not only_active)
        ]
        return Answer.json(200, {
            "agents": found,
            "agent_count": len(found),
            "domain": domain,
            "timestamp": time_text(self._shared.now()),
        })  # fmt: skip

    def _shown(self, address: str) -> str:
        return self._addresses.shown(address.strip().lower())

    async def capabilities(self, request: Request) -> Answer:
        """GET /v1/capabilities/{domain}."""
        domain = request.params["domain"].lower()
        if self._addresses.is_ours(domain):
            return Answer.json(200, self._own(domain))
        if not self._is_known(request):
            raise Failure(
                401, "AUTHENTICATION_REQUIRED", "What others can do is told to agents of this node"
            )
        found = await self._abroad(domain)
        if found is None:
            raise Failure(
                404, "CAPABILITIES_NOT_FOUND", f"{domain} has no AMTP gateway that is known"
            )
        now = time_text(self._shared.now())
        return Answer.json(200, {"domain": domain, "discovered_at": now, **found})

    def _own(self, domain: str) -> dict[str, Any]:
        schemas = {name for each in self._accounts.all() for name in each.schemas}
        return {
            "version": "1.0",
            "gateway": self._shared.values.base,
            "domain": domain,
            "schemas": sorted(schemas),
            "auth": ["api-key"],
            "max_size": self._shared.values.message_bytes,
            "features": self._features(),
            "discovered_at": time_text(self._shared.now()),
            "ttl": _TTL,
        }


def _fits(line: Line, query: Mapping[str, str]) -> bool:
    """DI3, but for the address and for who is active."""
    return (
        query.get("delivery_mode", line.mode) == line.mode
        and query.get("role", line.role) == line.role
        and ("capability" not in query or query["capability"] in line.capabilities)
        and ("schema" not in query or any(_meet(query["schema"], s) for s in line.schemas))
    )


def _meet(asked: str, supported: str) -> bool:
    """Whether some schema fits both patterns; either may end in a star."""
    one, other = asked.removesuffix("*"), supported.removesuffix("*")
    if asked.endswith("*") and supported.endswith("*"):
        return one.startswith(other) or other.startswith(one)
    if asked.endswith("*"):
        return other.startswith(one)
    if supported.endswith("*"):
        return one.startswith(other)
    return one == other
