"""One request on the daemon's socket, and its answer.

`system.hello` and the request leave in one write (local.py, L2), so a command costs one round
trip. Where nothing answers on the default socket, a daemon is started first (autostart.py); on a
socket that was named, nothing is ever started: it may be all that a sandbox has.

A connection that breaks before the answer came is opened once more and asked again: every method
may be repeated, `message.send` by its `key`. A program that has met the daemon starts none again
after somebody said `amp daemon stop`: the mark that stop leaves in the sockets' folder says so,
until a daemon starts and takes it away.

`_socket` is the C half of `socket`, whose Python half costs as much as a whole command.
"""

import os
from _collections_abc import Callable  # `collections.abc` would import all of `collections`
from _socket import AF_UNIX, SOCK_STREAM, socket

from amp_cli.document import Document
from amp_cli.errors import REFUSED, Failure, NoDaemon, from_answer
from amp_cli.json_text import dumps, loads
from ampd.protocol.local import LINE_LIMIT, main_socket, run_folder, socket_path_limit

ANSWER_WITHIN = 30.0  # seconds; a daemon that is silent for longer is stuck, not busy
_CHUNK = 65536  # bytes; a whole inbox in one read
_HELLO = 0  # the id of the hello; requests count from 1


class Lost(Exception):
    """The connection ended before the answer."""


class Connection:
    """A connection to the daemon that acts as one agent, or as nobody yet."""

    def __init__(self, channel: socket, agent: str) -> None:
        self._channel = channel
        self._buffer = bytearray()
        self._pending: list[Document] = []
        self._last_id = _HELLO
        self._unsaid = b""
        if agent:
            hello = {"agent": agent, "client": "amp"}
            self._unsaid = _line({"id": _HELLO, "method": "system.hello", "params": hello})

    def call(
        self, method: str, params: dict[str, object], within: float | None = ANSWER_WITHIN
    ) -> Document:
        """The result; Failure if it is an error, Lost if none came."""
        self._last_id += 1
        request = {"id": self._last_id, "method": method}
        if params:
            request["params"] = params
        line = _line(request)
        if len(line) > LINE_LIMIT:
            raise Failure(
                f"the request takes {len(line)} bytes, over the {LINE_LIMIT} of the socket",
                exit_code=REFUSED,
                code="too_large",
            )
        try:  # noqa: SIM105 - contextlib would cost 1 ms
            self._channel.sendall(self._unsaid + line)
        except (BrokenPipeError, ConnectionResetError):
            pass  # why may be written on the socket already: read on
        self._unsaid = b""
        try:
            return self._answer(within)
        except TimeoutError:
            raise NoDaemon(
                f"the daemon did not answer within {within:g} s", hint="amp doctor"
            ) from None

    def notification(self, within: float | None) -> Document | None:
        """The next one; None if none comes in time."""
        if self._pending:
            return self._pending.pop(0)
        try:
            while True:
                document = self._hear(within)
                if "method" in document.value:
                    return document
        except TimeoutError:
            return None

    def close(self) -> None:
        self._channel.close()

    def _answer(self, within: float | None) -> Document:
        while True:
            document = self._hear(within)
            if "method" in document.value:
                self._pending.append(document)
            elif "error" in document.value:
                raise from_answer(document.value["error"])
            elif document.value.get("id") == self._last_id:
                return document.of("result")

    def _hear(self, within: float | None) -> Document:
        try:
            line = self._line(within)
        except ConnectionResetError:
            raise Lost from None
        try:
            return Document(loads(line.decode()))
        except ValueError:
            raise NoDaemon("what answers on the socket does not speak JSON-RPC") from None

    def _line(self, within: float | None) -> bytes:
        self._channel.settimeout(within)
        searched = 0
        while (end := self._buffer.find(b"\n", searched)) < 0:
            searched = len(self._buffer)
            data = self._channel.recv(_CHUNK)
            if not data:
                raise Lost
            self._buffer += data
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        return line


class Client:
    """The daemon, as a command sees it."""

    def __init__(self, path: str, agent: str, start: Callable[[str], socket] | None) -> None:
        self.path = path
        self.agent = agent
        self._start = start
        self.met = False  # whether it has answered this program

    def ask(
        self,
        method: str,
        params: dict[str, object],
        *,
        within: float | None = ANSWER_WITHIN,
    ) -> Document:
        """One request, one answer."""
        for _ in range(2):
            connection = self.open()
            try:
                return connection.call(method, params, within)
            except Lost:
                continue
            finally:
                connection.close()
        raise NoDaemon("the daemon hung up without an answer, twice", hint="amp daemon log")

    @property
    def was_stopped(self) -> bool:
        """Whether the daemon that this program has met was to stop, and no other has come."""
        return self.met and self.path == main_socket() and os.path.exists(stop_mark())

    def open(self) -> Connection:
        """A connection that stays; its `call` may raise Lost."""
        try:
            channel = reach(self.path)
        except (FileNotFoundError, ConnectionRefusedError):
            if self._start is None or self.was_stopped:
                raise NoDaemon(
                    f"no daemon answers on {self.path}", hint="amp daemon start"
                ) from None
            channel = self._start(self.path)
        self.met = True
        return Connection(channel, self.agent)


def stop_mark() -> str:
    """The file that says: the daemon was told to stop, and whoever runs is not to start it."""
    return os.path.join(run_folder(), "stopped")


def reach(path: str) -> socket:
    """Connect; FileNotFoundError or ConnectionRefusedError where nobody listens."""
    if len(path.encode(errors="surrogateescape")) > socket_path_limit():
        raise Failure(
            f"the socket's path is over the {socket_path_limit()} bytes of this system: {path}",
            hint="set XDG_RUNTIME_DIR, AMPD_HOME or AMP_SOCKET to a shorter path",
        )
    channel = socket(AF_UNIX, SOCK_STREAM)
    try:
        channel.connect(path)
    except OSError as exc:
        channel.close()
        if isinstance(exc, PermissionError):
            raise Failure(
                f"this user may not open {path}", exit_code=REFUSED, code="forbidden"
            ) from None
        if isinstance(exc, NotADirectoryError):
            raise FileNotFoundError(path) from None
        raise
    return channel


def _line(request: dict[str, object]) -> bytes:
    return (dumps({"jsonrpc": "2.0", **request}) + "\n").encode()
