"""What an AMTP client is told when something is refused: a status, a code, a sentence.

    {"error": {"code", "message", "details"?, "timestamp", "request_id"}}

Whoever refuses raises a Failure; the service writes it down (service.py).
"""

from collections.abc import Mapping
from typing import Any

from ampd.model.errors import Refused


class Failure(Refused):
    """An answer that is an error; `word` is the code that the protocol names (section 13)."""

    def __init__(
        self,
        status: int,
        word: str,
        message: str,
        *,
        details: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        members: Mapping[str, Any] | None = None,
    ) -> None:
        """`members` stand beside `error` in the body: a send that failed for everybody."""
        super().__init__(message)
        self.status = status
        self.word = word
        self.details = dict(details or {})
        self.headers = dict(headers or {})
        self.members = dict(members or {})
