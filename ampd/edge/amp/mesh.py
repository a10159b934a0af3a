"""Mail between hosts of one local network (AMP section 06a).

    gateway.mesh    {"server-01" = "http://192.168.1.20:23000"}

    POST URL/v1/route           X-Forwarded-From: HOST           who forwards
                                X-AMP-Envelope-Id: msg_...
                                X-AMP-Signature: ...             the sender's own
                                X-AMP-Sender-Key: HEX

  MH1  A name of this network is for another host if its first label, or all of it, is in
       gateway.mesh; or if a proved message of that address came from one (then answers go there).
       No other name of this network ever leaves this node.
  MH2  A request that says it is forwarded is believed if it names a host of gateway.mesh and comes
       from an address of that host; any other is refused.
  MH3  What it brings is checked as any other message from elsewhere: the sender's signature, and
       the key first seen for its address (intake.py). The host's word alone proves no sender.
  MH4  What a host does not take now stays in the outbox, which tries for seven days (core/abroad).
  MH5  Hosts have limits, and what they bring stands in the log.

Two ampd nodes that know each other as peers use their own sessions instead, and need none of this.
"""

import ipaddress
import logging
from collections.abc import Awaitable, Callable
from typing import Final
from urllib.parse import urlsplit

from ampd.core.agents import Agent
from ampd.edge.amp.departing import Departing, answered
from ampd.edge.amp.discovery import versioned
from ampd.edge.amp.intake import Intake, key_said
from ampd.edge.amp.keys import key_hex
from ampd.edge.amp.limits import Limits
from ampd.edge.amp.outcomes import Outcome
from ampd.edge.amp.ports import Document
from ampd.edge.documents import time_text
from ampd.edge.gateway_values import Shared
from ampd.edge.http.words import Answer, Request
from ampd.model.address import Address
from ampd.model.errors import Invalid, Unavailable
from ampd.model.message import Delivery
from ampd.protocol import raw_json
from ampd.protocol.amp.address import AmpAddress, is_local_network
from ampd.protocol.amp.envelope import check_times, read_envelope
from ampd.protocol.amp.faults import Fault

KEPT_FOR: Final = 400 * 86_400_000  # where an address was last seen
_WITHIN: Final = 15.0  # seconds
_PEERS: Final = "amp.mesh_peer"
_FLAT: Final = (
    "from", "to", "subject", "priority", "in_reply_to", "thread_id", "signature", "expires_at",
)  # fmt: skip

log = logging.getLogger("ampd.amp.mesh")


