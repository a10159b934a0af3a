"""Builds the rooms bottom up, wires them in one nursery, and runs them until told to stop.

    keys > store > agents > contacts > mailbox, submission, lists > peers, mdns > transfer > socket

One daemon has a home: it holds a lock on `ampd.lock` in the data folder as long as it lives.
SIGTERM and SIGINT end it cleanly; SIGHUP reads the settings again.
"""

import errno
import fcntl
import logging
import os
import random
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

import trio

from ampd import logs
from ampd.clock import wall_clock
from ampd.config import Config, make_folders
from ampd.core.agents import Agents
from ampd.core.checkup import Checkup
from ampd.core.contacts import Contacts
from ampd.core.directory import Directory
from ampd.core.letters import Letters
from ampd.core.lists import Lists
from ampd.core.mailbox import Mailbox
from ampd.core.marks import Marks
from ampd.core.reading import Reading
from ampd.core.submission import Submission
from ampd.core.tracking import Tracking
from ampd.core.transfer import Transfer
from ampd.core.whereabouts import Whereabouts
from ampd.crypto.keyfiles import load_agent_keys, make_folder, node_key, remove_leftovers
from ampd.crypto.keys import SigningKey, random_bytes
from ampd.edge.local_socket import LocalSocket
from ampd.edge.mdns import Mdns
from ampd.edge.methods import Rooms
from ampd.edge.network import NetworkWatch
from ampd.edge.overview import Overview
from ampd.edge.peer_state import LocalNode
from ampd.edge.peer_tcp import PeerTcp
from ampd.model.errors import Invalid, StorageError, Unavailable
from ampd.model.message import digest
from ampd.settings import Peer, default_domain
from ampd.storage.records import Epoch
from ampd.storage.store import Store, Transaction
from ampd.systemd import Manager

STOP_WITHIN: Final = 2.0  # seconds for the rooms to leave in good order; then they are left
NEIGHBOURS_WITHIN: Final = 3.0  # seconds after the start in which mDNS finds who is there
RENEW_EVERY: Final = 3600.0  # seconds between looks for keys that are due

log = logging.getLogger("ampd")


class HomeTakenError(Unavailable):
    """Another daemon has this home."""


def take_home(folder: Path) -> int:
    """A lock on the home for as long as this process lives, or HomeTakenError that names who."""
    path = folder / "ampd.lock"
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags, 0o600)
    except OSError as exc:
        raise StorageError(
            f"{path} cannot be opened for writing: {exc.strerror}", hint=f"ls -ld {folder}; mount"
        ) from exc
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as exc:
        holder = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip()
        os.close(descriptor)
        if exc.errno not in (errno.EAGAIN, errno.EACCES):
            raise
        raise HomeTakenError(
            f"{folder} is in use by another ampd" + (f", process {holder}" if holder else ""),
            hint="amp daemon status",
        ) from None
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    return descriptor


def journal_key(node: SigningKey) -> bytes:
    """The secret that the journal's chain is keyed with."""
    return digest(b"ampd/journal-key/1\0" + node.seed)


def place_of(folder: Path) -> bytes:
    """What tells this copy of the store from one that was restored or copied."""
    found = (folder / "journal").stat()
    return digest(f"{found.st_dev} {found.st_ino}".encode())[:16]


async def keep_epoch(store: Store, folder: Path) -> bytes:
    """This store's epoch; a restored or copied store draws a new one (wire: "Envelope")."""
    place = place_of(folder)

    def work(tx: Transaction) -> bytes:
        if tx.index.meta("place") != place:
            tx.append(Epoch(random_bytes(8), place))
        epoch: bytes = tx.index.meta("epoch")
        return epoch

    return await store.write(work)


