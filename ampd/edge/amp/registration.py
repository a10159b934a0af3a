"""POST /register: how a client becomes an agent of this node (sections 02, 03 and 09).

  RG1  A name belongs to one agent of the node, whatever its tenant. One that is taken is refused
       with 409 and suggestions: an open registration never opens an agent that is there.
  RG2  The same name with the same public key is the same agent: it gets one more API key (K11) - if
       it shows that it is: with its old API key, its owner's user key, a proof signed with its
       private key, or by being a program of the node's own user. A public key proves nothing:
       everybody may know it.
  RG3  A name that was left is held for 30 days for the key that had it; the same has to be shown.
  RG4  gateway.registration says who may come: "open", "invite" (an invite_code, or an owner's user
       key), "owner" (a user key). gateway.tenants says into which tenants; empty: any.
  RG5  What a crash left half done is undone at the next start.
  RG6  An open registration ends when the node has as many agents as it can bear (open_files.py).
  RG7  In open mode, who is no program of the node's own user becomes an agent that is trusted no
       more than a contact by sight (core/agents.py, A5).

The proof of RG2 is `proof`, the signature over `ampd/amp-register|NAME|PROVIDER|TIMESTAMP`, with
`timestamp` as in messages; it is no older than 5 minutes.
"""

import functools
import logging
import secrets
from collections.abc import Callable
from typing import Any, Final

import trio

from ampd.core.agents import Agent, Profile
from ampd.crypto.foreign_keys import ForeignKey
from ampd.edge.amp.accounts import USER_PREFIX, Account, Accounts
from ampd.edge.amp.delivery import read_delivery
from ampd.edge.amp.keys import checker, key_in
from ampd.edge.amp.loopback import is_own_user
from ampd.edge.amp.owners import Owners
from ampd.edge.amp.rendering import seconds_text
from ampd.edge.gateway_values import GatewayValues
from ampd.edge.http.words import Request
from ampd.edge.methods import Rooms
from ampd.edge.open_files import most_agents
from ampd.model.address import check_name
from ampd.model.errors import Invalid, Refused, StorageError
from ampd.model.values import value
from ampd.protocol.amp.address import AmpAddress, Names
from ampd.protocol.amp.envelope import EARLY_BY, STALE_AFTER
from ampd.protocol.amp.faults import Fault, invalid, missing
from ampd.protocol.amp.signing import signature_bytes
from ampd.protocol.amp.times import milliseconds
from ampd.protocol.raw_json import Value, plain, write
from ampd.storage.registry import Registry

CLAIM: Final = "amp.claim"
MAX_METADATA: Final = 16_384  # bytes of JSON; it is shown to nobody but the agent itself
_TWO_WORDS: Final = (
    ("cosmic", "stellar", "quantum", "crystal", "neon", "amber", "silver", "quiet"),
    ("panda", "falcon", "phoenix", "wolf", "otter", "heron", "lynx", "maple"),
)

log = logging.getLogger("ampd.amp.registration")


@value
class Asked:
    """What a registration asks for, checked."""

    name: str
    tenant: str
    scope: tuple[str, ...]
    key: ForeignKey
    own_id: str
    alias: str
    delivery: dict[str, Any]
    metadata: dict[str, Any]
    invite: str
    proof: str
    timestamp: str


