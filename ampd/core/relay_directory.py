"""What a relay's files hold of its directory: cards that no one can read without the relay's key.

A card says an agent's address, and its relay has to know it while it runs. Its store need not: what
is stored is a card sealed to the relay's own key, under names that are keyed hashes of the address
and of its domain. Who gets hold of the store (a stolen card, a backup, the host of a database)
learns how many agents there are, and no address.

  N1  No address, and no word of a card, is handed to the store but sealed or hashed.
  N2  What was sealed to another key, or altered, is passed over.

Relays that share one cluster have keys of their own and must read each other's cards: they are
given one more key, the same at each and unknown to the cluster (`--store-key`). Without it `key`
is None, and cards are stored as they are.

  N3  Relays with one such key find each other's cards, by address, by domain and all of them.
  N4  An address has at most MAX_AT_ADDRESS cards: whoever claims it with many keys fills no answer.
  N5  When the key is changed, given or taken away, the cards that are kept are unknown, and each is
      replaced when its node shows it again, with its next Collect. What is kept of it still keeps
      older ones out. Relays of one cluster that have different keys take turns in replacing them:
      each serves its own members, and discovers no others.

  N6  Cards are opened a few at a time, so that mail has its turn between them, and the OPENED that
      were asked for last stay open: who asks for everybody again and again costs little.

Not here: which cards are kept (relay.py, E5).
"""

import hashlib
from functools import lru_cache
from typing import Final

import trio

from ampd.crypto.keys import SigningKey, open1, seal
from ampd.model.card import CARD_CONTEXT, Card
from ampd.model.errors import Refused
from ampd.storage.relay_store.port import RETRY_STORE, Full, RelayStore

MAX_AT_ADDRESS: Final = 32  # an agent has one key; a few more after it was made anew
OPENED: Final = 512  # cards: half a MiB as they are, 16 MiB if all are as large as can be
_AT_ONCE: Final = 16  # opened before others get their turn: about 2 ms


class CardBook:
    """The directory of a relay, in its store."""

    def __init__(self, store: RelayStore, key: SigningKey | None) -> None:
        self._store = store
        self._key = key.opening() if key else None
        self._secret = (
            hashlib.blake2b(key.seed, digest_size=32, person=b"ampd/directory/1").digest()
            if key
            else b""
        )
        self._opened = lru_cache(maxsize=OPENED)(self._open)

    async def put(self, key: bytes, card: Card, signed: bytes) -> bool:
        """Keep a card; False if it is no newer than what is kept of its key. Raises Full (N4)."""
        name = self._name(str(card.address))
        known = await self.of(key)
        if known is None:
            others = await self._store.cards(name, MAX_AT_ADDRESS)
            if len(others) >= MAX_AT_ADDRESS:
                raise Full(f"{len(others)} keys claim this address here already", RETRY_STORE)
        kept = signed if self._key is None else seal(self._key.public, signed)
        return await self._store.put_card(
            key, name, card.number, kept, withdrawn=card.withdrawn, renew=known is None
        )

    async def of(self, key: bytes) -> bytes | None:
        """The signed card that is kept of a key; None too if it cannot be read (N2, N5)."""
        kept = await self._store.card(key)
        return None if kept is None else self._opened(kept)

    async def find(self, pattern: str, limit: int) -> list[bytes]:
        """The signed cards of an address, of a domain ("@x.local"), or of everybody ("")."""
        kept = await self._store.cards(self._name(pattern), limit)
        found: list[bytes] = []
        for place, each in enumerate(kept):
            if place % _AT_ONCE == 0:
                await trio.lowlevel.checkpoint()  # N6
            if (card := self._opened(each)) is not None:
                found.append(card)
        return found

    def _open(self, kept: bytes) -> bytes | None:
        if self._key is not None:
            return self._key.open(kept)
        try:
            open1(kept, CARD_CONTEXT)
        except Refused:  # it was sealed, when there was a key
            return None
        return kept

    def _name(self, pattern: str) -> str:
        """`pattern` as the store knows it: of the same form, and nothing to be read in it."""
        if self._key is None or not pattern:
            return pattern
        name, _, domain = pattern.rpartition("@")
        return f"{self._hash(pattern) if name else ''}@{self._hash(domain)}"

    def _hash(self, text: str) -> str:
        return hashlib.blake2b(text.encode(), digest_size=16, key=self._secret).hexdigest()
