"""The file of admin keys: one key a line, empty lines and `#` comments between them.

  AK1  The file is made at the first start, with one key of 256 random bits, for its owner alone
       (0600 from the first system call); one that is there is never changed.
  AK2  It is read at every request: a key that was added or taken out counts at once.
  AK3  Keys are compared in constant time, with every line.

Not here: what a holder of a key may do (accounts.py).
"""

import base64
import hmac
import os
from pathlib import Path

from ampd.crypto.keys import random_bytes
from ampd.model.errors import Unavailable

KEY_BYTES = 32
_COMMENT = "# Admin keys of the AMTP gateway: one a line. Read at every request.\n"


def new_key() -> str:
    """A fresh key: URL-safe base64 without padding, 43 characters."""
    return base64.urlsafe_b64encode(random_bytes(KEY_BYTES)).decode("ascii").rstrip("=")


class AdminKeys:
    """The keys in one file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def make(self) -> None:
        """Make the file if it is not there (AK1). Raises Unavailable."""
        try:
            fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except FileExistsError:
            return
        except OSError as exc:
            raise self._unavailable(exc) from None
        with os.fdopen(fd, "w", encoding="ascii") as file:
            file.write(f"{_COMMENT}{new_key()}\n")

    def holds(self, key: str) -> bool:
        """Whether `key` is one of them (AK2, AK3). Unavailable if the file cannot be read."""
        try:
            text = self._path.read_text(encoding="utf-8", errors="replace")
        except OSError as exc:
            raise self._unavailable(exc) from None
        given, found = key.encode(), False
        for line in text.splitlines():
            known = line.strip().encode()
            if known and not known.startswith(b"#"):
                found |= hmac.compare_digest(known, given)
        return found

    def _unavailable(self, exc: OSError) -> Unavailable:
        return Unavailable(
            f"the file of admin keys cannot be used: {exc.strerror}", hint=f"ls -l {self._path}"
        )
