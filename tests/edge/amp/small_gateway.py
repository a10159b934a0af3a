"""A node with accounts of AMP, for the tests of the ways in and out: real rooms and registry, and
mail in the plainest form that keeps what ports.Mail promises.
"""

import base64
import hashlib
import json
from collections.abc import Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, fields, replace
from typing import Any

import fakes
import trio

from ampd.core.submission import Draft
from ampd.crypto.foreign_keys import ForeignSigner
from ampd.edge.amp.provider import Provider
from ampd.edge.gateway_values import GatewayValues, Shared
from ampd.edge.http.words import Answer, SocketClosed
from ampd.edge.methods import Rooms
from ampd.model.errors import Refused, Unavailable
from ampd.model.message import id_from_text
from ampd.protocol.amp import ids
from ampd.protocol.amp.faults import fault_of
from ampd.protocol.raw_json import Raw, plain
from ampd.storage.records import State
from ampd.storage.registry import Registry

DOMAIN = "aimaestro.local"


class PatientRegistry(Registry):
    """A registry during whose changes a JumpingClock stands still."""

    def __init__(self, path, now):
        super().__init__(path, now)
        self._clock = now

    async def change(self, work):
        async with self._clock.standing_still():
            return await super().change(work)


@dataclass(frozen=True)
class SmallAccount:
    name: str
    address: str
    public_key: str
    tenant: str = "default"
    delivery: Mapping[str, Any] = field(default_factory=dict)


class SmallMail:
    """Implements ports.Mail."""

    def __init__(self, rooms, provider):
        self.rooms, self.provider = rooms, provider
        self.accounts, self.tokens, self.signers = {}, {}, {}
        self.routed = []

    async def register(self, name, **delivery):
        """An account, and its token."""
        agent, _ = await self.rooms.agents.create(name, fakes.Profile())
        self.signers[name] = ForeignSigner.generate("Ed25519")
        address = self.amp_address(agent)
        pem = self.signers[name].public.pem()
        self.accounts[name] = SmallAccount(name, address, pem, delivery=delivery)
        token = f"amp_live_sk_{name}"
        self.tokens[token] = name
        return token

    def change(self, name, **delivery):
        self.accounts[name] = replace(self.accounts[name], delivery=delivery)

    def account_of_token(self, token):
        if token not in self.tokens:
            raise Refused("Invalid or expired API key", code="unauthorized")
        return self.accounts[self.tokens[token]]

    def account_of(self, agent_name):
        return self.accounts.get(agent_name)

    def accounts_with_webhooks(self):
        return [each for each in self.accounts.values() if each.delivery.get("webhook_url")]

    def recipient(self, address):
        name, _, domain = address.lower().partition("@")
        if domain and not domain.endswith(self.provider.domain):
            raise Refused(f"{address} is not of this provider", code="recipient_unknown")
        try:
            return self.rooms.agents.named(name)
        except Refused:
            raise Refused(f"no agent {address}", code="recipient_unknown") from None

    def amp_address(self, agent):
        return f"{agent.name}@default.{self.provider.domain}"

    def item(self, agent, full):
        summary = full.summary
        known = json.loads(full.context or "{}").get("amp", {}).get("envelope")
        identifier = known["id"] if known else ids.amp_id(id_from_text(summary.id))
        payload = full.payload or json.dumps({"type": summary.type, "message": full.body})
        envelope = known or {"id": identifier, "from": summary.sender, "subject": summary.subject}
        return {"id": identifier, "envelope": envelope, "payload": Raw(payload)}

    async def acknowledge(self, account, identifier):
        agent = self.rooms.agents.named(account.name)
        try:
            text = ids.native_id(identifier).hex()
            return bool(await self.rooms.marks.set(agent, [text], State.ACKED))
        except Refused:
            return False

    def native_id(self, identifier):
        return ids.native_id(identifier)

    async def route(self, account, body):
        self.routed.append((account.name, plain(body)))
        agent = self.rooms.agents.named(account.name)
        draft = Draft((body["to"],), body["subject"], body["payload"]["message"])
        sent = await self.rooms.submission.send(agent, draft)
        return {"id": ids.amp_id(id_from_text(sent.id)), "status": "queued", "method": "relay"}

    def failure_of(self, exc):
        return fault_of(exc).document()


class SmallService:
    """Some routes of AMP, as a service."""

    name = "amp"

    def __init__(self, routes):
        self._routes = routes

    def routes(self):
        return self._routes

    def sockets(self):
        return ()

    def failure(self, _request, exc):
        fault = fault_of(exc)
        return Answer.json(fault.status, fault.document(), fault.headers)

    async def run(self):
        await trio.sleep_forever()


