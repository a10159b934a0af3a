"""Agents of this node as clients of foreign AMP providers (`amp register --provider URL`).

  EX1  An account belongs to one agent, by its key: it is used for no other, also not for a later
       agent of the same name. Its API key lies in gateway.db, in clear: it has to be shown to the
       provider. That file is its owner's alone (storage/registry.py, GR4).
  EX2  What waits at a provider is fetched, kept in the agent's mailbox, and acknowledged there
       only when it is on disk here. What came twice is kept once (core/foreign.py, X5).
  EX3  A message is proved by its sender's signature, to this account, under the first key that
       proved its address; and only for addresses of the provider that brought it, since a provider
       could make up keys for all others. Everything else comes in as untrusted.
  EX4  What the node refuses (a blocked sender, no message of AMP) is acknowledged, so that it holds
       up nothing behind it, and named in the log.
  EX5  Mail for addresses of a provider, and for whoever wrote through it, goes there from an agent
       that has an account (core/abroad.py carries it); from another agent it is refused.
  EX6  Each account has one request under way; it asks every 5 s while mail comes or goes, then less
       often, up to once a minute; a provider that fails, after up to 15 minutes.

It works without the gateway: gateway.db and an HTTP client are opened when they are needed.
"""

import logging
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import trio

from ampd.core.agents import Agent, Agents
from ampd.core.foreign import Foreign, Incoming
from ampd.core.lists import Lists
from ampd.core.ports import Parcel
from ampd.core.reading import Reading
from ampd.crypto.foreign_keys import ForeignKey
from ampd.edge.amp.intake import KEY_KEPT_FOR, KEYS, incoming_of, key_said
from ampd.edge.amp.keys import checker
from ampd.edge.amp.provider import Provider
from ampd.edge.amp.provider_client import ProviderClient
from ampd.edge.amp.provider_words import Registration, asked_for, outgoing, registered
from ampd.edge.bugs import contained
from ampd.model.address import Address
from ampd.model.errors import AmpdError, Invalid, Refused, Unavailable
from ampd.model.message import Delivery, id_text
from ampd.protocol import raw_json
from ampd.protocol.amp import signing
from ampd.protocol.amp.envelope import Post, read_envelope
from ampd.protocol.amp.ids import native_id
from ampd.protocol.raw_json import Value
from ampd.storage.registry import Registry

if TYPE_CHECKING:
    from ampd.edge.http.client import HttpClient

SOON: Final = 5.0  # seconds between two looks while mail comes
LATER: Final = 60.0  # and when none does: a provider allows 30 in a minute
LONGEST_PAUSE: Final = 900.0  # 15 min for a provider that fails
JITTER: Final = 0.1
MOST_PAGES: Final = 100  # of one look: a provider that never ends waits for the next
MAX_SENDERS: Final = 10_000  # of whom it is remembered through which provider they wrote
PROTOCOL: Final = "provider"
ACCOUNT: Final = "provider.account"
SENDER: Final = "provider.sender"

log = logging.getLogger("ampd.amp.external")


@dataclass(slots=True)
class State:
    """How one account is doing, in memory only."""

    fetched: int = 0
    looked_at: int = 0  # milliseconds; 0: not yet
    last_error: str = ""
    news: trio.Event = field(default_factory=trio.Event)  # look again now


