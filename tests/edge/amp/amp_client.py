"""A client of AMP over the gateway's ASGI app, which signs as the bash clients do."""

import base64
from contextlib import asynccontextmanager

from edge.gateway_harness import gateway, only_amp

from ampd.crypto.foreign_keys import ForeignSigner
from ampd.protocol import raw_json
from ampd.protocol.amp import signing
from ampd.protocol.raw_json import Raw

PROVIDER = "aimaestro.local"


def b64(data):
    return base64.b64encode(data).decode("ascii")


class AmpClient:
    """An agent that registered over HTTP."""

    def __init__(self, here, name, tenant="default", signer=None):
        self.here, self.name, self.tenant = here, name, tenant
        self.signer = signer or ForeignSigner.generate("Ed25519")
        self.token = ""
        self.registered = {}

    @property
    def address(self):
        return f"{self.name}@{self.tenant}.{PROVIDER}"

    def asks(self, **changes):
        """The body of a registration, as amp-init makes it: a PEM without its final newline."""
        body = {
            "name": self.name, "tenant": self.tenant,
            "public_key": self.signer.public.pem().rstrip("\n"), "key_algorithm": "Ed25519",
        } | changes  # fmt: skip
        return {name: value for name, value in body.items() if value is not None}

    async def register(self, token="", **changes):
        reply = await self.here.post("/api/v1/register", self.asks(**changes), token=token)
        if reply.status in (200, 201):
            self.registered = reply.json
            self.token = reply.json["api_key"]
        return reply

    def message(self, to, subject="Hello", text="Hi", *, signed=True, **changes):
        """A flat body; `type` and `context` go into the payload."""
        kind, context = changes.pop("type", "request"), changes.pop("context", None)
        payload = changes.pop("payload", {"type": kind, "message": text, "context": context})
        body = {
            "to": to, "subject": subject, "priority": "normal", "payload": payload,
            "in_reply_to": None, "thread_id": None,
        } | changes  # fmt: skip
        if signed:
            said = {"from": self.address} | body
            body["signature"] = signing.sign(said, payload, self.signer.sign)
        return body

    def envelope(self, to, subject="Hello", text="Hi", **changes):
        """A full body, as external mode makes it."""
        payload = changes.pop("payload", {"type": "request", "message": text, "context": None})
        seconds = self.here.clock() // 1000
        identifier = f"msg_{seconds}_{len(subject):x}ab{abs(hash((subject, text))) % 65536:04x}"
        envelope = {
            "version": "amp/0.1", "id": identifier, "from": self.address, "to": to,
            "subject": subject, "priority": "normal", "timestamp": when(self.here.clock()),
            "thread_id": identifier, "in_reply_to": None,
            "expires_at": when(self.here.clock() + 7 * 86_400_000),
        } | changes  # fmt: skip
        envelope["signature"] = signing.sign(envelope, payload, self.signer.sign)
        return {"envelope": envelope, "payload": payload}

    async def post(self, path, json=None, **options):
        return await self.here.post(path, json, token=self.token, **options)

    async def get(self, path, **options):
        return await self.here.get(path, token=self.token, **options)

    async def delete(self, path, **options):
        return await self.here.delete(path, token=self.token, **options)

    async def ask(self, method, path, json=None, **options):
        return await self.here.request(method, path, json, token=self.token, **options)

    async def route(self, body):
        return await self.post("/api/v1/route", body)

    async def send(self, to, *args, **changes):
        """Send, and the answer."""
        reply = await self.route(self.message(to, *args, **changes))
        assert reply.status == 200, reply.text
        return reply.json

    async def pending(self, query=""):
        reply = await self.get("/api/v1/messages/pending" + query)
        assert reply.status == 200, reply.text
        return reply.json

    async def one(self):
        """The only message that waits."""
        found = (await self.pending())["messages"]
        assert len(found) == 1, found
        return found[0]


def when(milliseconds):
    """A time as date -u prints it."""
    from ampd.edge.amp.rendering import seconds_text

    return seconds_text(milliseconds)


def holds(item, key):
    """Whether a pending item's signature is that of a key, over what the client would hash."""
    payload = raw_json.parse(raw_json.write(item["payload"]))

    def check(signature, data):
        return key.verify(signature, data, "Ed25519")

    return signing.verify(item["envelope"], payload, check)


@asynccontextmanager
async def provider(folder, **values):
    """A gateway with AMP; `here.client(name)` is a client that has registered."""
    async with gateway(folder, services=only_amp, **values) as here:

        async def client(name, tenant="default", **asked):
            made = AmpClient(here, name, tenant, asked.pop("signer", None))
            reply = await made.register(**asked)
            assert reply.status == 201, reply.text
            return made

        here.client = client
        here.rooms.submission.message_bytes = 524_288  # as config.toml has it
        yield here


def raw(payload_text, **members):
    """A flat body whose payload is this JSON text, token for token."""
    return raw_json.write({**members, "payload": Raw(payload_text)}).encode()
