"""Who can be written to: the agents of this node, and all whose card is known."""

from collections.abc import Callable
from dataclasses import dataclass

from ampd.core.agents import Agents
from ampd.core.trust import known_at
from ampd.model.card import Card
from ampd.storage.index import read_payload
from ampd.storage.store import Store


@dataclass(frozen=True, slots=True)
class Listed:
    """One agent that can be written to."""

    address: str
    key: bytes
    alias: str
    description: str
    capabilities: tuple[str, ...]
    via: str
    online: bool
    trust: str


class Directory:
    """Answers `discover`."""

    def __init__(self, store: Store, agents: Agents, online: Callable[[], set[bytes]]) -> None:
        self._store = store
        self._agents = agents
        self._online = online

    def listed(self, domain: str = "", capability: str = "") -> list[Listed]:
        """Everybody in `domain` (or everywhere) who has the capability (or any), by address."""
        found = [
            Listed(
                str(agent.address), agent.key, agent.card.alias, agent.card.description,
                agent.card.capabilities, "local", True, "verified",
            )
            for agent in self._agents
        ]  # fmt: skip
        found += self._elsewhere()
        return sorted(
            (
                each
                for each in found
                if (not domain or each.address.endswith(f"@{domain.lower()}"))
                and (not capability or capability in each.capabilities)
            ),
            key=lambda each: (each.via != "local", each.address),
        )

    def _elsewhere(self) -> list[Listed]:
        online = self._online()
        found = []
        for key, signed in self._store.view.execute(
            "SELECT key, signed FROM cards WHERE withdrawn=0"
        ).fetchall():
            card = Card.from_bytes(read_payload(signed))
            known = [c for c in known_at(self._store.view, str(card.address)) if c.key == key]
            if not known or known[0].state == "conflict":
                continue
            here = any(node in online for node in card.nodes)
            found.append(
                Listed(
                    str(card.address), key, card.alias, card.description, card.capabilities,
                    "direct", here, known[0].trust,
                )
            )  # fmt: skip
        return found
