"""Agents as clients of a foreign AMP provider, which is a whole gateway of another node.

Both are in this process; `Wire` stands for the network between them.
"""

import itertools
import json
import random
import stat
from contextlib import asynccontextmanager
from dataclasses import replace
from types import SimpleNamespace
from urllib.parse import urlsplit

import fakes
import pytest
import trio
from edge.gateway_harness import gateway, only_amp

from ampd.core.abroad import Abroad
from ampd.core.foreign import Foreign
from ampd.core.letters import Letters
from ampd.core.ports import Parcel
from ampd.crypto.foreign_keys import ForeignSigner
from ampd.edge.amp.external import Providers
from ampd.edge.amp.provider_client import places
from ampd.edge.amp.provider_words import Registration, outgoing, registered
from ampd.edge.http.client import Reply
from ampd.model.address import Address
from ampd.model.errors import CODES, Invalid, Refused, Unavailable
from ampd.protocol.amp.ids import native_id
from ampd.protocol.amp.signing import sign, verify
from ampd.protocol.raw_json import parse, write

URL = "http://provider.test"
ALICE, BOB = "alice@acme.aimaestro.local", "bob@acme.aimaestro.local"


class Wire:
    """An HttpClient that knows one server. `script` may answer in its place."""

    def __init__(self, server):
        self.server = server
        self.log = []
        self.script = lambda method, path: None

    async def send(self, method, url, *, headers, body, **_limits):
        await trio.lowlevel.checkpoint()
        parts = urlsplit(url)
        path = parts.path + (f"?{parts.query}" if parts.query else "")
        self.log.append((method, path))
        answer = self.script(method, path)
        if isinstance(answer, Exception):
            raise answer
        if isinstance(answer, Reply):
            return answer
        if answer is not None:
            status, said = answer
            return Reply(status, {}, said if isinstance(said, bytes) else json.dumps(said).encode())
        found = await self.server.request(method, path, headers=dict(headers), body=body)
        return Reply(found.status, found.headers, found.body)

    def asked(self, method):
        return [path for way, path in self.log if way == method]


class Home:
    """A node whose agents are clients elsewhere."""

    def __init__(self, node, http):
        rooms = (node.store, node.agents, node.contacts)
        self.node, self.http, self.clock = node, http, node.agents._now
        self.foreign = Foreign(*rooms, b"s" * 32, self.clock, fakes.LIMIT)
        letters = Letters(node.store, self.clock)
        self.abroad = Abroad(*rooms, self.foreign, letters, self.clock, random.Random(1))
        self.providers = self.again()
        self.abroad.use(self.providers, ("provider",))

    def again(self):
        node = self.node
        return Providers(
            node.agents, self.foreign, node.lists, node.reading, node.folder / "gateway.db",
            self.clock, random.Random(1), http=self.http,
        )  # fmt: skip

    async def look(self, name="alice"):
        """One look at the provider."""
        [account] = [each for each in self.providers.accounts() if each.agent == name]
        return await self.providers.fetch(account, self.node.agents.named(name))

    def messages(self, name="alice"):
        agent = self.node.agents.named(name)
        return [self.node.reading.full(agent, each.seq) for each in self.node.inbox(agent)]


@asynccontextmanager
async def home_of(folder, http, clock):
    async with fakes.node(folder, "laptop", clock=clock) as node:
        await node.agent("alice")
        found = Home(node, http)
        yield found
        await found.providers.aclose()


@pytest.fixture
def clock():
    return fakes.Clock()


@pytest.fixture
async def provider(tmp_path, clock):
    async with gateway(tmp_path, services=only_amp, name="there", clock=clock) as here:
        here.host = "localhost:23000"
        yield here


@pytest.fixture
async def home(tmp_path, provider, clock):
    async with home_of(tmp_path, Wire(provider), clock) as found:
        yield found


@pytest.fixture
async def alice(home):
    """Alice, who has an account there."""
    agent = home.node.agents.named("alice")
    await home.providers.register(agent, URL, "acme")
    return agent


