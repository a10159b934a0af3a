"""Key files: made with their final mode at the first system call, never half-written.

  F1  A key file has mode 0600 from the call that makes it; its folder has 0700, and so have the
      folders above it that had to be made.
  F2  It is written beside its place, synced, and put there by link or rename, and the folder is
      synced: after a crash there is the old file, the new one, or none. What a crash left beside
      it is removed by `remove_leftovers`, for it may hold a secret that was to be destroyed.
  F3  A node key is made once; of two programs that make it at once, both use the one that won.
  F4  Nothing is followed through a symbolic link; a file that others may read, or that is not a
      plain file of this user, is refused.

    node.key          the CBOR map {v: 1, kind: "node", seed}
    agents/NAME.key   {v: 1, kind: "agent", seed, fallback, inbox: [[secret, until], ...]}

`inbox` holds the X25519 secrets that mail may still be sealed to, oldest first (wire: renewed
weekly, destroyed five weeks after their end).
"""

import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

from ampd.crypto.keys import OpeningKey, SigningKey, random_bytes
from ampd.model.card import mailbox_of
from ampd.model.encoding import decode, encode
from ampd.model.errors import Invalid, StorageError
from ampd.model.fields import Fields
from ampd.model.values import value

MAX_INBOX_KEYS: Final = 16
_MAX_FILE: Final = 8192
_Keys = TypeVar("_Keys")


@value
class InboxKey:
    """An X25519 key that mail is sealed to until `until` (milliseconds)."""

    key: OpeningKey
    until: int


@value
class AgentKeys:
    """All the secrets of one agent."""

    signing: SigningKey
    fallback: OpeningKey
    inbox: tuple[InboxKey, ...]

    @property
    def mailbox(self) -> bytes:
        """The id under which carriers keep its mail (model/card.py, C4)."""
        return mailbox_of(self.signing.public)

    def open(self, sealed: bytes) -> bytes | None:
        """What was sealed for this agent, newest key first; None if it was for another."""
        for key in (*(inbox.key for inbox in reversed(self.inbox)), self.fallback):
            opened = key.open(sealed)
            if opened is not None:
                return opened
        return self.signing.opening().open(sealed)


def make_folder(path: Path) -> None:
    """The folder `path`, ours alone (0700) and durable, or StorageError."""
    try:
        _make_missing(path)
        found = path.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
            raise StorageError(
                f"{path} is not a folder of this user", hint="choose another AMPD_HOME"
            )
        if stat.S_IMODE(found.st_mode) & 0o077:
            path.chmod(0o700)
    except OSError as exc:
        raise StorageError(f"cannot make the folder {path}: {exc.strerror}") from exc


def _make_missing(path: Path) -> None:
    """mkdir -p, every new folder with 0700 and its entry synced."""
    try:
        path.mkdir(mode=0o700)
    except FileExistsError:
        return
    except FileNotFoundError:
        _make_missing(path.parent)
        path.mkdir(mode=0o700, exist_ok=True)
    sync_folder(path.parent)


def node_key(path: Path) -> SigningKey:
    """The node key in `path`; a new one if there is none (F3). Or StorageError."""
    if not os.path.lexists(path):
        contents = encode({"v": 1, "kind": "node", "seed": SigningKey.generate().seed})
        _write(path, contents, replace=False)
    sync_folder(path.parent)  # who made it may have been killed before its own sync
    return _read(path, "node", lambda fields: SigningKey(fields.data("seed", 32)))


def new_agent_keys(inbox_until: int) -> AgentKeys:
    """The secrets of a new agent, its first inbox key good until `inbox_until`."""
    return AgentKeys(
        SigningKey.generate(),
        OpeningKey.generate(),
        (InboxKey(OpeningKey.generate(), inbox_until),),
    )


