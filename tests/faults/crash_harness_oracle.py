"""What was asked and answered, and what must therefore be true after a restart.

The ledger is outside the daemon and outside its file system: an intent is written down before the
request goes out, its outcome after the answer. Invariants (the oracle counts what breaks them):

  lost         what was answered, and not acked, is listed; what was not deleted is kept; agents too
  resurrected  what was acked is not in the inbox again, what was deleted nowhere
  duplicate    a message, and an idempotency key, is there once; a retry gives the first id
  ghost        nothing is listed that nobody sent, or whose sender was refused
  altered      every byte of a body is as it was sent; signatures hold
  order        who was answered before another asked has the lower number; no number is used twice
  unstable     two lists agree; an undecided send, once seen or missing, stays so
  damage       the daemon reports none when none was done, and leaves no stray file
  recovery     it starts by itself, ends with 0 on SIGTERM within 3 s
  refused      nothing is refused while nothing is wrong
"""

import hashlib
import itertools
import json
import os
import re
import threading
from collections import Counter
from dataclasses import dataclass, field

from faults.crash_harness_node import Told, listed

BOXES = [f"b{n}" for n in range(8)]
SENDERS = [f"s{n}" for n in range(4)]
BREACHES = (
    "lost", "resurrected", "duplicate", "ghost", "altered", "order", "unstable", "damage",
    "recovery", "refused",
)  # fmt: skip
ALLOWED_FILES = re.compile(
    r"ampd\.lock|index\.(sqlite(-wal|-shm)?|stamp)|journal/\d{16}\.log|(journal/)?reserve|config\.toml"
    r"|keys/node\.key|keys/agents/[^/]+|run/ampd\.sock|run/agents/[^/]+\.sock"
)


