"""Stand-ins that keep their promises, for tests of the core and of the local socket.

A `Node` is the memory and the core of one daemon: a real store on a real disk, its rooms wired as
ampd/daemon.py wires them, and no socket. Time is a clock that a test moves, or trio's jumping one.
"""

import math
import random
from collections import Counter
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import trio

from ampd.core.agents import Agents, Profile
from ampd.core.checkup import Checkup
from ampd.core.contacts import Contacts
from ampd.core.directory import Directory
from ampd.core.flagging import Flagging
from ampd.core.json_text import to_value
from ampd.core.letters import Letters
from ampd.core.lists import Filter, Lists
from ampd.core.mailbox import Mailbox
from ampd.core.marks import Marks
from ampd.core.reading import Reading
from ampd.core.submission import Draft, Submission
from ampd.core.tracking import Tracking
from ampd.core.transfer import Transfer
from ampd.core.whereabouts import Whereabouts
from ampd.crypto.keyfiles import InboxKey
from ampd.crypto.keys import OpeningKey, SigningKey, seal
from ampd.model.address import ContactLink
from ampd.model.card import CARD_CONTEXT
from ampd.model.errors import Unavailable
from ampd.model.message import MESSAGE_CONTEXT, Envelope, Letter, Message, Recipient, new_id
from ampd.storage.records import Epoch
from ampd.storage.store import Store

START = 1_800_000_000_000
HOUR = 3_600_000
DAY = 24 * HOUR
LIMIT = 65536  # bytes of a message here


class Clock:
    """Milliseconds since 1970, moved by hand."""

    def __init__(self):
        self.time = START

    def __call__(self):
        return self.time


class JumpingClock:
    """The same, following trio's clock, which jumps when nobody has anything to do.

    What the store's thread does looks to trio as if everybody waited: while it writes, the clock
    stands still.
    """

    def __init__(self, mock_clock):
        self._clock = mock_clock
        self._writing = 0

    def __call__(self):
        return START + round(self._clock.current_time() * 1000)

    @asynccontextmanager
    async def standing_still(self):
        self._writing += 1
        self._clock.autojump_threshold = math.inf
        try:
            yield
        finally:
            self._writing -= 1
            if not self._writing:
                self._clock.autojump_threshold = 0


class PatientStore(Store):
    """A store during whose writes a JumpingClock stands still."""

    def __init__(self, folder, key, now):
        super().__init__(folder, key, now)
        self._clock = now

    async def write(self, run, *, urgent=False):
        async with self._clock.standing_still():
            return await super().write(run, urgent=urgent)


class Away:
    """A carrier that reaches nobody."""

    def wake(self, node):
        pass

    async def deliver(self, node, envelope):
        await trio.lowlevel.checkpoint()
        raise Unavailable("the recipient's node is away")


class Lan:
    """A carrier to the nodes that are plugged in: their own mailboxes take what is delivered.

    `log` has what was offered, in order: (node, envelope). `script` may answer in a node's place:
    it is called with the node and the envelope, and what it raises or returns counts, unless None.
    """

    def __init__(self):
        self.doors = {}
        self.log = []
        self._broken = Counter()  # node -> how often it did not take something
        self.script = lambda node, envelope: None

    def plug_in(self, node):
        self.doors[node.key.public] = node.mailbox

    def wake(self, node):
        pass

    async def deliver(self, node, envelope):
        self.log.append((node, envelope))
        session = self._broken[node]
        await trio.lowlevel.checkpoint()
        try:
            if session != self._broken[node]:
                raise Unavailable("one before it was not taken")  # as a Carrier promises
            answer = self.script(node, envelope)
            if answer is not None:
                return answer
            if node not in self.doors:
                raise Unavailable("the recipient's node is away")
            return await self.doors[node].deliver(envelope, b"n" * 32)
        except Unavailable:
            self._broken[node] += 1
            raise


@dataclass
class Node:
    """The rooms of one node."""

    folder: Path
    key: SigningKey
    domain: str
    store: Store
    agents: Agents
    contacts: Contacts
    mailbox: Mailbox
    submission: Submission
    lists: Lists
    reading: Reading
    flagging: Flagging
    marks: Marks
    tracking: Tracking
    directory: Directory
    transfer: Transfer
    whereabouts: Whereabouts

    async def agent(self, name, **profile):
        """The agent of this name, made if need be."""
        return (await self.agents.create(name, Profile(**profile)))[0]

    async def send(self, agent, to, text="", **options):
        """Send a message; `to` is one address, or several."""
        to = (to,) if isinstance(to, str) else tuple(to)
        return await self.submission.send(agent, Draft(to, text=text, **options))

    async def meet(self, other):
        """Take in the cards of another node, as a session would bring them."""
        await self.contacts.learn(other.agents.cards(), other.key.public, "lan")

    def inbox(self, agent, **wanted):
        """The summaries of a list."""
        return list(self.lists.listing(agent, Filter(**wanted)).messages)

    def bodies(self, agent, **wanted):
        """The texts of a list, in its order."""
        return [self.reading.full(agent, each.seq).body for each in self.inbox(agent, **wanted)]

    def status(self, agent, identifier):
        """The status of a message with one recipient."""
        return self.tracking.deliveries(agent, identifier)[1]

    def outbox(self):
        """What waits there."""
        return self.store.view.execute("SELECT * FROM outbox ORDER BY item").fetchall()

    def records(self):
        """How many records the journal ever had."""
        return self.store.journal.checkpoint.seq


