"""Relays that lie: what they drop is noticed, and nothing is doubled, forged or misdelivered.

The relay's program is ampd's own; only its store lies, as whoever owns the machine could make it.
"""

import sys
import textwrap

import pytest
from lan import Local, eventually
from relay_process import knows, laptop, running

pytestmark = pytest.mark.slow
COUNT = 30

# A store that is honest while it is filled, and lies when it hands out.
LIAR = """
import sys
from dataclasses import replace
from ampd import relay_daemon
from ampd.storage.relay_store.port import Held
from ampd.storage.relay_store.sqlite import SqliteRelayStore

how, place = sys.argv[1], relay_daemon.choose_store


class Lying(SqliteRelayStore):
    def __init__(self, *args):
        super().__init__(*args)
        self.seen, self.cut = {}, set()

    async def after(self, mailbox, cursor, limit):
        held = await super().after(mailbox, cursor, limit)
        for each in held:
            self.seen.setdefault(each.token, each)
        return list(getattr(self, how)(held)) if held else held

    async def remove(self, mailbox, tokens):
        await super().remove(mailbox, [t for t in tokens if t > 0])

    def drops_every_seventh(self, held):
        # it says nothing of them, and pretends that they are gone
        return [h if h.token % 7 else replace(h, envelope=None) for h in held]

    def replays_everything(self, held):
        return [*self.seen.values(), *held, *held]

    def reorders(self, held):
        return reversed(held)

    def swaps_recipients(self, held):
        boxes = sorted({h.envelope.mailbox for h in self.seen.values()})
        other = {box: boxes[(n + 1) % len(boxes)] for n, box in enumerate(boxes)}
        for h in held:
            yield replace(h, envelope=replace(h.envelope, mailbox=other[h.envelope.mailbox]))
            yield h

    def truncates(self, held):
        # each the first time that it is handed out
        for h in held:
            cut = replace(h.envelope, sealed=h.envelope.sealed[:-1])
            yield Held(-h.token, cut) if h.token not in self.cut else h
            self.cut.add(h.token)


class Door(relay_daemon.RelayDoor):
    async def _offer_one(self, node, held, taken, failed):
        if held.envelope is None:
            taken.append(held)
        else:
            await super()._offer_one(node, held, taken, failed)


def choose(text, now):
    honest = place(text, now)
    return Lying(honest._path, honest._limits, now)


relay_daemon.choose_store, relay_daemon.RelayDoor = choose, Door
relay_daemon.main(sys.argv[3:])
"""


@pytest.fixture
def machine():
    with Local() as machine:
        yield machine


def lying(tmp_path, how, monkeypatch):
    """A relay that lies in the way of this name."""
    program = tmp_path / "liar.py"
    program.write_text(textwrap.dedent(LIAR))
    monkeypatch.setattr("relay_process.AMPD", [sys.executable, str(program), how])
    return running(tmp_path / "relay", "--open")


def mailed(a, b, count=COUNT):
    """alice sent bob and carol mail while they were away; then they come."""
    for agent in ("bob", "carol"):
        b.amp("init", agent)
    a.amp("init", "alice")
    eventually(lambda: knows(a, "bob@b.local") and knows(a, "carol@b.local"), what="the cards")
    b.terminate()
    for n in range(count):
        for to in ("bob@b.local", "carol@b.local"):
            a.call("message.send", agent="alice", to=[to], subject=f"{to} {n}", text="text")
    eventually(lambda: {m["status"] for m in sent(a)} == {"relayed"}, what="all with the relay")
    b.start()


def sent(node):
    return node.call("message.list", agent="alice", box="sent", limit=200)["messages"]


def inbox(node, agent):
    listed = node.call("message.list", agent=agent, limit=200)["messages"]
    return [m for m in listed if m["type"] != "system"]


@pytest.mark.parametrize("how", ["replays_everything", "swaps_recipients", "truncates"])
def test_nothing_is_doubled_forged_or_misdelivered(machine, tmp_path, monkeypatch, how):
    with lying(tmp_path, how, monkeypatch) as relay:
        a, b = laptop(machine, "a", relay.uri), laptop(machine, "b", relay.uri)
        mailed(a, b)
        for agent in ("bob", "carol"):
            whole = [f"{agent}@b.local {n}" for n in range(COUNT)]
            eventually(lambda: len(inbox(b, agent)) >= COUNT, what="the mail")  # noqa: B023
            assert [m["subject"] for m in inbox(b, agent)] == whole
            assert {m["from"] for m in inbox(b, agent)} == {"alice@a.local"}
            assert sum(m["missing_before"] or 0 for m in inbox(b, agent)) == 0
        assert b.json("check")["ok"]


def test_a_relay_that_reorders_loses_nothing_and_doubles_nothing(machine, tmp_path, monkeypatch):
    with lying(tmp_path, "reorders", monkeypatch) as relay:
        a, b = laptop(machine, "a", relay.uri), laptop(machine, "b", relay.uri)
        mailed(a, b)
        eventually(lambda: len(inbox(b, "bob")) == COUNT, what="the mail")
        got = [m["subject"] for m in inbox(b, "bob")]
        assert sorted(got) == sorted(f"bob@b.local {n}" for n in range(COUNT))
        assert not [w for w in b.json("status")["warnings"] if "never came" in w]


def test_what_a_relay_drops_is_reported_by_inbox_status_and_doctor(machine, tmp_path, monkeypatch):
    with lying(tmp_path, "drops_every_seventh", monkeypatch) as relay:
        a, b = laptop(machine, "a", relay.uri), laptop(machine, "b", relay.uri)
        mailed(a, b)
        got = eventually(
            lambda: (m := inbox(b, "bob")) and len(m) + len(inbox(b, "carol")) >= 50 and m,
            what="what it did not drop",
        )
        missing = sum(m["missing_before"] or 0 for m in got)
        assert missing >= 3 and len({m["subject"] for m in got}) == len(got)
        assert "before it never came" in b.amp("inbox", "--agent", "bob", "--limit", "50").stdout
        warnings = b.json("status")["warnings"]
        assert any("alice@a.local to bob never came" in w for w in warnings), warnings
        assert "never came" in b.amp("doctor", check=False).stdout


def test_a_relay_restored_from_an_old_copy_doubles_nothing_and_its_losses_are_seen(
    machine, tmp_path
):
    import shutil

    with running(tmp_path, "--open") as relay:
        a, b = laptop(machine, "a", relay.uri), laptop(machine, "b", relay.uri)
        mailed(a, b, 5)
        eventually(lambda: len(inbox(b, "bob")) == 5, what="the first part")
        b.terminate()
        relay.end()
        shutil.copytree(relay.home, tmp_path / "copy")
        relay.start()
        for n in range(5, 10):
            a.call("message.send", agent="alice", to=["bob@b.local"], subject=f"lost {n}", text="x")
        eventually(
            lambda: {m["status"] for m in sent(a)} <= {"relayed", "delivered"}, what="relayed"
        )
        relay.end()
        shutil.rmtree(relay.home)
        shutil.copytree(tmp_path / "copy", relay.home)
        relay.start()
        a.call("message.send", agent="alice", to=["bob@b.local"], subject="next", text="x")
        b.start()
        eventually(lambda: inbox(b, "bob")[-1]["subject"] == "next", what="the next message")
        assert len(inbox(b, "bob")) == 6
        assert inbox(b, "bob")[-1]["missing_before"] == 5
        assert any("never came" in w for w in b.json("status")["warnings"])
