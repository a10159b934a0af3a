"""What the programs of one agent may take of a node: answers.py, shares.py, and who goes first."""

import json
from contextlib import suppress

import fakes
import pytest
import trio
from edge.local_node import Client, Place, place
from trio.testing import wait_all_tasks_blocked

from ampd.core import reading
from ampd.edge import answers, connection, json_rpc
from ampd.edge.line_budget import LineBudget
from ampd.edge.params import MAX_MESSAGES
from ampd.edge.shares import READERS
from ampd.protocol.local import LINE_LIMIT

_PATIENCE = 10  # seconds until a caller that nobody gives up fails its test
STOPPING = "the daemon is stopping: this was not begun"


@pytest.fixture
async def here(tmp_path):
    async with place(tmp_path) as found:
        for name in ("alice", "bob"):
            await found.node.agent(name)
        await found.follow_agents()
        yield found


@pytest.fixture
def alice(here):
    return here.node.agents.named("alice")


def request(number, method, **params):
    return {"jsonrpc": "2.0", "id": number, "method": method, "params": params}


def code(answer):
    return answer["error"]["data"]["code"]


# How many messages one request names, and how much it is answered


@pytest.mark.parametrize(
    ("method", "more"),
    [
        ("message.get", {}), ("message.ack", {}), ("message.delete", {}),
        ("message.mark", {"state": "read"}),
    ],
)  # fmt: skip
async def test_a_request_names_a_thousand_messages_and_no_more(here, alice, method, more):
    await here.node.send(alice, "alice")
    async with here.client("alice") as client:
        error = (await client.ask(method, ids=[1] * (MAX_MESSAGES + 1), **more))["error"]
        assert error["data"]["code"] == "too_large"
        assert error["data"]["hint"] == "name 1000 at a time"
        assert here.node.inbox(alice)[0].state == "unread"
        await client.get(method, ids=[1] * MAX_MESSAGES, **more)


async def test_a_message_that_is_named_often_is_there_once(here, alice):
    sent = await here.node.send(alice, "alice")
    names = ["1", 1, sent.id, sent.id[:13], sent.id[-12:]]
    async with here.client("alice") as client:
        assert len((await client.get("message.get", ids=names))["messages"]) == 1
        assert (await client.get("message.ack", ids=names))["done"] == [sent.id]
        assert (await client.get("message.delete", ids=names))["done"] == [sent.id]


async def test_o4_what_is_too_much_for_one_answer_is_refused_and_nothing_is_read(
    here, alice, monkeypatch
):
    monkeypatch.setattr(reading, "SHOWN_AT_ONCE", 3000)
    for _ in range(4):
        await here.node.send(alice, "alice", "x" * 700)
    async with here.client("alice") as client:
        error = (await client.ask("message.get", ids=[1, 2, 3, 4]))["error"]
        assert error["data"] == {"code": "too_large", "hint": "ask for 2 of them at a time"}
        assert {each.state for each in here.node.inbox(alice)} == {"unread"}
        assert len((await client.get("message.get", ids=[1, 2]))["messages"]) == 2


async def test_o4_one_message_is_shown_however_long_it_is(here, alice, monkeypatch):
    monkeypatch.setattr(reading, "SHOWN_AT_ONCE", 10)
    await here.node.send(alice, "alice", "x" * 700)
    async with here.client("alice") as client:
        assert len((await client.get("message.get", ids=[1]))["messages"]) == 1


async def test_z9_when_the_answers_to_a_batch_are_too_large_the_rest_is_not_begun(
    here, alice, monkeypatch
):
    monkeypatch.setattr(answers, "MAX_BATCH_ANSWER", 5000)
    await here.node.send(alice, "alice", "x" * 2000)
    get = [request(number, "message.get", ids=[1], peek=True) for number in range(4)]
    send = request(9, "message.send", to=["alice"])
    untold = {"jsonrpc": "2.0", "method": "message.send", "params": {"to": ["alice"]}}
    async with here.client("alice") as client:
        await client.say([*get, send, request(10, "message.wait"), untold])
        found = {answer["id"]: answer for answer in await client.hear()}
        assert sorted(found) == [0, 1, 2, 3, 9, 10]
        assert all("result" in found[number] for number in (0, 1))
        assert [code(found[number]) for number in (3, 9, 10)] == ["too_large"] * 3
        assert "result" in await client.ask("system.hello"), "and the connection goes on"
    assert len(here.node.inbox(alice)) == 2, "what has no answer is carried out"