class Bob:
    """A client of the provider that does what the bash commands do."""

    def __init__(self, server, token, signer, address=BOB):
        self.server, self.token, self.signer, self.address = server, token, signer, address

    async def send(self, text, *, subject="hi", signed=True, to=ALICE, **more):
        payload = {"type": "request", "message": text, "context": None}
        body = {"from": self.address, "to": to, "subject": subject, "priority": "normal"} | more
        signature = sign(body, payload, self.signer.sign) if signed else None
        del body["from"]
        answer = await self.server.post(
            "/v1/route", {**body, "payload": payload, "signature": signature}, token=self.token
        )
        assert answer.status in (200, 202), answer.text
        return answer.json

    async def pending(self):
        answer = await self.server.get("/v1/messages/pending", token=self.token)
        return answer.json["messages"]


@pytest.fixture
async def bob(provider):
    signer = ForeignSigner.generate("Ed25519")
    body = {
        "name": "bob", "tenant": "acme", "public_key": signer.public.pem(),
        "key_algorithm": "Ed25519",
    }  # fmt: skip
    answer = await provider.post("/v1/register", body)
    assert answer.status == 201, answer.text
    assert answer.json["address"] == BOB
    return Bob(provider, answer.json["api_key"], signer)


# EX1, whose an account is


async def test_ex1_an_account_is_the_agents_and_is_kept(home, alice, provider):
    [account] = home.providers.accounts()
    assert (account.agent, account.address, account.tenant) == ("alice", ALICE, "acme")
    assert (account.provider, account.url) == ("aimaestro.local", f"{URL}/v1")
    assert [each.name for each in provider.node.agents] == ["alice"]
    await home.providers.aclose()
    again = home.again()
    assert again.accounts() == [account]
    await again.aclose()


async def test_ex1_the_api_key_lies_in_a_file_of_its_owner_and_is_shown_nowhere(home, alice):
    [account] = home.providers.accounts()
    mode = (home.node.folder / "gateway.db").stat().st_mode
    assert stat.S_IMODE(mode) == 0o600
    assert account.api_key not in repr(account)


async def test_ex1_without_an_account_no_file_is_made(home):
    assert home.providers.accounts() == []
    assert await home.providers.find(Address.parse(BOB)) == ""
    assert not (home.node.folder / "gateway.db").exists()


async def test_ex1_a_later_agent_of_the_name_gets_nothing_of_it(home, alice, bob):
    await bob.send("secret")
    await home.node.agents.remove("alice", purge=True)
    fresh = await home.node.agent("alice")
    assert home.providers.accounts() == []
    with pytest.raises(Refused):
        await home.providers.carry("provider", parcel_of(home, fresh))
    assert home.messages() == []


async def test_ex1_who_says_no_tenant_is_in_the_one_called_default(home):
    await home.providers.register(home.node.agents.named("alice"), URL, "")
    assert [each.address for each in home.providers.accounts()] == ["alice@default.aimaestro.local"]


async def test_ex1_registering_again_renews_the_key(home, alice):
    [before] = home.providers.accounts()
    await home.providers.register(alice, URL, "acme")
    [after] = home.providers.accounts()
    assert before.api_key != after.api_key and before.address == after.address


async def test_ex1_a_name_that_is_taken_is_refused_in_the_providers_words(home, bob):
    agent = home.node.agents.named("alice")
    with pytest.raises(Refused) as caught:
        await home.providers.register(agent, URL, "acme", name="bob")
    assert caught.value.code == "conflict" and "says" in str(caught.value)
    assert home.providers.accounts() == []


async def test_ex1_who_may_not_have_a_name_hears_how_to_ask_for_another(home, bob):
    agent = home.node.agents.named("alice")
    with pytest.raises(Refused) as caught:
        await home.providers.register(agent, URL, "acme", name="bob")
    assert caught.value.hint == "if the name is taken, ask for another one: --name NAME"


@pytest.mark.parametrize("wait", [{}, {"retry-after": "90"}, {"retry-after": "soon"}])
async def test_pc2_a_provider_that_is_asked_too_often_is_a_limit_and_not_a_failure(home, wait):
    limit = Reply(429, wait, b'{"error":"rate_limited","message":"too many"}')
    home.http.script = lambda method, path: limit
    with pytest.raises(Unavailable) as caught:
        await home.providers.register(home.node.agents.named("alice"), URL, "acme")
    assert CODES[caught.value.code] == 5
    when = "in 90 s" if wait.get("retry-after") == "90" else "later"
    assert caught.value.hint == f"ask again {when}"


