"""`ampd relay`: the same program with other rooms lit.

    keys > relay store > relay door > peer sessions > metrics

A relay keeps its key in `keys/relay.key` of its home, and nothing else but what its store keeps. It
listens and never calls; several relays may share one NATS JetStream cluster. A home runs one relay
at a time (`relay.lock`): another process's deposits would wake nobody here.

SIGTERM and SIGINT end it: what was begun is answered first, what was answered is in the store.
SIGHUP reads the file of members again.
"""

import argparse
import fcntl
import logging
import os
import random
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import trio

from ampd import config, logs
from ampd.clock import wall_clock
from ampd.core.relay import Allowance, RelayDoor
from ampd.core.relay_directory import CardBook
from ampd.core.whereabouts import Endpoint, Whereabouts
from ampd.crypto.keyfiles import make_folder, node_key, remove_leftovers
from ampd.crypto.keys import SigningKey, random_bytes
from ampd.edge.metrics import Metrics
from ampd.edge.peer_budget import Limits as SessionLimits
from ampd.edge.peer_sockets import CannotListenError, check_listen, endpoint_text
from ampd.edge.peer_state import LocalNode
from ampd.edge.peer_tcp import PeerTcp
from ampd.model.address import NodeUri, RelayUri, key_from_text
from ampd.model.card import MAX_CARD
from ampd.model.errors import Invalid, Unavailable
from ampd.model.message import digest
from ampd.settings import MAX_MESSAGE, read_address
from ampd.storage.relay_store.port import Limits, RelayStore
from ampd.storage.relay_store.sqlite import SqliteRelayStore
from ampd.systemd import Manager

DEFAULT_LISTEN: Final = "0.0.0.0:4161"
SESSIONS: Final = SessionLimits(4096, 4096, each=1024)  # an office has one address
LARGEST: Final = 2 * (MAX_MESSAGE + MAX_CARD)  # a letter, sealed and padded
COUNT_EVERY: Final = 5.0  # seconds; `messages_held` of the metrics is as old as this
INVITED_FOR: Final = 7 * 86_400_000  # milliseconds

_WHAT: Final = """\
Keep sealed mail for nodes that are away, until they collect it. Without --open
or --members, only nodes with an invitation may use it."""
_EXAMPLES: Final = """\
examples:
  ampd relay --listen relay.example:4161          serve
  ampd relay --listen relay.example:4161 invite   let one more node in; its user
                                                  gives the URI to `amp relay add`
  ampd relay --count                              how many messages wait"""

log = logging.getLogger("ampd.relay")


@dataclass(frozen=True, slots=True)
class RelaySettings:
    """What the command line of `ampd relay` said, checked."""

    paths: config.Paths
    listen: tuple[str, int]
    store: str
    members: Path | None
    everybody: bool
    metrics: tuple[str, int] | None
    store_key: Path | None = None  # what cards are sealed to in the store, instead of our own key

    def directory_key(self, own: SigningKey) -> SigningKey | None:
        """What the store's cards are sealed to (relay_directory.py); None: they lie in clear."""
        if self.store_key is not None:
            return node_key(self.store_key)
        return own if self.store.startswith("sqlite:") else None


def parser() -> argparse.ArgumentParser:
    """The flags of `ampd relay`."""
    made = argparse.ArgumentParser(
        prog="ampd relay",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description=_WHAT,
        epilog=_EXAMPLES,
    )
    made.add_argument("action", nargs="?", choices=["invite"], help="print an invitation, and exit")
    made.add_argument("--home", metavar="DIR", help="the relay's key and store in one folder")
    made.add_argument(
        "--listen", metavar="HOST:PORT", default=DEFAULT_LISTEN,
        help=f"where it listens, and what its URI says (default {DEFAULT_LISTEN})",
    )  # fmt: skip
    made.add_argument(
        "--store", metavar="STORE", default="",
        help="sqlite:PATH (default: in the data folder) or nats://HOST:PORT,HOST:PORT",
    )  # fmt: skip
    made.add_argument(
        "--store-key", metavar="FILE",
        help="seal the directory in the store to the key in FILE, the same at every relay of a"
        " cluster; made if it is not there. With another key, the cards in the store are unknown"
        " until their nodes collect again",
    )  # fmt: skip
    made.add_argument(
        "--members", metavar="FILE",
        help="node keys that may use it, one a line; SIGHUP reads it again",
    )  # fmt: skip
    made.add_argument("--open", action="store_true", help="everybody may use it")
    made.add_argument("--metrics", metavar="HOST:PORT", help="Prometheus, /healthz, /readyz")
    made.add_argument("--uses", type=int, default=1, help="how many nodes an invitation lets in")
    made.add_argument("--show-uri", action="store_true", help="print amp://KEY@HOST:PORT, and exit")
    made.add_argument("--count", action="store_true", help="print how many messages are held")
    made.add_argument(
        "--log-level", metavar="LEVEL", default="info", help="debug, info, warning or error"
    )
    made.add_argument(
        "--log-format", metavar="FORM", default="auto", help="auto, text, journald or json"
    )
    return made


