"""The local socket: JSON-RPC 2.0 over a Unix stream socket, one document a line.

  Z1  A caller is known by the kernel (SO_PEERCRED): another user is refused before a byte is read.
  Z2  A connection's requests are carried out in order; `message.wait` and `directory.list` with a
      wait go on beside the others. Sends that came together share one sync.
  Z3  A line over LINE_LIMIT is answered with an error and the connection closed (local.py, L1).
  Z4  A subscriber is given what its cursor has not seen; one that does not read for
      WRITE_WITHIN seconds is dropped, and loses nothing: it subscribes again.
  Z5  At most MAX_CONNECTIONS at a time; one that ends takes its subscriptions with it.

Not here: what a method does (methods.py), what both ends must know (protocol/local.py).
"""

import json
import logging
import os
import socket
import stat
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import trio

from ampd.core.agents import Agent
from ampd.core.lists import Filter
from ampd.core.submission import Sent
from ampd.crypto.keyfiles import make_folder
from ampd.edge import documents
from ampd.edge.methods import Caller, Methods, Rooms
from ampd.edge.params import Params
from ampd.model.errors import AmpdError, Invalid, Refused, Unavailable
from ampd.protocol.local import (
    APPLICATION_ERROR,
    INTERNAL_ERROR,
    INVALID_PARAMS,
    INVALID_REQUEST,
    LINE_LIMIT,
    METHOD_NOT_FOUND,
    PARSE_ERROR,
)
from ampd.storage.store import Transaction

WRITE_WITHIN: Final = 30.0  # seconds; then a reader that does not read is gone
MAX_CONNECTIONS: Final = 512  # of 1024 file descriptors that a user has by default
MAX_BATCH: Final = 1000  # requests in one array
_READ: Final = 65536

log = logging.getLogger("ampd.socket")

Answer = dict[str, Any]


def error(identifier: object, code: int, text: str, data: dict[str, Any] | None = None) -> Answer:
    """A JSON-RPC error object (section 5.1)."""
    body: dict[str, Any] = {"code": code, "message": text}
    if data:
        body["data"] = data
    return {"jsonrpc": "2.0", "id": identifier, "error": body}


def application_error(identifier: object, exc: AmpdError) -> Answer:
    """What the core said, with its code and its hint."""
    data = {"code": exc.code} | ({"hint": exc.hint} if exc.hint else {})
    code = INVALID_PARAMS if isinstance(exc, Invalid) and exc.code == "invalid" else None
    return error(identifier, code or APPLICATION_ERROR, str(exc), data)