async def test_a_provider_that_does_not_answer_is_said_with_what_to_look_at(home):
    home.http.script = lambda method, path: Unavailable("connection refused")
    with pytest.raises(Unavailable) as caught:
        await home.providers.register(home.node.agents.named("alice"), URL, "acme")
    assert caught.value.hint == (
        "check the host and the port of --provider, and that the provider runs there"
    )


async def test_ex1_an_account_that_was_removed_is_used_no_more(home, alice, bob):
    with pytest.raises(Invalid) as caught:
        await home.providers.remove(alice, "other.example")
    assert CODES[caught.value.code] == 3
    await home.providers.remove(alice, "aimaestro.local")
    assert home.providers.accounts() == []
    assert await home.providers.find(Address.parse(BOB)) == ""


# EX2, what is fetched


async def test_ex2_what_waits_there_is_kept_here_and_acknowledged(home, alice, bob):
    sent = await bob.send("hello", subject="s")
    assert await home.look() == 1
    [full] = home.messages()
    assert (full.body, full.summary.subject, full.summary.type) == ("hello", "s", "request")
    assert (full.summary.sender, full.summary.via) == (BOB, "gateway")
    assert json.loads(full.payload) == {"type": "request", "message": "hello", "context": None}
    assert json.loads(full.context)["amp"]["envelope"]["id"] == sent["id"]
    assert home.http.asked("DELETE") == [f"/v1/messages/pending/{sent['id']}"]
    assert await home.look() == 0


async def test_ex2_nothing_is_acknowledged_that_is_not_on_disk(home, alice, bob, monkeypatch):
    await bob.send("hello")

    async def full(run, *, urgent=False):
        raise Unavailable("no room")

    monkeypatch.setattr(home.node.store, "write", full)
    with pytest.raises(Unavailable):
        await home.look()
    assert home.http.asked("DELETE") == []
    monkeypatch.undo()
    assert await home.look() == 1 and len(home.messages()) == 1


async def test_ex2_what_comes_again_because_an_acknowledgement_was_lost_is_kept_once(
    home, alice, bob
):
    await bob.send("hello")
    home.http.script = lambda method, path: Unavailable("gone") if method == "DELETE" else None
    with pytest.raises(Unavailable):
        await home.look()
    home.http.script = lambda method, path: None
    assert await home.look() == 0
    assert len(home.messages()) == 1 and await home.look() == 0


async def test_ex2_many_come_in_pages_and_in_order(home, alice, bob):
    texts = [str(number) for number in range(45)]
    for text in texts:
        await bob.send(text)
    assert await home.look() == 45
    assert [full.body for full in home.messages()] == texts


# EX3, what is proved


async def test_ex3_a_signature_of_the_sender_makes_it_external(home, alice, bob):
    await bob.send("hello")
    await home.look()
    assert [full.summary.trust for full in home.messages()] == ["external"]
    [contact] = home.node.contacts.listed(BOB)
    assert (contact.state, contact.source) == ("pinned", "provider")


def item(text, *, signer=None, sender=BOB, to=ALICE, number=1, key=None):
    """A message as a provider could make it up."""
    envelope = {
        "version": "amp/0.1", "id": f"msg_1800000000_{number:032x}", "from": sender, "to": to,
        "subject": "s", "priority": "normal", "timestamp": "2027-01-15T08:00:00Z",
        "thread_id": f"msg_1800000000_{number:032x}", "in_reply_to": None,
    }  # fmt: skip
    payload = {"type": "request", "message": text, "context": None}
    if signer is not None:
        envelope["signature"] = sign(envelope, payload, signer.sign)
    said = key if key is not None else signer.public.raw.hex() if signer else None
    return {
        "id": envelope["id"], "envelope": envelope, "payload": payload, "sender_public_key": said,
    }  # fmt: skip


def serve(home, *items):
    """The provider has these, and knows nobody's key; what is acknowledged is gone."""
    left = {each["id"]: each for each in items}

    def script(method, path):
        if method == "DELETE":
            left.pop(path.rpartition("/")[2], None)
            return 200, {}
        if "resolve" in path:
            return 404, {}
        return 200, {"messages": list(left.values())}

    home.http.script = script


