"""What callers of both gateways hear when this machine's disk takes nothing (app.py, H7)."""

import errno

import pytest
from edge.amp.amp_client import AmpClient
from edge.amp.two_gateways import Stranger, net, register
from edge.amtp.team import error_of, team
from edge.gateway_harness import gateway

from ampd.model.errors import StorageError
from ampd.storage.disk import Disk
from ampd.storage.registry import Registry


@pytest.fixture
def fill(monkeypatch):
    """Fills the disk when it is called."""

    def full(*_):
        raise OSError(errno.ENOSPC, "no space left")

    async def kept(self, _work):
        raise StorageError(f"{self._path} cannot be written: full", hint=f"ls -l {self._path}")

    def fill():
        monkeypatch.setattr(Disk, "write", full)
        monkeypatch.setattr(Registry, "change", kept)

    return fill


@pytest.fixture
async def ann(tmp_path):
    async with gateway(tmp_path) as here:
        ann = AmpClient(here, "ann")
        await ann.register()
        yield ann


async def test_h7_amp_names_no_file(ann, fill, tmp_path):
    fill()
    for answer in (
        await ann.route(ann.message(ann.address)),
        await AmpClient(ann.here, "bob").register(),
    ):
        assert (answer.status, answer.json["error"]) == (503, "unavailable")
        assert "this node cannot store" in answer.json["message"]
        assert str(tmp_path) not in answer.text


async def test_h7_amp_names_no_file_on_a_websocket(ann, fill, tmp_path):
    async with ann.here.socket("/v1/ws") as socket:
        await socket.send({"type": "auth", "token": ann.token})
        await socket.receive()
        fill()
        await socket.send({"type": "route", "data": ann.message(ann.address)})
        heard = await socket.receive()
        assert (heard["type"], heard["error"]) == ("error", "unavailable")
        assert str(tmp_path) not in str(heard)


async def test_h7_amp_names_no_file_to_other_providers(fill, tmp_path):
    async with net(tmp_path) as network:
        place = await network.gateway("b", amp_domain="b.example", federation="open")
        await register(place, "bob")
        stranger = Stranger(network)
        letter = stranger.letter("bob@default.b.example")
        fill()
        answer = await stranger.deliver(place, letter)
        assert (answer.status, answer.json["accepted"]) == (503, False)
        assert "this node cannot store" in answer.json["message"]
        assert str(tmp_path) not in answer.text


async def test_h7_amtp_names_no_file(fill, tmp_path):
    async with team(tmp_path) as us:
        key = await us.register("ann")
        fill()
        answer = await us.send("ann", "ann", token=key, payload={"x": 1})
        assert (answer.status, error_of(answer)) == (503, "TEMPORARY_FAILURE")
        assert "this node cannot store" in answer.json["error"]["message"]
        assert str(tmp_path) not in answer.text