class Registration:
    """Makes agents for those who register."""

    def __init__(
        self,
        values: GatewayValues,
        rooms: Rooms,
        registry: Registry,
        accounts: Accounts,
        owners: Owners,
        names: Names,
        now: Callable[[], int],
    ) -> None:
        self._values = values
        self._rooms = rooms
        self._registry = registry
        self._accounts = accounts
        self._owners = owners
        self._names = names
        self._now = now
        self.one = trio.Lock()  # one comes or leaves at a time: none takes another one's name
        self.is_own_user: Callable[[Request], bool] = is_own_user
        self.most_agents: Callable[[], int] = most_agents

    async def register(self, request: Request) -> tuple[int, dict[str, Any]]:
        """Status and body of the answer. Raises Fault and Refused."""
        body = request.json()
        if not isinstance(body, dict):
            raise Fault("invalid_request", 400, "the body must be a JSON object")
        token = request.bearer
        owner = self._owners.of_user_key(token) if token.startswith(USER_PREFIX) else ""
        asked = self._read(body, owner)
        self._admit(asked, owner)
        async with self.one:
            found = self._accounts.of(asked.name)
            if found is not None and found.key == asked.key:
                self._check_is_it(request, asked, found, owner)
                return 200, self._answer(request, found, await self._accounts.new_key(found))
            self._check_free(request, asked, owner)
            account, api_key = await self._make(request, asked, owner)
        return 201, self._answer(request, account, api_key)

    # --- what is asked for ----------------------------------------------------------------

    def _read(self, body: dict[str, Value], owner: str) -> Asked:
        name = _word(body, "name")
        if not name:
            raise missing("name")
        tenant = _word(body, "tenant").lower()
        if not tenant and not owner:
            raise missing("tenant")
        tenant = tenant or self._names.home
        metadata = body.get("metadata") or {}
        if not isinstance(metadata, dict) or len(write(metadata)) > MAX_METADATA:
            raise invalid("metadata", f"metadata must be an object of {MAX_METADATA} bytes")
        return Asked(
            name=_checked("name", name, lambda: check_name(_bare(name))),
            tenant=_checked("tenant", tenant, lambda: _label(tenant)),
            scope=_scope(body.get("scope")),
            key=key_in(body.get("public_key"), body.get("key_algorithm"), "public_key"),
            own_id=_word(body, "agent_id"),
            alias=_word(body, "alias"),
            delivery=read_delivery(body.get("delivery")),
            metadata=plain(metadata),
            invite=_word(body, "invite_code"),
            proof=_word(body, "proof", 2048),
            timestamp=_word(body, "timestamp"),
        )

    def _admit(self, asked: Asked, owner: str) -> None:
        """RG4."""
        allowed = self._values.tenants
        if allowed and asked.tenant not in allowed:
            raise Fault(
                "tenant_access_denied", 403,
                f"You don't have permission to register agents in tenant {asked.tenant!r}",
                field="tenant",
            )  # fmt: skip
        mode = self._values.registration
        if owner or mode == "open" or self._accounts.of(asked.name) is not None:
            return
        if mode != "invite":
            raise Fault(
                "tenant_access_denied", 403, "registering here needs the user key of an owner"
            )
        self._owners.check_invite(asked.invite)

    # --- who may have the name ------------------------------------------------------------

    def _check_is_it(self, request: Request, asked: Asked, account: Account, owner: str) -> None:
        """RG2."""
        if owner and owner == account.owner_id:
            return
        if self._has_its_key(request.bearer, account.name) or self._proved(asked):
            return
        if not self.is_own_user(request):
            raise self._taken(
                asked, "key_already_registered",
                "this agent is registered: send its API key, its owner's user key or a proof with"
                " the registration to get another API key",
            )  # fmt: skip

    def _check_free(self, request: Request, asked: Asked, owner: str) -> None:
        """RG1, RG3, RG6."""
        if self._is_taken(asked.name):
            raise self._taken(
                asked, "name_taken", f"Agent name {asked.name!r} is already registered here"
            )
        if not owner and len(self._rooms.agents) >= self.most_agents():
            raise Fault("quota_exceeded", 507, "this node has no room for more agents")
        held = self._accounts.held(asked.name)
        if held is None:
            return
        same = ForeignKey.from_pem(held) == asked.key
        if not same or not (owner or self._proved(asked) or self.is_own_user(request)):
            raise self._taken(
                asked, "name_taken", f"Agent name {asked.name!r} was left within the last 30 days"
            )

    def _is_taken(self, name: str) -> bool:
        """By an agent of this node, also a removed one whose mail is kept; or by one of another
        node in the same domain."""
        if self._rooms.agents.is_taken(name):
            return True
        try:
            return bool(self._rooms.contacts.listed(f"{name}@{self._names.node}"))
        except Refused:
            return False

    def _has_its_key(self, token: str, name: str) -> bool:
        try:
            return bool(token) and self._accounts.of_token(token).name == name
        except Fault:
            return False

    def _proved(self, asked: Asked) -> bool:
        signature = signature_bytes(asked.proof)
        if not signature:
            return False
        try:
            age = self._now() - milliseconds(asked.timestamp)
        except Invalid:
            return False
        text = f"ampd/amp-register|{asked.name}|{self._names.provider}|{asked.timestamp}"
        return -EARLY_BY <= age <= STALE_AFTER and checker(asked.key)(signature, text.encode())

    def _taken(self, asked: Asked, error: str, message: str) -> Fault:
        free = self._suggestions(asked.name)
        return Fault(
            error, 409, message, field="name", details={"suggestions": free},
            more={"suggestions": free},
        )  # fmt: skip

    def _suggestions(self, name: str) -> list[str]:
        """Three names that are free."""
        base = name[:40].rstrip("-_")
        tries = [f"{base}-{'-'.join(map(secrets.choice, _TWO_WORDS))}" for _ in range(20)]
        most = len(self._rooms.agents) + 3
        numbered = next(
            (f"{base}-{n}" for n in range(2, most) if not self._is_taken(f"{base}-{n}")),
            f"{base}-{secrets.token_hex(4)}",
        )
        free = [each for each in dict.fromkeys(tries) if not self._is_taken(each)]
        return [*free[:2], numbered]

    # --- making it ------------------------------------------------------------------------

    async def _make(self, request: Request, asked: Asked, owner: str) -> tuple[Account, str]:
        self._rooms.socket_of(asked.name)  # its path may be too long: better known before
        if not owner and self._values.registration == "invite":
            await self._owners.use_invite(asked.invite)
        await self._registry.put(CLAIM, asked.name, {"at": self._now()})
        description = asked.metadata.get("description")
        profile = Profile(
            asked.alias or None, description[:200] if isinstance(description, str) else None
        )
        stranger = self._values.registration == "open" and not owner  # RG7
        outside = stranger and not self.is_own_user(request)
        try:
            agent, is_new = await self._rooms.agents.create(asked.name, profile, outside=outside)
        except Invalid:
            await self._registry.delete(CLAIM, asked.name)
            raise
        if not is_new:  # made over the socket in this moment
            await self._registry.delete(CLAIM, asked.name)
            raise self._taken(asked, "name_taken", f"Agent name {asked.name!r} is taken")
        opened = await self._accounts.open(agent, _unopened(asked, owner))
        await self._registry.delete(CLAIM, asked.name)
        await self._rooms.agents_changed()
        return opened

    async def finish(self) -> None:
        """RG5: an agent that was made for a registration which never got its answer goes again."""
        for claim in self._registry.find(CLAIM):
            try:
                await self._undo(claim.key, int(claim.value["at"]))
            except StorageError as exc:  # a full disk: at the next start
                log.warning("a registration stays half done", extra={"why": str(exc)})

    async def _undo(self, name: str, since: int) -> None:
        agent = next((each for each in self._rooms.agents if each.name == name), None)
        if agent is not None and agent.created >= since and self._is_unused(agent):
            await self._rooms.agents.remove(name, purge=True)
            await self._rooms.agents_changed()
            log.info("a registration that was half done is undone", extra={"agent": name})
        await self._registry.delete(CLAIM, name)

    def _is_unused(self, agent: Agent) -> bool:
        if self._accounts.of(agent.name) is not None:
            return False
        row = self._rooms.store.view.execute(
            "SELECT last, sent FROM agents WHERE key=?", (agent.key,)
        ).fetchone()
        return not row["last"] and not row["sent"]

    def _answer(self, request: Request, account: Account, api_key: str) -> dict[str, Any]:
        answer = {
            "address": account.address,
            "short_address": account.short_address,
            "local_name": account.name,
            "agent_id": account.agent_id,
            "tenant_id": f"ten_{account.tenant}",
            "tenant": account.tenant,
            "api_key": api_key,
            "provider": provider_document(self._names.provider, request.base),
            "fingerprint": account.fingerprint,
            "registered_at": seconds_text(account.registered_at),
        }
        return answer | ({"owner_id": account.owner_id} if account.owner_id else {})


