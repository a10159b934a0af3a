"""The folders in which AMP's bash clients keep their mail, written to as the clients read them.

    ~/.agent-messaging/agents/FOLDER/keys/public.pem               whose folder it is
    ~/.agent-messaging/agents/FOLDER/messages/inbox/SENDER/ID.json one message

  CF1  A folder is an agent's if its public key is the one that the agent registered with; its name,
       and what its config.json says, prove nothing.
  CF2  No symbolic link is followed below the home folder, and nothing is touched that is not this
       user's own, or that everybody may write to.
  CF3  A file appears whole or not at all: written beside its place with mode 0600, synced, renamed,
       and the folder synced. A message that is there is not written again: it may be marked read.
  CF4  Names come from addresses and ids as the clients make them: letters, digits, _ and -.

Everything here waits for the disk: call it in a thread. Not here: which messages (mirror.py).
"""

import os
import re
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from ampd.crypto.foreign_keys import MAX_PEM, ForeignKey
from ampd.model.errors import Invalid

_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_NEW: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_AGENTS: Final = (".agent-messaging", "agents")
_INBOX: Final = ("messages", "inbox")
_MOST: Final = 1000  # folders of agents that are looked at
_LONGEST: Final = 200  # characters of a name: a file system has 255 bytes
_ID: Final = re.compile(r"msg[_-][0-9]{1,20}[_-][A-Za-z0-9]{1,100}", re.ASCII)


def folders(home: Path) -> dict[bytes, str]:
    """The agents' folders under a home, by the SPKI of their public key (CF1)."""
    found: dict[bytes, str] = {}
    try:
        with _inside(os.open(home, os.O_RDONLY | os.O_DIRECTORY), _AGENTS) as agents:
            for name in sorted(os.listdir(agents))[:_MOST]:  # noqa: PTH208 - of a descriptor
                if (key := _key_in(agents, name)) is not None:
                    found.setdefault(key.spki, name)
    except OSError:  # there are no such folders, or they are not ours (CF2)
        return found
    return found


def put(home: Path, folder: str, sender: str, identifier: str, text: str) -> bool:
    """Put a message into an agent's inbox; whether it was not there (CF3). Raises OSError."""
    if not _ID.fullmatch(identifier):
        raise Invalid(f"{identifier[:80]!r} is no message id that clients could read")
    place = sender_folder(sender)
    inside = (*_AGENTS, folder, *_INBOX)
    with _inside(os.open(home, os.O_RDONLY | os.O_DIRECTORY), inside, make=2) as inbox:
        name = f"{identifier}.json"
        if _is_there(inbox, name):  # as older clients have it
            return False
        with _inside(os.dup(inbox), (place,), make=1) as box:
            if _is_there(box, name):
                return False
            _write(box, name, text.encode())
    return True


def sender_folder(address: str) -> str:
    """The name that the clients give to a sender's folder (CF4)."""
    plain = re.sub(r"[^A-Za-z0-9_-]", "", re.sub(r"[@.]", "_", address))
    return plain[:_LONGEST] or "unknown"


@contextmanager
def _inside(descriptor: int, names: tuple[str, ...], make: int = 0) -> Iterator[int]:
    """The folder at the end of `names`, the last `make` of which are made if need be (CF2)."""
    try:
        for left, name in zip(range(len(names), 0, -1), names, strict=True):
            if left <= make:
                with suppress(FileExistsError):
                    os.mkdir(name, 0o700, dir_fd=descriptor)
                    os.fsync(descriptor)
            inner = os.open(name, _FOLDER, dir_fd=descriptor)
            os.close(descriptor)
            descriptor = inner
            _check(os.fstat(descriptor), name)
        yield descriptor
    finally:
        os.close(descriptor)


def _check(found: os.stat_result, name: str) -> None:
    if found.st_uid != os.geteuid() or found.st_mode & stat.S_IWOTH:
        raise PermissionError(f"{name} is not this user's alone")


def _key_in(agents: int, name: str) -> ForeignKey | None:
    try:
        with _inside(os.dup(agents), (name, "keys")) as keys:
            file = os.open("public.pem", _FILE, dir_fd=keys)
            try:
                found = os.fstat(file)
                _check(found, "public.pem")
                if not stat.S_ISREG(found.st_mode):
                    return None
                text = os.read(file, MAX_PEM + 1).decode("ascii")
            finally:
                os.close(file)
        return ForeignKey.from_pem(text)
    except (OSError, UnicodeDecodeError, Invalid):
        return None  # no folder of an agent


def _is_there(folder: int, name: str) -> bool:
    try:
        os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def _write(folder: int, name: str, data: bytes) -> None:
    """CF3."""
    beside = f".{name}.{secrets.token_hex(4)}"  # no *.json: no client lists it
    file = os.open(beside, _NEW, 0o600, dir_fd=folder)
    try:
        try:
            left = memoryview(data)
            while left:
                left = left[os.write(file, left) :]
            os.fsync(file)
        finally:
            os.close(file)
        os.rename(beside, name, src_dir_fd=folder, dst_dir_fd=folder)
    except OSError:
        with suppress(OSError):
            os.unlink(beside, dir_fd=folder)
        raise
    os.fsync(folder)
