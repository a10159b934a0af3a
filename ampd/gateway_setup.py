"""The gateway from its settings: what it needs, where it listens, what it is given.

  GS1  Nothing that speaks HTTP is imported unless gateway.listen is set: a daemon without a gateway
       starts as fast and takes as little memory as before.
  GS2  What keeps the gateway from starting ends the daemon's start, with the command or the setting
       that mends it: packages that are not installed, TLS files, a port that is taken.
       It names the place where that setting was said. `check` says so without making anything.
  GS3  When it is cancelled, what is being answered is finished before its memory is closed.
  GS4  That strangers on the network may become agents of this node is said in the log.

Not here: what the gateway does (edge/gateway.py).
"""

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Final

import trio

from ampd.clock import wall_clock
from ampd.config import Config
from ampd.crypto.keyfiles import make_folder
from ampd.edge.gateway_values import GatewayValues, Shared
from ampd.edge.lasting import lasting
from ampd.edge.methods import Rooms
from ampd.edge.open_files import raise_limit
from ampd.edge.peer_sockets import check_listen
from ampd.model.errors import Invalid
from ampd.model.values import value
from ampd.settings import Endpoint
from ampd.storage.registry import Registry

if TYPE_CHECKING:
    import ssl

log = logging.getLogger("ampd.gateway")

PROTOCOLS: Final = ("amp", "amtp")
_SWEEP_EVERY: Final = 3600.0  # seconds: what has expired is not shown anyway


@value
class Opened:
    """Where a running gateway is."""

    url: str
    listen: str
    admin_keys: Path

    def document(self) -> dict[str, str]:
        """For the `status` document."""
        return {"listen": self.listen, "url": self.url, "admin_keys": str(self.admin_keys)}


def check(config: Config) -> None:
    """Whether a gateway could start with these settings, ports aside; else what it would end with.

    Raises Invalid (GS2).
    """
    if config.gateway.listen is not None:
        _encryption(config, config.gateway.listen)


