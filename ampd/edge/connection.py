"""One connection of a local program: lines in, requests carried out, answers out.

  Z2  A connection's requests are carried out in order; `message.wait` and `directory.list` with a
      wait go on beside the others, and act as who the caller was when they came. Sends that came
      together share one sync.
  Z3  A line over LINE_LIMIT is answered with an error and the connection closed (local.py, L1);
      so is an unfinished one, when all of them together are too much (line_budget.py).
  Z7  What was read when the daemon is told to stop is carried out and answered: nobody's message
      is kept without a word to its sender. What was not begun BEGIN_WITHIN seconds later is
      refused, and what is not done after FINISH_WITHIN seconds is cut off.

Not here: who may connect (local_socket.py), how answers are written (answers.py), what one agent
may take of this node (shares.py), what is pushed (subscriptions.py), what a method does
(methods.py), what both ends must know (protocol/local.py).
"""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

import trio

from ampd.core.submission import Sent
from ampd.edge import documents
from ampd.edge.answers import Answers, Batch
from ampd.edge.bugs import BugError, contained
from ampd.edge.json_rpc import Answer, Request, application_error, checked, error, read, result
from ampd.edge.methods import Caller, Methods, Rooms
from ampd.edge.params import Params
from ampd.edge.sends import Prepared, Sends
from ampd.edge.subscriptions import Subscriptions
from ampd.model.errors import AmpdError, Invalid, Refused, Unavailable
from ampd.protocol.local import (
    INTERNAL_ERROR,
    INVALID_REQUEST,
    LINE_LIMIT,
    METHOD_NOT_FOUND,
    PARSE_ERROR,
)

BEGIN_WITHIN: Final = 0.7  # seconds; some 1,000 sends, and time to refuse the rest
FINISH_WITHIN: Final = 1.5  # seconds; the whole daemon ends within 3
MAX_BATCH: Final = 1000  # requests in one array
MAX_WAITS: Final = 64  # requests of one connection that wait at the same time
_READ: Final = 65536
_LONG: Final = _READ  # bytes; a line that is longer may take the loop for a while


