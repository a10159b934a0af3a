"""This module is the relay's store for big installations: a NATS cluster with JetStream.

Any number of relays share one cluster; a relay keeps no state of its own. Two streams, made when
they are missing, with as many replicas as there are servers, at most three: the mail
(jetstream_mail.py) and the book of cards, invitations and members (jetstream_book.py).

  RJ1  Mail taken by any relay wakes who waits for its mailbox at any other. A mailbox costs the
       cluster a subscription while somebody waits for it, and nothing otherwise.
  RJ2  Wake-ups travel by core NATS, which may lose them: whoever waits is woken again after each
       reconnection and at least once a minute, and looks for itself.

A client of NATS for Python runs on asyncio: it has a thread of its own, and what is asked of the
store is carried there and back (asyncio_thread.py). It comes with the extra `nats`.

Not here: what the methods promise (port.py).
"""

import asyncio
import weakref
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from functools import partial
from typing import Any, Final

import trio

from ampd.model.message import Envelope
from ampd.storage.relay_store.asyncio_thread import AsyncioThread
from ampd.storage.relay_store.jetstream_book import Book
from ampd.storage.relay_store.jetstream_mail import RECHECK, Mail
from ampd.storage.relay_store.nats_link import Link
from ampd.storage.relay_store.port import Held, Limits, Token, Usage

_LINGER: Final = 5.0  # seconds that a subscription stays when nobody waits: he may be back at once
_DRAIN: Final = 2.0  # seconds for what was handed in; systemd and people wait for the end


class _Watch:
    """How many wait for a mailbox, and the subscription they share. Lives on asyncio."""

    __slots__ = ("end", "waiters")

    def __init__(self) -> None:
        self.waiters = 0
        self.end: asyncio.Task[Callable[[], Awaitable[None]]] | None = None


