"""The bytes of attachments on disk, and what their first bytes say they are.

  AF1  A file is named by the attachment's id, which is random and made here; what a client calls it
       is data and no path.
  AF2  It appears under its name only whole: its size and SHA-256 were compared while it was
       written, it was synced, and so was its entry. What a crash left half done is swept away.
  AF3  The files hold at most MOST bytes together and leave RESERVE of the disk free, counted as
       bytes come: what does not fit is refused with `quota_exceeded`, and nothing of it stays.
  AF4  `judged` reads the first bytes: programs and scripts are "rejected", what is not what it
       claims to be is "suspicious", all else is "basic_clean". It is no scan for viruses.

Blocking work is done in worker threads.
"""

import hashlib
import os
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Collection
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, Final, Literal

import trio

from ampd.crypto.keyfiles import make_folder, sync_folder
from ampd.crypto.keys import random_bytes
from ampd.model.errors import Invalid, Refused, StorageError

Verdict = Literal["basic_clean", "suspicious", "rejected"]
SNIFFED: Final = 512  # bytes: where every magic number below stands
MOST: Final = 4 << 30  # bytes of all agents' attachments
RESERVE: Final = 256 << 20  # bytes that mail needs more than files do
PIECE: Final = 64 << 10  # bytes read at once
_PART: Final = ".part"

_PROGRAMS: Final = (
    b"MZ", b"\x7fELF", b"\xfe\xed\xfa\xce", b"\xfe\xed\xfa\xcf", b"\xce\xfa\xed\xfe",
    b"\xcf\xfa\xed\xfe", b"\xca\xfe\xba\xbe", b"#!", b"\x00asm", b"dex\n",
)  # fmt: skip
_PROGRAM_TYPES: Final = frozenset(
    (
        "application/x-executable", "application/x-sharedlib", "application/x-mach-binary",
        "application/x-dosexec", "application/x-msdownload", "application/x-msdos-program",
        "application/vnd.microsoft.portable-executable", "application/x-elf",
        "application/x-pie-executable", "application/x-shellscript", "text/x-shellscript",
        "application/x-sh", "application/x-csh", "application/x-bat", "application/x-msi",
        "application/java-archive", "application/x-java-applet", "application/hta",
        "application/vnd.android.package-archive",
    )
)  # fmt: skip
_MAGIC: Final[dict[str, tuple[bytes, ...]]] = {
    "image/png": (b"\x89PNG\r\n\x1a\n",),
    "image/jpeg": (b"\xff\xd8\xff",),
    "image/gif": (b"GIF87a", b"GIF89a"),
    "application/pdf": (b"%PDF-",),
    "application/zip": (b"PK\x03\x04", b"PK\x05\x06"),
    "application/gzip": (b"\x1f\x8b",),
}


def judged(content_type: str, first: bytes) -> Verdict:
    """What a file is by its claimed type and its first bytes (AF4)."""
    kind = content_type.partition(";")[0].strip().lower()
    if kind in _PROGRAM_TYPES or first.startswith(_PROGRAMS):
        return "rejected"
    wanted = _MAGIC.get(kind)
    return "suspicious" if wanted and not first.startswith(wanted) else "basic_clean"


