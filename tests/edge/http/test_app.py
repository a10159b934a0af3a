"""From a request to a route and back, without a socket."""

import pytest
import trio
from edge.gateway_harness import Client, Closed, Nothing, scope

from ampd.edge.http.app import BODY_WITHIN, App
from ampd.edge.http.guard import Guard
from ampd.edge.http.words import Answer, Route, SocketRoute
from ampd.model.errors import Refused, StorageError, Unavailable


class Echo(Nothing):
    """Says what it was asked."""

    def routes(self):
        return (
            Route("GET", "/things/{id}", self._show),
            Route("GET", "/things/all", self._all),
            Route("PUT", "/things/{id}", self._show),
            Route("POST", "/things", self._take),
            Route("POST", "/small", self._take, limit=10),
            Route("PUT", "/files/{rest:path}", self._show, any_type=True),
            Route("GET", "/refused", self._refuse),
            Route("GET", "/bug", self._bug),
            Route("GET", "/cannot/{how}", self._cannot),
        )

    def sockets(self):
        return (SocketRoute("/ws", self._echo), SocketRoute("/ws/bug", self._broken))

    def failure(self, request, exc):
        body = {"error": exc.code, "id": request.id, "said": f"{exc} {exc.hint}"}
        return Answer.json(getattr(exc, "status", 400), body, getattr(exc, "headers", {}))

    async def _show(self, request):
        said = {
            "path": request.path, "params": dict(request.params), "query": dict(request.query),
            "peer": request.peer, "base": request.base, "bearer": request.bearer,
            "size": len(request.body),
        }  # fmt: skip
        return Answer.json(200, said)

    async def _all(self, request):
        return Answer.text(200, "all of them", {"Cache-Control": "max-age=60"})

    async def _take(self, request):
        return Answer.json(201, request.json())

    async def _refuse(self, request):
        raise Refused("no", code="forbidden")

    async def _cannot(self, request):
        why = {"store": StorageError, "wait": Unavailable}[request.params["how"]]
        raise why("/home/ann/x is away" if why is StorageError else "not now", hint="ls -l /home")

    async def _bug(self, request):
        return {}["missing"]

    async def _echo(self, socket):
        await socket.accept(subprotocol=socket.query.get("protocol"))
        while True:
            text = await socket.receive()
            if text == '"bye"':
                await socket.close(4001, "as asked")
            await socket.send(text)

    async def _broken(self, socket):
        await socket.accept()
        return {}["missing"]


def pick(method, segments, bearer):
    return "echo", tuple(segments)


@pytest.fixture
def app():
    return App([Echo("echo")], pick, Guard(["node.local"]), {"echo": 1000})


@pytest.fixture
def client(app):
    return Client(app)


async def test_h1_every_answer_has_an_id_a_length_and_the_headers_for_browsers(client):
    for path in ("/things/1", "/nothing", "/refused"):
        answer = await client.get(path)
        headers = answer.headers
        assert len(headers["x-request-id"]) == 36
        assert int(headers["content-length"]) == len(answer.body)
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"
        assert headers["cache-control"] == "no-store"
        assert "strict-transport-security" not in headers


async def test_g4_no_answer_lets_a_page_of_others_read_it(client):
    own = {"Origin": "http://localhost:23000"}
    for method, path in (("GET", "/things/1"), ("OPTIONS", "/things"), ("GET", "/nothing")):
        for headers in ({}, own, {"Origin": "http://evil.example"}):
            found = (await client.request(method, path, headers=headers)).headers
            assert not any(name.startswith("access-control") for name in found)


async def test_h1_a_callers_request_id_is_kept_if_it_is_harmless(client):
    answer = await client.get("/nothing", headers={"X-Request-ID": "a.b-1"})
    assert answer.headers["x-request-id"] == answer.json["id"] == "a.b-1"
    for odd in ("a b", "x" * 129, "é", ""):
        answer = await client.get("/nothing", headers={"X-Request-ID": odd})
        assert len(answer.headers["x-request-id"]) == 36


