"""Requests to servers elsewhere: only where they may go, and no longer or larger than allowed."""

from functools import partial

import pytest
import trio
import trio.testing
from edge.gateway_harness import Nothing
from edge.http.serving import certificate, serving

from ampd.edge.http.client import PER_ORIGIN, HttpClient, Reply
from ampd.edge.http.dns import Dns
from ampd.edge.http.server import Tls
from ampd.edge.http.words import Answer, Route
from ampd.model.errors import Invalid, Refused, Unavailable


class Names(Dns):
    """Host names as a test says; every look-up is counted."""

    def __init__(self, **names):
        super().__init__()
        self.names = {name.replace("_", "."): found for name, found in names.items()}
        self.asked = []

    async def addresses(self, host):
        self.asked.append(host)
        if host in self.names:
            found = self.names[host]
            return [found.pop(0)] if len(found) > 1 else list(found)
        return await super().addresses(host)


class Other(Nothing):
    """A server elsewhere."""

    def __init__(self):
        super().__init__("echo")
        self.seen = []
        self.held = []

    def routes(self):
        return (
            Route("GET", "/held/{name}", self._hold),
            Route("POST", "/hook", self._hook, any_type=True),
            Route("GET", "/hook", self._hook),
            Route("GET", "/long", self._long),
            Route("GET", "/never", self._never),
            Route("GET", "/to/{rest:path}", self._to),
            Route("POST", "/to/{rest:path}", self._to, any_type=True),
        )

    async def _hook(self, request):
        self.seen.append(request)
        return Answer.json(200, {"method": request.method, "size": len(request.body)})

    async def _long(self, request):
        return Answer(200, bytes(100_000))

    async def _never(self, request):
        await trio.sleep_forever()

    def let_go(self):
        for _, go_on in self.held:
            go_on.set()

    async def _hold(self, request):
        go_on = trio.Event()
        self.held.append((request.params["name"], go_on))
        await go_on.wait()
        return Answer(204)

    async def _to(self, request):
        self.seen.append(request)
        code = int(request.query.get("code", "302"))
        return Answer(code, b"", {"Location": request.query["where"]})


@pytest.fixture
async def other():
    async with serving(service=Other()) as server:
        server.url = f"http://127.0.0.1:{server.address[1]}"
        yield server


@pytest.fixture
def client():
    return HttpClient(Names())


async def test_a_request_goes_there_and_its_answer_comes_back(client, other):
    reply = await client.send(
        "POST", f"{other.url}/hook", headers={"X-Signature": "s"}, body=b"{}", anywhere=True
    )
    assert (reply.status, reply.body, reply.whole) == (200, b'{"method":"POST","size":2}', True)
    seen = other.service.seen[0].headers
    assert seen["x-signature"] == "s"
    assert seen["user-agent"].startswith("ampd/")
    assert seen["accept-encoding"] == "identity"
    await client.aclose()


@pytest.mark.parametrize(
    "url",
    ["http://127.0.0.1:{}/hook", "http://localhost:{}/hook", "http://LOCALHOST:{}/hook",
     "http://127.1:{}/hook", "http://2130706433:{}/hook", "http://0x7f000001:{}/hook",
     "http://0177.0.0.1:{}/hook", "http://0:{}/hook", "http://0.0.0.0:{}/hook",
     "http://[::1]:{}/hook", "http://[::]:{}/hook", "http://[::ffff:127.0.0.1]:{}/hook",
     "http://[::ffff:7f00:1]:{}/hook", "http://[64:ff9b::7f00:1]:{}/hook",
     "http://[2002:7f00:1::]:{}/hook", "http://127.255.255.254:{}/hook",
     "http://169.254.169.254/latest/meta-data/", "http://[fd00:ec2::254]/latest/",
     "http://100.100.100.200/", "http://168.63.129.16/", "http://10.0.0.1/", "http://192.168.0.1/",
     "http://172.16.0.1/", "http://[fe80::1]/", "http://224.0.0.1/", "http://255.255.255.255/",
     "http://localhost.:{}/hook"],
)  # fmt: skip
async def test_hc2_no_form_of_a_private_address_is_reached(client, other, url):
    with pytest.raises((Refused, Unavailable)):
        await client.send("POST", url.format(other.address[1]), body=b"{}", timeout=2)
    assert other.service.seen == []


async def test_hc2_a_name_with_a_private_address_is_refused(other):
    client = HttpClient(Names(evil_example=["127.0.0.1"]))
    with pytest.raises(Refused, match="at an address of this machine") as caught:
        await client.send("GET", f"http://evil.example:{other.address[1]}/hook")
    assert "webhook_hosts" in caught.value.hint


