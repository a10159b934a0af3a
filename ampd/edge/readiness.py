"""Whether the gateways can take mail now, in words that anybody may read.

  RD1  They cannot while the store cannot be read, while new mail is refused because the disk is
       full, and while the disk has less than NOTHING free, though nobody has tried yet. With ENOUGH
       free they can again, before the next message shows it: whoever is sent away brings none.

Not here: what the store does about a full disk (storage/reserve.py); what the owner is told
(overview.py).
"""

import os
from typing import Final

from ampd.model.errors import StorageError
from ampd.storage.store import Store

NOTHING: Final = 64 << 10  # bytes: less than one message may need
ENOUGH: Final = 16 << 20  # bytes: the store's reserves are 7 MiB, and are made whole first


def why_not(store: Store) -> str:
    """Why no mail can be taken (RD1); "" if it can."""
    try:
        store.view.execute("SELECT 1")
        found = os.statvfs(store.index_path.parent)
    except (StorageError, OSError):
        return "what is stored cannot be read now"
    free = found.f_bavail * found.f_frsize
    if free < (ENOUGH if store.full else NOTHING):
        return "the disk is full: new mail is refused until there is room"
    return ""
