"""Agents as AMP's API shows them: oneself, those of the tenant, those of an owner (section 08).

  GET PATCH DELETE  /agents/me         GET /agents/me/card
  GET               /agents?tenant=&search=&limit=&cursor=
  GET               /agents/resolve/{address}, /agents/{address}
  GET DELETE        /agents/owned, /agents/owned/{id}
  POST              /agents/{id}/amp/addresses

AG1  A name, a key or a tenant cannot be changed here.
AG2  Who leaves is gone with its mail, and its API keys are dead; its name is held for 30 days.
AG3  Agents that never registered are shown, and marked as such: they have a key for AMP.
AG4  An owner sees and removes its own agents, and no other's.
"""

from dataclasses import replace
from typing import Any, Final

import trio

from ampd.core.agents import RESERVED, Agent
from ampd.crypto.foreign_keys import ForeignKey
from ampd.edge.amp.accounts import Account, Accounts
from ampd.edge.amp.delivery import read_delivery, shown_delivery
from ampd.edge.amp.keys import ALGORITHMS
from ampd.edge.amp.mail import Mail
from ampd.edge.amp.owners import Owners
from ampd.edge.amp.registration import MAX_METADATA
from ampd.edge.amp.rendering import seconds_text
from ampd.edge.amp.transport import Transport
from ampd.edge.gateway_values import Shared
from ampd.edge.http.words import Answer, Request
from ampd.model.errors import Invalid, Refused
from ampd.protocol.amp.address import Names
from ampd.protocol.amp.faults import Fault, invalid, not_found
from ampd.protocol.raw_json import plain, write

PAGE: Final = 100
_FIXED: Final = ("name", "public_key", "tenant", "address", "key_algorithm", "scope", "agent_id")
_MAX_ADDRESSES: Final = 20  # of other providers, that a client notes down


