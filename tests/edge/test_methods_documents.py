"""The JSON documents of the interface contract, field by field (edge/documents.py)."""

import re

import fakes
import pytest
from edge.local_node import place

from ampd.core.queues import Queue, Queues
from ampd.core.relays import RelayState
from ampd.crypto.keys import SigningKey
from ampd.edge import documents
from ampd.edge.peer_state import PeerState
from ampd.model.address import NodeUri, key_text

SUMMARY = {
    *("number", "id", "from", "to", "subject", "type", "priority", "thread_id", "in_reply_to"),
    *("sent_at", "received_at", "state", "trust", "encrypted", "flags", "size", "preview"),
    "attachments",
}
SUMMARY_TOO = {"reason", "missing_before", "status"}
READ = SUMMARY | {"body", "payload", "context", "content", "via", "signer"}
WHOAMI = {
    *("name", "address", "fingerprint", "contact", "alias", "description", "capabilities"),
    *("domain", "created"),
}
CONTACT = {"address", "fingerprint", "trust", "first_seen", "source", "relays", "note"}
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


@pytest.fixture
async def here(tmp_path):
    async with place(tmp_path) as found:
        await found.node.agent("alice", alias="Alice", capabilities=("review",))
        async with fakes.node(tmp_path, "there") as other:
            await other.agent("bob")
            await found.node.meet(other)
        yield found


@pytest.fixture
async def client(here):
    async with here.client() as found:
        yield found


async def test_whoami(client):
    shown = await client.get("agent.show")
    assert set(shown) == WHOAMI | {"socket"}
    assert shown["capabilities"] == ["review"] and TIME.fullmatch(shown["created"])
    listed = await client.get("agent.list")
    assert listed == {"agents": [shown]}
    assert set(await client.get("agent.create", name="carol")) == WHOAMI | {"socket", "is_new"}
    assert set(await client.get("agent.remove", name="carol")) == WHOAMI | {"socket", "purged"}


async def test_hello(client):
    assert set(await client.get("system.hello")) == {"version", "protocol", "agent", "domain"}


async def test_send(client):
    sent = await client.get("message.send", to=["bob@there.local", "alice"])
    assert set(sent) == {"id", "thread_id", "status", "recipients"}
    assert sent["recipients"] == [
        {"address": "bob@there.local", "status": "queued", "via": None, "error": None},
        {"address": "alice@here.local", "status": "delivered", "via": "local", "error": None},
    ]
    assert sent["status"] == "queued"


async def test_inbox(client):
    sent = await client.get("message.send", to=["alice"], subject="s", text="a  b\nc" * 100)
    listed = await client.get("message.list")
    assert set(listed) == {"agent", "unread", "total", "messages", "quarantined", "more"}
    (summary,) = listed["messages"]
    assert set(summary) == SUMMARY | SUMMARY_TOO
    assert (listed["agent"], listed["unread"], listed["total"]) == ("alice@here.local", 1, 1)
    assert summary["id"] == sent["id"] and summary["from"] == "alice@here.local"
    assert summary["to"] == ["alice@here.local"] and summary["attachments"] == []
    assert TIME.fullmatch(summary["sent_at"]) and TIME.fullmatch(summary["received_at"])
    assert "\n" not in summary["preview"] and len(summary["preview"]) <= 120
    thread = await client.get("message.thread", id=sent["id"])
    assert [each["id"] for each in thread["messages"]] == [sent["id"]]


async def test_read(client):
    payload, context = {"a": [1, 2.5, None, True, "é"]}, ["c"]
    sent = await client.get(
        "message.send", to=["alice"], text="t", payload=payload, context=context, type="task",
        priority="high",
    )  # fmt: skip
    document = await client.get("message.get", ids=[sent["id"]])
    assert set(document) == {"messages"}
    (full,) = document["messages"]
    assert set(full) == READ | SUMMARY_TOO
    assert (full["body"], full["content"], full["via"]) == ("t", "t", "local")
    assert (full["payload"], full["context"]) == (payload, context)
    assert (full["type"], full["priority"], full["state"]) == ("task", "high", "unread")
    assert full["signer"] == (await client.get("agent.show"))["fingerprint"]


async def test_status_of_a_message(client):
    sent = await client.get("message.send", to=["bob@there.local", "alice"])
    status = await client.get("message.status", id=sent["id"], proof=True)
    assert set(status) == {"id", "status", "recipients", "receipts"}
    for each in status["recipients"]:
        assert set(each) == {
            "address", "status", "via", "attempts", "next_attempt_at", "error", "delivered_at",
            "read_at",
        }  # fmt: skip
    assert status["recipients"][0]["delivered_at"] is None
    assert TIME.fullmatch(status["recipients"][1]["delivered_at"])
    (receipt,) = status["receipts"]
    assert set(receipt) == {"address", "stage", "at", "receipt", "text"}


