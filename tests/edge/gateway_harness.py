"""A whole gateway in one process: the services over a real store, asked without a socket.

    from edge.gateway_harness import gateway

    async with gateway(tmp_path) as here:
        answer = await here.request("POST", "/api/v1/register", json={...})
        assert answer.status == 201, answer.text

What is asked goes through the ASGI application that the daemon serves: the guard, the limits and
the choice between the protocols are the real ones. `here.node` is the node behind it (fakes.Node):
its rooms, its clock.
"""

import json as json_text
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, fields

import fakes
import trio

from ampd.core.bundles import Bundles
from ampd.core.foreign import Foreign
from ampd.edge.gateway_app import application
from ampd.edge.gateway_paths import AMP, AMTP
from ampd.edge.gateway_values import GatewayValues, Shared
from ampd.edge.http.app import App
from ampd.edge.http.client import HttpClient
from ampd.edge.http.dns import Dns
from ampd.edge.http.words import Answer
from ampd.edge.methods import Rooms
from ampd.storage.registry import Registry

BASE = "http://localhost:23000"


@dataclass
class Reply:
    """What came back."""

    status: int
    headers: dict
    body: bytes

    @property
    def text(self):
        return self.body.decode()

    @property
    def json(self):
        return json_text.loads(self.body)


class Closed(Exception):
    """The gateway closed the WebSocket, or never opened it (then `status` is HTTP's)."""

    def __init__(self, code, status=0):
        super().__init__(f"closed {code} {status}")
        self.code, self.status = code, status


@dataclass
class Socket:
    """The client's end of a WebSocket."""

    _to_app: trio.MemorySendChannel
    _from_app: trio.MemoryReceiveChannel
    subprotocol: str | None = None

    async def opened(self):
        """None once it is open, or why it is not."""
        try:
            self.subprotocol = (await self._event())["subprotocol"]
        except Closed as exc:
            return exc

    async def send(self, what):
        """A text, or a document as JSON."""
        text = what if isinstance(what, str) else json_text.dumps(what)
        await self._to_app.send({"type": "websocket.receive", "text": text})

    async def receive(self):
        """The next document; Closed when there will be none."""
        event = await self._event()
        assert event["type"] == "websocket.send", event
        return json_text.loads(event["text"])

    async def _event(self):
        event = await self._from_app.receive()
        if event["type"] == "websocket.close":
            raise Closed(event["code"])
        if event["type"] == "websocket.http.response.start":
            raise Closed(1006, event["status"])
        return event

    async def closed(self):
        """The close code, once it is closed; what comes before is dropped."""
        try:
            while True:
                await self._event()
        except Closed as exc:
            return exc.code

    async def hang_up(self, code=1000):
        """Leave."""
        await self._to_app.send({"type": "websocket.disconnect", "code": code})


def scope(kind, method, path, headers, *, peer="127.0.0.1", secure=False):
    """An ASGI scope as hypercorn makes it."""
    path, _, query = path.partition("?")
    return {
        "type": kind,
        "method": method,
        "scheme": {"http": "http", "websocket": "ws"}[kind] + ("s" if secure else ""),
        "path": path,
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "headers": [(k.lower().encode(), v.encode("latin-1")) for k, v in headers.items()],
        "client": (peer, 50000),
        "server": ("127.0.0.1", 23000),
        "http_version": "1.1",
        "subprotocols": [],
        "extensions": {},
    }


@dataclass
class Client:
    """Asks an App without a socket."""

    app: App
    host: str = "localhost:23000"

    async def request(
        self, method, path, json=None, headers=None, *, body=None, token="", peer="127.0.0.1",
        secure=False,
    ):  # fmt: skip
        """One request; `json` is a value, `body` bytes as they are, `token` a Bearer token."""
        sent = {"Host": self.host}
        if json is not None:
            body = json_text.dumps(json).encode()
            sent["Content-Type"] = "application/json"
        if body:
            sent["Content-Length"] = str(len(body))
        if token:
            sent["Authorization"] = f"Bearer {token}"
        sent |= headers or {}
        events = [{"type": "http.request", "body": body or b"", "more_body": False}]
        got = []

        async def receive():
            await trio.lowlevel.checkpoint()
            return events.pop(0) if events else {"type": "http.disconnect"}

        async def send(event):
            await trio.lowlevel.checkpoint()
            got.append(event)

        found = scope("http", method, path, sent, peer=peer, secure=secure)
        await self.app(found, receive, send)
        said = {k.decode(): v.decode("latin-1") for k, v in got[0]["headers"]}
        return Reply(got[0]["status"], said, b"".join(e.get("body", b"") for e in got[1:]))

    async def get(self, path, **options):
        return await self.request("GET", path, **options)

    async def post(self, path, json=None, **options):
        return await self.request("POST", path, json, **options)

    async def delete(self, path, **options):
        return await self.request("DELETE", path, **options)

    @asynccontextmanager
    async def socket(self, path, headers=None, *, peer="127.0.0.1"):
        """A WebSocket; Closed if it is not opened."""
        to_app, in_app = trio.open_memory_channel(100)
        out_app, from_app = trio.open_memory_channel(100)
        await to_app.send({"type": "websocket.connect"})
        found = scope("websocket", "GET", path, {"Host": self.host} | (headers or {}), peer=peer)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.app, found, in_app.receive, out_app.send)
            made = Socket(to_app, from_app)
            refused = await made.opened()
            if refused is None:
                yield made
                to_app.send_nowait({"type": "websocket.disconnect", "code": 1000})
            nursery.cancel_scope.cancel()
        if refused is not None:  # outside, so that no group of errors is around it
            raise refused


