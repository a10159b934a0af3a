"""A client's side of the local socket, without I/O: requests to bytes, bytes to answers.

    conversation.request(method, params) -> the line to write
    conversation.receive(data)           -> nothing; then:
    conversation.answer()                -> the result, or None while it has not come whole
    conversation.notification()          -> the next one, or None

One request at a time. An error answer is raised as the class of ampd.model.errors that says what
the caller must do; its code is `code`, and what mends it `hint`:

    invalid, and JSON-RPC's invalid params           Invalid
    unavailable, timeout, rate_limited, quota_...    Unavailable
    the other words of errors.CODES                  Refused
    JSON-RPC's own codes                             LocalProtocolError
"""

import json
from typing import Any

from ampd.model.errors import AmpdError, Invalid, LocalProtocolError, Refused, Unavailable
from ampd.protocol.local import INVALID_PARAMS, LINE_LIMIT

_NOT_NOW = frozenset(("unavailable", "timeout", "rate_limited", "quota_exceeded"))


class Conversation:
    """What has been asked and what came back on one connection."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._last_id = 0
        self._answers: list[dict[str, Any]] = []
        self._notifications: list[dict[str, Any]] = []

    def request(self, method: str, params: dict[str, object]) -> bytes:
        """The line that asks; Refused (`too_large`) if the socket does not take it."""
        self._last_id += 1
        request = {"jsonrpc": "2.0", "id": self._last_id, "method": method, "params": params}
        line = json.dumps(request, separators=(",", ":"), allow_nan=False).encode() + b"\n"
        if len(line) > LINE_LIMIT:
            raise Refused(
                f"the request takes {len(line)} bytes, over the {LINE_LIMIT} of the socket",
                code="too_large",
            )
        return line

    def receive(self, data: bytes) -> None:
        """Take what was read, cut anywhere; LocalProtocolError if it is no JSON-RPC."""
        searched = len(self._buffer)
        self._buffer += data
        while (end := self._buffer.find(b"\n", searched)) >= 0:
            line = bytes(self._buffer[:end])
            del self._buffer[: end + 1]
            searched = 0
            self._hear(line)

    def answer(self) -> Any:
        """The result of the last request; None while it is on its way; raises what went wrong."""
        while self._answers:
            document = self._answers.pop(0)
            if document.get("id") not in (self._last_id, None):
                continue  # of a request that nobody waits for any more
            if "error" in document:  # without an id: about the connection
                raise error(document["error"])
            if "result" in document:
                return document.get("result") or {}
        return None

    def notification(self) -> tuple[str, Any] | None:
        """(method, params) of the next notification."""
        if not self._notifications:
            return None
        document = self._notifications.pop(0)
        return document["method"], document.get("params")

    def _hear(self, line: bytes) -> None:
        try:
            document = json.loads(line)
        except (ValueError, RecursionError):
            raise LocalProtocolError("what answers on the socket does not speak JSON") from None
        if not isinstance(document, dict):
            raise LocalProtocolError("what answers on the socket does not speak JSON-RPC")
        (self._notifications if "method" in document else self._answers).append(document)


def error(document: object) -> AmpdError:
    """The exception that a JSON-RPC error object means."""
    if not isinstance(document, dict):
        return LocalProtocolError("the daemon answered an error that is no object")
    message = str(document.get("message") or "the daemon gave no reason")
    data = document.get("data")
    data = data if isinstance(data, dict) else {}
    code, hint = str(data.get("code") or ""), str(data.get("hint") or "")
    if code == "invalid" or document.get("code") == INVALID_PARAMS:
        return Invalid(message, hint=hint)
    if code in _NOT_NOW:
        return Unavailable(message, hint=hint, code=code)
    if code:
        return Refused(message, hint=hint, code=code)
    return LocalProtocolError(message, hint=hint)