class AttachmentFiles:
    """One folder of files."""

    def __init__(self, folder: Path) -> None:
        make_folder(folder)
        self._folder = folder
        self._kept = sum(each.stat().st_size for each in folder.iterdir())  # bytes
        self._coming: dict[str, int] = {}  # the same, of the parts that are being written

    @property
    def held(self) -> int:
        """Bytes that lie here (AF3)."""
        return self._kept + sum(self._coming.values())

    def path(self, identifier: str) -> Path:
        """Where the bytes of an attachment lie, or will (AF1)."""
        return self._folder / identifier

    def check_room(self, size: int) -> None:
        """Refused if a file of so many bytes has no room now (AF3)."""
        if self.held + size > MOST:
            raise Refused("this node's attachments fill their share", code="quota_exceeded")
        if self.free() < size + RESERVE:
            raise Refused("there is not enough room on this node's disk", code="quota_exceeded")

    async def keep(
        self, identifier: str, data: AsyncIterable[bytes], size: int, sha256: str
    ) -> bytes:
        """Take in the bytes as they come (AF2, AF3); the first of them. Invalid if they are others.

        Refused with the code `quota_exceeded`: there is no room.
        """
        part = self._folder / f"{identifier}.{random_bytes(8).hex()}{_PART}"
        self._coming[part.name] = 0
        try:
            first = await self._write(part, data, size, sha256)
            await trio.to_thread.run_sync(self._publish, part, self.path(identifier))
            self._kept += size
        except OSError as exc:
            raise StorageError(f"an attachment cannot be kept: {exc.strerror}") from exc
        finally:
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(lambda: part.unlink(missing_ok=True))
            del self._coming[part.name]
        return first

    async def _write(self, part: Path, data: AsyncIterable[bytes], size: int, sha256: str) -> bytes:
        file = await trio.to_thread.run_sync(_create, part)
        hashed, written, first = hashlib.sha256(), 0, b""
        try:
            async for piece in data:
                written += len(piece)
                if written > size:
                    raise Invalid(f"more than the {size} bytes that were announced")
                first = first or piece[:SNIFFED]
                self.check_room(len(piece))
                self._coming[part.name] = written
                await trio.to_thread.run_sync(_append, file, hashed, piece)
            if written != size or hashed.hexdigest() != sha256:
                raise Invalid("these are not the bytes that were announced: size or digest differ")
            await trio.to_thread.run_sync(os.fsync, file.fileno())
        finally:
            file.close()
        return first

    def _publish(self, part: Path, path: Path) -> None:
        part.replace(path)
        try:
            sync_folder(self._folder)
        except StorageError:
            path.unlink(missing_ok=True)
            raise

    async def pieces(self, identifier: str) -> AsyncGenerator[bytes, None]:
        """All bytes, at most PIECE of them at a time; to be closed. Raises StorageError."""
        try:
            file = await trio.to_thread.run_sync(_open, self.path(identifier))
            try:
                while piece := await trio.to_thread.run_sync(file.read, PIECE):
                    yield piece
            finally:
                file.close()
        except OSError as exc:
            raise StorageError(f"an attachment cannot be read: {exc.strerror}") from exc

    async def remove(self, identifier: str) -> None:
        """Forget the bytes."""
        await self._forget(self.path(identifier))

    async def sweep(self, living: Callable[[], Awaitable[Collection[str]]]) -> int:
        """Remove what belongs to no attachment any more; how many files.

        What lies here is looked at before `living` is asked: what comes meanwhile stays.
        """
        found = await trio.to_thread.run_sync(
            lambda: [each.name for each in self._folder.iterdir()]
        )
        stays = {*await living()}
        over = [name for name in found if name not in stays and name not in self._coming]
        for name in over:
            await self._forget(self._folder / name)
        return len(over)

    async def _forget(self, path: Path) -> None:
        self._kept -= await trio.to_thread.run_sync(_unlink, path)

    def free(self) -> int:
        """Bytes that are free on the disk."""
        found = os.statvfs(self._folder)
        return found.f_bavail * found.f_frsize


def _open(path: Path) -> BinaryIO:
    return path.open("rb", buffering=0)


def _create(path: Path) -> BinaryIO:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    return os.fdopen(os.open(path, flags, 0o600), "wb", buffering=0)


def _unlink(path: Path) -> int:
    """The bytes that are free now."""
    with suppress(FileNotFoundError):
        size = path.stat().st_size
        path.unlink()
        return size
    return 0


def _append(file: BinaryIO, hashed: "hashlib._Hash", piece: bytes) -> None:
    hashed.update(piece)
    left = memoryview(piece)
    while left:  # one write takes less than all when the disk is about to be full
        left = left[file.write(left) :]
