"""The local socket: the rules of edge/local_socket.py, connection.py and subscriptions.py."""

import json
import os
import stat
import sys
from contextlib import AsyncExitStack, suppress

import pytest
import trio
from edge.local_node import place

from ampd.edge import answers, connection, local_socket
from ampd.model.errors import Invalid, StorageError
from ampd.protocol.local import LINE_LIMIT

PARSE_ERROR, INVALID_REQUEST, NO_METHOD, INVALID_PARAMS, INTERNAL = (
    -32700, -32600, -32601, -32602, -32603,
)  # fmt: skip


@pytest.fixture
async def here(tmp_path):
    async with place(tmp_path) as found:
        await found.node.agent("alice")
        await found.follow_agents()
        yield found


@pytest.fixture
async def alice(here):
    return here.node.agents.named("alice")


async def until(condition):
    """Let others run until it is so."""
    while not condition():
        await trio.lowlevel.checkpoint()


def request(number, method, **params):
    return {"jsonrpc": "2.0", "id": number, "method": method, "params": params}


def code(answer):
    return answer["error"]["code"]


# JSON-RPC 2.0, to the letter


@pytest.mark.parametrize(
    "line",
    [
        b"{", b"nonsense", b'{"id": NaN}', b'{"id": 1e999}', b'{"id": 1, "id": 2}', b"\xff\xfe",
        b"\xed\xa0\x80", b"[" * 100_000, b'{"a":' * 5000, b"1" * 5000, b"\x00", b"[1,]",
    ],
    ids=repr,
)  # fmt: skip
async def test_what_is_no_json_is_a_parse_error_and_the_connection_goes_on(here, line):
    async with here.client() as client:
        await client.say(line + b"\n")
        answer = await client.hear()
        assert code(answer) == PARSE_ERROR and answer["id"] is None
        assert (await client.get("system.hello"))["domain"] == "here.local"


@pytest.mark.parametrize(
    ("document", "identifier"),
    [
        (1, None), ("text", None), (None, None), ({}, None), ({"jsonrpc": "2.0"}, None),
        ({"jsonrpc": "2.0", "method": 1, "id": 7}, 7),
        ({"jsonrpc": "1.0", "method": "system.hello", "id": 7}, 7),
        ({"method": "system.hello", "id": "x"}, "x"),
        ({"jsonrpc": "2.0", "method": "system.hello", "id": {}}, None),
        ({"jsonrpc": "2.0", "method": "system.hello", "id": True}, None),
        ({"jsonrpc": "2.0", "method": "system.hello", "id": 1, "params": "text"}, 1),
    ],
)  # fmt: skip
async def test_what_is_no_request_is_an_invalid_request(here, document, identifier):
    async with here.client() as client:
        await client.say(document)
        answer = await client.hear()
        assert code(answer) == INVALID_REQUEST and answer["id"] == identifier


@pytest.mark.parametrize("identifier", [0, -1, 1.5, "text", "\ud800", None, 2**70])
async def test_an_id_comes_back_as_it_was(here, identifier):
    async with here.client() as client:
        await client.say({"jsonrpc": "2.0", "id": identifier, "method": "system.hello"})
        answer = await client.hear()
        assert answer["id"] == identifier and type(answer["id"]) is type(identifier)
        assert answer["jsonrpc"] == "2.0" and "result" in answer


async def test_a_method_that_nobody_knows_is_not_found(here):
    async with here.client() as client:
        assert code(await client.ask("no.such")) == NO_METHOD
        assert code(await client.ask("\ud800" * 1000)) == NO_METHOD


@pytest.mark.parametrize(
    ("method", "params"),
    [
        ("system.hello", {"agent": 1}), ("system.hello", {"what": 1}),
        ("message.list", {"limit": "1"}),
        ("message.list", {"limit": True}), ("message.list", {"limit": 10**30}),
        ("message.get", {}), ("message.get", {"ids": []}), ("message.get", {"ids": [None]}),
        ("message.send", {"to": ["alice"], "text": "\ud800"}),
        ("message.send", {"to": ["alice"], "key": "\udc00"}),
        ("message.send", {"to": ["alice"], "payload": json.loads("[" * 101 + "]" * 101)}),
        ("message.list", {"from": "\ud800"}), ("message.wait", {"timeout_s": -1}),
        ("inbox.subscribe", {"after": 10**30}), ("inbox.subscribe", {"after": "1"}),
        ("inbox.unsubscribe", {"subscription": "none"}),
    ],
)  # fmt: skip
async def test_parameters_that_do_not_fit_are_invalid(here, method, params):
    async with here.client() as client:
        assert code(await client.ask(method, **params)) == INVALID_PARAMS


