"""The node's memory: the journal, and the index that is made from it, under one writer.

  T1  `write` returns when everything that its work appended is on disk, folder entries included
      (P1); whoever writes at the same time shares one sync (group commit).
  T2  Works run one after the other, in the order of their calls, each on what the one before it
      left: what a work reads cannot change before it is done.
  T3  All or nothing: a work that raises leaves nothing, and its error goes to its caller; when the
      disk fails, nothing of those that got StorageError is kept; after a crash a work's records
      are there together or not at all.
  T4  After a failed sync nothing is acknowledged until the journal was read again.
  T5  Followers are woken after the sync, never before.
  T6  Whoever waits gets an answer: when the writing thread ends, for whatever reason, what it did
      not do is refused, and its error ends `run`.

One thread owns the journal and the writing end of the index. A work is a plain function that runs
in that thread; it may run twice (after a failed shared sync) and so must change nothing but its
transaction. Readers use a connection of their own.
"""

import queue
import sqlite3
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, TypeVar

import outcome
import trio

from ampd.model.errors import AmpdError, StorageError
from ampd.storage import cleaning
from ampd.storage.disk import Disk
from ampd.storage.gathering import Gathering
from ampd.storage.groups import Entry, counted
from ampd.storage.index import connect
from ampd.storage.journal import Journal, Position
from ampd.storage.records import Record, from_bytes
from ampd.storage.transaction import Topic, Transaction, Work
from ampd.storage.turns import Turns
from ampd.storage.view import Reader, View
from ampd.storage.writer import INDEX_RESERVE, SEGMENT, Writer, log

__all__ = ["Store", "Topic", "Transaction"]

T = TypeVar("T")

# More than this many works do not share one sync: the first would wait too long for the last.
MAX_BATCH: Final = 256
CATCH_UP_EVERY: Final = 1.0  # seconds between tries while the index has no room to follow
CLEAN_EVERY: Final = 600.0  # seconds between looks for dead records: often enough for a disk


class _Chore:
    """Something for the writing thread that is no work: it runs alone, between batches."""

    __slots__ = ("result", "run", "task")

    def __init__(self, run: Callable[[], Any], task: trio.lowlevel.Task | None) -> None:
        self.run = run
        self.task = task
        self.result: outcome.Outcome[Any] = outcome.Error(StorageError("the store has ended"))


class _Asked(Work):
    """A work, and the task that waits for it."""

    __slots__ = ("task",)

    def __init__(self, run: Callable[[Transaction], Any], *, urgent: bool) -> None:
        super().__init__(run, urgent=urgent)
        self.task: trio.lowlevel.Task | None = trio.lowlevel.current_task()