def body_of(seed, key, size):
    """The text that was sent under this key: any of its bytes can be checked."""
    return hashlib.shake_256(f"{seed}/{key}".encode()).hexdigest(size // 2 + 1)[:size]


@dataclass(slots=True)
class Send:
    """One message that somebody wanted sent."""

    key: str
    sender: str
    box: str
    size: int
    began: int
    outcome: str = "intent"  # then ok, unknown or error
    ended: int = 0
    id: str = ""
    present: bool | None = None  # of an unknown one, once it was looked for


@dataclass(slots=True)
class Fate:
    """What receivers did with a message."""

    box: str
    acked: str = ""
    deleted: str = ""


@dataclass
class Ledger:
    """Intents and outcomes, in memory and in a file that survives us."""

    path: object
    seed: object
    sends: dict = field(default_factory=dict)
    fates: dict = field(default_factory=dict)
    counts: Counter = field(default_factory=Counter)
    breaches: list = field(default_factory=list)
    errors_are_unknown: bool = False  # a refusal by a failing disk says nothing about the bytes

    def __post_init__(self):
        self._clock = itertools.count(1)
        self._lock = threading.Lock()
        self._file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def close(self):
        os.close(self._file)

    def _write(self, *what):
        os.write(self._file, json.dumps(what).encode() + b"\n")

    def now(self):
        return next(self._clock)

    def breach(self, kind, text):
        with self._lock:
            self.counts[kind] += 1
            self.breaches.append(f"{kind}: {text}")
            self._write("breach", kind, text)

    def intend(self, key, sender, box, size):
        with self._lock:
            send = self.sends[key] = Send(key, sender, box, size, self.now())
            self._write("send", key, sender, box, size)
        return send

    def outcome(self, send, outcome, identifier="", why=""):
        with self._lock:
            if outcome == "error" and self.errors_are_unknown:
                outcome = "unknown"
            send.outcome, send.id, send.ended = outcome, identifier, self.now()
            self.counts[f"sends {outcome}"] += 1
            self._write(outcome, send.key, identifier, why)

    def mark(self, box, identifiers, verb, outcome):
        """`verb` is acked or deleted; outcome intent, ok, unknown or error."""
        with self._lock:
            if outcome == "error" and self.errors_are_unknown:
                outcome = "unknown"
            for identifier in identifiers:
                fate = self.fates.setdefault(identifier, Fate(box))
                if getattr(fate, verb) != "ok":
                    setattr(fate, verb, outcome)
            self._write(verb, box, outcome, identifiers)
            if outcome != "intent":
                self.counts[f"{verb} {outcome}"] += len(identifiers)


class Oracle:
    """Looks at the daemon after each restart."""

    def __init__(self, ledger, rng):
        self.ledger = ledger
        self._rng = rng
        self._numbers = {}  # (box, number) -> id
        self._highest = dict.fromkeys(BOXES, 0)
        self._looked = 0  # the ledger's time of the look before
        self._bodies = set()

    def look(self, node, *, thorough=False):
        """Check everything; with `thorough` also the whole journal and every body."""
        with node.line() as line:
            self._agents(line)
            began = self.ledger.now()
            for box in BOXES:
                line.call("system.hello", agent=box)
                self._box(line, box, thorough=thorough)
            self._looked = began
            self._reports(line, thorough=thorough)
        self._files(node)

    def _agents(self, line):
        names = {each["name"] for each in line.call("agent.list")["agents"]}
        if names != {*BOXES, *SENDERS}:
            self.ledger.breach("lost", f"of the agents, there are {sorted(names)}")

    def _box(self, line, box, *, thorough):
        inbox, everything = listed(line, "inbox"), listed(line, "all")
        if listed(line, "inbox") != inbox:
            self.ledger.breach("unstable", f"two lists of {box} differ")
        self._once(box, everything)
        self._placed(box, inbox, everything)
        self._ordered(box, everything)
        self._marked(box, inbox, everything)
        self._readable(line, everything if thorough else inbox, thorough=thorough)

    def _once(self, box, everything):
        for what in ("id", "subject", "number"):
            counted = Counter(each[what] for each in everything)
            for value, count in counted.items():
                if count > 1:
                    self.ledger.breach("duplicate", f"{what} {value} {count} times in {box}")

    def _placed(self, box, inbox, everything):
        """Loss, ghosts, and sends of which nobody knew the end."""
        kept = {each["subject"]: each for each in everything}
        shown = {each["subject"] for each in inbox}
        for key in kept.keys() - self.ledger.sends.keys():
            self.ledger.breach("ghost", f"{key} in {box}: nobody sent it")
        for send in self.ledger.sends.values():
            if send.box != box:
                if send.key in kept:
                    self.ledger.breach("ghost", f"{send.key} is in {box}, not in {send.box}")
                continue
            found = kept.get(send.key)
            fate = self.ledger.fates.get(found["id"] if found else send.id)
            if send.outcome == "error" and found:
                self.ledger.breach("ghost", f"{send.key} was refused and is there")
            elif send.outcome == "ok":
                self._kept(send, found, fate, is_shown=send.key in shown)
            elif send.outcome in ("unknown", "intent"):
                self._decided(send, found, fate)

    def _kept(self, send, found, fate, *, is_shown):
        if found is None:
            if fate is None or not fate.deleted:
                self.ledger.breach("lost", f"{send.key} ({send.id}) of {send.box}")
        elif found["id"] != send.id:
            self.ledger.breach("duplicate", f"{send.key} is {found['id']}, was {send.id}")
        elif not is_shown and (fate is None or not (fate.acked or fate.deleted)):
            self.ledger.breach("lost", f"{send.key} is not in the inbox of {send.box}")

    def _decided(self, send, found, fate):
        if found:
            send.id = found["id"]
            send.ended = send.ended or self.ledger.now()
        elif send.present and fate is not None and fate.deleted:
            return
        if send.present is None:
            send.present = found is not None
            self.ledger.counts["unknown, there" if found else "unknown, not there"] += 1
        elif send.present != (found is not None):
            self.ledger.breach(
                "unstable", f"{send.key} was there: {send.present}, now the opposite"
            )

    def _ordered(self, box, everything):
        latest, whose = 0, ""
        for each in everything:
            send = self.ledger.sends.get(each["subject"])
            if send is None:
                continue
            if send.outcome == "ok" and send.ended < latest:
                self.ledger.breach("order", f"{send.key} stands behind {whose} in {box}")
            if send.outcome == "ok" and send.began > latest:
                latest, whose = send.began, send.key
            number = each["number"]
            if self._numbers.setdefault((box, number), each["id"]) != each["id"]:
                self.ledger.breach("order", f"number {number} of {box} is another message now")
            if send.began > self._looked and number <= self._highest[box]:
                self.ledger.breach("order", f"number {number} of {box} was given out before")
        if everything:
            self._highest[box] = max(self._highest[box], everything[-1]["number"])

    def _marked(self, box, inbox, everything):
        for verb, found in (("acked", inbox), ("deleted", everything)):
            for each in found:
                fate = self.ledger.fates.get(each["id"])
                if fate is not None and getattr(fate, verb) == "ok":
                    self.ledger.breach("resurrected", f"{each['subject']} of {box} was {verb}")

    def _readable(self, line, found, *, thorough):
        fresh = [each["id"] for each in found if each["id"] not in self._bodies]
        known = [each["id"] for each in found if each["id"] in self._bodies]
        wanted = fresh + (known if thorough else self._rng.sample(known, min(5, len(known))))
        for start in range(0, len(wanted), 50):
            for each in line.call(
                "message.get", ids=wanted[start : start + 50], peek=True, raw=True
            )["messages"]:
                self.proved(each)
                self._bodies.add(each["id"])

    def proved(self, message):
        """Whether a message is as it was sent."""
        send = self.ledger.sends.get(message["subject"])
        if send is None:
            return
        if message["body"] != body_of(self.ledger.seed, send.key, send.size):
            self.ledger.breach("altered", f"the body of {send.key}")
        if message["from"] != f"{send.sender}@crash.test" or message["trust"] != "verified":
            self.ledger.breach("altered", f"{send.key} from {message['from']}, {message['trust']}")

    def _reports(self, line, *, thorough):
        for warning in line.call("system.status")["warnings"]:
            self.ledger.breach("damage", warning)
        if not thorough:
            return
        report = line.call("journal.check")
        if not report["ok"]:
            self.ledger.breach("damage", json.dumps(report["damage"])[:500])

    def _files(self, node):
        for path in sorted(node.home.rglob("*")):
            name = str(path.relative_to(node.home))
            if not path.is_dir() and not ALLOWED_FILES.fullmatch(name):
                self.ledger.breach("damage", f"a stray file: {name}")

    def retry(self, node, share=0.2):
        """Ask again, with the same keys, for some whose end is unknown, and for one that is."""
        unknown = [s for s in self.ledger.sends.values() if s.outcome in ("unknown", "intent")]
        chosen = [send for send in unknown if self._rng.random() < share]
        settled = [s for s in self.ledger.sends.values() if s.outcome == "ok"]
        if settled:
            chosen.append(self._rng.choice(settled))
        with node.line() as line:
            for send in chosen:
                line.call("system.hello", agent=send.sender)
                self._again(line, send)

    def _again(self, line, send):
        if send.present is False and send.outcome != "ok":
            send.began = self.ledger.now()
        try:
            found = line.call("message.send", **request(self.ledger.seed, send))["id"]
        except Told as exc:
            if send.outcome != "ok" or exc.code != "message_unknown":
                self.ledger.breach("refused", f"a retry of {send.key}: {exc}")
            return
        if send.id and found != send.id:
            fate = self.ledger.fates.get(send.id)
            if fate is None or not fate.deleted:
                self.ledger.breach("duplicate", f"{send.key} again: {found}, was {send.id}")
            return
        if send.outcome != "ok":
            self.ledger.outcome(send, "ok", found)


def request(seed, send):
    """The parameters of `message.send`."""
    text = body_of(seed, send.key, send.size)
    return {"to": [f"{send.box}@crash.test"], "subject": send.key, "text": text, "key": send.key}