@dataclass
class Place(Client):
    """A gateway and the node behind it."""

    node: fakes.Node = None
    shared: Shared = None
    services: dict = field(default_factory=dict)
    nursery: trio.Nursery = None  # ends with the gateway
    clock: object = None

    @property
    def amp(self):
        return self.services[AMP]

    @property
    def amtp(self):
        return self.services[AMTP]

    @property
    def rooms(self):
        return self.shared.rooms

    def run_services(self):
        """Start what the services do without being asked; ends with the place."""
        for service in self.services.values():
            self.nursery.start_soon(service.run)


class Nothing:
    """The service of a protocol that a test does without."""

    def __init__(self, name):
        self.name = name

    def routes(self):
        return ()

    def sockets(self):
        return ()

    def failure(self, request, exc):
        return Answer.json(getattr(exc, "status", 400), {"error": exc.code})

    async def run(self):
        await trio.sleep_forever()


class NoRelays:
    """A node that has no relays asks none."""

    async def find(self, addresses):
        await trio.lowlevel.checkpoint()

    def cards_changed(self):
        pass


def rooms(node):
    """The rooms that methods and gateways call, of a node without sockets."""

    async def agents_changed():
        await trio.lowlevel.checkpoint()

    mine = {
        **{name: getattr(node, name, None) for name in (each.name for each in fields(Rooms))},
        "checkup": fakes.checkup(node),
        "relays": NoRelays(),
        "bundles": Bundles(node.store, node.agents, node.contacts, node.mailbox),
        "status": lambda _bound="": {"version": "0"},
        "peers": list,
        "agents_changed": agents_changed,
        "settling": lambda: 0.0,
        "stop": lambda: None,
        "socket_of": lambda name: f"/nowhere/{name}.sock",
    }
    return Rooms(**{each.name: mine[each.name] for each in fields(Rooms)})


def values(folder, **others):
    """The settings of a gateway, as config.toml's defaults are; any can be another."""
    found = {
        "listen": ("127.0.0.1", 23000),
        "amp_domain": "aimaestro.local",
        "amtp_domain": "localhost",
        "node_domain": "here.local",
        "admin_keys": folder / "admin.keys",
        "state": folder / "gateway",
        "base": BASE,
    }
    return GatewayValues(**{**found, **others})


def shared_of(node, folder, registry, now, **others):
    """What the services are given; `http`, `dns` and `foreign` are real ones unless named."""
    named = {k: others.pop(k) for k in ("http", "dns", "foreign") if k in others}
    found = values(folder, **others)
    found.state.mkdir(exist_ok=True)
    dns = named.get("dns") or Dns(found.dns)
    http = named.get("http") or HttpClient(dns, found.webhook_hosts)
    foreign = named.get("foreign") or Foreign(
        node.store, node.agents, node.contacts, b"f" * 32, now, fakes.LIMIT
    )
    return Shared(found, rooms(node), registry, foreign, http, dns, now)


def both(shared):
    """The services as the daemon has them."""
    from ampd.edge.gateway import Gateway

    made = Gateway(shared)
    return [made.amp, made.amtp]


def only_amp(shared):
    from ampd.edge.amp.service import AmpService

    return [AmpService(shared), Nothing(AMTP)]


def only_amtp(shared):
    from ampd.edge.amtp.service import AmtpService

    return [Nothing(AMP), AmtpService(shared)]


@asynccontextmanager
async def gateway(folder, *, services=both, name="here", clock=None, run=True, **others):
    """A gateway over a node in `folder`; `others` are GatewayValues, or `http`, `dns`, `foreign`.

    `run=False`: the services do nothing by themselves.
    """
    clock = clock or fakes.Clock()
    others.setdefault("node_domain", f"{name}.local")
    async with fakes.node(folder, name, clock=clock) as node:
        registry = Registry(node.folder / "gateway.db", clock)
        try:
            shared = shared_of(node, node.folder, registry, clock, **others)
            made = {each.name: each for each in services(shared)}
            app = application(shared.values, list(made.values()))
            async with trio.open_nursery() as nursery:
                place = Place(
                    app, node=node, shared=shared, services=made, nursery=nursery, clock=clock
                )
                if run:
                    place.run_services()
                yield place
                nursery.cancel_scope.cancel()
        finally:
            registry.close()
