"""`ampd.client` and `ampd.client.trio`: the same promises, one suite.

`client` is the fixture that both fill: it runs `verb(*args)` and gives the value.
"""

import functools
import inspect
import threading

import pytest
import trio
from cli.fake_daemon import Refusal
from hypothesis import given
from hypothesis import strategies as st

import ampd.client
import ampd.client.trio
from ampd.client import Listing, Message, connect
from ampd.client.conversation import Conversation
from ampd.model.errors import Invalid, LocalProtocolError, Refused, Unavailable


def blocking(daemon, agent, body):
    with ampd.client.connect(agent, daemon.path) as amp:
        return body(lambda verb, *args, **more: getattr(amp, verb)(*args, **more))


def on_trio(daemon, agent, body):
    """The same body, its calls carried out by a trio program in a thread."""

    async def program():
        async with ampd.client.trio.connect(agent, daemon.path) as amp:

            def call(verb, *args, **more):
                bound = functools.partial(getattr(amp, verb), *args, **more)
                return trio.from_thread.run(bound)

            return await trio.to_thread.run_sync(body, call)

    return trio.run(program)


@pytest.fixture(params=[blocking, on_trio], ids=lambda way: way.__name__)
def client(request, daemon):
    """`client(lambda do: do("send", ...))`, as alice."""
    return functools.partial(request.param, daemon, "alice")


def test_send_says_what_became_of_it(client, daemon):
    sent = client(lambda do: do("send", "bob", "Hello", "text", payload={"a": 1}, priority="high"))
    assert sent.status == "delivered"
    assert sent.recipients[0].address == "bob"
    agent, method, params = daemon.asked[-1]
    assert (agent, method) == ("alice", "message.send")
    assert params.pop("key")
    assert params == {
        "to": ["bob"],
        "subject": "Hello",
        "text": "text",
        "payload": {"a": 1},
        "priority": "high",
    }


def test_the_inbox_is_a_list_that_knows_how_much_there_is(client, daemon):
    daemon.message(subject="Old", state="read")
    daemon.message(subject="New")
    inbox = client(lambda do: do("inbox", unread=True, limit=5))
    assert isinstance(inbox, Listing)
    assert [(each.subject, each.sender) for each in inbox] == [("New", "bob@desk.local")]
    assert (len(inbox), inbox.unread, inbox.agent) == (1, 1, "alice@desk.local")
    assert daemon.asked[-1][2] == {"box": "inbox", "unread": True, "limit": 5}


def test_a_message_can_stand_for_its_id(client, daemon):
    daemon.message()

    def body(do):
        message = do("read", 1, peek=True)[0]
        do("ack", message)
        do("inbox", thread=message, after=message)
        return do("reply", message, "Thanks")

    message_id = daemon.messages[0]["id"]
    assert client(body).status == "delivered"
    asked = {method: params for _, method, params in daemon.asked}
    assert asked["message.get"] == {"ids": ["1"], "peek": True}
    assert asked["message.ack"] == {"ids": [message_id]}
    assert asked["message.list"] == {"box": "inbox", "thread": message_id, "after": 1}
    assert asked["message.send"]["in_reply_to"] == message_id
    assert asked["message.send"]["subject"] == "Re: Subject 1"
    assert asked["message.send"]["to"] == ["bob@desk.local"]


def test_reply_takes_a_number_too(client, daemon):
    daemon.message()
    assert client(lambda do: do("reply", 1, "Thanks")).status == "delivered"


