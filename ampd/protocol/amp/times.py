"""Times as AMP writes them: RFC 3339, in UTC where we write them."""

import calendar
import re
from typing import Final

from ampd.model.errors import Invalid

_FORM: Final = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)[Tt ](\d\d):(\d\d):(\d\d)(?:\.(\d{1,9}))?(?:[Zz]|([+-])(\d\d):?(\d\d))",
    re.ASCII,
)


def milliseconds(text: str) -> int:
    """The moment that `text` names, in milliseconds since 1970, or Invalid."""
    found = _FORM.fullmatch(text)
    if found is None:
        raise Invalid(f"{text[:40]!r} is no time", hint="write it as 2026-01-31T12:00:00Z")
    year, month, day, hour, minute, second = (int(found[place]) for place in range(1, 7))
    fits = year >= 1970 and 1 <= month <= 12 and 1 <= day <= calendar.monthrange(year, month)[1]
    if not fits or hour > 23 or minute > 59 or second > 60:
        raise Invalid(f"{text[:40]!r} is in no calendar")
    offset = (int(found[9]) * 60 + int(found[10])) * 60 if found[8] else 0
    seconds = calendar.timegm((year, month, day, hour, minute, second, 0, 0, 0))
    seconds -= -offset if found[8] == "-" else offset
    return max(0, seconds * 1000 + int((found[7] or "0").ljust(3, "0")[:3]))