class Mesh:
    """The other hosts of this network."""

    def __init__(
        self,
        shared: Shared,
        intake: Intake,
        limits: Limits,
        outcome: Callable[[Agent, bytes], Awaitable[Outcome]],
    ) -> None:
        """`outcome` says what became of a message for an agent here."""
        self._shared = shared
        self._intake = intake
        self._limits = limits
        self._outcome = outcome
        self._hosts = {name.lower(): url for name, url in shared.values.mesh.items()}
        self._reached: dict[str, bool] = {}
        self.own = shared.values.node_domain.partition(".")[0]

    @property
    def status(self) -> Document:
        """The block of /health."""
        return {
            "enabled": bool(self._hosts),
            "hosts_configured": len(self._hosts),
            "hosts_reachable": sum(self._reached.values()),
            "self_host_id": self.own,
        }

    def host_of(self, address: str) -> str:
        """The host that an address is for; "" if it is for none (MH1)."""
        domain = AmpAddress.parse(address).domain
        if not self._hosts or not is_local_network(domain):
            return ""
        for name in (domain, domain.partition(".")[0]):
            if name in self._hosts:
                return name
        known = self._shared.registry.get(_PEERS, address.lower())
        return str(known["host"]) if known and known["host"] in self._hosts else ""

    # --- out -------------------------------------------------------------------------------

    async def forward(self, recipient: Address, departing: Departing) -> Delivery:
        """Hand a message to the recipient's host (MH4). Raises Refused, Unavailable."""
        host = self.host_of(str(recipient))
        if not host:
            raise Unavailable(f"no host of gateway.mesh is known for {recipient}")
        envelope = departing.envelope
        body = {name: envelope.get(name) for name in _FLAT}
        body["payload"] = departing.payload
        body["_forwarded"] = {
            "original_from": envelope["from"],
            "original_to": envelope["to"],
            "forwarded_by": self.own,
            "forwarded_at": time_text(self._shared.now()),
        }
        headers = {
            "Content-Type": "application/json",
            "X-Forwarded-From": self.own,
            "X-AMP-Envelope-Id": str(envelope["id"]),
            "X-AMP-Signature": str(envelope["signature"]),
            "X-AMP-Sender-Key": key_hex(departing.key),
        }
        url = f"{versioned(self._hosts[host])}/route"
        try:
            reply = await self._shared.http.send(
                "POST", url, headers=headers, body=raw_json.write(body).encode(),
                timeout=_WITHIN, anywhere=True,
            )  # fmt: skip
        except Unavailable:
            self._reached[host] = False
            raise
        self._reached[host] = True
        return answered(reply, f"the host {host}")

    # --- in --------------------------------------------------------------------------------

    async def forwarder(self, request: Request) -> str:
        """The host that forwarded a request; "" if it is nobody's but the client's (MH2)."""
        said = request.headers.get("x-forwarded-from", "").strip().lower()
        if not said:
            return ""
        if said not in self._hosts:
            raise Fault("forbidden", 403, f"{said[:80]!r} is no host of this mesh")
        if not await self._is_from(said, request.peer):
            text = f"a request in the name of {said} came from {request.peer}"
            log.warning("mesh.refused", extra={"host": said, "peer": request.peer})
            raise Fault("forbidden", 403, text)
        return said

    async def _is_from(self, host: str, peer: str) -> bool:
        try:
            found = await self._shared.dns.addresses(urlsplit(self._hosts[host]).hostname or "")
            return ipaddress.ip_address(peer) in {ipaddress.ip_address(each) for each in found}
        except (ValueError, Unavailable):
            return False

    async def take_in(self, request: Request) -> Answer:
        """What a host forwarded (MH2, MH3, MH5). Raises Fault."""
        host = await self.forwarder(request)
        headers = self._limits.take_all(
            (("federation", f"mesh {host}"), ("federation_total", "all providers"))
        )
        envelope, payload = self._read(request)
        post = read_envelope(envelope, payload)
        check_times(post, self._shared.now())
        agent = self._intake.recipient(post.to, host)
        key = key_said(request.headers.get("x-amp-sender-key", ""))
        taken = await self._intake.take(post, agent, key, host)
        await self._remember(post.sender, host, proved=key is not None and bool(post.signature))
        outcome = await self._outcome(agent, taken.id)
        log.info(
            "mesh.received",
            extra={
                "host": host, "message_id": post.id, "sender": post.sender, "recipient": post.to,
                "repeated": not taken.fresh,
            },
        )  # fmt: skip
        answer: Document = {"id": post.id, "status": outcome.status, "method": outcome.method}
        done = "delivered_at" if outcome.status == "delivered" else "queued_at"
        return Answer.json(200, {**answer, done: time_text(outcome.at)}, headers)

    def _read(self, request: Request) -> tuple[Document, object]:
        """The envelope that the flat body and the headers make."""
        body = request.json()
        if not isinstance(body, dict):
            raise Fault("invalid_request", 400, "the body must be a JSON object")
        envelope = {name: body[name] for name in _FLAT if body.get(name) is not None}
        said = request.headers.get("x-amp-signature", "")
        if said and envelope.setdefault("signature", said) != said:
            raise Fault("signature_invalid", 403, "header and body have different signatures")
        identifier = request.headers.get("x-amp-envelope-id", "") or body.get("id")
        if not identifier:
            raise Fault("missing_field", 400, "X-AMP-Envelope-Id is missing", field="id")
        made = {
            "version": "amp/0.1",
            "id": identifier,
            "timestamp": time_text(self._shared.now()),
        }
        return {**made, **envelope}, body.get("payload")

    async def _remember(self, sender: str, host: str, *, proved: bool) -> None:
        """MH1: where answers go."""
        try:
            address = AmpAddress.parse(sender)
        except Invalid:
            return
        key, known = str(address), self._shared.registry.get(_PEERS, str(address))
        is_new = known is None or known["host"] != host
        if proved and is_new and is_local_network(address.domain):
            expires = self._shared.now() + KEPT_FOR
            await self._shared.registry.put(_PEERS, key, {"host": host}, expires=expires)
