"""The writing end: the journal and the index behind one thread, batches under one sync.

  E1  A work that raises leaves nothing, whatever it raises; the error goes to who handed it in.
  E2  What one batch appends is one group when any of its works appends more than one record: after
      a crash the group is there whole or not at all (records.py, R3).
  E3  An index that cannot follow (a full disk) does not stop what the journal took: it catches up.
  E4  On a full disk urgent works still find room for the index, as for the journal: a reserve is
      given up, and until it could be made again ordinary works are refused (P5).
  E5  Damage and torn tails are logged when they are found.

Not here: who waits for what (store.py), which records are dead (cleaning.py).
"""

import logging
import sqlite3
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final, TypeVar

import outcome

from ampd.model.errors import AmpdError, StorageError
from ampd.storage import index as indexes
from ampd.storage.disk import Disk
from ampd.storage.groups import counted
from ampd.storage.index import Index, IndexUnusableError, is_full
from ampd.storage.journal import Journal, Position
from ampd.storage.records import Kept, Queued, grouped
from ampd.storage.reserve import Reserve
from ampd.storage.transaction import Topic, Transaction, Work, topics_of

T = TypeVar("T")

SEGMENT: Final = 2 << 20  # rewriting one holds sends up for some 40 ms; 8 MiB would for 160
INDEX_RESERVE: Final = 6 << 20  # the index's log at its longest (4 MiB), and what a file grows by
_REPLAY_STEP: Final = 2000  # records whose places are noted together

log = logging.getLogger("ampd.storage")