class Providers:
    """Keeps the accounts of this node's agents; implements ports.Courier."""

    def __init__(
        self,
        agents: Agents,
        foreign: Foreign,
        lists: Lists,
        reading: Reading,
        path: Path,
        now: Callable[[], int],
        rng: random.Random,
        *,
        http: "HttpClient | None" = None,
        dns: str = "",
    ) -> None:
        """`path` is gateway.db, `dns` HOST:PORT of a name server instead of the system's."""
        self._agents = agents
        self._foreign = foreign
        self._lists = lists
        self._reading = reading
        self._path = path
        self._now = now
        self._rng = rng
        self._opened: Registry | None = None
        self._http = http
        self._own_http: HttpClient | None = None
        self._dns = dns
        self._client: ProviderClient | None = None
        self._states: dict[str, State] = {}
        self._changed = trio.Event()

    # --- what is opened when it is needed ----------------------------------------------------

    def _registry(self) -> Registry:
        if self._opened is None:
            self._opened = Registry(self._path, self._now)
        return self._opened

    def _asking(self) -> ProviderClient:
        if self._client is None:
            if self._http is None:
                self._http = self._own_http = _http_client(self._dns)
            self._client = ProviderClient(self._http)
        return self._client

    async def aclose(self) -> None:
        """Close what was opened here."""
        if self._own_http is not None:
            await self._own_http.aclose()
        if self._opened is not None:
            self._opened.close()

    # --- accounts ----------------------------------------------------------------------------

    def accounts(self) -> list[Registration]:
        """All that can be used (EX1), by agent and provider."""
        if self._opened is None and not self._path.exists():
            return []
        found = [Registration.from_value(e.value) for e in self._registry().find(ACCOUNT)]
        return [account for account in found if self._agent(account) is not None]

    def state(self, account: Registration) -> State:
        """How an account is doing."""
        return self._states.get(account.id) or State()

    def _agent(self, account: Registration) -> Agent | None:
        return self._agents.of_key(bytes.fromhex(account.key))

    async def register(
        self, agent: Agent, url: str, tenant: str, *, name: str = "", user_key: str = "",
        invite: str = "",
    ) -> Registration:  # fmt: skip
        """Make an account for an agent at a provider, or renew its API key; begin to fetch.

        Raises Refused as the provider says (name taken: conflict), or Unavailable.
        """
        signer, url = Provider.signer_of(agent), url.strip().rstrip("/")
        tenant = tenant.lower() or ("" if user_key else "default")
        body = asked_for(name or agent.name, tenant, signer, alias=agent.card.alias, invite=invite)
        before = [a for a in self.accounts() if a.agent == agent.name and a.url.startswith(url)]
        token = user_key or (before[0].api_key if before else "")
        place, said = await self._asking().register(url, body, token)
        account = registered(
            said, agent.name, agent.key, place, tenant, self._agents.domain, self._now()
        )
        await self._registry().put(ACCOUNT, account.id, account.to_value(), owner=agent.name)
        self._look_again(account)
        return account

    async def remove(self, agent: Agent, provider: str) -> Registration:
        """Use an account no more; the provider keeps it, and what waits there."""
        mine = [a for a in self.accounts() if a.key == agent.key.hex()]
        found = [a for a in mine if provider.lower() in (a.provider, a.url, a.address)]
        if not found:
            raise Invalid(
                f"{agent.address} has no account at {provider}",
                code="contact_unknown",
                hint="amp provider list",
            )
        await self._registry().delete(ACCOUNT, found[0].id)
        self._look_again(found[0])
        return found[0]

    def _look_again(self, account: Registration) -> None:
        if account.id in self._states:
            self._states[account.id].news.set()
        self._changed.set()
        self._changed = trio.Event()

    # --- fetching (EX6) ----------------------------------------------------------------------

    async def run(self) -> None:
        """Until cancelled."""
        self._states.clear()  # of a run that failed
        async with trio.open_nursery() as nursery:
            while True:
                changed = self._changed
                for account in self.accounts():
                    if account.id not in self._states:
                        self._states[account.id] = State()
                        nursery.start_soon(self._follow, account.id)
                await changed.wait()

    async def _follow(self, identifier: str) -> None:
        """Fetch for one account, until it is gone."""
        state, failures, pause = self._states[identifier], 0, SOON
        while True:
            hurried, state.news = state.news.is_set(), trio.Event()
            account = next((a for a in self.accounts() if a.id == identifier), None)
            agent = self._agent(account) if account else None
            if account is None or agent is None:
                break
            try:
                with contained("fetching mail"):
                    came = await self.fetch(account, agent)
            except AmpdError as exc:
                state.last_error = str(exc)
                failures += 1
                pause = min(LONGEST_PAUSE, SOON * 2 ** min(failures, 20))
                log.warning(
                    "mail cannot be fetched now",
                    extra={"address": account.address, "why": str(exc)},
                )
            else:
                state.last_error, failures = "", 0
                pause = SOON if came or hurried else min(LATER, pause * 2)
                state.fetched += came
            state.looked_at = self._now()
            with trio.move_on_after(pause * self._rng.uniform(1 - JITTER, 1 + JITTER)):
                await state.news.wait()
        del self._states[identifier]

    async def fetch(self, account: Registration, agent: Agent) -> int:
        """Take in all that waits at a provider (EX2); how many messages were new.

        Raises Refused or Unavailable; what was taken in before is acknowledged.
        """
        client, came = self._asking(), 0
        done: set[str] = set()
        for _ in range(MOST_PAGES):
            fresh = [
                item for item in await client.pending(account) if _id_of(item) not in {"", *done}
            ]
            for item in fresh:
                came += await self._take(account, agent, item)
                await client.acknowledge(account, _id_of(item))
                done.add(_id_of(item))
            if not fresh:
                break
        return came

    async def _take(self, account: Registration, agent: Agent, item: Mapping[str, Value]) -> int:
        """Whether it was new; what is refused for good is 0 (EX4). Raises Unavailable."""
        try:
            post = read_envelope(item.get("envelope"), item.get("payload"))
            key = await self._key(account, post, item)
            incoming = self._incoming(agent, post, key)
            if incoming.proved and not await self._proves(incoming.sender, key):
                incoming = self._incoming(agent, post, None)
            kept = await self._foreign.take_in(incoming)
            await self._remember(account, incoming.sender)
        except Refused as exc:
            log.warning(
                "a message of a provider is not taken in",
                extra={"provider": account.provider, "message_id": _id_of(item), "why": str(exc)},
            )
            return 0
        return int(kept[0][1])

    async def _key(
        self, account: Registration, post: Post, item: Mapping[str, Value]
    ) -> ForeignKey | None:
        """The key by which the message is proved to be its sender's, or None (EX3)."""
        sender = Address.parse(post.sender)
        if not post.signature or not account.covers(sender.domain) or not account.is_ours(post.to):
            return None
        key = key_said(item.get("sender_public_key"))
        key = key or await self._asking().resolve(account, str(sender))
        if key is None or not signing.verify(post.envelope, post.payload, checker(key)):
            return None
        return key

    async def _proves(self, sender: Address, key: ForeignKey | None) -> bool:
        """Whether this is the key that proved the sender first; as intake.py, IN2."""
        registry, foreign = self._registry(), self._foreign
        said = {"spki": key.spki.hex() if key else ""}
        known = registry.get(KEYS, str(sender))
        if known is None or not foreign.protocol_of(foreign.key_of(sender)):
            await registry.put(KEYS, str(sender), said, expires=self._now() + KEY_KEPT_FOR)
            return True
        return known == said

    def _incoming(self, agent: Agent, post: Post, key: ForeignKey | None) -> Incoming:
        return incoming_of(
            post, agent, Address.parse(post.sender), key, self._now(), proved=key is not None,
            protocol=PROTOCOL,
        )  # fmt: skip

    async def _remember(self, account: Registration, sender: Address) -> None:
        """Through whom somebody wrote who is elsewhere: the answer goes the same way (EX5)."""
        key, registry = f"{sender} {account.id}", self._registry()
        is_known = account.covers(sender.domain) or registry.get(SENDER, key) is not None
        if not is_known and registry.count(SENDER) < MAX_SENDERS:
            await registry.put(SENDER, key, {}, owner=account.agent)

    # --- sending (EX5) -----------------------------------------------------------------------

    async def find(self, address: Address) -> str:
        """Whether an account reaches this address; see ports.Courier."""
        await trio.lowlevel.checkpoint()
        return PROTOCOL if any(self._reaches(a, address) for a in self.accounts()) else ""

    def _reaches(self, account: Registration, address: Address) -> bool:
        if account.covers(address.domain):
            return True
        return self._registry().get(SENDER, f"{address} {account.id}") is not None

    async def carry(self, _protocol: str, parcel: Parcel) -> Delivery:
        """Send a message through its sender's account; see ports.Courier."""
        mine = [a for a in self.accounts() if a.key == parcel.sender.key.hex()]
        account = next((a for a in mine if self._reaches(a, parcel.recipient)), None)
        if account is None:
            raise Refused(
                f"{parcel.sender.address} has no account at the provider of {parcel.recipient}",
                hint="amp register --provider URL --tenant T",
            )
        signer = Provider.signer_of(parcel.sender)
        body = outgoing(parcel, account, signer, lambda native: self._came(parcel.sender, native))
        try:
            said = await self._asking().route(account, body)
        except Refused as exc:
            if exc.code == "conflict" and parcel.attempts:  # the answer to the first was lost
                return Delivery("relayed")
            raise
        if said.get("status") == "failed":
            raise Refused(f"{account.provider} says: {raw_json.write(said.get('error'))[:200]}")
        self._look_again(account)  # an answer may come soon
        return Delivery("delivered" if said.get("status") == "delivered" else "relayed")

    def _came(self, agent: Agent, native: bytes) -> Mapping[str, Any] | None:
        """The envelope with which a message of AMP came to an agent, by its native id."""
        try:
            full = self._reading.full(agent, self._lists.find(agent, id_text(native)))
            context = raw_json.parse(full.context or "null")
        except (Refused, Unavailable):
            return None
        amp = context.get("amp") if isinstance(context, dict) else None
        envelope = amp.get("envelope") if isinstance(amp, dict) else None
        if not isinstance(envelope, dict) or type(envelope.get("id")) is not str:
            return None
        return envelope if native_id(envelope["id"]) == native else None


def _id_of(item: Mapping[str, Value]) -> str:
    envelope = item.get("envelope")
    inside = envelope.get("id") if isinstance(envelope, dict) else None
    return str(item.get("id") or inside or "")[:200]


def _http_client(dns: str) -> "HttpClient":
    try:
        from ampd.edge.http.client import HttpClient
        from ampd.edge.http.dns import Dns
    except ImportError:
        raise Unavailable(
            "the libraries for HTTP are not installed", hint="pip install 'ampd-node[gateway]'"
        ) from None
    return HttpClient(Dns(dns))
