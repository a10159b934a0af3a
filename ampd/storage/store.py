"""The node's memory: the journal, and the index that is made from it, under one writer.

  T1  `write` returns when everything that its work appended is on disk, folder entries included
      (P1); whoever writes at the same time shares one sync (group commit).
  T2  Works run one after the other, in the order of their calls, each on what the one before it
      left: what a work reads cannot change before it is done.
  T3  All or nothing: a work that raises leaves nothing; when the disk fails, every work that
      shared the sync gets StorageError and nothing of theirs is kept.
  T4  After a failed sync nothing is acknowledged until the journal was read again.
  T5  Followers are woken after the sync, never before.

One thread owns the journal and the writing end of the index. A work is a plain function that runs
in that thread; it may run twice (after a failed shared sync) and so must change nothing but its
transaction. Readers use a connection of their own.
"""

import json
import queue
import sqlite3
import threading
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Generic, TypeVar

import outcome
import trio

from ampd.model.errors import AmpdError, StorageError
from ampd.storage import index as indexes
from ampd.storage.index import Index, IndexUnusableError
from ampd.storage.journal import Checkpoint, Journal, Position
from ampd.storage.records import (
    Agent,
    CardSeen,
    Contact,
    Deleted,
    Dropped,
    Kept,
    Marked,
    Progress,
    Queued,
    Record,
    Released,
    from_bytes,
    to_bytes,
)
from ampd.storage.view import Reader, View

T = TypeVar("T")
Topic = Hashable

# More than this many works do not share one sync: the first would wait too long for the last.
MAX_BATCH: Final = 256
_REPLAY_STEP: Final = 2000  # records a transaction while catching up


@dataclass(slots=True)
class Transaction:
    """What a work may do: read the index, append records."""

    index: Index
    next_seq: int
    now: int = 0
    urgent: bool = False  # small, and may use the reserve of a full disk
    payloads: list[bytes] = field(default_factory=list)
    topics: set[Topic] = field(default_factory=set)

    @property
    def db(self) -> sqlite3.Connection:
        """The index as the works before this one left it."""
        return self.index.db

    def append(self, record: Record) -> int:
        """Keep `record`; its number in the journal. The index knows it at once."""
        seq = self.next_seq
        self.index.apply(seq, record)
        self.payloads.append(to_bytes(record))
        self.next_seq += 1
        self.topics.update(_topics(record))
        return seq


def _topics(record: Record) -> Iterable[Topic]:
    """Whom a record wakes: followers of a mailbox, of an agent's sent mail, of the outbox."""
    match record:
        case Kept():
            yield from (("box", box[0]) for box in record.boxes)
            if record.by:
                yield ("sent", record.by)
        case Queued():
            yield "outbox"
        case Progress():
            yield ("sent", record.by)
            yield "outbox"
        case Dropped():
            yield "outbox"
        case Marked() | Deleted() | Released():
            yield ("box", record.agent)
        case Agent():
            yield "agents"
        case CardSeen() | Contact():
            yield "contacts"
            yield "outbox"


def _REBUILD(_: Transaction) -> None:  # noqa: N802 - a mark, not a work
    """Stands in the queue for "make the index anew"."""


class _Work(Generic[T]):
    __slots__ = ("result", "run", "task", "urgent")

    def __init__(self, run: Callable[[Transaction], T], *, urgent: bool) -> None:
        self.run = run
        self.urgent = urgent
        self.task = None if run is _REBUILD else trio.lowlevel.current_task()
        self.result: outcome.Outcome[T] | None = None