async def test_hc2_a_host_that_the_owner_listed_is_reached(other):
    host, port = other.address
    for listed in (f"{host}:{port}", host):
        client = HttpClient(Names(), [listed])
        assert (await client.send("GET", f"{other.url}/hook")).status == 200
        await client.aclose()
    client = HttpClient(Names(), [f"{host}:1"])
    with pytest.raises(Refused):
        await client.send("GET", f"{other.url}/hook")


async def test_hc2_a_connection_that_somebody_may_use_serves_nobody_else(client, other):
    await client.send("GET", f"{other.url}/hook", anywhere=True)
    with pytest.raises(Refused):
        await client.send("GET", f"{other.url}/hook")
    await client.aclose()


async def test_hc1_a_second_answer_of_the_dns_leads_nowhere_else(other):
    """Rebinding: the first answer is checked and used; nobody asks a second time."""
    names = Names(evil_example=["192.0.2.1", "127.0.0.1"])
    client = HttpClient(names)
    with pytest.raises((Refused, Unavailable)):
        await client.send("GET", f"http://evil.example:{other.address[1]}/hook", timeout=1)
    assert names.asked == ["evil.example"]
    assert other.service.seen == []


async def test_hc1_tls_checks_the_name_though_an_address_is_dialled(tmp_path):
    cert, key, trust = certificate(tmp_path, host="hooks.example")
    async with serving(Tls(cert, key).context()) as server:
        names = Names(hooks_example=["127.0.0.1"], other_example=["127.0.0.1"])
        client = HttpClient(names, tls=trust)
        port = server.address[1]
        url = f"https://hooks.example:{port}/hello"
        # the server there does not go by this name, but TLS was content with it
        assert (await client.send("GET", url, anywhere=True)).status == 421
        with pytest.raises(Unavailable, match=r"(?i)hostname mismatch|certificate"):
            await client.send("GET", f"https://other.example:{port}/hello", anywhere=True)
        strict = HttpClient(names)
        with pytest.raises(Unavailable, match=r"(?i)self.signed|certificate"):
            await strict.send("GET", url, anywhere=True)
        await client.aclose()
        await strict.aclose()


async def test_hc3_no_redirect_is_followed_unless_asked_for(client, other):
    url = f"{other.url}/to/x?where=/hook"
    assert (await client.send("GET", url, anywhere=True)).status == 302
    assert (await client.send("GET", url, anywhere=True, redirects=1)).status == 200
    loop = f"{other.url}/to/x?where=/to/x%3Fwhere=/hook"
    assert (await client.send("GET", loop, anywhere=True, redirects=1)).status == 302
    await client.aclose()


async def test_hc3_a_redirect_is_checked_as_the_first_url_was(other):
    host, port = other.address
    client = HttpClient(Names(), [f"{host}:{port}"])
    url = f"{other.url}/to/x?where=http://localhost:{port}/hook"
    with pytest.raises(Refused, match="at an address of this machine"):
        await client.send("GET", url, redirects=3)
    for where in ("ftp://a/", "http://u:p@a/"):
        with pytest.raises(Invalid):
            await client.send("GET", f"{other.url}/to/x?where={where}", redirects=3)
    assert all(each.path != "/hook" for each in other.service.seen)
    await client.aclose()


async def test_hc3_anywhere_is_said_of_the_host_that_was_named_and_of_no_other(client, other):
    port = other.address[1]
    url = f"{other.url}/to/x?where=http://localhost:{port}/hook"
    with pytest.raises(Refused, match="at an address of this machine"):
        await client.send("GET", url, anywhere=True, redirects=3)
    assert all(each.path != "/hook" for each in other.service.seen)
    await client.aclose()


async def test_hc3_secrets_stay_with_their_origin(other):
    port = other.address[1]
    client = HttpClient(Names(), [f"localhost:{port}"])
    sent = {"Authorization": "Bearer s", "Cookie": "c", "X-Own": "o", "Accept": "a/b"}
    url = f"{other.url}/to/x?where=http://localhost:{port}/hook"
    await client.send("GET", url, headers=sent, anywhere=True, redirects=1)
    seen = other.service.seen[-1].headers
    assert "authorization" not in seen
    assert "cookie" not in seen
    assert "x-own" not in seen
    assert seen["accept"] == "a/b"
    await client.send(
        "GET", f"{other.url}/to/x?where=/hook", headers=sent, anywhere=True, redirects=1
    )
    assert other.service.seen[-1].headers["authorization"] == "Bearer s"
    await client.aclose()


@pytest.mark.parametrize(
    ("code", "method", "size"),
    [(302, "GET", 0), (303, "GET", 0), (307, "POST", 2), (308, "POST", 2)],
)
async def test_hc3_a_post_is_repeated_only_where_the_answer_says_so(
    client, other, code, method, size
):
    url = f"{other.url}/to/x?where=/hook&code={code}"
    await client.send("POST", url, body=b"{}", anywhere=True, redirects=1)
    seen = other.service.seen[-1]
    assert (seen.method, len(seen.body)) == (method, size)
    await client.aclose()


