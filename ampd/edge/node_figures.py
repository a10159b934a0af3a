"""What a daemon counts for its metrics: what came in, what went out, what lies here.

Counters are of this process; gauges are read at the moment that somebody asks, from what costs
little however large the mailbox is.

Not here: how they are served (metrics.py).
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace

import trio

from ampd.core.ports import Carrier, Door, Run
from ampd.edge.metrics import Figures
from ampd.edge.peer_state import PeerState
from ampd.model.errors import Refused, Unavailable
from ampd.model.message import Delivery, Envelope
from ampd.storage.store import Store

_IN = ("received_total", "received_refused_total", "received_deferred_total")
_OUT = ("delivered_total", "relayed_total", "refused_total", "deferred_total")


class CountedDoor:
    """A Door that counts what it is brought."""

    def __init__(self, door: Door, counts: Counter[str]) -> None:
        self._door = door
        self._counts = counts
        self.cards = door.cards
        self.cards_for = door.cards_for
        self.learn = door.learn
        self.join = door.join
        self.collect = door.collect
        self.left = door.left

    async def deliver(self, envelope: Envelope, node: bytes) -> Delivery:
        """As the door does."""
        try:
            delivery = await self._door.deliver(envelope, node)
        except (Refused, Unavailable) as exc:
            self._count(exc)
            raise
        self._count(delivery)
        return delivery

    async def deliver_run(self, run: Run, node: bytes) -> None:
        """As the door does."""

        def counted(place: int, outcome: Delivery | Refused | Unavailable) -> None:
            self._count(outcome)
            run.answer(place, outcome)

        await self._door.deliver_run(replace(run, answer=counted), node)

    def _count(self, outcome: Delivery | Refused | Unavailable) -> None:
        took, refused, deferred = _IN
        refusal = refused if isinstance(outcome, Refused) else deferred
        self._counts[took if isinstance(outcome, Delivery) else refusal] += 1


class CountedCarrier:
    """A Carrier that counts what became of what it carried."""

    def __init__(self, carrier: Carrier, counts: Counter[str]) -> None:
        self._carrier = carrier
        self._counts = counts
        self.wake = carrier.wake

    async def deliver(self, node: bytes, envelope: Envelope) -> Delivery:
        """As the carrier does."""
        outcome = "deferred_total"
        try:
            delivery = await self._carrier.deliver(node, envelope)
            outcome = f"{delivery.status}_total"
        except Refused:
            outcome = "refused_total"
            raise
        finally:
            self._counts[outcome] += 1
        return delivery


def node_figures(
    store: Store, peers: Callable[[], Sequence[PeerState]], counts: Counter[str], now: int
) -> Figures:
    """The figures of a node at the time `now` (milliseconds), in its own thread."""
    held, unread = store.view.execute(
        "SELECT coalesce(sum(unread+read),0), coalesce(sum(unread),0) FROM agents"
    ).fetchone()
    waiting = dict(store.view.execute("SELECT status, count(*) FROM outbox GROUP BY status"))
    oldest = store.view.execute("SELECT min(at) FROM outbox WHERE what='message'").fetchone()[0]
    return {
        "inbox_messages": held,
        "inbox_unread": unread,
        "outbox_queued": waiting.get("queued", 0),
        "outbox_relayed": waiting.get("relayed", 0),
        "outbox_oldest_seconds": (now - oldest) / 1000 if oldest else 0,
        "sessions": sum(peer.state == "connected" for peer in peers()),
        "journal_bytes": store.journal.size_bytes,
        "journal_damaged_places": len(store.journal.damage),
        "journal_full": int(store.journal.full),
        **{name: counts[name] for name in (*_IN, *_OUT)},
    }


def asked_by_another_thread(figures: Callable[[], Figures]) -> Callable[[], Figures]:
    """The same, to be called from the thread of the metrics; {} once this loop has ended."""
    token = trio.lowlevel.current_trio_token()

    def ask() -> Figures:
        try:
            return trio.from_thread.run_sync(figures, trio_token=token)
        except (trio.RunFinishedError, trio.Cancelled):
            return {}

    return ask
