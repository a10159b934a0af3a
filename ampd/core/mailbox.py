"""The one door in: what came from anywhere, to stay in the mailbox of an agent here.

    deliver, deliver_run   opened, checked, judged, kept: then the receipt is true

  B1  Nothing is kept but what its sender's key signed, for this agent's key, not expired, and not
      dated more than a day ahead (P6).
  B2  A message is kept once, however often and by whichever way it comes (P2); a repeated one is
      answered with a receipt again. The mark as seen outlives the message.
  B3  A receipt goes out only after the sync that holds the message and its mark (P1), and only for
      the bytes that were kept: others under the same id are refused, also after a deletion.
  B4  A key that differs from the one known for an address is quarantined, never shown as that
      address's mail (contacts.py, N2).
  B5  What was sealed to a key that is gone is refused with the newer card.
  B6  A receipt counts only if the key signed it that the message was addressed to (receipts.py).
  B7  What only a clock says against (expired, dated ahead) is refused for now, with the reason: the
      sender's own clock, which made the times, decides in the end. What a carrier brought is
      refused for good: it would hold up what lies behind it, and its sender keeps it.
  B8  What a relay or a stick brought is answered by a receipt that travels as mail does, and is
      written with the message: the receipts of one run for one sender are one letter. The carrier
      itself is shown none, for it would say who wrote to whom.
  B9  What they brought and is refused for good is answered by a signed refusal in the same way, if
      its sender signed it for an agent here, and not for B7's reasons; a stranger's, as long as
      there is room for the answer (strangers.py, ST3).
  B10 What comes together is one work of the store, but each letter is judged alone: one that is
      refused keeps no other from being kept, unless it is to be offered again (B7): then nothing
      behind it for the same mailbox is kept.

  B11 What strangers bring beyond their daily share (strangers.py) is refused for now, or for good
      if a carrier brought it (as in B7).

Not here: what needs no memory (opening.py), lists (lists.py), marks (marks.py), what goes out
(submission.py, transfer.py).
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Final

import trio

from ampd.core.agents import Agent, Agents
from ampd.core.cards import Taking
from ampd.core.contacts import Contacts
from ampd.core.opening import Opened, Opening
from ampd.core.ports import Run
from ampd.core.receipts import Said, note_receipt, proved, queue_receipts, receipt_for
from ampd.core.strangers import Allowance, Bringing
from ampd.model.errors import Refused, Unavailable
from ampd.model.message import Delivery, Envelope, digest
from ampd.model.values import value
from ampd.storage.records import Kept, State
from ampd.storage.store import Store, Transaction

LONGEST_EXPIRY: Final = 30 * 86_400_000  # the mark as seen is kept 31 days
AHEAD: Final = 86_400_000  # a clock may be wrong by a day (wire: "Envelope")
_AT_ONCE: Final = 4  # letters opened before others get their turn: about 1 ms
UNSAID: Final = ("expired", "forged")  # refusals that tell an honest sender nothing (B7, B9)


@value
class Taken:
    """What came: "message", "known" (it was here before) or "receipt"; and our receipt for it,
    b"" if a carrier brought it."""

    what: str
    receipt: bytes = b""


@value
class _Receipts:
    """What one letter says of messages that an agent here sent, as far as it may mean something."""

    agent: Agent
    said: Sequence[Said]


_Letter = Opened | _Receipts
_Answer = tuple[str, int] | Refused | Unavailable  # what it was, and when it was kept
_Key = tuple[bytes, bytes, bytes]  # agent, sender, id of a message


@dataclass(slots=True)
class _Run:
    """One work: what is known and owed while its letters are taken one after the other."""

    tx: Transaction
    via: str
    here: dict[_Key, tuple[int, int, bytes]]  # when it was kept, where it lies, its digest
    cards: Taking
    bringing: Bringing
    judged: dict[tuple[str, bytes], str] = field(default_factory=dict)
    shown: set[bytes] = field(default_factory=set)  # cards
    owed: dict[tuple[bytes, bytes], tuple[Agent, list[tuple[bytes, bytes]]]] = field(
        default_factory=dict
    )

    def owe(self, opened: Opened, stage: str, reason: str = "") -> None:
        """B8, B9."""
        agent, now = opened.agent, self.tx.now
        receipt = receipt_for(agent, opened.message, opened.signed, stage, now, reason)
        _, receipts = self.owed.setdefault((agent.key, opened.key), (agent, []))
        receipts.append((opened.message.id, receipt))


class Mailbox:
    """Implements ports.Door."""

    def __init__(
        self,
        store: Store,
        agents: Agents,
        contacts: Contacts,
        now: Callable[[], int],
        message_bytes: int,
        relays: Collection[bytes] = (),
    ) -> None:
        """`relays` holds the node keys of this node's relays, as they are at the moment."""
        self._relays = relays
        self._store = store
        self._agents = agents
        self._contacts = contacts
        self._now = now
        self._opening = Opening(agents, message_bytes)
        self._turn = trio.Lock()  # runs reach the store in the order in which they came
        self._strangers = Allowance(contacts.wanted)
        self._unsettled: dict[tuple[bytes, bytes, bytes], bytes] = {}

    @property
    def message_bytes(self) -> int:
        """The largest signed message that is taken."""
        return self._opening.message_bytes

    async def deliver(self, envelope: Envelope, node: bytes) -> Delivery:
        """Return once the message, or the receipts, are safe here (B1-B9)."""
        (taken,) = await self.take([envelope], node, self._way(node))
        if isinstance(taken, Taken):
            return Delivery("delivered", taken.receipt)
        raise taken

    async def deliver_run(self, run: Run, node: bytes) -> None:
        """The same for many, in order (B10)."""

        def answer(place: int, taken: Taken | Refused | Unavailable) -> None:
            if isinstance(taken, Taken):
                run.answer(place, Delivery("delivered", taken.receipt))
            else:
                run.answer(place, taken)

        await self._take(run.envelopes, node, self._way(node), answer, run.begin)

    def _way(self, node: bytes) -> str:
        return "relay" if node in self._relays else "direct"

    async def take(
        self, envelopes: Sequence[Envelope], node: bytes, via: str
    ) -> list[Taken | Refused | Unavailable]:
        """Take what came by the way `via`, in order; what each was, or why it is not taken.

        Raises StorageError if nothing could be written.
        """
        answers: dict[int, Taken | Refused | Unavailable] = {}
        await self._take(envelopes, node, via, answers.__setitem__, lambda _: True)
        return [answers[place] for place in range(len(envelopes))]

    async def _take(
        self,
        envelopes: Sequence[Envelope],
        node: bytes,
        via: str,
        answer: Callable[[int, Taken | Refused | Unavailable], None],
        begin: Callable[[int], bool],
    ) -> None:
        opened: list[tuple[int, bytes, _Letter]] = []
        async with self._turn:
            for place, envelope in enumerate(envelopes):
                if place % _AT_ONCE == 0:
                    await trio.lowlevel.checkpoint()  # local programs have their turn
                if begin(place):
                    try:
                        letter = await self._open(envelope)
                    except Refused as exc:  # at once: what comes behind it may have to wait
                        answer(place, exc)
                        continue
                    if isinstance(letter, _Receipts) and not letter.said:
                        answer(place, Taken("receipt"))  # nothing in it to be written
                    else:
                        opened.append((place, envelope.mailbox, letter))
        if not opened:
            return
        letters = [letter for _, _, letter in opened]
        answers = await self._write(letters, [box for _, box, _ in opened], node, via)
        for (place, _, letter), taken in zip(opened, answers, strict=True):
            answer(place, self._receipted(letter, taken, via))

    async def _open(self, envelope: Envelope) -> _Letter:
        letter = self._opening.open(envelope)
        if isinstance(letter, Opened):
            return letter
        return _Receipts(letter.agent, await proved(self._store.view, letter.agent, letter.signed))

    async def _write(
        self, letters: Sequence[_Letter], boxes: Sequence[bytes], node: bytes, via: str
    ) -> list[_Answer]:
        fresh = [_key(letter) for letter in letters if isinstance(letter, Opened)]
        try:
            return await self._store.write(
                lambda tx: self._work(self._run(tx, node, via, fresh), letters, boxes)
            )
        finally:
            for key in fresh:  # from now on it can be read
                self._unsettled.pop(key, None)

    def _receipted(
        self, letter: _Letter, answer: _Answer, via: str
    ) -> Taken | Refused | Unavailable:
        """With the receipt that the answer takes along, if it goes to the sender's own node."""
        if isinstance(answer, Refused | Unavailable):
            return answer
        what, at = answer
        if via != "direct" or isinstance(letter, _Receipts):
            return Taken(what)
        receipt = receipt_for(letter.agent, letter.message, letter.signed, "delivered", at)
        return Taken(what, receipt)

    def cards(self) -> list[bytes]:
        """The signed cards of this node's agents."""
        return self._agents.cards()

    async def learn(self, cards: list[bytes], node: bytes) -> None:
        """Keep the cards that a peer showed."""
        await self._contacts.learn(cards, node, "lan")

    async def cards_for(self, addresses: Sequence[str], _node: bytes) -> list[bytes]:
        """The cards of our agents at these addresses; "@domain" and "" as ports.Door says."""
        asked = {address.lower() for address in addresses}
        await trio.lowlevel.checkpoint()
        return [
            agent.signed_card
            for agent in self._agents
            if asked & {"", f"@{agent.address.domain}", str(agent.address)}
        ]

    async def join(self, _token: bytes, _node: bytes) -> None:
        """A relay is another program."""
        await trio.lowlevel.checkpoint()
        raise Refused("this node keeps no mail for others: it is no relay", code="forbidden")

    async def collect(self, _cards: list[bytes], _node: bytes) -> None:
        """A relay is another program."""
        await trio.lowlevel.checkpoint()
        raise Refused("this node keeps no mail for others: it is no relay", code="forbidden")

    async def left(self, _node: bytes) -> None:
        """Nothing here hangs on a session."""
        await trio.lowlevel.checkpoint()

    # --- within the store's work ----------------------------------------------------------

    def _run(self, tx: Transaction, node: bytes, via: str, fresh: Collection[_Key]) -> _Run:
        cards = self._contacts.cards.taking(tx, node, via)
        bringing = self._strangers.bringing(tx.db, tx.now, answered=via != "direct")
        return _Run(tx, via, _here(tx, fresh), cards, bringing)

    def _work(self, run: _Run, letters: Sequence[_Letter], boxes: Sequence[bytes]) -> list[_Answer]:
        """What each letter was, and when it was kept (B10)."""
        answers: list[_Answer] = []
        stopped: set[bytes] = set()
        for letter, box in zip(letters, boxes, strict=True):
            if box in stopped:
                answers.append(Unavailable("one before it could not be kept"))
                continue
            answers.append(self._one(run, letter))
            if isinstance(answers[-1], Unavailable):
                stopped.add(box)
        for (_, sender), (agent, receipts) in run.owed.items():
            queue_receipts(run.tx, agent, sender, receipts)
        return answers

    def _one(self, run: _Run, letter: _Letter) -> _Answer:
        if isinstance(letter, _Receipts):
            for said in letter.said:
                note_receipt(run.tx, self._store, self._agents, letter.agent.key, said, run.via)
            return "receipt", run.tx.now
        try:
            return self._keep(run, letter)
        except Refused as exc:
            if run.via != "direct" and exc.code not in UNSAID and run.bringing.may_tell(letter):
                self._show_card(run, letter)
                run.owe(letter, "refused", str(exc))
            return exc
        except Unavailable as exc:
            return exc

    def _keep(self, run: _Run, opened: Opened) -> tuple[str, int]:
        """Judge and append; all that is refused is refused before anything is written (B10)."""
        tx, message, key = run.tx, opened.message, opened.key
        before = self._held_at(run, opened)
        if before:
            return "known", before  # B2, also when it has expired since
        if opened.refusal is not None:
            raise opened.refusal
        self._check_times(opened, tx.now, run.via)
        self._meter(run, opened)
        who = (str(message.sender), key)
        if who not in run.judged:
            run.judged[who] = self._contacts.judge(tx, message.sender, key, run.via)
        reason = run.judged[who]
        self._show_card(run, opened)
        state = State.QUARANTINED if reason else State.UNREAD
        box = (opened.agent.key, tx.rows.next_number(opened.agent.key), int(state), reason)
        tx.append(Kept(opened.signed, tx.now, run.via, True, b"", (box,)))
        run.here[_key(opened)] = (tx.now, 0, opened.digest)
        self._unsettled[_key(opened)] = opened.digest
        if run.via != "direct":
            run.owe(opened, "delivered")
        return "message", tx.now

    def _meter(self, run: _Run, opened: Opened) -> None:
        """B11."""
        wait = run.bringing.wait(opened)
        if wait:
            words = f"too much mail of strangers for a day; there is room in {wait / 60:.0f} min"
            if run.via != "direct":
                raise Refused(words, code="quota_exceeded")
            raise Unavailable(words, code="quota_exceeded")

    def _show_card(self, run: _Run, opened: Opened) -> None:
        """Whoever wrote is no stranger by sight (cards.py, CD2)."""
        if opened.card is not None and opened.card[0] not in run.shown:
            signed, card = opened.card
            run.shown.add(signed)
            run.cards.take(signed, opened.key, card)

    def _held_at(self, run: _Run, opened: Opened) -> int:
        """When this agent got this message, or 0. Refused if only the id is the same (B3)."""
        at, seq, known = run.here.get(_key(opened), (0, 0, b""))
        if seq:
            settled = run.tx.db.execute("SELECT 1 FROM places WHERE seq=?", (seq,)).fetchone()
            if settled:
                kept = self._store.payload_at(run.tx.db, seq)
                known = digest(kept.signed) if isinstance(kept, Kept) else b""
            else:  # it came in this very moment, by another way: nothing can be read yet
                known = self._unsettled.get(_key(opened), b"")
        if known and known != opened.digest:
            raise Refused("another message of this sender has the same id", code="forged")
        return at

    def _check_times(self, opened: Opened, now: int, via: str) -> None:
        """B1, B7: refused for now to who offers it itself, for good to a carrier."""
        message = opened.message
        late = now - message.expires
        ahead = max(message.sent - now, message.expires - now - LONGEST_EXPIRY) - AHEAD
        if late < 0 and ahead < 0:
            return
        words = "expired" if late >= 0 else "dated ahead"
        if via != "direct":
            raise Refused(f"by this node's clock it is {words}", code="expired")
        raise Unavailable(
            f"by the clock of the recipient's node it is {words}: one of the two clocks is"
            f" wrong (here it is {now // 1000} s since 1970)"
        )


