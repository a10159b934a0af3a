"""The injection flags of the messages here: judged when a message is first shown (safety.py).

  G1  They follow from the message and the rules of the program that shows it. Nothing of them is
      kept on disk: better rules count for old mail too, and taking mail in does not wait for them.
  G2  A message is judged once while it is remembered; LATEST are.
  G3  What cannot be read has no flags: whoever reads it is told why (reading.py, O2).

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
_AT_ONCE: Final = 20  # messages judged before others get their turn: about 4 ms

Flags = tuple[str, ...]


class Flagging:
    """Judges the messages of this node."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._judged: dict[int, Flags] = {}

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
            found[seq] = self._judged[seq] if seq in self._judged else self._opened(seq)
            if place % _AT_ONCE == 0:
                await trio.lowlevel.checkpoint()
        return found

    def _opened(self, seq: int) -> Flags:
        try:
            record = self._store.payload(seq)
        except StorageError:
            return ()
        if not isinstance(record, Kept):
            return ()
        said = read_signed(record.signed)[1]
        return self.of_text(seq, said["subject"], said["body"], said["payload"], said["context"])
