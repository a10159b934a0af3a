"""Who can be written to: the agents of this node, and all whose card is known."""

from collections.abc import Callable

from ampd.core.agents import Agents
from ampd.core.trust import known_of
from ampd.model.card import Card
from ampd.model.values import value
from ampd.storage.index import read_payload
from ampd.storage.store import Store


@value
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
                agent.card.capabilities, "local", True,
                "external" if agent.outside else "verified",
            )
            for agent in self._agents
            if not domain or agent.address.domain == domain.lower()
        ]  # fmt: skip
        found += self._elsewhere(domain.lower())
        return sorted(
            (each for each in found if not capability or capability in each.capabilities),
            key=lambda each: (each.via != "local", each.address),
        )

    def _elsewhere(self, domain: str) -> list[Listed]:
        """In one query: strangers may have shown thousands of cards (cards.py, CD2)."""
        online = self._online()
        found = []
        for row in self._store.view.execute(
            "SELECT k.*, c.signed FROM cards c JOIN contacts k ON k.key=c.key"
            " AND k.address=c.address WHERE c.withdrawn=0 AND k.state<>'conflict'"
            " AND (?1='' OR substr(c.address, instr(c.address,'@')+1)=?1)",
            (domain,),
        ).fetchall():
            card = Card.from_bytes(read_payload(row["signed"]))
            there = any(node in online for node in card.nodes)
            found.append(
                Listed(
                    row["address"], row["key"], card.alias, card.description, card.capabilities,
                    "relay" if card.relays and not there else "direct", there, known_of(row).trust,
                )
            )  # fmt: skip
        return found
