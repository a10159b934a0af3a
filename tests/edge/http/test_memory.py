"""What bodies and answers may hold together."""

import pytest
import trio
import trio.testing
from edge.gateway_harness import Nothing, gateway, scope

from ampd.edge.http import app as app_of
from ampd.edge.http import memory
from ampd.edge.http.app import STREAM_WITHIN, App
from ampd.edge.http.guard import Guard
from ampd.edge.http.words import Answer, HttpRefused, Route

LARGE = 100 << 10


class Large(Nothing):
    """Takes large bodies, and gives large answers."""

    def __init__(self):
        super().__init__("echo")
        self.asked = 0

    def routes(self):
        return (
            Route("POST", "/take", self._take, any_type=True),
            Route("GET", "/give", self._give),
            Route("PUT", "/stream", self._stream, any_type=True, stream=True),
        )

    async def _take(self, request):
        self.asked += 1
        return Answer.text(200, str(len(request.body)))

    async def _give(self, _request):
        await trio.lowlevel.checkpoint()
        return Answer(200, b"x" * LARGE)

    async def _stream(self, request):
        async for _ in request.stream:
            pass
        return Answer(204)


def made():
    return App([Large()], lambda _method, segments, _bearer: ("echo", tuple(segments)), Guard())


async def ask(app, method, path, pieces=(b"",), gate=None):
    """The status of one request; `gate` keeps its caller from taking the answer."""
    events = [{"type": "http.request", "body": p, "more_body": True} for p in pieces]
    events[-1]["more_body"] = False
    got = []

    async def receive():
        await trio.lowlevel.checkpoint()
        if not events:
            await trio.sleep_forever()
        return events.pop(0)

    async def send(event):
        if gate is not None:
            await gate.wait()
        got.append(event)

    await app(scope("http", method, path, {"Host": "localhost"}), receive, send)
    return got[0]["status"]


def test_hm1_what_is_too_much_is_refused_and_what_is_small_counts_not(monkeypatch):
    monkeypatch.setattr(memory, "MOST", 3 * LARGE)
    room = memory.Memory()
    with room.share() as one, room.share() as two:
        one.holds(2 * LARGE)
        one.holds(memory.SMALL)
        assert room.held == 0
        one.holds(2 * LARGE)
        two.holds(LARGE)
        with pytest.raises(HttpRefused) as caught:
            two.holds(LARGE + 1)
        assert (caught.value.code, caught.value.status, room.held) == ("busy", 503, 3 * LARGE)
    assert room.held == 0


async def test_hm1_answers_that_nobody_takes_hold_up_no_small_ones(monkeypatch):
    monkeypatch.setattr(memory, "MOST", 3 * LARGE)
    app, gate, got = made(), trio.Event(), []
    async with trio.open_nursery() as nursery:

        async def slow():
            got.append(await ask(app, "GET", "/give", gate=gate))

        for _ in range(3):
            nursery.start_soon(slow)
        await trio.testing.wait_all_tasks_blocked()
        assert await ask(app, "GET", "/give") == 503
        assert await ask(app, "POST", "/take", [b"small"]) == 200
        gate.set()
    assert got == [200, 200, 200]
    assert await ask(app, "GET", "/give") == 200
    assert app.memory.held == 0


async def test_hm1_bodies_count_as_they_come(monkeypatch):
    monkeypatch.setattr(memory, "MOST", 3 * LARGE)
    app = made()
    assert await ask(app, "POST", "/take", [b"x" * LARGE] * 3) == 200
    assert await ask(app, "POST", "/take", [b"x" * LARGE] * 4) == 503
    assert app.memory.held == 0


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/route"])
async def test_hm1_both_protocols_say_it_in_their_words(tmp_path, monkeypatch, path):
    monkeypatch.setattr(memory, "MOST", LARGE)
    async with gateway(tmp_path) as here:
        reply = await here.post(path, {"x": "y" * 2 * LARGE})
        assert reply.status == 503
        assert "TEMPORARY_FAILURE" in reply.text or "unavailable" in reply.text


async def test_h4_a_stream_does_not_drip_for_ever(autojump_clock):
    app, started = made(), trio.current_time()

    async def receive():
        await trio.sleep(app_of.BODY_WITHIN - 1)
        if trio.current_time() - started > 2 * STREAM_WITHIN:
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": b"x", "more_body": True}

    got = []

    async def send(event):
        await trio.lowlevel.checkpoint()
        got.append(event)

    await app(scope("http", "PUT", "/stream", {"Host": "localhost"}), receive, send)
    assert got[0]["status"] == 408
    assert trio.current_time() - started < STREAM_WITHIN + 2 * app_of.BODY_WITHIN