async def test_params_by_position_are_invalid(here):
    async with here.client() as client:
        await client.say({"jsonrpc": "2.0", "id": 1, "method": "message.list", "params": [1]})
        assert code(await client.hear()) == INVALID_PARAMS


async def test_a_notification_is_carried_out_and_not_answered(here, alice):
    async with here.client() as client:
        for method in ("message.send", "no.such", "message.wait"):
            params = {"to": ["alice"]} if method == "message.send" else {}
            await client.say({"jsonrpc": "2.0", "method": method, "params": params})
        assert (await client.ask("system.hello"))["id"] == 1
        assert len(here.node.inbox(alice)) == 1


async def test_a_batch_is_answered_by_one_array_without_its_notifications(here):
    batch = [
        request(1, "system.hello"),
        {"jsonrpc": "2.0", "method": "system.hello"},
        request(2, "message.send", to=["alice"]),
        request(3, "message.send", to=["nobody"]),
        1,
        request(4, "no.such"),
        request(5, "message.wait"),
    ]
    async with here.client() as client:
        await client.say(batch)
        answers = await client.hear()
        assert sorted((a["id"] or 0, "result" in a) for a in answers) == [
            (0, False), (1, True), (2, True), (3, False), (4, False), (5, True),
        ]  # fmt: skip


async def test_a_batch_of_notifications_alone_has_no_answer_and_an_empty_one_an_error(here):
    async with here.client() as client:
        await client.say([{"jsonrpc": "2.0", "method": "system.hello"}])
        await client.say([])
        answer = await client.hear()
        assert isinstance(answer, dict) and code(answer) == INVALID_REQUEST
        await client.say([1] * (connection.MAX_BATCH + 1))
        assert code(await client.hear()) == INVALID_REQUEST


async def test_a_bug_in_a_method_is_told_as_ours_and_the_daemon_lives(here, monkeypatch, caplog):
    def broken(*_):
        raise ZeroDivisionError

    async with here.client() as client:
        for room, name in ((here.node.lists, "listing"), (here.node.submission, "prepare")):
            monkeypatch.setattr(room, name, broken, raising=True)
        assert code(await client.ask("message.list")) == INTERNAL
        assert code(await client.ask("message.send", to=["alice"])) == INTERNAL
        monkeypatch.undo()
        assert (await client.get("message.list"))["total"] == 0
    assert "ZeroDivisionError" in caplog.text


# Z1: who may connect


