"""Where a bug of ours ends: the one place that catches what nobody foresaw (P8).

A mistake in one method must not end the daemon of everybody. It is logged with its traceback, and
whoever asked is told that it was ours.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from ampd.model.errors import AmpdError

log = logging.getLogger("ampd.bugs")


class BugError(AmpdError):
    """A mistake in ampd itself."""


@contextmanager
def contained(what: str) -> Iterator[None]:
    """Whatever unforeseen goes wrong inside is a BugError outside."""
    try:
        yield
    except AmpdError:
        raise
    except Exception as exc:
        log.exception("this is a bug of ampd", extra={"method": what[:80]})
        raise BugError("a bug of ampd: see its log", hint="amp daemon log") from exc
