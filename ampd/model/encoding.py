"""The one byte form of every value that is signed, sent or kept: a strict profile of CBOR.

Profile (RFC 8949, section 4.2.1, and narrower):

  E1  A value has one spelling: decode() accepts a byte string only if encode() of what it
      says gives the same bytes again.
  E2  Values are null, booleans, integers of -2^64 .. 2^64-1, byte strings, text strings, arrays,
      and maps. Map keys are text, so length-first order (RFC 7049) and bytewise order agree.
  E3  No tag, no float, no simple value, no indefinite length, no duplicate key, nothing behind
      the end.
  E4  The size is checked before a byte is interpreted, and the heads of all items before a value
      is built: nesting ends at 16, a value has at most 4,096 items (keys count), and no head
      promises more than the input holds. So decoding takes a few milliseconds, and
      less than a megabyte more than the input and its text.
  E5  Whatever the input is, decode() raises Invalid and nothing else, and so does encode().

Numbers with a fraction, and JSON as a user wrote it, travel as JSON text inside a text string.
"""

from typing import Final

import cbor2

from ampd.model.errors import Invalid

MAX_DEPTH: Final = 16  # arrays and maps around the innermost item; our deepest value has 5
MAX_ITEMS: Final = 1 << 12  # 9 messages to 100 recipients; unbounded, 1 MiB of input can fill 72
DEFAULT_LIMIT: Final = 1 << 20  # twice the largest envelope (limits.message_bytes)

Value = object  # what E2 names; the checks are at run time, for the bytes come from anybody

# the least first byte of each major type (RFC 8949, section 3.1)
_BYTE_STRING, _TEXT_STRING, _ARRAY, _MAP, _NO_VALUE = 0x40, 0x60, 0x80, 0xA0, 0xC0
_SIMPLE: Final = (0xF4, 0xF5, 0xF6)  # false, true, null
_ARGUMENT: Final = {24: 1, 25: 2, 26: 4, 27: 8}  # bytes that the argument takes
_LEAVES: Final = frozenset({bool, bytes, str, type(None)})
_LEAST: Final = {1: 24, 2: 1 << 8, 4: 1 << 16, 8: 1 << 32}  # less has a shorter spelling


def encode(value: Value) -> bytes:
    """The one spelling of `value` (lists and tuples are arrays), or Invalid."""
    _only_profile(value, MAX_DEPTH)
    try:
        return cbor2.dumps(value, canonical=True)
    except UnicodeEncodeError:
        raise Invalid("text with half of a surrogate pair, which no UTF-8 can spell") from None


def decode(data: bytes, *, limit: int = DEFAULT_LIMIT) -> Value:
    """The value that `data` spells, or Invalid (E1-E5). `limit` is in bytes."""
    if len(data) > limit:
        raise Invalid(f"{len(data)} bytes of CBOR, over the limit of {limit}", code="too_large")
    try:
        _survey(data)
        # _survey has proved what cbor2 must not meet; the options say it to cbor2 as well
        return cbor2.loads(
            data, max_depth=MAX_DEPTH + 1, allow_indefinite=False, allow_duplicate_keys=False
        )
    except IndexError:
        raise Invalid("CBOR that ends too early") from None
    except (cbor2.CBORError, ValueError, TypeError, OverflowError) as exc:
        raise Invalid(f"not the CBOR of this protocol: {exc}") from None


def encode_in_order(value: Value) -> bytes:
    """The same as `encode`, a third of the time: for maps whose names are written in the order of
    E2 (shorter ones first, then by letters), and members that are known to be within the profile.
    """
    return encode_own(value)


def encode_own(value: Value) -> bytes:
    """CBOR for `decode_own`, of values that are known to be within the profile, or Invalid."""
    try:
        return cbor2.dumps(value)
    except UnicodeEncodeError:
        raise Invalid("text with half of a surrogate pair, which no UTF-8 can spell") from None


