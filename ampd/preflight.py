"""What would keep a daemon from starting, found without changing anything on the disk.

  PF1  Nothing is made, written or removed, on a home that is not there yet neither. A port is had
       for a moment and given back.
  PF2  What is found is what the start would end with: the same error where one function can say it.
  PF3  While a daemon has this home, a port that is taken is its own: so the settings can be looked
       at before a restart. A daemon whose socket is gone is in the way.

Not here: what single settings may be (config.py, settings.py).
"""

import errno
import os
import socket
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Final

from ampd import gateway_setup
from ampd.config import Config, check_folders
from ampd.crypto.keyfiles import load_agent_keys, node_key
from ampd.crypto.keys import SigningKey
from ampd.edge import metrics
from ampd.edge.local_socket import check_place
from ampd.edge.peer_sockets import CannotListenError, check_listen
from ampd.home import HomeTakenError, is_taken, journal_key, own_key, taken
from ampd.model.errors import StorageError
from ampd.settings import Endpoint, Peer
from ampd.storage.frames import FORGED, HEADER_SIZE, Codec, Frame

_TAKEN_WITHIN: Final = 1.0  # seconds for a connection to a socket of this machine


def check(config: Config) -> None:
    """Whether a daemon could start with these settings; raises what it would end with."""
    paths = config.paths
    check_folders(paths)
    running = is_taken(paths.data)
    for folder in (paths.data, paths.data / "keys", paths.data / "keys" / "agents"):
        _check_own(folder)
    _check_keys(paths.data)
    check_place(paths.socket)
    if running and not _answers(paths.socket):
        what = f"{taken(paths.data)}, which nobody can reach"
        raise HomeTakenError(what, hint="end that process, then amp daemon start")
    gateway_setup.check(config)
    if config.metrics.listen is not None:
        metrics.check_package()
    _check_ports(config, running=running)


def free(endpoint: Endpoint | None) -> Endpoint | None:
    """Where to listen: the default port if it is free, else any; what was chosen stays.

    A second user or a second home on a machine needs no configuration: mDNS and sessions say which
    port it is.
    """
    if endpoint is None or endpoint != Peer().listen:
        return endpoint
    try:
        check_listen(endpoint, "peer.listen")
    except CannotListenError as exc:
        return (endpoint[0], 0) if exc.taken else endpoint
    return endpoint


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(_TAKEN_WITHIN)
        try:
            probe.connect(str(path))
        except TimeoutError:
            return True  # it is there, and too busy to take one more
        except OSError:
            return False
    return True


def _check_own(folder: Path) -> None:
    """A folder that is there can be written to."""
    if not os.path.lexists(folder):
        return
    if not folder.is_dir() or folder.is_symlink():
        raise StorageError(
            f"{folder} is not a folder of this user", hint="choose another AMPD_HOME"
        )
    if not os.access(folder, os.W_OK | os.X_OK):
        why = os.strerror(errno.EROFS if os.statvfs(folder).f_flag & os.ST_RDONLY else errno.EACCES)
        raise StorageError(f"{folder} cannot be written to: {why}", hint=f"ls -ld {folder}; mount")


def _check_keys(data: Path) -> None:
    """The keys of the node and of its agents are there, whole, and those of this journal."""
    keys, journal = data / "keys", data / "journal"
    begun = any(journal.glob("*.log"))
    if begun or os.path.lexists(keys / "node.key"):
        node = own_key(data)
        if begun:
            _check_journal(journal, node)
    for path in _agents(data):
        load_agent_keys(path)
    provider = data / "gateway" / "amp_provider.key"
    if os.path.lexists(provider):
        node_key(provider)


def _check_journal(journal: Path, node: SigningKey) -> None:
    """The last segment is of this key, as far as can be seen (storage/recovery.py, R6)."""
    last = max(journal.glob("*.log"))
    codec = Codec(journal_key(node))
    try:
        data = last.read_bytes()
    except OSError as exc:
        raise StorageError(
            f"the journal {journal} cannot be opened: {exc}",
            hint="check the disk, and who owns the folder",
        ) from exc
    if codec.prove_header(data[:HEADER_SIZE]) == FORGED and not any(
        isinstance(each, Frame) for each in codec.walk(data, HEADER_SIZE, 0)
    ):
        raise StorageError(
            f"the journal {journal} was written with another key",
            hint="restore the key file that belongs to it",
        )


def _agents(data: Path) -> list[Path]:
    """The key files that the start needs: of the agents in the index; without one, all."""
    index, keys = data / "index.sqlite", data / "keys" / "agents"
    # an index that was closed well is read without so much as a lock file beside it
    closed = not os.path.lexists(data / "index.sqlite-wal")
    uri = f"{index.absolute().as_uri()}?mode=ro{'&immutable=1' if closed else ''}"
    try:
        with closing(sqlite3.connect(uri, uri=True)) as db:
            rows = db.execute("SELECT name FROM agents WHERE removed=0 ORDER BY name").fetchall()
    except sqlite3.Error:  # none, or not of this version: the start makes it anew
        return sorted(keys.glob("*.key"))
    return [keys / f"{name}.key" for (name,) in rows]


def _check_ports(config: Config, *, running: bool) -> None:
    wanted = {
        "peer": free(config.peer.listen),
        "gateway": config.gateway.listen,
        "metrics": config.metrics.listen,
    }
    for section, endpoint in wanted.items():
        try:
            if endpoint is not None:
                check_listen(endpoint, config.place(section, "listen"))
        except CannotListenError as exc:
            if not (running and exc.taken):  # PF3
                raise