class Store:
    """Everything this node remembers."""

    def __init__(
        self,
        folder: Path,
        key: bytes,
        now: Callable[[], int],
        *,
        disk: Disk | None = None,
        segment_bytes: int = SEGMENT,
        index_reserve: int = INDEX_RESERVE,
    ) -> None:
        """Open or make the store in `folder`; catch up or rebuild the index.

        `key` is the secret that the journal's chain is keyed with; `disk` is what a test puts
        between the journal and the disk.
        """
        self._queue: queue.SimpleQueue[_Asked | _Chore | None] = queue.SimpleQueue()
        self._gathering: Gathering[_Asked] = Gathering(self._queue.put)
        self.turns = Turns()  # to be held by whoever writes for an agent
        self._waiters: dict[Topic, trio.Event] = {}
        self._rebuilding = False
        self._ended = False
        self._now = now
        self._writer = Writer(
            folder, key, now, disk=disk, segment_bytes=segment_bytes, index_reserve=index_reserve
        )
        self.index_path = self._writer.index_path
        self._view = View(self.index_path, self._rebuild_soon)
        self._token: trio.lowlevel.TrioToken | None = None

    @property
    def journal(self) -> Journal:
        """The journal, for reading."""
        return self._writer.journal

    @property
    def full(self) -> bool:
        """Whether new mail is refused because the disk is full."""
        return self._writer.full

    @property
    def rebuilt(self) -> bool:
        """Whether the index was made anew since this store was opened."""
        return self._writer.rebuilt

    @property
    def restored(self) -> bool:
        """Whether the journal was found to be another one than the index followed."""
        return self._writer.restored

    # --- writing -------------------------------------------------------------------------

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve `write` until cancelled; what was handed in before is finished."""
        self._token = trio.lowlevel.current_trio_token()
        trio.lowlevel.add_instrument(self._gathering)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._thread)
                task_status.started()
                try:
                    await trio.sleep_forever()
                finally:
                    self._gathering.hand_over()
                    self._queue.put(None)
        finally:
            trio.lowlevel.remove_instrument(self._gathering)
            self._refuse_the_rest()

    async def _thread(self) -> None:
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(self._serve, limiter=trio.CapacityLimiter(1))

    def _refuse_the_rest(self) -> None:
        """T6."""
        self._ended = True
        self.turns.end()
        self._gathering.hand_over()
        while not self._queue.empty():
            left = self._queue.get_nowait()
            if left is not None and left.task is not None:
                _answer(left.task, outcome.Error(_ended()))

    async def write(self, run: Callable[[Transaction], T], *, urgent: bool = False) -> T:
        """Run `run` in the writing thread and return its result once it is on disk (T1-T3).

        Not cancellable: what was handed in happens. `urgent` is for small records that must go on
        when the disk is full (marks, progress).
        """
        if self._ended:
            raise _ended()
        self._gathering.add(_Asked(run, urgent=urgent))
        result: T = await trio.lowlevel.wait_task_rescheduled(_cannot_stop)
        return result

    async def _chore(self, run: Callable[[], T]) -> T:
        if self._ended:
            raise _ended()
        self._gathering.hand_over()
        self._queue.put(_Chore(run, trio.lowlevel.current_task()))
        result: T = await trio.lowlevel.wait_task_rescheduled(_cannot_stop)
        return result

    async def rebuild(self) -> None:
        """Make the index anew from the journal; what is written meanwhile waits."""
        await self._chore(self._make_anew)

    def _rebuild_soon(self, why: str) -> None:
        if not self._rebuilding and not self._ended:
            self._rebuilding = True
            log.error("the index is damaged: it is made anew", extra={"why": why})
            self._queue.put(_Chore(self._make_anew, None))

    def _make_anew(self) -> None:
        try:
            self._writer.build(swap=self._swap)
            self._tell(self._wake_all)  # the old one may not have followed (E3)
        finally:
            self._rebuilding = False

    def _swap(self, put: Callable[[], None]) -> None:
        """In the trio thread, so that nobody reads the old index while the new one comes."""
        assert self._token is not None  # noqa: S101 - this is the thread that run() started
        done = threading.Event()
        answer: list[outcome.Outcome[None]] = []

        def swapped() -> None:
            self._view.close()
            answer.append(outcome.capture(put))
            done.set()

        self._token.run_sync_soon(swapped)
        done.wait()
        answer[0].unwrap()

    def _serve(self) -> None:
        following = self._next()
        while following is not None:
            if isinstance(following, _Chore):
                self._run_chore(following)
                following = self._next()
                continue
            batch = [following]
            following = self._gather(batch)
            self._run_batch(batch)
            if following is _NOTHING:
                following = self._next()

    def _next(self) -> _Asked | _Chore | None:
        while self._writer.behind:
            try:
                return self._queue.get(timeout=CATCH_UP_EVERY)
            except queue.Empty:
                self._tell(self._finish, [], self._writer.try_again())
        return self._queue.get()

    def _gather(self, batch: list[_Asked]) -> "_Asked | _Chore | None":
        """What waits goes into the batch; what ends it (or _NOTHING) is returned."""
        while len(batch) < MAX_BATCH:
            try:
                found = self._queue.get_nowait()
            except queue.Empty:
                return _NOTHING
            if not isinstance(found, _Asked):
                return found
            batch.append(found)
        return _NOTHING

    def _run_batch(self, batch: list[_Asked]) -> None:
        topics: set[Topic] = set()
        settled = False
        try:
            topics = self._writer.commit(list(batch))
            settled = True
        finally:
            if not settled:  # a bug: its traceback ends the daemon, and nobody is told "kept"
                for work in batch:
                    work.result = outcome.Error(_ended())
            self._tell(self._finish, batch, topics)
        if self._writer.damaged:
            self._rebuild_soon(self._writer.damaged)

    def _run_chore(self, chore: _Chore) -> None:
        chore.result = outcome.capture(chore.run)
        if isinstance(chore.result, outcome.Error) and chore.task is None:
            error = chore.result.error
            if not isinstance(error, AmpdError | sqlite3.Error | OSError):
                raise error
            log.error("the index cannot be made anew", extra={"why": str(error)})
        self._tell(self._finish, [chore], self._writer.owed())

    def _tell(self, what: Callable[..., None], *values: Any) -> None:
        assert self._token is not None  # noqa: S101 - this is the thread that run() started
        self._token.run_sync_soon(what, *values)

    def _finish(self, done: list[_Asked | _Chore], topics: set[Topic]) -> None:
        for each in done:
            if each.task is not None:
                _answer(each.task, each.result)
        for topic in topics:
            waiting = self._waiters.pop(topic, None)
            if waiting is not None:
                waiting.set()

    def _wake_all(self) -> None:
        waiters, self._waiters = self._waiters, {}
        for waiting in waiters.values():
            waiting.set()

    # --- reading -------------------------------------------------------------------------

    @property
    def view(self) -> Reader:
        """The index for reading; for the trio thread only."""
        return self._view

    def reader(self) -> sqlite3.Connection:
        """A connection for another thread; made in the trio thread, where no index is exchanged."""
        db = connect(self.index_path, read_only=True)
        db.execute("SELECT 1 FROM meta").fetchone()  # it has the log of this file, and not the next
        return db

    def records(self, after: int = 0) -> Iterator[Entry]:
        """What counts in the journal, in order; in any thread."""
        return counted(self._writer.journal, after)

    def payload(self, seq: int) -> Record:
        """The record `seq`, proved against its checksum and the chain's key."""
        return self.payload_at(self._view, seq)

    def payload_at(self, db: Reader, seq: int) -> Record:
        """The same with another thread's connection."""
        row = db.execute("SELECT segment, offset FROM places WHERE seq=?", (seq,)).fetchone()
        if row is None:
            raise StorageError(f"record {seq} is not in the journal", hint="amp check --repair")
        return from_bytes(self._writer.journal.read(Position(row[0], row[1]), seq))

    def changed(self, topic: Topic) -> trio.Event:
        """An event that is set when something of this topic was written after this call (T5)."""
        return self._waiters.setdefault(topic, trio.Event())

    # --- compaction ----------------------------------------------------------------------

    async def keep_clean(self) -> None:
        """Look for dead records now and then, until cancelled."""
        while True:
            await trio.sleep(CLEAN_EVERY)
            try:
                await self.clean()
            except (StorageError, sqlite3.Error) as exc:
                log.warning("compaction has to wait", extra={"why": str(exc)})

    async def clean(self, *, deleted_within: int = cleaning.DELETED_WITHIN) -> int:
        """Rewrite the segments that hold enough dead records (cleaning.py); how many were."""
        return await cleaning.clean(
            self._writer, self.write, self._chore, self.reader, self._now(), deleted_within
        )

    def close(self) -> None:
        """After `run` ended."""
        self._ended = True
        self._view.close()
        self._writer.close()


_NOTHING: Final = _Chore(lambda: None, None)


def _cannot_stop(_raise_cancel: object) -> trio.lowlevel.Abort:
    return trio.lowlevel.Abort.FAILED


def _answer(task: trio.lowlevel.Task, result: outcome.Outcome[Any]) -> None:
    trio.lowlevel.reschedule(task, result)


def _ended() -> StorageError:
    return StorageError("the store has ended", hint="amp daemon restart")