def test_every_verb_asks_one_method(client, daemon):
    for method in ("directory.list", "agent.list", "message.thread"):
        daemon.results[method] = {"agents": [], "messages": []}
    daemon.results |= {"peer.list": {"peers": [{"node": "n", "rtt_ms": 1.5}]}}
    daemon.results |= {
        f"contact.{verb}": {"contacts": [{"address": "bob@x", "relays": ["amp://r"]}]}
        for verb in ("list", "add", "show", "verify", "block", "unblock", "accept", "remove")
    }
    daemon.results["agent.remove"] = {}

    def body(do):
        assert do("create", "carol", alias="C", capabilities=["x"]).address == "carol@desk.local"
        assert do("whoami").name == "alice"
        assert do("hello")["domain"] == "desk.local"
        assert do("status")["version"] == "0.1.0"
        assert do("status_of", "m1").recipients[0].delivered_at == "2026-11-22T13:04:06.000Z"
        assert do("peers")[0].rtt_ms == 1.5
        assert do("contacts")[0].relays == ("amp://r",)
        assert do("mark", 1, state="unread") == ["1"]
        assert do("delete", 1, 2) == ["1", "2"]
        assert do("ack_all") == ["all"]
        do("discover", "far.local", capability="x", wait=1.0)
        do("verify_contact", "bob@x", "SHA256:x")
        for verb in ("show", "block", "unblock", "accept", "remove"):
            do(f"{verb}_contact", "bob@x")
        do("add_contact", "amp://k/bob@x")
        for verb in ("agents", "all", "quarantine", "sent", "outbox"):
            do(verb)
        do("thread", 1)
        do("remove_agent", "carol")
        return do("call", "journal.check", {"repair": True})

    assert client(body)["ok"] is True


def test_an_error_has_its_class_its_code_and_its_hint(client, daemon):
    for code, kind in (
        ("agent_unknown", Refused),
        ("blocked", Refused),
        ("invalid", Invalid),
        ("unavailable", Unavailable),
        ("rate_limited", Unavailable),
    ):
        daemon.errors["message.list"] = Refusal(code, "no", "amp help")
        with pytest.raises(kind) as caught:
            client(lambda do: do("inbox"))
        assert (type(caught.value), caught.value.code, caught.value.hint) == (
            kind,
            code,
            "amp help",
        )
    with pytest.raises(LocalProtocolError):
        client(lambda do: do("call", "no.such.method"))


def test_an_error_leaves_the_connection_usable(client, daemon):
    def body(do):
        with pytest.raises(Refused):
            do("read", 9)
        return do("whoami")

    assert client(body).name == "alice"
    assert [method for _, method, _ in daemon.asked].count("system.hello") == 1


def test_an_agent_that_is_not_there_is_refused_at_once(client, daemon):
    del daemon.agents["alice"]
    with pytest.raises(Refused, match="no agent alice"):
        client(lambda do: do("whoami"))


def test_no_daemon_is_unavailable_and_says_how_to_start_one(client, daemon):
    daemon.close()
    with pytest.raises(Unavailable) as caught:
        client(lambda do: do("whoami"))
    assert caught.value.hint == "amp daemon start"


def test_a_call_whose_connection_broke_is_made_once_more(client, daemon):
    daemon.hang_up_before.append("message.send")
    assert client(lambda do: do("send", "bob", "S", "T")).status == "delivered"
    daemon.hang_up_before += ["message.send", "message.send"]
    with pytest.raises(Unavailable, match="hung up"):
        client(lambda do: do("send", "bob", "S", "T"))


def test_wait_gives_the_message_or_none_when_time_is_up(client, daemon):
    daemon.results["message.wait"] = {"messages": [daemon.message()]}
    assert client(lambda do: do("wait", sender="bob", timeout=5)).subject == "Subject 1"
    assert daemon.asked[-1][2] == {"from": "bob", "timeout_s": 5}
    daemon.errors["message.wait"] = Refusal("timeout", "no message came in time")
    assert client(lambda do: do("wait", timeout=5)) is None


def test_a_daemon_that_is_silent_is_unavailable_and_its_late_answer_nobodys(client, daemon):
    daemon.silent.append("journal.check")

    def body(do):
        with pytest.raises(Unavailable, match="did not answer within"):
            do("call", "journal.check", within=0.05)
        return do("whoami")

    assert client(body).name == "alice"


def test_a_subscription_goes_on_after_the_last_message_and_shows_none_twice(daemon):
    with connect("alice", daemon.path) as amp:
        messages = amp.subscribe()
        first = daemon.message()
        daemon.push("message.status", {"id": "x"})
        daemon.push("message.new", {"message": first, "number": 1})
        assert next(messages).id == first["id"]
        daemon.subscribed.clear()
        daemon.connections[-1].shutdown(2)
        again = (daemon, first, daemon.message())
        threading.Thread(target=push_once_subscribed, args=again).start()
        assert next(messages).number == 2
        assert daemon.asked[-1] == ("alice", "inbox.subscribe", {"after": 1})


