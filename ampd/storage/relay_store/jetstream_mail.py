"""This module is the mail in JetStream: subjects, quotas, and what is read from whom. On asyncio.

One stream NAME, replicated, in files. With MAILBOX and MARK (port.mark) in base64url:

    NAME.mail.MAILBOX.MARK-SIZE    an envelope: sealed bytes, header `Ampd-Expires`
    NAME.seen.MAILBOX.MARK-SIZE    empty: this one was removed
    NAME.new.MAILBOX               not stored: what the stream says when it has taken mail

  JM1  A message has a subject of its own and a subject holds one message: the stream cannot hold it
       twice, whatever happens. It is published on the condition that nothing is stored under
       NAME.*.MAILBOX.MARK-SIZE: one write, and no window after which a duplicate would pass.
  JM2  "Known already" is believed only when the leader shows it: another deposit of it that is
       still on its way to the replicas, and may fail, refuses ours too.
  JM3  Removing writes the mark, then deletes. Marks and mail end by a time to live of the server's.
       When the servers are so full that no mark can be written, mail is removed without one.
  JM4  The leader says what lies in a mailbox; any replica brings it. A replica that is behind the
       leader is asked again; if it stays behind, waiters are woken again after RECHECK.
  JM5  Quotas are counted from the subjects of a mailbox (its sizes stand in them), and then by what
       this relay took. It looks again after STOCK_FOR seconds once it took a twentieth of the
       quota, and always before it refuses: each relay may exceed a quota by that twentieth.

Durable means: on most of the servers, each of which syncs its disk every two minutes unless its
configuration says `jetstream { sync_interval: always }`. It survives the end of any process and the
loss of one server; only that setting makes it survive the loss of power at all of them at once.

The servers keep about 200 bytes of memory for each message and each mark.

Not here: who waits (jetstream.py), JetStream's API (nats_link.py).
"""

import asyncio
import base64
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from ampd.model.errors import Unavailable
from ampd.model.message import Envelope
from ampd.storage.relay_store.nats_link import (
    CONFLICT,
    NO_ROOM,
    TOO_MANY,
    Declined,
    Inventory,
    Link,
    Page,
    Stored,
    each,
)
from ampd.storage.relay_store.port import (
    PAGE_BYTES,
    RETRY_STORE,
    Full,
    Held,
    Limits,
    Token,
    Usage,
    check_room,
    lasts_until,
    mark,
)

RECHECK: Final = 1.0  # seconds
STOCK_FOR: Final = 2.0  # seconds
_PART: Final = 20  # a relay takes a twentieth of a quota between two looks
_BOXES: Final = 4096  # mailboxes whose stock is remembered: 1 MiB
_BEHIND: Final = (0.0, 0.02, 0.05, 0.1, 0.2)  # seconds between looks at a replica that is behind
_AGAIN: Final = (0.0, 0.01, 0.05, 0.2)  # seconds before a deposit that met another one on its way
_ROOM_FOR_HEADERS: Final = 1024  # bytes of what the servers take as one message
_PAGE: Final = 1000  # messages


class _Stock:
    """What lay in a mailbox when it was looked at, and what this relay added since."""

    __slots__ = ("added", "size", "taken", "then")

    def __init__(self, taken: float, then: Usage) -> None:
        self.taken = taken
        self.then = then
        self.added = self.size = 0

    def usage(self) -> Usage:
        return Usage(self.then.messages + self.added, self.then.bytes + self.size)

    def is_good(self, limits: Limits) -> bool:
        """JM5."""
        few = self.added * _PART <= limits.mailbox_messages
        small = self.size * _PART <= limits.mailbox_bytes
        return (few and small) or time.monotonic() - self.taken < STOCK_FOR


