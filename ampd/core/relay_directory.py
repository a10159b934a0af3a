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

Not here: which cards are kept (relay.py, E5).
"""

import hashlib
from typing import Final

from ampd.crypto.keys import SigningKey, seal
from ampd.model.card import Card
from ampd.storage.relay_store.port import RETRY_STORE, Full, RelayStore

MAX_AT_ADDRESS: Final = 32  # an agent has one key; a few more after it was made anew


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

    async def put(self, key: bytes, card: Card, signed: bytes) -> bool:
        """Keep a card; False if it is no newer than what is kept of its key. Raises Full (N4)."""
        name = self._name(str(card.address))
        if await self._store.card(key) is None:
            others = await self._store.cards(name, MAX_AT_ADDRESS)
            if len(others) >= MAX_AT_ADDRESS:
                raise Full(f"{len(others)} keys claim this address here already", RETRY_STORE)
        kept = signed if self._key is None else seal(self._key.public, signed)
        return await self._store.put_card(key, name, card.number, kept, withdrawn=card.withdrawn)

    async def of(self, key: bytes) -> bytes | None:
        """The signed card that is kept of a key; None too if it was altered (N2)."""
        kept = await self._store.card(key)
        return kept if kept is None or self._key is None else self._key.open(kept)

    async def find(self, pattern: str, limit: int) -> list[bytes]:
        """The signed cards of an address, of a domain ("@x.local"), or of everybody ("")."""
        kept = await self._store.cards(self._name(pattern), limit)
        if self._key is None:
            return kept
        opened = [self._key.open(each) for each in kept]
        return [each for each in opened if each is not None]

    def _name(self, pattern: str) -> str:
        """`pattern` as the store knows it: of the same form, and nothing to be read in it."""
        if self._key is None or not pattern:
            return pattern
        name, _, domain = pattern.rpartition("@")
        return f"{self._hash(pattern) if name else ''}@{self._hash(domain)}"

    def _hash(self, text: str) -> str:
        return hashlib.blake2b(text.encode(), digest_size=16, key=self._secret).hexdigest()