def save_agent_keys(path: Path, keys: AgentKeys, *, replace: bool) -> None:
    """Put the secrets of an agent into `path` (F1, F2); without `replace` only if it is free."""
    contents = encode(
        {
            "v": 1,
            "kind": "agent",
            "seed": keys.signing.seed,
            "fallback": keys.fallback.secret,
            "inbox": [[inbox.key.secret, inbox.until] for inbox in keys.inbox],
        }
    )
    _write(path, contents, replace=replace)


def load_agent_keys(path: Path) -> AgentKeys:
    """The secrets in `path`, or StorageError that says what is wrong with the file."""
    return _read(path, "agent", _agent_keys)


def _agent_keys(fields: Fields) -> AgentKeys:
    return AgentKeys(
        SigningKey(fields.data("seed", 32)),
        OpeningKey(fields.data("fallback", 32)),
        tuple(_inbox_key(item) for item in fields.items("inbox", MAX_INBOX_KEYS)),
    )


def _inbox_key(item: object) -> InboxKey:
    match item:
        case [bytes(secret), int(until)] if len(secret) == 32 and type(until) is int:
            return InboxKey(OpeningKey(secret), until)
    raise Invalid("an inbox key must be a secret and a time")


def _read(path: Path, kind: str, take: Callable[[Fields], _Keys]) -> _Keys:
    try:
        fields = Fields(decode(_contents(path), limit=_MAX_FILE), "key file")
        fields.version(1)
        if fields.text("kind", 16) != kind:
            raise Invalid(f"it is not the key of a {kind}")
        keys = take(fields)
        fields.done()
    except Invalid as exc:
        raise StorageError(
            f"cannot read the key file {path}: {exc}", hint="restore it from a backup"
        ) from exc
    return keys


def _contents(path: Path) -> bytes:
    """The bytes of a plain file that is ours and nobody else's to read (F4)."""
    try:
        # without O_NONBLOCK, opening a planted FIFO would wait for ever
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        with os.fdopen(os.open(path, flags), "rb") as file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid():
                raise StorageError(f"the key file {path} is not a plain file of this user")
            if stat.S_IMODE(found.st_mode) & 0o077:
                raise StorageError(f"others may read the key file {path}", hint=f"chmod 600 {path}")
            return file.read(_MAX_FILE + 1)
    except OSError as exc:
        raise StorageError(
            f"cannot read the key file {path}: {exc.strerror}", hint="restore it from a backup"
        ) from exc


def _write(path: Path, contents: bytes, *, replace: bool) -> None:
    make_folder(path.parent)
    temporary = path.parent / f".{path.name}.{random_bytes(8).hex()}"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        descriptor = os.open(temporary, flags, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(contents)
                file.flush()
                os.fsync(descriptor)
            if replace:
                temporary.replace(path)
            else:
                _link(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
        sync_folder(path.parent)
    except OSError as exc:
        raise StorageError(f"cannot write the key file {path}: {exc.strerror}") from exc


def _link(temporary: Path, path: Path) -> None:
    try:
        os.link(temporary, path, follow_symlinks=False)
    except FileExistsError:
        return  # somebody made it first, and theirs counts (F3)


def sync_folder(path: Path) -> None:
    """Make the entries of a folder durable, or StorageError."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as exc:
        raise StorageError(f"cannot sync the folder {path}: {exc.strerror}") from exc


def remove_leftovers(folder: Path) -> None:
    """Remove what a crash left half done in a folder of keys (F2).

    Only for who holds the lock of the home: another program's file may be half done just now.
    """
    try:
        for path in folder.glob(".*.key.*"):
            path.unlink(missing_ok=True)
        sync_folder(folder)
    except OSError as exc:
        raise StorageError(f"cannot clean the key folder {folder}: {exc.strerror}") from exc


def destroy(path: Path) -> None:
    """Remove a key file for good."""
    try:
        path.unlink(missing_ok=True)
        sync_folder(path.parent)
    except OSError as exc:
        raise StorageError(f"cannot remove the key file {path}: {exc.strerror}") from exc