MALLORY = ForeignSigner.from_seed(b"m" * 32)
CARL = ForeignSigner.from_seed(b"c" * 32)


@pytest.mark.parametrize(
    "made_up",
    [
        item("unsigned"),
        item("of another key", signer=MALLORY, key=CARL.public.raw.hex()),
        item("to another", signer=CARL, to="carol@acme.aimaestro.local"),
        item("of another domain", signer=CARL, sender="bob@bank.example"),
        item("no key", signer=CARL, key=""),
    ],
    ids=lambda each: each["payload"]["message"],
)
async def test_ex3_what_is_not_proved_is_untrusted(home, alice, made_up):
    serve(home, made_up)
    assert await home.look() == 1
    assert [full.summary.trust for full in home.messages()] == ["untrusted"]
    assert home.node.contacts.listed() == []


async def test_ex3_a_key_that_changed_proves_nothing(home, alice):
    serve(home, item("first", signer=CARL, number=1), item("second", signer=MALLORY, number=2))
    await home.look()
    assert [full.summary.trust for full in home.messages()] == ["external", "untrusted"]


async def test_ex3_nobody_there_speaks_for_this_node(home, alice):
    serve(home, item("I am you", signer=CARL, sender="alice@laptop.local"))
    assert await home.look() == 0 and home.messages() == []


# EX4, what is refused


async def test_ex4_what_is_refused_holds_up_nothing_behind_it(home, alice):
    await home.foreign.introduce(Address.parse(BOB), "provider")
    await home.node.contacts.block(BOB, blocked=True)
    carl = "carl@acme.aimaestro.local"
    broken = {"id": "msg_1_1", "envelope": {"from": 1}, "payload": None}
    nameless = {"envelope": {}, "payload": {}}
    blocked = item("blocked", signer=CARL, number=1)
    good = item("good", signer=CARL, sender=carl, number=2)
    serve(home, broken, nameless | {"id": ""}, blocked, good)
    assert await home.look() == 1
    assert [full.body for full in home.messages()] == ["good"]
    assert len(home.http.asked("DELETE")) == 3


# EX5, what is sent


async def carried(home, nursery):
    nursery.start_soon(home.abroad.run)
    while home.node.outbox():
        changed = home.node.store.changed("outbox")
        if home.node.outbox():
            await changed.wait()


async def send(home, agent, to, text="hello", **options):
    await home.abroad.find([to])
    return await home.node.send(agent, to, text, **options)


def parcel_of(home, sender, to=BOB):
    message = fakes.message(sender, replace(sender, address=Address.parse(to)))
    return Parcel(sender, Address.parse(to), message, b"", 0)


async def test_ex5_what_is_sent_to_the_provider_arrives_signed(home, alice, bob, nursery):
    sent = await send(home, alice, BOB, subject="s")
    await carried(home, nursery)
    [item] = await bob.pending()
    assert (item["envelope"]["from"], item["envelope"]["to"]) == (ALICE, BOB)
    assert item["payload"]["message"] == "hello" and item["envelope"]["signature"]
    assert item["local"]["security"]["trust"] == "verified"
    [state] = home.node.tracking.deliveries(alice, sent.id)[2]
    assert (state.status, state.via) == ("relayed", "gateway")


async def test_ex5_a_conversation_keeps_its_thread_on_both_sides(home, alice, bob, nursery):
    asked = await bob.send("question")
    await home.look()
    [question] = home.messages()
    reply = {"in_reply_to": bytes.fromhex(question.summary.id.replace("-", ""))}
    await send(home, alice, BOB, "answer", thread=reply["in_reply_to"], **reply)
    await carried(home, nursery)
    [answer] = await bob.pending()
    assert answer["envelope"]["in_reply_to"] == asked["id"] == answer["envelope"]["thread_id"]
    again = {"in_reply_to": answer["envelope"]["id"], "thread_id": asked["id"]}
    await bob.send("thanks", **again)
    await home.look()
    first, second = home.messages()
    assert second.summary.thread == first.summary.thread


