"""One connection of a local program: lines in, requests carried out, answers out.

  Z2  A connection's requests are carried out in order; `message.wait` and `directory.list` with a
      wait go on beside the others, and act as who the caller was when they came. Sends that came
      together share one sync.
  Z3  A line over LINE_LIMIT is answered with an error and the connection closed (local.py, L1);
      so is an unfinished one, when all of them together are too much (line_budget.py).
  Z4  A caller that does not read its answers for WRITE_WITHIN seconds is gone.
  Z7  What was read when the daemon is told to stop is carried out and answered, within
      FINISH_WITHIN seconds: nobody's message is kept without a word to its sender.

Not here: who may connect (local_socket.py), what is pushed (subscriptions.py), what a method does
(methods.py), what both ends must know (protocol/local.py).
"""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

import trio

from ampd.core.submission import Sent
from ampd.edge import documents
from ampd.edge.bugs import BugError, contained
from ampd.edge.json_rpc import Answer, Request, application_error, checked, error, read, result
from ampd.edge.line_budget import LineBudget
from ampd.edge.methods import Caller, Methods, Rooms
from ampd.edge.params import Params
from ampd.edge.subscriptions import Subscriptions
from ampd.model.errors import AmpdError, Invalid, Unavailable
from ampd.protocol.local import (
    INTERNAL_ERROR,
    INVALID_REQUEST,
    LINE_LIMIT,
    METHOD_NOT_FOUND,
    PARSE_ERROR,
)
from ampd.storage.store import Transaction

WRITE_WITHIN: Final = 30.0  # seconds; then a reader that does not read is gone
FINISH_WITHIN: Final = 1.5  # seconds; the whole daemon ends within 3
MAX_BATCH: Final = 1000  # requests in one array
MAX_WAITS: Final = 64  # requests of one connection that wait at the same time
_READ: Final = 65536


