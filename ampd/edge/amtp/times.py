"""Times as AMTP writes them (RFC 3339), and as this node keeps them (milliseconds since 1970)."""

import re
from datetime import datetime

from ampd.edge.documents import time_text

__all__ = ["parse_time", "time_text"]

# What the Python SDK's reader takes too; it cuts a longer fraction only before an offset with +.
_FORM = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?(Z|[+-]\d\d:\d\d)", re.ASCII)


def parse_time(text: str) -> int | None:
    """The milliseconds of an RFC 3339 time; None if it is none, or one that no calendar has."""
    cut = re.sub(r"(\.\d{6})\d+", r"\1", text.strip().upper())
    if not _FORM.fullmatch(cut):
        return None
    try:
        return int(datetime.fromisoformat(cut).timestamp() * 1000)
    except (ValueError, OverflowError):
        return None


def as_sent(text: str, now: int) -> str:
    """The time a client gave, if every client can read it; else now (AMTP 1.0, section 4.2.2)."""
    milliseconds = parse_time(text)
    if milliseconds is None:
        return time_text(now) or ""
    return text if _FORM.fullmatch(text) else (time_text(milliseconds) or "")
