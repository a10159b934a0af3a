"""Several AMTP gateways, each with a node behind it, that reach each other."""

import random
import socket
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import dns.message
import dns.rdatatype
import dns.rrset
import trio
from edge.amtp.team import Team, key_in
from edge.gateway_harness import gateway, only_amtp

from ampd.core.abroad import Abroad
from ampd.core.agents import Profile
from ampd.core.letters import Letters
from ampd.crypto.foreign_keys import ForeignSigner
from ampd.edge.http.client import Reply
from ampd.edge.http.server import Server, bind
from ampd.model.errors import Unavailable
from ampd.protocol.amtp.dns_record import KeyRecord

HOST = ("127.0.0.1", 0)


class Courier:
    """The AMTP half of a gateway, as core/abroad.py sees it."""

    def __init__(self, service):
        self._service = service

    async def find(self, address):
        return "amtp" if await self._service.find(address) else ""

    async def carry(self, protocol, parcel):
        return await self._service.carry(parcel)


class Wire:
    """Brings requests to the gateways that are named by their hosts; no socket, no DNS.

    `script(method, url, body)` may answer in their place with a status, or raise.
    """

    def __init__(self):
        self.towns = {}
        self.log = []
        self.script = lambda method, url, body: None
        self.news = trio.Event()

    async def send(self, method, url, *, headers=None, body=b"", **_options):
        self.log.append((method, url, body, dict(headers or {})))
        self.news.set()
        self.news = trio.Event()
        await trio.lowlevel.checkpoint()
        answer = self.script(method, url, body)
        if isinstance(answer, int):
            return Reply(answer, {}, b"")
        if answer is not None:
            return answer
        host, _, path = url.partition("://")[2].partition("/")
        if host not in self.towns:
            raise Unavailable(f"{host} does not answer")
        sent = {k: v for k, v in (headers or {}).items() if k != "Host"}
        reply = await self.towns[host].request(
            method, f"/{path}", body=body, headers=sent, peer="192.0.2.7"
        )
        return Reply(reply.status, reply.headers, reply.body)

    async def heard(self, count):
        while len(self.log) < count:
            await self.news.wait()


@dataclass
class Town(Team):
    """A gateway for the domain NAME.example."""

    name: str = ""
    abroad: Abroad = None
    url: str = ""
    keys: dict = field(default_factory=dict)

    @property
    def domain(self):
        return f"{self.name}.example"

    def full(self, name):
        return name if "@" in name else f"{name}@{self.domain}"

    async def register(self, name, **more):
        self.keys[name] = await super().register(name, **more)
        return self.keys[name]

    async def succeed(self, name):
        """Another agent takes the name, as `amp agents remove --purge` and `amp init` do it."""
        agents = self.here.rooms.agents
        await agents.remove(name, purge=True)
        self.here.clock.time += 1000
        await agents.create(name, Profile())
        reply = await self.as_admin("POST", f"/v1/admin/agents/{name}/rotate-key")
        self.keys[name] = reply.json["api_key"]

    async def write(self, sender, *to, **members):
        """One message; the reply, which is a success."""
        body = {"version": "1.0", "sender": self.full(sender), "payload": {"text": "hi"}}
        body |= {"recipients": [self.full(each) for each in to], **members}
        reply = await self.here.post("/v1/messages", body)
        assert reply.status in (200, 202), reply.text
        return reply.json

    async def mail(self, name, count=1):
        """The agent's un-acked messages, once there are so many."""
        agent = self.here.rooms.agents.named(name)
        while True:
            changed = self.here.rooms.store.changed(("box", agent.key))
            found = (await self.inbox(name, self.keys[name]))["messages"] or []
            if len(found) >= count:
                return found
            await changed.wait()

    async def ended(self, identifier):
        """The status of a message, once no recipient's copy is on its way any more."""
        rows = self.here.rooms.agents
        while True:
            changes = [self.here.rooms.store.changed(("sent", a.key)) for a in rows]
            found = (await self.as_admin("GET", f"/v1/messages/{identifier}/status")).json
            if {each["status"] for each in found["recipients"]} <= {"delivered", "failed"}:
                return found
            await any_of(changes)


async def any_of(events):
    """Wait for one of several events."""
    async with trio.open_nursery() as nursery:

        async def one(event):
            await event.wait()
            nursery.cancel_scope.cancel()

        for event in events:
            nursery.start_soon(one, event)


