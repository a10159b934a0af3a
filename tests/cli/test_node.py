"""The commands about the node and about others."""

import json

import pytest
from amp_cli.main import GROUPS, run


def test_discover_lists_who_can_be_reached_and_how(amp, daemon):
    agent = {"address": "bob@far.local", "online": True, "via": "relay", "trust": "external"}
    daemon.results["directory.list"] = {"agents": [{**agent, "capabilities": ["review", "test"]}]}
    assert amp("discover", "far.local", "--capability", "review", "--wait", "2").out == (
        "bob@far.local  online  relay  external  review, test\n"
    )
    assert daemon.asked[-1][2] == {"domain": "far.local", "capability": "review", "wait_s": 2.0}


def test_peers_are_a_table(amp, daemon):
    peer = {"node": "aaaa", "domain": "far.local", "endpoint": "10.0.0.7:4160", "found_by": "mdns"}
    daemon.results["peer.list"] = {"peers": [{**peer, "state": "open", "rtt_ms": 1.5}]}
    assert amp("peers").out == "aaaa  far.local  10.0.0.7:4160  mdns  open  1.5 ms\n"


def test_contacts_are_added_verified_blocked_and_listed(amp, daemon):
    contact = {"address": "bob@far.local", "trust": "external", "fingerprint": "SHA256:x"}
    for verb in ("add", "list", "show", "verify", "block", "unblock", "accept", "remove"):
        daemon.results[f"contact.{verb}"] = {"contacts": [contact]}
    assert amp("contact", "list").out == "bob@far.local  external  SHA256:x\n"
    amp("contact", "verify", "bob@far.local", "SHA256:x")
    assert daemon.asked[-1][1:] == (
        "contact.verify",
        {"address": "bob@far.local", "fingerprint": "SHA256:x"},
    )
    amp("contact", "add", "amp://k/bob@far.local")
    assert daemon.asked[-1][2] == {"link": "amp://k/bob@far.local"}
    assert amp("contact", "remove", "bob").out == "removed bob\n"


def test_trace_shows_the_steps_and_what_it_waits_for(amp, daemon):
    step = {"at": "2026-11-22T13:04:05.678Z", "place": "desk.local", "what": "queued"}
    daemon.results["message.trace"] = {
        "id": "m1",
        "steps": [step, {**step, "what": "offered", "detail": "refused: full"}],
        "waiting_for": "the next try in 4 s",
    }
    assert amp("trace", "m1").out.splitlines() == [
        "m1",
        "2026-11-22 13:04:05Z  desk.local  queued",
        "2026-11-22 13:04:05Z  desk.local  offered  refused: full",
        "waiting for: the next try in 4 s",
    ]


def test_status_with_proof_shows_the_receipts(amp, daemon):
    receipt = {"address": "bob@x", "stage": "delivered", "receipt": "aGk=", "text": "on disk"}
    daemon.results["message.status"] = {"id": "m1", "status": "delivered", "receipts": [receipt]}
    assert amp("status", "m1", "--proof").out.splitlines() == [
        "m1  delivered",
        "",
        "receipt of bob@x: delivered",
        "on disk",
        "aGk=",
    ]
    assert amp("status", "--proof").code == 2


def test_check_names_the_damage_and_exits_1(amp, daemon):
    damage = {"segment": "0001.log", "offset": 512, "bytes": 40, "ids": ["m1"]}
    assert amp("check").out == "12 records, all whole\n"
    daemon.results["journal.check"] = {"ok": False, "records": 11, "damage": [damage]}
    said = amp("check")
    assert said.code == 1
    assert "0001.log at byte 512: 40 bytes, messages m1" in said.out
    amp("check", "--repair")
    assert daemon.asked[-1][2] == {"repair": True}


def test_card_is_the_contact_link(amp):
    assert amp("card").out == "amp://aaaa/alice@desk.local\n"
    assert json.loads(amp("card", "--json").out) == {"contact": "amp://aaaa/alice@desk.local"}


def test_card_can_be_shown_to_a_camera(amp):
    assert "\u2588" in amp("card", "--qr").out


def test_unregister_says_what_happens_to_the_mail(amp, daemon):
    daemon.results["agent.remove"] = {"address": "alice@desk.local"}
    assert "its mail is kept" in amp("unregister", "alice").out
    amp("unregister", "alice", "--purge")
    assert daemon.asked[-1][2] == {"name": "alice", "purge": True}


@pytest.fixture
def healthy(daemon, short_path, monkeypatch):
    monkeypatch.setenv("AMPD_HOME", str(short_path))
    (short_path / "run").mkdir(0o700)