async def test_h1_over_tls_browsers_are_told_to_stay_there(client):
    answer = await client.get("/things/1", secure=True)
    assert answer.headers["strict-transport-security"] == "max-age=31536000"
    assert answer.json["base"] == "https://localhost:23000"


async def test_a_route_may_say_how_long_its_answer_keeps(client):
    assert (await client.get("/things/all")).headers["cache-control"] == "max-age=60"


async def test_h2_a_body_over_the_limit_is_refused_by_its_announcement(client):
    answer = await client.post("/small", body=b"1", headers={"Content-Length": "11"})
    assert (answer.status, answer.json["error"]) == (413, "too_large")
    assert answer.headers["connection"] == "close"


async def test_h2_a_body_is_counted_as_it_comes(app):
    sent = [b'"1234', b"56789", b'0"']
    assert await said(app, "/small", [*sent[:2], b'"']) == 413
    assert await said(app, "/small", [b'"123', b'45"']) == 201


async def test_h2_a_route_without_a_limit_has_its_services(client):
    assert (await client.post("/things", "x" * 998)).status == 201
    assert (await client.post("/things", "x" * 999)).status == 413


async def said(app, path, parts):
    """The status that an upload in these parts is answered with."""
    events = [{"type": "http.request", "body": part, "more_body": True} for part in parts]
    events.append({"type": "http.request", "body": b"", "more_body": False})
    got = []

    async def receive():
        await trio.lowlevel.checkpoint()
        return events.pop(0) if events else {"type": "http.disconnect"}

    async def send(event):
        got.append(event)

    headers = {"Host": "localhost", "Content-Type": "application/json"}
    await app(scope("http", "POST", path, headers), receive, send)
    return got[0]["status"]


@pytest.mark.parametrize(
    ("path", "name"),
    [("/things/a%2Fb", "a/b"), ("/things/a@b", "a@b"), ("/things/a%40b", "a@b"),
     ("/things/..", ".."), ("/things/%C3%A4", "ä"), ("//things//x/", "x")],
)  # fmt: skip
async def test_h3_a_path_is_matched_before_it_is_decoded(client, path, name):
    assert (await client.get(path)).json["params"] == {"id": name}


async def test_h3_names_stand_before_parameters(client):
    assert (await client.get("/things/all")).text == "all of them"


async def test_h3_the_rest_of_a_path_is_one_parameter(client):
    answer = await client.request("PUT", "/files/a/b%2Fc", body=b"x")
    assert answer.json["params"] == {"rest": "a/b/c"}


async def test_h3_unknown_paths_and_methods_are_told_apart(client):
    assert (await client.get("/nothing")).json["error"] == "no_route"
    answer = await client.delete("/things/1")
    assert (answer.status, answer.json["error"]) == (405, "no_method")
    assert answer.headers["allow"] == "GET, OPTIONS, PUT"


async def test_h3_head_is_answered_as_get_and_options_with_nothing(client):
    assert (await client.request("HEAD", "/things/1")).status == 200
    assert (await client.request("OPTIONS", "/anything")).status == 204


async def test_h4_a_body_that_does_not_come_is_not_waited_for(app, autojump_clock):
    got = []

    async def never():
        await trio.sleep_forever()

    async def send(event):
        got.append(event)

    headers = {"Host": "localhost", "Content-Length": "5"}
    await app(scope("http", "POST", "/things", headers), never, send)
    assert got[0]["status"] == 408
    assert trio.current_time() >= BODY_WITHIN


async def test_h4_half_a_body_is_not_taken_for_a_whole_one(app):
    got = []
    events = [{"type": "http.request", "body": b'{"a":1}', "more_body": True}]

    async def receive():
        return events.pop(0) if events else {"type": "http.disconnect"}

    async def send(event):
        got.append(event)

    headers = {"Host": "localhost", "Content-Type": "application/json"}
    await app(scope("http", "POST", "/things", headers), receive, send)
    assert got[0]["status"] == 400