async def test_ex5_only_an_agent_with_an_account_writes_there(home, alice, bob, nursery):
    carol = await home.node.agent("carol")
    sent = await send(home, carol, BOB)
    await carried(home, nursery)
    [state] = home.node.tracking.deliveries(carol, sent.id)[2]
    assert state.status == "failed" and "no account" in state.error
    assert await bob.pending() == []


async def test_ex5_who_wrote_through_a_provider_is_answered_through_it(home, alice, nursery):
    serve(home, item("from afar", signer=CARL, sender="zoe@bank.example"))
    await home.look()
    home.http.script = lambda method, path: (
        (200, {"status": "queued"}) if method == "POST" else None
    )
    sent = await send(home, alice, "zoe@bank.example")
    await carried(home, nursery)
    assert home.node.tracking.deliveries(alice, sent.id)[2][0].status == "relayed"


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        ((200, {"status": "delivered"}), "delivered"),
        ((202, {"status": "queued"}), "relayed"),
        ((200, {"status": "failed", "error": "closed"}), "failed"),
        ((404, {"error": "not_found", "message": "no such agent"}), "failed"),
        ((413, {"error": "too_large"}), "failed"),
    ],
    ids=str,
)
async def test_ex5_the_providers_answer_is_the_status(home, alice, nursery, answer, status):
    home.http.script = lambda method, path: answer if path.endswith("/route") else None
    sent = await send(home, alice, BOB)
    await carried(home, nursery)
    assert home.node.tracking.deliveries(alice, sent.id)[2][0].status == status


@pytest.mark.parametrize("status", [401, 408, 429, 500, 503])
async def test_ex5_what_may_go_better_later_is_tried_again(home, alice, status):
    home.http.script = lambda method, path: (status, {"message": "not now"})
    with pytest.raises(Unavailable, match="not now"):
        await home.providers.carry("provider", parcel_of(home, alice))


async def test_ex5_a_duplicate_after_a_lost_answer_has_arrived(home, alice):
    home.http.script = lambda method, path: (409, {"error": "duplicate"})
    parcel = parcel_of(home, alice)
    with pytest.raises(Refused):
        await home.providers.carry("provider", parcel)
    delivery = await home.providers.carry("provider", replace(parcel, attempts=1))
    assert delivery.status == "relayed"


# EX6, how often


@pytest.fixture
async def away(tmp_path, autojump_clock):
    """A home in trio's jumping time, whose provider is a script."""
    clock = fakes.JumpingClock(autojump_clock)
    async with home_of(tmp_path, Wire(None), clock) as found:
        alice = found.node.agents.named("alice")
        found.http.script = lambda method, path: (201, ACCOUNT)
        await found.providers.register(alice, URL, "acme")
        found.http.log.clear()
        yield found


ACCOUNT = {"api_key": "amp_live_sk_1", "address": ALICE, "provider": {"name": "aimaestro.local"}}


async def looks(home, script, count, nursery):
    """The seconds between looks."""
    times, enough = [], trio.Event()

    def note(method, path):
        times.append(trio.current_time())
        if len(times) > count:
            enough.set()
        return script(method, path)

    home.http.script = note
    nursery.start_soon(home.providers.run)
    await enough.wait()
    return [later - before for before, later in itertools.pairwise(times)]


async def test_ex6_a_quiet_provider_is_asked_less_often(autojump_clock, away, nursery):
    pauses = await looks(away, lambda method, path: (200, {"messages": []}), 8, nursery)
    for pause, wanted in zip(pauses, (10, 20, 40, 60, 60, 60), strict=False):
        assert pause == pytest.approx(wanted, rel=0.11)


async def test_ex6_one_that_fails_is_left_alone_for_a_quarter_of_an_hour(
    autojump_clock, away, nursery
):
    pauses = await looks(away, lambda method, path: Unavailable("away"), 12, nursery)
    assert pauses[0] == pytest.approx(10, rel=0.11)
    assert pauses[-1] == pytest.approx(900, rel=0.11)
    [account] = away.providers.accounts()
    assert away.providers.state(account).last_error == "away"


async def test_ex6_a_new_key_is_tried_at_once(autojump_clock, away, nursery):
    await looks(away, lambda method, path: Unavailable("away"), 12, nursery)
    before, asked = trio.current_time(), trio.Event()

    def script(method, path):
        if path.endswith("/register"):
            return 201, ACCOUNT
        asked.set()
        return 200, {"messages": []}

    away.http.script = script
    async with away.clock.standing_still():
        await away.providers.register(away.node.agents.named("alice"), URL, "acme")
        await asked.wait()
    assert trio.current_time() - before < 1


