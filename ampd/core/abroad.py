"""Out to the foreign protocols: what waits in the outbox for shadow keys (foreign.py).

  AB1  A letter goes to the courier of its recipient's protocol, those of one recipient in their
       order and one at a time; several recipients at once, at most AT_ONCE of one domain.
  AB2  "delivered" and "relayed" are written, via "gateway", when the courier says so; then the
       letter has left: no receipt of this protocol will come.
  AB3  A refusal goes back to the sender as a message, with the reason, as a peer's does.
  AB4  Who is away is tried again after 1 s doubling to 1 h, with 25 % of jitter, at most MOST_TRIES
       times (AMTP 5.3.2); then it failed. A new letter, or a network that came back, tries at once;
       such a try does not count.
  AB5  While no courier for a protocol is there (the gateway is off), its letters wait and say so.
  AB6  What goes wrong with one letter, one recipient or this disk ends nothing else.
  AB7  Whoever is not known is looked for by the couriers when mail is sent to them (`find`).

Expiry is the outbox's own (transfer.py). Not here: how a letter is said there (edge).
"""

import logging
import random
from collections.abc import Callable, Sequence
from typing import Final

import trio

from ampd.core.agents import Agent, Agents
from ampd.core.contacts import Contacts
from ampd.core.foreign import Foreign
from ampd.core.letters import FIRST_PAUSE, Attempts, Letters, Waiting
from ampd.core.notices import notify
from ampd.core.ports import Courier, Parcel
from ampd.core.receipts import WORTH_A_NOTICE
from ampd.crypto.keys import open1
from ampd.model.address import Address
from ampd.model.errors import AmpdError, Invalid, Refused, StorageError, Unavailable
from ampd.model.message import MESSAGE_CONTEXT, Message
from ampd.storage.records import Dropped, Progress
from ampd.storage.store import Store, Transaction

LONGEST_PAUSE: Final = 3600.0  # seconds
JITTER: Final = 0.25
MOST_TRIES: Final = 168  # about a week
AT_ONCE: Final = 4  # letters under way to one domain: a foreign server has limits of its own
FIND_WITHIN: Final = 10.0  # seconds for the couriers to say who reaches an address
_LOOKED_AT: Final = 64  # of one recipient's letters whose tries are counted together
_MAX_REASON: Final = 500  # characters of another host's words

log = logging.getLogger("ampd.abroad")


class _Tried(Attempts):
    """What is remembered of one recipient."""

    __slots__ = ("early", "pause", "tries")

    def __init__(self) -> None:
        super().__init__(via="gateway")
        self.pause: trio.CancelScope | None = None
        self.early = False  # the pause before this try was cut short
        self.tries: dict[int, int] = {}  # by item: those that count (AB4)

    def hurry(self) -> None:
        """Try again at once."""
        if self.pause is not None:
            self.early = True
            self.pause.cancel()


