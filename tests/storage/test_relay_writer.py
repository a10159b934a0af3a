"""What the writing thread of the relay's SQLite store promises: RW1-RW4."""

import sqlite3

import pytest
import trio

from ampd.model.errors import Refused, StorageError, Unavailable
from ampd.storage.relay_store.writer import Writer


class Failing(sqlite3.Connection):
    """A connection whose disk fails at chosen statements."""

    fails = ()

    def execute(self, sql, *values):
        if self.fails and sql == self.fails[0]:
            Failing.fails = self.fails[1:]
            error = sqlite3.OperationalError("disk I/O error")
            error.sqlite_errorcode = sqlite3.SQLITE_IOERR
            raise error
        return super().execute(sql, *values)


class Place:
    def __init__(self, path):
        self.path = path
        self.opened = 0
        self.statements = []
        self.pages = 1 << 30

    def connect(self):
        db = sqlite3.connect(
            self.path, isolation_level=None, check_same_thread=False, factory=Failing
        )
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("CREATE TABLE IF NOT EXISTS t(value)")
        db.execute(f"PRAGMA max_page_count={self.pages}")
        db.set_trace_callback(self.statements.append)
        self.opened += 1
        return db

    def rows(self):
        db = sqlite3.connect(self.path)
        rows = [row[0] for row in db.execute("SELECT value FROM t ORDER BY rowid")]
        db.close()
        return rows


@pytest.fixture
def place(tmp_path):
    Failing.fails = ()
    return Place(tmp_path / "t.sqlite")


@pytest.fixture
async def writer(place):
    writer = Writer(place.connect)
    writer.start()
    yield writer
    await writer.stop()


def insert(value):
    return lambda db: db.execute("INSERT INTO t VALUES(?)", (value,)).rowcount


async def together(writer, *works):
    """The outcome of each work, all handed in at once."""
    outcomes = [None] * len(works)

    async def one(place, work):
        try:
            outcomes[place] = await writer.write(work)
        except (Refused, Unavailable) as exc:
            outcomes[place] = type(exc)

    async with trio.open_nursery() as nursery:
        for number, work in enumerate(works):
            nursery.start_soon(one, number, work)
    return outcomes


async def test_rw1_works_that_come_together_share_a_commit(writer, place):
    assert await together(writer, *[insert(n) for n in range(100)]) == [1] * 100
    assert len(place.rows()) == 100
    assert place.statements.count("COMMIT") < 50


async def test_rw1_an_answer_comes_after_the_commit(writer, place):
    await writer.write(insert(1))
    assert place.statements[-1] == "COMMIT"


async def test_rw1_a_work_that_was_handed_in_happens_though_its_caller_is_cancelled(writer, place):
    with trio.CancelScope() as scope:
        scope.cancel()
        await writer.write(insert(1))
    assert place.rows() == [1]


async def test_rw2_works_run_in_the_order_of_their_calls(writer, place):
    works = [writer.write(insert(number)) for number in range(3)]
    for work in works:
        await work
    assert place.rows() == [0, 1, 2]


async def test_rw3_a_work_that_refuses_spoils_no_other(writer, place):
    def refuse(_):
        raise Refused("no")

    assert await together(writer, insert(1), refuse, insert(2)) == [1, Refused, 1]
    assert sorted(place.rows()) == [1, 2]


async def test_rw3_a_full_database_fails_who_needs_room_and_nobody_else(writer, place):
    await writer.write(lambda db: db.execute("PRAGMA max_page_count=20").fetchall())
    big = insert(bytes(200_000))
    outcomes = await together(writer, insert(1), big, insert(2), big, insert(3))
    assert outcomes == [1, StorageError, 1, StorageError, 1]
    assert sorted(place.rows()) == [1, 2, 3]
    assert place.opened == 1
    await writer.write(lambda db: db.execute("PRAGMA max_page_count=2000").fetchall())
    assert await writer.write(big) == 1, "it goes on by itself"


@pytest.mark.parametrize("statement", ["BEGIN IMMEDIATE", "COMMIT"])
async def test_rw4_after_an_error_of_the_disk_the_database_is_opened_again(
    writer, place, statement
):
    Failing.fails = (statement,)
    with pytest.raises(StorageError, match="disk I/O error"):
        await writer.write(insert(1))
    assert await writer.write(insert(2)) == 1
    assert place.rows() == [2]
    assert place.opened == 2


async def test_rw4_a_rollback_that_fails_ends_with_the_connection(writer, place):
    Failing.fails = ("COMMIT", "ROLLBACK")
    with pytest.raises(StorageError):
        await writer.write(insert(1))
    assert await writer.write(insert(2)) == 1
    assert place.rows() == [2]


async def test_what_was_handed_in_before_the_end_is_finished(place):
    writer = Writer(place.connect)
    writer.start()
    async with trio.open_nursery() as nursery:
        for number in range(10):
            nursery.start_soon(writer.write, insert(number))
        await trio.testing.wait_all_tasks_blocked()
        await writer.stop()
    assert len(place.rows()) == 10
    with pytest.raises(Unavailable):
        await writer.write(insert(1))
