"""Builds the rooms bottom up, wires them in one nursery, and runs them until told to stop.

    keys > store > agents > contacts > mailbox, submission, lists > peers, mdns > transfer > gateway
    > socket: whoever is answered finds all of it

One daemon has a home: it holds the locks of home.py as long as it lives.
SIGTERM and SIGINT end it cleanly; SIGHUP reads the settings again.
"""

import logging
import os
import random
import signal
import socket
import sys
from collections import Counter
from collections.abc import Callable
from typing import Final

import trio

from ampd import gateway_setup, logs, preflight
from ampd.clock import wall_clock
from ampd.config import Config, make_folders
from ampd.core.abroad import Abroad
from ampd.core.agents import Agents
from ampd.core.bundles import Bundles
from ampd.core.checkup import Checkup
from ampd.core.contacts import Contacts
from ampd.core.directory import Directory
from ampd.core.flagging import Flagging
from ampd.core.foreign import Foreign
from ampd.core.handover import Handover
from ampd.core.letters import Attempts, Letters
from ampd.core.lists import Lists
from ampd.core.mailbox import Mailbox
from ampd.core.marks import Marks
from ampd.core.reading import Reading
from ampd.core.relays import Relays
from ampd.core.submission import Submission
from ampd.core.tracking import Tracking
from ampd.core.transfer import Transfer
from ampd.core.whereabouts import Whereabouts
from ampd.crypto.keyfiles import make_folder, remove_leftovers
from ampd.crypto.keys import SigningKey
from ampd.edge.local_socket import LocalSocket
from ampd.edge.mdns import Mdns
from ampd.edge.methods import Rooms
from ampd.edge.metrics import Metrics
from ampd.edge.network import NetworkWatch
from ampd.edge.node_figures import (
    CountedCarrier,
    CountedDoor,
    asked_by_another_thread,
    node_figures,
)
from ampd.edge.overview import Overview
from ampd.edge.peer_sockets import CannotListenError, check_listen, endpoint_text
from ampd.edge.peer_state import LocalNode
from ampd.edge.peer_tcp import PeerTcp
from ampd.home import foreign_secret, journal_key, keep_epoch, own_key, take_home
from ampd.model.card import MAX_CARD
from ampd.model.errors import Invalid
from ampd.protocol.session import ENVELOPE_BYTES
from ampd.provider_setup import COURIER_OF, LazyProviders
from ampd.settings import Endpoint, default_domain
from ampd.storage.store import Store
from ampd.systemd import Manager

STOP_WITHIN: Final = 2.0  # seconds for the rooms to leave in good order; then they are left
NEIGHBOURS_WITHIN: Final = 3.0  # seconds after the start in which mDNS finds who is there
RENEW_EVERY: Final = 3600.0  # seconds between looks for keys that are due

