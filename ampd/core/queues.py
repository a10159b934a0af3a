"""What waits in the outbox, and for whom: by the node, or the relay, that it would go to.

  C1  A message waits for every node that its recipient's card names, until it is there.
  C2  It waits for every relay that the card names (or the contact link, where no card is known),
      until a relay has it.

Receipts are not counted: nobody waits for them to leave. One look at the outbox answers for all.
"""

import json
from collections.abc import Iterable
from dataclasses import field
from typing import Final

from ampd.core.cards import read_card
from ampd.model.address import NodeUri
from ampd.model.values import value
from ampd.storage.store import Store

_BY_RECIPIENT: Final = (
    "SELECT count(*), min(at), sum(status='queued'), min(CASE status WHEN 'queued' THEN at END),"
    " (SELECT signed FROM cards c WHERE c.key=o.key),"
    " (SELECT relays FROM contacts c WHERE c.key=o.key AND state IN ('pinned','verified'))"
    " FROM outbox o WHERE what='message' GROUP BY key"
)


@value
class Queue:
    """Messages that wait: how many, and since when (milliseconds since 1970; 0 if none)."""

    count: int = 0
    oldest: int = 0

    def joined(self, other: "Queue") -> "Queue":
        """Both together."""
        oldest = min(filter(None, (self.oldest, other.oldest)), default=0)
        return Queue(self.count + other.count, oldest)


@value
class Queues:
    """All that wait, by the key of the node or relay."""

    nodes: dict[bytes, Queue] = field(default_factory=dict)  # C1
    relays: dict[bytes, Queue] = field(default_factory=dict)  # C2

    def of(self, key: bytes) -> Queue:
        """For a key that may be a node's or a relay's; nobody is both for one recipient."""
        return self.nodes.get(key, Queue()).joined(self.relays.get(key, Queue()))


def queues(store: Store) -> Queues:
    """As it is now."""
    found = Queues()
    for count, oldest, left, oldest_left, signed, said in store.view.execute(_BY_RECIPIENT):
        nodes, relays = _ways(signed, said)
        _count(found.nodes, nodes, Queue(count, oldest))
        _count(found.relays, relays, Queue(left, oldest_left or 0))
    return found


def _ways(signed: bytes | None, said: str | None) -> tuple[Iterable[bytes], Iterable[bytes]]:
    """The nodes and relays of a recipient."""
    if signed is None:
        return (), {NodeUri.parse(text).key for text in json.loads(said or "[]")}
    card = read_card(signed)[1]
    if card.withdrawn:
        return (), ()
    return card.nodes, {NodeUri.parse(text).key for text in card.relays}


def _count(table: dict[bytes, Queue], keys: Iterable[bytes], queue: Queue) -> None:
    for key in keys if queue.count else ():
        table[key] = table.get(key, Queue()).joined(queue)
