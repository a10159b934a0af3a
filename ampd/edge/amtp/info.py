"""How the gateway is: /health, /ready, /metrics, and the description of this API.

IF1  /health is answered with 200 as long as the program runs, since clients read their mail on a
     full disk too, and says "unhealthy" while no mail can be taken (readiness.py); /ready is 503
     then, so that a supervisor sends nobody here.
IF2  /metrics counts in memory since the start; it names no agent.
"""

import json
from collections import Counter
from collections.abc import Callable
from importlib.resources import files
from typing import Any, Final

import ampd
from ampd.edge.amtp.times import time_text
from ampd.edge.gateway_values import Shared
from ampd.edge.http.words import Answer, Request, Route
from ampd.edge.readiness import why_not

VERSION: Final = "1.0"
_DESCRIPTION: Final = "openapi.json"


class Info:
    """Routes that need no key."""

    def __init__(self, shared: Shared, accounts: Callable[[], int]) -> None:
        """`accounts` says how many agents have one."""
        self._shared = shared
        self._accounts = accounts
        self._started = shared.now()
        self._counts: Counter[tuple[str, str]] = Counter()

    def count(self, what: str, how: str) -> None:
        """One more of these."""
        self._counts[what, how] += 1

    def routes(self) -> list[Route]:
        """What this module answers."""
        return [
            Route("GET", "/health", self.health),
            Route("GET", "/ready", self.ready),
            Route("GET", "/metrics", self.metrics),
            Route("GET", "/v1/openapi-amtp.json", self.description),
        ]

    async def health(self, _request: Request) -> Answer:
        """GET /health (IF1)."""
        why = why_not(self._shared.rooms.store)
        store = {"status": "unhealthy", "error": why} if why else {"status": "healthy"}
        return Answer.json(200, {
            "status": "unhealthy" if why else "healthy",
            "healthy": not why,
            "timestamp": time_text(self._shared.now()),
            "version": VERSION,
            "implementation": f"ampd/{ampd.__version__}",
            "components": {"gateway": {"status": "healthy"}, "store": store},
        })  # fmt: skip

    async def ready(self, _request: Request) -> Answer:
        """GET /ready (IF1)."""
        why = why_not(self._shared.rooms.store)
        store = {"status": "unavailable", "error": why} if why else {"status": "ready"}
        return Answer.json(503 if why else 200, {
            "status": "unavailable" if why else "ready",
            "ready": not why,
            "timestamp": time_text(self._shared.now()),
            "version": VERSION,
            "dependencies": {"store": store},
        })  # fmt: skip

    async def metrics(self, _request: Request) -> Answer:
        """GET /metrics."""
        found: dict[str, Any] = {"messages": {}, "http": {}}
        for (what, how), number in sorted(self._counts.items()):
            found.setdefault(what, {})[how] = number
        return Answer.json(200, {
            "timestamp": time_text(self._shared.now()),
            "uptime_seconds": (self._shared.now() - self._started) // 1000,
            "agents": self._accounts(),
            **found,
        })  # fmt: skip

    async def description(self, _request: Request) -> Answer:
        """GET the OpenAPI document."""
        text = files("ampd.edge.amtp").joinpath(_DESCRIPTION).read_text(encoding="utf-8")
        document = json.loads(text)
        document["servers"] = [{"url": self._shared.values.base}]
        return Answer.json(200, document)
