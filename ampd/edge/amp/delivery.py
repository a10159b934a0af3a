"""What an account asks for about how its mail reaches it (section 03): read and shown. Pure.

Not here: the connections and webhooks themselves (websocket.py, webhooks.py).
"""

from collections.abc import Mapping
from typing import Any, Final

from ampd.edge.http.addresses import MAX_URL, target_of
from ampd.model.errors import Invalid
from ampd.protocol.amp.faults import invalid
from ampd.protocol.raw_json import Value

MAX_SECRET: Final = 256
_TEXTS: Final = {"webhook_url": MAX_URL, "webhook_secret": MAX_SECRET}


def read_delivery(said: Value, before: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The settings after what was said; null takes one away. Fault 400."""
    found = dict(before or {})
    if said is None:
        return found
    if not isinstance(said, dict):
        raise invalid("delivery", "delivery must be an object")
    for name, longest in _TEXTS.items():
        if name in said:
            found[name] = _text(said[name], f"delivery.{name}", longest)
    if found.get("webhook_url"):
        _check_url(found["webhook_url"])
    if "prefer_websocket" in said:
        if not isinstance(said["prefer_websocket"], bool):
            raise invalid("delivery.prefer_websocket", "prefer_websocket is true or false")
        found["prefer_websocket"] = said["prefer_websocket"]
    return {name: value for name, value in found.items() if value is not None}


def shown_delivery(delivery: Mapping[str, Any]) -> dict[str, Any]:
    """The settings without the secret."""
    return {
        "webhook_url": delivery.get("webhook_url"),
        "prefer_websocket": bool(delivery.get("prefer_websocket", False)),
    }


def _text(value: Value, field: str, longest: int) -> str | None:
    if value is None or value == "":
        return None
    if type(value) is not str or len(value) > longest:
        raise invalid(field, f"{field} must be a text of at most {longest} characters")
    return value


def _check_url(url: str) -> None:
    """What could never be called is better refused than kept."""
    try:
        target_of(url)
    except Invalid as exc:
        raise invalid("delivery.webhook_url", f"webhook_url: {exc}") from None
