"""A server on loopback, and callers that say exactly what they want to say."""

import ssl
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import trio
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from edge.gateway_harness import Nothing
from trio_websocket import wrap_client_stream

from ampd.edge.http.app import App
from ampd.edge.http.guard import Guard
from ampd.edge.http.server import Server, bind
from ampd.edge.http.words import Answer, Route, SocketRoute

HOST = ("127.0.0.1", 0)
WITHIN = 8  # seconds: what hangs fails, and before the server's own times would end it


class Echo(Nothing):
    """Says the body again; waits where it is told to."""

    def __init__(self):
        super().__init__("echo")
        self.arrived = trio.Event()
        self.go_on = trio.Event()

    def routes(self):
        return (
            Route("GET", "/hello", self._hello),
            Route("POST", "/echo", self._echo, any_type=True, limit=1 << 20),
            Route("GET", "/large", self._large),
            Route("GET", "/slow", self._slow),
        )

    def sockets(self):
        return (SocketRoute("/ws", self._talk),)

    async def _hello(self, request):
        return Answer.text(200, f"hello {request.peer} {request.base}")

    async def _echo(self, request):
        return Answer(200, request.body, {"Content-Type": "application/octet-stream"})

    async def _large(self, request):
        return Answer(200, bytes(64 << 20))

    async def _slow(self, request):
        self.arrived.set()
        await self.go_on.wait()
        return Answer.text(200, "at last")

    async def _talk(self, socket):
        await socket.accept()
        while True:
            await socket.send(await socket.receive())


@asynccontextmanager
async def serving(tls=None, service=None):
    """A running server; its port is `.address[1]`."""
    service = service or Echo()
    app = App([service], lambda _method, segments, _bearer: ("echo", tuple(segments)), Guard())
    server = Server(app, bind(HOST), tls)
    server.service = service
    with trio.fail_after(WITHIN):
        async with trio.open_nursery() as nursery:
            await nursery.start(server.run)
            yield server
            nursery.cancel_scope.cancel()


@asynccontextmanager
async def websocket(server, path="/ws"):
    """A maintained client's WebSocket."""
    host, port = server.address
    async with await trio.open_tcp_stream(host, port) as stream, trio.open_nursery() as nursery:
        yield await wrap_client_stream(nursery, stream, f"localhost:{port}", path)
        nursery.cancel_scope.cancel()


async def hear(stream):
    """All until the other side hangs up."""
    heard = b""
    try:
        while data := await stream.receive_some(65536):
            heard += data
    except trio.BrokenResourceError:
        pass  # it hung up while we had more to say
    return heard


async def exchange(server, said):
    """What a server answers to these bytes until it hangs up, which it is told to."""
    async with await trio.open_tcp_stream(*server.address) as stream:
        await stream.send_all(said)
        await stream.send_eof()
        return await hear(stream)


def statuses(heard):
    """The status codes of all answers in these bytes."""
    return [int(part[:3]) for part in heard.split(b"HTTP/1.1 ")[1:]]


def certificate(folder, host="localhost"):
    """A self-made certificate and its key, as PEM files; and what trusts it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, host)])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = folder / "cert.pem", folder / "key.pem"
    pem[0].write_bytes(made.public_bytes(serialization.Encoding.PEM))
    pem[1].write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    trust = ssl.create_default_context(cafile=str(pem[0]))
    return *pem, trust
