"""What AMP's API answers when it does not do what was asked (section 08, "Error Responses").

    {"error": CODE, "message": TEXT, "field"?: NAME, "details"?: {...}, ...}

A Fault is a refusal that knows its own code and status; `fault_of` turns any other error of ours
into one. The bash clients read `error` and `message` only, so both are always there.
"""

from collections.abc import Mapping
from typing import Any, Final

from ampd.model.errors import AmpdError, Refused, Unavailable, in_one_line

_CODES: Final = {
    400: "invalid", 401: "forbidden", 403: "forbidden", 404: "message_unknown", 409: "conflict",
    410: "expired", 413: "too_large", 429: "rate_limited", 507: "quota_exceeded",
}  # fmt: skip

# code of an AmpdError -> status and code of AMP, section 08
_ANSWERS: Final = {
    "invalid": (400, "invalid_request"),
    "json": (400, "invalid_request"),
    "ambiguous": (400, "invalid_request"),
    "expired": (400, "message_expired"),
    "unauthorized": (401, "unauthorized"),
    "forbidden": (403, "forbidden"),
    "blocked": (403, "forbidden"),
    "forged": (403, "signature_invalid"),
    "key_changed": (403, "key_mismatch"),
    "no_route": (404, "not_found"),
    "agent_unknown": (404, "not_found"),
    "recipient_unknown": (404, "not_found"),
    "message_unknown": (404, "not_found"),
    "contact_unknown": (404, "not_found"),
    "conflict": (409, "conflict"),
    "too_large": (413, "payload_too_large"),
    "rate_limited": (429, "rate_limited"),
    "quota_exceeded": (507, "quota_exceeded"),
    "timeout": (504, "timeout"),
}


class Fault(Refused):
    """A refusal in AMP's words. `more` are members of the answer beside the usual ones."""

    def __init__(
        self,
        error: str,
        status: int,
        message: str,
        *,
        field: str = "",
        details: Mapping[str, Any] | None = None,
        more: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message, code=_CODES.get(status, "invalid"))
        self.error = error
        self.status = status
        self.field = field
        self.details = details
        self.more = more or {}
        self.headers = headers or {}

    def document(self) -> dict[str, Any]:
        """The body of the answer."""
        found: dict[str, Any] = {"error": self.error, "message": str(self)}
        if self.field:
            found["field"] = self.field
        if self.details is not None:
            found["details"] = dict(self.details)
        return found | dict(self.more)


def missing(field: str) -> Fault:
    """A required field is not there."""
    return Fault("missing_field", 400, f"{field} is missing", field=field)


def invalid(field: str, message: str) -> Fault:
    """A field breaks a rule."""
    return Fault("invalid_field", 400, message, field=field)


def too_large(field: str, message: str) -> Fault:
    """Something is over a limit of section 04."""
    return Fault("payload_too_large", 413, message, field=field)


def unauthorized(message: str) -> Fault:
    """No key, or one that is not valid."""
    return Fault("unauthorized", 401, message, headers={"WWW-Authenticate": "Bearer"})


def forbidden(message: str) -> Fault:
    """A key that may not do this."""
    return Fault("forbidden", 403, message)


def not_found(message: str) -> Fault:
    """No such agent or message."""
    return Fault("not_found", 404, message)


def fault_of(exc: AmpdError) -> Fault:
    """Any error of ours in AMP's words."""
    if isinstance(exc, Fault):
        return exc
    text = in_one_line(str(exc), exc.hint)
    if isinstance(exc, Unavailable):
        return Fault("unavailable", 503, text, headers={"Retry-After": "5"})
    if not isinstance(exc, Refused):
        return Fault("internal_error", 500, text)
    status, error = _ANSWERS.get(exc.code, (403, "forbidden"))
    return Fault(error, status, text, headers=getattr(exc, "headers", None))
