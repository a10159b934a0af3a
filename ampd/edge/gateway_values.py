"""What the gateway's services are given: the settings as values, and the rooms they may use.

Not here: where the settings come from (daemon.py reads them from config.py); the services.
"""

from collections.abc import Callable, Mapping
from dataclasses import field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from ampd.model.values import value

if TYPE_CHECKING:
    from ampd.core.foreign import Foreign
    from ampd.edge.http.client import HttpClient
    from ampd.edge.http.dns import Dns
    from ampd.edge.methods import Rooms
    from ampd.storage.registry import Registry

_NOTHING: Mapping[str, str] = MappingProxyType({})


@value
class GatewayValues:
    """The settings of [gateway], and what belongs to them; config.toml's comments say what each is.

    The defaults are those of config.toml, so that a test names only what it is about.
    """

    listen: tuple[str, int]  # port 0: the system picks one
    amp_domain: str
    amtp_domain: str
    node_domain: str
    admin_keys: Path
    state: Path  # folder for files: attachments, keys
    base: str = "http://localhost:23000"  # own URL, without a slash at its end
    resolve: Mapping[str, str] = field(default_factory=lambda: _NOTHING)
    certificate: Path | None = None
    key: Path | None = None
    plain_http: bool = False
    hosts: tuple[str, ...] = ()
    webhook_hosts: tuple[str, ...] = ()
    dns: str = ""
    limits: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    registration: str = "open"  # or invite, owner
    tenants: tuple[str, ...] = ()
    federation: str = "allowlist"  # or open, closed
    federation_allow: tuple[str, ...] = ()
    amp_signatures: str = "strict"  # or open
    mesh: Mapping[str, str] = field(default_factory=lambda: _NOTHING)
    amtp_auth: str = "local"  # or agent
    amtp_signatures: str = "flag"  # or accept, reject
    amtp_signing_key: Path | None = None
    amtp_selector: str = "ampd"
    mirror: bool = False
    message_bytes: int = 524288


@value
class Shared:
    """What both services use."""

    values: GatewayValues
    rooms: "Rooms"
    registry: "Registry"
    foreign: "Foreign"
    http: "HttpClient"
    dns: "Dns"
    now: Callable[[], int]  # milliseconds since 1970
