"""What a relay's store learns of its directory: the rules of core/relay_directory.py."""

from contextlib import asynccontextmanager

import pytest
import trio
from fakes import DAY, START

from ampd import relay_daemon
from ampd.core import relay_directory
from ampd.core.relay_directory import CardBook
from ampd.crypto.keyfiles import node_key
from ampd.crypto.keys import SigningKey, open1
from ampd.model.address import Address
from ampd.model.card import CARD_CONTEXT, Card, mailbox_of
from ampd.storage.relay_store.port import Full, Limits
from ampd.storage.relay_store.sqlite import SqliteRelayStore

KEY, RELAY, OTHER = (SigningKey(bytes([n]) * 32) for n in range(3))


def card(number=1, **changes):
    what = Card(
        Address.parse("bob@b.example"), number, START, mailbox_of(KEY.public), (b"n" * 32,),
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


async def test_n3_relays_of_a_cluster_with_one_key_read_each_other(store, tmp_path):
    shared = node_key(tmp_path / "cluster.key")
    await put(CardBook(store, shared), card(description="a secret trade"))
    again = CardBook(store, node_key(tmp_path / "cluster.key"))
    for pattern in ("bob@b.example", "@b.example", ""):
        assert await again.find(pattern, 10) == [card(description="a secret trade")]
    assert await again.of(KEY.public) == card(description="a secret trade")
    assert await CardBook(store, RELAY).find("", 10) == []
    files = [path for path in tmp_path.iterdir() if path.name.startswith("relay.sqlite")]
    kept = b"".join(path.read_bytes() for path in files)
    assert b"b.example" not in kept and b"secret" not in kept


@pytest.mark.parametrize(
    ("flags", "sealed_to"),
    [
        ([], "own"),
        (["--store", "nats://a:4222"], None),
        (["--store", "nats://a:4222", "--store-key", "K"], "file"),
        (["--store-key", "K"], "file"),
    ],
)
def test_n3_which_key_the_directory_is_sealed_to(tmp_path, monkeypatch, flags, sealed_to):
    monkeypatch.chdir(tmp_path)
    settings = relay_daemon._settings(relay_daemon.parser().parse_args(["--home", "h", *flags]))
    found = settings.directory_key(RELAY)
    keys = {"own": RELAY.public, None: None}
    if sealed_to == "file":
        keys["file"] = node_key(tmp_path / "K").public
    assert (found and found.public) == keys[sealed_to]


@pytest.mark.parametrize("before", [None, OTHER])
@pytest.mark.parametrize("after", [None, RELAY])
async def test_n5_with_another_key_cards_are_unknown_until_they_are_shown_again(
    store, before, after
):
    await put(CardBook(store, before), card())
    book = CardBook(store, after)
    if before is not after:
        for pattern in ("bob@b.example", "@b.example", ""):
            assert await book.find(pattern, 10) == []
        assert await book.of(KEY.public) is None
        assert await put(book, card())
    assert not await put(book, card()), "it is kept as it is"
    for pattern in ("bob@b.example", "@b.example", ""):
        assert await book.find(pattern, 10) == [card()]
    assert await book.of(KEY.public) == card()


async def test_n5_what_cannot_be_read_keeps_older_cards_out(store):
    await put(CardBook(store, OTHER), card(number=5))
    assert not await put(CardBook(store, RELAY), card(number=4))
    assert await CardBook(store, RELAY).find("", 10) == []
    assert await put(CardBook(store, RELAY), card(number=5))


async def test_n4_an_address_has_so_many_cards_and_no_more(store, monkeypatch):
    monkeypatch.setattr(relay_directory, "MAX_AT_ADDRESS", 2)
    book = CardBook(store, RELAY)
    keys = [SigningKey(bytes([n]) * 32) for n in range(10, 13)]

    async def shown(key, number=1, name="bob"):
        address = Address.parse(f"{name}@b.example")
        what = Card(
            address, number, START, mailbox_of(key.public), (b"n" * 32,), b"i" * 32, START + DAY,
            b"f" * 32,
        )  # fmt: skip
        return await book.put(key.public, what, key.sign1(CARD_CONTEXT, what.to_bytes()))

    assert await shown(keys[0]) and await shown(keys[1])
    with pytest.raises(Full):
        await shown(keys[2])
    assert await shown(keys[1], 2), "a newer card of a key that is here"
    assert await shown(keys[2], name="rob")


async def test_n6_a_card_that_was_asked_for_lately_is_not_opened_again(store, monkeypatch):
    book = CardBook(store, RELAY)
    await put(book, card())
    assert await book.find("", 10) == [card()]
    monkeypatch.setattr(type(book._key), "open", lambda *_: pytest.fail("opened again"))
    for pattern in ("", "bob@b.example", "@b.example"):
        assert await book.find(pattern, 10) == [card()]