async def test_trace(client):
    sent = await client.get("message.send", to=["bob@there.local", "alice"])
    await client.get("message.get", ids=["1"])
    trace = await client.get("message.trace", id=sent["id"])
    assert set(trace) == {"id", "steps", "waiting_for"}
    assert {"at", "place", "what", "detail"} == set(trace["steps"][0])
    words = [step["what"] for step in trace["steps"]]
    assert words[:2] == ["signed", "queued"] and {"delivered", "read"} <= set(words)
    assert "bob@there.local" in trace["waiting_for"]


async def test_discover(client):
    document = await client.get("directory.list")
    assert set(document) == {"agents"}
    assert [each["address"] for each in document["agents"]] == [
        "alice@here.local", "bob@there.local",
    ]  # fmt: skip
    for each in document["agents"]:
        assert set(each) == {
            "address", "alias", "description", "capabilities", "fingerprint", "via", "online",
            "trust",
        }  # fmt: skip
    assert [each["via"] for each in document["agents"]] == ["local", "direct"]
    assert [each["trust"] for each in document["agents"]] == ["verified", "external"]
    for wanted, found in (({"domain": "THERE.local"}, 1), ({"capability": "review"}, 1),
                          ({"domain": "here.local", "capability": "none"}, 0)):  # fmt: skip
        assert len((await client.get("directory.list", **wanted))["agents"]) == found


async def test_contacts(client):
    for method, params in (
        ("contact.list", {}), ("contact.show", {"address": "bob"}),
        ("contact.block", {"address": "bob"}), ("contact.unblock", {"address": "bob"}),
        ("contact.remove", {"address": "bob"}),
    ):  # fmt: skip
        document = await client.get(method, **params)
        assert set(document) == {"contacts"}
        (known,) = document["contacts"]
        assert set(known) == CONTACT | {"state", "blocked"}
        assert TIME.fullmatch(known["first_seen"])
    assert await client.code("contact.show", address="bob") == "contact_unknown"


async def test_check(client):
    document = await client.get("journal.check")
    assert set(document) >= {"ok", "records", "damage"}
    assert document["ok"] and document["damage"] == [] and document["records"] > 0


@pytest.mark.parametrize(
    ("milliseconds", "text"),
    [
        (0, None), (None, None), (1, "1970-01-01T00:00:00.001Z"),
        (1_800_000_000_000, "2027-01-15T08:00:00.000Z"),
        (2**53, "9999-12-31T23:59:59.999Z"), (2**63, "9999-12-31T23:59:59.999Z"),
    ],
)  # fmt: skip
def test_times_are_rfc_3339_in_utc_with_milliseconds(milliseconds, text):
    assert documents.time_text(milliseconds) == text


NODE, RELAY = (SigningKey(bytes([n]) * 32).public for n in (1, 2))
WAITING = Queues({NODE: Queue(2, fakes.START)}, {RELAY: Queue(3, fakes.START + 1)})


def peer_state(node, state="away", **changes):
    """A node that was here, and is tried again."""
    fields = {
        "domain": "b.local", "endpoint": "10.0.0.2:4160", "found_by": "mdns", "rtt_ms": None,
        "last_error": "it hung up", "last_seen": fakes.START, "next_try": fakes.START + 1000,
    }  # fmt: skip
    return PeerState(node=node, state=state, **fields | changes)


def test_a_peer_says_the_way_when_it_was_here_what_is_wrong_and_what_waits():
    shown = documents.peer(peer_state(NODE), WAITING)
    assert shown == {
        "node": key_text(NODE), "domain": "b.local", "endpoint": "10.0.0.2:4160",
        "found_by": "mdns", "state": "away", "rtt_ms": None, "last_error": "it hung up",
        "last_seen": documents.time_text(fakes.START),
        "next_try": documents.time_text(fakes.START + 1000), "queued": 2,
        "oldest_queued_at": documents.time_text(fakes.START),
    }  # fmt: skip
    idle = documents.peer(peer_state(NODE, "connected"), Queues())
    assert (idle["queued"], idle["oldest_queued_at"]) == (0, None)


def test_a_relay_says_the_same_also_before_there_was_a_session():
    states = [RelayState(NodeUri(RELAY, "r.example", 4161), b"", "added")]
    (shown,) = documents.relays(states, [peer_state(RELAY, "away", next_try=None)], WAITING)
    assert shown == {
        "uri": f"amp://{key_text(RELAY)}@r.example:4161", "state": "away", "source": "added",
        "rtt_ms": None, "last_seen": documents.time_text(fakes.START), "next_try": None,
        "last_error": "it hung up", "queued": 3,
        "oldest_queued_at": documents.time_text(fakes.START + 1),
    }  # fmt: skip
    (unknown,) = documents.relays(states, [], Queues())
    assert (unknown["state"], unknown["last_seen"], unknown["queued"]) == ("away", None, 0)