async def serve(
    config: Config,
    rooms: Rooms,
    task_status: trio.TaskStatus[Opened] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve until cancelled; started once it listens."""
    endpoint, foreign, abroad = config.gateway.listen, rooms.foreign, rooms.abroad
    if endpoint is None or foreign is None or abroad is None:
        raise LookupError("the daemon asks only with all rooms, and where to listen")
    raise_limit()
    bound, tls = _bound(config, endpoint)
    with bound:
        from ampd.edge.gateway import Gateway
        from ampd.edge.http.client import HttpClient
        from ampd.edge.http.dns import Dns

        values = values_of(config, bound.getsockname()[1], tls=tls is not None)
        warn_of_open_doors(values)
        make_folder(values.state)
        registry = Registry(config.paths.data / "gateway.db", wall_clock)
        dns = Dns(values.dns)
        client = HttpClient(dns, values.webhook_hosts)
        try:
            gateway = Gateway(Shared(values, rooms, registry, foreign, client, dns, wall_clock))
            abroad.use(gateway, PROTOCOLS)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(lasting, "sweeping", partial(_sweep, registry))
                await nursery.start(gateway.run, bound)
                task_status.started(Opened(values.base, _text(values.listen), values.admin_keys))
        finally:
            registry.close()
            with trio.move_on_after(0.1, shield=True):
                await client.aclose()


def warn_of_open_doors(values: GatewayValues) -> None:
    """GS4."""
    reached = not values.listen[0].startswith("127.") and values.listen[0] != "::1"
    if reached and values.registration == "open":
        log.warning(
            "whoever reaches the gateway may register an agent of this node, and an agent of this"
            " node is trusted by the others",
            extra={"listen": _text(values.listen), "hint": 'gateway.registration = "invite"'},
        )


def values_of(config: Config, port: int, *, tls: bool) -> GatewayValues:
    """What the services are given of the settings, now that it is known which port it is."""
    section, data = config.gateway, config.paths.data
    host = section.listen[0] if section.listen else ""
    return GatewayValues(
        listen=(host, port),
        base=f"{'https' if tls else 'http'}://{_reached_at(config, host, port)}",
        amp_domain=section.amp_domain,
        amtp_domain=section.amtp_domain,
        node_domain=config.node.domain,
        admin_keys=section.admin_keys or data / "keys" / "admin.keys",
        resolve=section.resolve,
        certificate=section.certificate,
        key=section.key,
        plain_http=section.plain_http,
        hosts=section.hosts,
        webhook_hosts=section.webhook_hosts,
        dns=section.dns,
        limits=section.limits,
        registration=section.registration,
        tenants=section.tenants,
        federation=section.federation,
        federation_allow=section.federation_allow,
        amp_signatures=section.amp_signatures,
        mesh=section.mesh,
        amtp_auth=section.amtp_auth,
        amtp_signatures=section.amtp_signatures,
        amtp_signing_key=section.amtp_signing_key,
        amtp_selector=section.amtp_selector,
        mirror=section.mirror,
        state=data / "gateway",
        message_bytes=config.limits.message_bytes,
    )


def _reached_at(config: Config, host: str, port: int) -> str:
    """The authority by which others reach it: the first of gateway.hosts, else what is known."""
    if config.gateway.hosts:
        first = config.gateway.hosts[0]
        return first if first.rpartition(":")[2].isdecimal() else f"{first}:{port}"
    everywhere = host in ("0.0.0.0", "::")  # noqa: S104 - compared, not bound
    return _text((config.node.domain if everywhere else host, port))


def _text(endpoint: Endpoint) -> str:
    host, port = endpoint
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _bound(config: Config, endpoint: Endpoint) -> "tuple[socket.socket, ssl.SSLContext | None]":
    """A listening socket and what encrypts it, or why there cannot be one (GS2)."""
    tls = _encryption(config, endpoint)
    from ampd.edge.http.server import bind

    check_listen(endpoint, config.place("gateway", "listen"))
    return bind(endpoint), tls


def _encryption(config: Config, endpoint: Endpoint) -> "ssl.SSLContext | None":
    """The TLS of a gateway whose settings, files and packages fit. Raises Invalid (GS2)."""
    try:
        import_module("ampd.edge.gateway")
        from ampd.edge.amtp.transport import signer_of
        from ampd.edge.gateway_app import tls_context
    except ModuleNotFoundError as exc:
        if (exc.name or "ampd").partition(".")[0] == "ampd":
            raise
        raise Invalid(
            f"the gateway needs packages that are not installed ({exc.name})",
            hint="pip install 'ampd-node[gateway]'",
        ) from None
    section, values = config.gateway, values_of(config, endpoint[1], tls=False)
    files = "certificate" if section.certificate else "key" if section.key else "listen"
    with _said_at(config, files):
        tls = tls_context(values)
    with _said_at(config, "amtp_signing_key"):
        signer_of(values)
    with _said_at(config, "admin_keys"):
        _check_admin_keys(values.admin_keys, chosen=section.admin_keys is not None)
    return tls


@contextmanager
def _said_at(config: Config, key: str) -> Iterator[None]:
    """An error in here is of this setting, and begins with its place."""
    try:
        yield
    except Invalid as exc:
        raise Invalid(f"{config.place('gateway', key)}: {exc}", hint=exc.hint) from None


def _check_admin_keys(path: Path, *, chosen: bool) -> None:
    """The file can be read, or made where it was chosen to lie."""
    try:
        with path.open("rb"):
            return
    except FileNotFoundError:
        if not chosen or (path.parent.is_dir() and os.access(path.parent, os.W_OK | os.X_OK)):
            return  # edge/amtp/admin_keys.py makes it, in a folder of ours if none was chosen
        why = "is not there, and cannot be made"
    except OSError as exc:
        why = f"cannot be read: {exc.strerror}"
    raise Invalid(f"the file of admin keys {path} {why}", hint=f"ls -ld {path.parent} {path}")


async def _sweep(registry: Registry) -> None:
    while True:
        await registry.sweep()
        await trio.sleep(_SWEEP_EVERY)
