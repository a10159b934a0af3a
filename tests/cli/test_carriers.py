"""`amp relay` and `amp bundle`: other ways for mail, against a daemon that keeps the contract."""

import base64
import json

import pytest
from cli.fake_daemon import Refusal
from cli.test_output import on_a_terminal

URI = "amp://26hhfoeio3rzenagvghde5epoyk7ol6oeyz7hclsqe232jkw5lxq@relay.example:4161"
COUNTS = {"messages": 1, "receipts": 0, "known": 2, "elsewhere": 0, "refused": 0, "cards": 1}


@pytest.fixture
def relays(daemon):
    relay = {"uri": URI, "state": "collecting", "last_error": None}
    daemon.results["relay.list"] = daemon.results["relay.add"] = {"relays": [relay]}
    daemon.results["relay.remove"] = {"relays": []}


def test_relays_are_added_listed_and_removed(amp, daemon, relays):
    assert amp("relay", "add", URI).out == f"{URI}  collecting\n"
    assert daemon.asked[-1][1:] == ("relay.add", {"uri": URI})
    assert amp("relay", "list").out == f"{URI}  collecting\n"
    said = amp("relay", "remove", URI)
    assert (said.code, said.out) == (0, "no relays\n")
    assert "amp relay add" in said.err
    assert json.loads(amp("relay", "list", "--json").out)["relays"][0]["uri"] == URI


def test_a_relay_that_does_not_serve_us_says_why(amp, daemon):
    relay = {"uri": URI, "state": "away", "last_error": "connection refused"}
    daemon.results["relay.list"] = {"relays": [relay]}
    assert amp("relay", "list").out == f"{URI}  away  connection refused\n"


def test_quiet_relays_are_their_uris(amp, daemon, relays):
    assert amp("relay", "add", URI, "--quiet") == (0, "", "")
    assert amp("relay", "list", "--quiet") == (0, f"{URI}\n", "")
    assert amp("relay", "remove", URI, "--quiet") == (0, "", "")


class Stock:
    """The items that a daemon has for a bundle, a page each; and those that it was given."""

    def __init__(self, daemon, *items):
        self.items = items
        self.taken = []
        self.daemon = daemon
        daemon.do_before = daemon.do
        daemon.do = self.do

    def do(self, method, params, state):
        if method == "bundle.write":
            at = params["after"]
            page = [base64.b64encode(item).decode() for item in self.items[at : at + 1]]
            more = at + 1 < len(self.items)
            return {"items": page, "envelopes": len(page), "cards": 0, "next": (at + 1) * more}
        if method == "bundle.read":
            self.taken += map(base64.b64decode, params["items"])
            return COUNTS
        return self.daemon.do_before(method, params, state)


ITEMS = (b"a card", b"x" * 3_000_000, bytes(range(256)))


@pytest.fixture
def stock(daemon):
    return Stock(daemon, *ITEMS)


def test_what_one_node_writes_another_reads(amp, daemon, stock, tmp_path):
    path = str(tmp_path / "mail.ampd")
    said = amp("bundle", "write", path, "--to", "bob", "--to", "carol")
    assert said == (
        0,
        f"{path}: 3 envelopes, 0 cards\n",
        "on the other node: amp bundle read mail.ampd\n",
    )
    assert daemon.asked[-1][2] == {"to": ["bob", "carol"], "after": 2}
    assert [each.name for each in tmp_path.iterdir()] == ["mail.ampd"]
    said = amp("bundle", "read", path)
    assert stock.taken == list(ITEMS)
    assert len([1 for _, method, _ in daemon.asked if method == "bundle.read"]) == 3
    assert said == (0, "3 messages, 6 known already, 3 cards\n", "")


def test_bundles_as_documents_and_quietly(amp, stock, tmp_path):
    path = str(tmp_path / "mail.ampd")
    written = json.loads(amp("bundle", "write", path, "--json").out)
    assert written == {"path": path, "envelopes": 3, "cards": 0}
    assert json.loads(amp("bundle", "read", path, "--json").out)["known"] == 6
    assert amp("bundle", "write", path, "--quiet") == (0, "", "")
    assert amp("bundle", "read", path, "--quiet") == (0, "", "")


def test_b1_a_bundle_that_cannot_be_written_whole_leaves_what_was_there(amp, daemon, tmp_path):
    path = tmp_path / "mail.ampd"
    path.write_bytes(b"an older one")
    daemon.errors["bundle.write"] = Refusal("recipient_unknown", "nobody is called bob")
    assert amp("bundle", "write", str(path), "--to", "bob").code == 3
    assert [each.name for each in tmp_path.iterdir()] == ["mail.ampd"]
    assert path.read_bytes() == b"an older one"


@pytest.mark.parametrize("cut", [1, 3, 200, 257])
def test_b2_what_stands_before_a_damaged_place_is_taken_in(amp, stock, tmp_path, cut):
    path = tmp_path / "mail.ampd"
    amp("bundle", "write", str(path))
    path.write_bytes(path.read_bytes()[:-cut])
    said = amp("bundle", "read", str(path))
    assert said.code == 1
    assert said.err.endswith("; what stands before that was taken in; copy it again\n")
    assert stock.taken == list(ITEMS[:2])


def test_a_length_that_no_item_has_is_damage_and_takes_no_memory(amp, stock, tmp_path):
    path = tmp_path / "mail.ampd"
    path.write_bytes(b"ampd-bundle-1\n" + b"\xff\xff\xff\xff" + b"x")
    assert "cut short or damaged" in amp("bundle", "read", str(path)).err
    assert stock.taken == []


def test_a_file_that_is_no_bundle_is_not_taken_for_one(amp, stock, tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("dear diary")
    said = amp("bundle", "read", str(path))
    assert (said.code, stock.taken) == (1, [])
    assert f"{path} is no bundle; give a file that `amp bundle write` made" in said.err
    assert "No such file" in amp("bundle", "read", str(tmp_path / "nothing")).err


def test_progress_is_on_a_terminal_only_and_gone_at_the_end(stock, tmp_path):
    seen = on_a_terminal(["bundle", "write", str(tmp_path / "mail.ampd")])
    assert "\r2 envelopes\x1b[K" in seen
    assert "\r\x1b[K" + str(tmp_path) in seen
