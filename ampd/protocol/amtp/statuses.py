"""How far a message got, in the words of AMTP 1.0 (sections 5.2.2 and 12.1).

  queued -> delivering -> delivered        and failed; retrying: queued after a first try

ST1  The recipient that is furthest back speaks for the message; one failure is its failure.
ST2  A send is answered with 202 if anybody took the message, with 200 if a reply came with it,
     and with 400 only if every recipient failed (sections 5.2.1 and 13).
"""

from collections.abc import Sequence
from typing import Any, Final

from ampd.model.values import value

_BACKMOST: Final = ("failed", "retrying", "queued", "delivering", "delivered")


@value
class RecipientStatus:
    """One recipient's copy; times are RFC 3339 or ""."""

    address: str
    status: str
    timestamp: str
    attempts: int = 0
    error_code: str = ""
    error_message: str = ""
    delivery_mode: str = ""  # pull or push, of agents here
    local: bool = False
    next_retry: str = ""
    delivered_at: str = ""
    acknowledged_at: str = ""

    def document(self) -> dict[str, Any]:
        """As clients read it: false and empty members are left out."""
        inbox = self.local and self.delivery_mode == "pull" and self.status == "delivered"
        maybe: dict[str, Any] = {
            "error_code": self.error_code,
            "error_message": self.error_message,
            "delivery_mode": self.delivery_mode,
            "local_delivery": self.local,
            "inbox_delivered": inbox,
            "acknowledged": bool(self.acknowledged_at),
            "acknowledged_at": self.acknowledged_at,
            "delivered_at": self.delivered_at,
            "next_retry": self.next_retry,
        }
        return {
            "address": self.address,
            "status": self.status,
            "timestamp": self.timestamp,
            "attempts": self.attempts,
            **{name: value for name, value in maybe.items() if value},
        }


def of_native(status: str, attempts: int) -> str:
    """AMTP's word for what our outbox says of a recipient."""
    match status:
        case "delivered" | "read":
            return "delivered"
        case "relayed":
            return "delivering"
        case "queued":
            return "retrying" if attempts else "queued"
        case _:
            return "failed"


def overall(recipients: Sequence[RecipientStatus]) -> str:
    """The status of the whole message (ST1); of one without recipients, that it waits."""
    return min((each.status for each in recipients), key=_BACKMOST.index, default="queued")


def http_status(recipients: Sequence[RecipientStatus], *, replied: bool = False) -> int:
    """The answer to a send (ST2)."""
    if all(each.status == "failed" for each in recipients):
        return 400
    return 200 if replied else 202
