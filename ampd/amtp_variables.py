"""The environment variables of the AMTP reference gateway (Agentry), as settings of ours.

Who moves from it has them in scripts. Each is one of three things:

  AV1  understood: it stands for a setting; an AMPD_ variable for the same setting beats it.
  AV2  without effect here: the daemon starts and its log names it, because nothing goes wrong.
  AV3  an error: what it asks for would silently not happen, or its name is nearly a known one.

The variables of AMTP's clients (AMTP_GATEWAY_URL and others) are none of our business.

Not here: whether a value is sound; the settings' own readers see to that (settings.py).
"""

import json
import os
import re
from collections.abc import Callable, Mapping
from typing import Any, Final

from ampd.model.errors import Invalid
from ampd.settings import MAX_MESSAGE

Key = tuple[str, str]  # section, key
Said = dict[Key, tuple[str, object]]  # what was said there: the variable, and its value as in TOML


def _path(text: str) -> str:
    return os.path.abspath(text) if text else ""  # noqa: PTH100 - "~" and links stay as they are


def _listen(text: str) -> str:
    """Go writes ":8080" for every address."""
    return f"0.0.0.0{text}" if text.startswith(":") else text  # noqa: S104 - as it is meant


def _bytes(text: str) -> int:
    if not text.isdecimal():
        raise Invalid("expected a number of bytes")
    return min(int(text[:12]), MAX_MESSAGE)  # more than fits is no reason not to start


def _records(text: str) -> dict[str, str]:
    """Mock records: a domain's TXT record, of which the gateway's URL counts."""
    try:
        table = json.loads(text) if text else {}
    except ValueError:
        table = None
    if not isinstance(table, dict):
        raise Invalid('expected {"DOMAIN": "v=amtp1;gateway=URL"} in JSON')
    found = {}
    for domain, record in table.items():
        url = re.search(r"(?:^|;)\s*gateway=([^;]+)", str(record))
        if url is None:
            raise Invalid(f"the record of {domain} names no gateway")
        found[domain] = url[1].strip()
    return found


def _resolver(text: str) -> str:
    first = text.partition(",")[0].strip()
    if first.count(":") > 1 and not first.startswith("["):
        first = f"[{first}]"
    return first if not first or re.search(r":[0-9]+$", first) else f"{first}:53"


def _level(text: str) -> str:
    return {"warn": "warning", "fatal": "error"}.get(text.lower(), text.lower())


def _true(text: str) -> bool:
    truths = {"true": True, "1": True, "t": True, "false": False, "0": False, "f": False}
    if text.lower() not in truths:
        raise Invalid("expected true or false")
    return truths[text.lower()]


# variable -> the setting, and how its text becomes what config.toml would have
UNDERSTOOD: Final[Mapping[str, tuple[Key, Callable[[str], Any]]]] = {
    "AMTP_SERVER_ADDRESS": (("gateway", "listen"), _listen),
    "AMTP_DOMAIN": (("gateway", "amtp_domain"), str),
    "AMTP_TLS_ENABLED": (("gateway", "plain_http"), lambda text: not _true(text)),
    "AMTP_TLS_CERT_FILE": (("gateway", "certificate"), _path),
    "AMTP_TLS_KEY_FILE": (("gateway", "key"), _path),
    "AMTP_ADMIN_KEY_FILE": (("gateway", "admin_keys"), _path),
    "AMTP_MESSAGE_MAX_SIZE": (("limits", "message_bytes"), _bytes),
    "AMTP_DNS_MOCK_RECORDS": (("gateway", "resolve"), _records),
    "AMTP_DNS_RESOLVERS": (("gateway", "dns"), _resolver),
    "AMTP_LOG_LEVEL": (("log", "level"), _level),
    "AMTP_LOG_FORMAT": (("log", "format"), str.lower),
    "AMTP_AUTH_REQUIRED": (
        ("gateway", "amtp_auth"),
        lambda text: "agent" if _true(text) else "local",
    ),
}
WITHOUT_EFFECT: Final = frozenset(
    f"AMTP_{name}"
    for name in (
        *("READ_TIMEOUT", "WRITE_TIMEOUT", "IDLE_TIMEOUT", "SERVER_READ_TIMEOUT"),
        *("SERVER_WRITE_TIMEOUT", "SERVER_IDLE_TIMEOUT", "TLS_MIN_VERSION"),
        *("DNS_CACHE_TTL", "DNS_TIMEOUT", "DNS_MOCK_MODE", "DNS_ALLOW_HTTP"),
        *("IDEMPOTENCY_TTL", "MESSAGE_IDEMPOTENCY_TTL", "MESSAGE_VALIDATION_ENABLED"),
        *("AUTH_API_KEY_HEADER", "AUTH_API_KEY_SALT", "METRICS_ENABLED"),
        *("STORAGE_TYPE", "STORAGE_DATABASE_DRIVER", "STORAGE_DATABASE_CONNECTION_STRING"),
        *("STORAGE_DATABASE_MAX_CONNECTIONS", "STORAGE_DATABASE_MAX_IDLE_TIME"),
        *("SCHEMA_REGISTRY_TYPE", "SCHEMA_REGISTRY_PATH", "SCHEMA_REGISTRY_URL"),
        *("SCHEMA_REGISTRY_AUTH_TOKEN", "SCHEMA_REGISTRY_TIMEOUT", "SCHEMA_USE_LOCAL_REGISTRY"),
    )
)
_HEADER: Final = "AMTP_ADMIN_API_KEY_HEADER"
_OF_CLIENTS: Final = frozenset(
    ("AMTP_GATEWAY_URL", "AMTP_ADMIN_KEY", "AMTP_AGENT_NAME", "AMTP_API_KEY")
)


def read(environ: Mapping[str, str]) -> tuple[Said, tuple[str, ...]]:
    """What the variables say, and the names of those without effect (AV1-AV3)."""
    said: Said = {}
    idle = []
    for variable, text in environ.items():
        if not variable.startswith("AMTP_") or variable in _OF_CLIENTS:
            continue
        if variable in UNDERSTOOD:
            key, meaning = UNDERSTOOD[variable]
            try:
                said[key] = (variable, meaning(text))
            except Invalid as exc:
                raise Invalid(f"{variable}: {exc}", hint=exc.hint) from None
        elif variable == _HEADER:
            _check_header(text)
        elif variable in WITHOUT_EFFECT:
            idle.append(variable)
        else:
            _check_name(variable)
    return said, tuple(sorted(idle))


def _check_header(text: str) -> None:
    if text.lower() not in ("", "x-admin-key"):
        raise Invalid(
            f"{_HEADER}: the admin key is read from X-Admin-Key here, not from {text[:80]!r}",
            hint=f"env -u {_HEADER} ampd",
        )


def _check_name(variable: str) -> None:
    import difflib

    known = [*UNDERSTOOD, *WITHOUT_EFFECT, _HEADER]
    close = difflib.get_close_matches(variable, known, n=1, cutoff=0.85)
    if close:
        raise Invalid(f"{variable}: there is no such setting", hint=f"did you mean {close[0]}?")
