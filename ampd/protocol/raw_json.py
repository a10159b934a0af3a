"""JSON whose numbers keep the form in which they were written.

AMP signs the text of a payload as `jq` prints it, and receivers hash that text again; AMTP promises
to carry any JSON. So what passes through is never parsed into floats and printed anew: numbers are
tokens here (`1E+5`, `0.10`, `-0`), and come out as they came in.

  J1  parse() and write() give back the same values, in the same order, with the same number tokens.
  J2  Refused are names that stand twice in one object, lone surrogates, NaN, infinities and numbers
      that no reader can hold, and nesting deeper than MAX_DEPTH (I-JSON, RFC 7493): two readers
      could not agree on them.
  J3  write() is compact, and escapes what `jq` escapes and nothing else: quotation mark, backslash,
      U+0000 to U+001F (with the short forms of RFC 8259, section 7) and U+007F.
  J4  A Raw is spliced in as it is: whoever makes one has it from write() or proved it by parse().

Not here: what the values mean.
"""

import json
import math
from json.encoder import encode_basestring, encode_basestring_ascii
from typing import Any, Final, NoReturn, cast

from ampd.model.errors import Invalid

MAX_DEPTH: Final = 100  # Python's own reader gives up near 1000, and sooner when called deep down
_MAX_DIGITS: Final = 400  # more than any float has
_MOST_DIGITS: Final = 4300  # of an integer: there int() itself gives up
_WORDS: Final = {None: "null", True: "true", False: "false"}


class Number(str):
    """A number, as the token that was read."""

    __slots__ = ()


class Raw(str):
    """A JSON text, to be spliced in as it is (J4)."""

    __slots__ = ()


def members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object's members; ValueError if a name stands twice (J2)."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name stands twice in one object")
    return found


def _no_number(word: str) -> NoReturn:
    raise ValueError(f"{word} is no number of JSON")


def _whole(token: str) -> Number:
    if len(token) > _MOST_DIGITS:
        raise ValueError("a number that nobody can hold")
    return Number(token)


def _fraction(token: str) -> Number:
    if math.isinf(float(token)):
        raise ValueError("a number that is not finite")
    return Number(token)


_READER: Final = json.JSONDecoder(
    object_pairs_hook=members, parse_int=_whole, parse_float=_fraction, parse_constant=_no_number
)

# A tree of None, bool, str, Number, lists and dicts; for write() also Raw, int and float.
Value = Any


def parse(text: str | bytes, depth: int = MAX_DEPTH) -> Value:
    """The values of a JSON text, or Invalid (J2)."""
    try:
        words = text.decode("utf-8") if isinstance(text, bytes) else text
        value = _READER.decode(words)
        if "\\u" in words:
            _texts(value).encode("utf-8")
    except (ValueError, RecursionError) as exc:
        raise Invalid(f"not JSON: {exc}") from None
    check_depth(words, value, depth)
    return value


def write(
    value: Value, *, sort: bool = False, ascii_only: bool = False, del_as_is: bool = False
) -> str:
    """One compact JSON text (J3); `sort` orders the names of every object by code point.

    `ascii_only` escapes everything beyond ASCII, as Python's own writer does; `del_as_is` leaves
    U+007F alone, as JavaScript's does.
    """
    found: list[str] = []
    text = _ascii if ascii_only else encode_basestring if del_as_is else _jq
    _write(value, sort, text, found)
    return "".join(found)


def plain(value: Value) -> Any:
    """The same with ints and floats for numbers, for whoever needs their meaning only.

    Invalid for a number that is larger than any float.
    """
    match value:
        case Number():
            whole = not set(value) & set(".eE") and len(value) <= _MAX_DIGITS
            number = int(value) if whole else float(value)
            if isinstance(number, float) and math.isinf(number):
                raise Invalid(f"{value[:20]} is a number that nobody can hold")
            return number
        case dict():
            return {name: plain(each) for name, each in value.items()}
        case list():
            return [plain(each) for each in value]
        case _:
            return value


def _write(value: Value, sort: bool, text: Any, found: list[str]) -> None:  # noqa: FBT001
    if type(value) is str:  # as most are
        found.append(text(value))
        return
    if isinstance(value, dict):  # a `match` would look for all other kinds first
        mark = "{"
        for name in sorted(value) if sort else value:
            found.append(f"{mark}{text(name)}:")
            _write(value[name], sort, text, found)
            mark = ","
        found.append("}" if value else "{}")
        return
    match value:
        case Raw() | Number():
            found.append(str(value))
        case str():
            found.append(text(value))
        case list() | tuple():
            for place, each in enumerate(value):
                found.append("," if place else "[")
                _write(each, sort, text, found)
            found.append("]" if value else "[]")
        case None | bool():
            found.append(_WORDS[value])
        case int() | float():
            found.append(json.dumps(value, allow_nan=False))
        case _:
            raise TypeError(f"{type(value).__name__} is no JSON")


def _jq(text: str) -> str:
    return encode_basestring(text).replace("\x7f", "\\u007f")


def _ascii(text: str) -> str:
    return encode_basestring_ascii(text)


def _texts(value: Value) -> str:
    """All texts of a tree, to see whether they can be encoded."""
    found, left = [], [value]
    while left:
        each = left.pop()
        if isinstance(each, str):
            found.append(each)
        elif isinstance(each, dict):
            found.extend(each)
            left.extend(each.values())
        elif isinstance(each, list):
            left.extend(each)
    return "".join(found)


def check_depth(text: str, value: Value, depth: int = MAX_DEPTH) -> None:
    """Invalid if the value that `text` says is nested deeper than `depth` (J2)."""
    if text.count("[") + text.count("{") <= depth:
        return
    level = [value]
    for _ in range(depth + 1):
        level = [each for each in level if isinstance(each, dict | list)]
        if not level:
            return
        level = [
            item
            for each in level
            for item in (each.values() if isinstance(each, dict) else cast("list[Any]", each))
        ]
    raise Invalid(f"JSON that is nested deeper than {depth}")
