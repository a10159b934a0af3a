"""The injection flags of the messages here: judged when nothing else is to be done, and at the
latest when a message is shown (safety.py).

  G1  They follow from the message and the rules of the program that shows it. Nothing of them is
      kept on disk: better rules count for old mail too, and taking mail in does not wait for them.
  G2  A message is judged once while it is remembered; LATEST are.
  G3  What cannot be read has no flags: whoever reads it is told why (reading.py, O2).
  G4  Once no mail has come or gone for QUIET seconds, what came last is judged, so that the first
      list takes no longer than the next; new mail goes first.

Not here: the rules (safety.py), what is shown (reading.py).
"""

from collections.abc import Sequence
from typing import Final

import trio

from ampd.core.lists import Summary
from ampd.core.safety import message_flags
from ampd.model.errors import StorageError
from ampd.storage.index import read_signed
from ampd.storage.records import Kept
from ampd.storage.store import Store

LATEST: Final = 20_000  # messages: 3 MiB
QUIET: Final = 1.0  # seconds
LOOK_BACK: Final = 1000  # records: what will be asked for first
_PAUSE: Final = 0.003  # seconds between two: whoever asks for something does not notice
_AT_ONCE: Final = 20  # messages judged before others get their turn: about 4 ms

Flags = tuple[str, ...]


class Flagging:
    """Judges the messages of this node."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._judged: dict[int, Flags] = {}

    async def run(self) -> None:
        """G4, until cancelled."""
        done = 0
        while True:
            kept = self._store.changed("kept")
            with trio.move_on_after(QUIET):
                await kept.wait()
            done = max(done, self._store.journal.checkpoint.seq - LOOK_BACK)
            while not kept.is_set() and (following := self._after(done)):
                done = following
                self._flags(following)
                await trio.sleep(_PAUSE)
            await kept.wait()

    def _after(self, seq: int) -> int:
        """The next message behind the record `seq`; 0 if there is none, or none can be told."""
        try:
            row = self._store.view.execute("SELECT min(seq) FROM messages WHERE seq>?", (seq,))
        except StorageError:  # the index is being made anew: whoever asks for a list is told
            return 0
        return row.fetchone()[0] or 0

    def of_text(
        self, seq: int, subject: str, body: str, payload: str | None, context: str | None
    ) -> Flags:
        """The flags of the message `seq`, which is open already."""
        found = self._judged.get(seq)
        if found is None:
            found = self._judged[seq] = message_flags(subject, body, payload, context)
            if len(self._judged) > LATEST:
                del self._judged[next(iter(self._judged))]
        return found

    async def of(self, summaries: Sequence[Summary]) -> dict[int, Flags]:
        """The flags of a list, by `seq`; what is not judged yet is opened for it (G2, G3)."""
        found = {}
        for place, seq in enumerate([each.seq for each in summaries], 1):
            found[seq] = self._flags(seq)
            if place % _AT_ONCE == 0:
                await trio.lowlevel.checkpoint()
        return found

    def _flags(self, seq: int) -> Flags:
        if seq in self._judged:
            return self._judged[seq]
        try:
            record = self._store.payload(seq)
        except StorageError:
            return ()
        if not isinstance(record, Kept):
            return ()
        said = read_signed(record.signed)[1]
        return self.of_text(seq, said["subject"], said["body"], said["payload"], said["context"])
