"""Gateways of AMP that reach each other in one process, and what strangers say to them.

    async with net(tmp_path) as net:
        here = await net.gateway("a", amp_domain="a.example", federation="open")

Each is a whole gateway (edge/gateway_harness.py) with an outbox that is carried. Between them is no
socket: `Wires` asks the other's application for a URL's host. Names are those of RFC 2606.
"""

import base64
import json
import random
import time
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from urllib.parse import urlsplit

import fakes
import trio
from edge import gateway_harness

from ampd.core.abroad import Abroad
from ampd.core.foreign import Foreign
from ampd.core.letters import Letters
from ampd.crypto.foreign_keys import ForeignSigner
from ampd.edge.amp.service import AmpService
from ampd.edge.http.client import Reply
from ampd.model.errors import Unavailable
from ampd.protocol.amp import signing

ELSEWHERE = "203.0.113.7"


@dataclass
class Wires:
    """Implements HttpClient.send, and the DNS."""

    hosts: dict = field(default_factory=dict)  # host -> a gateway, or a script
    records: dict = field(default_factory=dict)  # name -> TXT records
    names: dict = field(default_factory=dict)  # host -> addresses
    asked: list = field(default_factory=list)
    sent: list = field(default_factory=list)  # to gateways: URL, headers, body
    down: set = field(default_factory=set)

    def seen_from(self, peer):
        return _Client(self, peer)

    async def txt(self, name):
        await trio.lowlevel.checkpoint()
        self.asked.append(("TXT", name))
        if name in self.down:
            raise Unavailable("no name server answers")
        return self.records.get(name, []), 60

    async def addresses(self, host):
        await trio.lowlevel.checkpoint()
        return self.names.get(host, [host] if host[0].isdecimal() else [])


@dataclass
class _Client:
    wires: Wires
    peer: str

    async def send(self, method, url, *, headers=None, body=b"", anywhere=False, **_options):
        await trio.lowlevel.checkpoint()
        parts, wires = urlsplit(url), self.wires
        wires.asked.append((method, url))
        found = wires.hosts.get(parts.hostname)
        if found is None or parts.hostname in wires.down:
            raise Unavailable(f"{parts.hostname}: no connection")
        if callable(found):
            answer = found(method, url, dict(headers or {}), body)
            return answer if isinstance(answer, Reply) else Reply(answer, {}, b"{}")
        sent = {"Host": parts.netloc, **(headers or {})}
        secure = parts.scheme == "https"
        wires.sent.append((url, dict(headers or {}), body))
        reply = await found.request(
            method, parts.path, headers=sent, body=body, peer=self.peer, secure=secure
        )
        return Reply(reply.status, reply.headers, reply.body)


class Person:
    """An agent's program at a gateway: its key, and what it posts."""

    def __init__(self, place, name, answer, signer):
        self.place, self.name, self.signer = place, name, signer
        self.address, self.token = answer["address"], answer["api_key"]

    def message(self, to, text="Hello", subject="Subject", identifier="", **changes):
        """A whole message, signed, as clients make it in their external mode."""
        now = self.place.clock()
        identifier = identifier or f"msg_{now // 1000}_{random.randbytes(8).hex()}"
        envelope = {
            "version": "amp/0.1", "id": identifier, "from": self.address, "to": to,
            "subject": subject, "priority": "normal", "timestamp": rfc3339(now),
            "thread_id": identifier, "in_reply_to": None, "signature": "",
        } | changes  # fmt: skip
        payload = {"type": "request", "message": text, "context": None}
        envelope["signature"] = signing.sign(envelope, payload, self.signer.sign)
        return {"envelope": envelope, "payload": payload}

    async def route(self, to, text="Hello", **changes):
        body = self.message(to, text, **changes)
        return await self.place.post("/api/v1/route", body, token=self.token)

    async def pending(self):
        answer = await self.place.get("/api/v1/messages/pending", token=self.token)
        return answer.json["messages"]

    async def texts(self):
        return [each["payload"]["message"] for each in await self.pending()]

    async def news(self, count=1):
        """What waits, once there are so many."""
        agent = self.place.node.agents.named(self.name)
        while True:
            changed = self.place.node.store.changed(("box", agent.key))
            found = await self.pending()
            if len(found) >= count:
                return found
            await changed.wait()


def rfc3339(now):
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now // 1000))


async def register(place, name, signer=None):
    """An account at a gateway."""
    signer = signer or ForeignSigner.generate("Ed25519")
    body = {
        "tenant": "default", "name": name, "public_key": signer.public.pem(),
        "key_algorithm": "Ed25519",
    }  # fmt: skip
    answer = await place.post("/api/v1/register", body)
    assert answer.status in (200, 201), answer.text
    return Person(place, name, answer.json, signer)


