"""The methods of the local socket: the rules of edge/methods.py and edge/params.py."""

import fakes
import pytest
from edge.local_node import place

from ampd.core.agents import Profile
from ampd.edge.methods import OPEN_TO_AGENTS
from ampd.protocol.local import METHODS

SEARCHED_ELSEWHERE = {"message.search", "inbox.subscribe", "inbox.unsubscribe"}
NOTHING = {"message_unknown", "invalid"}


@pytest.fixture
async def here(tmp_path):
    async with place(tmp_path) as found:
        for name in ("alice", "bob"):
            await found.node.agents.create(name, Profile())
        await found.follow_agents()
        yield found


@pytest.fixture
async def of_bob(here):
    """The ids of a message that bob got, one that he sent, and one to himself; and a thread."""
    async with here.client(acting="bob") as bob:
        sent = await bob.get("message.send", to=["bob"], subject="secret", text="secret")
        again = await bob.get("message.send", to=["bob"], text="secret", in_reply_to=sent["id"])
        return [sent["id"], again["id"], sent["id"][:13], sent["id"][-12:]]


async def test_y1_who_is_the_only_agent_need_not_say_so(tmp_path):
    async with place(tmp_path) as here, here.client() as client:
        assert await client.code("message.list") == "agent_unknown"
        await here.node.agent("alice")
        assert (await client.get("message.list"))["agent"] == "alice@here.local"
        await here.node.agent("bob")
        assert await client.code("message.list") == "ambiguous"
        await client.get("system.hello", agent="BOB@here.local")
        assert (await client.get("message.list"))["agent"] == "bob@here.local"


async def test_y1_an_agents_own_socket_acts_as_it_and_as_no_other(here):
    async with here.client("alice") as client:
        assert (await client.get("system.hello"))["agent"] == "alice"
        assert (await client.get("system.hello", agent="alice"))["agent"] == "alice"
        assert await client.code("agent.show", name="bob") == "forbidden"
        assert [a["name"] for a in (await client.get("agent.list"))["agents"]] == ["alice"]
        assert await client.code("system.hello", agent="bob") == "forbidden"
        assert await client.hear() is None


# Every way in which one agent could reach for what is another's. {} is a message of bob's.
REACHES = [
    ("message.get", {"ids": ["{}"]}),
    ("message.get", {"ids": ["{}"], "peek": True, "raw": True}),
    ("message.ack", {"ids": ["{}"]}),
    ("message.delete", {"ids": ["{}"]}),
    ("message.mark", {"ids": ["{}"], "state": "read"}),
    ("message.thread", {"id": "{}"}),
    ("message.status", {"id": "{}"}),
    ("message.status", {"id": "{}", "proof": True}),
    ("message.trace", {"id": "{}"}),
    ("message.send", {"to": ["alice"], "in_reply_to": "{}"}),
    ("message.list", {"before": "{}"}),
    ("message.list", {"after": "{}"}),
    ("message.list", {"box": "sent", "before": "{}"}),
    ("message.wait", {"after": "{}", "timeout_s": 0}),
]


@pytest.mark.parametrize("own_socket", [True, False])
@pytest.mark.parametrize(("method", "params"), REACHES)
async def test_v1_y2_no_agent_reaches_anothers_mail(here, of_bob, method, params, own_socket):
    def filled(value, text):
        if isinstance(value, list):
            return [filled(each, text) for each in value]
        return text if value == "{}" else value

    before = here.node.records()
    who = {"agent": "alice"} if own_socket else {"acting": "alice"}
    async with here.client(**who) as client:
        for text in of_bob:
            asked = {name: filled(value, text) for name, value in params.items()}
            assert await client.code(method, **asked) in NOTHING
    assert here.node.records() == before


@pytest.mark.parametrize("method", sorted(METHODS))
async def test_y2_on_an_agents_socket_nothing_but_its_own_mail_changes(here, of_bob, method):
    params = {
        "agent.create": {"name": "eve"}, "agent.remove": {"name": "bob", "purge": True},
        "contact.add": {"link": "amp://x"}, "contact.show": {"address": "bob@there.local"},
        "message.list": {"thread": of_bob[0]}, "message.wait": {"timeout_s": 0},
        "message.send": {"to": ["alice"]}, "message.get": {"ids": [1]},
    }  # fmt: skip
    async with here.client("alice") as client:
        answer = await client.ask(method, **params.get(method, {}))
        if method not in OPEN_TO_AGENTS | SEARCHED_ELSEWHERE:
            assert answer["error"]["data"]["code"] == "forbidden"
        assert "secret" not in str(answer)
    assert not here.stopped
    assert {agent.name for agent in here.node.agents} == {"alice", "bob"}
    assert here.node.bodies(here.node.agents.named("bob")) == ["secret", "secret"]


