"""The message of AMTP 1.0: what may stand in the body of POST /v1/messages, and in which order.

  AM1  Checked in one order, the first thing that is wrong is said: the shape of the JSON
       (INVALID_REQUEST_FORMAT); the version (UNSUPPORTED_VERSION); message_id, sender, recipients,
       coordination, attachments (VALIDATION_FAILED); idempotency_key, in_reply_to, workflow_id,
       schema (MESSAGE_VALIDATION_FAILED). AMTP 1.0, sections 4.2 and 13.1; Agentry's words.
  AM2  null, "" and an empty list are absent, members nobody knows are passed over: other gateways
       write every member, set or not. A message without a version is one of 1.0: the public
       clients write none.
  AM3  Any UUID will do as an id: clients make version 4 where the draft recommends 7.
  AM4  A payload is any JSON whose numbers a double can hold (RFC 7493); it is carried as its text,
       with its numbers as they were written.

Not here: who the sender is, what is done with a message (edge/amtp), its signature
(domain_signature.py), what coordination means (coordination.py).
"""

import hashlib
import math
import re
import uuid
from collections.abc import Callable, Mapping
from typing import Any, Final

from ampd.model.address import Address
from ampd.model.errors import Invalid
from ampd.model.message import MAX_RECIPIENTS, id_text
from ampd.protocol import raw_json
from ampd.protocol.amtp.coordination import Plan, plan_of

VERSION: Final = "1.0"
MAX_ATTACHMENTS: Final = 100  # references in one message, as many as recipients
_TEXTS: Final = (
    *("version", "message_id", "idempotency_key", "timestamp", "sender", "subject", "schema"),
    *("response_type", "in_reply_to", "workflow_id"),
)
_OBJECTS: Final = ("coordination", "headers", "signature")
# The members, in the order in which they are written.
MEMBERS: Final = (
    *("version", "message_id", "idempotency_key", "timestamp", "sender", "recipients", "subject"),
    *("schema", "coordination", "headers", "payload", "attachments", "signature", "in_reply_to"),
    *("response_type", "workflow_id"),
)
_UUID: Final = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_NIL: Final = str(uuid.UUID(int=0))
_SCHEMA: Final = re.compile(r"agntcy:[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.v[0-9]+")
_HASH: Final = re.compile(r"(sha256|sha512|md5):[0-9a-fA-F]+")
_SHOWN: Final = 80  # characters of a wrong text that an error repeats

Message = dict[str, Any]  # members that are set; payload and the like are raw_json values


class Unacceptable(Invalid):
    """A message that breaks a rule; `word` is AMTP's code, `details` says which one and how."""

    def __init__(self, word: str, message: str, reason: str, *, key: str = "validation_error"):
        super().__init__(f"{message}: {reason}")
        self.word = word
        self.title = message
        self.details: Mapping[str, Any] = {key: reason}


def read(value: raw_json.Value) -> Message:
    """The members that are set of the body of a POST /v1/messages (AM1-AM4), or Unacceptable."""
    message = _shaped(value)
    if message.setdefault("version", VERSION) != VERSION:
        shown = message["version"][:_SHOWN]
        raise Unacceptable(
            "UNSUPPORTED_VERSION", "Protocol version not supported", f"{shown!r} is not 1.0"
        )
    _with(_check_request, message, "VALIDATION_FAILED", "Request validation failed")
    _with(_check_message, message, "MESSAGE_VALIDATION_FAILED", "Message validation failed")
    if "message_id" in message:
        message["message_id"] = message["message_id"].lower()
    return message


def is_uuid(text: str) -> bool:
    """Whether `text` is a UUID of any version (AM3)."""
    return _UUID.fullmatch(text) is not None and text != _NIL


def is_schema(text: str) -> bool:
    """Whether `text` is a schema's id (AMTP 1.0, section 6.1.1)."""
    return _SCHEMA.fullmatch(text) is not None


def derived_key(message_id: str) -> str:
    """The idempotency key of a message that came without one: a UUIDv4 in form, made of its id."""
    raw = bytearray(
        hashlib.blake2b(b"ampd/amtp-key" + message_id.encode(), digest_size=16).digest()
    )
    raw[6] = raw[6] & 0x0F | 0x40  # RFC 9562, section 5.4
    raw[8] = raw[8] & 0x3F | 0x80
    return id_text(bytes(raw))


def ordered(message: Mapping[str, Any]) -> Message:
    """The members that are set, in the order of MEMBERS."""
    return {name: message[name] for name in MEMBERS if name in message}


def text_of(payload: raw_json.Value) -> str:
    """What of a payload a person would read: a text, or the text that it holds."""
    if isinstance(payload, str) and not isinstance(payload, raw_json.Number):
        return payload
    if isinstance(payload, dict):
        for name in ("text", "message", "body"):
            found = payload.get(name)
            if isinstance(found, str) and not isinstance(found, raw_json.Number):
                return found
    return ""


