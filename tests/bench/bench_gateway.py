"""The gateways over HTTP: durable sends one at a time and over 8 connections, and a full inbox.

The requests are made beforehand; AMP's are signed as its clients sign. The client is this process,
one socket for each connection, and waits for nobody. What a bare answer costs (`GET /health`)
stands beside it: the rest is ours.
"""

import base64
import hashlib
import json
import selectors
import socket
import statistics
import time
import uuid
from pathlib import Path

from nacl.signing import SigningKey
from nodes import PATIENCE, Node, bodies
from nodes import sends as native
from table import Row

CONNECTIONS = 8
SENDS = 450  # one at a time, and then at once: 1000 may wait for one AMP agent
INBOX = 10_000
PREFIX = bytes.fromhex("302a300506032b6570032100")  # of an Ed25519 key in SPKI (RFC 8410)


def http(method, path, document=None, **headers):
    """One request, as bytes."""
    body = b"" if document is None else json.dumps(document, ensure_ascii=False).encode()
    lines = [f"{method} {path} HTTP/1.1", "Host: 127.0.0.1"]
    if document is not None:
        lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


class Web:
    """One HTTP connection to the gateway."""

    def __init__(self, port):
        self.socket = socket.create_connection(("127.0.0.1", port), PATIENCE)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._pending = b""

    def whole(self):
        """Read on; the answer's status and body once it is whole, else None."""
        data = self.socket.recv(1 << 20)
        if not data:
            raise RuntimeError("the gateway hung up")
        self._pending += data
        head, mark, rest = self._pending.partition(b"\r\n\r\n")
        if not mark:
            return None
        length = next(
            int(line.partition(b":")[2])
            for line in head.split(b"\r\n")
            if line.lower().startswith(b"content-length:")
        )
        if len(rest) < length:
            return None
        self._pending = rest[length:]
        return int(head.split()[1]), rest[:length]

    def ask(self, request):
        """One request; the answer's document."""
        self.socket.sendall(request)
        while (answer := self.whole()) is None:
            pass
        status, body = answer
        if status >= 300:
            raise RuntimeError((status, body))
        return json.loads(body)


class AmpAgent:
    """An agent of AMP, registered, that signs as the public clients do (contract, section 1.6)."""

    def __init__(self, web, name):
        self._key = SigningKey.generate()
        der = base64.b64encode(PREFIX + bytes(self._key.verify_key)).decode()
        pem = f"-----BEGIN PUBLIC KEY-----\n{der}\n-----END PUBLIC KEY-----"
        answer = web.ask(http("POST", "/api/v1/register", {
            "name": name, "tenant": "default", "public_key": pem, "key_algorithm": "Ed25519",
        }))  # fmt: skip
        self.address, self._token = answer["address"], answer["api_key"]

    def send(self, to, text):
        """The request that sends `text`."""
        payload = {"context": None, "message": text, "type": "notification"}
        packed = json.dumps(payload, ensure_ascii=False, separators=(",", ":"), sort_keys=True)
        digest = base64.b64encode(hashlib.sha256(packed.encode()).digest()).decode()
        signed = f"{self.address}|{to}|State|normal||{digest}".encode()
        signature = base64.b64encode(self._key.sign(signed).signature).decode()
        return http("POST", "/api/v1/route", {
            "to": to, "subject": "State", "priority": "normal", "payload": payload,
            "in_reply_to": None, "thread_id": None, "signature": signature,
        }, Authorization=f"Bearer {self._token}")  # fmt: skip

    def pending(self):
        """The request for the first page of its mail."""
        return http("GET", "/api/v1/messages/pending", Authorization=f"Bearer {self._token}")


def amtp_sends(count):
    """Requests that send 1 KiB from one AMTP agent to another."""
    texts = bodies()
    return [
        http("POST", "/v1/messages", {
            "version": "1.0", "message_id": str(uuid.uuid4()), "sender": "walter@localhost",
            "recipients": ["wanda@localhost"], "subject": "State",
            "payload": {"text": texts[number % len(texts)]},
        })
        for number in range(count)
    ]  # fmt: skip