def provider_document(domain: str, base: str) -> dict[str, str]:
    """Where clients find this provider (K2, K3); `endpoint` is what they put paths behind (K1)."""
    return {"name": domain, "endpoint": f"{base}/api/v1", "route_url": f"{base}/api/v1/route"}


def _unopened(asked: Asked, owner: str) -> Account:
    return Account(
        name=asked.name, agent_key="", tenant=asked.tenant, scope=asked.scope, address="",
        short_address="", public_key=asked.key.pem(), registered_at=0, agent_id="",
        own_id=asked.own_id, alias=asked.alias, delivery=asked.delivery, metadata=asked.metadata,
        owner_id=owner,
    )  # fmt: skip


def _word(body: dict[str, Value], name: str, longest: int = 254) -> str:
    value = body.get(name)
    if value is None:
        return ""
    if type(value) is not str or len(value) > longest:
        raise invalid(name, f"{name} must be a text of at most {longest} characters")
    return value.strip()


def _checked(field: str, said: str, check: Callable[[], str]) -> str:
    try:
        return check()
    except Invalid as exc:
        raise invalid(field, f"{said[:80]!r}: {exc}") from None


def _bare(name: str) -> str:
    address = AmpAddress.parse(name)
    if address.domain:
        raise Invalid("a name is what stands before the @")
    return address.name


def _label(text: str) -> str:
    return AmpAddress.parse(f"x@{text}").labels[0] if "." not in text else _no_label(text)


def _no_label(text: str) -> str:
    raise Invalid(f"{text!r} is no single label: use a-z 0-9 and -")


def _scope(scope: Value) -> tuple[str, ...]:
    """The labels of a scope, the narrowest first: repo, platform (section 02)."""
    if scope is None:
        return ()
    if not isinstance(scope, dict):
        raise invalid("scope", "scope must be an object of platform and repo")
    platform, repo = _word(scope, "platform").lower(), _word(scope, "repo").lower()
    if repo and not platform:
        raise missing("scope.platform")
    labels = [each for each in (repo, platform) if each]
    return tuple(_checked("scope", each, functools.partial(_label, each)) for each in labels)