# --- the shape --------------------------------------------------------------------------------


def _shaped(value: raw_json.Value) -> Message:
    if not isinstance(value, dict):
        raise _malformed("the body is no JSON object")
    message = {
        name: value[name] for name in MEMBERS if name in value and _is_set(name, value[name])
    }
    for name, each in message.items():
        if name in _TEXTS and (not isinstance(each, str) or isinstance(each, raw_json.Number)):
            raise _malformed(f"{name} is a text")
        if name in _OBJECTS and not isinstance(each, dict):
            raise _malformed(f"{name} is an object")
    if not _all(message.get("recipients", []), str):
        raise _malformed("recipients is a list of addresses")
    if not _all(message.get("attachments", []), dict):
        raise _malformed("attachments is a list of objects")
    return message


def _is_set(name: str, each: raw_json.Value) -> bool:
    """AM2; an empty text or list is a payload like others."""
    if each is None or (name in _TEXTS and each == ""):
        return False
    return not (name == "attachments" and each == [])


def _all(value: raw_json.Value, kind: type) -> bool:
    return isinstance(value, list) and all(
        isinstance(each, kind) and not isinstance(each, raw_json.Number) for each in value
    )


def _malformed(reason: str) -> Unacceptable:
    return Unacceptable(
        "INVALID_REQUEST_FORMAT", "Invalid request format", reason, key="parse_error"
    )


# --- what stands in it ------------------------------------------------------------------------


def _with(check: Callable[[Message], None], message: Message, word: str, title: str) -> None:
    try:
        check(message)
    except Unacceptable:
        raise
    except Invalid as exc:
        raise Unacceptable(word, title, str(exc)) from None


def _check_request(message: Message) -> None:
    _check_id(message, "message_id")
    if "sender" not in message:
        raise Invalid("sender is required")
    _check_address("sender", message["sender"])
    recipients = message.get("recipients", [])
    if not 0 < len(recipients) <= MAX_RECIPIENTS:
        raise Invalid(f"1 to {MAX_RECIPIENTS} recipients are required, not {len(recipients)}")
    for each in recipients:
        _check_address("recipient", each)
    if "coordination" in message:
        _check_plan(plan_of(message["coordination"], recipients))
    attachments = message.get("attachments", [])
    if len(attachments) > MAX_ATTACHMENTS:
        raise Invalid(f"{len(attachments)} attachments, over {MAX_ATTACHMENTS}")
    for place, each in enumerate(attachments):
        _check_attachment(place, each)
    for name in ("payload", "headers", "coordination", "attachments"):
        _check_numbers(message.get(name))


def _check_plan(plan: Plan) -> None:
    for each, _ in plan.first:
        _check_address("participant", each)
    for branch in plan.branches:
        for each in (*branch.then, *branch.otherwise):
            _check_address("participant", each)


def _check_numbers(value: raw_json.Value) -> None:
    """Finite ones only: other nodes hold JSON to RFC 7493 and would refuse the message."""
    left = [value]
    while left:
        each = left.pop()
        if isinstance(each, raw_json.Number) and not math.isfinite(float(each)):
            raise Invalid(f"the number {each[:_SHOWN]} is beyond what a double can hold")
        if isinstance(each, dict | list):
            left.extend(each.values() if isinstance(each, dict) else each)


def _check_message(message: Message) -> None:
    for name in ("idempotency_key", "in_reply_to", "workflow_id"):
        _check_id(message, name)
    if "schema" in message and not is_schema(message["schema"]):
        shown = message["schema"][:_SHOWN]
        raise Invalid(f"invalid schema {shown!r}, expected agntcy:domain.entity.v1")


def _check_id(message: Message, name: str) -> None:
    if name in message and not is_uuid(message[name]):
        raise Invalid(f"invalid {name} {message[name][:_SHOWN]!r}, expected a UUID")


def _check_address(what: str, text: str) -> None:
    try:
        Address.parse(text)
    except Invalid as exc:
        raise Invalid(f"invalid {what}: {exc}") from None


def _check_attachment(place: int, each: dict[str, raw_json.Value]) -> None:
    for name in ("filename", "content_type", "hash", "url"):
        value = each.get(name)
        if not isinstance(value, str) or isinstance(value, raw_json.Number) or not value:
            raise Invalid(f"attachment {place}: {name} is required")
    size = raw_json.plain(each.get("size", 0))
    if isinstance(size, bool) or not isinstance(size, int) or size < 0:
        raise Invalid(f"attachment {place}: size is a number of bytes")
    if not _HASH.fullmatch(each["hash"]):
        raise Invalid(f"attachment {place}: hash is sha256:, sha512: or md5: and hexadecimal")
    if not each["url"].startswith(("https://", "http://")):
        raise Invalid(f"attachment {place}: url begins with https:// or http://")