def one_by_one(web, requests):
    """The seconds that each took, sorted."""
    took = []
    for request in requests:
        begin = time.perf_counter()
        web.ask(request)
        took.append(time.perf_counter() - begin)
    return sorted(took)


def at_once(port, requests):
    """The seconds that all took over CONNECTIONS connections, one request on each at a time."""
    todo = iter(requests)
    with selectors.DefaultSelector() as selector:
        begin = time.perf_counter()
        for _ in range(CONNECTIONS):
            web = Web(port)
            web.socket.sendall(next(todo))
            selector.register(web.socket, selectors.EVENT_READ, web)
        under_way = CONNECTIONS
        while under_way:
            for key, _ in selector.select(PATIENCE):
                answer = key.data.whole()
                if answer is None:
                    continue
                if answer[0] >= 300:
                    raise RuntimeError(answer)
                following = next(todo, None)
                if following is None:
                    under_way -= 1
                else:
                    key.data.socket.sendall(following)
        return time.perf_counter() - begin


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def sends(name, port, node, single, many):
    """The two rows of one protocol."""
    web = Web(port)
    bare = one_by_one(web, [http("GET", "/health")] * len(single))
    took = one_by_one(web, single)
    cpu = node.cpu()
    wall = at_once(port, many)
    cpu = (node.cpu() - cpu) / len(many) * 1e3
    worst, least = took[len(took) * 99 // 100] * 1e3, statistics.median(bare) * 1e3
    note = f"p99 {worst:.1f} ms; a bare answer {least:.2f} ms"
    yield Row(f"{name} over HTTP, durable, p50", "<=", 5, statistics.median(took) * 1e3, "ms", note)
    yield Row(f"{name} over HTTP, {CONNECTIONS} connections", ">=", 400, len(many) / wall, "/s",
              f"{cpu:.2f} ms of CPU each")  # fmt: skip


def first_page(name, web, request, count):
    """A page of a full mailbox."""
    took = one_by_one(web, [request] * count)
    held = len(web.ask(request)["messages"])
    note = f"{held} messages; p99 {took[count * 99 // 100] * 1e3:.0f} ms"
    return Row(
        f"{name}: first page of {INBOX:,}", "<=", 20, statistics.median(took) * 1e3, "ms", note
    )


def run(options):
    """The rows of this benchmark."""
    port = free_port()
    limits = json.dumps(
        dict.fromkeys(("route", "pending", "register", "api", "received", "hourly", "amtp"), 0)
    )
    settings = {"gateway_listen": f"127.0.0.1:{port}", "gateway_limits": limits}
    with Node("a", peer_listen="", **settings) as node:
        node.start()
        web = Web(port)
        key = keys_file(node)
        token = ""
        for name in ("walter", "wanda"):
            agent = {"address": name, "delivery_mode": "pull"}
            answer = web.ask(http("POST", "/v1/admin/agents", agent, X_Admin_Key=key))
            token = answer["agent"]["api_key"]
        alice, bob = AmpAgent(web, "alice"), AmpAgent(web, "bob")
        texts = bodies()
        amp = [alice.send(bob.address, f"{n} {texts[n % len(texts)]}") for n in range(2 * SENDS)]
        yield from sends("AMP", port, node, amp[:SENDS], amp[SENDS:])
        amtp = amtp_sends(2 * SENDS)
        yield from sends("AMTP", port, node, amtp[:SENDS], amtp[SENDS:])
        at_once(port, amtp_sends(INBOX - 2 * SENDS))
        inbox = http("GET", "/v1/inbox/wanda@localhost", Authorization=f"Bearer {token}")
        yield first_page("AMTP", Web(port), inbox, options.turns * 3)
        lines = native("bob")
        node.connect("walter").pipelined(lines[n % 20] for n in range(INBOX - 2 * SENDS))
        yield first_page("AMP", Web(port), bob.pending(), options.turns * 3)


def keys_file(node):
    """The first admin key."""
    path = node.connect().call("system.status")["gateway"]["admin_keys"]
    lines = Path(path).read_text().splitlines()
    return next(line for line in lines if line and not line.startswith("#"))
