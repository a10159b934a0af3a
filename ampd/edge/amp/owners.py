"""The people whose agents register: their keys (section 03, "Owner Authentication"), invitations.

    uk_<base64url of "OWNER:MAC">     OWNER can be read from it, and only this node can make the MAC

  OW1  A user key is static and needs no table: the node makes the same one again.
  OW2  It is that of somebody who has one of the node's admin keys (gateway.admin_keys): the admin
       key is the session token by which it is fetched, and with it the user key ends, too.
  OW3  An invitation is used once, within 7 days; only its hash is kept.

Not here: what an owner key allows (register.py, agents.py).
"""

import base64
import binascii
import hashlib
import hmac
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Final

from ampd.protocol.amp.faults import Fault, unauthorized
from ampd.storage.registry import Registry

PREFIX: Final = "uk_"
INVITE: Final = "amp.invite"
INVITE_PREFIX: Final = "inv_"
INVITE_FOR: Final = 7 * 86_400_000  # milliseconds


class Owners:
    """Who owns agents here."""

    def __init__(
        self, admin_keys: Path, secret: bytes, registry: Registry, now: Callable[[], int]
    ) -> None:
        """`secret` is known to this node only, and stays."""
        self._admin_keys = admin_keys
        self._secret = hashlib.blake2b(b"ampd/amp-user-key", key=secret[:64]).digest()
        self._registry = registry
        self._now = now

    def session(self, token: str) -> str:
        """The owner whose admin key this is. Fault 401 if nobody's (OW2)."""
        for known in self._known():
            if hmac.compare_digest(known.encode(), token.encode("utf-8", "replace")):
                return _owner_id(known)
        raise unauthorized("this needs the session of an owner: one of the node's admin keys")

    def of_user_key(self, key: str) -> str:
        """The owner whose user key this is. Fault 401 if nobody's (OW1, OW2)."""
        for known in self._known():
            owner = _owner_id(known)
            if hmac.compare_digest(self.user_key(owner).encode(), key.encode("utf-8", "replace")):
                return owner
        raise unauthorized("this user key is not valid here")

    def of(self, token: str) -> str:
        """The owner whom either kind of key names, for managing agents."""
        return self.of_user_key(token) if token.startswith(PREFIX) else self.session(token)

    def user_key(self, owner: str) -> str:
        """The user key of an owner (OW1)."""
        mac = hmac.new(self._secret, owner.encode(), hashlib.sha256).hexdigest()[:40]
        text = base64.urlsafe_b64encode(f"{owner}:{mac}".encode()).decode("ascii")
        return PREFIX + text.rstrip("=")

    async def invite(self) -> tuple[str, int]:
        """A new invitation, and until when it can be used (OW3)."""
        code = INVITE_PREFIX + secrets.token_hex(16)
        until = self._now() + INVITE_FOR
        await self._registry.put(INVITE, _hashed(code), {}, expires=until)
        return code, until

    def check_invite(self, code: str) -> None:
        """Fault 403 unless the invitation is good."""
        if self._registry.get(INVITE, _hashed(code)) is None:
            raise Fault("tenant_access_denied", 403, "registering here needs an invite_code")

    async def use_invite(self, code: str) -> None:
        """Fault 403 unless it was good until now (OW3)."""
        if not await self._registry.delete(INVITE, _hashed(code)):
            raise Fault("tenant_access_denied", 403, "this invite_code has been used")

    def _known(self) -> list[str]:
        try:
            lines = self._admin_keys.read_text("utf-8").splitlines()
        except (FileNotFoundError, UnicodeDecodeError):
            return []
        return [line.strip() for line in lines if line.strip() and not line.startswith("#")]


def owner_in(key: str) -> str:
    """The owner id that a user key spells; "" if it spells none. Proves nothing."""
    text = key.removeprefix(PREFIX)
    try:
        return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)).decode().partition(":")[0]
    except (binascii.Error, ValueError):
        return ""


def _owner_id(admin_key: str) -> str:
    return "usr_" + hashlib.sha256(b"ampd/amp-owner" + admin_key.encode()).hexdigest()[:16]


def _hashed(code: str) -> str:
    return hashlib.sha256(code.encode("utf-8", "surrogatepass")).hexdigest()