class JetStreamRelayStore:
    """RelayStore on a NATS cluster."""

    def __init__(
        self, servers: Sequence[str], limits: Limits, now: Callable[[], int], name: str = "AMPD"
    ) -> None:
        """`servers` are "nats://[USER:PASSWORD@]HOST:PORT" or "tls://..."; `name` the streams'."""
        self._thread = AsyncioThread()
        self._link = Link(servers, self._wake_all)
        self._mail = Mail(self._link, name, limits, now, self._doubt)
        self._book = Book(self._link, name, limits, now)
        self._token: trio.lowlevel.TrioToken | None = None
        self._waiting: weakref.WeakValueDictionary[bytes, trio.Event] = (
            weakref.WeakValueDictionary()
        )
        self._watches: dict[bytes, _Watch] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Connect, make the streams if they are missing, serve until cancelled."""
        self._token = trio.lowlevel.current_trio_token()
        self._thread.start()
        try:
            await self._thread.call(self._open)
            task_status.started()
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await self._thread.finish(_DRAIN)
                await self._thread.call(self._link.close)
                await self._thread.stop()

    async def _open(self) -> None:
        await self._link.connect()
        await self._mail.open()
        await self._book.open()
        self._link.watch_over(self._mail.stream)

    # --- mail ----------------------------------------------------------------------------

    async def deposit(self, envelope: Envelope) -> bool:
        """Keep an envelope on most of the servers, or raise."""
        return await self._thread.call(self._mail.deposit, envelope)

    async def after(self, mailbox: bytes, cursor: Token | None, limit: int) -> list[Held]:
        """Envelopes of a mailbox behind a cursor."""
        return await self._thread.call(self._mail.after, mailbox, cursor, limit)

    async def remove(self, mailbox: bytes, tokens: Sequence[Token]) -> None:
        """Forget mail; its marks stay."""
        await self._thread.call(self._mail.remove, mailbox, list(tokens))

    async def count(self) -> int:
        """Messages in all."""
        return await self._thread.call(self._mail.count)

    async def usage(self, mailbox: bytes) -> Usage:
        """What lies in a mailbox."""
        return await self._thread.call(self._mail.usage, mailbox)

    async def expire(self, now: int) -> int:  # noqa: ARG002 - the port's
        """The servers do it: each message has a time to live."""
        await trio.lowlevel.checkpoint()
        return 0

    # --- waking --------------------------------------------------------------------------

    def changed(self, mailbox: bytes) -> trio.Event:
        """Set by the next deposit, at any relay (RJ1)."""
        event = self._waiting.get(mailbox)
        if event is None:
            event = self._waiting[mailbox] = trio.Event()
            self._thread.soon(partial(self._watch, mailbox))
            end = weakref.finalize(event, self._thread.soon, partial(self._unwatch, mailbox))
            end.atexit = False
        return event

    def _watch(self, mailbox: bytes) -> None:
        watch = self._watches.setdefault(mailbox, _Watch())
        watch.waiters += 1
        if watch.end is None:
            subject = self._mail.news(mailbox)
            subscribing = self._link.subscribe(subject, lambda: self._wake(mailbox))
            watch.end = asyncio.get_running_loop().create_task(subscribing)

    def _unwatch(self, mailbox: bytes) -> None:
        watch = self._watches.get(mailbox)
        if watch is not None:
            watch.waiters -= 1
            asyncio.get_running_loop().call_later(_LINGER, self._end_watch, mailbox)

    def _end_watch(self, mailbox: bytes) -> None:
        watch = self._watches.get(mailbox)
        if watch is not None and watch.waiters == 0 and watch.end is not None:
            del self._watches[mailbox]
            self._keep(self._unsubscribe(watch.end))

    async def _unsubscribe(self, end: asyncio.Task[Callable[[], Awaitable[None]]]) -> None:
        await (await end)()

    def _keep(self, run: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(run)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _doubt(self, mailbox: bytes) -> None:
        asyncio.get_running_loop().call_later(RECHECK, self._wake, mailbox)

    def _wake(self, mailbox: bytes) -> None:
        if self._token is not None:
            self._token.run_sync_soon(self._set, mailbox)

    def _set(self, mailbox: bytes) -> None:
        event = self._waiting.pop(mailbox, None)
        if event is not None:
            event.set()

    def _wake_all(self) -> None:
        if self._token is not None:
            self._token.run_sync_soon(self._set_all)

    def _set_all(self) -> None:
        for mailbox in list(self._waiting):
            self._set(mailbox)

    # --- cards and members ---------------------------------------------------------------

    async def put_card(
        self,
        key: bytes,
        address: str,
        number: int,
        signed: bytes,
        *,
        withdrawn: bool,
        renew: bool = False,
    ) -> bool:
        """Keep the newest card of a key (RS6)."""
        return await self._thread.call(
            self._book.put_card, key, address, number, signed, withdrawn, renew
        )

    async def card(self, key: bytes) -> bytes | None:
        """The newest card of a key."""
        return await self._thread.call(self._book.card, key)

    async def cards(self, pattern: str, limit: int = 1000) -> list[bytes]:
        """Signed cards."""
        return await self._thread.call(self._book.cards, pattern, limit)

    async def add_invitation(self, token_hash: bytes, until: int, uses: int) -> None:
        """See RS7."""
        await self._thread.call(self._book.add_invitation, token_hash, until, uses)

    async def redeem(self, token_hash: bytes, node: bytes, now: int) -> bool:
        """See RS7."""
        return await self._thread.call(self._book.redeem, token_hash, node, now)

    async def is_member(self, node: bytes) -> bool:
        """See RS7."""
        return await self._thread.call(self._book.is_member, node)

    async def add_member(self, node: bytes) -> None:
        """See RS7."""
        await self._thread.call(self._book.set_member, node, b"in")

    async def remove_member(self, node: bytes) -> None:
        """See RS7."""
        await self._thread.call(self._book.set_member, node, b"out")