async def test_ex6_when_something_was_sent_an_answer_may_come_soon(autojump_clock, away, nursery):
    await looks(away, lambda method, path: (200, {"messages": []}), 8, nursery)
    times, enough = [], trio.Event()

    def script(method, path):
        if method == "GET":
            times.append(trio.current_time())
            if len(times) > 2:
                enough.set()
        return 200, {"messages": [], "status": "queued"}

    away.http.script = script
    before = trio.current_time()
    await away.providers.carry("provider", parcel_of(away, away.node.agents.named("alice")))
    await enough.wait()
    assert times[0] - before < 1
    assert times[1] - times[0] == pytest.approx(5, rel=0.11)
    assert times[2] - times[1] == pytest.approx(10, rel=0.11)


async def test_ex6_an_account_that_is_gone_is_asked_for_no_more(autojump_clock, away, nursery):
    await looks(away, lambda method, path: (200, {"messages": []}), 2, nursery)
    await away.providers.remove(away.node.agents.named("alice"), "aimaestro.local")
    asked = len(away.http.log)
    await trio.sleep(3600)
    assert len(away.http.log) <= asked + 1


# PC1-PC3 and PW1: URLs and what providers say of themselves


@pytest.mark.parametrize(
    ("given", "tried"),
    [
        ("http://h:1/", ["http://h:1/v1", "http://h:1/api/v1", "http://h:1"]),
        ("https://h/api", ["https://h/api/v1", "https://h/api/api/v1", "https://h/api"]),
        ("https://h/api/v1", ["https://h/api/v1"]),
        ("https://h/v1/register", ["https://h/v1"]),
        ("provider.example", ["https://api.provider.example/v1"]),
    ],
)
def test_pc1_the_api_is_looked_for_where_providers_have_it(given, tried):
    assert places(given)[: len(tried)] == tried


@pytest.mark.parametrize(
    "url", ["", "h", "h.example:1", "ftp://h", "http://", "http://u:p@h", "http://h/#f"]
)
def test_pc1_what_is_no_url_is_refused(url):
    with pytest.raises(Invalid):
        places(url)


@pytest.mark.parametrize("prefix", ["", "/api", "/api/v1", "/v1"])
async def test_pc1_any_form_of_the_url_will_do(home, bob, prefix):
    agent = home.node.agents.named("alice")
    await home.providers.register(agent, URL + prefix, "acme")
    await bob.send("hello")
    assert await home.look() == 1


async def test_pc1_an_older_provider_has_other_paths(home, alice, bob):
    await bob.send("hello")

    def script(method, path):
        if "/messages/pending" in path:
            return 404, {"error": "not_found"}
        return None

    home.http.script = script
    assert await home.look() == 1
    assert home.http.asked("POST")[-1].startswith("/v1/inbox/")
    assert await home.look() == 0


async def test_pc1_a_web_page_is_no_provider(home):
    home.http.script = lambda method, path: (200, b"<html>")
    with pytest.raises(Refused, match="no AMP provider"):
        await home.providers.register(home.node.agents.named("alice"), URL, "acme")


async def test_pc2_a_refusal_is_said_in_the_providers_words_without_their_escapes(home):
    said = {"error": "name_taken", "message": "taken\x1b[2J", "suggestions": ["alice-2"]}
    home.http.script = lambda method, path: (409, said)
    with pytest.raises(Refused) as caught:
        await home.providers.register(home.node.agents.named("alice"), URL, "acme")
    assert "alice-2" in str(caught.value) and "\x1b" not in str(caught.value)


async def test_pc3_the_users_own_url_may_be_on_this_machine(home, alice):
    seen = []
    real = home.http.send

    async def send(method, url, **options):
        seen.append(options["anywhere"])
        return await real(method, url, **options)

    home.http.send = send
    await home.look()
    assert seen == [True]


def account(said, tenant="acme", node="laptop.local"):
    return registered(said, "alice", b"k" * 32, f"{URL}/v1", tenant, node, 1)