@pytest.mark.parametrize("part", [b"{},", b"[],", b'{"a":[]},', b'"",{},[],'])
async def test_a_line_of_countless_arrays_and_objects_is_refused_unread(here, part):
    line = b'{"payload": [' + part * (LINE_LIMIT // len(part) - 10) + b"1]}\n"
    async with here.client("alice") as client, trio.open_nursery() as nursery:
        nursery.start_soon(client.say, line)
        answer = await client.hear()
        assert (answer["id"], code(answer)) == (None, "too_large")
        assert "result" in await client.ask("system.hello"), "and the connection goes on"


async def test_a_text_may_have_as_many_brackets_as_it_likes(here, alice, monkeypatch):
    monkeypatch.setattr(json_rpc, "MAX_NESTED", 100)
    text = '{["\\' * 1000
    async with here.client("alice") as client:
        await client.get("message.send", to=["alice"], text=text)
        assert here.node.bodies(alice) == [text]
        payload = [{}] * 99
        await client.say(request(1, "message.send", to=["alice"], payload=payload))
        assert code(await client.hear()) == "too_large"


async def test_a_payload_over_the_limit_is_refused_before_anything_is_done_for_it(
    here, alice, monkeypatch
):
    def never(*_, **__):
        raise AssertionError("it was written")

    monkeypatch.setattr(here.node.store, "write", never)
    async with here.client("alice") as client:
        for part in ({"text": "x"}, {"payload": "x"}, {"context": "x"}):
            ((name, value),) = part.items()
            ask = {name: value * (fakes.LIMIT + 1)}
            assert code(await client.ask("message.send", to=["alice"], **ask)) == "too_large"


# Z8: what was not taken yet


@pytest.mark.parametrize("batch", [True, False])
async def test_z8_sh3_whoever_does_not_take_large_answers_gives_way_and_no_other(
    here, alice, batch
):
    here.local._methods.shares.answers = LineBudget(most=1_000_000)
    bob = here.node.agents.named("bob")
    for agent, name in ((alice, "alice"), (bob, "bob")):
        for _ in range(5):
            await here.node.send(agent, name, "x" * 40_000)
    many = [request(number, "message.get", ids=[1, 2, 3, 4, 5]) for number in range(2)]
    async with here.client("bob") as reader:
        deaf = [Client(await here.raw("alice")) for _ in range(3)]
        for client in deaf:
            for document in [many] if batch else many:
                await client.say(document)
        with trio.fail_after(_PATIENCE):
            while here.local._connections["alice"] == 3:
                await trio.lowlevel.checkpoint()
        assert len((await reader.get("message.get", ids=[1, 2, 3, 4, 5]))["messages"]) == 5
        for client in deaf:
            with suppress(trio.BrokenResourceError):
                await client.stream.aclose()


# SH1, SH2: memory, and the loop


async def test_sh1_of_one_agent_few_requests_have_mail_in_memory_and_nobody_else_waits(here):
    alices = here.local._methods.shares.readers("alice")
    async with here.client("alice") as client, here.client("bob") as other:
        for borrower in range(READERS):
            alices.acquire_on_behalf_of_nowait(borrower)
        await client.say(request(1, "message.list"))
        assert (await other.get("message.list"))["total"] == 0
        assert alices.statistics().tasks_waiting == 1
        alices.release_on_behalf_of(0)
        assert (await client.hear())["id"] == 1


@pytest.mark.parametrize(
    ("method", "params"),
    [
        ("message.get", {"ids": [1]}), ("message.list", {}), ("message.thread", {"id": 1}),
        ("message.wait", {}), ("inbox.subscribe", {"after": 0}),
    ],
)  # fmt: skip
async def test_sh1_everything_that_shows_mail_has_its_turn(here, alice, method, params):
    await here.node.send(alice, "alice")
    alices = here.local._methods.shares.readers("alice")
    for borrower in range(READERS):
        alices.acquire_on_behalf_of_nowait(borrower)
    async with here.client("alice") as client:
        await client.say(request(1, method, **params))
        with trio.fail_after(_PATIENCE):
            while not alices.statistics().tasks_waiting:
                await trio.lowlevel.checkpoint()


async def test_sh2_one_long_line_of_an_agent_is_read_at_a_time(here):
    line = json.dumps(request(1, "system.hello")).encode() + b" " * 100_000 + b"\n"
    async with here.client("alice") as client, here.client("bob") as other:
        async with here.local._methods.shares.long_line("alice"):
            await client.say(line)
            await other.say(line)
            assert (await other.hear())["id"] == 1
            await wait_all_tasks_blocked()
            await client.say(request(2, "system.hello"))
        assert [(await client.hear())["id"] for _ in range(2)] == [1, 2]


# U7: sends of one agent do not wait for those of another


async def test_u7_who_has_much_at_the_store_keeps_nobody_else_waiting(here, alice):
    async with here.client("alice") as flood, here.client("bob") as client:
        async with here.node.store.turns.of(alice.key, 1000):
            await flood.say(
                [request(number, "message.send", to=["alice"]) for number in range(100)]
            )
            await flood.say(request("ack", "message.ack", all=True))
            assert (await client.get("message.send", to=["bob"]))["status"] == "delivered"
            assert here.node.inbox(alice) == []
        assert len(await flood.hear()) == 100


async def test_u7_a_batch_of_any_size_is_kept_in_order_some_at_a_time(here, alice, monkeypatch):
    sizes = []
    real = here.node.submission.send_many

    async def send_many(agent, works):
        sizes.append(len(works))
        return await real(agent, works)

    monkeypatch.setattr(here.node.submission, "send_many", send_many)
    batch = [request(n, "message.send", to=["alice"], text=str(n)) for n in range(1000)]
    async with here.client("alice") as client:
        await client.say(batch)
        assert [answer["id"] for answer in await client.hear()] == list(range(1000))
    assert here.node.bodies(alice, limit=1000) == [str(number) for number in range(1000)]
    assert max(sizes) == 64 and sum(sizes) == 1000


# Z7: what has no turn when the daemon stops


async def test_z7_what_was_not_begun_is_refused_when_the_daemon_stops(tmp_path, monkeypatch):
    monkeypatch.setattr(connection, "BEGIN_WITHIN", 0.0)
    async with fakes.node(tmp_path) as node, trio.open_nursery() as nursery:
        here = Place(node, tmp_path)
        alice = await node.agent("alice")
        await nursery.start(here.local.serve)
        lines = [request(number, "message.send", to=["alice"]) for number in range(3)]
        lines[1:1] = [request(9, "message.list")]
        client = Client(await here.raw())
        async with node.store.turns.of(alice.key, 1000):
            await client.say(b"".join(json.dumps(line).encode() + b"\n" for line in lines))
            await wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
            with trio.CancelScope(shield=True):
                found = [await client.hear() for _ in lines]
        assert [each["id"] for each in found] == [0, 9, 1, 2]
        assert {each["error"]["message"] for each in found} == {STOPPING}
        assert {code(each) for each in found} == {"unavailable"}
        with trio.CancelScope(shield=True):
            assert await client.hear() is None
            await client.stream.aclose()
        assert node.inbox(alice) == []


# Y4, Y5: what was waited for


async def test_y4_a_message_whose_waiter_is_gone_stays_unread(here, alice, monkeypatch):
    real = here.node.reading.full
    stream = await here.raw("alice")

    def gone(agent, seq):
        stream.socket.close()
        return real(agent, seq)

    await stream.send_all(json.dumps(request(1, "message.wait")).encode() + b"\n")
    await wait_all_tasks_blocked()
    monkeypatch.setattr(here.node.reading, "full", gone)
    await here.node.send(alice, "alice", "the only one")
    while here.local._connections["alice"]:
        await trio.lowlevel.checkpoint()
    monkeypatch.undo()
    assert here.node.inbox(alice)[0].state == "unread"
    async with here.client("alice") as client:
        (found,) = (await client.get("message.wait", timeout_s=0))["messages"]
        assert found["body"] == "the only one"
        assert (await client.get("message.list"))["unread"] == 0


async def test_y5_who_asks_again_gets_the_next_one(here, alice):
    for text in "abc":
        await here.node.send(alice, "alice", text)
    heard = []
    for _ in "abc":
        async with here.client("alice") as client:
            (found,) = (await client.get("message.wait", timeout_s=0))["messages"]
            heard.append(found["body"])
    assert heard == ["a", "b", "c"]


async def test_y5_what_is_unread_again_stays_so(here, alice):
    await here.node.send(alice, "alice")
    async with here.client("alice") as client:
        for _ in range(3):
            (found,) = (await client.get("message.wait", timeout_s=0))["messages"]
            await client.get("message.mark", ids=[found["id"]], state="unread")
        assert here.node.inbox(alice)[0].state == "unread"


async def test_y5_a_mark_that_does_not_come_holds_up_nobody_for_long(here, alice, autojump_clock):
    await here.node.send(alice, "alice")
    async with here.client("alice") as client:
        async with here.node.store.turns.of(alice.key, 1000):
            await client.get("message.wait", timeout_s=0)
            assert (await client.get("message.list"))["unread"] == 1
        while here.node.inbox(alice)[0].state == "unread":
            await trio.lowlevel.checkpoint()


async def test_y4_one_that_only_peeks_marks_nothing(here, alice):
    await here.node.send(alice, "alice")
    async with here.client("alice") as client:
        for _ in range(2):
            assert (await client.get("message.wait", timeout_s=0, peek=True))["messages"]
        assert (await client.get("message.list"))["unread"] == 1


async def test_y4_a_notification_tells_nobody_and_marks_nothing(here, alice):
    await here.node.send(alice, "alice")
    async with here.client("alice") as client:
        wait = {"jsonrpc": "2.0", "method": "message.wait", "params": {}}
        await client.say([wait, request(1, "system.hello")])
        assert len(await client.hear()) == 1
        assert (await client.get("message.list"))["unread"] == 1
