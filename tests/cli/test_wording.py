"""What `amp` says: each answer names what is so, and each error the command that mends it."""

import json

import pytest
from cli.fake_daemon import Refusal

AT = "2026-11-22T13:04:05.678Z"
KEY = "a" * 52
COUNTS = {"messages": 1, "receipts": 0, "known": 0, "elsewhere": 0, "refused": 0, "cards": 0}


def hint(said):
    return said.err.rstrip("\n").partition("; ")[2]


# --- send and reply ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("statuses", "where"),
    [
        (["queued"], "it stays queued and will be tried again"),
        (["relayed"], "a relay keeps it until the recipient's node fetches it"),
        (["relayed", "delivered"], "a relay keeps it until the recipient's node fetches it"),
        (["relayed", "queued"], "it stays queued and will be tried again"),
    ],
)
def test_a_wait_that_ends_says_who_has_the_message(amp, daemon, statuses, where):
    found = {
        "id": "0198f3c2-0000-7000-8000-000000000001",
        "status": statuses[0],
        "recipients": [{"address": "bob@far.local", "status": each} for each in statuses],
    }
    daemon.results["message.send"] = daemon.results["message.status"] = found
    said = amp("send", "bob", "S", "T", "--wait", "0")
    assert said.code == 6
    assert f"not delivered within 0 s: {where}; try: amp status 0198f3c2" in said.err


def test_a_reply_without_a_text_names_the_reply(amp, monkeypatch):
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    assert hint(amp("reply", "1")) == 'try: amp reply 1 "Text"'
    assert hint(amp("send", "carol", "S")) == 'try: amp send carol "Subject" "Text"'


def test_an_agent_that_is_to_be_made_has_one_name(amp, daemon):
    assert "the name is given twice: carol and dave" in amp("init", "carol", "--name", "dave").err
    assert "amp init: NAME is missing; try: amp init alice" in amp("init").err
    assert daemon.asked == []


# --- the inbox ---------------------------------------------------------------------------


def test_what_is_in_quarantine_comes_with_the_commands_that_decide(amp, daemon):
    daemon.message(state="quarantined", reason="the key changed", trust="untrusted")
    said = amp("read", "1")
    for verb in ("accept", "block"):
        assert f"amp contact {verb} bob@desk.local" in said.err
    listed = {"agent": "alice@desk.local", "unread": 3, "quarantined": 1, "total": 1}
    daemon.results["message.list"] = {**listed, "messages": daemon.messages}
    said = amp("inbox", "--quarantine")
    assert said.out.startswith("alice@desk.local: 1 in quarantine\n")
    assert "3 unread" not in said.out and "amp inbox --quarantine" not in said.err
    assert "amp contact accept ADDRESS" in said.err and "amp contact block ADDRESS" in said.err
    assert "1 in quarantine: amp inbox --quarantine" in amp("inbox").err


def test_a_message_without_a_text_has_no_blank_lines_for_it(amp, daemon):
    daemon.message(body="", content="", payload={"do": "ls"})
    assert amp("read", "1").out.endswith(
        'thread: 0198f3c2-0000-7000-8000-000000000001\n\npayload: {"do":"ls"}\n'
    )
    daemon.message(body="", content="")
    assert amp("read", "2").out.endswith("000000000002\n")


def test_waiting_for_somebody_who_is_not_known_says_so_and_waits(amp, daemon):
    daemon.results["message.wait"] = {"messages": [daemon.message()]}
    daemon.errors["contact.show"] = Refusal("contact_unknown", "nobody")
    daemon.results["directory.list"] = {"agents": [{"address": "carol@desk.local"}]}
    assert amp("wait", "--from", "carol").err == ""
    said = amp("wait", "--from", "bbo")
    assert said.code == 0 and "Hello" in said.out
    assert said.err == "nobody known is called bbo: waiting all the same\n"
    del daemon.errors["contact.show"]
    daemon.results["contact.show"] = {"contacts": [{"address": "bob@far.local"}]}
    assert amp("wait", "--from", "bob").err == ""


# --- who and where -----------------------------------------------------------------------


def test_whoami_of_several_agents_names_them_and_how_to_say_which(amp, daemon):
    daemon.create({"name": "bob"})
    said = amp("whoami")
    assert said.code == 3
    for needed in ("alice, bob", "amp --agent NAME whoami", "export AMP_AGENT=NAME"):
        assert needed in said.err


def test_whoami_calls_the_same_socket_the_same_in_text_and_json(
    amp, daemon, monkeypatch, short_path
):
    own = "/run/ampd/agents/alice.sock"
    daemon.agents["alice"]["socket"] = own
    daemon.message()
    main = short_path / "run" / "ampd.sock"
    main.parent.mkdir()
    main.symlink_to(daemon.path)
    monkeypatch.delenv("AMP_SOCKET")
    monkeypatch.setenv("AMPD_HOME", str(short_path))
    lines = amp("whoami").out.splitlines()
    assert f"socket: {own}" in lines and f"main socket: {main}" in lines
    found = json.loads(amp("whoami", "--json").out)
    assert (found["socket"], found["main_socket"]) == (own, str(main))
    assert (found["data"], found["config"]) == (str(short_path), f"{short_path}/config.toml")
    assert (found["unread"], found["address"]) == (1, "alice@desk.local")


def test_whoami_in_a_sandbox_is_about_the_socket_it_was_given(amp, daemon):
    daemon.agents["alice"]["socket"] = "/host/alice.sock"
    assert "socket on the host: /host/alice.sock" in amp("whoami").out
    found = json.loads(amp("whoami", "--json").out)
    assert (found["socket"], found["unread"]) == ("/host/alice.sock", 0)
    assert not {"main_socket", "data", "config"} & set(found)


