"""An agent's mail as the gateways hand it out."""

from contextlib import asynccontextmanager

import fakes
import pytest
import trio
from edge.gateway_harness import rooms

from ampd.edge.gateway_mail import GatewayMail
from ampd.model.message import id_from_text
from ampd.storage.records import State


@asynccontextmanager
async def two(folder):
    """alice, bob, what hands out their mail, and their node."""
    async with fakes.node(folder) as node:
        alice, bob = await node.agent("alice"), await node.agent("bob")
        yield alice, bob, GatewayMail(rooms(node)), node


def bodies(page):
    return [each.body for each in page.pieces]


async def test_a_page_has_the_oldest_first_and_says_where_the_next_begins(tmp_path):
    async with two(tmp_path) as (alice, bob, mail, node):
        for number in range(5):
            await node.send(alice, "bob", str(number), payload=f'{{"n":{number}.0}}')
        first = mail.page(bob, 2)
        assert bodies(first) == ["0", "1"]
        assert (first.waiting, first.next) == (5, 2)
        assert first.pieces[1].payload == '{"n":1.0}'
        second = mail.page(bob, 3, after=first.next)
        assert bodies(second) == ["2", "3", "4"]
        assert second.next == 0


async def test_an_empty_mailbox_is_an_empty_page(tmp_path):
    async with two(tmp_path) as (_, bob, mail, _node):
        page = mail.page(bob)
        assert (page.pieces, page.next, page.waiting) == ((), 0, 0)


async def test_m2_a_damaged_message_holds_up_none_behind_it(tmp_path, caplog):
    async with two(tmp_path) as (alice, bob, mail, node):
        sent = [await node.send(alice, "bob", text) for text in ("first", "second", "third")]
        seq = node.lists.find(bob, sent[1].id)
        place = node.store.view.execute("SELECT segment, offset FROM places WHERE seq=?", (seq,))
        segment, offset = place.fetchone()
        path = next(
            path for path in (node.folder / "journal").iterdir() if str(segment) in path.name
        )
        data = bytearray(path.read_bytes())
        data[offset + 40] ^= 1
        path.write_bytes(data)
        assert bodies(mail.page(bob)) == ["first", "third"]
        assert "cannot be handed out" in caplog.text


async def test_m3_what_is_acked_quarantined_or_somebody_elses_is_not_handed_out(tmp_path):
    async with two(tmp_path) as (alice, bob, mail, node):
        await node.send(alice, "bob", "acked")
        await node.send(alice, "bob", "read")
        await node.send(bob, "alice", "alice's")
        await node.marks.set(bob, ["1"], State.ACKED)
        await node.marks.set(bob, ["2"], State.READ)
        assert bodies(mail.page(bob)) == ["read"]
        assert mail.waiting(bob) == 1


async def test_a_message_is_found_by_its_id_for_those_whose_it_is(tmp_path):
    async with two(tmp_path) as (alice, bob, mail, node):
        identifier = id_from_text((await node.send(alice, "bob", "hello")).id)
        assert mail.received(bob, identifier).body == "hello"
        assert mail.received(alice, identifier) is None
        assert mail.sent(alice, identifier).body == "hello"
        assert mail.sent(bob, identifier) is None
        assert mail.sender_of(identifier) == alice
        assert mail.sender_of(bytes(16)) is None
        await mail.acknowledge(bob, [identifier])
        assert mail.received(bob, identifier).summary.state == "acked"


async def test_acknowledging_says_what_was_there_and_does_it_once(tmp_path):
    async with two(tmp_path) as (alice, bob, mail, node):
        first, second = [id_from_text((await node.send(alice, "bob", t)).id) for t in "ab"]
        assert await mail.acknowledge(bob, [second, bytes(16), second]) == [second]
        assert bodies(mail.page(bob)) == ["a"]
        records = node.records()
        assert await mail.acknowledge(bob, [second]) == [second]
        assert node.records() == records  # it was done already
        assert await mail.acknowledge(bob, [first, second]) == [first, second]
        assert await mail.acknowledge(alice, [first]) == []


async def test_who_waits_hears_of_new_mail(tmp_path):
    async with two(tmp_path) as (alice, bob, mail, node):
        news = mail.news(bob)
        assert not news.is_set()
        await node.send(alice, "bob", "hello")
        with trio.fail_after(5):
            await news.wait()


@pytest.mark.parametrize(("name", "there"), [("bob", True), ("carol", False), ("", False)])
async def test_an_agent_is_found_by_name_or_not(tmp_path, name, there):
    async with two(tmp_path) as (_, bob, mail, _node):
        assert mail.agent_named(name) == (bob if there else None)