class Abroad:
    """Carries the outbox's letters for foreign addresses."""

    def __init__(
        self,
        store: Store,
        agents: Agents,
        contacts: Contacts,
        foreign: Foreign,
        letters: Letters,
        now: Callable[[], int],
        rng: random.Random,
    ) -> None:
        self._store = store
        self._agents = agents
        self._contacts = contacts
        self._foreign = foreign
        self._letters = letters
        self._now = now
        self._rng = rng
        self._couriers: dict[str, Courier] = {}
        self._newest = 0  # the last letter that was looked at
        self._domains: dict[str, trio.CapacityLimiter] = {}
        self.attempts: dict[bytes, _Tried] = {}  # of the recipients that are served, by key

    def use(self, courier: Courier, protocols: Sequence[str]) -> None:
        """From now on `courier` carries what is for these protocols (AB5)."""
        for protocol in protocols:
            self._couriers[protocol] = courier
        self.wake()

    def attempts_for(self, address: str) -> Attempts | None:
        """What is remembered of carrying mail to an address."""
        try:
            return self.attempts.get(self._foreign.key_of(Address.parse(address)))
        except Invalid:
            return None

    def wake(self) -> None:
        """Something changed (a network, a gateway): try all again at once."""
        for tried in self.attempts.values():
            tried.hurry()

    # --- who can be reached ----------------------------------------------------------------

    async def find(self, addresses: Sequence[str]) -> None:
        """Introduce those of these addresses that nobody knows and a courier reaches (AB7)."""
        with trio.move_on_after(FIND_WITHIN):
            async with trio.open_nursery() as nursery:
                for text in dict.fromkeys(addresses):
                    if self._couriers and "@" in text and not self._is_known(text):
                        nursery.start_soon(self._find, text)

    def _is_known(self, text: str) -> bool:
        try:
            self._contacts.resolve(text)
        except Refused as exc:
            return exc.code != "recipient_unknown"
        return True

    async def _find(self, text: str) -> None:
        try:
            address = Address.parse(text)
            protocol = await self._protocol_at(address)
            if protocol:
                await self._foreign.introduce(address, protocol)
        except AmpdError as exc:
            log.info("an address is not found abroad", extra={"address": text, "why": str(exc)})

    async def _protocol_at(self, address: Address) -> str:
        """Who reaches an address; the first courier that was handed in is asked first."""
        failed: AmpdError | None = None
        for courier in dict.fromkeys(self._couriers.values()):
            try:
                if protocol := await courier.find(address):
                    return protocol
            except AmpdError as exc:
                failed = exc
        if failed is not None:
            raise failed
        return ""

    # --- following the outbox --------------------------------------------------------------

    async def run(self) -> None:
        """Until cancelled."""
        async with trio.open_nursery() as nursery:
            while True:
                changed = self._store.changed("outbox")
                try:
                    self._look(nursery)
                except StorageError as exc:
                    log.warning("the outbox cannot be read now", extra={"why": str(exc)})
                    await trio.sleep(FIRST_PAUSE)
                    continue
                await changed.wait()

    def _look(self, nursery: trio.Nursery) -> None:
        """Serve those for whom there are letters that were not looked at."""
        newest = self._newest
        for key, address, item in self._store.view.execute(
            "SELECT key, address, max(item) FROM outbox WHERE item>? AND status='queued'"
            " GROUP BY key, address",
            (self._newest,),
        ):
            newest = max(newest, item)
            if not self._foreign.is_shadow(address, key):
                continue
            if (tried := self.attempts.get(key)) is None:
                self.attempts[key] = _Tried()
                nursery.start_soon(self._serve, key, Address.parse(address))
            else:
                tried.hurry()  # a new letter (AB4)
        self._newest = newest

    async def _serve(self, key: bytes, address: Address) -> None:
        """Carry one recipient's letters, until none waits (AB1)."""
        tried = self.attempts[key]
        limiter = self._domains.setdefault(address.domain, trio.CapacityLimiter(AT_ONCE))
        while True:
            try:
                items = self._items(key)
                if not items:
                    break
                async with limiter:
                    await self._carry(items[0], address, tried)
            except AmpdError as exc:
                tried.last_error = str(exc)
                await self._pause(tried)
            else:
                tried.in_a_row, tried.next_at, tried.last_error = 0, 0, ""
                tried.tries.clear()
        del self.attempts[key]
        if not limiter.statistics().tasks_waiting and not limiter.borrowed_tokens:
            self._domains.pop(address.domain, None)

    def _items(self, key: bytes) -> list[Waiting]:
        return self._letters.waiting(
            "WHERE o.key=? AND o.status='queued' AND o.expires>? ORDER BY o.item LIMIT ?",
            key, self._now(), _LOOKED_AT,
        )  # fmt: skip

    async def _pause(self, tried: _Tried) -> None:
        """AB4."""
        pause = tried.next_pause(LONGEST_PAUSE) * self._rng.uniform(1 - JITTER, 1 + JITTER)
        tried.failed(self._now(), pause)
        tried.early = False
        with trio.move_on_after(pause) as tried.pause:
            await trio.sleep_forever()
        tried.pause = None

    # --- one letter ------------------------------------------------------------------------

    async def _carry(self, item: Waiting, address: Address, tried: _Tried) -> None:
        """Offer one letter, and write down what became of it. Raises Unavailable."""
        if item.what != "message":
            await self._store.write(lambda tx: _drop(tx, item), urgent=True)
            return
        sender = self._agents.of_key(item.by)
        if sender is None:
            await self._give_up(item, "its sender was removed from this node")
            return
        signed = self._letters.message(item)[0].signed
        message = Message.from_bytes(open1(signed, MESSAGE_CONTEXT)[1])
        parcel = Parcel(sender, address, message, signed, tried.count)
        protocol, courier = await self._courier(item.key, address)
        try:
            delivery = await courier.carry(protocol, parcel)
        except Refused as exc:
            await self._give_up(item, str(exc), said_by=item.address)
        except Unavailable as exc:
            await self._try_again(item, tried, exc)
        else:
            await self._note(item, delivery.status)

    async def _courier(self, key: bytes, address: Address) -> tuple[str, Courier]:
        """Who carries mail to this recipient. Raises Unavailable (AB5)."""
        protocol = self._foreign.protocol_of(key)  # "": the contact was removed meanwhile
        try:
            protocol = protocol or await self._protocol_at(address)
        except Refused as exc:
            raise Unavailable(str(exc)) from exc
        courier = self._couriers.get(protocol)
        if courier is None:
            raise Unavailable(
                f"{address} is reached by a gateway, and this node's is off",
                hint="set listen in [gateway] of config.toml",
            )
        return protocol, courier

    async def _try_again(self, item: Waiting, tried: _Tried, why: Unavailable) -> None:
        """Raises `why`, unless the letter was tried often enough (AB4)."""
        if isinstance(why, StorageError):
            raise why
        if not tried.early:
            waiting = [each.item for each in self._items(item.key)]
            tried.tries = {each: tried.tries.get(each, 0) + 1 for each in waiting}
        if tried.tries.get(item.item, 0) < MOST_TRIES:
            raise why
        await self._give_up(item, f"given up after {MOST_TRIES} tries: {why}")
        raise why  # who comes next waits its turn: nobody is there now

    async def _note(self, item: Waiting, status: str) -> None:
        """AB2."""
        if status not in ("delivered", "relayed"):
            raise Unavailable(f"what should be a gateway says {status!r}")

        def work(tx: Transaction) -> None:
            if not _waits(tx, item):
                return
            tx.append(Progress(item.message, item.by, item.recipient, status, "gateway", tx.now))
            _drop(tx, item)
            self._tell(tx, item.by, item.message, item.address, status)

        await self._store.write(work, urgent=True)

    async def _give_up(self, item: Waiting, reason: str, *, said_by: str = "") -> None:
        """AB3."""
        why = reason[:_MAX_REASON]

        def work(tx: Transaction) -> None:
            if not _waits(tx, item):
                return
            of = (item.message, item.by, item.recipient, "failed", "gateway", tx.now, why)
            tx.append(Progress(*of))
            notify(tx, self._agents, item.by, item.message, item.address, "failed", why, said_by)

        await self._store.write(work, urgent=True)

    # --- what is heard later ---------------------------------------------------------------

    async def heard(
        self, agent: Agent, message: bytes, recipient: Address, status: str, reason: str = ""
    ) -> bool:
        """Note what the other side said later of a message that was "relayed" or "delivered".

        `status` is delivered, read or failed. Whether it was news: a status never goes back.
        """
        sender = agent.key
        if status not in ("delivered", "read", "failed"):
            raise Invalid(f"no status {status!r}")

        def work(tx: Transaction) -> bool:
            row = tx.db.execute(
                "SELECT d.recipient, d.status, d.address FROM messages m JOIN agents a ON a.id=m.by"
                " JOIN deliveries d ON d.message=m.seq"
                " WHERE m.id=? AND a.key=? AND d.key=? AND d.via='gateway'",
                (message, sender, self._foreign.key_of(recipient)),
            ).fetchone()
            before = {"delivered": ("relayed",), "read": ("relayed", "delivered")}
            if row is None or row["status"] not in before.get(status, ("relayed",)):
                return False
            why = reason[:_MAX_REASON]
            of = (message, sender, row["recipient"], status, "gateway", tx.now, why)
            tx.append(Progress(*of))
            if status == "failed":
                to = str(row["address"])
                notify(tx, self._agents, sender, message, to, status, why, said_by=to)
            self._tell(tx, sender, message, row["address"], status)
            return True

        return await self._store.write(work, urgent=True)

    def _tell(
        self, tx: Transaction, sender: bytes, message: bytes, address: str, status: str
    ) -> None:
        """A sender that asked for it hears of it by a message, too (receipts.py, Q3)."""
        row = tx.db.execute(
            "SELECT m.receipt FROM messages m JOIN agents a ON a.id=m.by WHERE m.id=? AND a.key=?",
            (message, sender),
        ).fetchone()
        if row is not None and row[0] and status in WORTH_A_NOTICE:
            notify(tx, self._agents, sender, message, address, status)


def _waits(tx: Transaction, item: Waiting) -> bool:
    row = tx.db.execute("SELECT 1 FROM outbox WHERE item=?", (item.item,)).fetchone()
    return row is not None


def _drop(tx: Transaction, item: Waiting) -> None:
    """Nothing more is to be done for it, whatever its status."""
    if _waits(tx, item):
        tx.append(Dropped(item.item, tx.now))
