"""What the JetStream store promises beside the contract, on a cluster of three real servers."""

import base64
import gc

import pytest
import trio
from contracts.relay_stores import (
    ALICE,
    BOB,
    NODE,
    NOW,
    OTHER,
    JetStreamSite,
    letter,
    numbers,
)
from nats_server import running

from ampd.core.relay_directory import CardBook
from ampd.crypto.keyfiles import node_key
from ampd.crypto.keys import SigningKey
from ampd.model.address import Address
from ampd.model.card import CARD_CONTEXT, Card, mailbox_of
from ampd.model.errors import Refused, Unavailable
from ampd.storage.relay_store import jetstream, nats_link
from ampd.storage.relay_store.nats_link import Declined, Page
from ampd.storage.relay_store.port import Full, Limits, Usage

LIMITS = Limits(mailbox_messages=100_000)
# nats-py gives up a connection that a stopped server never answers without closing it.
LEAKS = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
BOXES = [bytes([n]) * 16 for n in range(4)]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    with running(tmp_path_factory.mktemp("cluster"), 3) as cluster:
        yield cluster


@pytest.fixture
def site(cluster):
    return JetStreamSite(cluster.urls)


async def ask(store, verb, body=None):
    """JetStream's own answer."""
    return await store._thread.call(store._link.api, f"{verb}.{store._mail.stream}", body or {})


async def leader(cluster, store):
    """The server that leads the stream of the mail."""
    info = await ask(store, "STREAM.INFO")
    return cluster.servers[int(info["cluster"]["leader"][1:])]


async def deposit(store, mail):
    """Until it is answered, as a sender does."""
    while True:
        try:
            return await store.deposit(mail)
        except Unavailable:
            await trio.sleep(0.05)


async def collect(store, mailbox):
    held, cursor = [], None
    while page := await store.after(mailbox, cursor, 500):
        held += page
        cursor = page[-1].token
    return held


class Load:
    """Eight senders over several relays; `answered` grows."""

    def __init__(self, stores):
        self._stores = stores
        self._numbers = iter(range(1 << 30))
        self.answered = []
        self._stopping = False
        self._grown = trio.Event()

    async def __aenter__(self):
        self._nursery_manager = trio.open_nursery()
        nursery = await self._nursery_manager.__aenter__()
        for sender in range(8):
            nursery.start_soon(self._send, self._stores[sender % len(self._stores)])
        return self

    async def __aexit__(self, *error):
        self._stopping = True
        return await self._nursery_manager.__aexit__(*error)

    async def _send(self, store):
        while not self._stopping:
            number = next(self._numbers)
            await deposit(store, letter(number, 1024, BOXES[number % 4]))
            self.answered.append(number)
            self._grown.set()

    async def go_on(self, count):
        """Return when so many more were answered."""
        goal = len(self.answered) + count
        with trio.fail_after(40):
            while len(self.answered) < goal:
                self._grown = trio.Event()
                await self._grown.wait()


async def assert_all_there(store, answered):
    """Nothing answered is lost, nothing is twice, and each sender's mail is in its order."""
    found = []
    for mailbox in BOXES:
        found += numbers(await collect(store, mailbox))
    assert sorted(found) == sorted(set(found))
    assert set(answered) <= set(found)
    assert len(set(found)) - len(answered) <= 8, "what was stored and not answered in time"


async def test_rj1_mail_taken_by_one_relay_wakes_a_collector_at_another(site):
    async with site.store() as first, site.store() as second:
        alice, bob = second.changed(ALICE), second.changed(BOB)
        assert await second.after(ALICE, None, 9) == []
        assert await first.deposit(letter(1))
        with trio.fail_after(10):
            await alice.wait()
        assert numbers(await second.after(ALICE, None, 9)) == [1]
        assert not bob.is_set()


async def test_rj1_a_collector_misses_nothing_however_it_meets_the_senders(site):
    async with site.store(LIMITS) as first, site.store(LIMITS) as second:
        got = []

        async def collector():
            cursor = None
            while len(got) < 200:
                changed = second.changed(ALICE)
                page = await second.after(ALICE, cursor, 10)
                if not page:
                    await changed.wait()
                    continue
                got.extend(numbers(page))
                cursor = page[-1].token
                await second.remove(ALICE, [held.token for held in page])

        async with trio.open_nursery() as nursery:
            with trio.fail_after(30):
                nursery.start_soon(collector)
                for number in range(200):
                    await first.deposit(letter(number))
        assert got == list(range(200))
        assert await first.usage(ALICE) == Usage(0, 0)


