"""Mail that goes out by AMP: to hosts of the mesh, and to other providers (section 06).

  CR1  An address of this network goes to a mesh host or nowhere (mesh.py, MH1).
  CR2  To a provider elsewhere goes POST ENDPOINT/federation/deliver, signed by this provider's key
       over TIMESTAMP "." BODY. Its endpoint is https unless gateway.resolve says otherwise.
  CR3  A provider whose own domain is of this network cannot federate: nobody could answer.
  CR4  `delivered` is what the other provider said; when it holds the message, it is `relayed`.

Waiting and trying again are core/abroad.py's.
"""

import base64
import logging
from typing import Final

from ampd.core.ports import Parcel
from ampd.edge.amp.departing import Departing, Departures, answered
from ampd.edge.amp.discovery import Discovery
from ampd.edge.amp.mesh import Mesh
from ampd.edge.amp.provider import Provider
from ampd.edge.gateway_values import Shared
from ampd.model.address import Address
from ampd.model.errors import AmpdError, Invalid, Refused, Unavailable
from ampd.model.message import Delivery
from ampd.protocol import raw_json
from ampd.protocol.amp.address import AmpAddress, is_local_network

_WITHIN: Final = 20.0  # seconds; the other side may wait 5 for its recipient

log = logging.getLogger("ampd.amp.federation")


class Carrying:
    """The way out."""

    def __init__(
        self,
        shared: Shared,
        discovery: Discovery,
        mesh: Mesh,
        departures: Departures,
        provider: Provider,
    ) -> None:
        self._shared = shared
        self._discovery = discovery
        self._mesh = mesh
        self._departures = departures
        self._provider = provider

    @property
    def federates(self) -> bool:
        """Whether this provider has a name that others can answer to (CR3)."""
        closed = self._shared.values.federation == "closed"
        return not closed and not is_local_network(self._provider.domain)

    async def find(self, address: Address) -> bool:
        """Whether AMP reaches this address. May raise Unavailable."""
        try:
            parsed = AmpAddress.parse(str(address))
        except Invalid:
            return False
        if is_local_network(parsed.domain):
            return bool(self._mesh.host_of(str(address)))
        if not self.federates or "." not in parsed.domain:
            return False
        return await self._discovery.of_address(parsed.domain) is not None

    async def carry(self, parcel: Parcel) -> Delivery:
        """Bring one message to its provider or host (CR1-CR4). Raises Refused, Unavailable."""
        domain = parcel.recipient.domain
        if is_local_network(domain):
            return await self._mesh.forward(parcel.recipient, self._departures.of(parcel))
        if not self.federates:
            raise Refused(
                f"{self._provider.domain} is a name of this network: nobody elsewhere could answer",
                hint="set gateway.amp_domain to a domain that is yours",
            )
        found = await self._discovery.of_address(domain)
        if found is None:
            raise Unavailable(f"no AMP provider is known for {domain}")
        departing = self._departures.of(parcel)
        url = f"{found.endpoint}/federation/deliver"
        delivery = await self._post(url, departing, anywhere=found.anywhere)
        log.info(
            "federation.sent",
            extra={
                "to_provider": found.domain, "message_id": departing.envelope["id"],
                "sender": departing.envelope["from"], "recipient": str(parcel.recipient),
                "status": delivery.status,
            },
        )  # fmt: skip
        return delivery

    async def _post(self, url: str, departing: Departing, *, anywhere: bool) -> Delivery:
        """CR2."""
        document = {
            "envelope": departing.envelope,
            "payload": departing.payload,
            "sender_public_key": departing.key.pem(),
        }
        body, seconds = raw_json.write(document).encode(), self._shared.now() // 1000
        signature = self._provider.signer.sign(f"{seconds}.".encode() + body)
        headers = {
            "Content-Type": "application/json",
            "X-AMP-Provider": self._provider.domain,
            "X-AMP-Timestamp": str(seconds),
            "X-AMP-Signature": base64.b64encode(signature).decode(),
        }
        try:
            reply = await self._shared.http.send(
                "POST", url, headers=headers, body=body, timeout=_WITHIN, anywhere=anywhere
            )
            return answered(reply, url)
        except AmpdError as exc:
            log.warning("federation.failed", extra={"url": url, "why": str(exc)})
            raise
