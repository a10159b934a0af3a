"""What a relay's store learns of its directory: the rules of core/relay_directory.py."""

from contextlib import asynccontextmanager

import pytest
import trio
from fakes import DAY, START

from ampd.core.relay_directory import CardBook
from ampd.crypto.keys import SigningKey, open1
from ampd.model.address import Address
from ampd.model.card import CARD_CONTEXT, Card, mailbox_of
from ampd.storage.relay_store.port import Limits
from ampd.storage.relay_store.sqlite import SqliteRelayStore

KEY, RELAY, OTHER = (SigningKey(bytes([n]) * 32) for n in range(3))


def card(**changes):
    what = Card(
        Address.parse("bob@b.example"), 1, START, mailbox_of(KEY.public), (b"n" * 32,),
        b"i" * 32, START + DAY, b"f" * 32, alias="Robert", **changes,
    )  # fmt: skip
    return KEY.sign1(CARD_CONTEXT, what.to_bytes())


@asynccontextmanager
async def open_store(folder):
    store = SqliteRelayStore(folder / "relay.sqlite", Limits(), lambda: START)
    async with trio.open_nursery() as nursery:
        await nursery.start(store.run)
        yield store
        nursery.cancel_scope.cancel()


@pytest.fixture
async def store(tmp_path):
    async with open_store(tmp_path) as found:
        yield found


async def put(book, signed):
    return await book.put(KEY.public, Card.from_bytes(open1(signed, CARD_CONTEXT)[1]), signed)


async def test_n1_the_files_show_no_address_and_no_word_of_a_card(store, tmp_path):
    await put(CardBook(store, RELAY), card(description="a secret trade"))
    kept = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    for word in (b"bob", b"b.example", b"Robert", b"secret", b"n" * 32):
        assert word not in kept


async def test_n1_a_card_is_found_again_also_after_a_restart(tmp_path):
    async with open_store(tmp_path) as store:
        await put(CardBook(store, RELAY), card())
    async with open_store(tmp_path) as store:
        for pattern in ("bob@b.example", "@b.example", ""):
            assert await CardBook(store, RELAY).find(pattern, 10) == [card()]
        assert await CardBook(store, RELAY).find("bob@c.example", 10) == []


async def test_n2_what_another_key_sealed_is_passed_over(store):
    await put(CardBook(store, OTHER), card())
    assert await CardBook(store, RELAY).find("", 10) == []


async def test_relays_of_one_cluster_read_each_others_cards(store):
    await put(CardBook(store, None), card())
    assert await CardBook(store, None).find("@b.example", 10) == [card()]
