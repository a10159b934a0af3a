"""This module is the one thread that writes to a relay's SQLite database: group commit.

  RW1  `write` returns when the work's COMMIT is on disk (synchronous=FULL); works that are handed
       in at the same time share one.
  RW2  Works run one after the other, in the order of their calls.
  RW3  A work checks before it writes: what it raises leaves nothing. When the database fails, a
       batch is undone and each of its works is tried alone; one that fails again gets StorageError.
  RW4  After an error of the disk the database is closed and opened again before anything new.

Not here: what works do (sqlite.py, members.py).
"""

import queue
import sqlite3
import threading
from collections.abc import Callable
from typing import Any, Final, Generic, TypeVar

import outcome
import trio

from ampd.model.errors import AmpdError, StorageError, Unavailable
from ampd.storage.gathering import Gathering

T = TypeVar("T")

MAX_BATCH: Final = 128  # works in one COMMIT: the first waits for the last


class _Work(Generic[T]):
    __slots__ = ("result", "run", "task")

    def __init__(self, run: Callable[[sqlite3.Connection], T]) -> None:
        self.run = run
        self.task = trio.lowlevel.current_task()
        self.result: outcome.Outcome[T] | None = None


class Writer:
    """Runs works in a thread of its own, several to a COMMIT."""

    def __init__(self, connect: Callable[[], sqlite3.Connection]) -> None:
        """`connect` opens the database in autocommit mode, for any thread."""
        self._connect = connect
        self._queue: queue.SimpleQueue[_Work[Any] | None] = queue.SimpleQueue()
        self._gathering: Gathering[_Work[Any]] = Gathering(self._queue.put)
        self._token: trio.lowlevel.TrioToken | None = None
        self._thread = threading.Thread(target=self._serve, name="ampd-relay-store", daemon=True)
        self._db: sqlite3.Connection | None = None

    def start(self) -> None:
        """Open the database (sqlite3.Error when it cannot be) and begin."""
        self._db = self._connect()
        self._token = trio.lowlevel.current_trio_token()
        trio.lowlevel.add_instrument(self._gathering)
        self._thread.start()

    async def stop(self) -> None:
        """Finish what was handed in, and close the database."""
        self._token, handed_over = None, self._token
        if handed_over is None:
            return
        trio.lowlevel.remove_instrument(self._gathering)
        self._gathering.hand_over()
        self._queue.put(None)
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(self._thread.join)

    async def write(self, run: Callable[[sqlite3.Connection], T]) -> T:
        """The result of `run`, once it is on disk (RW1). Not cancellable: it happens."""
        if self._token is None:
            raise Unavailable("the relay's store is closed")
        work = _Work(run)
        self._gathering.add(work)
        result: T = await trio.lowlevel.wait_task_rescheduled(_cannot_stop)
        return result

    def _serve(self) -> None:
        token = self._token
        assert token is not None  # noqa: S101 - `start` set it
        stopping = False
        while not stopping:
            first = self._queue.get()
            if first is None:
                break
            batch = [first]
            while len(batch) < MAX_BATCH and not self._queue.empty():
                work = self._queue.get_nowait()
                if work is None:
                    stopping = True
                    break
                batch.append(work)
            self._commit(batch)
            token.run_sync_soon(_answer, batch)
        self._close()

    def _commit(self, batch: list[_Work[Any]]) -> None:
        try:
            self._attempt(batch)
        except sqlite3.Error as exc:
            self._undo(exc)
            if len(batch) == 1:
                batch[0].result = outcome.Error(storage_error(exc))
                return
            for work in batch:
                self._commit([work])

    def _attempt(self, batch: list[_Work[Any]]) -> None:
        if self._db is None:
            self._db = self._connect()
        self._db.execute("BEGIN IMMEDIATE")
        for work in batch:
            try:
                work.result = outcome.Value(work.run(self._db))
            except AmpdError as exc:
                work.result = outcome.Error(exc)
        self._db.execute("COMMIT")

    def _undo(self, exc: sqlite3.Error) -> None:
        broken = not is_full(exc)
        if self._db is not None and self._db.in_transaction:
            try:
                self._db.execute("ROLLBACK")
            except sqlite3.Error:
                broken = True  # closing undoes it too
        if broken:
            self._close()

    def _close(self) -> None:
        if self._db is not None:
            self._db.close()
            self._db = None


def _answer(batch: list[_Work[Any]]) -> None:
    for work in batch:
        assert work.result is not None  # noqa: S101 - every path of `_commit` sets it
        trio.lowlevel.reschedule(work.task, work.result)


def _cannot_stop(_raise_cancel: object) -> trio.lowlevel.Abort:
    return trio.lowlevel.Abort.FAILED


def is_full(exc: sqlite3.Error) -> bool:
    """Whether the database or its disk has no room."""
    return getattr(exc, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_FULL


def storage_error(exc: sqlite3.Error) -> StorageError:
    """What a caller is told of a failing database."""
    hint = "make room on the disk (df -h)" if is_full(exc) else "see the system's log (dmesg)"
    return StorageError(f"the relay's store: {exc}", hint=hint)
