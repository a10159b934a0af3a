"""What counts in the journal: all records but the parts of torn groups (records.py, R3).

Not here: what a record does to the index (applying.py).
"""

import logging
from collections.abc import Callable, Iterator

from ampd.storage.journal import Journal, Position
from ampd.storage.records import Record, Void, part_from_bytes, to_bytes

Entry = tuple[int, Record, Position]  # number, record, where it lies

log = logging.getLogger("ampd.storage")


def counted(
    journal: Journal,
    after: int = 0,
    until: int = 1 << 62,
    *,
    opening: bool = False,
    void: Callable[[int], None] = lambda _: None,
) -> Iterator[Entry]:
    """What counts, of numbers above `after` and below `until`; `void` is told the others.

    With `opening`, the last group is closed by a Void if a crash tore it.
    """
    group: list[Entry] = []
    first = parts = 0
    for found in journal.scan(after=after):
        record, place, of = part_from_bytes(found.payload)
        if group and (found.seq - place, of) != (first, parts):
            if isinstance(record, Void) and record.first == first:
                for each in group:
                    void(each[0])
            else:
                yield from group
            group = []
        if found.seq >= until:
            return
        entry = (found.seq, record, found.position)
        if of:
            first, parts = found.seq - place, of
            group.append(entry)
        else:
            yield entry
    last = journal.checkpoint.position.segment
    if opening and group and len(group) < parts and group[0][2].segment == last:
        yield _make_void(journal, first, parts)
    else:
        yield from group


def _make_void(journal: Journal, first: int, parts: int) -> Entry:
    """A crash tore the last batch: say so for ever, before anything else is written."""
    record = Void(first, parts)
    (written,) = journal.append([to_bytes(record)], urgent=True)
    journal.sync()
    log.warning("a crash tore what nobody was told of", extra={"records": parts})
    return written.seq, record, written.position
