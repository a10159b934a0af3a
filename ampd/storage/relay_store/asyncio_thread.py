"""This module runs asyncio in a thread of its own, for trio to call.

  AT1  `call` runs a coroutine there and returns its result or raises its error here.
  AT2  A cancelled call cancels the coroutine and waits for its end: nothing is left running.
  AT3  `finish` waits for the calls that run, for a while; `stop` cancels what runs, and ends the
       thread.
  AT4  A call begins after everything that was handed over before it.

Waking the other thread is dear (a system call and a change of threads), so that what is handed over
while the other has not looked yet is taken along: one waking for many calls, both ways.

Not here: what is run (nats_link.py).
"""

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, Generic, TypeVar

import outcome
import trio

from ampd.model.errors import Unavailable

T = TypeVar("T")


class AsyncioThread:
    """One event loop in one thread."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._serve, name="ampd-nats", daemon=True)
        self._token: trio.lowlevel.TrioToken | None = None
        self._handed_over: deque[Callable[[], object]] = deque()
        self._awake = False  # the loop will look at what was handed over
        self._running: set[asyncio.Task[Any]] = set()
        self._done: list[_Call[Any]] = []  # for trio, at the loop's next turn

    def start(self) -> None:
        """From now on `call` works."""
        self._token = trio.lowlevel.current_trio_token()
        self._loop = asyncio.new_event_loop()
        self._thread.start()

    def _serve(self) -> None:
        loop = self._loop
        assert loop is not None  # noqa: S101 - `start` set it
        asyncio.set_event_loop(loop)
        try:
            loop.run_forever()
        finally:
            loop.close()

    async def finish(self, within: float) -> None:
        """Return when no call runs, or after so many seconds."""
        with trio.CancelScope(shield=True):
            await self.call(self._wait_for_calls, within)

    async def _wait_for_calls(self, within: float) -> None:
        calls = {*self._running} - {asyncio.current_task()}
        if calls:
            await asyncio.wait(calls, timeout=within)

    async def stop(self) -> None:
        """AT3."""
        if self._loop is None:
            return
        with trio.CancelScope(shield=True):
            await self.call(_cancel_others)
            loop, self._loop = self._loop, None
            loop.call_soon_threadsafe(loop.stop)
            await trio.to_thread.run_sync(self._thread.join)

    def soon(self, run: Callable[[], object]) -> None:
        """Run a plain function there (AT4); nothing when stopped."""
        if self._loop is None:
            return
        self._handed_over.append(run)
        if not self._awake:
            self._awake = True
            self._loop.call_soon_threadsafe(self._take)

    def _take(self) -> None:
        self._awake = False  # first, so that nothing handed over from now on is left lying
        while self._handed_over:
            self._handed_over.popleft()()

    async def call(self, run: Callable[..., Coroutine[Any, Any, T]], *args: object) -> T:
        """AT1, AT2."""
        if self._loop is None:
            raise Unavailable("the relay's store is closed")
        call = _Call(run(*args), self._begun, self._end)
        self.soon(call.begin)

        def abort(raise_cancel: Callable[[], Any]) -> trio.lowlevel.Abort:
            call.raise_cancel = raise_cancel
            self.soon(call.cancel)
            return trio.lowlevel.Abort.FAILED

        result: T = await trio.lowlevel.wait_task_rescheduled(abort)
        return result

    # in the loop's thread

    def _begun(self, running: asyncio.Task[Any]) -> None:
        self._running.add(running)
        running.add_done_callback(self._running.discard)

    def _end(self, call: "_Call[Any]") -> None:
        """Whatever ends in this turn of the loop goes back together."""
        if not self._done:
            asyncio.get_running_loop().call_soon(self._bring_back)
        self._done.append(call)

    def _bring_back(self) -> None:
        done, self._done = self._done, []
        assert self._token is not None  # noqa: S101 - `start` set it
        self._token.run_sync_soon(_answer, done)


class _Call(Generic[T]):
    """A coroutine on its way there and back."""

    def __init__(
        self,
        run: Coroutine[Any, Any, T],
        begun: Callable[[asyncio.Task[Any]], None],
        end: "Callable[[_Call[Any]], None]",
    ) -> None:
        self._run = run
        self._begun = begun
        self._end = end
        self._running: asyncio.Task[T] | None = None
        self.task = trio.lowlevel.current_task()
        self.raise_cancel: Callable[[], Any] | None = None

    def begin(self) -> None:
        self._running = asyncio.get_running_loop().create_task(self._run)
        self._begun(self._running)
        self._running.add_done_callback(lambda _: self._end(self))

    def cancel(self) -> None:
        if self._running is not None:
            self._running.cancel()

    def result(self) -> outcome.Outcome[T]:
        done = self._running
        assert done is not None  # noqa: S101 - it has begun before it ends
        if not done.cancelled():
            error = done.exception()
            return outcome.Error(error) if error else outcome.Value(done.result())
        if self.raise_cancel is not None:
            cancelled: outcome.Outcome[T] = outcome.capture(self.raise_cancel)
            return cancelled
        return outcome.Error(Unavailable("the relay's store is closing"))


def _answer(done: list[_Call[Any]]) -> None:
    for call in done:
        trio.lowlevel.reschedule(call.task, call.result())


async def _cancel_others() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