class Store:
    """Everything this node remembers."""

    def __init__(self, folder: Path, key: bytes, now: Callable[[], int]) -> None:
        """Open or make the store in `folder`; catch up or rebuild the index.

        `key` is the secret that the journal's chain is keyed with.
        """
        self._folder = folder
        self._key = key
        self._now = now
        self._queue: queue.SimpleQueue[_Work[Any] | None] = queue.SimpleQueue()
        self._waiters: dict[Topic, trio.Event] = {}
        self._behind = False
        self._rebuilding = False
        self.index_path = folder / "index.sqlite"
        self._stamp_path = folder / "index.stamp"
        self.rebuilt = False
        self._open()
        self._view = View(self.index_path, self._rebuild_soon)
        self._token: trio.lowlevel.TrioToken | None = None
        self._thread: threading.Thread | None = None

    # --- opening -------------------------------------------------------------------------

    def _open(self) -> None:
        if self._stamp_path.exists() and self._stamp_path.read_text() != self._stamp():
            indexes.remove(self.index_path)  # somebody else wrote to it since we closed it
        self._stamp_path.unlink(missing_ok=True)
        try:
            self.index = Index(self.index_path)
            self.journal = self._open_journal(self._checkpoint())
        except IndexUnusableError:
            indexes.remove(self.index_path)
            self.index = Index(self.index_path)
            self.journal = self._open_journal(None)
        if not self.journal.checkpoint_held:
            self._start_over()
        self._catch_up()

    def _stamp(self) -> str:
        """What changes when anybody writes to the index."""
        try:
            found = self.index_path.stat()
        except FileNotFoundError:
            return "none"
        return f"{found.st_ino} {found.st_size} {found.st_mtime_ns}"

    def _open_journal(self, after: Checkpoint | None) -> Journal:
        return Journal.open(self._folder / "journal", self._key, after=after)

    def _start_over(self) -> None:
        self.index.db.close()
        self.journal.close()
        indexes.remove(self.index_path)
        self.index = Index(self.index_path)
        self.journal = self._open_journal(None)

    def _checkpoint(self) -> Checkpoint | None:
        kept = self.index.meta("checkpoint")
        if kept is None:
            return None
        seq, segment, offset, chain = json.loads(kept)
        return Checkpoint(seq, Position(segment, offset), bytes.fromhex(chain))

    def _catch_up(self) -> None:
        """Apply what the journal has and the index does not."""
        kept = self._checkpoint()
        after = kept.seq if kept else 0
        self.rebuilt = after == 0
        waiting: list[tuple[int, bytes, Position]] = []
        for record in self.journal.scan(after=after):
            waiting.append((record.seq, record.payload, record.position))
            if len(waiting) == _REPLAY_STEP:
                self._replay(waiting)
                waiting = []
        self._replay(waiting)

    def _replay(self, waiting: list[tuple[int, bytes, Position]]) -> None:
        db = self.index.db
        db.execute("BEGIN IMMEDIATE")
        for seq, payload, _ in waiting:
            self.index.apply(seq, from_bytes(payload))
        self._note_places([(seq, place) for seq, _, place in waiting])
        self._note_checkpoint()
        db.execute("COMMIT")

    def _note_places(self, places: list[tuple[int, Position]]) -> None:
        self.index.db.executemany(
            "INSERT OR REPLACE INTO places VALUES(?,?,?)",
            [(seq, place.segment, place.offset) for seq, place in places],
        )

    def _note_checkpoint(self) -> None:
        now = self.journal.checkpoint
        place = now.position
        self.index.set_meta(
            "checkpoint", json.dumps([now.seq, place.segment, place.offset, now.chain.hex()])
        )

    # --- writing -------------------------------------------------------------------------

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve `write` until cancelled; what was handed in before is finished."""
        self._token = trio.lowlevel.current_trio_token()
        self._thread = threading.Thread(target=self._serve, name="ampd-store", daemon=True)
        self._thread.start()
        task_status.started()
        try:
            await trio.sleep_forever()
        finally:
            self._queue.put(None)
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(self._thread.join)

    async def write(self, run: Callable[[Transaction], T], *, urgent: bool = False) -> T:
        """Run `run` in the writing thread and return its result once it is on disk (T1-T3).

        Not cancellable: what was handed in happens. `urgent` is for small records that must go on
        when the disk is full (marks, progress).
        """
        work = _Work(run, urgent=urgent)
        self._queue.put(work)
        result: T = await trio.lowlevel.wait_task_rescheduled(_cannot_stop)
        return result

    async def rebuild(self) -> None:
        """Make the index anew from the journal; what is written meanwhile waits."""
        self._queue.put(_Work(_REBUILD, urgent=False))
        await self.write(lambda _: None)

    def _rebuild_soon(self) -> None:
        if not self._rebuilding:
            self._rebuilding = True
            self._queue.put(_Work(_REBUILD, urgent=False))

    def _make_anew(self) -> None:
        self.index.db.close()
        indexes.remove(self.index_path)
        self.index = Index(self.index_path)
        self._catch_up()
        self._rebuilding = False

    def _serve(self) -> None:
        while (first := self._queue.get()) is not None:
            batch = [first]
            stop = False
            while len(batch) < MAX_BATCH and not stop:
                try:
                    work = self._queue.get_nowait()
                except queue.Empty:
                    break
                if work is None:
                    stop = True
                else:
                    batch.append(work)
            topics = self._commit(batch)
            assert self._token is not None  # noqa: S101
            self._token.run_sync_soon(self._finish, batch, topics)
            if stop:
                break

    def _commit(self, batch: list[_Work[Any]]) -> set[Topic]:
        """Run a batch under one sync; if that fails and it was shared, each on its own."""
        try:
            if any(work.run is _REBUILD for work in batch):
                self._make_anew()
            return self._attempt(batch)
        except (StorageError, sqlite3.Error) as exc:
            if _is_damage(exc):
                self._rebuild_soon()
            if len(batch) > 1:
                return {topic for work in batch for topic in self._commit([work])}
            batch[0].result = outcome.Error(_storage_error(exc))
            return set()

    def _attempt(self, batch: list[_Work[Any]]) -> set[Topic]:
        self._recover()
        db = self.index.db
        next_seq = self.journal.checkpoint.seq + 1
        topics: set[Topic] = set()
        payloads: list[bytes] = []
        db.execute("BEGIN IMMEDIATE")
        try:
            for work in batch:
                if work.run is _REBUILD:
                    continue
                self._run_one(work, next_seq + len(payloads), payloads, topics)
            if payloads:
                urgent = all(work.urgent for work in batch)
                records = self.journal.append(payloads, urgent=urgent)
                self._note_places([(record.seq, record.position) for record in records])
                self.journal.sync()
                self._note_checkpoint()
        except (StorageError, sqlite3.Error):
            self._undo()
            raise
        self._commit_index()
        return topics

    def _run_one(
        self, work: _Work[Any], seq: int, payloads: list[bytes], topics: set[Topic]
    ) -> None:
        db = self.index.db
        db.execute("SAVEPOINT work")
        transaction = Transaction(self.index, seq, self._now())
        try:
            work.result = outcome.Value(work.run(transaction))
        except AmpdError as exc:
            work.result = outcome.Error(exc)
            db.execute("ROLLBACK TO work")
            self.index.forget_cache()
        else:
            payloads += transaction.payloads
            topics |= transaction.topics
        db.execute("RELEASE work")

    def _undo(self) -> None:
        """After a failure: nothing of the batch stays, in the index or in the journal."""
        if self.index.db.in_transaction:
            self.index.db.execute("ROLLBACK")
        self.index.forget_cache()
        self._behind = True

    def _recover(self) -> None:
        """Before anything new: cut off what was not synced, catch up the index (T4)."""
        if self._behind:
            self.journal.reopen()
            self._catch_up()
            self._behind = False

    def _commit_index(self) -> None:
        """The records are on disk. If the index cannot follow now, it catches up later."""
        try:
            self.index.db.execute("COMMIT")
        except sqlite3.Error:
            self._behind = True
            if self.index.db.in_transaction:
                self.index.db.execute("ROLLBACK")
            self.index.forget_cache()

    def _finish(self, batch: list[_Work[Any]], topics: set[Topic]) -> None:
        for work in batch:
            if work.task is None:
                self._view.close()  # a rebuild: the file is another one now
            else:
                trio.lowlevel.reschedule(work.task, work.result or outcome.Value(None))
        for topic in topics:
            waiting = self._waiters.pop(topic, None)
            if waiting is not None:
                waiting.set()

    # --- reading -------------------------------------------------------------------------

    @property
    def view(self) -> Reader:
        """The index for reading; for the trio thread only."""
        return self._view

    def payload(self, seq: int) -> Record:
        """The record `seq`, proved against its checksum and the chain's key."""
        return self.payload_at(self._view, seq)

    def payload_at(self, db: Reader, seq: int) -> Record:
        """The same with another thread's connection."""
        row = db.execute("SELECT segment, offset FROM places WHERE seq=?", (seq,)).fetchone()
        if row is None:
            raise StorageError(f"record {seq} is not in the journal", hint="amp check --repair")
        return from_bytes(self.journal.read(Position(row[0], row[1]), seq))

    def changed(self, topic: Topic) -> trio.Event:
        """An event that is set when something of this topic was written after this call (T5)."""
        return self._waiters.setdefault(topic, trio.Event())

    def close(self) -> None:
        """After `run` ended."""
        self._view.close()
        self.index.db.close()
        self.journal.close()
        self._stamp_path.write_text(self._stamp())


def _cannot_stop(_raise_cancel: object) -> trio.lowlevel.Abort:
    return trio.lowlevel.Abort.FAILED


def _is_damage(exc: Exception) -> bool:
    return isinstance(exc, sqlite3.DatabaseError) and not isinstance(
        exc, sqlite3.OperationalError | sqlite3.IntegrityError | sqlite3.ProgrammingError
    )


def _storage_error(exc: Exception) -> AmpdError:
    if isinstance(exc, AmpdError):
        return exc
    return StorageError(f"the index cannot be written: {exc}", hint="is the disk full? df -h")