async def test_h4_a_bug_is_logged_and_ends_one_request_only(client, caplog):
    assert (await client.get("/bug")).status == 400
    assert "this is a bug of ampd" in caplog.text
    assert (await client.get("/things/1")).status == 200


async def test_a_route_gets_the_token_the_query_and_who_asks(client):
    answer = await client.get("/things/1?a=1&a=2&b=", token="secret", peer="10.0.0.9")
    assert answer.json["query"] == {"a": "2", "b": ""}
    assert (answer.json["bearer"], answer.json["peer"]) == ("secret", "10.0.0.9")


@pytest.mark.parametrize("text", ["Bearer", "Basic abc", "bearer", "token"])
async def test_no_other_authorization_is_a_bearer(client, text):
    assert (await client.get("/things/1", headers={"Authorization": text})).json["bearer"] == ""


async def test_a_form_is_refused_and_a_post_without_a_body_is_not(client):
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    answer = await client.request("POST", "/things", body=b"a=1", headers=form)
    assert (answer.status, answer.json["error"]) == (415, "media_type")
    answer = await client.request("PUT", "/things/1")
    assert answer.status == 200
    assert (await client.request("PUT", "/files/x", body=b"\0", headers=form)).status == 200


async def test_who_goes_by_another_name_or_comes_from_a_page_gets_nowhere(client):
    assert (await client.get("/things/1", headers={"Host": "evil.example"})).status == 421
    assert (await client.get("/things/1", headers={"Origin": "http://evil.example"})).status == 403
    headers = {"Origin": "http://evil.example"}
    assert (await client.request("OPTIONS", "/things", headers=headers)).status == 403


async def test_a_body_that_is_no_json_is_the_services_to_refuse(client):
    headers = {"Content-Type": "application/json"}
    answer = await client.request("POST", "/things", body=b"{", headers=headers)
    assert answer.json["error"] == "json"


async def test_a_websocket_carries_texts_both_ways(client):
    async with client.socket("/ws") as socket:
        await socket.send({"a": 1})
        assert await socket.receive() == {"a": 1}
        await socket.send('"bye"')
        assert await socket.closed() == 4001


async def test_a_bug_behind_a_websocket_closes_it_with_1011(client):
    async with client.socket("/ws/bug") as socket:
        assert await socket.closed() == 1011


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [("/nothing", {}, 404), ("/ws", {"Origin": "http://evil.example"}, 403),
     ("/ws", {"Host": "evil.example"}, 421)],
)  # fmt: skip
async def test_a_websocket_that_may_not_be_is_refused_with_http(client, path, headers, status):
    with pytest.raises(Closed) as caught:
        async with client.socket(path, headers):
            pass
    assert caught.value.status == status


async def test_h5_a_length_that_is_said_twice_is_refused(client):
    headers = {"Transfer-Encoding": "chunked", "Content-Type": "application/json"}
    answer = await client.request("POST", "/things", body=b"1", headers=headers)
    assert (answer.status, answer.json["error"]) == (400, "ambiguous")


async def test_h6_open_websockets_are_told_that_the_server_goes_away(client, app):
    async with client.socket("/ws") as socket:
        await app.close_sockets()
        assert await socket.closed() == 1001


async def test_h7_what_cannot_be_done_now_names_no_file_of_this_machine(client, caplog):
    stored = (await client.get("/cannot/store")).json
    assert (stored["error"], "/home" in stored["said"]) == ("unavailable", False)
    waits = (await client.get("/cannot/wait")).json
    assert waits["said"].strip() == "not now"
    assert [each.why for each in caplog.records] == [
        "/home/ann/x is away; try: ls -l /home", "not now; try: ls -l /home"
    ]  # fmt: skip
    assert [each.where for each in caplog.records] == ["/cannot/store", "/cannot/wait"]
