"""One daemon has a home: the lock, the secrets and the epoch that belong to the place on disk."""

import errno
import fcntl
import os
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Final

from ampd.crypto.keyfiles import node_key
from ampd.crypto.keys import SigningKey, random_bytes
from ampd.model.errors import StorageError, Unavailable
from ampd.model.message import digest
from ampd.storage.disk import Disk
from ampd.storage.records import Epoch
from ampd.storage.store import Store, Transaction

_LOOKS: Final = 5  # whoever only looks whether a home is taken has its lock for microseconds
_LOOK_AGAIN_AFTER: Final = 0.02  # seconds


class HomeTakenError(Unavailable):
    """Another daemon has this home."""


class HomeLock:
    """What keeps others out of a home: open descriptors."""

    def __init__(self, *descriptors: int) -> None:
        self._descriptors = descriptors

    def close(self) -> None:
        """Let others in."""
        for descriptor in self._descriptors:
            os.close(descriptor)


def take_home(folder: Path) -> HomeLock:
    """A lock on the home for as long as this process lives, or HomeTakenError that names who.

    Two things are locked: `ampd.lock`, which says who, and the folder of the journal, for a lock
    file may be taken for a forgotten one and removed.
    """
    with ExitStack() as undo:
        journal = _journal_lock(folder)
        undo.callback(os.close, journal)
        lock = HomeLock(journal, _lock_file(folder))
        undo.pop_all()
    return lock


def _journal_lock(folder: Path) -> int:
    path = folder / "journal"
    try:
        Disk().make_folder(path)
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as exc:
        raise _no_lock(path, exc) from exc
    if not _locked(descriptor, or_cannot=True):
        os.close(descriptor)
        raise taken(folder)
    return descriptor


def _lock_file(folder: Path) -> int:
    path = folder / "ampd.lock"
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags, 0o600)
    except OSError as exc:
        raise _no_lock(path, exc) from exc
    if not _locked(descriptor):
        os.close(descriptor)
        raise taken(folder)
    with suppress(OSError):  # on a full disk the lock holds without a name
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    return descriptor


def is_taken(folder: Path) -> bool:
    """Whether a daemon has this home now; nothing is changed."""
    return any(_is_locked(folder / name) for name in ("ampd.lock", "journal"))


def _is_locked(path: Path) -> bool:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    except OSError as exc:
        raise _no_lock(path, exc) from exc
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # a file system that locks no folders
        return False
    finally:
        os.close(descriptor)
    return False


def taken(folder: Path) -> HomeTakenError:
    """The error that names who has a home."""
    try:
        holder = (folder / "ampd.lock").read_bytes()[:32].decode("ascii", "replace").strip()
    except OSError:
        holder = ""
    return HomeTakenError(
        f"{folder} is in use by another ampd" + (f", process {holder}" if holder else ""),
        hint="amp daemon status",
    )


def _locked(descriptor: int, *, or_cannot: bool = False) -> bool:
    """Whether this process has the lock now; whoever only looks (`is_taken`) is waited for.

    With `or_cannot`, also if there can be no such lock: NFS locks no folders.
    """
    for _ in range(_LOOKS):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as exc:
            if exc.errno not in (errno.EAGAIN, errno.EACCES):
                if or_cannot:
                    return True
                os.close(descriptor)
                raise
            time.sleep(_LOOK_AGAIN_AFTER)
        else:
            return True
    return False


def _no_lock(path: Path, exc: OSError) -> StorageError:
    return StorageError(
        f"{path} cannot be opened for writing: {exc.strerror}",
        hint=f"ls -ld {path.parent}; mount",
    )


def own_key(folder: Path) -> SigningKey:
    """The node's key, made at the first start; StorageError where it is gone, or cannot be read.

    A journal is proof that there was one: a new one would fit neither it nor what others know.
    """
    path = folder / "keys" / "node.key"
    if not os.path.lexists(path) and any((folder / "journal").glob("*.log")):
        raise StorageError(
            f"{path} is gone, and the journal was written with it", hint="restore it from a backup"
        )
    return node_key(path)


def journal_key(node: SigningKey) -> bytes:
    """The secret that the journal's chain is keyed with."""
    return digest(b"ampd/journal-key/1\0" + node.seed)


def foreign_secret(node: SigningKey) -> bytes:
    """The secret that the keys of foreign addresses are made of (core/foreign.py)."""
    return digest(b"ampd/foreign-secret/1\0" + node.seed)


def place_of(folder: Path) -> bytes:
    """What tells this copy of the store from one that was restored or copied."""
    found = (folder / "journal").stat()
    return digest(f"{found.st_dev} {found.st_ino}".encode())[:16]


async def keep_epoch(store: Store, folder: Path) -> bytes:
    """This store's epoch; a restored or copied store draws a new one (wire: "Envelope")."""
    place = place_of(folder)
    known = store.view.execute(
        "SELECT (SELECT value FROM meta WHERE name='place'),"
        " (SELECT value FROM meta WHERE name='epoch')"
    ).fetchone()
    if known[0] == place and not store.restored:  # a full disk keeps nobody from starting
        return bytes(known[1])

    def work(tx: Transaction) -> bytes:
        if tx.index.meta("place") != place or store.restored:
            tx.append(Epoch(random_bytes(8), place))
        epoch: bytes = tx.index.meta("epoch")
        return epoch

    return await store.write(work, urgent=True)