class Connection:
    """One connection of a local program."""

    def __init__(
        self,
        stream: trio.SocketStream,
        rooms: Rooms,
        methods: Methods,
        caller: Caller,
    ) -> None:
        self._stream = stream
        self._shares = methods.shares
        self._budget = methods.shares.lines
        self._reading = trio.CancelScope()
        self._rooms = rooms
        self._methods = methods
        self._caller = caller
        self._answers = Answers(stream, methods.shares.answers, caller.bound)
        self._write = self._answers.write
        self._subscriptions = Subscriptions(
            rooms, self._answers.write_text, stream.aclose, methods.shares
        )
        self._nursery: trio.Nursery
        self._waits = 0
        self._work = trio.CancelScope()
        self._beginning = trio.CancelScope()
        self._begin_by = math.inf
        self._over = False

    async def refuse(self, exc: AmpdError) -> None:
        """Say why, and no more."""
        await self._write(application_error(None, exc))

    async def run(self) -> None:
        """Until the caller hangs up."""
        try:
            async with trio.open_nursery() as self._nursery:
                self._nursery.start_soon(self._hurry)
                await self._read()
                self._nursery.cancel_scope.cancel()
        except* (trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError):
            pass  # the caller is gone: there is nobody to tell

    async def _hurry(self) -> None:
        """When it is over, what is being carried out has so much time left (Z7)."""
        try:
            await trio.sleep_forever()
        finally:
            now = trio.current_time()
            self._work.deadline = now + FINISH_WITHIN
            self._begin_by = self._beginning.deadline = now + BEGIN_WITHIN

    async def _read(self) -> None:
        give_up = self._reading.cancel
        try:
            with self._reading:
                await self._read_lines(give_up)
        finally:
            self._budget.holds(give_up, self._caller.bound, 0)
        if self._reading.cancelled_caught:
            self._over = True
            full = Unavailable("too many unfinished lines on this node", code="rate_limited")
            await self._write(application_error(None, full))

    async def _read_lines(self, give_up: Callable[[], None]) -> None:
        pending = bytearray()
        while not self._over:
            data = await self._stream.receive_some(_READ)
            if not data:
                await self._take([pending])  # a last line needs no line feed
                return
            pending += data
            if b"\n" in data:
                *lines, pending = pending.split(b"\n")
                await self._take(lines)
            if len(pending) >= LINE_LIMIT:
                await self._too_long()
            elif pending or b"\n" in data:
                self._budget.holds(give_up, self._caller.bound, len(pending))

    async def _too_long(self) -> None:
        """Z3."""
        self._over = True
        text = f"a line of more than {LINE_LIMIT} bytes"
        await self._write(error(None, INVALID_REQUEST, text, {"code": "too_large"}))

    async def _take(self, lines: list[bytearray]) -> None:
        """Carry out what came in one piece; stopping does not cut it off (Z7)."""
        with trio.CancelScope(shield=True) as self._work:
            await self._each(lines)

    async def _each(self, lines: list[bytearray]) -> None:
        """Sends that stand together share one sync."""
        group = Sends(self, self._say)
        for line in lines:
            if self._over:
                return
            if len(line) >= LINE_LIMIT:
                await group.flush()
                await self._too_long()
            elif line.strip():
                await self._line(line, group)
        await group.flush()

    async def _say(self, answers: list[Answer]) -> None:
        await self._write(*answers)

    async def _long(self, line: bytearray) -> Any:
        """What a long line says (shares.py, SH2)."""
        async with self._shares.long_line(self._caller.bound or self._caller.acting):
            return read(line)

    async def _line(self, line: bytearray, group: Sends) -> None:
        try:
            document = read(line) if len(line) <= _LONG else await self._long(line)
        except Invalid as exc:
            await group.flush()
            refused = error(None, PARSE_ERROR, str(exc))
            if exc.code != "invalid":
                refused = application_error(None, exc)
            await self._write(refused)
            return
        if isinstance(document, list):
            await group.flush()
            await self._batch(document)
        elif self._is_late() or not await group.add(document):
            await group.flush()
            request = checked(document)
            if isinstance(request, Request) and _waits(request):
                self._start_waiting([request], None)
            elif (answer := await self._answer(request)) is not None:
                await self._write(answer)

    async def _batch(self, requests: list[Any]) -> None:
        """JSON-RPC 2.0, section 6: one array for one array, none for notifications alone."""
        if not 0 < len(requests) <= MAX_BATCH:
            text = f"a batch holds 1 to {MAX_BATCH} requests"
            await self._write(error(None, INVALID_REQUEST, text))
            return
        answers = self._answers.batch()
        waiting: list[Request] = []
        try:
            waiting = await self._gather(requests, answers)
            if not waiting:
                await answers.write(array=True)
        finally:
            if not waiting:
                answers.drop()
        if waiting:
            self._start_waiting(waiting, answers)

    async def _gather(self, requests: list[Any], answers: Batch) -> list[Request]:
        """Carry out a batch but for those that wait, which it returns."""
        waiting: list[Request] = []

        async def say(said: list[Answer]) -> None:
            for answer in said:
                answers.add(answer)

        group = Sends(self, say)
        for document in requests:
            if self._over:
                break
            if not (answers.is_full or self._is_late()) and await group.add(document):
                continue
            await group.flush()
            await trio.lowlevel.checkpoint()  # lists and the like have none of their own
            request = checked(document)
            if answers.is_full and isinstance(request, Request) and not request.is_notification:
                answers.add(application_error(request.id, _too_much()))
            elif isinstance(request, Request) and _waits(request):
                waiting.append(request)
            elif (answer := await self._answer(request)) is not None:
                answers.add(answer)
        await group.flush()
        return waiting

    def _start_waiting(self, requests: list[Request], batch: Batch | None) -> None:
        """Carry out requests that wait, beside what comes after them (Z2).

        `batch` has the answers of the rest of their batch; None if they are in none.
        """
        caller = replace(self._caller, handed=[])
        self._nursery.start_soon(self._wait_for, requests, batch, caller)

    async def _wait_for(self, requests: list[Request], batch: Batch | None, caller: Caller) -> None:
        answers = batch or self._answers.batch()
        try:
            await self._wait_for_each(requests, answers, caller)
            if await answers.write(array=batch is not None):
                await self._methods.waiting.taken(caller.handed)
        finally:
            self._methods.waiting.over(caller.handed)
            answers.drop()

    async def _wait_for_each(self, requests: list[Request], answers: Batch, who: Caller) -> None:
        async def one(request: Request) -> None:
            mine = replace(who, handed=[])
            answer = await self._answer(request, mine)
            if answer is None:  # nobody is told: nothing is marked
                self._methods.waiting.over(mine.handed)
            else:
                answers.add(answer)
                who.handed += mine.handed

        if self._waits + len(requests) > MAX_WAITS:
            full = Unavailable("too many requests wait on this connection", code="rate_limited")
            for request in requests:
                if not request.is_notification:
                    answers.add(application_error(request.id, full))
            return
        self._waits += len(requests)
        try:
            async with trio.open_nursery() as nursery:
                for request in requests:
                    nursery.start_soon(one, request)
        finally:
            self._waits -= len(requests)

    async def _answer(
        self, request: Request | Answer, caller: Caller | None = None
    ) -> Answer | None:
        """Carry out one request; its answer, or None for a notification."""
        if not isinstance(request, Request):
            return request
        answer = await self._carry_out(request, caller or self._caller)
        return None if request.is_notification else answer

    def _is_late(self) -> bool:
        """Whether the daemon is told to stop, and nothing new is begun (Z7)."""
        return self._begin_by < math.inf and trio.current_time() >= self._begin_by

    async def _carry_out(self, request: Request, caller: Caller) -> Answer:
        if self._is_late():
            return application_error(request.id, _stopping())
        try:
            with contained(request.method):
                return result(request.id, await self._call(request, caller))
        except BugError as exc:
            return error(request.id, INTERNAL_ERROR, str(exc), {"hint": exc.hint})
        except _NoMethodError:
            text = f"no method {request.method[:80]!r}"
            return error(request.id, METHOD_NOT_FOUND, text)
        except AmpdError as exc:
            if request.method == "system.hello":
                self._over = True  # L2: nothing behind it may run as somebody else
            return application_error(request.id, exc)

    async def _call(self, request: Request, caller: Caller) -> documents.Document:
        method, params = request.method, Params(request.params)
        if method not in self._methods.table and method not in _HERE:
            raise _NoMethodError(method)
        caller.may(method)
        if method in _SEES_MARKS:
            await self._methods.settled(caller)
        if method == "inbox.subscribe":
            agent, after = self._methods.agent(caller), params.whole("after")
            params.done()
            return self._subscriptions.add(self._nursery, agent, after)
        if method == "inbox.unsubscribe":
            name = params.text("subscription")
            params.done()
            return self._subscriptions.remove(name)
        return await self._methods.table[method](caller, params)

    # --- sends that share a sync ----------------------------------------------------------

    def prepare(self, request: Request) -> Prepared:
        """The work of one `message.send`; raises what is wrong with it."""
        with contained(request.method):
            agent = self._methods.agent(self._caller)
            draft = self._methods.draft(Params(request.params), agent)
            return self._rooms.submission.prepare(agent, draft)

    async def send_all(self, works: list[Prepared]) -> list[Sent | AmpdError]:
        """What became of each, under one sync; refused if their turn does not come (Z7)."""
        try:
            with contained("message.send"), trio.CancelScope(deadline=self._begin_by) as begin:
                self._beginning = begin
                agent = self._methods.agent(self._caller)
                return [*await self._rooms.submission.send_many(agent, works)]
        except AmpdError as exc:
            return [exc] * len(works)
        return [_stopping()] * len(works)


_HERE: Final = frozenset(("inbox.subscribe", "inbox.unsubscribe"))


# What would be answered otherwise, or undone, if a mark came late (waiting.py, Y5).
_SEES_MARKS: Final = frozenset(("message.wait", "message.list", "message.get", "message.mark"))


class _NoMethodError(AmpdError):
    """Nobody knows this method."""


def _waits(request: Request) -> bool:
    if request.method == "message.wait":
        return True
    params = request.params
    return (
        request.method == "directory.list"
        and isinstance(params, dict)
        and bool(params.get("wait_s"))
    )


def _stopping() -> Unavailable:
    return Unavailable("the daemon is stopping: this was not begun", hint="ask again when it runs")


def _too_much() -> Refused:
    return Refused(
        "the answers to this batch are too large: this was not begun",
        code="too_large", hint="ask for the rest in another batch",
    )  # fmt: skip