class Writer:
    """Owns the journal and the index; one thread at a time calls its methods."""

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
        self._folder = folder
        self._key = key
        self._now = now
        self._disk = disk
        self._segment_bytes = segment_bytes
        self.behind = False  # the index: what the journal has and it has not is applied later
        self._logged = 0
        self.damaged = ""  # what the index said when it was last found broken
        self._owed: set[Topic] = set()
        self.index_path = folder / "index.sqlite"
        self._stamp_path = folder / "index.stamp"
        self.rebuilt = False
        self.restored = False  # the files are not those that the index followed
        self._unread = True  # the end of the journal was not read yet
        self._room = Reserve(Disk(), folder, index_reserve)
        with suppress(OSError):  # a disk that takes nothing is named by the journal
            self._room.hold()
        self._open()

    @property
    def full(self) -> bool:
        """Whether ordinary works are refused for want of room."""
        return self.journal.full or self._room.full

    # --- opening -------------------------------------------------------------------------

    def _open(self) -> None:
        stamp = indexes.stamp_of(self.index_path)
        if self._stamp_path.exists() and self._stamp_path.read_text() != stamp:
            log.warning("the index was changed by somebody else: it is made anew")
            self.restored = self.index_path.exists()  # or was written to: that costs an epoch
            indexes.remove(self.index_path)
        self._stamp_path.unlink(missing_ok=True)
        index = self._usable()
        after = index.checkpoint if index else None
        self.journal = Journal.open(
            self._folder / "journal", self._key, after=after, disk=self._disk,
            segment_bytes=self._segment_bytes,
        )  # fmt: skip
        self.restored |= index is not None and not index.is_of(self.journal)
        if index is not None and after is not None and not self.journal.checkpoint_held:
            log.warning("the index does not fit the journal: it is made anew")
            index.db.close()
            index = None
        self._log_damage()
        if self.journal.torn:
            log.warning(
                "a crash cut off what nobody was told of", extra={"places": len(self.journal.torn)}
            )
        if index is not None and after is not None:
            self.index = index
            if self._follows():
                return
        if index is not None:
            index.db.close()
        try:
            self.build(opening=True)
        except (sqlite3.Error, OSError) as exc:
            mend = "free some space" if is_full(exc) else f"move {self.index_path} away"
            raise StorageError(f"the index cannot be made: {exc}", hint=mend) from exc

    def _follows(self) -> bool:
        """Whether the index is whole; when there is no room, it stays behind for now (E3)."""
        try:
            self.catch_up()
        except sqlite3.DatabaseError as exc:
            if is_full(exc):
                self._lag(exc)
                return True
            log.warning("the index is damaged: it is made anew", extra={"why": str(exc)})
            return False
        return True

    def _usable(self) -> Index | None:
        try:
            index = self._with_room(lambda: Index(self.index_path))
            _ = index.checkpoint
        except (IndexUnusableError, sqlite3.DatabaseError, ValueError) as exc:
            if is_full(exc):
                why = f"the index cannot be opened: {exc}"
                raise StorageError(why, hint="free some space") from exc
            log.warning("the index is not usable: it is made anew", extra={"why": str(exc)})
            return None
        return index

    def _log_damage(self) -> None:
        for each in self.journal.damage[self._logged :]:
            log.error(
                "the journal is damaged",
                extra={
                    "segment": each.segment, "offset": each.offset, "bytes": each.size,
                    "records": f"{each.first_seq}-{each.last_seq}", "why": each.reason,
                    "hint": "amp check",
                },
            )  # fmt: skip
        self._logged = len(self.journal.damage)

    # --- catching up ---------------------------------------------------------------------

    def build(
        self, *, opening: bool = False, swap: Callable[[Callable[[], None]], None] | None = None
    ) -> None:
        """Make the index anew beside the old one, then put it in its place (X1).

        `swap` is given what puts it there, to call when no reader has the old one open.
        """
        if self.behind:
            self.journal.reopen()
        beside = self.index_path.with_name("index.new.sqlite")
        self._with_room(lambda: self._build(beside))

        def put() -> None:
            if not opening:
                self.index.db.close()
            indexes.put_in_place(beside, self.index_path)

        (swap or _at_once)(put)
        self.index = Index(self.index_path)
        self.rebuilt = True
        self.damaged = ""
        self.behind = False

    def _build(self, beside: Path) -> None:
        indexes.remove(beside)
        fresh = Index(beside, building=True)
        try:
            self.replay(fresh)
            fresh.finish()
        finally:
            fresh.db.close()

    def catch_up(self) -> set[Topic]:
        """Apply what the journal has and the index does not; whom that wakes."""
        return self._with_room(lambda: self.replay(self.index))

    def _with_room(self, do: Callable[[], T]) -> T:
        """Do it; if there is no room, in that of the reserve (E4)."""
        while True:
            try:
                return do()
            except sqlite3.Error as exc:
                if not (is_full(exc) and self._give_room()):
                    raise

    def replay(self, index: Index) -> set[Topic]:
        """Apply to `index` all records behind its checkpoint, in one transaction (X3)."""
        kept = index.checkpoint
        topics: set[Topic] = set()
        places: list[tuple[int, Position]] = []
        index.db.execute("BEGIN IMMEDIATE")
        try:
            after = kept.seq if kept else 0
            for seq, record, position in counted(self.journal, after, opening=self._unread):
                index.apply(seq, record)
                if kept:
                    topics.update(topics_of(record))
                if isinstance(record, Kept | Queued):
                    places.append((seq, position))
                if len(places) >= _REPLAY_STEP:
                    index.note_places(places)
                    places.clear()
            index.note_places(places)
            index.note_checkpoint(self.journal.checkpoint, self.journal.identity)
            index.db.execute("COMMIT")
        except (AmpdError, sqlite3.Error):
            index.rollback()
            raise
        self._unread = False
        self._log_damage()
        return topics

    # --- writing -------------------------------------------------------------------------

    def commit(self, batch: list[Work]) -> set[Topic]:
        """Run a batch under one sync; if that fails and it was shared, each on its own.

        Whom that wakes: also those of what the index had not followed until now (E3).
        """
        try:
            self._recover()
            return self._attempt(batch) | self.owed()
        except (AmpdError, sqlite3.Error) as exc:
            self._undo()
            if is_full(exc) and all(work.urgent for work in batch) and self._give_room():
                return self.commit(batch)
            if len(batch) > 1:
                return set().union(*(self.commit([work]) for work in batch))
            batch[0].result = outcome.Error(self._storage_error(exc))
            if indexes.is_damage(exc):
                self.damaged = str(exc)
            return self.owed()

    def owed(self) -> set[Topic]:
        """Whom the index wakes since it followed what it had not before (E3); said once."""
        owed, self._owed = self._owed, set()
        return owed

    def _attempt(self, batch: list[Work]) -> set[Topic]:
        index, before = self.index, self.journal.checkpoint.seq
        done = self._run(batch, careful=False) or self._run(batch, careful=True)
        payloads = [payload for each in done for payload in each.payloads]
        topics = {topic for each in done for topic in each.topics}
        if payloads:
            urgent = all(work.urgent for work in batch)
            if not urgent and not self._room.hold():
                raise self._room.refusal()
            several = any(len(each.payloads) > 1 for each in done)
            written = self.journal.append(grouped(payloads) if several else payloads, urgent=urgent)
            bulk = (seq for each in done for seq in each.bulk)
            index.note_places((seq, written[seq - before - 1].position) for seq in bulk)
            self.journal.sync()
            index.note_checkpoint(self.journal.checkpoint, self.journal.identity)
        self._commit_index()
        return topics

    def _run(self, batch: list[Work], *, careful: bool) -> list[Transaction]:
        """All works, in one go; [] if one raised and there is no way back but all the way (E1).

        With `careful` there is a way back from each, which costs more. An error of the index is not
        the work's: it is raised.
        """
        db = self.index.db
        db.execute("BEGIN IMMEDIATE")
        done: list[Transaction] = []
        following = self.journal.checkpoint.seq + 1
        for work in batch:
            transaction = Transaction(self.index, following, self._now())
            if careful:
                db.execute("SAVEPOINT work")
            work.result = outcome.capture(work.run, transaction)
            if isinstance(work.result, outcome.Error):
                if isinstance(work.result.error, sqlite3.Error):
                    raise work.result.error
                if not careful:
                    self.index.rollback()
                    return []
                db.execute("ROLLBACK TO work")
                self.index.forget_cache()
                transaction = Transaction(self.index, following)
            done.append(transaction)
            following = transaction.next_seq
            if careful:
                self.index.rows.flush()
                db.execute("RELEASE work")
        return done

    def _undo(self) -> None:
        """After a failure: nothing of the batch stays, in the index or in the journal."""
        self.index.rollback()
        self.behind = True

    def _recover(self) -> None:
        """Before anything new: cut off what was not synced, catch up the index (T4)."""
        if self.behind:
            self.journal.reopen()
            self._owed |= self.catch_up()
            self.behind = False

    def try_again(self) -> set[Topic]:
        """Catch up if the disk lets the index; whom that wakes."""
        with suppress(AmpdError, sqlite3.Error):  # it was said when it began
            self._recover()
        return self.owed()

    def _commit_index(self) -> None:
        """The records are on disk: the index follows, now or when there is room (E3, E4)."""
        try:
            self.index.db.execute("COMMIT")
        except sqlite3.Error:
            self._undo()
            try:
                self._recover()
            except (AmpdError, sqlite3.Error) as exc:
                self._lag(exc)

    def _lag(self, exc: Exception) -> None:
        log.warning("the index cannot follow now", extra={"why": str(exc)})
        self._undo()

    def _storage_error(self, exc: Exception) -> AmpdError:
        if isinstance(exc, AmpdError):
            return exc
        if is_full(exc):
            return self._room.refusal()
        return StorageError(f"the index cannot be written: {exc}", hint="amp check --repair")

    def _give_room(self) -> bool:
        with suppress(OSError):
            return self._room.release()
        return False

    # --- ending --------------------------------------------------------------------------

    def close(self) -> None:
        """Let go of the files, and note how the index was left."""
        whole = not self.behind
        try:
            self.index.close()
        except sqlite3.Error as exc:
            log.warning("the index could not be closed well", extra={"why": str(exc)})
            whole = False
        self.journal.close()
        if whole:
            try:
                self._stamp_path.write_text(indexes.stamp_of(self.index_path))
            except OSError:  # no room: the next start asks the index itself
                self._stamp_path.unlink(missing_ok=True)

    def compacted(
        self,
        moved: dict[int, Position],
        first: int,
        until: int,
        gone: list[tuple[bytes, bytes, bytes]],
        *,
        changed: bool,
    ) -> None:
        """Segment `first` was rewritten: where its live records are, and what is no more."""
        db = self.index.db
        db.execute("BEGIN IMMEDIATE")
        try:
            if changed:
                db.execute("DELETE FROM garbage WHERE seq>=? AND seq<?", (first, until))
            db.executemany(
                "UPDATE places SET segment=?, offset=? WHERE seq=?",
                [(place.segment, place.offset, seq) for seq, place in moved.items()],
            )
            db.executemany("DELETE FROM seen WHERE sender=? AND id=? AND agent=?", gone)
            db.execute("COMMIT")
        except sqlite3.Error:
            self.index.rollback()
            raise

    def rotate(self) -> None:
        """Begin a new segment, so that the one before can be rewritten; the index knows it."""
        self._recover()
        self.journal.rotate()
        self.index.note_checkpoint(self.journal.checkpoint, self.journal.identity)


def _at_once(put: Callable[[], None]) -> None:
    put()
