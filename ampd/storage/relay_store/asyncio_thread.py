"""This module runs asyncio in a thread of its own, for trio to call.

  AT1  `call` runs a coroutine there and returns its result or raises its error here.
  AT2  A cancelled call cancels the coroutine and waits for its end: nothing is left running.
  AT3  `stop` cancels what runs, and ends the thread.

Not here: what is run (nats_link.py).
"""

import asyncio
import threading
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

    def start(self) -> None:
        """From now on `call` works."""
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

    async def stop(self) -> None:
        """AT3."""
        if self._loop is None:
            return
        with trio.CancelScope(shield=True):
            await self.call(_cancel_others)
            loop, self._loop = self._loop, None
            loop.call_soon_threadsafe(loop.stop)
            await trio.to_thread.run_sync(self._thread.join)

    def soon(self, run: Callable[..., object], *args: object) -> None:
        """Run a plain function there, after everything handed over before; nothing when stopped."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(run, *args)

    async def call(self, run: Callable[..., Coroutine[Any, Any, T]], *args: object) -> T:
        """AT1, AT2."""
        loop = self._loop
        if loop is None:
            raise Unavailable("the relay's store is closed")
        call = _Call[T](trio.lowlevel.current_task(), trio.lowlevel.current_trio_token())
        loop.call_soon_threadsafe(call.begin, loop, run(*args))

        def abort(raise_cancel: Callable[[], Any]) -> trio.lowlevel.Abort:
            call.raise_cancel = raise_cancel
            loop.call_soon_threadsafe(call.cancel)
            return trio.lowlevel.Abort.FAILED

        result: T = await trio.lowlevel.wait_task_rescheduled(abort)
        return result


class _Call(Generic[T]):
    """A coroutine on its way there and back."""

    def __init__(self, task: trio.lowlevel.Task, token: trio.lowlevel.TrioToken) -> None:
        self._task = task
        self._token = token
        self._running: asyncio.Task[T] | None = None
        self.raise_cancel: Callable[[], Any] | None = None

    def begin(self, loop: asyncio.AbstractEventLoop, run: Coroutine[Any, Any, T]) -> None:
        self._running = loop.create_task(run)
        self._running.add_done_callback(self._end)

    def cancel(self) -> None:
        if self._running is not None:
            self._running.cancel()

    def _end(self, done: asyncio.Task[T]) -> None:
        self._token.run_sync_soon(self._answer, done)

    def _answer(self, done: asyncio.Task[T]) -> None:
        result: outcome.Outcome[T]
        if not done.cancelled():
            error = done.exception()
            result = outcome.Error(error) if error else outcome.Value(done.result())
        elif self.raise_cancel is not None:
            result = outcome.capture(self.raise_cancel)
        else:
            result = outcome.Error(Unavailable("the relay's store is closing"))
        trio.lowlevel.reschedule(self._task, result)


async def _cancel_others() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
