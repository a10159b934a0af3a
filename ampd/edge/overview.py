"""The `status` document: how this node is, and what its owner should know."""

from collections.abc import Callable

import trio

import ampd
from ampd.core.agents import Agents
from ampd.core.queues import queues
from ampd.core.relays import Relays
from ampd.edge import documents
from ampd.edge.documents import Document
from ampd.edge.mdns import Mdns
from ampd.edge.peer_tcp import PeerTcp
from ampd.model.address import fingerprint, key_text
from ampd.model.values import value
from ampd.storage.store import Store
from ampd.storage.survey import Damage


@value
class Overview:
    """Makes the `status` document from what the rooms know."""

    store: Store
    agents: Agents
    peers: PeerTcp
    mdns: Mdns | None
    relays: Relays
    listen: Callable[[], str]
    gateway: Callable[[], Document | None]
    started_at: float
    chosen_by_default: bool  # the domain is the host's name, and nobody's decision

    def document(self, bound: str = "") -> Document:
        """As it is at this moment; on an agent's own socket, only what is that agent's (Y2)."""
        node = {
            "domain": self.agents.domain,
            "key": key_text(self.agents.node.public),
            "fingerprint": fingerprint(self.agents.node.public),
            "listen": self.listen(),
        }
        if bound:
            return {
                "version": ampd.__version__,
                "node": node,
                "agents": [agent for agent in self._agents() if agent["name"] == bound],
                "uptime_s": self._uptime(),
            }
        view, waiting = self.store.view, queues(self.store)
        messages = view.execute("SELECT count(*) FROM messages").fetchone()[0]
        queued = view.execute(
            "SELECT count(*), min(at) FROM outbox WHERE what='message'"
        ).fetchone()
        return {
            "version": ampd.__version__,
            "node": node,
            "agents": self._agents(),
            "peers": [documents.peer(state, waiting) for state in self.peers.peers()],
            "relays": documents.relays(self.relays.states(), self.peers.peers(), waiting),
            "outbox": queued[0],
            "oldest_queued_at": documents.time_text(queued[1]),
            "mailbox": {"messages": messages, "bytes": self.store.journal.size_bytes},
            "discovery": self._discovery(),
            "gateway": self.gateway(),
            "warnings": self.warnings(),
            "uptime_s": self._uptime(),
        }

    def _uptime(self) -> float:
        return round(trio.current_time() - self.started_at, 3)

    def _agents(self) -> list[Document]:
        rows = self.store.view.execute(
            "SELECT name, unread, quarantined, unread+read AS total FROM agents WHERE removed=0"
            " ORDER BY name"
        )
        return [
            {
                "name": row["name"],
                "address": f"{row['name']}@{self.agents.domain}",
                "unread": row["unread"],
                "total": row["total"],
                "quarantined": row["quarantined"],
            }
            for row in rows
        ]

    def _discovery(self) -> Document:
        if self.mdns is None:
            return {"mdns": False, "interfaces": [], "error": None}
        status = self.mdns.status()
        return {
            "mdns": status.on_air,
            "interfaces": list(status.interfaces),
            "error": status.error or None,
        }

    def warnings(self) -> list[str]:
        """What the owner should do something about; each names the command or setting."""
        found = [*self._domain_twins(), *self._conflicts(), *self._gaps(), *self._damage()]
        if self.store.full:
            found.append("the disk is full: new mail is refused until there is room (df -h)")
        return found

    def _domain_twins(self) -> list[str]:
        if not self.chosen_by_default:
            return []
        twins = [p for p in self.peers.peers() if p.domain == self.agents.domain]
        return [
            f"another machine on this network is also called {self.agents.domain}"
            f" ({twin.endpoint or key_text(twin.node)[:8]}): give this one a domain of its own,"
            " [node] domain in config.toml or AMPD_NODE_DOMAIN"
            for twin in twins
        ]

    def _conflicts(self) -> list[str]:
        rows = self.store.view.execute(
            "SELECT DISTINCT address FROM contacts WHERE state='conflict' LIMIT 20"
        )
        return [
            f"another key claims {row[0]}: its mail is quarantined until you decide"
            f" (amp contact show {row[0]})"
            for row in rows
        ]

    def _gaps(self) -> list[str]:
        rows = self.store.view.execute(
            # total(), for a sender chooses its numbers, and sum() fails beyond 2^63
            "SELECT a.name, g.sender,"
            " CAST(min(total(g.upto-g.number+1), 1e15) AS INTEGER) AS missing,"
            " (SELECT address FROM contacts c WHERE c.key=g.sender) AS address"
            " FROM gaps g JOIN agents a ON a.key=g.recipient"
            # nobody waits for mail of those who were blocked or removed
            " WHERE EXISTS(SELECT 1 FROM contacts c WHERE c.key=g.sender AND NOT c.blocked)"
            " GROUP BY g.recipient, g.sender LIMIT 20"
        )
        return [
            f"{row['missing']} message{'s' * (row['missing'] != 1)} of"
            f" {row['address'] or fingerprint(row['sender'])} to"
            f" {row['name']} never came (amp inbox --from {row['address'] or ''})"
            for row in rows
        ]

    def _damage(self) -> list[str]:
        """What was written off by a repair is history (core/checkup.py, H4)."""
        count = sum(not self._is_written_off(each) for each in self.store.journal.damage)
        places = "one place" if count == 1 else f"{count} places"
        return [f"the journal is damaged in {places}: amp check"] if count else []

    def _is_written_off(self, damage: Damage) -> bool:
        row = self.store.view.execute(
            "SELECT 1 FROM lost WHERE (segment=? AND offset=?) OR (?>0 AND first<=? AND last>=?)",
            (damage.segment, damage.offset, damage.first_seq, damage.first_seq, damage.last_seq),
        ).fetchone()
        return row is not None
