"""What can go wrong, as one tree sorted by what the caller must do.

    AmpdError
    ├── Refused               understood, and the answer is no: do not retry
    │   ├── Invalid           the input breaks a rule; `hint` says which is expected
    │   └── StaleKey          sealed to a key that is gone; carries the newer card
    ├── Unavailable           not now: offer it again later
    │   └── StorageError      the disk broke its promise, or is full
    └── ProtocolError
        ├── LocalProtocolError    our own bug
        └── RemoteProtocolError   the peer's fault: close the session

Every error carries `code`, one of CODES: the word that the socket's `data.code`,
the exit code of `amp` and the refusal of a peer session are made of. Its text
says what happened and why; `hint` is the command or setting that mends it, when
there is one. No code reads an error's text to decide.
"""

from typing import Final

# code -> exit code of `amp` (interface contract: 1 failed, 2 usage, 3 no such thing,
# 4 no daemon, 5 refused, 6 timed out)
CODES: Final = {
    "agent_unknown": 3,
    "recipient_unknown": 3,
    "message_unknown": 3,
    "contact_unknown": 3,
    "ambiguous": 3,
    "forbidden": 5,
    "blocked": 5,
    "invalid": 2,
    "too_large": 5,
    "rate_limited": 5,
    "quota_exceeded": 5,
    "expired": 5,
    "conflict": 5,
    "unavailable": 1,
    "timeout": 6,
    # between nodes only
    "stale_key": 5,
    "key_changed": 5,
    "forged": 5,
}


# What a hint begins with where it can be typed as it stands.
_PROGRAMS: Final = frozenset(
    ("amp", "ampd", "chmod", "df", "env", "journalctl", "kill", "ls", "pip", "rm", "systemctl")
)


def in_one_line(what: str, hint: str) -> str:
    """An error and what mends it: `WHAT; try: COMMAND`, or `WHAT; SENTENCE`."""
    if not hint:
        return what
    is_command = hint.startswith("-") or hint.partition(" ")[0] in _PROGRAMS
    return f"{what}; try: {hint}" if is_command else f"{what}; {hint}"


class AmpdError(Exception):
    """Something went wrong that a caller may have to know."""

    code = "unavailable"

    def __init__(self, message: str, *, hint: str = "", code: str = "") -> None:
        super().__init__(message)
        self.hint = hint
        if code:
            self.code = code


class Refused(AmpdError):
    """Understood, and the answer is no: the same request will be refused again."""

    code = "forbidden"


class Invalid(Refused):
    """The input breaks a rule of the format or the interface; nothing was changed."""

    code = "invalid"


class StaleKey(Refused):
    """Sealed to an inbox key that this node no longer has; `card` is the newer signed card."""

    code = "stale_key"

    def __init__(self, message: str, card: bytes) -> None:
        super().__init__(message)
        self.card = card


class Unavailable(AmpdError):
    """Not now: the same request may be made again later."""

    code = "unavailable"


class StorageError(Unavailable):
    """What was asked for could not be made durable, and nothing of it was kept."""


class ProtocolError(AmpdError):
    """A rule of the peer protocol was broken."""

    code = "invalid"


class LocalProtocolError(ProtocolError):
    """We said what may not be said now: a bug of ours."""


class RemoteProtocolError(ProtocolError):
    """The peer said what may not be said: the session is over."""