class Daemon:
    """One running node."""

    def __init__(
        self, config: Config, reload: Callable[[], Config], manager: Manager | None = None
    ) -> None:
        self._config = config
        self._reload = reload
        self._manager = manager or Manager(os.environ)
        self._scope = trio.CancelScope()
        self._listening = ""

    def stop(self) -> None:
        """End in good order."""
        self._manager.stopping()
        self._scope.cancel()

    async def run(self) -> None:
        """Until stopped. Raises HomeTakenError, StorageError or Invalid if it cannot start."""
        paths = self._config.paths
        make_folders(paths)
        lock = take_home(paths.data)
        try:
            keys = paths.data / "keys"
            for folder in (keys, keys / "agents"):
                make_folder(folder)
                remove_leftovers(folder)
            node = node_key(keys / "node.key")
            store = Store(paths.data, journal_key(node), wall_clock)
            try:
                async with trio.open_nursery() as memory:
                    await memory.start(store.run)
                    with self._scope:
                        await self._live(node, store)
                    memory.cancel_scope.cancel()
            finally:
                store.close()
        finally:
            os.close(lock)

    async def _live(self, node: SigningKey, store: Store) -> None:
        config, paths = self._config, self._config.paths
        epoch = await keep_epoch(store, paths.data)
        agents = Agents(store, paths.data / "keys" / "agents", config.node.domain, node, wall_clock)
        await agents.load()
        contacts = self._contacts = Contacts(
            store, agents, wall_clock, config.policy.unknown_senders
        )
        mailbox = Mailbox(store, agents, contacts, wall_clock, config.limits.message_bytes)
        whereabouts = self._whereabouts = Whereabouts()
        listen = _endpoint_text(_free(config.peer.listen))
        me = LocalNode(node, config.node.domain, epoch, listen)
        peers = PeerTcp(me, whereabouts, mailbox, wall_clock, random.Random())  # noqa: S311
        transfer = Transfer(
            store,
            agents,
            contacts,
            Letters(store, wall_clock),
            peers,
            whereabouts,
            wall_clock,
            random.Random(),  # noqa: S311
        )
        network = NetworkWatch()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._signals)
            port = await nursery.start(peers.serve)
            self._listening = _with_port(listen, port)
            mdns = None
            if config.discovery.mdns:
                mdns = Mdns(
                    node.public, port, whereabouts, network,
                    interfaces=config.discovery.interfaces,
                )  # fmt: skip
                await nursery.start(mdns.run)
            for uri in config.peer.static:
                whereabouts.sighted(uri.key, [(uri.host, uri.port)], "static")
            nursery.start_soon(network.run)
            nursery.start_soon(_wake_on_changes, network, peers, whereabouts)
            nursery.start_soon(transfer.run)
            nursery.start_soon(_renew, agents, peers)
            overview = Overview(
                store,
                agents,
                peers,
                mdns,
                transfer,
                lambda: self._listening,
                trio.current_time(),
                config.node.domain == default_domain(socket.gethostname()),
            )
            rooms = self._rooms(store, agents, contacts, peers, transfer, overview)
            await self._serve_socket(nursery, rooms)

    def _rooms(  # the one place that knows every room
        self,
        store: Store,
        agents: Agents,
        contacts: Contacts,
        peers: PeerTcp,
        transfer: Transfer,
        overview: Overview,
    ) -> Rooms:
        config = self._config
        lists = Lists(store)
        started = trio.current_time()

        def settling() -> float:
            left = NEIGHBOURS_WITHIN - (trio.current_time() - started)
            return max(0.0, left) if config.discovery.mdns or config.peer.static else 0.0

        async def agents_changed() -> None:
            self._local.follow_agents()
            await peers.show_cards()

        return Rooms(
            store=store,
            agents=agents,
            contacts=contacts,
            submission=Submission(store, agents, contacts, wall_clock, config.limits.message_bytes),
            lists=lists,
            reading=Reading(store, lists),
            marks=Marks(store, agents, lists),
            tracking=Tracking(store, agents, lists, transfer.attempts_for),
            directory=Directory(store, agents, peers.connected),
            checkup=Checkup(store, config.paths.data),
            status=overview.document,
            peers=peers.peers,
            agents_changed=agents_changed,
            settling=settling,
            stop=self.stop,
            socket_of=lambda name: str(config.paths.agent_socket(name)),
        )

    async def _serve_socket(self, nursery: trio.Nursery, rooms: Rooms) -> None:
        paths = self._config.paths
        inherited = _inherited(self._manager)
        self._local = LocalSocket(rooms, paths.socket, paths.agent_sockets)
        await nursery.start(self._local.serve, inherited)
        self._manager.ready("serving")
        log.info(
            "ready",
            extra={"socket": str(paths.socket), "listen": self._listening, "pid": os.getpid()},
        )
        if self._manager.alive_every is not None:
            nursery.start_soon(_say_alive, self._manager, self._manager.alive_every)

    async def _signals(self) -> None:
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
            async for number in signals:
                if number == signal.SIGHUP:
                    self._read_again()
                else:
                    log.info("stopping", extra={"signal": signal.Signals(number).name})
                    self.stop()

    def _read_again(self) -> None:
        """SIGHUP: what can change while we run does; the rest is named."""
        self._manager.reloading()
        try:
            fresh = self._reload()
        except Invalid as exc:
            log.warning("the settings are not used", extra={"why": str(exc), "hint": exc.hint})
        else:
            logs.configure(fresh.log.level, fresh.log.format, os.environ, sys.stderr)
            self._contacts.unknown_senders = fresh.policy.unknown_senders
            for uri in fresh.peer.static:
                self._whereabouts.sighted(uri.key, [(uri.host, uri.port)], "static")
            changed = [
                name
                for name in ("node", "discovery", "limits", "gateway", "relay")
                if getattr(fresh, name) != getattr(self._config, name)
            ]
            if changed or fresh.peer.listen != self._config.peer.listen:
                log.warning("these settings need a restart", extra={"sections": changed})
            log.info("the settings were read again")
        self._manager.ready("serving")


