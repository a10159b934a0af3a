"""A process of its own that holds payloads against JSON Schemas: the only user of jsonschema.

A pattern of a schema can take for ever over the wrong payload, and nothing in Python can stop it
there. So this runs beside the daemon (schema_process.py ends it when it takes too long), one line
of JSON in, one out:

    {"definition": SCHEMA, "payload": JSON?} -> {"errors": [{"field", "message", "code"}, ...]}
                                              | {"broken": WHY}      the schema is none

  X1  Nothing is fetched: a `$ref` leads into its own document or the schema is refused.
  X2  Formats are checked: email, uri, date, date-time, time, uuid, ipv4, ipv6, regex.
  X3  At most MAX_ERRORS are told, each in at most MAX_TEXT characters.
  X4  It has no more memory than MEMORY, so that it cannot take the machine's.
"""

import json
import re
import resource
import sys
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any, Final
from urllib.parse import urlsplit

import jsonschema
import referencing
import referencing.exceptions
from jsonschema.validators import Draft202012Validator, validator_for

MAX_ERRORS: Final = 50  # who writes a client reads the first few
MAX_TEXT: Final = 300  # characters
MEMORY: Final = 512 << 20  # bytes of address space: Python and jsonschema take 100 MiB of it
_REFS: Final = ("$ref", "$dynamicRef", "$recursiveRef")
_INSTANT: Final = re.compile(
    r"(\d{4}-\d\d-\d\d)[Tt ](\d\d:\d\d:\d\d)(\.\d+)?([Zz]|[+-]\d\d:\d\d)", re.ASCII
)

formats = jsonschema.FormatChecker(("email", "date", "time", "uuid", "ipv4", "ipv6", "regex"))


def _is_instant(value: object) -> bool:
    """RFC 3339, section 5.6; a leap second is one."""
    if not isinstance(value, str):
        return True
    found = _INSTANT.fullmatch(value)
    if found is None:
        return False
    zone = "+00:00" if found[4] in "Zz" else found[4]
    return _reads(lambda: datetime.fromisoformat(f"{found[1]}T{_no_leap(found[2])}{zone}"))


def _is_time(value: object) -> bool:
    return not isinstance(value, str) or _is_instant(f"2000-01-01T{value}")


def _is_uri(value: object) -> bool:
    """RFC 3986: a scheme and something behind it, and none of the characters it has not."""
    if not isinstance(value, str):
        return True
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9+.-]*:[!#$%&'()*+,/:;=?@\[\]A-Za-z0-9._~-]+", value):
        return False
    return _reads(lambda: urlsplit(value).port)


def _no_leap(time: str) -> str:
    return time[:6] + "59" if time.endswith(":60") else time


def _reads(read: Callable[[], object]) -> bool:
    try:
        read()
    except ValueError:
        return False
    return True


for _name, _check in (("date-time", _is_instant), ("time", _is_time), ("uri", _is_uri)):
    formats.checks(_name)(_check)


def answer(question: dict[str, Any]) -> dict[str, Any]:
    """What one line asks."""
    definition = question["definition"]
    try:
        for reference in _references(definition):
            if not reference.startswith("#"):  # X1
                return {"broken": f"{reference[:MAX_TEXT]!r} leads out of the schema"}
        kind = validator_for(definition, default=Draft202012Validator)
        kind.check_schema(definition)
        if "payload" not in question:
            return {"errors": []}
        # an empty registry: nothing can be fetched (X1)
        validator = kind(definition, registry=referencing.Registry(), format_checker=formats)
        return {"errors": list(_told(validator.iter_errors(question["payload"])))}
    except jsonschema.SchemaError as exc:
        return {"broken": f"{exc.json_path}: {exc.message}"[:MAX_TEXT]}
    except (referencing.exceptions.Unresolvable, re.error, RecursionError) as exc:
        return {"broken": f"{type(exc).__name__}: {exc}"[:MAX_TEXT]}
    except MemoryError:
        return {"broken": "it takes too much memory"}


def _references(value: Any) -> Iterator[str]:
    left = [value]
    while left:
        each = left.pop()
        if isinstance(each, dict):
            yield from (each[name] for name in _REFS if isinstance(each.get(name), str))
            left.extend(each.values())
        elif isinstance(each, list):
            left.extend(each)


def _told(errors: Iterator[jsonschema.ValidationError]) -> Iterator[dict[str, str]]:
    for error, _ in zip(errors, range(MAX_ERRORS), strict=False):
        yield {
            "field": error.json_path.removeprefix("$").removeprefix(".")[:MAX_TEXT],
            "message": error.message[:MAX_TEXT],
            "code": str(error.validator),
        }


def main() -> None:
    """Answer until the daemon closes the pipe."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    for line in sys.stdin.buffer:
        try:
            said = answer(json.loads(line))
        except ValueError as exc:  # an int() of more digits than Python reads
            said = {"broken": str(exc)[:MAX_TEXT]}
        print(json.dumps(said), flush=True)  # noqa: T201 - this is the pipe


if __name__ == "__main__":
    main()
