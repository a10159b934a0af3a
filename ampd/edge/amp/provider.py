"""This node as an AMP provider: its domain, and the keys with which it signs for AMP.

PK1  The provider's Ed25519 key is made at the first start, lies in `amp_provider.key` (0600,
     crypto/keyfiles.py) and stays: others pin its fingerprint.
PK2  An agent without an account of AMP signs with a key of its own for AMP, derived from its
     secret: no signature that AMP wants can be one of ampd's own protocols.
"""

import functools
import hashlib
from pathlib import Path

from ampd.core.agents import Agent
from ampd.crypto import keyfiles
from ampd.crypto.foreign_keys import ForeignSigner


class Provider:
    """Who this node is to other providers."""

    def __init__(self, domain: str, state: Path) -> None:
        """Load the key, or make it (PK1). Raises StorageError."""
        self.domain = domain.lower()
        self.signer = ForeignSigner.from_seed(keyfiles.node_key(state / "amp_provider.key").seed)

    @property
    def pem(self) -> str:
        """The public key."""
        return self.signer.public.pem()

    @property
    def fingerprint(self) -> str:
        """SHA256:... of the public key, as DNS records and /info have it."""
        return self.signer.public.fingerprint

    @staticmethod
    def signer_of(agent: Agent) -> ForeignSigner:
        """The AMP key of an agent that has no account (PK2)."""
        return _signer_of(agent.keys.signing.seed)


@functools.lru_cache(maxsize=256)  # agents whose mail is on the pages of the moment
def _signer_of(secret: bytes) -> ForeignSigner:
    return ForeignSigner.from_seed(
        hashlib.blake2b(b"ampd/amp-agent", key=secret, digest_size=32).digest()
    )