async def test_a_trio_subscription_does_the_same(daemon):
    async with ampd.client.trio.connect("alice", daemon.path) as amp, trio.open_nursery() as tasks:
        messages = amp.subscribe(after=0)
        tasks.start_soon(trio.to_thread.run_sync, push_once_subscribed, daemon, daemon.message())
        assert (await anext(messages)).number == 1
        daemon.subscribed.clear()
        daemon.connections[-1].shutdown(2)
        again = (push_once_subscribed, daemon, daemon.messages[0], daemon.message())
        tasks.start_soon(trio.to_thread.run_sync, *again)
        assert (await anext(messages)).number == 2
        assert (await amp.whoami()).name == "alice", "a subscription has its own connection"


async def test_a_cancelled_call_spoils_nothing(daemon):
    daemon.silent.append("journal.check")
    async with ampd.client.trio.connect("alice", daemon.path) as amp:
        with trio.move_on_after(0.05):
            await amp.call("journal.check")
        assert (await amp.whoami()).name == "alice"


async def test_tasks_may_share_an_amp(daemon):
    async with ampd.client.trio.connect("alice", daemon.path) as amp, trio.open_nursery() as tasks:
        for _ in range(10):
            tasks.start_soon(amp.whoami)


def push_once_subscribed(daemon, *messages):
    daemon.subscribed.wait(30)
    for message in messages:
        daemon.push("message.new", {"message": message, "number": message["number"]})


def test_both_clients_have_the_same_verbs():
    ours, theirs = ampd.client.Amp, ampd.client.trio.Amp
    verbs = {name for name in vars(ours) if not name.startswith("_")}
    assert verbs == {name for name in vars(theirs) if not name.startswith("_")}
    for name in verbs:
        assert (
            inspect.signature(getattr(ours, name)).parameters.keys()
            == inspect.signature(getattr(theirs, name)).parameters.keys()
        )


@given(data=st.data())
def test_where_the_stream_is_cut_makes_no_difference(data):
    conversation = Conversation()
    conversation.request("agent.show", {})
    stream = (
        b'{"jsonrpc":"2.0","method":"message.new","params":{"id":"m"}}\n'
        b'{"jsonrpc":"2.0","id":1,"result":{"name":"alice"}}\n'
    )
    while stream:
        cut = data.draw(st.integers(1, len(stream)))
        conversation.receive(stream[:cut])
        stream = stream[cut:]
    assert conversation.answer() == {"name": "alice"}
    assert conversation.notification() == ("message.new", {"id": "m"})


@given(noise=st.binary())
def test_noise_is_only_ever_the_other_sides_fault(noise):
    conversation = Conversation()
    conversation.request("agent.show", {})
    try:
        conversation.receive(noise + b"\n")
    except LocalProtocolError:
        return
    assert conversation.answer() is None


def test_a_late_answer_is_not_taken_for_the_next_one():
    conversation = Conversation()
    for method in ("journal.check", "agent.show"):
        conversation.request(method, {})
    conversation.receive(b'{"jsonrpc":"2.0","id":1,"error":{"code":-32603,"message":"late"}}\n')
    assert conversation.answer() is None
    conversation.receive(b'{"jsonrpc":"2.0","id":2,"result":{"name":"alice"}}\n')
    assert conversation.answer() == {"name": "alice"}


def test_a_request_over_the_limit_is_refused_before_it_is_sent():
    with pytest.raises(Refused, match="over the 8388608"):
        Conversation().request("message.send", {"text": "x" * (9 << 20)})


def test_a_field_that_is_not_known_does_no_harm():
    from ampd.client.documents import build

    message = build(Message, {"id": "m", "from": "bob", "to": "alice", "new_field": 1})
    assert (message.sender, message.to) == ("bob", ("alice",))
