"""The agents of this node: their keys, cards and names.

A1  A name is one agent: its key, mailbox and mail stay with it. Whoever takes a name after a
    purge is another agent with another key, and reads nothing of the one before.
A2  A card is signed anew, with the next number, whenever what it says changes, and weekly, when
    the inbox key is renewed. Secrets of inbox keys are destroyed five weeks after their end.
A3  Removing an agent withdraws its card; its mail stays until it is purged.
A4  An agent whose record was lost is back with its key file, its name and its mail.
A5  An agent that somebody made who never showed to be of this node (`outside`: registered over
    HTTP, in open mode) stays that for ever; what it writes is `external` (contacts.py, N3).
"""

import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final

import trio

from ampd.crypto import keyfiles
from ampd.crypto.keyfiles import AgentKeys, InboxKey
from ampd.crypto.keys import OpeningKey, SigningKey, open1
from ampd.model.address import Address, check_name
from ampd.model.card import CARD_CONTEXT, Card
from ampd.model.errors import AmpdError, Invalid, Refused, StorageError
from ampd.model.values import value
from ampd.storage.records import Agent as AgentRecord
from ampd.storage.store import Store

WEEK: Final = 7 * 86_400_000  # milliseconds
INBOX_KEY_FOR: Final = WEEK
KEEP_OLD_KEYS_FOR: Final = 5 * WEEK  # longer than the longest expiry, 30 days
RESERVED: Final = frozenset({"ampd"})  # the node itself writes under this name

log = logging.getLogger("ampd.agents")


@value
class Agent:
    """One agent of this node."""

    name: str
    address: Address
    created: int
    keys: AgentKeys
    card: Card
    signed_card: bytes
    outside: bool = False  # A5

    @property
    def key(self) -> bytes:
        """Its public key: who it is."""
        return self.keys.signing.public


@value
class Profile:
    """What an agent says of itself; None leaves it as it is."""

    alias: str | None = None
    description: str | None = None
    capabilities: tuple[str, ...] | None = None