def decode_own(data: bytes) -> Value:
    """The value of bytes that this program made or has decoded before, or Invalid.

    Nothing of the profile is proved again: five times as fast as `decode`, for what lies in the
    journal, where a keyed hash says that it is unaltered. Never for what comes from elsewhere.
    """
    try:
        return cbor2.loads(data)
    except (cbor2.CBORError, ValueError, TypeError, OverflowError, RecursionError) as exc:
        raise Invalid(f"not the CBOR of this protocol: {exc}") from None


def _survey(data: bytes) -> None:
    """Walk over the heads of all items: Invalid or IndexError if they break E1, E3 or E4.

    With shortest heads and keys that rise, the one spelling is proved (but for UTF-8, which is
    cbor2's): what encode() would make of the value need not be compared.
    """
    at, items = 0, 1
    left, keys, last = 1, False, b""  # of the innermost array or map: items to come, latest key
    around: list[tuple[int, bool, bytes]] = []
    while left or around:
        if not left:
            left, keys, last = around.pop()
            continue
        left -= 1
        start, first = at, data[at]
        argument = first & 31
        if argument < 24 and first < _NO_VALUE:  # as _head does it, without the call: most items
            at += 1
        else:
            at, argument = _head(data, at, first)
        if _BYTE_STRING <= first < _ARRAY:
            at += argument
        if keys and left & 1:
            key = data[start:at]
            if key <= last or not _TEXT_STRING <= first < _ARRAY:
                raise _no_key(first)
            last = key
        elif _ARRAY <= first < _NO_VALUE:
            around.append((left, keys, last))
            left, keys, last = argument, first >= _MAP, b""
            left <<= keys
            items += left
            if len(around) > MAX_DEPTH or items > MAX_ITEMS:
                raise _too_much(items, data)
    if at != len(data):
        raise Invalid("CBOR that ends too early, or bytes behind its end")


def _too_much(items: int, data: bytes) -> Invalid:
    if items > len(data):
        return Invalid("CBOR that promises more items than it has bytes")
    if items > MAX_ITEMS:
        return Invalid(f"more than {MAX_ITEMS} items of CBOR", code="too_large")
    return Invalid(f"CBOR nested deeper than {MAX_DEPTH}")


def _no_key(first: int) -> Invalid:
    """Why what begins so is no map key here (RFC 8949, section 4.2.1)."""
    if _TEXT_STRING <= first < _ARRAY:
        return Invalid("map keys that are not in their one order, or twice the same")
    return Invalid("a map key that is not text")


def _head(data: bytes, at: int, first: int) -> tuple[int, int]:
    """Where a head that has bytes of its own ends, and its argument (RFC 8949, section 3)."""
    if first in _SIMPLE:
        return at + 1, 0
    if first >= _NO_VALUE:
        raise Invalid("a CBOR tag, float or simple value")
    size = _ARGUMENT.get(first & 31)
    if size is None:
        raise Invalid("CBOR of indefinite length, or a head that means nothing")
    end = at + 1 + size
    argument = int.from_bytes(data[at + 1 : end], "big")
    if end > len(data) or argument < _LEAST[size]:
        raise Invalid("a CBOR head that is cut off, or longer than it need be")
    return end, argument


def _only_profile(value: object, depth: int) -> None:
    kind = type(value)
    if kind is int:
        if not -(1 << 64) <= value < 1 << 64:  # type: ignore[operator]
            raise Invalid("a number that 64 bits do not hold is not in the CBOR profile")
    elif kind in _LEAVES:
        return
    elif depth == 0:
        raise Invalid(f"a value nested deeper than {MAX_DEPTH}")
    elif isinstance(value, dict):
        for key, item in value.items():
            if type(key) is not str:
                raise Invalid("a map key that is not text")
            _only_profile(item, depth - 1)
    elif isinstance(value, list | tuple):
        for item in value:
            _only_profile(item, depth - 1)
    else:
        raise Invalid(f"a {kind.__name__} is not in the CBOR profile")
