"""JSON that may travel: every program that reads JSON reads it, and all read the same.

RFC 8259 in the stricter form of I-JSON (RFC 7493): finite numbers, no name twice in one object;
and nested no deeper than MAX_DEPTH, so that no reader runs out of stack. Payloads and contexts are
held to it when they are sent and when they arrive, requests of local programs when they are read.
"""

import json
import math
from typing import Any, Final

from ampd.model.errors import Invalid
from ampd.protocol.raw_json import MAX_DEPTH, check_depth, members


def to_text(value: object) -> str:
    """`value` as one JSON text without spare blanks, or Invalid."""
    try:
        text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    except (ValueError, TypeError, RecursionError) as exc:
        raise Invalid(f"not a JSON value: {exc}") from None
    check_depth(text, value, MAX_DEPTH)
    return text


def to_value(text: str, depth: int = MAX_DEPTH) -> Any:
    """What a JSON text says, or Invalid."""
    try:
        value = _READER.decode(text)
    except (ValueError, RecursionError) as exc:
        raise Invalid(f"not JSON: {exc}") from None
    check_depth(text, value, depth)
    return value


def _number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError("a number that is not finite")
    return value


_READER: Final = json.JSONDecoder(
    object_pairs_hook=members, parse_float=_number, parse_constant=_number
)
