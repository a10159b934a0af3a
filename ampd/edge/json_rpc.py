"""JSON-RPC 2.0, without I/O: lines in, requests out; results in, answers out.

https://www.jsonrpc.org/specification; the JSON itself is held to core/json_text.py. Not here: what
a connection does with a request (connection.py), what a method does (methods.py).
"""

import re
from typing import Any, Final

from ampd.core import json_text
from ampd.model.errors import AmpdError, Invalid
from ampd.model.values import value
from ampd.protocol.local import APPLICATION_ERROR, INVALID_PARAMS, INVALID_REQUEST
from ampd.protocol.raw_json import MAX_DEPTH

Answer = dict[str, Any]

MAX_NESTED: Final = 200_000  # more than a payload at its limit has; they take 0.15 s to read
_MAX_QUOTES: Final = 100_000  # beyond that it is no long text that has so many brackets
_STRINGS: Final = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)
_DEPTH: Final = MAX_DEPTH + 4  # a payload at its limit, in a request, in a batch


@value
class Request:
    """One request, or notification, whose form is right."""

    id: object
    method: str
    params: object
    is_notification: bool


def read(line: bytes | bytearray) -> Any:
    """The document on one line, or Invalid; too_large if it is MAX_NESTED arrays and objects."""
    if len(line) > MAX_NESTED and _is_too_nested(line):
        raise Invalid(
            f"more than {MAX_NESTED} arrays and objects on one line",
            code="too_large", hint="send less in one message, or fewer requests in one batch",
        )  # fmt: skip
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError as exc:
        raise Invalid(f"not JSON: {exc.reason} at byte {exc.start}") from None
    return json_text.to_value(text, _DEPTH)


def _is_too_nested(line: bytes | bytearray) -> bool:
    """Brackets within texts do not count."""
    return _nested(line) > MAX_NESTED and (
        line.count(b'"') > _MAX_QUOTES or _nested(_STRINGS.sub(b"", line)) > MAX_NESTED
    )


def _nested(line: bytes | bytearray) -> int:
    return line.count(b"{") + line.count(b"[")


def checked(document: object) -> Request | Answer:
    """The request that a document is, or the error to answer (section 4)."""
    if not isinstance(document, dict):
        return error(None, INVALID_REQUEST, "a request must be an object")
    identifier = document.get("id")
    if isinstance(identifier, dict | list | bool):
        return error(None, INVALID_REQUEST, "an id must be a number, a text or null")
    method, params = document.get("method"), document.get("params")
    if document.get("jsonrpc") != "2.0" or not isinstance(method, str):
        return error(identifier, INVALID_REQUEST, 'a request has "jsonrpc": "2.0" and a method')
    if not isinstance(params, dict | list | None):
        return error(identifier, INVALID_REQUEST, "params must be an object")
    return Request(identifier, method, params, "id" not in document)


def result(identifier: object, value: object) -> Answer:
    """The answer to a request that was carried out (section 5)."""
    return {"jsonrpc": "2.0", "id": identifier, "result": value}


def notification(method: str, params: object) -> Answer:
    """What nobody answers (section 4.1)."""
    return {"jsonrpc": "2.0", "method": method, "params": params}


def error(identifier: object, code: int, text: str, data: Answer | None = None) -> Answer:
    """The answer to a request that was not (section 5.1)."""
    body: Answer = {"code": code, "message": text}
    if data:
        body["data"] = data
    return {"jsonrpc": "2.0", "id": identifier, "error": body}


def application_error(identifier: object, exc: AmpdError) -> Answer:
    """What the core said, with its code and its hint."""
    data = {"code": exc.code} | ({"hint": exc.hint} if exc.hint else {})
    code = INVALID_PARAMS if isinstance(exc, Invalid) and exc.code == "invalid" else None
    return error(identifier, code or APPLICATION_ERROR, str(exc), data)