async def test_rj1_who_stops_waiting_costs_the_cluster_nothing(site, monkeypatch):
    monkeypatch.setattr(jetstream, "_LINGER", 0.0)
    async with site.store() as store:
        event = store.changed(ALICE)
        assert await store.after(ALICE, None, 9) == []
        assert list(store._watches) == [ALICE]
        del event
        gc.collect()
        with trio.fail_after(10):
            while store._watches:
                await store.after(ALICE, None, 9)


async def test_jm1_what_any_relay_has_taken_or_removed_is_known_to_all(site):
    async with site.store() as first, site.store() as second:
        assert await first.deposit(letter(1))
        assert not await second.deposit(letter(1))
        [held] = await second.after(ALICE, None, 9)
        await second.remove(ALICE, [held.token])
        assert not await first.deposit(letter(1))
        assert not await second.deposit(letter(1))


async def test_jm2_deposits_of_one_envelope_at_two_relays_at_once_keep_it_once(site):
    async with site.store(LIMITS) as first, site.store(LIMITS) as second:
        answers = {number: [] for number in range(40)}

        async def one(store, number):
            answers[number].append(await deposit(store, letter(number)))

        async with trio.open_nursery() as nursery:
            for number in answers:
                nursery.start_soon(one, first, number)
                nursery.start_soon(one, second, number)
        assert [sorted(each) for each in answers.values()] == [[False, True]] * 40
        assert sorted(numbers(await collect(first, ALICE))) == list(range(40))


async def test_jm2_a_refusal_because_of_one_on_its_way_is_not_taken_for_known(site, monkeypatch):
    async with site.store() as store:
        publish, refusals = store._link.publish, [10164, 10071]

        async def refused(*message):
            if refusals:
                raise Declined("wrong last sequence", refusals.pop())
            return await publish(*message)

        monkeypatch.setattr(store._link, "publish", refused)
        assert await store.deposit(letter(1)), "the other one failed"
        refusals += [10164] * 9
        with pytest.raises(Unavailable, match="by somebody else"):
            await store.deposit(letter(2))
        assert numbers(await store.after(ALICE, None, 9)) == [1]


async def test_what_the_servers_cannot_take_is_refused_for_good(site):
    async with site.store(Limits()) as store:
        with pytest.raises(Refused, match="at most 1047552"):
            await store.deposit(letter(1, 1 << 20))
        assert await store.deposit(letter(1, 1047552))


async def test_nl2_nl3_a_server_without_its_cluster_is_left(site, monkeypatch):
    monkeypatch.setattr(nats_link, "_PULSE", 0.05)
    async with site.store() as store:
        api, failing = store._link.api, [True] * 3
        waiting = store.changed(ALICE)

        async def fails(*request):
            if failing and failing.pop():
                raise Unavailable("no leader")
            return await api(*request)

        monkeypatch.setattr(store._link, "api", fails)
        with trio.fail_after(10):
            await waiting.wait()
        assert store._link._client.stats["reconnects"] == 1
        assert await deposit(store, letter(1))


async def test_jm3_marks_and_mail_have_a_time_to_live_at_the_servers(site):
    async with site.store() as store:
        mail = letter(1, expires=site.clock + 1_100)
        await store.deposit(mail)
        [held] = await store.after(ALICE, None, 9)
        await store.remove(ALICE, [held.token])
        assert (await ask(store, "STREAM.INFO"))["state"]["messages"] == 1
        with trio.fail_after(20):
            while (await ask(store, "STREAM.INFO"))["state"]["messages"]:  # noqa: ASYNC110
                await trio.sleep(0.1)
        assert await store.deposit(mail), "for the store's clock it is alive, and nothing is known"


async def test_jm3_when_the_servers_are_full_mail_is_refused_and_can_be_removed(site):
    async with site.store(Limits()) as store:
        config = (await ask(store, "STREAM.INFO"))["config"]
        await store.deposit(letter(1, 2000))
        await ask(store, "STREAM.UPDATE", {**config, "discard": "new", "max_bytes": 3000})
        with pytest.raises(Unavailable):
            await store.deposit(letter(2, 2000))
        [held] = await store.after(ALICE, None, 9)
        await store.remove(ALICE, [held.token])
        assert await store.deposit(letter(2, 2000))


