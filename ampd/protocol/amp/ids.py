"""Message ids as AMP writes them, and as this node does.

  msg_<unix seconds>_<suffix>        AMP section 04; clients take [A-Za-z0-9]+ for the suffix
  msg_<unix seconds>_<32 hex>        made here: the suffix is the native id

MI1  A native id and the id made from it name each other: no table is needed.
MI2  Any other text becomes a native id by a hash, in the form of a UUIDv7 of the seconds it
     names; the same text always the same one.
MI3  A thread keeps the id of its first message: the client's word for it, else the thread of the
     message answered, else that message, else the message itself.
"""

import hashlib
import re
from typing import Final

from ampd.model.message import new_id

MAX_ID: Final = 128  # characters; the longest that a client is known to make has 26
_FORM: Final = re.compile(r"msg[_-](\d{1,13})[_-]([A-Za-z0-9]{1,100})", re.ASCII)
_OURS: Final = re.compile(r"msg_\d{1,12}_([0-9a-f]{32})", re.ASCII)
_CONTEXT: Final = b"ampd/amp-id"
_LATEST: Final = 1 << 33  # seconds: the year 2242; a UUIDv7 holds no more than the year 10889


def is_message_id(text: str) -> bool:
    """Whether clients can hold a message under this id."""
    return _FORM.fullmatch(text) is not None


def amp_id(native: bytes) -> str:
    """The id of a native message (MI1). Seconds are 0 for ids that carry no time."""
    has_time = native[6] >> 4 == 7
    seconds = int.from_bytes(native[:6], "big") // 1000 if has_time else 0
    return f"msg_{seconds}_{native.hex()}"


def native_id(text: str) -> bytes:
    """The native id that an AMP id stands for (MI1, MI2)."""
    ours = _OURS.fullmatch(text)
    if ours:
        native = bytes.fromhex(ours[1])
        if amp_id(native) == text:
            return native
    return _hashed(text)


def _hashed(text: str) -> bytes:
    digest = hashlib.blake2b(_CONTEXT + text.encode(), digest_size=16).digest()
    form = _FORM.fullmatch(text)
    seconds = int(form[1]) if form and int(form[1]) < _LATEST else 0
    return new_id(seconds * 1000, digest)


def thread_of(own: str, said: str, answered: str, its_thread: str) -> str:
    """The thread of a message `own` that says its thread, or what it answers (MI3)."""
    return said or its_thread or answered or own
