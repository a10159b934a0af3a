"""What ends a command of `amp`, and with which exit code.

  0 done  1 it failed  2 wrong usage  3 no such agent, message or contact  4 no daemon answers
  5 refused (permission, trust, limits)  6 timed out

A Failure is shown as one line: `amp: error: TEXT`, and behind it what mends it, where something
does: `; try: COMMAND`.
"""

FAILED = 1
USAGE = 2
UNKNOWN = 3
NO_DAEMON = 4
REFUSED = 5
TIMED_OUT = 6


class Failure(Exception):
    """The command did not do what was asked; `code` is the daemon's word for it, or ""."""

    def __init__(
        self, message: str, *, exit_code: int = FAILED, hint: str = "", code: str = ""
    ) -> None:
        super().__init__(message)
        self.exit_code = exit_code
        self.hint = hint
        self.code = code


class Usage(Failure):
    """The words of the command line make no command; nothing was done."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message, exit_code=USAGE, hint=hint, code="usage")


class NoDaemon(Failure):
    """Nothing answers on the socket."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message, exit_code=NO_DAEMON, hint=hint, code="no_daemon")


def from_answer(error: object) -> Failure:
    """The failure that a JSON-RPC error object means."""
    from ampd.model.errors import CODES
    from ampd.protocol.local import INVALID_PARAMS, METHOD_NOT_FOUND

    if not isinstance(error, dict):
        return Failure("the daemon answered what is not JSON-RPC", hint="amp daemon restart")
    message = str(error.get("message") or "the daemon gave no reason")
    data = error.get("data")
    data = data if isinstance(data, dict) else {}
    code, hint = str(data.get("code") or ""), str(data.get("hint") or "")
    if code:
        return Failure(message, exit_code=CODES.get(code, FAILED), hint=hint, code=code)
    if error.get("code") == METHOD_NOT_FOUND:
        return Failure(
            f"{message}: the running daemon does not know this command",
            hint=hint or "amp daemon restart",
        )
    exit_code = USAGE if error.get("code") == INVALID_PARAMS else FAILED
    return Failure(message, exit_code=exit_code, hint=hint)