async def test_z1_the_sockets_are_ours_alone(here):
    for path in (here.main, here.main.parent / "agents" / "alice.sock"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    for folder in (here.main.parent, here.main.parent / "agents"):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


@pytest.mark.skipif(os.getuid() != 0, reason="needs root to be somebody else")
async def test_z1_another_user_is_refused_before_a_byte_is_read(here, tmp_path):
    here.main.chmod(0o666)
    folder = here.main.parent
    while folder.stat().st_uid == 0 and folder != folder.parent and folder.name:
        if not folder.stat().st_mode & 0o001:
            folder.chmod(folder.stat().st_mode | 0o011)
        folder = folder.parent
    program = (
        "import os,socket,sys;os.setgid(65534);os.setuid(65534);s=socket.socket(socket.AF_UNIX);"
        "s.connect(sys.argv[1]);print(s.makefile().read(),end='')"
    )
    found = await trio.run_process(
        [sys.executable, "-c", program, str(here.main)],
        capture_stdout=True,
    )
    answer = json.loads(found.stdout)
    assert answer["error"]["data"]["code"] == "forbidden"


async def test_z1_what_is_in_the_way_is_not_removed(tmp_path):
    path = tmp_path / "ampd.sock"
    path.write_text("precious")
    with pytest.raises(Invalid, match="not a socket"):
        local_socket.listen(path)
    target = tmp_path / "target"
    (tmp_path / "link").symlink_to(target)
    with pytest.raises(Invalid):
        local_socket.listen(tmp_path / "link")
    assert path.read_text() == "precious" and not target.exists()


async def test_z1_a_path_that_no_socket_can_have_names_the_setting(tmp_path):
    with pytest.raises(Invalid) as found:
        local_socket.listen(tmp_path / ("x" * 100))
    assert "AMPD_HOME" in found.value.hint


# Z2: in order, but for what waits


async def test_z2_what_was_sent_at_once_is_answered_in_order(here, alice):
    lines = [
        request(number, "message.send", to=["alice"], text=str(number)) for number in range(50)
    ]
    lines[20:20] = [request(100, "message.list"), request(101, "message.send", to=["nobody"])]
    async with here.client() as client:
        await client.say(b"".join(json.dumps(line).encode() + b"\n" for line in lines))
        answers = [await client.hear() for _ in lines]
        assert [answer["id"] for answer in answers] == [line["id"] for line in lines]
        assert answers[20]["result"]["total"] == 20, "a list sees what was sent before it"
        assert here.node.bodies(alice) == [str(number) for number in range(50)]


async def test_z2_a_wait_holds_up_nothing(here):
    async with here.client() as client:
        await client.say(request("w", "message.wait", timeout_s=60))
        assert (await client.ask("system.hello"))["id"] == 1
        await client.say(request("s", "message.send", to=["alice"], text="come"))
        answers = {a["id"]: a for a in [await client.hear(), await client.hear()]}
        assert answers["w"]["result"]["messages"][0]["body"] == "come"


async def test_z2_a_wait_acts_as_who_the_caller_was(here):
    await here.node.agent("bob")
    async with here.client(acting="alice") as client:
        await client.say(
            json.dumps(request("w", "message.wait")).encode() + b"\n"
            + json.dumps(request("h", "system.hello", agent="bob")).encode() + b"\n"
        )  # fmt: skip
        assert (await client.hear())["id"] == "h"
        await client.ask("message.send", to=["bob"])
        await client.say(request("s", "message.send", to=["alice"], text="for alice"))
        answers = {a["id"]: a for a in [await client.hear(), await client.hear()]}
        assert answers["w"]["result"]["messages"][0]["body"] == "for alice"


async def test_z2_only_so_many_wait_at_once(here):
    async with here.client() as client:
        for number in range(connection.MAX_WAITS + 1):
            await client.say(request(number, "message.wait"))
        answer = await client.hear()
        assert answer["error"]["data"]["code"] == "rate_limited"
        await client.say([request(number, "message.wait") for number in range(2)])
        assert [a["error"]["data"]["code"] for a in await client.hear()] == ["rate_limited"] * 2


async def test_l2_a_hello_that_fails_closes_the_connection_and_nothing_behind_it_runs(here, alice):
    send = request(2, "message.send", to=["alice"])
    for lines in (
        [request(1, "system.hello", agent="nobody"), send],
        [[request(1, "system.hello", agent="nobody"), send, send]],
    ):
        async with here.client() as client:
            await client.say(b"".join(json.dumps(line).encode() + b"\n" for line in lines))
            answer = await client.hear()
            answer = answer[0] if isinstance(answer, list) else answer
            assert answer["error"]["data"]["code"] == "agent_unknown"
            assert await client.hear() is None
    assert here.node.inbox(alice) == []


# Z3: what a line may be


async def test_z3_a_line_over_the_limit_is_answered_and_the_connection_closed(here):
    for end in (b"", b"\n"):
        async with here.client() as client, trio.open_nursery() as nursery:

            async def flood(client=client, end=end):
                with suppress(trio.BrokenResourceError):
                    await client.say(b"x" * (LINE_LIMIT + 10) + end)

            nursery.start_soon(flood)
            answer = await client.hear()
            assert answer["error"]["data"]["code"] == "too_large"
            assert await client.hear() is None


async def test_z3_a_line_at_the_limit_passes(here):
    text = json.dumps(request(1, "system.hello")).encode()
    async with here.client() as client, trio.open_nursery() as nursery:
        nursery.start_soon(client.say, text + b" " * (LINE_LIMIT - 1 - len(text)) + b"\n")
        assert "result" in await client.hear()


async def test_z3_lines_may_be_cut_anywhere_empty_or_without_an_end(here):
    async with here.client() as client:
        for byte in b"\n \n" + json.dumps(request(1, "system.hello")).encode() + b"\r\n":
            await client.say(bytes([byte]))
        assert (await client.hear())["id"] == 1
        await client.say(json.dumps(request(2, "system.hello")).encode())
        await client.stream.send_eof()
        assert (await client.hear())["id"] == 2
        assert await client.hear() is None


# S1 to S3, Z4: what is pushed, and to whom no more


async def test_s1_after_a_number_what_came_since_is_pushed_first_and_in_order(here):
    async with here.client() as client:
        for number in range(4):
            await client.get("message.send", to=["alice"], text=str(number))
        found = await client.get("inbox.subscribe", after=1)
        assert found["last"] == 4
        await client.say(request("s", "message.send", to=["alice"], text="4"))
        pushed = []
        while len(pushed) < 4:
            document = await client.hear()
            if document.get("method") == "message.new":
                pushed.append(document["params"])
        assert [each["body"] for each in pushed] == ["1", "2", "3", "4"]
        assert [each["number"] for each in pushed] == [2, 3, 4, 5]
        assert pushed[0]["state"] == "unread", "a push is no reading"


async def test_s4_who_is_ahead_of_a_mailbox_that_was_put_back_has_what_comes_from_now_on(here):
    async with here.client() as client:
        await client.get("message.send", to=["alice"], text="kept by the backup")
        assert (await client.get("inbox.subscribe", after=100))["last"] == 1
        await client.say(request("s", "message.send", to=["alice"], text="the next one"))
        with trio.fail_after(10):
            while (document := await client.hear()).get("method") != "message.new":
                pass
        assert document["params"]["body"] == "the next one"


async def test_s1_how_sent_mail_fares_is_pushed_too(here):
    await here.node.agent("bob")
    async with here.client(acting="alice") as client, here.client(acting="bob") as reader:
        await client.get("inbox.subscribe")
        sent = await client.get("message.send", to=["bob"])
        await reader.get("message.get", ids=[1])
        document = await client.hear()
        assert document["method"] == "message.status"
        assert (document["params"]["id"], document["params"]["status"]) == (sent["id"], "read")


async def test_s1_a_subscription_ends_when_it_is_told_to_and_no_other_does(here):
    async with here.client() as client:
        names = [(await client.get("inbox.subscribe"))["subscription"] for _ in range(2)]
        await client.get("inbox.unsubscribe", subscription=names[0])
        names.append((await client.get("inbox.subscribe"))["subscription"])
        assert len(set(names)) == 3
        assert (await client.get("inbox.unsubscribe"))["done"] == names[1:]
        await client.get("message.send", to=["alice"])
        assert (await client.ask("system.hello"))["result"]


async def test_s2_z4_who_does_not_read_is_dropped_and_holds_up_nobody(here, monkeypatch):
    monkeypatch.setattr(answers, "WRITE_WITHIN", 0.2)
    async with here.client() as deaf, here.client() as client:
        await deaf.get("inbox.subscribe")
        text = "x" * 60_000
        for _ in range(20):  # more than the kernel keeps for a socket
            await client.get("message.send", to=["alice"], text=text)
        await until(lambda: here.local._connections.total() != 2)
        heard = 0
        while await deaf.hear() is not None:
            heard += 1
        assert heard < 20
        assert (await client.get("message.list"))["total"] == 20, "and nothing is lost"


async def test_s3_a_message_that_cannot_be_shown_hides_no_other(here, monkeypatch):
    async with here.client() as client:
        for number in range(3):
            await client.get("message.send", to=["alice"], text=str(number))
        real = here.node.reading.full

        def full(agent, seq):
            found = real(agent, seq)
            if found.body == "1":
                raise StorageError("damaged")
            return found

        monkeypatch.setattr(here.node.reading, "full", full)
        await client.get("inbox.subscribe", after=0)
        assert [(await client.hear())["params"]["body"] for _ in range(2)] == ["0", "2"]


# Z5: how many, and how they end


async def test_z5_one_that_breaks_in_the_middle_takes_nothing_along(here):
    for left in (b"", b'{"half', json.dumps(request(1, "inbox.subscribe")).encode() + b"\n"):
        stream = await here.raw()
        await stream.send_all(left)
        for _ in range(50):
            await stream.send_all(json.dumps(request(2, "system.hello")).encode() + b"\n")
        await stream.aclose()  # with answers unread: the other end sees a reset
    async with here.client() as client:
        await client.get("message.send", to=["alice"])
        await until(lambda: not (here.local._connections.total() > 1))
        assert await client.get("system.hello")


async def test_z5_too_many_are_refused_and_room_comes_back(here, monkeypatch):
    monkeypatch.setattr(local_socket, "MAX_CONNECTIONS", 3)
    monkeypatch.setattr(local_socket, "MAX_FOR_AGENT", 2)
    async with AsyncExitStack() as stack:
        for agent in ("alice", "alice"):
            client = await stack.enter_async_context(here.client(agent))
            await client.get("system.hello")
        async with here.client("alice") as client:
            assert (await client.hear())["error"]["data"]["code"] == "unavailable"
        async with here.client() as client:
            await client.get("system.hello")
            async with here.client() as another:
                assert (await another.hear())["error"]["data"]["code"] == "unavailable"
    await until(lambda: not (here.local._connections.total()))
    async with here.client("alice") as client:
        assert await client.get("system.hello")


# Z6: a socket for each agent


async def test_z6_an_agents_socket_comes_and_goes_with_it(here):
    path = here.main.parent / "agents" / "bob.sock"
    async with here.client() as client:
        await client.get("agent.create", name="bob")
        await until(lambda: bool(path.exists()))
        async with here.client("bob") as bound:
            assert (await bound.get("system.hello"))["agent"] == "bob"
            await client.get("agent.remove", name="bob")
            assert await bound.hear() is None, "who was connected is cut off"
        await until(lambda: not (path.exists()))


async def test_z6_all_sockets_are_gone_when_the_daemon_is(tmp_path):
    async with place(tmp_path) as here:
        await here.node.agent("alice")
        await here.follow_agents()
        async with here.client("alice") as client:
            await client.get("system.hello")
    assert not [path for path in (tmp_path / "s").rglob("*") if not path.is_dir()]
