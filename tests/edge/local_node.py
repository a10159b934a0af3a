"""A node with its local sockets, for the tests of the rooms behind them."""

import json
import socket
from contextlib import asynccontextmanager
from dataclasses import fields

import fakes
import trio

from ampd.edge.local_socket import LocalSocket
from ampd.edge.methods import Rooms


class Client:
    """A local program that speaks lines of JSON."""

    def __init__(self, stream):
        self.stream = stream
        self._rest = b""
        self._id = 0

    async def say(self, text):
        """Send bytes, or a document as one line."""
        if not isinstance(text, bytes):
            text = json.dumps(text).encode() + b"\n"
        await self.stream.send_all(text)

    async def hear(self):
        """The next document; None when the daemon has hung up."""
        while b"\n" not in self._rest:
            try:
                data = await self.stream.receive_some()
            except trio.BrokenResourceError:  # it hung up while we had more to say
                data = b""
            if not data:
                return None
            self._rest += data
        line, self._rest = self._rest.split(b"\n", 1)
        return json.loads(line, parse_constant=_never)

    async def ask(self, method, **params):
        """The answer to one request."""
        self._id += 1
        await self.say({"jsonrpc": "2.0", "id": self._id, "method": method, "params": params})
        answer = await self.hear()
        assert answer["id"] == self._id
        return answer

    async def get(self, method, **params):
        """The result of one request."""
        answer = await self.ask(method, **params)
        assert "result" in answer, answer
        return answer["result"]

    async def code(self, method, **params):
        """The code of the error that answers one request."""
        answer = await self.ask(method, **params)
        return answer["error"]["data"]["code"]


def _never(name):
    raise AssertionError(f"{name} is no JSON")


class NoRelays:
    """A node that has no relays asks none."""

    async def find(self, addresses):
        await trio.lowlevel.checkpoint()


class Place:
    """A running node and its sockets."""

    def __init__(self, node, folder):
        self.node, self.folder = node, folder
        self.main = folder / "s" / "ampd.sock"
        self.stopped = False
        self.local = LocalSocket(self._rooms(), self.main, folder / "s" / "agents")

    def _rooms(self):
        node = self.node

        async def agents_changed():
            self.local.follow_agents()
            await trio.lowlevel.checkpoint()

        def stop():
            self.stopped = True

        rooms = {
            "store": node.store, "agents": node.agents, "contacts": node.contacts,
            "submission": node.submission, "lists": node.lists, "reading": node.reading,
            "flagging": node.flagging, "marks": node.marks,
            "tracking": node.tracking, "directory": node.directory, "checkup": fakes.checkup(node),
            "status": lambda: {"version": "0"}, "peers": list, "agents_changed": agents_changed,
            "settling": lambda: 0.0, "stop": stop,
            "socket_of": lambda name: str(self.folder / "s" / "agents" / f"{name}.sock"),
            "abroad": getattr(node, "abroad", None),
        }  # fmt: skip
        others = {each.name: None for each in fields(Rooms)}  # rooms with tests of their own
        mine = {**rooms, "relays": NoRelays()}
        return Rooms(**{name: mine.get(name) for name in others})

    async def follow_agents(self):
        """Every agent has its socket when this returns."""
        self.local.follow_agents()
        for agent in self.node.agents:
            while not (self.folder / "s" / "agents" / f"{agent.name}.sock").exists():
                await trio.lowlevel.checkpoint()

    async def raw(self, agent=""):
        """A stream to the main socket, or to an agent's."""
        path = self.folder / "s" / "agents" / f"{agent}.sock" if agent else self.main
        stream = trio.socket.socket(socket.AF_UNIX)
        try:
            await stream.connect(str(path))
        except OSError:
            stream.close()
            raise
        return trio.SocketStream(stream)

    @asynccontextmanager
    async def client(self, agent="", acting=""):
        """A program on the main socket, or on an agent's; `acting` is who it says it is."""
        async with await self.raw(agent) as stream:
            found = Client(stream)
            if acting:
                await found.get("system.hello", agent=acting)
            yield found


@asynccontextmanager
async def place(folder, dress=None, **options):
    """A node and its sockets; `dress` may give it more rooms before they are open."""
    async with fakes.node(folder, **options) as node:
        if dress is not None:
            dress(node)
        found = Place(node, folder)
        async with trio.open_nursery() as nursery:
            await nursery.start(found.local.serve)
            yield found
            nursery.cancel_scope.cancel()