def foreign_message(**members):
    """What the gateway of sender.example brings for bob at home.example."""
    return {
        "version": "1.0",
        "message_id": "0198f000-0000-7000-8000-000000000001",
        "idempotency_key": "0b3a1f7e-1111-4222-8333-444455556666",
        "timestamp": "2027-01-15T07:59:00Z",
        "sender": "orders@sender.example",
        "recipients": ["bob@home.example"],
        "payload": {"text": "hello"},
        **members,
    }


async def bring(us, peer="192.0.2.7", **members):
    """What another gateway brings, and the answer."""
    return await us.here.post("/v1/messages", foreign_message(**members), peer=peer)


@asynccontextmanager
async def town(folder, name="home", *, bound=None, **values):
    """A gateway and its courier; with `bound` it listens there."""
    values.setdefault("federation", "open")
    async with gateway(
        folder, services=only_amtp, name=name, amtp_domain=f"{name}.example", **values
    ) as here:
        node, rooms = here.node, here.shared.rooms
        abroad = Abroad(
            node.store, node.agents, node.contacts, here.shared.foreign,
            Letters(node.store, here.clock), here.clock, random.Random(1),
        )  # fmt: skip
        object.__setattr__(rooms, "abroad", abroad)  # the harness makes nodes without one
        abroad.use(Courier(here.amtp), ("amtp",))
        here.nursery.start_soon(abroad.run)
        made = Town(here, key_in(here.shared.values.admin_keys), name, abroad)
        if bound is not None:
            await here.nursery.start(Server(here.app, bound).run)
        try:
            yield made
        finally:
            if hasattr(here.shared.http, "aclose"):
                await here.shared.http.aclose()


@asynccontextmanager
async def two_towns(folder, *, here=None, there=None, **both):
    """home.example and away.example on loopback sockets, each with the other in its settings."""
    bounds = [bind(HOST), bind(HOST)]
    urls = [f"http://127.0.0.1:{each.getsockname()[1]}" for each in bounds]
    home = {"resolve": {"away.example": urls[1]}, **both, **(here or {})}
    away = {"resolve": {"home.example": urls[0]}, **both, **(there or {})}
    async with (
        town(folder, "home", bound=bounds[0], **home) as one,
        town(folder, "away", bound=bounds[1], **away) as two,
    ):
        one.url, two.url = urls
        yield one, two


class Zone:
    """A DNS without sockets: `records` by name; a name that is an error is raised."""

    def __init__(self):
        self.records = {}
        self.asked = []

    async def txt(self, name):
        await trio.lowlevel.checkpoint()
        self.asked.append(name)
        found = self.records.get(name, [])
        if isinstance(found, Exception):
            raise found
        return list(found), 300

    async def addresses(self, host):
        await trio.lowlevel.checkpoint()
        return [host]


class Names:
    """A name server on loopback, over UDP, that has TXT records."""

    def __init__(self):
        self.records = {}  # name -> (ttl, texts)
        self.asked = []
        self.silent = False
        self._socket = trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM)

    @property
    def address(self):
        host, port = self._socket.getsockname()
        return f"{host}:{port}"

    async def run(self, task_status=trio.TASK_STATUS_IGNORED):
        await self._socket.bind(("127.0.0.1", 0))
        task_status.started()
        while True:
            data, peer = await self._socket.recvfrom(4096)
            question = dns.message.from_wire(data)
            answer = dns.message.make_response(question)
            name = question.question[0].name
            kind = question.question[0].rdtype
            self.asked.append((name.to_text(omit_final_dot=True), dns.rdatatype.to_text(kind)))
            ttl, texts = self.records.get(self.asked[-1][0], (0, ()))
            if kind == dns.rdatatype.TXT and texts:
                quoted = [
                    " ".join(f'"{t[i : i + 200]}"' for i in range(0, len(t), 200)) for t in texts
                ]
                answer.answer.append(dns.rrset.from_text(name, ttl, "IN", "TXT", *quoted))
            if not self.silent:
                await self._socket.sendto(answer.to_wire(), peer)


@asynccontextmanager
async def name_server():
    """Names, answering."""
    async with trio.open_nursery() as nursery:
        made = Names()
        await nursery.start(made.run)
        yield made
        nursery.cancel_scope.cancel()
        made._socket.close()


def key_file(folder, scheme="ES256", name="domain.pem"):
    """A signing key of a domain: its file, and the record to publish."""
    signer = ForeignSigner.generate(scheme)
    path = folder / name
    path.write_text(signer.to_pem())
    return path, str(KeyRecord(scheme, signer.public))
