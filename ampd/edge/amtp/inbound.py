"""Messages that the gateways of other domains bring: POST /v1/messages with a foreign sender.

  IN1  Before anything is kept: the owner's rules for this sender (policies.py), then its domain's
       signature (verification.py), then the schema.
  IN2  A message is kept once for each recipient: by sender, idempotency key and recipient, for
       REPEATS_FOR. The same ids for another recipient are another copy of the same message, which
       is how gateways send to several (9.3.3). A repeat has the first answer; what nobody proved
       is no repeat of what its sender signed.
  IN3  A recipient that does not live here is AGENT_UNKNOWN, one of another domain is refused too:
       nothing is passed on for others (9.3.3).
  IN4  "delivered" means on disk, in the recipient's mailbox.

Not here: what a message may look like (protocol/amtp/message.py, whose members come checked).
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import trio

from ampd.core.agents import Agent
from ampd.core.foreign import Foreign
from ampd.edge.amtp.failures import Failure
from ampd.edge.amtp.policies import Policies
from ampd.edge.amtp.ports import Mail
from ampd.edge.amtp.schemas import Schemas
from ampd.edge.amtp.times import time_text
from ampd.edge.amtp.verification import Verification, Verifier
from ampd.edge.http.words import Answer, Request
from ampd.model.address import Address
from ampd.model.errors import Invalid, Refused
from ampd.protocol.amtp.statuses import RecipientStatus, http_status, overall
from ampd.storage.registry import Batch, Registry

REPEATS_FOR: Final = 31 * 86_400_000  # ms: AMTP asks for 7 days; a day more than mail lasts here
_SEEN: Final = "amtp.seen"
_PROOF: Final = "amtp.verification"
# What foreign.take_in refuses, in AMTP's words (section 13.1); everything else is REFUSED's.
_WORDS: Final = {
    "too_large": "MESSAGE_TOO_LARGE",
    "recipient_unknown": "AGENT_UNKNOWN",
    "conflict": "IDEMPOTENCY_CONFLICT",
    "invalid": "INVALID_MESSAGE_FORMAT",
}
_REFUSED: Final = "ACCESS_DENIED"


class Inbound:
    """Takes in what other gateways bring."""

    def __init__(
        self,
        registry: Registry,
        foreign: Foreign,
        mail: Mail,
        schemas: Schemas,
        policies: Policies,
        verifier: Verifier,
    ) -> None:
        self._registry = registry
        self._foreign = foreign
        self._mail = mail
        self._schemas = schemas
        self._policies = policies
        self._verifier = verifier
        self._coming: dict[str, trio.Event] = {}  # by IN2's key, while they are being kept
        self._proofs: dict[str, dict[str, str]] = {}  # of those, what will be remembered

    async def take_in(self, request: Request, message: Mapping[str, Any], now: int) -> Answer:
        """Keep a message for those of its recipients that live here, and say who has it (IN1-IN4).

        Raises Failure, or Unavailable when it should be sent again.
        """
        sender = Address.parse(message["sender"])
        self._policies.check(sender, message.get("schema", ""))
        proof = await self._verifier.check(request.json(), sender.domain)
        found = {text: self._mail.agent_at(text) for text in dict.fromkeys(message["recipients"])}
        agents = [agent for agent in found.values() if agent is not None]
        await self._schemas.check(message, agents)
        statuses = []
        first = message["message_id"]
        for text, agent in found.items():
            if agent is None:
                statuses.append(self._unknown(text, now))
                continue
            status, identifier = await self._once(message, sender, text, agent, proof, now)
            statuses.append(status)
            first = identifier or first
        return _answer(first, statuses)

    def verification_of(self, message_id: str) -> dict[str, str] | None:
        """What was found out about the sender of a message, by its id."""
        found = self._registry.find(_PROOF, prefix=f"{message_id}/", limit=2)
        if not found:
            return self._proofs.get(message_id)
        return found[0].value if len(found) == 1 else None

    async def _once(
        self, message: Mapping[str, Any], sender: Address, text: str, agent: Agent,
        proof: Verification, now: int,
    ) -> tuple[RecipientStatus, str]:  # fmt: skip
        """One recipient's copy (IN2), and the id under which it came first."""
        word = "" if proof.proved else "/unproved"
        key = f"{sender}/{message['idempotency_key'].lower()}/{agent.name}{word}"
        while key in self._coming:
            await self._coming[key].wait()
        done = self._coming[key] = trio.Event()
        try:
            if before := self._registry.get(_SEEN, key):
                return self._delivered(text, agent, before["at"]), before["id"]
            incoming = self._mail.incoming(message, sender, (agent,), proved=proof.proved)
            self._proofs[message["message_id"]] = proof.document(self._verifier.policy)
            await self._foreign.take_in(incoming)
            await self._remember(key, message["message_id"], sender, proof, agent, now)
            return self._delivered(text, agent, now), ""
        except Refused as exc:
            return self._failed(text, _WORDS.get(exc.code, _REFUSED), str(exc), now), ""
        finally:
            self._proofs.pop(message["message_id"], None)
            del self._coming[key]
            done.set()

    async def _remember(
        self, key: str, identifier: str, sender: Address, proof: Verification, agent: Agent,
        now: int,
    ) -> None:  # fmt: skip
        """After it was kept: what a crash forgets here is known again by the message's id."""
        said = proof.document(self._verifier.policy)
        seen = {"id": identifier, "at": now}
        until = now + REPEATS_FOR

        def work(batch: Batch) -> None:
            batch.put(_SEEN, key, seen, owner=agent.name, expires=until)
            keep = batch.put if proof.proved else batch.add
            keep(_PROOF, f"{identifier}/{sender}", said, expires=until)

        await self._registry.change(work)

    def _delivered(self, text: str, agent: Agent, at: int) -> RecipientStatus:
        return RecipientStatus(
            text, "delivered", time_text(at) or "", attempts=1,
            delivery_mode=self._mail.delivery_mode(agent), local=True,
            delivered_at=time_text(at) or "",
        )  # fmt: skip

    def _unknown(self, text: str, now: int) -> RecipientStatus:
        """IN3."""
        try:
            ours = self._mail.is_ours(Address.parse(text).domain)
        except Invalid as exc:
            return self._failed(text, "INVALID_RECIPIENT", str(exc), now)
        if ours:
            return self._failed(text, "AGENT_UNKNOWN", f"no agent {text} lives here", now)
        why = f"{text} does not live here, and nothing is passed on for other domains"
        return self._failed(text, "RECIPIENT_NOT_FOUND", why, now)

    def _failed(self, text: str, word: str, why: str, now: int) -> RecipientStatus:
        at = time_text(now) or ""
        return RecipientStatus(text, "failed", at, error_code=word, error_message=why)


def _answer(identifier: str, statuses: Sequence[RecipientStatus]) -> Answer:
    status = http_status(statuses)
    document: dict[str, Any] = {
        "message_id": identifier,
        "status": overall(statuses),
        "recipients": [each.document() for each in statuses],
    }
    if status == 400:
        worst = statuses[0]
        raise Failure(400, worst.error_code, worst.error_message, members=document)
    return Answer.json(status, document)