class Connection:
    """One connection of a local program."""

    def __init__(
        self,
        stream: trio.SocketStream,
        rooms: Rooms,
        methods: Methods,
        caller: Caller,
        budget: LineBudget,
    ) -> None:
        self._stream = stream
        self._budget = budget
        self._reading = trio.CancelScope()
        self._rooms = rooms
        self._methods = methods
        self._caller = caller
        self._writing = trio.Lock()
        self._subscriptions = Subscriptions(rooms, self._write, stream.aclose)
        self._nursery: trio.Nursery
        self._waits = 0
        self._work = trio.CancelScope()
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
        """When it is over, what is being carried out has FINISH_WITHIN seconds (Z7)."""
        try:
            await trio.sleep_forever()
        finally:
            self._work.deadline = trio.current_time() + FINISH_WITHIN

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

    async def _write(self, *documents_: object) -> None:
        """One line each, in one piece: many answers wake their reader once."""
        lines = [json.dumps(document, separators=(",", ":")) + "\n" for document in documents_]
        async with self._writing:
            with trio.fail_after(WRITE_WITHIN):
                await self._stream.send_all("".join(lines).encode())

    async def _take(self, lines: list[bytearray]) -> None:
        """Carry out what came in one piece; stopping does not cut it off (Z7)."""
        with trio.CancelScope(shield=True) as self._work:
            await self._each(lines)

    async def _each(self, lines: list[bytearray]) -> None:
        """Sends that stand together share one sync."""
        group = _Sends(self)
        for line in lines:
            if self._over:
                return
            if len(line) >= LINE_LIMIT:
                await group.flush()
                await self._too_long()
            elif line.strip():
                await self._line(line, group)
        await group.flush()

    async def _line(self, line: bytearray, group: "_Sends") -> None:
        try:
            document = read(line)
        except Invalid as exc:
            await group.flush()
            await self._write(error(None, PARSE_ERROR, str(exc)))
            return
        if isinstance(document, list):
            await group.flush()
            await self._batch(document)
        elif not group.add(document):
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
        answers: list[Answer] = []
        waiting: list[Request] = []
        group = _Sends(self, answers)
        for document in requests:
            if self._over:
                break
            if group.add(document):
                continue
            await group.flush()
            request = checked(document)
            if isinstance(request, Request) and _waits(request):
                waiting.append(request)
            elif (answer := await self._answer(request)) is not None:
                answers.append(answer)
        await group.flush()
        if waiting:
            self._start_waiting(waiting, answers)
        elif answers:
            await self._write(answers)

    def _start_waiting(self, requests: list[Request], batch: list[Answer] | None) -> None:
        """Carry out requests that wait, beside what comes after them (Z2).

        `batch` has the answers of the rest of their batch; None if they are in none.
        """
        caller = replace(self._caller)
        self._nursery.start_soon(self._wait_for, requests, batch, caller)

    async def _wait_for(
        self, requests: list[Request], batch: list[Answer] | None, caller: Caller
    ) -> None:
        answers = [] if batch is None else batch

        async def one(request: Request) -> None:
            answer = await self._answer(request, caller)
            if answer is not None:
                answers.append(answer)

        if self._waits + len(requests) > MAX_WAITS:
            full = Unavailable("too many requests wait on this connection", code="rate_limited")
            answers += [application_error(r.id, full) for r in requests if not r.is_notification]
        else:
            self._waits += len(requests)
            try:
                async with trio.open_nursery() as nursery:
                    for request in requests:
                        nursery.start_soon(one, request)
            finally:
                self._waits -= len(requests)
        if answers:
            await self._write(answers[0] if batch is None else answers)

    async def _answer(
        self, request: Request | Answer, caller: Caller | None = None
    ) -> Answer | None:
        """Carry out one request; its answer, or None for a notification."""
        if not isinstance(request, Request):
            return request
        answer = await self._carry_out(request, caller or self._caller)
        return None if request.is_notification else answer

    async def _carry_out(self, request: Request, caller: Caller) -> Answer:
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

    def prepare(self, request: Request) -> Callable[[Transaction], Sent]:
        """The work of one `message.send`; raises what is wrong with it."""
        with contained(request.method):
            agent = self._methods.agent(self._caller)
            draft = self._methods.draft(Params(request.params), agent)
            return self._rooms.submission.prepare(agent, draft)

    async def send_all(self, works: list[Callable[[Transaction], Sent]]) -> list[Sent | AmpdError]:
        """What became of each, under one sync."""
        try:
            with contained("message.send"):
                return [*await self._rooms.submission.send_many(works)]
        except AmpdError as exc:
            return [exc] * len(works)

    async def say(self, said: list[Answer], answers: list[Answer] | None) -> None:
        """Into the answers of a batch, or onto the wire."""
        if answers is not None:
            answers += said
        elif said:
            await self._write(*said)


_HERE: Final = frozenset(("inbox.subscribe", "inbox.unsubscribe"))


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


class _Sends:
    """Requests of `message.send` that came together: prepared one by one, kept under one sync."""

    def __init__(self, connection: Connection, answers: list[Answer] | None = None) -> None:
        self._connection = connection
        self._answers = answers
        self._works: list[tuple[Request, Callable[[Transaction], Sent]]] = []

    def add(self, document: object) -> bool:
        """Whether it was a send that can share; anything else is for the caller to carry out."""
        if not isinstance(document, dict) or document.get("method") != "message.send":
            return False
        request = checked(document)
        if not isinstance(request, Request):
            return False
        try:
            self._works.append((request, self._connection.prepare(request)))
        except AmpdError:
            return False  # the ordinary way finds the same, and says it
        return True

    async def flush(self) -> None:
        """Keep what was prepared, and answer."""
        if not self._works:
            return
        works, self._works = self._works, []
        found = await self._connection.send_all([work for _, work in works])
        said = [
            result(request.id, documents.sent(sent))
            if isinstance(sent, Sent)
            else application_error(request.id, sent)
            for (request, _), sent in zip(works, found, strict=True)
            if not request.is_notification
        ]
        await self._connection.say(said, self._answers)
