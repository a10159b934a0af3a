"""What is said of a message right after it was sent, and the keys of a provider."""

import fakes
import pytest
import trio
import trio.testing

from ampd.edge.amp.outcomes import WAIT, Outcome, Outcomes
from ampd.edge.amp.provider import Provider
from ampd.model.errors import StorageError

BY_SOCKET = Outcome("delivered", "websocket", 5)


async def test_oc1_what_was_settled_before_or_after_the_question_is_said():
    outcomes = Outcomes()
    outcomes.settle(b"bob", b"first", BY_SOCKET)
    assert await outcomes.of(b"bob", b"first") == BY_SOCKET
    found = []

    async def ask():
        found.append(await outcomes.of(b"bob", b"second"))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        await trio.testing.wait_all_tasks_blocked()
        outcomes.settle(b"eve", b"second", BY_SOCKET)
        outcomes.settle(b"bob", b"second", BY_SOCKET)
    assert found == [BY_SOCKET]


async def test_oc2_nobody_waits_longer_than_five_seconds(autojump_clock):
    outcomes = Outcomes()
    began = trio.current_time()
    assert await outcomes.of(b"bob", b"never") is None
    assert trio.current_time() - began == WAIT == 5
    assert outcomes._waiting == {}


async def test_oc2_several_may_ask_for_one_message(autojump_clock):
    outcomes, found = Outcomes(), []

    async def ask():
        found.append(await outcomes.of(b"bob", b"m"))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        nursery.start_soon(ask)
        await trio.sleep(1)
        outcomes.settle(b"bob", b"m", BY_SOCKET)
    assert found == [BY_SOCKET, BY_SOCKET]


def test_pk1_the_key_is_made_once_for_its_owner_alone(tmp_path):
    first, second = Provider("A.example", tmp_path), Provider("A.example", tmp_path)
    assert first.domain == "a.example"
    assert first.pem == second.pem
    assert first.fingerprint == first.signer.public.fingerprint
    path = tmp_path / "amp_provider.key"
    assert path.stat().st_mode & 0o777 == 0o600
    path.chmod(0o644)
    with pytest.raises(StorageError, match="others may read"):
        Provider("A.example", tmp_path)


async def test_pk2_an_agents_key_for_amp_is_its_own_and_another_than_its_native_one(tmp_path):
    async with fakes.node(tmp_path) as node:
        alice, bob = await node.agent("alice"), await node.agent("bob")
        keys = [Provider.signer_of(each).public.raw for each in (alice, bob, alice)]
        assert keys[0] == keys[2] != keys[1]
        assert {alice.key, bob.key}.isdisjoint(keys)