class Net:
    """The gateways of a test."""

    def __init__(self, folder, stack, clock, http):
        self._folder, self._stack, self.clock, self._http = folder, stack, clock, http
        self.wires = Wires()
        self._carrying = []

    async def _carry(self, abroad):
        scope, done = trio.CancelScope(), trio.Event()
        self._carrying.append((scope, done))
        with scope:
            await abroad.run()
        done.set()

    async def stop(self):
        """Nobody is in the middle of asking another gateway when the first of them closes."""
        for scope, done in self._carrying:
            scope.cancel()
            await done.wait()

    async def gateway(self, name, *, peer=ELSEWHERE, **values):
        """One more; its host is its amp_domain, and others see it come from `peer`."""

        def services(shared):
            node = held.append(shared) or shared.rooms
            foreign = Foreign(
                node.store, node.agents, node.contacts, b"s" * 32, self.clock, fakes.LIMIT
            )
            abroad = Abroad(
                node.store, node.agents, node.contacts, foreign,
                Letters(node.store, self.clock), self.clock, random.Random(1),
            )  # fmt: skip
            rooms = replace(shared.rooms, foreign=foreign, abroad=abroad)
            held.append(abroad)
            service = AmpService(replace(shared, foreign=foreign, rooms=rooms))
            abroad.use(_Courier(service), ("amp",))
            return [service, gateway_harness.Nothing("amtp")]

        held = []
        place = await self._stack.enter_async_context(
            gateway_harness.gateway(
                self._folder, services=services, name=name, clock=self.clock,
                http=self._http or self.wires.seen_from(peer), dns=self.wires, **values,
            )
        )  # fmt: skip
        place.nursery.start_soon(self._carry, held[1])
        place.abroad = held[1]
        if "amp_domain" in values:
            self.wires.hosts[values["amp_domain"]] = place
        return place


@dataclass(eq=False)
class _Courier:
    service: AmpService

    async def find(self, address):
        return "amp" if await self.service.find(address) else ""

    async def carry(self, _protocol, parcel):
        return await self.service.carry(parcel)


@asynccontextmanager
async def net(folder, clock=None, http=None):
    """`http` is a real client, for gateways that listen."""
    async with AsyncExitStack() as stack:
        made = Net(folder, stack, clock or fakes.Clock(), http)
        try:
            yield made
        finally:
            await made.stop()


@dataclass
class Stranger:
    """Another provider, of which only the key and the documents exist."""

    net: Net
    domain: str = "stranger.example"
    signer: ForeignSigner = field(default_factory=lambda: ForeignSigner.generate("Ed25519"))
    agent: ForeignSigner = field(default_factory=lambda: ForeignSigner.generate("Ed25519"))
    document: dict = field(default_factory=dict)
    place: object = None
    serial: int = 0

    def __post_init__(self):
        self.net.wires.hosts[self.domain] = self._serve

    def _serve(self, _method, url, _headers, _body):
        if not url.endswith("/.well-known/agent-messaging.json"):
            return 404
        document = {
            "version": "AMP1", "endpoint": f"https://{self.domain}/api/v1",
            "provider": self.domain, "public_key": self.signer.public.pem(),
        } | self.document  # fmt: skip
        return Reply(200, {}, json.dumps(document).encode())

    def letter(self, to, text="Hello", **changes):
        """The body of a delivery: an envelope signed by an agent of this provider."""
        self.serial += 1
        now = self.net.clock()
        envelope = {
            "version": "amp/0.1", "id": f"msg_{now // 1000}_{self.serial:08x}",
            "from": f"eve@acme.{self.domain}", "to": to, "subject": "Subject",
            "priority": "normal", "timestamp": rfc3339(now), "in_reply_to": None,
        } | changes  # fmt: skip
        payload = {"type": "request", "message": text}
        if "signature" not in changes:
            envelope["signature"] = signing.sign(envelope, payload, self.agent.sign)
        key = self.agent.public.pem()
        return {"envelope": envelope, "payload": payload, "sender_public_key": key}

    async def deliver(
        self, place, body, *, headers=None, stamp=0, signer=None, secure=True, peer=ELSEWHERE,
        text=None,
    ):  # fmt: skip
        """Bring it, signed by the provider."""
        data = text if text is not None else json.dumps(body).encode()
        stamp = stamp or self.net.clock() // 1000
        signature = (signer or self.signer).sign(f"{stamp}.".encode() + data)
        sent = {
            "Content-Type": "application/json", "X-AMP-Provider": self.domain,
            "X-AMP-Timestamp": str(stamp),
            "X-AMP-Signature": base64.b64encode(signature).decode(),
        } | (headers or {})  # fmt: skip
        sent = {name: value for name, value in sent.items() if value is not None}
        return await place.request(
            "POST", "/v1/federation/deliver", body=data, headers=sent, peer=peer, secure=secure
        )
