"""JSON text without the price of `import json`.

The standard library's `json` is a thin layer over the C module `_json`, but importing it compiles
regular expressions and doubles the CPU time of a short command. These two functions use the C
parts directly; where an interpreter has none, they are `json` itself, late.

What both promise: the text is ASCII and compact, NaN and infinities are refused in both
directions, and every failure is a ValueError. tests/cli/test_json_text.py holds them to `json`.
"""

from _collections_abc import Callable  # `collections.abc` would import all of `collections`


def _refuse(value: object) -> object:
    raise ValueError(f"{value!r} is no JSON value")


class _Rules:
    """What `_json.make_scanner` reads its settings from."""

    strict = True
    object_hook = None
    object_pairs_hook = None
    parse_float = float
    parse_int = int
    parse_constant = staticmethod(_refuse)


def _from_c() -> tuple[Callable[[object], str], Callable[[str], object]]:
    from _json import encode_basestring_ascii, make_encoder, make_scanner

    encode = make_encoder(
        None, _refuse, encode_basestring_ascii, None, ":", ",", False, False, False
    )
    scan = make_scanner(_Rules())  # type: ignore[arg-type]  # any object with these fields

    def dumps(value: object) -> str:
        return "".join(encode(value, 0))

    def loads(text: str) -> object:
        text = text.strip(" \t\r\n")
        try:
            value, end = scan(text, 0)
        except (StopIteration, SystemError, RecursionError):
            # The scanner cannot raise its own error while json.decoder is not imported
            # (SystemError in 3.11): let the library look again and say what is wrong.
            return _from_json()[1](text)
        if end != len(text):
            raise ValueError(f"something follows the JSON value at character {end}")
        return value

    return dumps, loads


def _from_json() -> tuple[Callable[[object], str], Callable[[str], object]]:
    import json

    def dumps(value: object) -> str:
        return json.dumps(value, separators=(",", ":"), allow_nan=False)

    def loads(text: str) -> object:
        try:
            return json.loads(text, parse_constant=_refuse)
        except RecursionError:
            raise ValueError("nested too deep") from None

    return dumps, loads


def _choose() -> tuple[Callable[[object], str], Callable[[str], object]]:
    try:
        dumps, loads = _from_c()
        dumps(loads('{"a":[1,"b"]}'))  # the C parts' signatures are nobody's promise
    except (ImportError, TypeError, AttributeError, ValueError):
        return _from_json()
    return dumps, loads


dumps, loads = _choose()