async def test_jm4_pages_follow_the_order_of_the_stream_over_many_messages(site):
    async with site.store(LIMITS) as store:
        async with trio.open_nursery() as nursery:
            for number in range(1100):  # more than the servers bring in one answer
                nursery.start_soon(store.deposit, letter(number, 40))
        held = await collect(store, ALICE)
        places = [int(each.token.split(" ")[0]) for each in held]
        assert places == sorted(places)
        assert sorted(numbers(held)) == list(range(1100))


async def test_jm4_a_replica_that_is_behind_its_leader_is_asked_again(site, monkeypatch):
    async with site.store() as store:
        await store.deposit(letter(1))
        page, answers = store._link.page, iter([None, Page([], 0, 0)])

        async def behind(*request):
            return next(answers, None) or await page(*request)

        monkeypatch.setattr(store._link, "page", behind)
        assert numbers(await store.after(ALICE, None, 9)) == [1]


async def test_jm4_who_reads_from_a_replica_that_stays_behind_is_woken_again(site, monkeypatch):
    async with site.store() as store:
        await store.deposit(letter(1))
        changed = store.changed(ALICE)

        async def behind(*_):
            return None

        monkeypatch.setattr(store._link, "page", behind)
        assert await store.after(ALICE, None, 9) == []
        with trio.fail_after(10):
            await changed.wait()


async def test_jm5_the_quota_counts_what_other_relays_took(site):
    async with site.store() as first, site.store() as second:
        for number in range(4):
            await first.deposit(letter(number))
        await second.deposit(letter(4))
        with pytest.raises(Full):
            await second.deposit(letter(5))
        page = await first.after(ALICE, None, 9)
        await first.remove(ALICE, [page[0].token])
        assert await second.deposit(letter(5)), "it looks again before it refuses"


async def test_jm5_deposits_that_come_together_share_a_look_and_keep_to_the_quota(site):
    async with site.store() as store:
        refused = []

        async def one(number):
            try:
                await store.deposit(letter(number))
            except Full:
                refused.append(number)

        async with trio.open_nursery() as nursery:
            for number in range(12):
                nursery.start_soon(one, number)
        assert len(refused) == 7
        assert await store.usage(ALICE) == Usage(5, 500)


async def test_jb1_the_newest_card_wins_when_two_relays_are_given_many(site):
    async with site.store() as first, site.store() as second:
        async with trio.open_nursery() as nursery:
            for number in range(1, 13):
                store = first if number % 2 else second
                put = store.put_card
                nursery.start_soon(
                    lambda put=put, number=number: put(
                        NODE, "a@x.local", number, b"%d" % number, withdrawn=False
                    )
                )
        assert await first.cards("a@x.local") == await second.cards("") == [b"12"]


async def test_jb2_an_index_entry_that_was_left_behind_shows_nothing(site):
    async with site.store() as store:
        await store.put_card(NODE, "a@x.local", 1, b"one", withdrawn=False)
        await store._thread.call(
            store._link.publish, store._book._index("a@y.local", NODE), b"", {}
        )
        await store._thread.call(
            store._link.publish, store._book._index("a@y.local", OTHER), b"", {}
        )
        assert await store.cards("@y.local") == []
        assert await store.cards("@x.local") == await store.cards("") == [b"one"]


async def test_the_streams_are_kept_by_three_servers(site):
    async with site.store() as store:
        assert (await ask(store, "STREAM.INFO"))["config"]["num_replicas"] == 3


async def test_nl2_nothing_answered_is_lost_or_doubled_when_the_leader_is_killed(cluster, site):
    async with site.store(LIMITS) as first, site.store(LIMITS) as second:
        server = await leader(cluster, first)
        async with Load([first, second]) as load:
            await load.go_on(200)
            server.kill()
            await load.go_on(200)
            server.start()
            await load.go_on(100)
        await assert_all_there(first, load.answered)


