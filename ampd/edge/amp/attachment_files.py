"""The bytes of attachments on disk, and what their first bytes say they are.

  AF1  A file is named by the attachment's id, which is random and made here; what a client calls it
       is data and no path.
  AF2  It appears under its name only whole: its size and SHA-256 were compared while it was
       written, it was synced, and so was its entry. What a crash left half done is swept away.
  AF3  `judged` reads the first bytes: programs and scripts are "rejected", what is not what it
       claims to be is "suspicious", all else is "basic_clean". It is no scan for viruses.

Blocking work is done in worker threads.
"""

import hashlib
import os
from collections.abc import AsyncIterable, Collection
from pathlib import Path
from typing import BinaryIO, Final, Literal

import trio

from ampd.crypto.keyfiles import make_folder, sync_folder
from ampd.crypto.keys import random_bytes
from ampd.model.errors import Invalid, StorageError

Verdict = Literal["basic_clean", "suspicious", "rejected"]
SNIFFED: Final = 512  # bytes: where every magic number below stands
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
    """What a file is by its claimed type and its first bytes (AF3)."""
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

    def path(self, identifier: str) -> Path:
        """Where the bytes of an attachment lie, or will (AF1)."""
        return self._folder / identifier

    async def keep(
        self, identifier: str, data: AsyncIterable[bytes], size: int, sha256: str
    ) -> bytes:
        """Take in the bytes as they come (AF2); the first of them. Invalid if they are others."""
        part = self._folder / f"{identifier}.{random_bytes(8).hex()}{_PART}"
        try:
            first = await self._write(part, data, size, sha256)
            await trio.to_thread.run_sync(self._publish, part, self.path(identifier))
        except OSError as exc:
            raise StorageError(f"an attachment cannot be kept: {exc.strerror}") from exc
        finally:
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(lambda: part.unlink(missing_ok=True))
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
                await trio.to_thread.run_sync(_append, file, hashed, piece)
            if written != size or hashed.hexdigest() != sha256:
                raise Invalid("these are not the bytes that were announced: size or digest differ")
            await trio.to_thread.run_sync(os.fsync, file.fileno())
        finally:
            file.close()
        return first

    def _publish(self, part: Path, path: Path) -> None:
        part.replace(path)
        sync_folder(self._folder)

    def read(self, identifier: str) -> bytes:
        """All bytes; for a worker thread. Raises StorageError."""
        try:
            return self.path(identifier).read_bytes()
        except OSError as exc:
            raise StorageError(f"an attachment cannot be read: {exc.strerror}") from exc

    def remove(self, identifier: str) -> None:
        """Forget the bytes; for a worker thread."""
        self.path(identifier).unlink(missing_ok=True)

    def sweep(self, living: Collection[str]) -> int:
        """Remove what belongs to no attachment any more; how many files. For a worker thread.

        Nothing may be coming in meanwhile, or its half would go.
        """
        swept = 0
        for path in self._folder.iterdir():
            if path.name not in living:
                path.unlink(missing_ok=True)
                swept += 1
        return swept

    def free(self) -> int:
        """Bytes that are free on the disk."""
        found = os.statvfs(self._folder)
        return found.f_bavail * found.f_frsize


def _create(path: Path) -> BinaryIO:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    return os.fdopen(os.open(path, flags, 0o600), "wb", buffering=0)


def _append(file: BinaryIO, hashed: "hashlib._Hash", piece: bytes) -> None:
    file.write(piece)
    hashed.update(piece)
