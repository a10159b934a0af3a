"""One connection to the daemon, blocking; and what both clients say when there is none.

A Line says hello and then makes one call after the other. It closes itself when an answer does
not come in time: what is stuck is not asked again. Lost is for whoever asks again on a new one.
"""

import os
import socket
from typing import Any, TypeVar

from ampd.client import verbs
from ampd.client.conversation import Conversation
from ampd.client.verbs import ANSWER_WITHIN, Call
from ampd.model.errors import AmpdError, Unavailable
from ampd.protocol.local import main_socket

Value = TypeVar("Value")
_CHUNK = 65536  # bytes
CLIENT = "ampd.client"


def agent_name(agent: str | None) -> str:
    return agent or os.environ.get("AMP_AGENT") or ""


def socket_of(path: str | None) -> str:
    return path or os.environ.get("AMP_SOCKET") or main_socket()


class Lost(Exception):
    """The connection ended before the answer came."""


class Line:
    """One connection: hello first, then one request after the other."""

    def __init__(self, agent: str, path: str) -> None:
        self._conversation = Conversation()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._socket.connect(path)
            params: dict[str, object] = {"client": CLIENT}
            if agent:
                params["agent"] = agent
            self.hello = self.call(verbs.plain("system.hello", params, ANSWER_WITHIN))
        except OSError as exc:
            self.close()
            raise no_daemon(path, exc) from exc
        except (AmpdError, Lost):
            self.close()
            raise

    def call(self, call: Call[Value]) -> Value:
        try:
            self._socket.settimeout(call.within)
            self._socket.sendall(self._conversation.request(call.method, call.params))
            while (answer := self._conversation.answer()) is None:
                self._conversation.receive(self._read())
        except TimeoutError:
            self.close()  # what is stuck is not asked again
            raise silent(call.within) from None
        except (BrokenPipeError, ConnectionResetError):
            raise Lost from None
        return call.read(answer)

    def notification(self) -> tuple[str, Any]:
        """The next one, however long it takes; Lost if the connection ends."""
        self._socket.settimeout(None)
        while (found := self._conversation.notification()) is None:
            try:
                self._conversation.receive(self._read())
            except ConnectionResetError:
                raise Lost from None
        return found

    def close(self) -> None:
        self._socket.close()

    @property
    def is_closed(self) -> bool:
        return self._socket.fileno() < 0

    def _read(self) -> bytes:
        data = self._socket.recv(_CHUNK)
        if not data:
            raise Lost
        return data


def no_daemon(path: str, reason: OSError) -> Unavailable:
    return Unavailable(
        f"no daemon answers on {path}: {reason.strerror or reason}", hint="amp daemon start"
    )


def silent(within: float | None) -> Unavailable:
    return Unavailable(f"the daemon did not answer within {within:g} s", hint="amp daemon restart")


def hung_up() -> Unavailable:
    return Unavailable("the daemon hung up without an answer", hint="amp daemon log")