async def test_y2_what_is_pushed_is_the_agents_own(here, of_bob):
    async with here.client("alice") as client, here.client(acting="bob") as bob:
        await client.get("inbox.subscribe", after=0)
        await bob.get("message.send", to=["bob"], text="secret")
        await bob.get("message.send", to=["alice"], text="for alice")
        pushed = await client.hear()
        assert (pushed["params"]["body"], pushed["params"]["number"]) == ("for alice", 1)


async def test_y2_every_method_that_clients_know_is_served(here):
    served = set(here.local._methods.table)
    assert served | SEARCHED_ELSEWHERE >= METHODS
    assert METHODS | served >= OPEN_TO_AGENTS


async def test_y3_an_unknown_parameter_is_an_error_and_nothing_was_done(here):
    async with here.client(acting="alice") as client:
        before = here.node.records()
        for method, params in (
            ("message.send", {"to": ["bob"]}), ("agent.create", {"name": "eve"}),
            ("message.ack", {"all": True}), ("agent.remove", {"name": "bob"}),
        ):  # fmt: skip
            answer = await client.ask(method, **params, surprise=1)
            assert "surprise" in answer["error"]["message"]
        assert here.node.records() == before


# message.wait


async def test_a_loop_of_waits_loses_nothing_and_shows_nothing_twice(here):
    async with here.client(acting="bob") as bob, here.client(acting="alice") as alice:
        for number in range(3):
            await bob.get("message.send", to=["alice"], text=str(number))
        heard = []
        for _ in range(3):
            (found,) = (await alice.get("message.wait", timeout_s=5))["messages"]
            heard.append(found["body"])
        assert heard == ["0", "1", "2"]
        assert await alice.code("message.wait", timeout_s=0) == "timeout"
        assert (await alice.get("message.list"))["unread"] == 0


async def test_a_wait_can_be_for_somebody_or_a_thread_or_after_a_number(here):
    await here.node.agent("carol")
    async with here.client(acting="bob") as bob, here.client(acting="carol") as carol:
        first = await bob.get("message.send", to=["alice"], text="0")
        await carol.get("message.send", to=["alice"], text="1")
        await bob.get("message.send", to=["alice"], text="2")
    async with here.client(acting="alice") as alice:

        async def wait(**wanted):
            (found,) = (await alice.get("message.wait", timeout_s=0, **wanted))["messages"]
            return found["body"]

        assert await wait(after=2) == "2"
        assert await wait(**{"from": "carol"}) == "1"
        assert await wait(thread=first["thread_id"]) == "0"
        assert await wait(after=1) == "1", "after a number, also what was read"


# agents


async def test_creating_twice_says_so_and_changes_nothing(here):
    async with here.client() as client:
        first = await client.get("agent.create", name="Carol", alias="C", capabilities=["x"])
        again = await client.get("agent.create", name="carol", alias="D")
        assert (first["is_new"], again["is_new"]) == (True, False)
        assert {**again, "is_new": True} == first


@pytest.mark.parametrize("name", ["", "ampd", "AMPD", "a b", "../x", "a/b", "a\0b", ".", "x" * 64])
async def test_a_name_that_none_can_have_is_invalid(here, name):
    async with here.client() as client:
        assert await client.code("agent.create", name=name) == "invalid"
        assert await client.code("agent.remove", name=name, purge=True) in (
            "invalid", "agent_unknown",
        )  # fmt: skip


async def test_stop_stops(here):
    async with here.client() as client:
        assert await client.get("system.stop") == {"stopping": True}
    assert here.stopped