def main(arguments: list[str]) -> None:
    """Run a relay, or do the one thing that was asked for. Raises AmpdError."""
    flags = parser().parse_args(arguments)
    settings = _settings(flags)
    log_as = config.log_settings(flags.log_level, flags.log_format)
    logs.configure(log_as.level, log_as.format, os.environ, sys.stderr)
    if flags.count and not flags.show_uri:  # the one that needs no key: it makes nothing
        held = 0 if _never_ran(settings.store) else trio.run(_count, settings)
        sys.stdout.write(f"{held}\n")
        return
    keys = settings.paths.data / "keys"
    make_folder(settings.paths.data)
    make_folder(keys)
    key = node_key(keys / "relay.key")
    if flags.show_uri:
        sys.stdout.write(f"{uri_of(key, settings.listen)}\n")
    elif flags.action == "invite":
        sys.stdout.write(f"{trio.run(_invite, settings, key, flags.uses)}\n")
    else:
        with only_one(settings.paths.data):
            remove_leftovers(keys)
            trio.run(Relay(settings, key, Manager(os.environ)).run)


@contextmanager
def only_one(folder: Path) -> Iterator[None]:
    """While this relay has the folder; Unavailable if another one has it."""
    lock = os.open(folder / "relay.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Unavailable(
                f"another relay is running on {folder}", hint="give this one a --home of its own"
            ) from None
        yield
    finally:
        os.close(lock)


def _settings(flags: argparse.Namespace) -> RelaySettings:
    paths = config.find_paths(flags.home, None, os.environ)
    metrics = _endpoint(flags.metrics, "--metrics") if flags.metrics else None
    return RelaySettings(
        paths,
        _endpoint(flags.listen, "--listen"),
        flags.store or f"sqlite:{paths.data / 'relay.sqlite'}",
        Path(flags.members) if flags.members else None,
        flags.open,
        metrics,
        Path(flags.store_key) if flags.store_key else None,
    )


def _endpoint(text: str, flag: str) -> tuple[str, int]:
    try:
        return read_address(text)
    except Invalid as exc:
        raise Invalid(f"{flag}: {exc}", hint=exc.hint) from None


@asynccontextmanager
async def open_store(text: str, now: Callable[[], int]) -> AsyncIterator[RelayStore]:
    """The store that `sqlite:PATH` or `nats://HOST:PORT,...` names, running."""
    store = choose_store(text, now)
    async with trio.open_nursery() as nursery:
        await nursery.start(store.run)
        try:
            yield store
        finally:
            nursery.cancel_scope.cancel()


def choose_store(text: str, now: Callable[[], int]) -> RelayStore:
    """The store that is meant, not yet open; Invalid if it is none, or its folder is not there."""
    kind, _, place = text.partition(":")
    if kind == "sqlite" and place:
        if not (folder := Path(place).parent).is_dir():
            raise Invalid(f"--store: there is no folder {folder}", hint=f"mkdir -m 700 {folder}")
        return SqliteRelayStore(Path(place), Limits(), now)
    if kind == "nats" and place.startswith("//"):
        try:
            from ampd.storage.relay_store.jetstream import JetStreamRelayStore
        except ModuleNotFoundError as exc:
            if (exc.name or "").partition(".")[0] != "nats":
                raise
            why = "--store nats://... needs the package nats-py"
            raise Invalid(why, hint="pip install 'ampd-node[nats]'") from None

        servers = [f"nats://{server}" for server in place[2:].split(",")]
        return JetStreamRelayStore(servers, Limits(), now)
    raise Invalid(
        f"--store: {text!r} is no store", hint="use sqlite:PATH or nats://HOST:PORT,HOST:PORT"
    )


def uri_of(key: SigningKey, listen: tuple[str, int]) -> NodeUri:
    """Where others reach this relay: as it listens, or by this host's name if it is everywhere."""
    host, port = listen
    if host in ("0.0.0.0", "::"):  # noqa: S104 - compared, not bound
        host = socket.gethostname().lower()
    return NodeUri(key.public, host, port)


def read_members(path: Path | None) -> frozenset[bytes]:
    """The node keys in a file, one a line, `#` before a comment."""
    if path is None:
        return frozenset()
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as exc:
        raise Invalid(f"--members: {path} cannot be read: {exc}") from None
    found = set()
    for number, line in enumerate(lines, 1):
        text = line.partition("#")[0].strip()
        try:
            if text:
                found.add(key_from_text(text))
        except Invalid as exc:
            raise Invalid(f"{path}:{number}: {exc}", hint=exc.hint) from None
    return frozenset(found)


