"""Who may talk to the gateway at all: nobody's web page. Pure.

A browser on this machine reaches what listens on loopback, and it does what any page tells it to.
Agents are no browsers, so what only browsers send is refused before a service is asked.

  G1  The Host header is one of ours: the address that was reached, localhost, or a name of the
      settings. A page whose name was pointed at 127.0.0.1 sends its own name (DNS rebinding).
  G2  A request with an Origin that is not ours is refused, with every method, and a WebSocket too;
      so is what a browser fetches for a page of another site and says so (Sec-Fetch-Site).
  G3  A body that changes something is JSON by its Content-Type, which no form can send and no page
      without asking first, unless the route takes other types.
  G4  No answer has a CORS header: pages of others read nothing here.

Not here: who the caller is (the services), and how much it may send (app.py).
"""

import ipaddress
import re
from collections.abc import Iterable, Mapping
from typing import Final

from ampd.edge.http.words import HttpRefused

_ALWAYS: Final = ("localhost", "127.0.0.1", "::1")
_HOST: Final = re.compile(
    r"(?:\[[0-9a-f]*:[0-9a-f:.]*\]|[a-z0-9._-]+)(?::[0-9]{1,5})?", re.IGNORECASE
)
_CHANGES: Final = frozenset(("POST", "PUT", "PATCH", "DELETE"))


def host_name(host: str) -> str:
    """The name in `HOST` or `HOST:PORT`, in lower case, without the brackets of an IPv6 address."""
    host = host.strip().lower()
    if host.startswith("["):
        return host[1:].partition("]")[0]
    if host.count(":") > 1:  # an IPv6 address without brackets, as settings may have it
        return host
    return host.partition(":")[0].removesuffix(".")


class Guard:
    """Refuses what a browser sends for a page that is not ours (G1-G3)."""

    def __init__(self, names: Iterable[str] = ()) -> None:
        """`names` may stand in the Host header beside localhost; with or without a port."""
        self._names = frozenset((*_ALWAYS, *(host_name(name) for name in names if name)))

    def check(self, headers: Mapping[str, str], *, reached: str, secure: bool) -> None:
        """HttpRefused unless G1 and G2 hold; `reached` is the address that the caller dialled."""
        host = headers.get("host", "")
        name = host_name(host) if _HOST.fullmatch(host) else ""
        if not (name in self._names or _same_address(name, reached)):
            raise HttpRefused(
                "this gateway does not go by the name in the Host header",
                code="misdirected",
                hint="add the name to gateway.hosts if it is this machine's",
            )
        scheme = "https" if secure else "http"
        origin = headers.get("origin")
        if origin is not None and origin.lower() != f"{scheme}://{host.lower()}":
            raise _foreign()
        site = headers.get("sec-fetch-site", "none")
        if site in ("none", "same-origin"):
            return
        if headers.get("sec-fetch-mode") != "navigate":  # a link that a person followed is no harm
            raise _foreign()


def check_type(method: str, headers: Mapping[str, str]) -> None:
    """HttpRefused unless a body that came with this method says that it is JSON (G3)."""
    if method not in _CHANGES:
        return
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "application/json" or (kind.startswith("application/") and kind.endswith("+json")):
        return
    raise HttpRefused(
        "the body's Content-Type is not application/json",
        code="media_type",
        hint="send the header Content-Type: application/json",
    )


def _foreign() -> HttpRefused:
    return HttpRefused("requests from web pages are not answered", code="foreign_origin")


def _same_address(name: str, reached: str) -> bool:
    try:
        return ipaddress.ip_address(name) == ipaddress.ip_address(reached)
    except ValueError:
        return False
