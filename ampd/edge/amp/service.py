"""The AMP provider behind the gateway: builds its parts, names its routes, answers in its words.

  SV1  Every route but /register, /health, /info, /organization, the well-known document and OpenAPI
       needs an API key; routes of owners need an owner's key.
  SV2  What an account asks is counted against its limits before it is done, and every answer says
       what is left.
  SV3  An error has a code and a message, and never a key, a token or a body.

Paths come without /api and /v1 (gateway_paths.py). Not here: WebSocket, webhooks, attachments,
federation and the mesh (transport.py).
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from pathlib import Path

import trio

from ampd.core.ports import Parcel
from ampd.edge.amp.accounts import PREFIX, Account, Accounts
from ampd.edge.amp.agents import AgentsApi
from ampd.edge.amp.credentials import Credentials
from ampd.edge.amp.info import Info
from ampd.edge.amp.mail import Mail
from ampd.edge.amp.mirror import Mirror
from ampd.edge.amp.owners import Owners
from ampd.edge.amp.pending import Pending
from ampd.edge.amp.provider import Provider
from ampd.edge.amp.registration import Registration
from ampd.edge.amp.rendering import Rendering
from ampd.edge.amp.route import Sending
from ampd.edge.amp.transport import Transport
from ampd.edge.gateway_mail import GatewayMail
from ampd.edge.gateway_values import Shared
from ampd.edge.http.words import Answer, HttpRefused, Request, Route, SocketRoute
from ampd.edge.lasting import lasting
from ampd.model.address import Address
from ampd.model.errors import AmpdError
from ampd.model.message import Delivery
from ampd.protocol.amp.address import Names
from ampd.protocol.amp.faults import Fault, fault_of

MAX_BODY = 1 << 20  # bytes of a request: a message of 512 KiB, escaped
_ERRORS = {
    404: "not_found",
    405: "method_not_allowed",
    413: "payload_too_large",
    403: "forbidden",
    503: "unavailable",
}
Asked = Callable[[Request, Account], Awaitable[Answer]]


class AmpService:
    """AMP, as edge/http/words.py wants a service."""

    name = "amp"

    def __init__(self, shared: Shared) -> None:
        values, rooms = shared.values, shared.rooms
        home = values.tenants[0] if values.tenants else "default"
        self.names = Names(values.amp_domain.lower(), values.node_domain.lower(), home)
        self.accounts = Accounts(shared.registry, rooms.agents, self.names, shared.now)
        queue = GatewayMail(rooms)
        provider = Provider(self.names.provider, values.state)
        self.rendering = Rendering(
            rooms.store, rooms.agents, self.accounts, self.names, provider, queue
        )
        self.mail = Mail(self.accounts, rooms.agents, self.names, self.rendering, queue)
        self.transport = Transport(shared, self.mail, provider)
        secret = provider.signer.to_pem().encode()
        self.owners = Owners(values.admin_keys, secret, shared.registry, shared.now)
        self.registration = Registration(
            values, rooms, shared.registry, self.accounts, self.owners, self.names, shared.now
        )
        self.sending = Sending(
            shared, self.names, self.accounts, self.mail, self.rendering, queue, self.transport,
            self._find,
        )  # fmt: skip
        self.mail.send = self.sending.send
        self._shared = shared
        self._pending = Pending(shared, self.accounts, self.rendering, queue)
        self._mirror = Mirror(self.accounts, self.rendering, queue, Path.home())
        self._agents = AgentsApi(
            shared, self.names, self.accounts, self.owners, self.mail, self.transport,
            self.registration.one,
        )  # fmt: skip
        self._credentials = Credentials(shared, self.accounts)
        self._info = Info(shared, self.names, self.transport)

    # --- what is served -------------------------------------------------------------------

    def routes(self) -> Sequence[Route]:
        """Every method of every path, without /api and /v1."""
        return (
            *self._open_routes(),
            *self._mail_routes(),
            *self._agent_routes(),
            *self._key_routes(),
            *self.transport.routes(),
        )

    def _open_routes(self) -> Sequence[Route]:
        info = self._info
        return (
            Route("GET", "/health", info.health),
            Route("GET", "/info", info.info),
            Route("GET", "/organization", info.organization),
            Route("GET", "/.well-known/agent-messaging.json", info.well_known),
            Route("GET", "/openapi.json", info.openapi_json),
            Route("GET", "/openapi.yaml", info.openapi_yaml),
            Route("POST", "/register", self._register, 65_536),
        )

    def _mail_routes(self) -> Sequence[Route]:
        pending = self._pending
        show = self._for("pending", pending.show)
        one = self._for("api", pending.acknowledge)
        many = self._for("api", pending.acknowledge_many)
        return (
            Route("POST", "/route", self._route, MAX_BODY),
            *(Route("GET", path, show) for path in ("/messages/pending", "/messages", "/inbox")),
            Route("GET", "/messages/pending/count", self._for("pending", pending.count)),
            Route("DELETE", "/messages/pending/{id}", one),
            Route("DELETE", "/messages/pending", one),
            Route("DELETE", "/inbox/{id}", one),
            Route("POST", "/inbox/{id}/ack", one),
            Route("POST", "/messages/{id}/ack", one),
            Route("POST", "/messages/pending/ack", many),
            Route("POST", "/messages/pending", many),
            Route("POST", "/inbox/ack", many),
        )

    def _agent_routes(self) -> Sequence[Route]:
        agents = self._agents
        resolve = self._for("api", agents.resolve)
        return (
            Route("GET", "/agents", self._for("api", agents.listed)),
            Route("GET", "/agents/me", self._for("api", agents.me)),
            Route("PATCH", "/agents/me", self._for("api", agents.change)),
            Route("DELETE", "/agents/me", self._for("api", agents.leave)),
            Route("GET", "/agents/me/card", self._for("api", agents.card)),
            Route("GET", "/agents/owned", self._of_owner(agents.owned)),
            Route("DELETE", "/agents/owned/{id}", self._of_owner(agents.remove_owned)),
            Route("GET", "/agents/resolve/{address}", resolve),
            Route("GET", "/agents/{address}", resolve),
            Route("POST", "/agents/{id}/amp/addresses", self._for("api", agents.note_address)),
        )

    def _key_routes(self) -> Sequence[Route]:
        credentials = self._credentials
        return (
            Route("GET", "/auth/user-key", self._of_owner(self._agents.user_key)),
            Route("POST", "/auth/invites", self._of_owner(self._agents.invite)),
            Route("POST", "/auth/rotate-key", self._for("api", credentials.rotate_key)),
            Route("DELETE", "/auth/revoke-key", self._for("api", credentials.revoke_key)),
            Route("POST", "/auth/rotate-keys", self._for("api", credentials.rotate_keys)),
        )

    def sockets(self) -> Sequence[SocketRoute]:
        """Every path of a WebSocket."""
        return self.transport.sockets()

    # --- who asks (SV1, SV2) --------------------------------------------------------------

    def _for(self, kind: str, handle: Asked) -> Callable[[Request], Awaitable[Answer]]:
        async def answer(request: Request) -> Answer:
            account = self.accounts.of_token(_token(request))
            headers = self.transport.limits.take(kind, account.name)
            return _with(await handle(request, account), headers)

        return answer

    def _of_owner(
        self, handle: Callable[[Request], Awaitable[Answer]]
    ) -> Callable[[Request], Awaitable[Answer]]:
        async def answer(request: Request) -> Answer:
            headers = self.transport.limits.take("api", request.peer)
            return _with(await handle(request), headers)

        return answer

    async def _register(self, request: Request) -> Answer:
        headers = self.transport.limits.take("register", request.peer)
        status, answer = await self.registration.register(request)
        self.transport.accounts_changed()
        return _with(Answer.json(status, answer, {"Cache-Control": "no-store"}), headers)

    async def _route(self, request: Request) -> Answer:
        if "x-forwarded-from" in request.headers and await self.transport.mesh_from(request):
            return await self.transport.take_in_forwarded(request)
        account = self.accounts.of_token(_token(request))
        answer, headers = await self.sending.send(account, request.json())
        return _with(Answer.json(200, answer), headers)

    def failure(self, _request: Request, exc: AmpdError) -> Answer:
        """An error in AMP's words (SV3)."""
        if isinstance(exc, HttpRefused):
            error = _ERRORS.get(exc.status, "invalid_request")
            fault = Fault(error, exc.status, str(exc), headers=exc.headers)
        else:
            fault = fault_of(exc)
        return Answer.json(fault.status, fault.document(), dict(fault.headers))

    # --- other rooms ----------------------------------------------------------------------

    async def run(self) -> None:
        """What is done without being asked."""
        self._info.clock = trio.current_time
        self._info.started = trio.current_time()
        await self.registration.finish()
        async with trio.open_nursery() as nursery:
            if self._shared.values.mirror:
                nursery.start_soon(lasting, "mirror", self._mirror.run)
            await self.transport.run()

    async def find(self, address: Address) -> bool:
        """Whether an address elsewhere can be reached by AMP."""
        return await self.transport.find(address)

    async def carry(self, parcel: Parcel) -> Delivery:
        """Hand a message to another provider or mesh host."""
        return await self.transport.carry(parcel)

    async def _find(self, addresses: Sequence[str]) -> None:
        """Look for addresses that nobody knows: at relays, then by the protocols abroad."""
        await self._shared.rooms.relays.find(addresses)
        if self._shared.rooms.abroad is not None:
            await self._shared.rooms.abroad.find(addresses)


def _token(request: Request) -> str:
    """The API key; some clients send it without "Bearer"."""
    raw = request.headers.get("authorization", "").strip()
    return request.bearer or (raw if raw.startswith(PREFIX) else "")


def _with(answer: Answer, headers: dict[str, str]) -> Answer:
    return replace(answer, headers={**headers, **answer.headers})