class AgentsApi:
    """Answers about agents."""

    def __init__(
        self,
        shared: Shared,
        names: Names,
        accounts: Accounts,
        owners: Owners,
        mail: Mail,
        transport: Transport,
        one: trio.Lock,
    ) -> None:
        """`one` is held while somebody comes or leaves."""
        self._shared = shared
        self._names = names
        self._accounts = accounts
        self._owners = owners
        self._mail = mail
        self._transport = transport
        self._one = one

    # --- oneself --------------------------------------------------------------------------

    async def me(self, _request: Request, account: Account) -> Answer:
        """GET /agents/me."""
        return Answer.json(
            200,
            {
                "address": account.address,
                "short_address": account.short_address,
                "agent_id": account.agent_id,
                "alias": account.alias or None,
                "tenant": account.tenant,
                "delivery": shown_delivery(account.delivery),
                "metadata": dict(account.metadata),
                "fingerprint": account.fingerprint,
                "registered_at": seconds_text(account.registered_at),
                "last_seen_at": seconds_text(self._accounts.last_seen(account)),
            },
        )

    async def change(self, request: Request, account: Account) -> Answer:
        """PATCH /agents/me (AG1)."""
        body = request.json()
        if not isinstance(body, dict):
            raise Fault("invalid_request", 400, "the body must be a JSON object")
        for name in _FIXED:
            if name in body:
                raise invalid(name, f"{name} cannot be changed")
        alias = body.get("alias", account.alias)
        if alias is not None and (type(alias) is not str or len(alias) > 200):
            raise invalid("alias", "alias must be a text of at most 200 characters")
        metadata = body.get("metadata", dict(account.metadata))
        if not isinstance(metadata, dict) or len(write(metadata)) > MAX_METADATA:
            raise invalid("metadata", f"metadata must be an object of {MAX_METADATA} bytes")
        delivery = read_delivery(body.get("delivery"), account.delivery)
        changed = replace(account, alias=alias or "", metadata=plain(metadata), delivery=delivery)
        await self._accounts.change(changed)
        self._transport.accounts_changed()
        return Answer.json(200, {"updated": True, "address": account.address})

    async def leave(self, _request: Request, account: Account) -> Answer:
        """DELETE /agents/me (AG2)."""
        await self._remove(account)
        return Answer.json(
            200,
            {
                "deregistered": True,
                "address": account.address,
                "deregistered_at": seconds_text(self._shared.now()),
            },
        )

    async def _remove(self, account: Account) -> None:
        async with self._one:
            await self._shared.rooms.agents.remove(account.name, purge=True)
            await self._accounts.close(account)
            await self._shared.registry.delete_owned(account.name)
        self._transport.accounts_changed()
        await self._shared.rooms.agents_changed()

    async def note_address(self, request: Request, account: Account) -> Answer:
        """POST /agents/{id}/amp/addresses: an address that this agent has elsewhere."""
        body = request.json()
        if request.params["id"] not in (account.agent_id, account.own_id, account.name):
            raise not_found("no such agent of yours")
        said = body.get("address") if isinstance(body, dict) else None
        if type(said) is not str or not 0 < len(said) <= 254:
            raise invalid("address", "address must be a text")
        known = [each for each in account.metadata.get("addresses", ()) if each != said]
        metadata = {**account.metadata, "addresses": [*known, said][-_MAX_ADDRESSES:]}
        await self._accounts.change(replace(account, metadata=metadata))
        return Answer.json(200, {"added": True, "address": said})

    # --- others ---------------------------------------------------------------------------

    async def listed(self, request: Request, account: Account) -> Answer:
        """GET /agents (row 111: pages)."""
        tenant = request.query.get("tenant", account.tenant).lower()
        search = request.query.get("search", "").lower()
        limit, after = request.query.get("limit", ""), request.query.get("cursor", "")
        if limit and (not limit.isascii() or not limit.isdecimal() or int(limit[:9]) < 1):
            raise invalid("limit", "limit must be a number of at least 1")
        size = min(PAGE, int(limit[:9] or PAGE))
        accounts = {each.name: each for each in self._accounts.all()}
        found = []
        for agent in sorted(self._shared.rooms.agents, key=lambda agent: agent.name):
            theirs = accounts.get(agent.name)
            if tenant == (theirs.tenant if theirs else self._names.home):
                found.append(self._line(agent, theirs))
        found = [each for each in found if search in f"{each['address']} {each['alias']}".lower()]
        rest = [each for each in found if each["address"] > after]
        page, more = rest[:size], len(rest) > size
        answer = {"agents": page, "total": len(found), "has_more": more}
        return Answer.json(200, answer | ({"cursor": page[-1]["address"]} if more else {}))

    def _line(self, agent: Agent, account: Account | None) -> dict[str, Any]:
        line = {
            "address": account.address if account else self._names.address(agent.name),
            "alias": (account.alias if account else agent.card.alias) or None,
            "online": account is None or self._transport.online(agent.name),
        }
        return line if account else line | {"auto_registered": True}

    async def resolve(self, request: Request, account: Account) -> Answer:
        """GET /agents/resolve/{address} and /agents/{address}: whom it means, and its key."""
        text = request.params["address"]
        try:
            place = self._names.place(text, account.tenant)
        except Invalid as exc:
            raise invalid("address", str(exc)) from None
        here = getattr(place, "here", place)
        agent = self._mail.recipient(text) if hasattr(here, "path") else None
        if agent is None or agent.name in RESERVED:
            raise not_found(f"no agent {text} here")
        theirs = self._accounts.of(agent.name)
        key = theirs.key if theirs else self._transport.provider.signer_of(agent).public
        return Answer.json(200, self._line(agent, theirs) | _key_document(key))

    async def card(self, _request: Request, account: Account) -> Answer:
        """GET /agents/me/card."""
        card = {
            "address": account.address,
            "alias": account.alias or None,
            "tenant": account.tenant,
        }
        return Answer.json(200, card | _key_document(account.key))

    # --- owners ---------------------------------------------------------------------------

    async def user_key(self, request: Request) -> Answer:
        """GET /auth/user-key, with an owner's session."""
        owner = self._owners.session(request.bearer)
        answer = {
            "user_key": self._owners.user_key(owner),
            "user_id": owner,
            "tenant_id": self._names.home,
            "agent_count": len(self._owned(owner)),
            "agent_limit": None,
        }
        return Answer.json(200, answer, {"Cache-Control": "no-store"})

    async def invite(self, request: Request) -> Answer:
        """POST /auth/invites, with an owner's session or user key."""
        self._owners.of(request.bearer)
        code, until = await self._owners.invite()
        return Answer.json(201, {"invite_code": code, "expires_at": seconds_text(until)})

    async def owned(self, request: Request) -> Answer:
        """GET /agents/owned (AG4)."""
        found = self._owned(self._owners.of(request.bearer))
        agents = [
            {
                "id": each.agent_id,
                "address": each.address,
                "online": self._transport.online(each.name),
                "registered_at": seconds_text(each.registered_at),
            }
            for each in found
        ]
        return Answer.json(200, {"agents": agents, "total": len(agents), "limit": None})

    async def remove_owned(self, request: Request) -> Answer:
        """DELETE /agents/owned/{id} (AG4)."""
        identifier = request.params["id"]
        owned = self._owned(self._owners.of(request.bearer))
        account = next((each for each in owned if each.agent_id == identifier), None)
        if account is None:
            raise not_found("no such agent of yours")
        try:
            await self._remove(account)
        except Refused as exc:  # it left in this moment
            raise not_found(str(exc)) from None
        return Answer.json(200, {"deleted": True, "agent_id": identifier})

    def _owned(self, owner: str) -> list[Account]:
        return [each for each in self._accounts.all() if each.owner_id == owner]


def _key_document(key: ForeignKey) -> dict[str, str]:
    return {
        "public_key": key.pem(),
        "key_algorithm": ALGORITHMS[key.algorithm],
        "fingerprint": key.fingerprint,
    }