log = logging.getLogger("ampd")


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
        self._gateway: gateway_setup.Opened | None = None
        self._counts: Counter[str] = Counter()
        self._why_not_ready = "starting"

    def stop(self) -> None:
        """End in good order."""
        self._why_not_ready = "stopping"
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
            node = own_key(paths.data)
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
            lock.close()

    async def _live(self, node: SigningKey, store: Store) -> None:
        config, paths = self._config, self._config.paths
        if config.without_effect:
            log.warning("variables without effect", extra={"names": config.without_effect})
        epoch = await keep_epoch(store, paths.data)
        agents = Agents(store, paths.data / "keys" / "agents", config.node.domain, node, wall_clock)
        await agents.load()
        contacts = self._contacts = Contacts(
            store, agents, wall_clock, config.policy.unknown_senders
        )
        relay_keys: set[bytes] = set()
        mailbox = Mailbox(
            store, agents, contacts, wall_clock, config.limits.message_bytes, relay_keys
        )
        whereabouts = self._whereabouts = Whereabouts()
        listen = _listen(config.peer.listen)
        largest = 2 * (config.limits.message_bytes + MAX_CARD)  # a letter, sealed and padded
        me = LocalNode(node, config.node.domain, epoch, listen, max(largest, ENVELOPE_BYTES))
        door = CountedDoor(mailbox, self._counts)
        peers = PeerTcp(me, whereabouts, door, wall_clock, random.Random())  # noqa: S311
        letters = Letters(store, wall_clock)
        carrier = CountedCarrier(peers, self._counts)
        way_out = (carrier, whereabouts, wall_clock, random.Random())  # noqa: S311
        transfer = Transfer(store, agents, contacts, letters, *way_out)
        handover = Handover(store, contacts, letters, *way_out, relay_keys)
        size = config.limits.message_bytes
        foreign = Foreign(store, agents, contacts, foreign_secret(node), wall_clock, size)
        abroad = Abroad(store, agents, contacts, foreign, letters, *way_out[2:])
        relays = Relays(store, agents, peers, whereabouts, config.relay.servers, relay_keys)
        await agents.use_relays(relays.uris)
        bundles = Bundles(store, agents, contacts, mailbox)
        network = NetworkWatch()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._signals)
            port = await self._serve_peers(nursery, peers)
            self._listening = _with_port(listen, port)
            mdns = await self._discover(nursery, node.public, port, network)
            for uri in config.peer.static:
                whereabouts.sighted(uri.key, [(uri.host, uri.port)], "static")
            nursery.start_soon(network.run)
            nursery.start_soon(_wake_on_changes, network, peers, whereabouts, abroad)
            nursery.start_soon(transfer.run)
            nursery.start_soon(store.keep_clean)
            nursery.start_soon(handover.run)
            nursery.start_soon(abroad.run)
            nursery.start_soon(relays.run)
            nursery.start_soon(_renew, agents, peers, relays)
            domain_is_default = config.node.domain == default_domain(socket.gethostname())
            overview = Overview(
                store, agents, peers, mdns, relays, lambda: self._listening, self._gateway_document,
                trio.current_time(), domain_is_default,
            )  # fmt: skip
            rooms = self._rooms(
                store, agents, contacts, peers, transfer, handover, relays, bundles, overview,
                foreign, abroad,
            )  # fmt: skip
            nursery.start_soon(rooms.flagging.run)
            await self._serve_socket(nursery, rooms)

    async def _serve_peers(self, nursery: trio.Nursery, peers: PeerTcp) -> int:
        try:
            port: int = await nursery.start(peers.serve)
        except CannotListenError as exc:
            raise exc.naming(self._config.place("peer", "listen")) from None
        return port

    async def _discover(
        self, nursery: trio.Nursery, node: bytes, port: int, network: NetworkWatch
    ) -> Mdns | None:
        wanted = self._config.discovery
        if not wanted.mdns:
            return None
        mdns = Mdns(node, port, self._whereabouts, network, interfaces=wanted.interfaces)
        await nursery.start(mdns.run)
        return mdns

    def _rooms(  # the one place that knows every room
        self,
        store: Store,
        agents: Agents,
        contacts: Contacts,
        peers: PeerTcp,
        transfer: Transfer,
        handover: Handover,
        relays: Relays,
        bundles: Bundles,
        overview: Overview,
        foreign: Foreign,
        abroad: Abroad,
    ) -> Rooms:
        config = self._config
        lists = Lists(store)
        flagging = Flagging(store)
        reading = Reading(store, lists, flagging)
        providers = self._providers = LazyProviders(config, agents, foreign, lists, reading)
        abroad.use(providers, COURIER_OF)
        started = trio.current_time()

        def settling() -> float:
            left = NEIGHBOURS_WITHIN - (trio.current_time() - started)
            return max(0.0, left) if config.discovery.mdns or config.peer.static else 0.0

        async def agents_changed() -> None:
            self._local.follow_agents()
            await peers.show_cards()
            relays.cards_changed()

        def attempts(address: str) -> Attempts | None:
            ways = (transfer, handover, abroad)
            return next((found for way in ways if (found := way.attempts_for(address))), None)

        return Rooms(
            store=store,
            agents=agents,
            contacts=contacts,
            submission=Submission(store, agents, contacts, wall_clock, config.limits.message_bytes),
            lists=lists,
            reading=reading,
            flagging=flagging,
            marks=Marks(store, agents, lists),
            tracking=Tracking(store, agents, lists, attempts),
            directory=Directory(store, agents, peers.connected),
            checkup=Checkup(store, config.paths.data, wall_clock),
            relays=relays,
            bundles=bundles,
            status=overview.document,
            peers=peers.peers,
            agents_changed=agents_changed,
            settling=settling,
            stop=self.stop,
            socket_of=lambda name: str(config.paths.agent_socket(name)),
            foreign=foreign,
            abroad=abroad,
            providers=providers,
        )

    async def _serve_socket(self, nursery: trio.Nursery, rooms: Rooms) -> None:
        paths = self._config.paths
        inherited = _inherited(self._manager)
        self._local = LocalSocket(rooms, paths.socket, paths.agent_sockets)
        nursery.start_soon(self._providers.run)
        if self._config.metrics.listen is not None:
            await nursery.start(self._serve_metrics, self._config.metrics.listen, rooms)
        said = {"socket": str(paths.socket), "listen": self._listening, "pid": os.getpid()}
        if self._config.gateway.listen is not None:
            self._gateway = await nursery.start(gateway_setup.serve, self._config, rooms)
            said["gateway"] = self._gateway.url
        await nursery.start(self._local.serve, inherited)
        (paths.run / "stopped").unlink(missing_ok=True)  # what `amp daemon stop` left
        self._why_not_ready = ""
        self._manager.ready("serving")
        log.info("ready", extra=said)
        if self._manager.alive_every is not None:
            nursery.start_soon(_say_alive, self._manager, self._manager.alive_every)

    def _gateway_document(self) -> dict[str, str] | None:
        return self._gateway.document() if self._gateway else None

    async def _serve_metrics(
        self, listen: Endpoint, rooms: Rooms, task_status: trio.TaskStatus[None]
    ) -> None:
        figures = asked_by_another_thread(
            lambda: node_figures(rooms.store, rooms.peers, self._counts, wall_clock())
        )
        check_listen(listen, self._config.place("metrics", "listen"))
        metrics = Metrics(listen, "ampd", figures, lambda: self._why_not_ready)
        metrics.start()
        task_status.started()
        try:
            await trio.sleep_forever()
        finally:
            metrics.stop()

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
                for name in ("node", "discovery", "limits", "gateway", "relay", "metrics")
                if getattr(fresh, name) != getattr(self._config, name)
            ]
            if changed or fresh.peer.listen != self._config.peer.listen:
                log.warning("these settings need a restart", extra={"sections": changed})
            log.info("the settings were read again")
        self._manager.ready("serving")


def _listen(wanted: Endpoint | None) -> str:
    endpoint = preflight.free(wanted)
    if endpoint is None:
        return ""
    if endpoint != wanted:
        log.warning("the default port is taken, another one is used", extra={"wanted": wanted})
    return endpoint_text(endpoint)


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


async def _renew(agents: Agents, peers: PeerTcp, relays: Relays) -> None:
    while True:
        await trio.sleep(RENEW_EVERY)
        if await agents.renew():
            await peers.show_cards()
            relays.cards_changed()


async def _wake_on_changes(
    network: NetworkWatch, peers: PeerTcp, whereabouts: Whereabouts, abroad: Abroad
) -> None:
    """A laptop that slept or changed networks tries again at once (wire: "Delivery")."""
    moment = network.now
    while True:
        moment = await network.changed(moment)
        peers.wake()
        whereabouts.wake()
        abroad.wake()
