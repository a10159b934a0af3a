"""AMTP 1.0, sections 3.3 and 14.2.2: HTTP/2, and how little a message weighs.

One test for a row of the checklist of AMTP 1.0; the number is the row's.
"""

import json

import trio
from edge.amtp.team import team
from edge.http.serving import HOST, certificate
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived, ResponseReceived, StreamEnded

from ampd.edge.http.app import App
from ampd.edge.http.guard import Guard
from ampd.edge.http.server import Server, Tls, bind


async def asked(speaker, stream, method, path, body=b"", token=""):
    """The status and the body of the answer to one request over HTTP/2."""
    number = speaker.get_next_available_stream_id()
    head = [
        (":method", method), (":scheme", "https"), (":authority", "localhost"), (":path", path),
        ("content-type", "application/json"), ("authorization", f"Bearer {token}"),
    ]  # fmt: skip
    speaker.send_headers(number, head, end_stream=not body)
    if body:
        speaker.send_data(number, body, end_stream=True)
    status, found = 0, b""
    while True:
        await stream.send_all(speaker.data_to_send())
        for event in speaker.receive_data(await stream.receive_some(65536)):
            if isinstance(event, ResponseReceived):
                status = int(dict(event.headers)[":status"])
            if isinstance(event, DataReceived):
                found += event.data
            if isinstance(event, StreamEnded) and event.stream_id == number:
                return status, json.loads(found)


async def test_row_010_the_gateway_speaks_http_2(tmp_path):
    cert, key, trust = certificate(tmp_path)
    trust.set_alpn_protocols(["h2"])
    async with team(tmp_path) as us, trio.open_nursery() as nursery:
        alice = await us.register("alice")
        app = App([us.here.amtp], lambda _m, segments, _b: ("amtp", tuple(segments)), Guard())
        server = Server(app, bind(HOST), Tls(cert, key).context())
        await nursery.start(server.run)
        async with await trio.open_tcp_stream(*server.address) as plain:
            stream = trio.SSLStream(plain, trust, server_hostname="localhost")
            await stream.do_handshake()
            assert stream.selected_alpn_protocol() == "h2"
            speaker = H2Connection(H2Configuration(header_encoding="utf-8"))
            speaker.initiate_connection()
            message = {
                "sender": "alice@localhost", "recipients": ["alice@localhost"], "payload": {"n": 1},
            }  # fmt: skip
            body = json.dumps(message).encode()
            status, sent = await asked(speaker, stream, "POST", "/v1/messages", body, alice)
            assert (status, sent["status"]) == (202, "delivered")
            path = "/v1/inbox/alice@localhost"
            status, inbox = await asked(speaker, stream, "GET", path, token=alice)
            assert (status, inbox["messages"][0]["payload"]) == (200, {"n": 1})
        nursery.cancel_scope.cancel()


async def test_row_085_a_message_weighs_less_than_a_kilobyte_more_than_it_says(tmp_path):
    """The journal; the index beside it is a cache. Throughput is measured by tests/bench."""
    async with team(tmp_path) as us:
        await us.register("alice")
        await us.register("bob")
        payload = {"text": "x" * 500}
        said = len(json.dumps(payload))
        before = us.here.node.store.view.execute("SELECT count(*) FROM messages").fetchone()[0]
        journal = us.here.node.folder
        sizes = []
        for _ in range(2):
            for _ in range(20):
                await us.send("alice", "bob", subject="s", payload=payload)
            sizes.append(_ends(journal))
        assert before == 0
        assert (sizes[1] - sizes[0]) / 20 - said < 1024


def _ends(folder):
    """Bytes of the journal that are in use: its segments are made at full length."""
    return sum(len(path.read_bytes().rstrip(b"\0")) for path in (folder / "journal").glob("*.log"))