async def test_hc4_a_longer_answer_is_cut(client, other):
    reply = await client.send("GET", f"{other.url}/long", anywhere=True, limit=1000)
    assert (len(reply.body), reply.whole) == (1000, False)
    reply = await client.send("GET", f"{other.url}/long", anywhere=True, limit=100_000)
    assert (len(reply.body), reply.whole) == (100_000, True)
    await client.aclose()


async def test_hc4_who_does_not_answer_is_not_waited_for(client, other):
    with pytest.raises(Unavailable, match=r"within 0\.05 s"):
        await client.send("GET", f"{other.url}/never?secret=1", anywhere=True, timeout=0.05)
    await client.aclose()


async def test_nobody_there_is_unavailable_and_the_error_holds_no_secret(client):
    with pytest.raises(Unavailable) as caught:
        await client.send("GET", "http://127.0.0.1:1/x?token=secret", anywhere=True)
    assert "secret" not in str(caught.value)


async def test_hc5_proxies_of_the_environment_are_not_asked(client, other, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:1")
    assert (await client.send("GET", f"{other.url}/hook", anywhere=True)).status == 200
    await client.aclose()


async def until_asked(server, count):
    """Wait for so many requests that the server holds, and that no more will come."""
    while len(server.service.held) < count:
        await trio.lowlevel.checkpoint()
    assert len(server.service.held) == count


async def test_hc6_an_origin_that_answers_nobody_leaves_the_others_their_connections(client, other):
    async with serving(service=Other()) as fast, trio.open_nursery() as nursery:
        for number in range(60):
            ask = partial(client.send, "GET", f"{other.url}/held/{number}", anywhere=True)
            nursery.start_soon(ask)
        await until_asked(other, PER_ORIGIN)
        url = f"http://127.0.0.1:{fast.address[1]}/hook"
        assert (await client.send("GET", url, anywhere=True)).status == 200
        await until_asked(other, PER_ORIGIN)
        nursery.cancel_scope.cancel()
        other.service.let_go()
    await client.aclose()


async def test_hc6_who_waits_is_served_in_the_order_of_asking(client, other):
    async with trio.open_nursery() as nursery:
        for number in range(3 * PER_ORIGIN):
            ask = partial(client.send, "GET", f"{other.url}/held/{number}", anywhere=True)
            nursery.start_soon(ask)
            await trio.testing.wait_all_tasks_blocked()
        for number in range(3 * PER_ORIGIN):
            await until_asked(other, min(number + PER_ORIGIN, 3 * PER_ORIGIN))
            other.service.held[number][1].set()
    names = [int(name) for name, _ in other.service.held]
    assert set(names[:PER_ORIGIN]) == set(range(PER_ORIGIN))
    assert names[PER_ORIGIN:] == list(range(PER_ORIGIN, 3 * PER_ORIGIN))
    await client.aclose()


async def test_hc6_what_strangers_ask_for_holds_up_nothing_else(other):
    client = HttpClient(Names(), ["127.0.0.1"])
    async with trio.open_nursery() as nursery:
        for number in range(PER_ORIGIN + 1):
            nursery.start_soon(client.send, "GET", f"{other.url}/held/{number}")
        await until_asked(other, PER_ORIGIN)
        assert (await client.send("GET", f"{other.url}/hook", anywhere=True)).status == 200
        nursery.cancel_scope.cancel()
        other.service.let_go()
    await client.aclose()


class Turns(HttpClient):
    """Asks nobody: each answer comes when its time is over."""

    def __init__(self):
        super().__init__(Names())
        self.began = []

    async def _once(self, request, *, anywhere, limit):
        self.began.append((trio.current_time(), request.target.path))
        await trio.sleep(10)
        return Reply(200, {}, b"")


async def test_hc6_waiting_for_a_turn_counts_as_time(autojump_clock):
    client, began, late = Turns(), trio.current_time(), []

    async def ask(number):
        try:
            await client.send("GET", f"http://a.example/{number}", timeout=15)
        except Unavailable:
            late.append((number, trio.current_time() - began))

    async with trio.open_nursery() as nursery:
        for number in range(2 * PER_ORIGIN + 1):
            nursery.start_soon(ask, number)
            await trio.testing.wait_all_tasks_blocked()
    assert [at - began for at, _ in client.began] == [0] * PER_ORIGIN + [10] * PER_ORIGIN
    assert sorted(late) == [(number, 15) for number in range(PER_ORIGIN, 2 * PER_ORIGIN + 1)]
    await client.send("GET", "http://a.example/again")
    assert client._turns == {}


async def test_what_keeps_a_connection_from_opening_is_said_at_its_root(client, other):
    with pytest.raises(Unavailable) as caught:
        await client.send("GET", "http://127.0.0.1:1/api", anywhere=True)
    assert str(caught.value) == "http://127.0.0.1:1/api: connection refused"