@pytest.mark.parametrize(
    ("address", "name", "provider"),
    [
        ("a@acme.provider.example", "provider.example", "provider.example"),
        ("a@acme.provider.example", "acme.provider.example", "provider.example"),
        ("a@acme.provider.example", "bank.example", "provider.example"),
        ("a@acme.provider.example", "", "provider.example"),
        ("a@provider.example", "provider.example", "provider.example"),
    ],
)
def test_pw1_a_provider_is_known_by_the_addresses_it_gives(address, name, provider):
    said = {"apiKey": "12345678", "address": address, "provider": {"name": name}}
    assert account(said).provider == provider


@pytest.mark.parametrize(
    "said",
    [
        {"address": "a@acme.com", "api_key": "12345678", "provider": {"name": "com"}},
        {"address": "a@com", "api_key": "12345678"},
        {"address": "a@laptop.local", "api_key": "12345678"},
        {"address": "no address", "api_key": "12345678"},
        {"address": "a@b.example", "api_key": "with a space"},
        {"address": "a@b.example", "api_key": "with\nline"},
        {"address": "a@b.example"},
    ],
    ids=str,
)
def test_pw1_what_claims_too_much_or_says_too_little_is_refused(said):
    with pytest.raises(Refused):
        account(said)


def written(message, before=None):
    """What goes out for a message of alice's."""
    sender = SimpleNamespace(address=Address.parse("alice@laptop.local"))
    about = {"address": ALICE, "api_key": "12345678"}
    parcel = Parcel(sender, Address.parse(BOB), message, b"", 0)
    body = outgoing(parcel, account(about), CARL, lambda native: before)
    return parse(body)


def native(**changes):
    nobody = SimpleNamespace(address=Address.parse(BOB), key=b"k" * 32)
    return fakes.message(nobody, nobody, **changes)


def test_pw2_a_message_is_a_full_envelope_that_the_agents_key_signed():
    said = written(native(subject="", type="message", priority="high"))
    envelope, payload = said["envelope"], said["payload"]
    assert (envelope["from"], envelope["to"], envelope["priority"]) == (ALICE, BOB, "high")
    assert (envelope["version"], envelope["subject"]) == ("amp/0.1", "(no subject)")
    assert payload == {"type": "notification", "message": "hello", "context": None}
    assert verify(envelope, payload, lambda s, data: CARL.public.verify(s, data, "Ed25519"))
    assert native_id(envelope["id"]) == native_id(envelope["thread_id"])


def test_pw2_a_payload_of_amp_goes_as_it_came_and_other_data_beside_the_text():
    own = '{"type":"task","message":"hello","n":1.50,"context":null}'
    assert write(written(native(type="task", payload=own))["payload"]) == own
    data = written(native(type="task", payload='{"n":1.50}', context='{"c":2}'))["payload"]
    assert write(data["context"]) == '{"payload":{"n":1.50},"context":{"c":2}}'
    alone = written(native(type="task", body="", payload='{"n":1.50}'))["payload"]
    assert alone["message"] == '{"n":1.50}' and alone["context"] is None


def test_pw3_an_answer_names_what_it_answers_as_its_sender_did():
    question = native()
    reply = native(in_reply_to=question.id, thread=question.id)
    before = {"id": "msg_1_abc", "thread_id": "msg_1_first"}
    envelope = written(reply, before)["envelope"]
    assert (envelope["in_reply_to"], envelope["thread_id"]) == ("msg_1_abc", "msg_1_first")
    envelope = written(reply)["envelope"]  # the agent has it no more
    assert native_id(envelope["in_reply_to"]) == question.id == native_id(envelope["thread_id"])


@pytest.mark.parametrize(
    ("said", "used"),
    [
        (f"{URL}/api/route", f"{URL}/api/route"),
        ("http://elsewhere.test/route", f"{URL}/v1/route"),
        (f"{URL}.evil.test/route", f"{URL}/v1/route"),
        (None, f"{URL}/v1/route"),
    ],
)
def test_pw2_a_message_and_the_key_go_to_the_providers_own_place(said, used):
    about = {"name": "b.example", "route_url": said}
    found = account({"address": "a@x.b.example", "api_key": "12345678", "provider": about})
    assert found.route == used
    assert Registration.from_value(found.to_value()) == found
