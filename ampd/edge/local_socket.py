"""The local socket: who may connect to this node, and where. One Unix stream socket for all of
it, and one for each agent.

  Z1  A caller is known by the kernel (SO_PEERCRED): another user is refused before a byte is read.
  Z5  At most MAX_CONNECTIONS at a time, of these MAX_FOR_AGENT on one agent's socket; one that
      ends takes its subscriptions with it.
  Z6  Each agent has a socket as long as it lives here.

Not here: what is said on a connection (connection.py).
"""

import logging
import os
import socket
import stat
import struct
from collections import Counter
from pathlib import Path
from typing import Final

import trio

from ampd.crypto.keyfiles import make_folder
from ampd.edge.connection import Connection
from ampd.edge.methods import Caller, Methods, Rooms
from ampd.model.errors import Invalid, Refused, Unavailable
from ampd.protocol.local import socket_path_limit

MAX_CONNECTIONS: Final = 512  # of 1024 file descriptors that a user has by default
MAX_FOR_AGENT: Final = 128  # a container that holds one agent's socket leaves room for the others

log = logging.getLogger("ampd.socket")


class LocalSocket:
    """Serves the main socket, and one socket for each agent."""

    def __init__(self, rooms: Rooms, main: Path, agents: Path) -> None:
        self._rooms = rooms
        self._methods = Methods(rooms)
        self._main = main
        self._folder = agents
        self._scopes: dict[str, trio.CancelScope] = {}
        self._nursery: trio.Nursery | None = None
        self._connections: Counter[str] = Counter()

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
                remove(self._main)

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
        try:
            path = Path(self._rooms.socket_of(name))
            listener = listen(path)
        except (OSError, Invalid) as exc:
            log.warning("no socket for one agent", extra={"agent": name, "why": str(exc)})
            return
        try:
            with scope:
                await self._accept(listener, name)
        finally:
            if self._scopes.get(name, scope) is scope:  # else the name has a new socket here
                remove(path)

    async def _accept(self, listener: socket.socket, bound: str) -> None:
        listener.setblocking(False)
        server = trio.socket.from_stdlib_socket(listener)
        async with trio.open_nursery() as nursery:
            with server:
                while True:
                    try:
                        client, _ = await server.accept()
                    except OSError as exc:  # out of file descriptors: let some go first
                        log.warning("a connection was not taken", extra={"why": str(exc)})
                        await trio.sleep(0.1)
                        continue
                    nursery.start_soon(self._connection, trio.SocketStream(client), bound)

    async def _connection(self, stream: trio.SocketStream, bound: str) -> None:
        self._connections[bound] += 1
        try:
            async with stream:
                caller = Caller(bound)
                connection = Connection(stream, self._rooms, self._methods, caller)
                if not is_ours(stream):
                    await connection.refuse(Refused("this node belongs to another user"))
                elif self._full(bound):
                    await connection.refuse(Unavailable("too many connections to this node"))
                else:
                    await connection.run()
        except (trio.BrokenResourceError, trio.TooSlowError):
            pass  # it was refused, and did not wait to hear why
        finally:
            self._connections[bound] -= 1

    def _full(self, bound: str) -> bool:
        """Z5."""
        too_many_here = bound and self._connections[bound] > MAX_FOR_AGENT
        return bool(too_many_here) or self._connections.total() > MAX_CONNECTIONS


def listen(path: Path) -> socket.socket:
    """A listening socket at `path`, ours alone from the first system call."""
    if len(os.fsencode(path)) > socket_path_limit():
        raise Invalid(
            f"{path} is over the {socket_path_limit()} bytes that a socket's path may have",
            hint="set AMPD_HOME or XDG_RUNTIME_DIR to a shorter folder",
        )
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        check_place(path)
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


def check_place(path: Path) -> None:
    """Invalid where something that is no socket is in the way of one."""
    if path.is_symlink() or (path.exists() and not stat.S_ISSOCK(path.lstat().st_mode)):
        raise Invalid(f"{path} is in the way: it is not a socket", hint=f"rm {path}")


def remove(path: Path) -> None:
    """Take a socket off the disk."""
    path.unlink(missing_ok=True)


def is_ours(stream: trio.SocketStream) -> bool:
    """Whether the caller runs as this user (Z1)."""
    size = struct.calcsize("3i")
    found = stream.socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
    _, uid, _ = struct.unpack("3i", found)
    return bool(uid == os.getuid())