async def _epoch(store, seed):
    def work(tx):
        if tx.index.meta("epoch") is None:
            tx.append(Epoch(seed.to_bytes(8, "big"), b"p" * 16))

    await store.write(work)


@asynccontextmanager
async def node(
    folder,
    name="here",
    *,
    clock=None,
    carrier=None,
    unknown_senders="accept",
    limit=LIMIT,
    relays=(),
):
    """A node in `folder`, which may have been one before; its transfer is not started."""
    folder = folder / name
    (folder / "keys").mkdir(parents=True, exist_ok=True)
    clock = clock or Clock()
    kind = PatientStore if isinstance(clock, JumpingClock) else Store
    store = kind(folder, b"k" * 32, clock)
    try:
        async with trio.open_nursery() as nursery:
            await nursery.start(store.run)
            yield await _node(
                folder, name, store, clock, carrier or Away(), unknown_senders, limit, relays
            )
            nursery.cancel_scope.cancel()
    finally:
        store.close()


async def _node(folder, name, store, clock, carrier, unknown_senders, limit, relays):
    key = SigningKey(name.encode().ljust(32, b"."))
    await _epoch(store, sum(name.encode()))
    domain = f"{name}.local"
    agents = Agents(store, folder / "keys", domain, key, clock)
    await agents.load()
    contacts = Contacts(store, agents, clock, unknown_senders)
    whereabouts = Whereabouts()
    letters = Letters(store, clock)
    transfer = Transfer(
        store, agents, contacts, letters, carrier, whereabouts, clock, random.Random(1)
    )
    lists, flagging = Lists(store), Flagging(store)
    return Node(
        folder, key, domain, store, agents, contacts,
        Mailbox(store, agents, contacts, clock, limit, relays),
        Submission(store, agents, contacts, clock, limit),
        lists, Reading(store, lists, flagging), flagging, Marks(store, agents, lists),
        Tracking(store, agents, lists, transfer.attempts_for),
        Directory(store, agents, set),
        transfer, whereabouts,
    )  # fmt: skip


# Letters by hand, for what no honest node would write


def message(sender, to, /, *, order=1, **changes):
    """A message from one Agent to another; any field can be another."""
    at = changes.pop("at", START)
    fresh = new_id(at, random.randbytes(10))
    draft = Message(
        id=fresh,
        sender=sender.address,
        to=(Recipient(to.address, to.key, order),),
        epoch=b"an epoch",
        sent=at,
        expires=at + DAY,
        thread=fresh,
        body="hello",
    )
    return replace(draft, **changes)


def sign(agent, what):
    """The COSE_Sign1 of a message by an agent's key."""
    return agent.keys.signing.sign1(MESSAGE_CONTEXT, what.to_bytes())


def post(signed, to, *, kind="message", card=b"", expires=START + DAY):
    """Signed bytes in an envelope for an Agent."""
    letter = Letter(kind, signed, card).to_bytes()
    return Envelope(to.keys.mailbox, expires, seal(to.card.seal_to(START), letter))


def letter(sender, to, /, **changes):
    """A whole envelope from one Agent to another."""
    what = message(sender, to, **changes)
    return post(sign(sender, what), to, card=sender.signed_card, expires=what.expires)


def link(agent, **parts):
    """An agent's contact link."""
    return str(ContactLink(agent.key, agent.address, **parts))


def resigned(agent, **changes):
    """A newer card of an agent, signed by its own key; any field can be another."""
    card = replace(agent.card, number=agent.card.number + 1)
    return agent.keys.signing.sign1(CARD_CONTEXT, replace(card, **changes).to_bytes())


def checkup(node):
    """What checks a node's journal."""
    return Checkup(node.store, node.folder)


async def with_new_keys(node, agent):
    """The agent as its node has it after it lost the inbox keys that were known of it, as when a
    backup is restored."""
    fresh = InboxKey(OpeningKey.generate(), node.agents._now() + 7 * DAY)
    keys = replace(agent.keys, inbox=(fresh,), fallback=OpeningKey.generate())
    card_number = agent.card.number + 1
    changed = node.agents._signed(replace(agent, keys=keys), card_number, Profile())
    await node.agents._keep(changed)
    return changed


async def until(node, condition, topic="outbox"):
    """Wait until something written makes `condition` true."""
    while True:
        changed = node.store.changed(topic)
        if condition():
            return
        await changed.wait()


async def emptied(node):
    """Wait until nothing is left to carry."""
    await until(node, lambda: not node.outbox())


def notices(node, agent):
    """The facts of what the node wrote to an agent."""
    return [
        to_value(node.reading.full(agent, each.seq).payload)
        for each in node.inbox(agent)
        if each.type == "system"
    ]
