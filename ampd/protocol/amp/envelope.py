"""What a client posts to be sent: read, checked, and held to the limits of section 04.

    flat      {to, subject, priority?, payload, in_reply_to?, thread_id?, signature?, expires_at?,
               options?: {receipt}, idempotency_key?, from?}        the local mode of the clients
    full      {envelope: {version, id, from, to, subject, priority?, timestamp, thread_id?,
               in_reply_to?, expires_at?, signature}, payload}      their external mode

  EV1  A full envelope has version amp/0.1, id, from, to, subject and timestamp.
  EV2  Its id is msg_<unix>_<suffix>.
  EV3  priority is urgent, high, normal or low; normal where it is missing.
  EV4  The payload has a type and a message; its context and everything else pass untouched.
  EV5  Subject 256 characters, message 64 KiB, context 256 KiB, all of it 512 KiB; no more.
  EV6  What has expired is refused.
  EV7  What the client dates is not older than 5 minutes, and not a minute in the future; what a
       relay held is judged by when it was queued.

Not here: who may say `from` (edge/amp/route.py), signatures (signing.py).
"""

from typing import Any, Final

from ampd.model.errors import Invalid
from ampd.model.values import value
from ampd.protocol.amp.faults import Fault, invalid, missing, too_large
from ampd.protocol.amp.ids import MAX_ID, is_message_id
from ampd.protocol.amp.signing import MAX_SIGNATURE
from ampd.protocol.amp.times import milliseconds
from ampd.protocol.raw_json import Value, write

VERSION: Final = "amp/0.1"
PRIORITIES: Final = ("low", "normal", "high", "urgent")
MAX_SUBJECT: Final = 256  # characters; this and the next three: section 04, "Size Limits"
MAX_BODY: Final = 65_536  # bytes; the bash clients lose what is over 128 KiB when they fetch it
MAX_CONTEXT: Final = 262_144
MAX_MESSAGE: Final = 524_288
MAX_TYPE: Final = 64  # characters, as a native type
MAX_KEY: Final = 200  # characters of an idempotency key, as a native one
STALE_AFTER: Final = 300_000  # milliseconds: section 07, "Replay Protection"
EARLY_BY: Final = 60_000  # milliseconds: how far clocks may be apart
# Id and timestamp of a flat body are the provider's to make.
_FLAT: Final = (
    "from", "to", "subject", "priority", "in_reply_to", "thread_id", "signature", "expires_at",
)  # fmt: skip


@value
class Post:
    """A message as a client posted it, checked. Texts that were not there are ""."""

    envelope: dict[str, Any]  # the members as they were said, signature included
    payload: dict[str, Any]
    sender: str
    to: str
    subject: str
    priority: str
    in_reply_to: str
    thread: str
    signature: str
    id: str  # the client's own; "" of a flat body
    timestamp: int  # milliseconds; 0: not said
    expires: int  # milliseconds; 0: not said
    receipt: bool = False
    key: str = ""

    @property
    def type(self) -> str:
        """The payload's type."""
        return str(self.payload["type"])

    @property
    def message(self) -> str:
        """The payload's text."""
        return str(self.payload["message"])


def read_post(value: Value) -> Post:
    """The message that the body of a request is, or a Fault (EV1-EV5)."""
    if not isinstance(value, dict):
        raise Fault("invalid_request", 400, "the body must be a JSON object")
    full = value.get("envelope")
    if full is not None:
        return _full(full, value)
    return _post({name: value[name] for name in _FLAT if name in value}, value)


def read_envelope(envelope: Value, payload: Value) -> Post:
    """The message of a full envelope, as another provider or mesh host sends it, or a Fault."""
    return _full(envelope, {"payload": payload})