@LEAKS
async def test_nl2_nothing_answered_is_lost_or_doubled_when_a_server_is_cut_off(cluster, site):
    async with site.store(LIMITS) as first, site.store(LIMITS) as second:
        server = await leader(cluster, first)
        async with Load([first, second]) as load:
            await load.go_on(200)
            server.hold()
            try:
                await load.go_on(200)
            finally:
                server.let_go()
            await load.go_on(100)
        await assert_all_there(second, load.answered)


async def test_nl1_nl3_rj2_all_servers_restarted_lose_nothing_and_wake_who_waits(cluster, site):
    async with site.store(LIMITS) as store:
        async with Load([store]) as load:
            await load.go_on(100)
            waiting = store.changed(OTHER[:16])
            cluster.kill()
            for call in (
                store.deposit(letter(1 << 20)),
                store.after(ALICE, None, 1),
                store.count(),
            ):
                with pytest.raises(Unavailable):
                    await call
            cluster.start()
            await load.go_on(100)
            with trio.fail_after(20):
                await waiting.wait()
        await assert_all_there(store, load.answered)


async def test_nl1_a_cluster_that_cannot_be_reached_is_said_to_be_so(site, monkeypatch):
    monkeypatch.setattr(nats_link, "CONNECT_WITHIN", 0.5)
    site.urls = ["nats://somebody:secret@127.0.0.1:1"]
    with pytest.raises(BaseExceptionGroup) as group:
        async with site.store():
            pass
    assert group.group_contains(Unavailable, match=r"no NATS server answers at 127\.0\.0\.1")
    assert not group.group_contains(Unavailable, match="secret")


# the directory of relays that share the cluster (core/relay_directory.py)


def shown(name, number=1):
    """A card of an agent: its key, the card and the signed bytes."""
    key = SigningKey(name.encode().ljust(32, b"."))
    card = Card(
        Address.parse(f"{name}@secret-{name}.example"), number, NOW, mailbox_of(key.public),
        (NODE,), b"i" * 32, NOW + 86_400_000, b"f" * 32, alias=f"alias of {name}",
    )  # fmt: skip
    return key.public, card, key.sign1(CARD_CONTEXT, card.to_bytes())


def spellings(name):
    """The words of such a card as they, or their beginnings, would lie in a file."""
    words = [f"{name}@secret-{name}.example", f"secret-{name}.example", f"alias of {name}"]
    for word in (each.encode() for each in words):
        yield word
        yield base64.urlsafe_b64encode(word).rstrip(b"=")


def in_files(cluster, name):
    """What of this agent's card lies in the files of the cluster."""
    folder = cluster.servers[0].folder
    kept = b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())
    return {word for word in spellings(name) if word in kept}


async def until_in_files(cluster, name):
    with trio.fail_after(20):
        while not in_files(cluster, name):  # noqa: ASYNC110 - files tell nobody
            await trio.sleep(0.05)


async def test_n3_relays_with_one_key_file_share_a_directory_that_the_cluster_cannot_read(
    cluster, site, tmp_path
):
    async with site.store() as one, site.store() as two:
        first, second = (CardBook(store, node_key(tmp_path / "K")) for store in (one, two))
        without = CardBook(two, None)
        await first.put(*shown("alice"))
        await second.put(*shown("bob"))
        (alice, bob) = (shown(name)[2] for name in ("alice", "bob"))
        for book in (first, second):
            assert sorted(await book.find("", 9)) == sorted([alice, bob])
            assert await book.find("alice@secret-alice.example", 9) == [alice]
            assert await book.find("@secret-bob.example", 9) == [bob]
            assert await book.of(shown("alice")[0]) == alice
        for pattern in ("", "alice@secret-alice.example", "@secret-bob.example"):
            assert await without.find(pattern, 9) == []
        await without.put(*shown("carol"))  # so that it is known that files would show them
        await until_in_files(cluster, "carol")
        assert in_files(cluster, "alice") == in_files(cluster, "bob") == set()


async def test_n5_a_cluster_whose_relays_get_a_key_forgets_the_clear_cards(cluster, site, tmp_path):
    async with site.store() as store:
        await CardBook(store, None).put(*shown("dora"))
        book = CardBook(store, node_key(tmp_path / "K"))
        assert await book.find("", 9) == []
        assert await book.put(*shown("dora"))
        assert await book.find("@secret-dora.example", 9) == [shown("dora")[2]]
        assert await CardBook(store, None).find("", 9) == []
