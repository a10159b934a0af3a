"""Whom we know, by which key, and how far we trust it.

An address and a key together are a contact. Its `state`:

    seen       its card was seen; the key is pinned to the address
    pinned     mail was exchanged, or the user added it
    verified   the user confirmed the fingerprint
    pending    wrote to us while the policy quarantines strangers
    conflict   claims an address that is pinned to another key

  N1  The first key seen for an address is pinned; another one never replaces it without the
      user's word (`accept`, `verify`).
  N2  What comes under a key that differs from the pinned one is quarantined, and said so.
  N3  Trust is `verified` for agents of this node and verified contacts, `external` for pinned
      keys and for agents here that belong to somebody else (agents.py, A5), `untrusted` for
      everything else.
  N4  How many are contacts by sight alone is bounded (cards.py, CD2).
  N5  What is let in comes behind all that is in the mailbox, unread, in the order in which it came:
      whoever follows the mailbox by its numbers has it once, and none looks back.

Not here: which of the cards that others show are kept (cards.py).
"""

import difflib
import json
from collections.abc import Callable, Sequence
from typing import Final

from ampd.core.agents import Agent, Agents
from ampd.core.cards import Cards, read_card, wanted
from ampd.core.trust import Known, Shadows, known_at, known_of
from ampd.crypto.keys import check_public
from ampd.model.address import Address, ContactLink, NodeUri, check_name, fingerprint
from ampd.model.card import Card
from ampd.model.errors import Invalid, Refused
from ampd.model.values import value
from ampd.storage.records import Contact, Released
from ampd.storage.store import Store, Transaction
from ampd.storage.view import Reader

FOREIGN_SOURCES: Final = ("amp", "amtp", "provider")  # of contacts without a key of their own


@value
class Target:
    """Somebody to send to."""

    address: Address
    key: bytes
    card: Card | None
    local: Agent | None = None


