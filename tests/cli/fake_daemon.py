"""A daemon that keeps the socket's contract, in a thread: the only stand-in of tests/cli.

It holds agents and messages in memory, answers one JSON-RPC document a line, remembers what it
was asked, and can be told to answer a method with an error. What it does not know is
"method not found", as the contract says.
"""

import json
import socket
import threading
from contextlib import suppress
from pathlib import Path

NODE = "desk.local"


class Refusal(Exception):
    def __init__(self, code, message, hint=""):
        super().__init__(message)
        self.error = {"code": -32000, "message": message, "data": {"code": code, "hint": hint}}


class FakeDaemon:
    """`with FakeDaemon(path) as daemon:`; `daemon.asked` is [(agent, method, params)]."""

    def __init__(self, path, agents=("alice",)):
        self.path = str(path)
        self.agents = {}
        self.messages = []
        self.asked = []
        self.errors = {}
        self.results = {}
        self.hang_up_before = []  # methods whose next request is not answered: the line goes dead
        self.silent = []  # methods that are never answered
        self.raw = {}  # method -> bytes that are written instead of an answer
        self.subscribers = []
        self.subscribed = threading.Event()
        self.connections = []
        self.stopped = threading.Event()
        for name in agents:
            self.create({"name": name})

    # -- as the daemon ------------------------------------------------------------------------

    def __enter__(self):
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(self.path)
        Path(self.path).chmod(0o600)
        self._listener.listen(64)
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *exc):
        self.close()

    def close(self):
        if self.stopped.is_set():
            return
        self.stopped.set()
        with suppress(FileNotFoundError):
            Path(self.path).unlink()  # first: once nobody answers, the path may be another's
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.drop_everybody()

    def drop_everybody(self):
        for connection in self.connections:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def _serve(self):
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.connections.append(connection)
            threading.Thread(target=self._talk, args=(connection,), daemon=True).start()

    def _talk(self, connection):
        state = {"agent": None}
        with connection, connection.makefile("rb") as lines, suppress(OSError):
            for line in lines:
                if not self._answer(json.loads(line), state, connection):
                    return

    def _answer(self, request, state, connection):
        method, params = request["method"], request.get("params", {})
        if method in self.hang_up_before:
            self.hang_up_before.remove(method)
            connection.shutdown(socket.SHUT_RDWR)
            return False
        self.asked.append((state["agent"], method, params))
        if method in self.silent:
            return True
        if method in self.raw:
            connection.sendall(self.raw[method])
            return False
        answer = {"jsonrpc": "2.0", "id": request["id"]}
        goes_on = True
        try:
            if method in self.errors:
                raise self.errors[method]
            answer["result"] = self.do(method, params, state)
        except Refusal as refusal:
            answer["error"] = refusal.error
            goes_on = method != "system.hello"
        if method == "inbox.subscribe":
            self.subscribers.append(connection)  # a push may overtake the answer, as it may there
            self.subscribed.set()
        connection.sendall(json.dumps(answer).encode() + b"\n")
        if method == "system.stop":
            self.close()
        return goes_on

    def push(self, method, params):
        """A notification to everybody who subscribed."""
        line = json.dumps({"jsonrpc": "2.0", "method": method, "params": params}).encode()
        for connection in self.subscribers:
            with suppress(OSError):
                connection.sendall(line + b"\n")

    # -- what it knows ------------------------------------------------------------------------

    def do(self, method, params, state):
        if method in self.results:
            return self.results[method]
        known = {
            "system.hello": self.hello,
            "system.status": lambda *_: self.status(),
            "system.stop": lambda *_: {"stopping": True},
            "agent.create": lambda params, _: self.create(params),
            "agent.show": lambda _, state: self.agents[self.acting(state)],
            "agent.remove": lambda params, _: self.remove(params["name"]),
            "agent.list": lambda *_: {"agents": list(self.agents.values())},
            "message.send": self.send,
            "message.list": self.list,
            "message.get": lambda params, _: self.get(params),
            "message.ack": lambda params, _: {"done": params.get("ids", ["all"])},
            "message.delete": lambda params, _: {"done": params["ids"]},
            "message.mark": lambda params, _: {"done": params["ids"]},
            "message.status": lambda params, _: self.message_status(params["id"]),
            "inbox.subscribe": self.subscribe,
            "journal.check": lambda *_: {"ok": True, "records": 12, "damage": []},
            "contact.list": lambda *_: {"contacts": []},
        }.get(method)
        if known is None:
            refusal = Refusal("", f"there is no method {method}")
            refusal.error = {"code": -32601, "message": str(refusal)}
            raise refusal
        return known(params, state)

    def hello(self, params, state):
        name = params.get("agent")
        if name and name not in self.agents:
            raise Refusal("agent_unknown", f"no agent {name} on this node", f"amp init {name}")
        state["agent"] = name or state["agent"]
        return {"version": "0.1.0", "protocol": 1, "agent": name, "domain": NODE}

    def acting(self, state):
        if state["agent"]:
            return state["agent"]
        if len(self.agents) != 1:
            names = ", ".join(self.agents)
            raise Refusal("ambiguous", f"several agents: {names}", "--agent NAME")
        return next(iter(self.agents))

    def create(self, params):
        name = params["name"]
        if name in self.agents:
            return {**self.agents[name], "is_new": False}
        self.agents[name] = {
            "name": name,
            "address": f"{name}@{NODE}",
            "fingerprint": "SHA256:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU",
            "contact": f"amp://aaaa/{name}@{NODE}",
            "alias": params.get("alias", ""),
            "description": params.get("description", ""),
            "capabilities": params.get("capabilities", []),
            "domain": NODE,
            "created": "2026-11-22T13:04:05.678Z",
        }
        return self.agents[name]

    def remove(self, name):
        if name not in self.agents:
            raise Refusal("agent_unknown", f"no agent named {name!r}", f"amp init {name}")
        return self.agents.pop(name)

    def status(self):
        return {
            "version": "0.1.0",
            "node": {"domain": NODE, "key": "aaaa", "listen": "0.0.0.0:4160"},
            "agents": [
                {"name": name, "address": f"{name}@{NODE}", "unread": self.unread()}
                for name in self.agents
            ],
            "peers": [],
            "relays": [],
            "outbox": 0,
            "mailbox": {"messages": len(self.messages), "bytes": 2048},
            "warnings": [],
            "uptime_s": 125,
        }

    def unread(self):
        return sum(m["state"] == "unread" for m in self.messages)

    def message(self, **fields):
        """Put a message into the mailbox."""
        number = len(self.messages) + 1
        message = {
            "number": number,
            "id": f"0198f3c2-0000-7000-8000-{number:012d}",
            "from": f"bob@{NODE}",
            "to": [f"alice@{NODE}"],
            "subject": f"Subject {number}",
            "type": "notification",
            "priority": "normal",
            "thread_id": f"0198f3c2-0000-7000-8000-{number:012d}",
            "in_reply_to": None,
            "sent_at": "2026-11-22T13:04:05.678Z",
            "received_at": "2026-11-22T13:04:05.700Z",
            "state": "unread",
            "trust": "verified",
            "encrypted": True,
            "flags": [],
            "size": 5,
            "preview": "Hello",
            "attachments": [],
            "body": "Hello",
            "payload": None,
            "context": None,
            "content": "Hello",
            "via": "local",
            "signer": "SHA256:x",
            **fields,
        }
        self.messages.append(message)
        return message

    def send(self, params, state):
        self.acting(state)
        number = len(self.messages) + 1
        identity = f"0198f3c2-0000-7000-8000-{number:012d}"
        recipients = [
            {"address": to, "status": "delivered", "via": "local", "error": None}
            for to in params["to"]
        ]
        return {
            "id": identity,
            "thread_id": identity,
            "status": "delivered",
            "recipients": recipients,
        }

    def list(self, params, state):
        name = self.acting(state)
        fits = [m for m in self.messages if not params.get("unread") or m["state"] == "unread"]
        if "before" in params:
            fits = [m for m in fits if m["number"] < int(params["before"])]
        limit = params.get("limit", 50)
        return {
            "agent": f"{name}@{NODE}",
            "unread": self.unread(),
            "total": len(self.messages),
            "quarantined": 0,
            "more": int(len(fits) > limit),
            "messages": fits[-limit:],
        }

    def get(self, params):
        found = []
        for wanted in params["ids"]:
            fits = [m for m in self.messages if wanted in (str(m["number"]), m["id"])]
            if not fits:
                raise Refusal("message_unknown", f"no message {wanted}", "amp inbox --all")
            found += fits
        return {"messages": found}

    def message_status(self, identity):
        recipient = {
            "address": f"bob@{NODE}",
            "status": "delivered",
            "via": "local",
            "attempts": 1,
            "next_attempt_at": None,
            "error": None,
            "delivered_at": "2026-11-22T13:04:06.000Z",
            "read_at": None,
        }
        return {"id": identity, "status": "delivered", "recipients": [recipient]}

    def subscribe(self, params, state):
        return {"subscription": 1, "last": len(self.messages)}
