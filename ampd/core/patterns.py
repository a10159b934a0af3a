"""What an injection attempt looks like: the categories of AMP appendix A as rules on words. Pure.

Not here: what is done with the answer, which is advice (core/safety.py).
"""

import re
from collections.abc import Iterable
from typing import Final

CATEGORIES: Final = (
    "command_injection",
    "data_exfiltration",
    "instruction_override",
    "role_manipulation",
    "social_engineering",
    "system_prompt_extraction",
    "tool_abuse",
    "unicode_encoding_tricks",
)

_BLANKED: Final = bytes(
    (byte | 0x20 if 65 <= byte <= 90 else byte) if chr(byte).isalnum() and byte < 128 else 32
    for byte in range(256)
)
_TRIGGERS: Final = frozenset(b"ignore disregard forget override reveal".split())
_OVERRIDE: Final = re.compile(
    rb"(?:ignore|disregard|forget|override) (?:\w+ ){0,3}(?:instructions|rules|directives|prompt)"
)


def found_in(texts: Iterable[str]) -> tuple[str, ...]:
    """The sorted categories found in any of `texts`."""
    found: set[str] = set()
    for text in texts:
        words = text.encode("ascii", "ignore").translate(_BLANKED).split()
        if not _TRIGGERS.isdisjoint(words) and _OVERRIDE.search(b" ".join(words)):
            found.add("instruction_override")
    return tuple(sorted(found))
