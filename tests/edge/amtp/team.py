"""An AMTP gateway and its callers: the owner with an admin key, and agents with theirs."""

from contextlib import asynccontextmanager
from dataclasses import dataclass

from edge.gateway_harness import Place, gateway, only_amtp


@dataclass
class Team:
    """The gateway of one node, and who asks it."""

    here: Place
    admin: str

    async def register(self, name, **more):
        """A new agent; its API key."""
        reply = await self.here.post(
            "/v1/admin/agents", {"address": name, "delivery_mode": "pull", **more},
            headers={"X-Admin-Key": self.admin},
        )  # fmt: skip
        assert reply.status == 201, reply.text
        return reply.json["api_key"]

    async def send(self, sender, *to, token="", peer="127.0.0.1", said=None, **members):
        """One POST of a message; the reply."""
        body = {"sender": f"{sender}@localhost", "recipients": [self.full(e) for e in to]}
        body |= members
        return await self.here.post("/v1/messages", body, token=token, peer=peer, headers=said)

    @staticmethod
    def full(name):
        return name if "@" in name else f"{name}@localhost"

    async def inbox(self, name, token, query=""):
        """The answer of one GET of an inbox."""
        reply = await self.here.get(f"/v1/inbox/{self.full(name)}{query}", token=token)
        assert reply.status == 200, reply.text
        return reply.json

    async def ack(self, name, token, identifier):
        return await self.here.delete(f"/v1/inbox/{self.full(name)}/{identifier}", token=token)

    async def status(self, identifier, **options):
        return await self.here.get(f"/v1/messages/{identifier}/status", **options)

    async def as_admin(self, method, path, json=None):
        return await self.here.request(method, path, json, headers={"X-Admin-Key": self.admin})


def error_of(reply):
    """The code of the error in a reply."""
    return reply.json["error"]["code"]


def key_in(path):
    """The first admin key of a file."""
    lines = path.read_text().splitlines()
    return next(line for line in lines if line and not line.startswith("#"))


@asynccontextmanager
async def team(folder, **options):
    """A gateway that speaks AMTP only."""
    async with gateway(folder, services=only_amtp, **options) as here:
        yield Team(here, key_in(here.shared.values.admin_keys))