class Agents:
    """All agents of this node, in memory; their cards in the store, their secrets in key files."""

    def __init__(
        self,
        store: Store,
        folder: Path,
        domain: str,
        node: SigningKey,
        now: Callable[[], int],
        relays: tuple[str, ...] = (),
    ) -> None:
        self._store = store
        self._folder = folder
        self.domain = domain
        self.node = node
        self._now = now
        self._relays = relays
        self._agents: dict[str, Agent] = {}
        self._by_mailbox: dict[bytes, Agent] = {}
        self._by_key: dict[bytes, Agent] = {}
        self._withdrawn: list[bytes] = []
        self._changing = trio.Lock()  # one change at a time: none undoes another

    async def load(self) -> None:
        """Take in the agents that the store knows, and those of whom only the key is left (A4)."""
        rows = self._store.view.execute(
            "SELECT name, created, card, removed, outside FROM agents ORDER BY id"
        ).fetchall()
        living = {row["name"] for row in rows if not row["removed"]}
        for name, created, signed, removed, outside in rows:
            if removed:
                self._withdrawn.append(signed)
                if name in living or not self._path(name).exists():
                    await self._finish_purge(name, created, signed, outside=bool(outside))
                continue
            keys = keyfiles.load_agent_keys(self._path(name))
            card = Card.from_bytes(open1(signed, CARD_CONTEXT)[1])
            self._take(Agent(name, card.address, created, keys, card, signed, bool(outside)))
        names = {row["name"] for row in rows}
        for path in sorted(self._folder.glob("*.key")):
            if path.stem not in names:
                await self._bring_back(path.stem)
        await self.renew()

    async def _bring_back(self, name: str) -> None:
        try:
            await self._make(check_name(name), Profile())
        except AmpdError as exc:  # a full disk, or no key file of ours: the others go on
            log.warning("a key has no agent", extra={"agent": name, "why": str(exc)})
        else:
            log.warning("an agent without a record is back", extra={"agent": name})

    async def _finish_purge(self, name: str, created: int, signed: bytes, *, outside: bool) -> None:
        """A crash may have come between the end of an agent's keys and that of its mail (A1)."""
        key = open1(signed, CARD_CONTEXT)[0]
        left = self._store.view.execute(
            "SELECT 1 FROM agents a WHERE key=? AND (EXISTS(SELECT 1 FROM boxes WHERE agent=a.id)"
            " OR EXISTS(SELECT 1 FROM messages WHERE by=a.id))",
            (key,),
        ).fetchone()
        if left is not None:
            record = AgentRecord(
                key, name, created, signed, removed=True, purged=True, outside=outside
            )
            await self._store.write(lambda tx: tx.append(record))

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}.key"

    def _take(self, agent: Agent) -> None:
        self._agents[agent.name] = agent
        self._by_mailbox[agent.keys.mailbox] = agent
        self._by_key[agent.key] = agent

    def __iter__(self) -> Iterator[Agent]:
        return iter(list(self._agents.values()))

    def __len__(self) -> int:
        return len(self._agents)

    def named(self, name: str) -> Agent:
        """The agent of this name, or Refused (agent_unknown)."""
        bare = name.strip().lower().removesuffix(f"@{self.domain}")
        agent = self._agents.get(bare)
        if agent is not None:
            return agent
        if "@" in bare:
            raise Refused(
                f"{bare} is no agent of this node, which is {self.domain}",
                code="agent_unknown",
                hint="amp agents",
            )
        raise Refused(
            f"no agent named {name!r} on this node",
            code="agent_unknown",
            hint=f"amp init {bare or 'NAME'}",
        )

    def at(self, address: Address) -> Agent | None:
        """The local agent with this address."""
        return self._agents.get(address.name) if address.domain == self.domain else None

    def claims(self, address: Address) -> bool:
        """Whether the address is an agent's of this node, or the node's own."""
        return address.domain == self.domain and (
            address.name in self._agents or address.name in RESERVED
        )

    def is_taken(self, name: str) -> bool:
        """Whether a name is an agent's, also of one that was removed and can come back (A1)."""
        return name in RESERVED or name in self._agents or self._path(name).exists()

    def of_mailbox(self, mailbox: bytes) -> Agent | None:
        """The local agent that a mailbox id belongs to."""
        return self._by_mailbox.get(mailbox)

    def of_key(self, key: bytes) -> Agent | None:
        """The local agent with this key."""
        return self._by_key.get(key)

    def cards(self) -> list[bytes]:
        """All signed cards of this node, those of removed agents too."""
        return [agent.signed_card for agent in self] + self._withdrawn

    async def create(
        self, name: str, profile: Profile, *, outside: bool = False
    ) -> tuple[Agent, bool]:
        """The agent `name`, and whether it is new; one that exists stays as it is (A5)."""
        name = check_name(name)
        if name in RESERVED:
            raise Invalid(f"the name {name!r} is kept for the node itself", hint="amp init NAME")
        async with self._changing:
            found = self._agents.get(name)
            if found is not None:
                return found, False
            return await self._make(name, profile, outside=outside), True

    async def _make(self, name: str, profile: Profile, *, outside: bool = False) -> Agent:
        """A new agent, or one that was removed and is back with its keys (A1)."""
        now = self._now()
        path = self._path(name)
        first = 1
        if path.exists():
            first = now  # higher than any card of this key that others may have
        else:
            fresh = keyfiles.new_agent_keys(now + INBOX_KEY_FOR)
            nobody = Agent(name, Address(name, self.domain), now, fresh, *_NO_CARD)
            self._signed(nobody, first, profile)  # what is refused leaves no keys behind (A4)
            keyfiles.save_agent_keys(path, fresh, replace=False)
        keys = keyfiles.load_agent_keys(path)
        row = self._store.view.execute(
            "SELECT created, card, outside FROM agents WHERE key=?", (keys.signing.public,)
        ).fetchone()
        number = Card.from_bytes(open1(row[1], CARD_CONTEXT)[1]).number + 1 if row else first
        created = row[0] if row else now
        outside = outside or bool(row and row[2])
        bare = Agent(name, Address(name, self.domain), created, keys, *_NO_CARD, outside=outside)
        agent = self._signed(bare, number, profile)
        await self._keep(agent)
        return agent

    def _signed(self, agent: Agent, number: int, profile: Profile) -> Agent:
        keys, old = agent.keys, agent.card
        newest = keys.inbox[-1]
        card = Card(
            address=Address(agent.name, self.domain),
            number=number,
            issued=self._now(),
            mailbox=keys.mailbox,
            nodes=(self.node.public,),
            inbox=newest.key.public,
            inbox_until=newest.until,
            fallback=keys.fallback.public,
            relays=self._relays,
            alias=old.alias if profile.alias is None else profile.alias,
            description=old.description if profile.description is None else profile.description,
            capabilities=(
                old.capabilities if profile.capabilities is None else profile.capabilities
            ),
        )
        signed = keys.signing.sign1(CARD_CONTEXT, card.to_bytes())
        Card.from_bytes(open1(signed, CARD_CONTEXT)[1])  # what we say must pass our own checks
        return replace(agent, address=card.address, card=card, signed_card=signed)

    async def _keep(self, agent: Agent) -> None:
        record = AgentRecord(
            agent.key, agent.name, agent.created, agent.signed_card, outside=agent.outside
        )
        await self._store.write(lambda tx: tx.append(record))
        self._withdrawn = [
            card for card in self._withdrawn if open1(card, CARD_CONTEXT)[0] != agent.key
        ]
        self._take(agent)

    async def remove(self, name: str, *, purge: bool) -> Agent:
        """Withdraw the card of an agent; with `purge` destroy its keys and mail (A3)."""
        name = check_name(name.removesuffix(f"@{self.domain}"))
        async with self._changing:
            if purge and name not in self._agents and self._path(name).exists():
                return await self._purge_removed(name)
            return await self._remove(self.named(name), purge=purge)

    async def _remove(self, agent: Agent, *, purge: bool) -> Agent:
        card = replace(agent.card, number=agent.card.number + 1, issued=self._now(), withdrawn=True)
        signed = agent.keys.signing.sign1(CARD_CONTEXT, card.to_bytes())
        await self._write_removed(agent, signed, purge=purge)
        del self._agents[agent.name], self._by_key[agent.key]
        del self._by_mailbox[agent.keys.mailbox]
        self._withdrawn.append(signed)
        return replace(agent, card=card, signed_card=signed)

    async def _purge_removed(self, name: str) -> Agent:
        keys = keyfiles.load_agent_keys(self._path(name))
        row = self._store.view.execute(
            "SELECT created, card, outside FROM agents WHERE key=?", (keys.signing.public,)
        ).fetchone()
        card = Card.from_bytes(open1(row[1], CARD_CONTEXT)[1])
        agent = Agent(name, card.address, row[0], keys, card, row[1], outside=bool(row[2]))
        await self._write_removed(agent, row[1], purge=True)
        return agent

    async def _write_removed(self, agent: Agent, signed: bytes, *, purge: bool) -> None:
        """The keys go before the mail: who was removed and has no key file was purged (load)."""
        record = AgentRecord(
            agent.key, agent.name, agent.created, signed, removed=True, outside=agent.outside
        )
        await self._store.write(lambda tx: tx.append(record))
        if purge:
            keyfiles.destroy(self._path(agent.name))
            await self._store.write(lambda tx: tx.append(replace(record, purged=True)))

    async def use_relays(self, uris: tuple[str, ...]) -> bool:
        """From now on the cards name these relays; whether any card changed."""
        self._relays = uris
        return await self.renew()

    async def renew(self) -> bool:
        """Sign anew the cards that are due (A2); whether any changed. A full disk puts it off."""
        now = self._now()
        async with self._changing:
            try:
                return await self._renew_all(now)
            except (StorageError, OSError) as exc:
                log.warning("cards are renewed later", extra={"why": str(exc)})
                return False

    async def _renew_all(self, now: int) -> bool:
        changed = False
        for agent in self:
            keys = agent.keys
            if not INBOX_KEY_FOR // 7 <= keys.inbox[-1].until - now <= 2 * INBOX_KEY_FOR:
                fresh = InboxKey(OpeningKey.generate(), now + INBOX_KEY_FOR)
                kept = tuple(old for old in keys.inbox if now < old.until + KEEP_OLD_KEYS_FOR)
                keys = replace(keys, inbox=(*kept, fresh)[-keyfiles.MAX_INBOX_KEYS :])
                keyfiles.save_agent_keys(self._path(agent.name), keys, replace=True)
            moved = agent.card.address.domain != self.domain
            asked_elsewhere = agent.card.nodes != (self.node.public,)
            relays = agent.card.relays != self._relays
            if keys is not agent.keys or moved or relays or asked_elsewhere:
                fresh_agent = replace(agent, keys=keys)
                await self._keep(self._signed(fresh_agent, agent.card.number + 1, Profile()))
                changed = True
        return changed


_NO_CARD: Final = (
    Card(Address("nobody", "local"), 0, 0, b"", (), b"", 0, b""),
    b"",
)
