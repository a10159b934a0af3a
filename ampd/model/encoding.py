"""The one byte form of every value that is signed, sent or kept: a strict profile of CBOR.

Profile (RFC 8949, section 4.2.1, and narrower):

  E1  A value has one spelling: decode() accepts a byte string only if encode() of what it
      says gives the same bytes again.
  E2  Values are null, booleans, integers of -2^64 .. 2^64-1, byte strings, text strings, arrays,
      and maps. Map keys are text, so length-first order (RFC 7049) and bytewise order agree.
  E3  No tag, no float, no simple value, no indefinite length, no duplicate key, nothing behind
      the end.
  E4  The size is checked before a byte is interpreted; nesting ends at 16.
  E5  Whatever the input is, decode() raises Invalid and nothing else.

Numbers with a fraction, and JSON as a user wrote it, travel as JSON text inside a text string.
"""

from collections.abc import Callable
from typing import Final, Never

import cbor2

from ampd.model.errors import Invalid

MAX_DEPTH: Final = 16  # our deepest value has 5 levels
DEFAULT_LIMIT: Final = 1 << 20  # twice the largest envelope (limits.message_bytes)

Value = object  # what E2 names; the checks are at run time, for the bytes come from anybody


def _refuse(_decoder: object, *_: object) -> Never:
    msg = "CBOR tags are not allowed"
    raise cbor2.CBORDecodeError(msg)


# cbor2 has built-in decoders for these tags and calls no hook for them (6.3.0: dates, bignums,
# rationals, regular expressions, mail, shared references, sets, networks, ...).
_BUILT_IN_TAGS: Final = (
    *range(6), 25, 28, 29, 30, 35, 36, 37, 43, 52, 54, 100, 256, 258, 260, 261, 1004, 43000, 55799,
)  # fmt: skip
_NO_TAGS: Final[dict[int, Callable[..., Never]]] = dict.fromkeys(_BUILT_IN_TAGS, _refuse)


def encode(value: Value) -> bytes:
    """The one spelling of `value`."""
    return cbor2.dumps(value, canonical=True)


def decode(data: bytes, *, limit: int = DEFAULT_LIMIT) -> Value:
    """The value that `data` spells, or Invalid (E1-E5). `limit` is in bytes."""
    if len(data) > limit:
        raise Invalid(f"{len(data)} bytes of CBOR, over the limit of {limit}", code="too_large")
    try:
        value = cbor2.loads(
            data,
            tag_hook=_refuse,
            semantic_decoders=_NO_TAGS,
            max_depth=MAX_DEPTH,
            allow_indefinite=False,
            allow_duplicate_keys=False,
            strict_hashable_types=True,
        )
        if cbor2.dumps(value, canonical=True) != data:
            raise Invalid("CBOR that is not in its one canonical form")
    except (
        cbor2.CBORError,
        ValueError,
        TypeError,
        OverflowError,
        RecursionError,
        MemoryError,
    ) as exc:
        raise Invalid(f"not the CBOR of this protocol: {exc}") from None
    _only_profile(value)
    return value


def _only_profile(value: object) -> None:
    if isinstance(value, list):
        for item in value:
            _only_profile(item)
    elif isinstance(value, dict):
        for key, item in value.items():
            if type(key) is not str:
                raise Invalid("a map key that is not text")
            _only_profile(item)
    elif value is not None and type(value) not in (bool, int, bytes, str):
        raise Invalid(f"a {type(value).__name__} is not in the CBOR profile")