class Wire:
    """Both ends of a WebSocket in memory: the service has this one, a test `client`."""

    def __init__(self, **headers):
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}
        self.query = {}
        self.peer = "127.0.0.1"
        self.subprotocol = None
        self.closed = None
        self._in = trio.open_memory_channel(100)
        self._out = trio.open_memory_channel(1000)

    async def accept(self, subprotocol=None):
        self.subprotocol = subprotocol
        await trio.lowlevel.checkpoint()

    async def receive(self):
        try:
            return await self._in[1].receive()
        except (trio.EndOfChannel, trio.ClosedResourceError):
            raise SocketClosed(1005) from None

    async def send(self, text):
        if self.closed is not None:
            raise SocketClosed(1006)
        await self._out[0].send(text)

    async def close(self, code=1000, reason=""):
        await trio.lowlevel.checkpoint()
        if self.closed is None:
            self.closed = code, reason
            self._out[0].close()

    # the client's end

    async def say(self, **frame):
        await self._in[0].send(json.dumps(frame))

    async def say_text(self, text):
        await self._in[0].send(text)

    async def hear(self):
        """The next frame; None when the server has closed it."""
        try:
            return json.loads(await self._out[1].receive())
        except trio.EndOfChannel:
            return None

    def leave(self):
        self._in[0].close()


@dataclass
class SmallHttp:
    """Implements HttpClient.send: a script answers."""

    script: Any
    asked: list = field(default_factory=list)

    async def send(self, method, url, *, headers=None, body=b"", **_options):
        self.asked.append((trio.current_time(), method, url, dict(headers or {}), body))
        await trio.lowlevel.checkpoint()
        answer = self.script(method, url, dict(headers or {}), body)
        if isinstance(answer, Exception):
            raise answer
        return answer if not isinstance(answer, int) else Reply(answer)


@dataclass(frozen=True)
class Reply:
    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b"{}"


def unreachable(*_):
    return Unavailable("no connection")


@dataclass
class Gateway:
    """What a test holds of it."""

    node: Any
    shared: Shared
    mail: SmallMail
    http: SmallHttp
    clock: Any

    async def send(self, sender, recipient, text="Hello", **options):
        """A native message between agents here; its id in AMP."""
        agent = await self.node.agent(sender)
        sent = await self.node.send(agent, recipient, text, **options)
        return ids.amp_id(id_from_text(sent.id))

    async def state(self, name, identifier):
        """How a message lies in the mailbox of an agent."""
        agent = await self.node.agent(name)
        seq = self.node.lists.find(agent, ids.native_id(identifier).hex())
        return self.node.lists.one(agent, seq).state


def rooms_of(node):
    """The rooms that methods call, of a node of fakes.py."""

    async def agents_changed():
        await trio.lowlevel.checkpoint()

    known = {
        "store": node.store, "agents": node.agents, "contacts": node.contacts,
        "submission": node.submission, "lists": node.lists, "reading": node.reading,
        "flagging": node.flagging, "marks": node.marks, "tracking": node.tracking,
        "directory": node.directory, "agents_changed": agents_changed, "settling": lambda: 0.0,
    }  # fmt: skip
    return Rooms(**{each.name: known.get(each.name) for each in fields(Rooms)})


@asynccontextmanager
async def gateway(folder, *, clock=None, http=None, name="here", foreign=None, dns=None, **values):
    clock = clock or fakes.Clock()
    http = http or SmallHttp(unreachable)
    async with fakes.node(folder, name, clock=clock) as node:
        kind = PatientRegistry if isinstance(clock, fakes.JumpingClock) else Registry
        registry = kind(folder / name / "gateway.db", clock)
        try:
            found = GatewayValues(
                listen=("127.0.0.1", 0), amp_domain=values.pop("amp_domain", DOMAIN),
                amtp_domain="localhost", node_domain=node.domain,
                admin_keys=folder / name / "admin", state=folder / name / "gateway", **values,
            )  # fmt: skip
            rooms = rooms_of(node)
            shared = Shared(found, rooms, registry, foreign, http, dns, clock)
            mail = SmallMail(rooms, Provider(found.amp_domain, found.state))
            yield Gateway(node, shared, mail, http, clock)
        finally:
            registry.close()


def sha256(data):
    return "sha256:" + hashlib.sha256(data).hexdigest()


def b64(data):
    return base64.b64encode(data).decode()