def _free(endpoint: tuple[str, int] | None) -> tuple[str, int] | None:
    """Where to listen: the default port if it is free, else any; what was chosen stays.

    A second user or a second home on a machine needs no configuration: mDNS and sessions say which
    port it is.
    """
    if endpoint != Peer().listen or endpoint is None or _can_bind(endpoint):
        return endpoint
    log.warning("the default port is taken, another one is used", extra={"port": endpoint[1]})
    return endpoint[0], 0


def _can_bind(endpoint: tuple[str, int]) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(endpoint)
        except OSError:
            return False
    return True


def check(config: Config) -> None:
    """Whether a daemon could start with these settings; raises what it would end with."""
    paths = config.paths
    make_folders(paths)
    keys = paths.data / "keys"
    if (keys / "node.key").exists():
        node_key(keys / "node.key")
    for path in (keys / "agents").glob("*.key"):
        load_agent_keys(path)
        paths.agent_socket(path.stem)
    _ = paths.socket
    endpoint = _free(config.peer.listen)
    if endpoint is not None and not _can_bind(endpoint):
        raise Unavailable(
            f"cannot listen on {_endpoint_text(endpoint)}", hint="is another ampd running there?"
        )


def _endpoint_text(endpoint: tuple[str, int] | None) -> str:
    if endpoint is None:
        return ""
    host, port = endpoint
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _with_port(listen: str, port: int) -> str:
    return f"{listen.rpartition(':')[0]}:{port}" if listen else ""


def _inherited(manager: Manager) -> socket.socket | None:
    found = None
    for _, each in manager.sockets():
        if found is None and each.family == socket.AF_UNIX:
            found = each
        else:
            each.close()
    return found


async def _say_alive(manager: Manager, every: float) -> None:
    while True:
        manager.alive()
        await trio.sleep(every)


async def _renew(agents: Agents, peers: PeerTcp) -> None:
    while True:
        await trio.sleep(RENEW_EVERY)
        if await agents.renew():
            await peers.show_cards()


async def _wake_on_changes(network: NetworkWatch, peers: PeerTcp, whereabouts: Whereabouts) -> None:
    """A laptop that slept or changed networks tries again at once (wire: "Delivery")."""
    moment = network.now
    while True:
        moment = await network.changed(moment)
        peers.wake()
        whereabouts.wake()