def test_doctor_finds_nothing_wrong_with_a_healthy_install(amp, healthy):
    said = amp("doctor")
    assert "WRONG" not in said.out
    assert said.code == 0


def test_doctor_names_each_thing_wrong_and_what_mends_it(amp, healthy, daemon, short_path):
    (short_path / "run").chmod(0o755)
    (short_path / "config.toml").write_text("[node\n")
    contact = {"address": "bob@x", "trust": "untrusted", "state": "conflict"}
    daemon.results["contact.list"] = {"contacts": [contact]}
    daemon.results["journal.check"] = {"ok": False, "damage": [{"segment": "1", "offset": 5}]}
    daemon.results["agent.list"] = {"agents": []}
    daemon.results["system.status"] = {"version": "0.0.1"}
    said = amp("doctor")
    assert said.code == 1
    for mends in (
        f"socket folder: chmod 700 {short_path}/run",
        "config: correct the file, then amp daemon restart",
        "version: amp daemon restart",
        "agents: amp init NAME",
        "journal: amp check --repair",
        "contacts: amp contact show bob@x, then accept or block it",
    ):
        assert mends in said.out
    checks = json.loads(amp("doctor", "--json").out)
    assert checks["ok"] is False


def test_doctor_without_a_daemon_says_how_to_start_one(amp, healthy, daemon):
    daemon.close()
    assert "daemon: amp daemon start" in amp("doctor").out


@pytest.mark.parametrize(
    ("words", "said", "hint"),
    [
        (["sned"], "there is no command amp sned", "did you mean amp send?"),
        (["contact", "ad"], "there is no command amp contact ad", "did you mean amp contact add?"),
        (["contact"], "amp contact takes one of: add, list", "amp help contact"),
        (["search", "x"], "there is no command amp search", "amp help"),
        (["watch", "--exec", "x"], "amp watch has no flag --exec", "amp help watch"),
        (["send", "a", "b", "c", "--attach", "x"], "amp send has no flag --attach", ""),
        (
            ["send", "bob", "S", "one", "two"],
            "takes 3 words, 'two' is one too many",
            "amp help send",
        ),
        (["send", "bob"], "SUBJECT is missing", "amp send bob"),
        (["send", "bob", "S", "T", "--text", "T"], "the text is given twice: BODY and --text", ""),
        (["send", "bob", "S", "T", "--payload", "{"], "--payload takes JSON", "--payload '{"),
        (
            ["send", "bob", "S", "T", "--priority", "top"],
            "high, urgent, not 'top'",
            "",
        ),
        (["send", "bob", "S", "T", "--expires", "soon"], "--expires takes a duration", ""),
        (["read"], "amp read: ID is missing", "amp help read"),
        (["--agent"], "--agent needs a value", ""),
        (["inbox", "\udcff"], "is not UTF-8", ""),
    ],
)
def test_wrong_usage_says_what_is_wrong_and_what_was_meant(amp, daemon, words, said, hint):
    answer = amp(*words)
    assert answer.code == 2
    assert said in answer.err and hint in answer.err
    assert answer.out == ""
    assert daemon.asked == []


def test_a_terminal_and_no_text_is_wrong_usage(amp, monkeypatch):
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    assert "there is no text: give it as BODY" in amp("send", "bob", "S").err


NAMES = [name for group in GROUPS.values() for name in group]


@pytest.mark.parametrize("name", [name for name in NAMES if name != "demo"])
def test_every_command_has_a_short_help_with_an_example(capsys, name):
    verbs = {"contact": "add", "daemon": "log"}
    words = [name, verbs[name]] if name in verbs else [name]
    assert run(["help", *words]) == 0
    text = capsys.readouterr().out
    assert run([*words, "--help"]) == 0
    assert capsys.readouterr().out == text
    assert f"amp {' '.join(words)}" in text and "example:\n  amp " in text


@pytest.mark.parametrize("words", [["demo"], ["daemon", "install"]])
def test_a_command_that_is_a_module_of_its_own_has_its_help_there(capsys, words):
    assert run(["help", *words]) == 0
    text = capsys.readouterr().out
    assert f"amp {' '.join(words)}" in text
    assert run([*words, "--help"]) == 0
    assert capsys.readouterr().out == text


def test_amp_alone_lists_every_command(capsys):
    assert run([]) == 0
    text = capsys.readouterr().out
    assert all(f"\n  {name} " in text for name in NAMES)
    assert run(["help"]) == 0
    assert run(["--help"]) == 0


def test_the_version_is_one_line(capsys):
    assert run(["--version"]) == 0
    assert capsys.readouterr().out == "amp 0.1.0\n"