class Contacts:
    """The address book."""

    def __init__(
        self, store: Store, agents: Agents, now: Callable[[], int], unknown_senders: str
    ) -> None:
        self._store = store
        self._agents = agents
        self._now = now
        self.unknown_senders = unknown_senders
        self.cards = Cards(store, agents, now)
        self.shadows: Shadows | None = None  # foreign.py, once it is there

    # --- who may write to us ---------------------------------------------------------------

    def judge(self, tx: Transaction, sender: Address, key: bytes, source: str) -> str:
        """Why a message under this key is quarantined; "" if it may be shown as from `sender`.

        Notes what it learns. Raises Refused: blocked, or strangers are not let in.
        """
        local = self._agents.at(sender)
        if local is not None and local.key == key:
            return ""
        known = known_at(tx.db, str(sender))
        if any(contact.blocked for contact in known):
            raise Refused(f"{sender} is blocked here", code="blocked")
        same = next((contact for contact in known if contact.key == key), None)
        if self._agents.claims(sender):  # nobody else can be an agent of this node
            if same is None:
                tx.append(self._contact(sender, key, "conflict", source))
            return "key_changed"
        if same is not None and same.state in ("pinned", "verified"):
            return ""
        if same is not None and same.state in ("conflict", "pending"):
            return "key_changed" if same.state == "conflict" else "unknown_sender"
        if same is None and known:
            tx.append(self._contact(sender, key, "conflict", source))
            return "key_changed"
        if self.unknown_senders == "reject":
            raise Refused(f"{sender} is not known here, and strangers are not let in")
        pending = self.unknown_senders == "quarantine"
        since = same.since if same else 0
        tx.append(self._contact(sender, key, "pending" if pending else "pinned", source, since))
        return "unknown_sender" if pending else ""

    def _contact(
        self, address: Address | str, key: bytes, state: str, source: str, since: int = 0
    ) -> Contact:
        return Contact(str(address), key, state, False, since or self._now(), source)

    # --- cards ----------------------------------------------------------------------------

    async def learn(self, cards: Sequence[bytes], node: bytes, source: str) -> None:
        """Keep the valid, newer ones of the signed cards that somebody showed (cards.py)."""
        await self.cards.learn(cards, node, source)

    def wanted(self, db: Reader, key: bytes) -> bool:
        """Whether the user has added the holder of a key, or an agent here has written to it."""
        return wanted(db, key)

    def card(self, key: bytes) -> Card | None:
        """The newest card of a key."""
        row = self._store.view.execute("SELECT signed FROM cards WHERE key=?", (key,)).fetchone()
        return read_card(row[0])[1] if row else None

    def relays_said_by_user(self, key: bytes) -> list[NodeUri]:
        """Where the contact link of a key says that its mail may be left."""
        row = self._store.view.execute(
            "SELECT relays FROM contacts WHERE key=? AND state IN ('pinned','verified')", (key,)
        ).fetchone()
        return [NodeUri.parse(text) for text in json.loads(row[0])] if row else []

    # --- whom we may write to -------------------------------------------------------------

    def resolve(self, text: str) -> Target:
        """Whom `text` names: an address, or a name that only one known agent has."""
        if "@" in text:
            return self._at_address(Address.parse(text))
        name = check_name(text)
        local = self._agents.at(Address(name, self._agents.domain))
        if local is not None:
            return Target(local.address, local.key, local.card, local)
        rows = self._store.view.execute(
            "SELECT DISTINCT address FROM contacts WHERE address LIKE ? ESCAPE '\\'"
            " AND state NOT IN ('conflict','pending')",
            (_like(name),),
        ).fetchall()
        if len(rows) == 1:
            return self._at_address(Address.parse(rows[0][0]))
        if rows:
            raise _ambiguous(text, [row[0] for row in rows])
        raise self._nobody(text)

    def _at_address(self, address: Address) -> Target:
        local = self._agents.at(address)
        if local is not None:
            return Target(address, local.key, local.card, local)
        known = known_at(self._store.view, str(address))
        if any(contact.blocked for contact in known):
            raise Refused(
                f"{address} is blocked by you", code="blocked",
                hint=f"amp contact unblock {address}",
            )  # fmt: skip
        usable = [c for c in known if c.state not in ("conflict", "pending")]
        if not usable:
            raise self._nobody(str(address))
        card = self.card(usable[0].key)
        if card is not None and card.withdrawn:
            raise Refused(f"{address} was removed by its owner", code="recipient_unknown")
        return Target(address, usable[0].key, card)

    def _nobody(self, text: str) -> Refused:
        everybody = [
            row[0]
            for row in self._store.view.execute("SELECT DISTINCT address FROM contacts LIMIT 1000")
        ]
        everybody += [str(agent.address) for agent in self._agents]
        names = {address.partition("@")[0]: address for address in everybody}
        close = difflib.get_close_matches(text, [*everybody, *names], n=1)
        near = f"did you mean {names.get(close[0], close[0])}? " if close else ""
        return Refused(
            f"nobody known as {text}", code="recipient_unknown",
            hint=f"{near}`amp discover` lists who can be reached, "
            "`amp contact add LINK` adds somebody",
        )  # fmt: skip

    # --- the user's word ------------------------------------------------------------------

    def listed(self, address: str = "") -> list[Known]:
        """The contacts, or those of one address (Refused contact_unknown if there is none)."""
        if address:
            found = known_at(self._store.view, str(self._full(address)))
            if not found:
                raise _no_contact(address)
            return found
        rows = self._store.view.execute("SELECT * FROM contacts ORDER BY address, since")
        return [known_of(row) for row in rows.fetchall()]

    def _full(self, text: str) -> Address:
        """The address of a contact, whatever its state; a name will do that only one has."""
        if "@" in text:
            return Address.parse(text)
        sql = "SELECT DISTINCT address FROM contacts WHERE address LIKE ? ESCAPE '\\'"
        found = [row[0] for row in self._store.view.execute(sql, (_like(check_name(text)),))]
        if len(found) > 1:
            raise _ambiguous(text, found)
        if not found:
            raise _no_contact(text)
        return Address.parse(found[0])

    async def add(self, text: str) -> list[Known]:
        """Add the contact of a link; its key is verified, since the user got it from somewhere."""
        link = ContactLink.parse(text)
        check_public(link.key)
        if self._agents.of_key(link.key) is not None or self._agents.claims(link.address):
            raise Invalid(f"{link.address} is an agent of this node")
        known = known_at(self._store.view, str(link.address))
        others = [c for c in known if c.key != link.key and c.state not in ("conflict", "pending")]
        if others:
            raise Refused(
                f"{link.address} is known with another key, {fingerprint(others[0].key)}",
                code="conflict",
                hint=f"amp contact remove {link.address}, if you trust the new one",
            )
        uris = tuple(str(uri) for uri in (*link.relays, *link.nodes))
        before = next((c for c in known if c.key == link.key), None)
        chosen = Known(
            str(link.address), link.key, "verified",
            blocked=before is not None and before.blocked,
            since=before.since if before else self._now(),
            source="link", relays=uris, note=before.note if before else "",
        )  # fmt: skip
        return await self._settle(chosen, "verified")

    async def verify(self, address: str, said: str) -> list[Known]:
        """The user compared the fingerprint: the key that has it is verified."""
        known = self.listed(address)
        if any(c.source in FOREIGN_SOURCES and c.state != "conflict" for c in known):
            raise Refused(
                f"{address} is reached by a gateway: it has no fingerprint that its owner could"
                " compare", code="conflict", hint=f"amp contact show {address}",
            )  # fmt: skip
        match = [c for c in known if fingerprint(c.key) == said.strip()]
        if not match:
            raise Refused(
                f"{address} has the fingerprint {fingerprint(known[0].key)}, not {said}",
                code="conflict",
                hint="compare it with what its owner sees in `amp whoami`",
            )
        return await self._settle(match[0], "verified")

    async def accept(self, address: str) -> list[Known]:
        """Let in who was quarantined: a stranger, or a key that changed."""
        held = self.shadows.held(address) if self.shadows else None
        known = known_at(self._store.view, held.address) if held else self.listed(address)
        waiting = [c for c in known if c.state in ("conflict", "pending")]
        waiting += [held] if held and not waiting else []
        if not waiting:
            raise Invalid(f"nothing of {address} waits for your decision", hint="amp contact list")
        if len(waiting) > 1 and not self._agents.claims(Address.parse(waiting[0].address)):
            prints = ", ".join(fingerprint(c.key) for c in waiting)
            raise Refused(
                f"{address} is claimed by several keys: {prints}", code="ambiguous",
                hint=f"amp contact verify {address} FINGERPRINT",
            )  # fmt: skip
        return await self._settle(waiting[0], "pinned")

    async def _settle(self, chosen: Known, state: str) -> list[Known]:
        """The key of `chosen` is the one of its address from now on; its mail is let in."""
        if self._agents.claims(Address.parse(chosen.address)):
            raise Invalid(
                f"{chosen.address} is an agent of this node: another key cannot be it",
                hint=f"amp contact remove {chosen.address}",
            )

        def work(tx: Transaction) -> None:
            for other in known_at(tx.db, chosen.address):
                if other.key != chosen.key and other.state not in ("conflict", "pending"):
                    tx.append(self._again(other, state="removed"))
            tx.append(self._again(chosen, state=state))
            self._release(tx, chosen)

        await self._store.write(work)
        return self.listed(chosen.address)

    def _again(self, known: Known, *, state: str = "", blocked: bool | None = None) -> Contact:
        return Contact(
            known.address, known.key, state or known.state,
            known.blocked if blocked is None else blocked, known.since, known.source,
            known.relays, known.note,
        )  # fmt: skip

    def _release(self, tx: Transaction, chosen: Known) -> None:
        """Into the mailbox, with numbers behind all that its followers have seen (N5)."""
        unproved = self.shadows.unproved_of(chosen) if self.shadows else None
        rows = tx.db.execute(
            "SELECT a.key, b.number FROM boxes b JOIN messages m ON m.seq=b.message"
            " JOIN agents a ON a.id=b.agent"
            " WHERE b.state=3 AND m.sender=? AND m.sender_key IN (?,?) ORDER BY b.agent, b.number",
            (chosen.address, chosen.key, unproved or chosen.key),
        ).fetchall()
        for agent, number in rows:
            tx.append(Released(agent, number, tx.rows.next_number(agent), self._now()))

    async def block(self, address: str, *, blocked: bool) -> list[Known]:
        """Refuse, or take again, what comes from an address."""
        known = self.listed(address)
        await self._store.write(
            lambda tx: [tx.append(self._again(contact, blocked=blocked)) for contact in known]
        )
        return self.listed(known[0].address)

    async def remove(self, address: str) -> list[Known]:
        """Forget an address and its keys: the next one seen is pinned."""
        known = self.listed(address)
        await self._store.write(
            lambda tx: [tx.append(self._again(contact, state="removed")) for contact in known]
        )
        return known


def _like(name: str) -> str:
    """A pattern for the addresses of a name."""
    return name.replace("_", "\\_") + "@%"


def _ambiguous(text: str, addresses: list[str]) -> Refused:
    listed = ", ".join(sorted(addresses))
    return Refused(f"{text!r} may be {listed}", code="ambiguous", hint="write the address")


def _no_contact(text: str) -> Refused:
    return Refused(f"no contact {text}", code="contact_unknown", hint="amp contact list")
