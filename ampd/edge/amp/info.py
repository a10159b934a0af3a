"""What the provider says of itself to anybody (sections 06, 08 and 09), OpenAPI included.

IO1  /health is answered with 200 as long as the program runs, and its status is "unhealthy" while
     no mail can be taken (readiness.py).
"""

from collections.abc import Callable
from typing import Final

import ampd
from ampd.edge.amp.keys import ALGORITHMS
from ampd.edge.amp.openapi import document, in_yaml
from ampd.edge.amp.transport import Transport
from ampd.edge.gateway_values import Shared
from ampd.edge.http.words import Answer, Request
from ampd.edge.readiness import why_not
from ampd.protocol.amp.address import Names
from ampd.protocol.amp.envelope import VERSION

CAPABILITIES: Final = (
    "registration", "local-delivery", "relay-queue", "websockets", "webhooks", "attachments",
    "read-receipts",
)  # fmt: skip


class Info:
    """Answers without an API key."""

    def __init__(self, shared: Shared, names: Names, transport: Transport) -> None:
        self._store = shared.rooms.store
        self._values = shared.values
        self._names = names
        self._transport = transport
        self.started = 0.0  # trio's clock; set when the service runs
        self.clock: Callable[[], float] = lambda: 0.0

    def capabilities(self) -> list[str]:
        """What this provider can do with its settings."""
        found = list(CAPABILITIES)
        if self._transport.federation:
            found.append("federation")
        return [*found, "mesh-routing"] if self._values.mesh else found

    async def health(self, _request: Request) -> Answer:
        """GET /health (IO1)."""
        answer = {
            "status": "unhealthy" if why_not(self._store) else "healthy",
            "version": "0.1.0",
            "provider": self._names.provider,
            "federation": self._transport.federation,
            "agents_online": self._transport.online_count(),
            "uptime_seconds": int(self.clock() - self.started),
            "implementation": f"ampd/{ampd.__version__}",
        }
        mesh = self._transport.mesh_status()
        return Answer.json(200, answer | ({"mesh": mesh} if mesh else {}))

    async def info(self, request: Request) -> Answer:
        """GET /info."""
        limits = self._transport.limits
        answer = {
            "provider": self._names.provider,
            "version": VERSION,
            "endpoint": f"{request.base}/api/v1",
            "public_key": self._transport.provider.pem,
            "fingerprint": self._transport.provider.fingerprint,
            "key_algorithms": list(ALGORITHMS.values()),
            "capabilities": self.capabilities(),
            "registration_modes": [
                {"owner": "admin"}.get(self._values.registration, self._values.registration)
            ],
            "rate_limits": {
                "messages_per_minute": limits.of("route", ""),
                "messages_per_hour": limits.of("hourly", ""),
                "api_requests_per_minute": limits.of("api", ""),
            },
            "signatures": {
                "mode": self._values.amp_signatures,
                "unsigned": "accepted for agents of this host only, and shown as untrusted"
                if self._values.amp_signatures == "strict"
                else "accepted within the local network, and shown as untrusted",
            },
        }
        return Answer.json(200, answer)

    async def well_known(self, request: Request) -> Answer:
        """GET /.well-known/agent-messaging.json."""
        answer = {
            "version": "AMP1",
            "endpoint": f"{request.base}/api/v1",
            "provider": self._names.provider,
            "public_key": self._transport.provider.pem,
            "fingerprint": self._transport.provider.fingerprint,
            "capabilities": self.capabilities(),
        }
        return Answer.json(200, answer, {"Cache-Control": "public, max-age=3600"})

    async def organization(self, _request: Request) -> Answer:
        """GET /organization: the tenant that a client takes for its own (K4)."""
        return Answer.json(200, {"organization": self._names.home})

    async def openapi_json(self, request: Request) -> Answer:
        """GET /openapi.json."""
        return Answer.json(200, document(request.base))

    async def openapi_yaml(self, request: Request) -> Answer:
        """GET /openapi.yaml."""
        text = in_yaml(document(request.base))
        return Answer(200, text.encode(), {"Content-Type": "application/yaml"})