async def test_a_quarantined_message_is_read_wrapped(here, tmp_path):
    async with fakes.node(tmp_path, "there") as other, here.client(acting="alice") as client:
        eve = await other.agent("eve")
        liar = fakes.replace(eve, address=here.node.agents.named("bob").address)
        alice = here.node.agents.named("alice")
        await here.node.mailbox.deliver(fakes.letter(liar, alice, body="do it"), b"n" * 32)
        (held,) = (await client.get("message.list", box="quarantine"))["messages"]
        assert (held["state"], held["reason"]) == ("quarantined", "key_changed")
        (full,) = (await client.get("message.get", ids=[held["number"]]))["messages"]
        assert full["content"].startswith("<external-content") and full["trust"] == "untrusted"
        assert (await client.get("message.ack", ids=[held["number"]]))["done"] == []
        assert (await client.get("message.list", box="quarantine"))["messages"][0] == held


async def test_keys_that_claim_an_address_of_this_node_can_only_be_forgotten(here, tmp_path):
    async with fakes.node(tmp_path, "there") as other, here.client(acting="alice") as client:
        bob = here.node.agents.named("bob")
        for name in ("eve", "mallory"):
            liar = fakes.replace(await other.agent(name), address=bob.address)
            letter = fakes.letter(liar, here.node.agents.named("alice"))
            await here.node.mailbox.deliver(letter, b"n" * 32)
        claims = (await client.get("contact.list"))["contacts"]
        forget = f"amp contact remove {bob.address}"
        assert len(claims) == 2
        assert all(forget in each["note"] and "accept" not in each["note"] for each in claims)
        refused = (await client.ask("contact.accept", address=str(bob.address)))["error"]["data"]
        assert (refused["code"], refused["hint"]) == ("invalid", forget)
        assert len((await client.get("contact.remove", address=str(bob.address)))["contacts"]) == 2
        assert (await client.get("contact.list"))["contacts"] == []


# What is wrong with a request is said of what was asked.


ASKS = [("message.list", {}), ("message.wait", {"timeout_s": 0})]


@pytest.mark.parametrize(("method", "params"), ASKS)
@pytest.mark.parametrize("wrong", ["bad@@x", "bad@@", "two words", "bob@", "@here.local"])
async def test_a_sender_that_can_be_nobody_is_invalid_and_not_waited_for(
    here, method, params, wrong
):
    async with here.client(acting="alice") as client:
        assert await client.code(method, **{"from": wrong, **params}) == "invalid"


async def test_a_sender_may_be_a_name_or_an_address_in_any_case(here, of_bob):
    async with here.client(acting="bob") as client:
        for sender in ("Bob", "BOB@here.local", " bob "):
            listed = await client.get("message.list", **{"from": sender})
            assert len(listed["messages"]) == 2
            await client.get("message.wait", **{"from": sender, "after": 1, "timeout_s": 0})


@pytest.mark.parametrize(("method", "params"), ASKS)
async def test_a_thread_that_is_not_there_is_unknown_and_no_text_is_taken_for_an_id(
    here, of_bob, method, params
):
    async with here.client(acting="bob") as client:
        error = (await client.ask(method, thread="99", **params))["error"]
        assert (error["message"], error["data"]["code"]) == ("no message 99", "message_unknown")
        error = (await client.ask(method, thread="zz", **params))["error"]
        assert (error["message"], error["data"]["code"]) == ("'zz' is no message id", "invalid")
        assert "6 or more characters of the id" in error["data"]["hint"]
        error = (await client.ask(method, thread="z" * 36, **params))["error"]
        assert error["message"].endswith(" is no message id") and error["data"]["hint"]
        elsewhere = "0198f3c2-0000-7000-8000-000000000001"  # a thread whose messages come later
        assert (await client.get("message.list", thread=elsewhere))["messages"] == []


async def test_an_empty_id_is_called_empty(here):
    async with here.client(acting="alice") as client:
        error = (await client.ask("message.get", ids=[""]))["error"]
        assert error["message"] == "a message id is empty"
        assert "amp inbox" in error["data"]["hint"]


async def test_y1_who_does_not_say_as_whom_hears_how(here):
    async with here.client() as client:
        error = (await client.ask("agent.show"))["error"]
        assert error["message"] == "several agents live here: alice, bob"
        assert error["data"]["hint"] == (
            "say which: amp --agent NAME, or export AMP_AGENT=NAME for every command"
        )


@pytest.mark.parametrize("item", ["ä", "====", "A", "\ud800"])
async def test_a_bundle_that_is_no_base64_is_invalid(here, item, caplog):
    async with here.client() as client:
        assert await client.code("bundle.read", items=["AAAA", item]) == "invalid"
    assert "bug" not in caplog.text
