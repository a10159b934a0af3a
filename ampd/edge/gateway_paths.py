"""Which of the two protocols a path belongs to. Pure.

Both live on one port and both have `/v1/messages`. AMTP's paths are exact; AMP's clients put `/api`
and any number of `/v1` before theirs, so AMP gets whatever is not AMTP's, without that noise.

  D1  AMTP has its own exact paths, and nothing that begins with /api or with two /v1.
  D2  Of `/v1/messages`, a POST is AMTP's, and a GET unless its token is an AMP key; of
      `/v1/messages/ID`, a GET is AMTP's unless ID is a word or an id of AMP's.
  D3  Everything else is AMP's: first one `api` falls away, then every `v1`.
"""

from collections.abc import Sequence
from typing import Final

AMP: Final = "amp"
AMTP: Final = "amtp"

_AT_THE_TOP: Final = frozenset(("health", "ready", "metrics"))
_WHOLE: Final = frozenset(
    (
        *("discovery", "capabilities", "admin", "webhooks", "workflows", "dead-letters"),
        "openapi-amtp.json",
    )
)
_WORDS_OF_AMP: Final = frozenset(("pending",))


def belongs_to(method: str, segments: Sequence[str], bearer: str) -> tuple[str, tuple[str, ...]]:
    """The protocol, and the path as its routes see it; `segments` are decoded, none is empty."""
    path = tuple(segments)
    if _is_amtp(method, path, bearer):
        return AMTP, path
    if path[:1] == ("api",):
        path = path[1:]
    while path[:1] == ("v1",):
        path = path[1:]
    return AMP, path


def _is_amtp(method: str, path: tuple[str, ...], bearer: str) -> bool:
    match path:
        case (first,):
            return first in _AT_THE_TOP
        case ("v1", first, *_) if first in _WHOLE:
            return True
        case ("v1", "messages"):
            return method == "POST" or (method == "GET" and not bearer.startswith("amp_"))
        case ("v1", "messages", word) | ("v1", "messages", word, "status"):
            amp = word in _WORDS_OF_AMP or word.startswith(("msg_", "msg-"))
            return method in ("GET", "HEAD") and not amp
        case ("v1", "inbox", address) | ("v1", "inbox", address, _):
            return "@" in address
    return False