def _never_ran(store: str) -> bool:
    """Whether a store is not made yet, in a folder that is there."""
    path = Path(store.removeprefix("sqlite:"))
    return str(path) != store and path.parent.is_dir() and not path.exists()


async def _count(settings: RelaySettings) -> int:
    async with open_store(settings.store, wall_clock) as store:
        return await store.count()


async def _invite(settings: RelaySettings, key: SigningKey, uses: int) -> str:
    if uses < 1:
        raise Invalid("--uses: 1 or more")
    token = random_bytes(16)
    async with open_store(settings.store, wall_clock) as store:
        await store.add_invitation(digest(token), wall_clock() + INVITED_FOR, uses)
    return str(RelayUri(uri_of(key, settings.listen), token))


class Nowhere(Whereabouts):
    """The whereabouts of whoever calls a relay: it calls nobody, wherever they say they listen."""

    def sighted(self, node: bytes, endpoints: Iterable[Endpoint], found_by: str) -> None:
        """Not remembered."""


class Relay:
    """One running relay."""

    def __init__(self, settings: RelaySettings, key: SigningKey, manager: Manager) -> None:
        self._settings = settings
        self._key = key
        self._manager = manager
        self._scope = trio.CancelScope()
        self._why_not_ready = "starting"
        self._held = 0

    async def run(self) -> None:
        """Until SIGTERM or SIGINT."""
        settings = self._settings
        directory_key = settings.directory_key(self._key)
        if directory_key is None:
            log.warning("the directory lies in clear in the store", extra={"hint": "--store-key"})
        async with open_store(settings.store, wall_clock) as store:
            door = RelayDoor(
                store,
                CardBook(store, directory_key),
                wall_clock,
                random.Random(),  # noqa: S311
                Allowance(settings.everybody, read_members(settings.members)),
            )
            listen = endpoint_text(settings.listen)
            me = LocalNode(
                self._key, "relay", self._key.public[:8], listen, LARGEST, limits=SESSIONS
            )
            peers = PeerTcp(me, Nowhere(), door, wall_clock, random.Random())  # noqa: S311
            metrics = self._metrics(door, peers)
            try:
                with self._scope:
                    await self._live(store, door, peers)
            finally:
                if metrics is not None:
                    metrics.stop()

    async def _live(self, store: RelayStore, door: RelayDoor, peers: PeerTcp) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._signals, door)
            await nursery.start(door.run, peers)
            try:
                port = await nursery.start(peers.serve)
            except CannotListenError as exc:
                raise exc.naming("--listen") from None
            self._held = await store.count()
            nursery.start_soon(self._count_now_and_then, store)
            if self._manager.alive_every is not None:
                nursery.start_soon(_say_alive, self._manager, self._manager.alive_every)
            self._why_not_ready = ""
            self._manager.ready("serving")
            log.info(
                "ready",
                extra={
                    "uri": str(uri_of(self._key, (self._settings.listen[0], port))),
                    "store": self._settings.store,
                    "pid": os.getpid(),
                },
            )

    async def _signals(self, door: RelayDoor) -> None:
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
            async for number in signals:
                if number == signal.SIGHUP:
                    self._read_members_again(door)
                else:
                    log.info("stopping", extra={"signal": signal.Signals(number).name})
                    self._why_not_ready = "stopping"
                    self._manager.stopping()
                    self._scope.cancel()

    def _read_members_again(self, door: RelayDoor) -> None:
        self._manager.reloading()
        try:
            nodes = read_members(self._settings.members)
        except Invalid as exc:
            log.warning("the members stay as they were", extra={"why": str(exc)})
        else:
            door.allowance = Allowance(self._settings.everybody, nodes)
        self._manager.ready("serving")

    async def _count_now_and_then(self, store: RelayStore) -> None:
        while True:
            await trio.sleep(COUNT_EVERY)
            try:
                self._held = await store.count()
            except Unavailable as exc:
                self._why_not_ready = f"the store is away: {exc}"
            else:
                self._why_not_ready = ""

    def _metrics(self, door: RelayDoor, peers: PeerTcp) -> Metrics | None:
        if self._settings.metrics is None:
            return None

        def figures() -> dict[str, float]:
            counters = door.counters
            return {
                "messages_held": self._held,
                "collectors": door.collectors,
                "sessions": len(peers.connected()),
                "deposited_total": counters.deposited,
                "repeated_total": counters.repeated,
                "refused_total": counters.refused,
                "pushed_total": counters.pushed,
                "expired_total": counters.expired,
            }

        check_listen(self._settings.metrics, "--metrics")
        metrics = Metrics(
            self._settings.metrics, "ampd_relay", figures, lambda: self._why_not_ready
        )
        metrics.start()
        return metrics


async def _say_alive(manager: Manager, every: float) -> None:
    while True:
        manager.alive()
        await trio.sleep(every)