def _key(opened: Opened) -> _Key:
    return opened.agent.key, opened.key, opened.message.id


def _here(tx: Transaction, keys: Collection[_Key]) -> dict[_Key, tuple[int, int, bytes]]:
    """Which of these messages this node has or had: when it was kept, and where it lies, or the
    hash of the signed bytes of what was deleted."""
    if not keys:
        return {}
    marks = ",".join("?" * len(keys))
    ids = [key[2] for key in keys]
    found: dict[_Key, tuple[int, int, bytes]] = {}
    for sender in {key[1] for key in keys}:
        for agent, identifier, at, known in tx.db.execute(
            f"SELECT agent, id, at, digest FROM seen WHERE sender=? AND id IN ({marks})",  # noqa: S608
            (sender, *ids),
        ):
            found[agent, sender, identifier] = at, 0, known
    for agent, sender, identifier, at, seq in tx.db.execute(
        "SELECT a.key, m.sender_key, m.id, m.at, m.seq FROM messages m"  # noqa: S608
        " JOIN boxes b ON b.message=m.seq JOIN agents a ON a.id=b.agent"
        f" WHERE m.id IN ({marks})",
        ids,
    ):
        found[agent, sender, identifier] = at, seq, b""
    return found


def held_at(
    tx: Transaction, agent: bytes, sender: bytes, identifier: bytes
) -> tuple[int, int, bytes]:
    """When this agent got this message, and where it lies; if it deleted it, 0 and the hash of its
    signed bytes. Zeros if it never came."""
    key = (agent, sender, identifier)
    return _here(tx, [key]).get(key, (0, 0, b""))