def check_times(post: Post, now: int, *, queued_at: int = 0) -> None:
    """EV6, EV7."""
    if post.expires and post.expires <= now:
        raise Fault("message_expired", 400, "this message has expired", field="expires_at")
    if not post.timestamp:
        return
    if (queued_at or post.timestamp) < now - STALE_AFTER:
        raise invalid("timestamp", "the timestamp is more than 5 minutes old")
    if post.timestamp > now + EARLY_BY:
        raise invalid("timestamp", "the timestamp lies in the future")


def _full(envelope: Value, body: dict[str, Any]) -> Post:
    if not isinstance(envelope, dict):
        raise invalid("envelope", "envelope must be an object")
    for name in ("version", "id", "from", "to", "subject", "timestamp"):
        if envelope.get(name) in (None, ""):
            raise missing(name)
    version = envelope["version"]
    if not isinstance(version, str) or not (version + ".").startswith(f"{VERSION}."):
        raise invalid("version", f"only {VERSION} is understood here")
    if not isinstance(envelope["id"], str) or not is_message_id(envelope["id"]):
        raise invalid("id", "an id is msg_<unix seconds>_<letters and digits>")
    return _post(envelope, body)


def _post(envelope: dict[str, Any], body: dict[str, Any]) -> Post:
    payload = _payload(body.get("payload"))
    options = body.get("options")
    post = Post(
        envelope=envelope,
        payload=payload,
        sender=_text(envelope, "from", 254),
        to=_text(envelope, "to", 254, required=True),
        subject=_text(envelope, "subject", MAX_SUBJECT, required=True),
        priority=_text(envelope, "priority", 16) or "normal",
        in_reply_to=_text(envelope, "in_reply_to", MAX_ID),
        thread=_text(envelope, "thread_id", MAX_ID),
        signature=_text(envelope, "signature", MAX_SIGNATURE),
        id=_text(envelope, "id", MAX_ID),
        timestamp=_time(envelope, "timestamp"),
        expires=_time(envelope, "expires_at"),
        receipt=isinstance(options, dict) and options.get("receipt") is True,
        key=_text(body, "idempotency_key", MAX_KEY),
    )
    if post.priority not in PRIORITIES:
        raise invalid("priority", "priority is one of " + ", ".join(PRIORITIES))
    size = len(write(envelope).encode()) + len(write(payload).encode())
    if size > MAX_MESSAGE:
        raise too_large("payload", f"a message of {size} bytes, over {MAX_MESSAGE}")
    return post


def _payload(payload: Value) -> dict[str, Any]:
    if payload is None:
        raise missing("payload")
    if not isinstance(payload, dict):
        raise invalid("payload", "payload must be an object")
    for name in ("type", "message"):
        if payload.get(name) in (None, ""):
            raise missing(f"payload.{name}")
        if type(payload[name]) is not str:
            raise invalid(f"payload.{name}", f"payload.{name} must be a text")
    if len(payload["type"]) > MAX_TYPE:
        raise invalid("payload.type", f"a type has at most {MAX_TYPE} characters")
    size = len(payload["message"].encode())
    if size > MAX_BODY:
        raise too_large("payload.message", f"a message of {size} bytes, over {MAX_BODY}")
    if payload.get("context") is not None:
        size = len(write(payload["context"]).encode())
        if size > MAX_CONTEXT:
            raise too_large("payload.context", f"a context of {size} bytes, over {MAX_CONTEXT}")
    return payload


def _text(found: dict[str, Any], name: str, longest: int, *, required: bool = False) -> str:
    value = found.get(name)
    if value is None or value == "":
        if required:
            raise missing(name)
        return ""
    if type(value) is not str:  # a Number is a str, too
        raise invalid(name, f"{name} must be a text")
    if len(value) > longest:
        raise invalid(name, f"{name} has {len(value)} characters, over {longest}")
    return value


def _time(found: dict[str, Any], name: str) -> int:
    text = _text(found, name, 64)
    try:
        return milliseconds(text) if text else 0
    except Invalid as exc:
        raise invalid(name, f"{name}: {exc}") from None