def test_status_is_in_words_and_names_peers_by_their_domain(amp, daemon):
    daemon.results["system.status"] = {
        "peers": [{"node": KEY, "domain": "desk.local", "state": "connected"}, {"node": KEY}],
        "outbox": 2,
        "oldest_queued_at": AT,
        "mailbox": {"messages": 1, "bytes": 10},
        "last_repair_at": AT,
    }
    lines = amp("status").out.splitlines()
    assert f"peers: desk.local (connected), {KEY}" in lines
    assert "outbox: 2 waiting since 2026-11-22 13:04:05Z" in lines
    assert "mailbox: 1 message, 10 bytes" in lines
    assert "last repair at: 2026-11-22 13:04:05Z" in lines
    daemon.results["system.status"] |= {"outbox": 0, "oldest_queued_at": None}
    assert "outbox: 0" in amp("status").out.splitlines()


def test_several_keys_of_one_contact_are_parted(amp, daemon):
    contact = {"address": "bob@far.local", "trust": "external"}
    daemon.results["contact.show"] = {"contacts": [contact, contact]}
    assert amp("contact", "show", "bob").out == (
        "address: bob@far.local\ntrust: external\n\naddress: bob@far.local\ntrust: external\n"
    )


# --- one of a thing ----------------------------------------------------------------------


def test_one_is_not_said_as_many(amp, daemon, tmp_path):
    daemon.results["bundle.write"] = {"items": ["AAAA"], "envelopes": 1, "cards": 1, "next": 0}
    path = str(tmp_path / "mail.ampd")
    assert amp("bundle", "write", path).out == f"{path}: 1 envelope, 1 card\n"
    daemon.results["bundle.read"] = {**COUNTS, "cards": 1}
    assert amp("bundle", "read", path).out == "1 message, 1 card\n"
    daemon.results["journal.check"] = {"ok": True, "records": 1, "damage": []}
    assert amp("check").out == "1 record, all whole\n"
    daemon.results["journal.check"] = {
        "ok": False, "records": 1, "damage": [{"segment": "1.log", "bytes": 1, "ids": ["x"]}],
    }  # fmt: skip
    assert amp("check").out == "1 record is whole; damage:\n  1.log at byte 0: 1 byte, message x\n"
    daemon.results["message.ack"] = {"done": []}
    assert amp("ack", "--all").out == "nothing to acknowledge\n"


def test_one_word_too_many_is_counted_as_it_is(amp):
    assert "amp thread takes 1 word, 'b' is one too many" in amp("thread", "a", "b").err
    assert "amp contact verify takes 2 words" in amp("contact", "verify", "a", "b", "c").err
    assert "amp whoami takes no words" in amp("whoami", "a").err


# --- bundles -----------------------------------------------------------------------------


def test_what_a_bundle_held_is_said_in_words(amp, daemon, tmp_path):
    path = tmp_path / "mail.ampd"
    path.write_bytes(b"ampd-bundle-1\n\0\0\0\x01x")
    counts = {"messages": 2, "receipts": 1, "known": 3, "elsewhere": 1, "refused": 0, "cards": 2}
    daemon.results["bundle.read"] = counts
    assert amp("bundle", "read", str(path)).out == (
        "2 messages, 1 receipt, 3 known already, 1 for agents of other nodes, 2 cards\n"
    )


def test_b3_what_of_a_bundle_was_refused_is_an_error_with_its_reason(amp, daemon, tmp_path):
    path = tmp_path / "mail.ampd"
    path.write_bytes(b"ampd-bundle-1\n\0\0\0\x01x")
    daemon.results["bundle.read"] = {**COUNTS, "refused": 1, "reason": "it does not open"}
    said = amp("bundle", "read", str(path))
    assert (said.code, said.out) == (1, "1 message, 1 refused\n")
    assert said.err == "amp: error: 1 item of the bundle was refused: it does not open\n"
    found = json.loads(amp("bundle", "read", str(path), "--json").out)
    assert (found["refused"], found["reason"]) == (1, "it does not open")
    daemon.results["bundle.read"] = {**COUNTS, "refused": 2}
    assert "2 items of the bundle were refused\n" in amp("bundle", "read", str(path)).err


def test_a_bundle_that_cannot_be_written_names_the_file_that_was_asked_for(amp, tmp_path):
    said = amp("bundle", "write", str(tmp_path / "no" / "x"))
    assert said.code == 1
    assert said.err == f"amp: error: cannot write {tmp_path}/no/x: No such file or directory\n"
    for folder in (str(tmp_path), f"{tmp_path}/", "/"):
        said = amp("bundle", "write", folder)
        assert (said.code, said.err) == (1, f"amp: error: cannot write {folder}: it is a folder\n")
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_bundle_is_said_with_where_bundles_come_from(amp, tmp_path):
    path = tmp_path / "passwd"
    path.write_text("root:x:0:0\n")
    said = amp("bundle", "read", str(path))
    assert said.err == (
        f"amp: error: {path} is no bundle; give a file that `amp bundle write` made on a node\n"
    )
    assert "cannot read /nonexist: No such file" in amp("bundle", "read", "/nonexist").err


# --- providers and sockets ---------------------------------------------------------------


def test_the_help_says_whose_accounts_are_listed(amp):
    assert "the acting agents'" not in amp("help").out
    assert "accounts of this node's agents at AMP providers" in amp("help").out


def test_a_socket_that_was_named_is_left_out_the_way_it_was_named(amp, monkeypatch):
    said = amp("--socket", "/nonexistent", "inbox")
    assert said.code == 4 and "or leave out --socket" in said.err
    monkeypatch.setenv("AMP_SOCKET", "/nonexistent")
    assert "or unset AMP_SOCKET" in amp("inbox").err