class LocalSocket:
    """Serves the main socket, and one socket for each agent."""

    def __init__(self, rooms: Rooms, main: Path, agents: Path) -> None:
        self._rooms = rooms
        self._methods = Methods(rooms)
        self._main = main
        self._folder = agents
        self._scopes: dict[str, trio.CancelScope] = {}
        self._nursery: trio.Nursery | None = None
        self._connections = 0

    async def serve(
        self,
        inherited: socket.socket | None = None,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Listen until cancelled; `inherited` is the main socket that systemd opened."""
        make_folder(self._main.parent)
        make_folder(self._folder)
        listener = inherited or listen(self._main)
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                nursery.start_soon(self._accept, listener, "")
                self.follow_agents()
                task_status.started()
                await trio.sleep_forever()
        finally:
            self._nursery = None
            if inherited is None:
                os.unlink(self._main)  # noqa: PTH108 - one system call, and no thread

    def follow_agents(self) -> None:
        """Have a socket for each agent, and none for those that are gone."""
        names = {agent.name for agent in self._rooms.agents}
        for name in set(self._scopes) - names:
            self._scopes.pop(name).cancel()
        for name in names - set(self._scopes):
            if self._nursery is not None:
                self._scopes[name] = trio.CancelScope()
                self._nursery.start_soon(self._serve_agent, name, self._scopes[name])

    async def _serve_agent(self, name: str, scope: trio.CancelScope) -> None:
        path = Path(self._rooms.socket_of(name))
        try:
            listener = listen(path)
        except (OSError, Invalid) as exc:
            log.warning("no socket for one agent", extra={"agent": name, "why": str(exc)})
            return
        try:
            with scope:
                await self._accept(listener, name)
        finally:
            path.unlink(missing_ok=True)

    async def _accept(self, listener: socket.socket, bound: str) -> None:
        listener.setblocking(False)
        server = trio.socket.from_stdlib_socket(listener)
        async with trio.open_nursery() as nursery:
            while True:
                try:
                    client, _ = await server.accept()
                except OSError as exc:  # out of file descriptors: let some go first
                    log.warning("a connection was not taken", extra={"why": str(exc)})
                    await trio.sleep(0.1)
                    continue
                nursery.start_soon(self._connection, trio.SocketStream(client), bound)

    async def _connection(self, stream: trio.SocketStream, bound: str) -> None:
        self._connections += 1
        try:
            async with stream:
                connection = Connection(stream, self._rooms, self._methods, Caller(bound))
                if self._connections > MAX_CONNECTIONS:
                    await connection.refuse(Unavailable("too many connections to this node"))
                elif not is_ours(stream):
                    await connection.refuse(Refused("this node belongs to another user"))
                else:
                    await connection.run()
        except (trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError, OSError):
            pass  # the caller is gone: there is nobody to tell
        finally:
            self._connections -= 1


def listen(path: Path) -> socket.socket:
    """A listening socket at `path`, ours alone from the first system call."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        if path.is_symlink() or (path.exists() and not stat.S_ISSOCK(path.lstat().st_mode)):
            raise Invalid(f"{path} is in the way: it is not a socket", hint=f"rm {path}")
        path.unlink(missing_ok=True)
        before = os.umask(0o177)
        try:
            listener.bind(str(path))
        finally:
            os.umask(before)
        listener.listen(128)
    except (OSError, Invalid):
        listener.close()
        raise
    return listener


def is_ours(stream: trio.SocketStream) -> bool:
    """Whether the caller runs as this user (Z1)."""
    size = struct.calcsize("3i")
    found = stream.socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
    _, uid, _ = struct.unpack("3i", found)
    return bool(uid == os.getuid())


class Connection:
    """One connection of a local program."""

    def __init__(
        self, stream: trio.SocketStream, rooms: Rooms, methods: Methods, caller: Caller
    ) -> None:
        self._stream = stream
        self._rooms = rooms
        self._methods = methods
        self._caller = caller
        self._writing = trio.Lock()
        self._subscriptions: dict[str, trio.CancelScope] = {}
        self._nursery: trio.Nursery | None = None
        self._over = False

    async def refuse(self, exc: AmpdError) -> None:
        """Say why, and no more."""
        await self._write(application_error(None, exc))

    async def run(self) -> None:
        """Until the caller hangs up."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            pending = bytearray()
            while not self._over:
                data = await self._stream.receive_some(_READ)
                if not data:
                    break
                pending += data
                *lines, rest = pending.split(b"\n") if b"\n" in data else (pending,)
                pending = bytearray(rest)
                if lines:
                    await self._take(lines)
                if len(pending) > LINE_LIMIT:
                    text = f"a line of more than {LINE_LIMIT} bytes"
                    await self._write(error(None, INVALID_REQUEST, text, {"code": "too_large"}))
                    break
            nursery.cancel_scope.cancel()

    async def _write(self, document: object) -> None:
        data = json.dumps(document, separators=(",", ":")).encode() + b"\n"
        async with self._writing:
            with trio.fail_after(WRITE_WITHIN):
                await self._stream.send_all(data)

    async def _take(self, lines: list[bytearray]) -> None:
        """Carry out what came in one piece; sends that stand together share one sync."""
        group = _Sends(self)
        for line in lines:
            if self._over:
                return
            if not line.strip():
                continue
            if len(line) > LINE_LIMIT:
                text = f"a line of more than {LINE_LIMIT} bytes"
                await self._write(error(None, INVALID_REQUEST, text, {"code": "too_large"}))
                self._over = True
                return
            try:
                document = json.loads(line)
            except (ValueError, RecursionError) as exc:
                await group.flush()
                await self._write(error(None, PARSE_ERROR, f"not JSON: {exc}"))
                continue
            if isinstance(document, list):
                await group.flush()
                await self._batch(document)
            elif not group.add(document):
                await group.flush()
                answer = await self._request(document)
                if answer is not None:
                    await self._write(answer)
        await group.flush()

    async def _batch(self, documents_: list[Any]) -> None:
        """JSON-RPC 2.0, section 6: one array for one array, none for notifications alone."""
        if not documents_ or len(documents_) > MAX_BATCH:
            text = f"a batch holds 1 to {MAX_BATCH} requests"
            await self._write(error(None, INVALID_REQUEST, text))
            return
        answers: list[Answer] = []
        group = _Sends(self, answers)
        for document in documents_:
            if not group.add(document):
                await group.flush()
                answer = await self._request(document, batch=True)
                if answer is not None:
                    answers.append(answer)
        await group.flush()
        if answers:
            await self._write(answers)

    async def _request(self, document: object, *, batch: bool = False) -> Answer | None:
        """Carry out one request; its answer, or None for a notification."""
        checked = _checked(document)
        if isinstance(checked, dict):
            return checked
        identifier, method, params, is_notification = checked
        waits = method == "message.wait" or (
            method == "directory.list" and isinstance(params, dict) and params.get("wait_s")
        )
        if waits and not batch and self._nursery is not None:
            self._nursery.start_soon(self._later, identifier, method, params)
            return None
        answer = await self._call(identifier, method, params)
        return None if is_notification else answer

    async def _later(self, identifier: object, method: str, params: object) -> None:
        try:
            await self._write(await self._call(identifier, method, params))
        except (trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError):
            self._over = True

    async def _call(self, identifier: object, method: str, params: object) -> Answer:
        try:
            self._caller.may(method)
            if method == "inbox.subscribe":
                result = self._subscribe(Params(params))
            elif method == "inbox.unsubscribe":
                result = self._unsubscribe(Params(params))
            elif method in self._methods.table:
                result = await self._methods.table[method](self._caller, Params(params))
            else:
                return error(identifier, METHOD_NOT_FOUND, f"no method {method!r}")
        except AmpdError as exc:
            if method == "system.hello":
                self._over = True  # L2: nothing behind it may run as somebody else
            return application_error(identifier, exc)
        except Exception:  # the one place: a bug in a method must not end everybody's daemon (P8)
            log.exception("a method failed: this is a bug of ampd", extra={"method": method})
            return error(identifier, INTERNAL_ERROR, "a bug of ampd: see its log, amp daemon log")
        return {"jsonrpc": "2.0", "id": identifier, "result": result}

    # --- subscriptions --------------------------------------------------------------------

    def _subscribe(self, params: Params) -> documents.Document:
        agent = self._methods.agent(self._caller)
        after = params.integer("after", -1)
        params.done()
        last = self._rooms.lists.last_number(agent)
        name = f"{agent.name}-{len(self._subscriptions) + 1}"
        scope = self._subscriptions[name] = trio.CancelScope()
        if self._nursery is not None:
            start = last if after < 0 else after
            cursor = self._rooms.tracking.cursor()
            self._nursery.start_soon(self._push, scope, agent, start, cursor)
        return {"subscription": name, "last": last}

    def _unsubscribe(self, params: Params) -> documents.Document:
        name = params.text("subscription")
        params.done()
        names = [name] if name else list(self._subscriptions)
        for each in names:
            if each not in self._subscriptions:
                raise Invalid(f"no subscription {each!r} on this connection")
            self._subscriptions.pop(each).cancel()
        return {"done": names}

    async def _push(self, scope: trio.CancelScope, agent: Agent, number: int, cursor: int) -> None:
        try:
            with scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._push_mail, agent, number)
                    nursery.start_soon(self._push_status, agent, cursor)
        except* trio.TooSlowError:
            log.warning("a subscriber does not read", extra={"agent": agent.name})
            self._over = True
            await self._stream.aclose()
        except* (trio.BrokenResourceError, trio.ClosedResourceError):
            self._over = True
        except* AmpdError as exc:
            log.warning("a subscription ended", extra={"agent": agent.name, "why": str(exc)})
            self._over = True
            await self._stream.aclose()

    async def _push_mail(self, agent: Agent, number: int) -> None:
        while True:
            changed = self._rooms.store.changed(("box", agent.key))
            wanted = Filter(after=str(number))
            found = self._rooms.lists.listing(agent, wanted).messages
            for summary in found:
                number = summary.number or number
                try:
                    params = documents.message(self._rooms.reading.full(agent, summary.seq))
                except AmpdError as exc:  # one that is damaged hides no other (P4)
                    log.warning("a message is not shown", extra={"id": summary.id, "why": str(exc)})
                    continue
                await self._write({"jsonrpc": "2.0", "method": "message.new", "params": params})
            if not found:
                await changed.wait()

    async def _push_status(self, agent: Agent, cursor: int) -> None:
        while True:
            changed = self._rooms.store.changed(("sent", agent.key))
            cursor, moved = self._rooms.tracking.changed(agent, cursor)
            for identifier in moved:
                params = documents.delivery(*self._rooms.tracking.deliveries(agent, identifier))
                await self._write({"jsonrpc": "2.0", "method": "message.status", "params": params})
            if not moved:
                await changed.wait()


class _Sends:
    """Requests of `message.send` that came together: prepared one by one, kept under one sync."""

    def __init__(self, connection: Connection, answers: list[Answer] | None = None) -> None:
        self._connection = connection
        self._answers = answers
        self._works: list[tuple[object, bool, Callable[[Transaction], Sent]]] = []

    def add(self, document: object) -> bool:
        """Whether it was a send that can share; anything else is for the caller to carry out."""
        if not isinstance(document, dict) or document.get("method") != "message.send":
            return False
        checked = _checked(document)
        if isinstance(checked, dict):
            return False
        identifier, _, params, is_notification = checked
        inner = self._connection
        methods, rooms = inner._methods, inner._rooms  # noqa: SLF001 - one class in two halves
        try:
            agent = methods.agent(inner._caller)  # noqa: SLF001
            work = rooms.submission.prepare(agent, methods.draft(Params(params), agent))
        except AmpdError:
            return False  # the ordinary way finds the same, and says it
        self._works.append((identifier, is_notification, work))
        return True

    async def flush(self) -> None:
        """Keep what was prepared, and answer."""
        if not self._works:
            return
        works, self._works = self._works, []
        try:
            sent = await self._connection._rooms.submission.send_many(  # noqa: SLF001
                [work for _, _, work in works]
            )
        except AmpdError as exc:
            results: list[Sent | AmpdError] = [exc] * len(works)
        else:
            results = [*sent]
        for (identifier, is_notification, _), result in zip(works, results, strict=True):
            if is_notification:
                continue
            answer = (
                {"jsonrpc": "2.0", "id": identifier, "result": documents.sent(result)}
                if isinstance(result, Sent)
                else application_error(identifier, result)
            )
            if self._answers is None:
                await self._connection._write(answer)  # noqa: SLF001
            else:
                self._answers.append(answer)


def _checked(document: object) -> Answer | tuple[object, str, object, bool]:
    """The id, method, params and whether it is a notification; or the error to answer."""
    if not isinstance(document, dict):
        return error(None, INVALID_REQUEST, "a request must be an object")
    identifier = document.get("id")
    if isinstance(identifier, (dict, list, bool)):
        return error(None, INVALID_REQUEST, "an id must be a number, a text or null")
    method = document.get("method")
    if document.get("jsonrpc") != "2.0" or not isinstance(method, str):
        return error(identifier, INVALID_REQUEST, 'a request has "jsonrpc": "2.0" and a method')
    return identifier, method, document.get("params"), "id" not in document
