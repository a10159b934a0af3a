"""The conditions of a conditional coordination: text, read once, and asked of replies.

AMTP 1.0 (section 7.1.3) shows one as prose and leaves the grammar open; its first implementation
compares members. Understood are:

    ADDRESS responds with KEY=VALUE     of the reply of one participant
    KEY == VALUE                        of any reply
    anything else                       a text that any reply contains

  B1  KEY is a member of the payload; `a.b` is a member of a member.
  B2  VALUE is compared with a text as it stands, with `true`, `false`, `null` and numbers by what
      they mean; in quotation marks it is a text and nothing else.
  B3  A reply that reports a failure meets no condition.

Not here: what follows from a condition (coordination.py).
"""

import re
from collections.abc import Sequence
from typing import Any, Final

from ampd.model.errors import Invalid
from ampd.model.values import value
from ampd.protocol import raw_json

_LONGEST: Final = 1000  # characters: a sentence, not a program
_KEY: Final = r"[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*"
_PROSE: Final = re.compile(rf"(\S+@\S+)\s+responds\s+with\s+({_KEY})\s*==?\s*(.+)")
_EQUAL: Final = re.compile(rf"({_KEY})\s*==\s*(.+)")
_NOTHING: Final = object()  # what a payload without the member has, and no VALUE is


@value
class Reply:
    """What a participant answered: a JSON text, and whether it says that it failed."""

    sender: str
    payload: str
    failed: bool = False


@value
class Condition:
    """What is asked: of whom ("" of any), of which member ("" of the whole text), which value."""

    sender: str
    key: str
    value: str

    def met_by(self, replies: Sequence[Reply]) -> bool:
        """Whether one of these replies meets it (B1-B3)."""
        return any(self._holds(reply) for reply in replies if not reply.failed)

    def _holds(self, reply: Reply) -> bool:
        if self.sender and reply.sender.lower() != self.sender:
            return False
        if not self.key:
            return self.value in reply.payload
        found = raw_json.parse(reply.payload)
        for name in self.key.split("."):
            found = found.get(name, _NOTHING) if isinstance(found, dict) else _NOTHING
        return _same(found, self.value)


def condition_of(text: str) -> Condition:
    """The condition that a text writes down. Raises Invalid."""
    text = text.strip()
    if not 0 < len(text) <= _LONGEST:
        raise Invalid(f"a condition has 1 to {_LONGEST} characters")
    if found := _PROSE.fullmatch(text):
        return Condition(found[1].lower(), found[2], found[3].strip())
    if found := _EQUAL.fullmatch(text):
        return Condition("", found[1], found[2].strip())
    return Condition("", "", text)


def _same(found: Any, wanted: str) -> bool:
    if len(wanted) > 1 and wanted[0] in "\"'" and wanted[-1] == wanted[0]:
        return isinstance(found, str) and not _number(found) and found == wanted[1:-1]
    if found is _NOTHING or isinstance(found, dict | list):
        return False
    if _number(found):
        try:
            return float(found) == float(wanted)
        except ValueError:
            return False
    if isinstance(found, str):
        return found == wanted
    return raw_json.write(found) == wanted


def _number(found: Any) -> bool:
    return isinstance(found, raw_json.Number)