class Mail:
    """Deposits and mailboxes in one stream."""

    def __init__(
        self,
        link: Link,
        name: str,
        limits: Limits,
        now: Callable[[], int],
        doubt: Callable[[bytes], None],
    ) -> None:
        """`doubt(mailbox)` is called when waiters should look again in RECHECK seconds."""
        self._link = link
        self._stream = name.upper()
        self._base = name.lower()
        self._limits = limits
        self._now = now
        self._doubt = doubt
        self._stocks: OrderedDict[bytes, _Stock] = OrderedDict()
        self._under_way: dict[str, asyncio.Future[None]] = {}  # the same one comes after it
        self._looks: dict[bytes, asyncio.Task[_Stock]] = {}
        self._on_its_way: dict[bytes, dict[asyncio.Future[None], int]] = {}  # sizes, by mailbox
        self._total = 0  # bytes of the stream when it was last looked at, and our deposits since

    async def open(self) -> None:
        """Make the stream, if it is not there."""
        await self._link.make_stream(
            {
                "name": self._stream,
                "subjects": [f"{self._base}.mail.*.*", f"{self._base}.seen.*.*"],
                "retention": "limits",
                "storage": "file",
                "num_replicas": min(3, self._link.server_count),
                "discard": "old",  # of a subject: a mark written twice
                "max_msgs_per_subject": 1,
                "max_msgs": -1,
                "max_bytes": -1,
                "duplicate_window": 1_000_000_000,  # ns; the least: unused (JM1)
                "allow_direct": True,
                "allow_msg_ttl": True,
                "republish": {
                    "src": f"{self._base}.mail.*.*",
                    "dest": f"{self._base}.new.{{{{wildcard(1)}}}}",
                    "headers_only": True,
                },
            }
        )

    def news(self, mailbox: bytes) -> str:
        """The subject on which the stream says that it has taken mail for this mailbox."""
        return f"{self._base}.new.{_text(mailbox)}"

    @property
    def stream(self) -> str:
        """Its name."""
        return self._stream

    # --- in ------------------------------------------------------------------------------

    async def deposit(self, envelope: Envelope) -> bool:
        """Publish it, once (JM1)."""
        most = min(self._limits.message_bytes, self._link.max_payload - _ROOM_FOR_HEADERS)
        until = lasts_until(envelope, self._limits, self._now(), most)
        place = f"{_text(envelope.mailbox)}.{_text(mark(envelope))}-{len(envelope.sealed)}"
        while (other := self._under_way.get(place)) is not None:
            await asyncio.wait([other])
        done = self._under_way[place] = asyncio.get_running_loop().create_future()
        try:
            return await self._deposit(place, envelope, until)
        finally:
            del self._under_way[place]
            done.set_result(None)

    async def _deposit(self, place: str, envelope: Envelope, until: int) -> bool:
        try:
            stock = await self._make_room(envelope)
        except Full:
            if await self._link.newest(self._stream, f"{self._base}.*.{place}"):
                return False
            raise
        new = False
        on_its_way = self._on_its_way.setdefault(envelope.mailbox, {})
        sent = asyncio.get_running_loop().create_future()
        on_its_way[sent] = len(envelope.sealed)
        try:
            new = await self._publish(place, envelope, until)
        finally:
            del on_its_way[sent]
            sent.set_result(None)
            if not on_its_way:
                self._on_its_way.pop(envelope.mailbox, None)
            if not new:
                self._book(stock, -1, -len(envelope.sealed))
        return new

    async def _publish(self, place: str, envelope: Envelope, until: int) -> bool:
        headers = {
            "Ampd-Expires": str(envelope.expires),
            "Nats-TTL": _seconds(until - self._now()),
            "Nats-Expected-Last-Subject-Sequence": "0",
            "Nats-Expected-Last-Subject-Sequence-Subject": f"{self._base}.*.{place}",
        }
        for pause in _AGAIN:
            if pause:
                await asyncio.sleep(pause)
            try:
                await self._link.publish(f"{self._base}.mail.{place}", envelope.sealed, headers)
            except Declined as exc:
                if exc.number in NO_ROOM:
                    raise Full(str(exc), RETRY_STORE) from exc
                if exc.number not in CONFLICT:
                    raise
                if await self._link.newest(self._stream, f"{self._base}.*.{place}"):
                    return False  # JM2
            else:
                return True
        raise Unavailable("the same envelope is being deposited by somebody else")

    async def _make_room(self, envelope: Envelope) -> _Stock:
        """Count the envelope as there, or raise Full."""
        size = len(envelope.sealed)
        stock = self._stocks.get(envelope.mailbox)
        if stock is not None and stock.is_good(self._limits):
            try:
                self._check(stock, size)
            except Full:
                stock = None  # others may have removed something: look again
            else:
                return self._book(stock, 1, size)
        stock = await self._look(envelope.mailbox)
        self._check(stock, size)
        return self._book(stock, 1, size)

    def _check(self, stock: _Stock, size: int) -> None:
        check_room(self._limits, size, stock.usage(), Usage(0, self._total))

    def _book(self, stock: _Stock, messages: int, size: int) -> _Stock:
        stock.added += messages
        stock.size += size
        self._total += size
        return stock

    async def _look(self, mailbox: bytes) -> _Stock:
        """Take stock of a mailbox; who asks at the same time gets the same answer."""
        look = self._looks.get(mailbox)
        if look is None:
            look = asyncio.get_running_loop().create_task(self._take_stock(mailbox))
            self._looks[mailbox] = look
            look.add_done_callback(lambda _: self._looks.pop(mailbox, None))
        return await asyncio.shield(look)

    async def _take_stock(self, mailbox: bytes) -> _Stock:
        if on_its_way := self._on_its_way.get(mailbox):  # what the stream has not said it has
            await asyncio.wait(on_its_way)
        inventory = await self._inventory(mailbox)
        stock = self._stocks[mailbox] = _Stock(time.monotonic(), _usage(inventory))
        self._total = inventory.bytes
        for size in self._on_its_way.get(mailbox, {}).values():  # sent since
            self._book(stock, 1, size)
        self._stocks.move_to_end(mailbox)
        if len(self._stocks) > _BOXES:
            self._stocks.popitem(last=False)
        return stock

    async def _inventory(self, mailbox: bytes) -> Inventory:
        return await self._link.inventory(self._stream, self._all_of(mailbox))

    def _all_of(self, mailbox: bytes) -> str:
        return f"{self._base}.mail.{_text(mailbox)}.*"

    # --- out -----------------------------------------------------------------------------

    async def after(self, mailbox: bytes, cursor: Token | None, limit: int) -> list[Held]:
        """Mail behind the cursor, in the order of the stream (JM4)."""
        first = 1 if cursor is None else int(str(cursor).partition(" ")[0]) + 1
        page: Page | None = None
        for pause in _BEHIND:
            if pause:
                await asyncio.sleep(pause)
            inventory = await self._inventory(mailbox)
            if not inventory.subjects:
                return []
            page = await self._page(mailbox, first, min(limit, _PAGE))
            if page is not None and (page.messages or page.complete_to >= inventory.last):
                break
        else:
            self._doubt(mailbox)
        now = self._now()
        held = [_held(mailbox, message) for message in page.messages] if page else []
        alive = [each for each in held if each.envelope.expires > now]
        if held and not alive:
            return await self.after(mailbox, held[-1].token, limit)
        return alive

    async def _page(self, mailbox: bytes, first: int, limit: int) -> Page | None:
        request: dict[str, object] = {"seq": first, "batch": limit, "max_bytes": PAGE_BYTES}
        try:
            return await self._link.page(
                self._stream, {"multi_last": [self._all_of(mailbox)], **request}
            )
        except Declined as exc:
            if exc.number != TOO_MANY:
                raise
        # More messages than the limit of the servers (1,024): slower, and good for any number.
        return await self._link.page(
            self._stream, {"next_by_subj": self._all_of(mailbox), **request}
        )

    async def remove(self, mailbox: bytes, tokens: list[Token]) -> None:
        """Mark and delete (JM3)."""
        await each([self._remove(mailbox, str(token)) for token in set(tokens)])
        self._stocks.pop(mailbox, None)

    async def _remove(self, mailbox: bytes, token: str) -> None:
        seq, place, until = token.split(" ")
        if not place.startswith(_text(mailbox) + "."):
            return
        left = min(int(until) - self._now(), self._limits.ttl)
        if left > 0:
            try:
                await self._link.publish(
                    f"{self._base}.seen.{place}", b"", {"Nats-TTL": _seconds(left)}
                )
            except Declined as exc:
                if exc.number not in NO_ROOM:
                    raise
        await self._link.delete(self._stream, int(seq))

    async def usage(self, mailbox: bytes) -> Usage:
        """What the leader has of a mailbox."""
        return _usage(await self._inventory(mailbox))

    async def count(self) -> int:
        """How many messages one replica holds; it may be behind by a moment."""
        request = {"next_by_subj": f"{self._base}.mail.>", "seq": 1, "batch": 1}
        page = await self._link.page(self._stream, request)
        return len(page.messages) + page.pending if page else 0


def _usage(inventory: Inventory) -> Usage:
    sizes = [int(subject.rpartition("-")[2]) for subject in inventory.subjects]
    return Usage(len(sizes), sum(sizes))


def _held(mailbox: bytes, message: Stored) -> Held:
    """The token is where it lies, what it is known by, and until when that matters."""
    expires = int(message.headers["Ampd-Expires"])
    place = message.subject.split(".", 2)[2]
    return Held(f"{message.seq} {place} {expires}", Envelope(mailbox, expires, message.data))


def _seconds(milliseconds: int) -> str:
    return str(max(1, -(-milliseconds // 1000)))


def _text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
