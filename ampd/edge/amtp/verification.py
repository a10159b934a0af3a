"""Who sent a message that came from elsewhere: its domain's signature, and what follows from none.

AMTP 1.0, Domain Signatures, section 9.3.4.

    verified          the domain of the sender signed this very body
    unsigned          it carries no signature
    invalid           it carries one that does not hold, or two keys are published
    key_unavailable   the DNS shows no key, or does not answer

  VF1  What is checked is the body as it came, members that nobody knows included.
  VF2  It is checked before anything is kept, sent or counted for a workflow.
  VF3  gateway.amtp_signatures says what becomes of a message that is not verified: `accept` takes
       it, `flag` takes it and says so in the log, `reject` refuses it: 403, or 503 where a later
       try may find the key. Whatever is taken without proof is shown as untrusted.

Not here: the signature itself (protocol/amtp/domain_signature.py).
"""

import logging
from collections.abc import Mapping
from typing import Any, Final

from ampd.edge.amtp.failures import Failure
from ampd.edge.amtp.gateways import Gateways
from ampd.model.errors import Invalid, Unavailable
from ampd.model.values import value
from ampd.protocol.amtp.dns_record import NoKey
from ampd.protocol.amtp.domain_signature import holds, signature_of

log = logging.getLogger("ampd.amtp")

_REFUSED: Final = {
    "unsigned": (403, "SIGNATURE_REQUIRED", "messages of other domains must be signed here"),
    "invalid": (403, "SIGNATURE_INVALID", "the signature does not hold"),
    "key_unavailable": (503, "SIGNATURE_KEY_UNAVAILABLE", "the key of this domain cannot be had"),
}  # fmt: skip


@value
class Verification:
    """What is known of a sender."""

    result: str
    domain: str
    algorithm: str = ""
    keyid: str = ""
    why: str = ""  # for the log

    @property
    def proved(self) -> bool:
        """Whether the domain signed it."""
        return self.result == "verified"

    def document(self, policy: str) -> dict[str, str]:
        """The member sender_verification of a status."""
        found = {"result": self.result, "domain": self.domain, "policy": policy}
        if self.proved:
            found["method"] = "domain_signature"
        if self.keyid:
            found |= {"keyid": self.keyid, "algorithm": self.algorithm}
        return found


class Verifier:
    """Checks signatures, and applies the owner's policy."""

    def __init__(self, gateways: Gateways, policy: str) -> None:
        """`policy` is accept, flag or reject."""
        self._gateways = gateways
        self.policy = policy

    async def check(self, body: Mapping[str, Any], domain: str) -> Verification:
        """What is known of the sender of this body; Failure if the policy refuses it (VF3)."""
        found = await self.verify(body, domain)
        if found.proved or self.policy == "accept":
            return found
        if self.policy == "reject":
            status, word, message = _REFUSED[found.result]
            raise Failure(status, word, message, details={"domain": domain, "result": found.result})
        log.warning(
            "a message from elsewhere is not proved",
            extra={"domain": domain, "result": found.result, "why": found.why},
        )
        return found

    async def verify(self, body: Mapping[str, Any], domain: str) -> Verification:
        """What a body proves (VF1)."""
        try:
            signature = signature_of(body)
        except Invalid as exc:
            return Verification("invalid", domain, why=str(exc))
        if signature is None:
            return Verification("unsigned", domain)
        named = {"algorithm": signature.algorithm, "keyid": signature.selector}
        try:
            record = await self._gateways.key(signature.selector, domain)
        except (NoKey, Unavailable) as exc:
            return Verification("key_unavailable", domain, **named, why=str(exc))
        except Invalid as exc:
            return Verification("invalid", domain, **named, why=str(exc))
        if not holds(body, signature, record):
            why = "the signature does not fit the body and the key"
            return Verification("invalid", domain, **named, why=why)
        return Verification("verified", domain, **named)
