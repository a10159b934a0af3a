"""The commands about the node and about others."""

import json
import os
import sys

import pytest
from amp_cli import autostart
from amp_cli.commands import doctor
from amp_cli.main import GROUPS, run
from cli.fake_daemon import Refusal


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


AT = "2026-11-22T13:04:05.678Z"
AWAY = {"state": "away", "last_seen": AT, "next_try": AT, "last_error": "it hung up"}
WAITS = {"queued": 3, "oldest_queued_at": AT}
SHOWN = (
    "away  3 waiting since 2026-11-22 13:04:05Z  last seen 2026-11-22 13:04:05Z,"
    " next try 2026-11-22 13:04:05Z, it hung up\n"
)


def test_peers_and_relays_say_what_waits_for_them_and_what_is_wrong(amp, daemon):
    daemon.results["peer.list"] = {"peers": [{"node": "aaaa", **AWAY, **WAITS}]}
    assert amp("peers").out == "aaaa  " + SHOWN
    daemon.results["relay.list"] = {"relays": [{"uri": "amp://r", **AWAY, **WAITS}]}
    assert amp("relay", "list").out == "amp://r  " + SHOWN
    daemon.results["system.status"] = {"relays": [{"uri": "amp://r", **AWAY, **WAITS}]}
    assert "amp://r (away, 3 waiting)" in amp("status").out


def test_where_nothing_waits_and_all_is_well_nothing_is_said(amp, daemon):
    relay = {"uri": "amp://r", "state": "collecting", "last_seen": AT, "queued": 0}
    daemon.results["relay.list"] = {"relays": [relay]}
    assert amp("relay", "list").out == "amp://r  collecting\n"


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
    assert "0001.log at byte 512: 40 bytes, message m1" in said.out
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


def test_unregister_of_nobody_names_the_command_that_lists_who_is_there(amp):
    assert amp("unregister", "zed") == (
        3,
        "",
        "amp: error: no agent named 'zed'; try: amp agents\n",
    )


@pytest.fixture
def healthy(daemon, short_path, monkeypatch):
    monkeypatch.setenv("AMPD_HOME", str(short_path))
    monkeypatch.delenv("AMP_SOCKET")
    checked(monkeypatch, "")
    (short_path / "run").mkdir(0o700)
    (short_path / "run" / "ampd.sock").symlink_to(daemon.path)


def test_doctor_finds_nothing_wrong_with_a_healthy_install(amp, healthy):
    said = amp("doctor")
    assert "WRONG" not in said.out
    assert said.code == 0


def test_doctor_names_each_thing_wrong_and_what_mends_it(
    amp, healthy, daemon, short_path, monkeypatch
):
    (short_path / "run").chmod(0o755)
    checked(monkeypatch, "import sys; sys.exit('ampd: error: config.toml:1: this is not TOML')")
    contact = {"address": "bob@x", "trust": "untrusted", "state": "conflict"}
    daemon.results["contact.list"] = {"contacts": [contact]}
    daemon.results["journal.check"] = {"ok": False, "damage": [{"segment": "1", "offset": 5}]}
    daemon.results["agent.list"] = {"agents": []}
    daemon.results["system.status"] = {"version": "0.0.1"}
    said = amp("doctor")
    assert said.code == 1
    for mends in (
        f"socket folder: chmod 700 {short_path}/run",
        "config: correct it, then amp daemon restart",
        "version: amp daemon restart",
        "agents: amp init NAME",
        "journal: amp check --repair",
        "contacts: amp contact show bob@x, then accept or block it",
    ):
        assert mends in said.out
    checks = json.loads(amp("doctor", "--json").out)
    assert checks["ok"] is False


def checked(monkeypatch, program):
    """`ampd --check` is `program` from here on."""
    monkeypatch.setattr(autostart, "DAEMON", (sys.executable, "-c", program))


def test_doctor_says_that_the_daemon_that_runs_could_not_start_again(amp, healthy, monkeypatch):
    checked(monkeypatch, "import sys; sys.exit('ampd: error: c.toml:2: bad; did you mean good?')")
    said = amp("doctor")
    assert said.code == 1
    assert "the daemon that runs could not start again: c.toml:2: bad\n" in said.out
    assert "\nconfig: did you mean good?\n" in said.out


RELAYS = [
    ({"state": "connected", "last_error": "it does not know your node"}, "ampd relay invite"),
    ({"state": "away", "queued": 2, "last_error": "refused"}, "amp relay add URI"),
    ({"state": "away", "queued": 0, "last_error": "refused"}, ""),
    ({"state": "collecting", "queued": 2}, ""),
]


@pytest.mark.parametrize(("relay", "mend"), RELAYS)
def test_doctor_warns_of_a_relay_that_refuses_or_is_away_while_mail_waits(
    amp, healthy, daemon, relay, mend
):
    daemon.results["system.status"] = {**daemon.status(), "relays": [{"uri": "amp://r", **relay}]}
    said = amp("doctor")
    assert said.code == (1 if mend else 0)
    assert f"{'WRONG' if mend else 'ok   '}  relay          amp://r" in said.out
    assert mend in said.out.partition("\nrelay: ")[2]
    assert relay.get("last_error", "") in said.out


def test_doctor_warns_of_interfaces_that_do_not_exist(amp, healthy, daemon):
    discovery = {"mdns": False, "error": "there is no interface nope0; waiting for one"}
    daemon.results["system.status"] = {**daemon.status(), "discovery": discovery}
    said = amp("doctor")
    assert said.code == 1
    assert "no other node is found: there is no interface nope0" in said.out
    assert "\ndiscovery: correct [discovery] interfaces in config.toml" in said.out


def test_doctor_without_a_daemon_says_how_to_start_one(amp, healthy, daemon, monkeypatch):
    checked(monkeypatch, "")
    daemon.close()
    said = amp("doctor")
    assert said.code == 1
    assert "daemon: amp daemon start" in said.out


def test_doctor_says_why_no_daemon_can_start(amp, healthy, daemon, monkeypatch):
    wrong = "config.toml:3: no key domian in [node]; did you mean domain?"
    checked(monkeypatch, f"import sys; assert sys.argv[1] == '--check'; sys.exit({wrong!r})")
    daemon.close()
    said = amp("doctor")
    assert said.code == 1
    assert "cannot start: config.toml:3: no key domian in [node]\n" in said.out
    assert "\ndaemon: did you mean domain?\n" in said.out
    assert "ok     config" not in said.out and "amp daemon start" not in said.out


def test_doctor_shows_what_the_daemon_warns_of(amp, healthy, daemon):
    warning = "the disk is full: new mail is refused until there is room (df -h)"
    daemon.results["system.status"] = {**daemon.status(), "warnings": [warning]}
    said = amp("doctor")
    assert said.code == 1
    assert f"WRONG  warning        {warning}\n" in said.out
    assert f"warning: {warning}\n" in amp("status").out


def test_doctor_gives_up_on_a_daemon_that_does_not_answer(amp, healthy, daemon, monkeypatch):
    monkeypatch.setattr(doctor, "_LIMIT", 0.1)
    daemon.silent.append("system.status")
    said = amp("doctor")
    assert said.code == 1
    assert "the daemon does not answer" in said.out
    assert f"daemon: kill -9 {os.getpid()}, then amp daemon start\n" in said.out


HUNG = (
    "amp: error: the daemon did not answer within 0.1 s; try: kill -9 {}, then amp daemon start\n"
)


@pytest.mark.parametrize("verb", ["stop", "restart"])
def test_a_daemon_that_hangs_is_ended_by_the_command_that_is_named(
    amp, healthy, daemon, short_path, monkeypatch, verb
):
    monkeypatch.setattr("amp_cli.commands.daemon._GONE_WITHIN", 0.1)
    daemon.silent.append("system.stop")
    said = amp("daemon", verb)
    assert (said.code, said.err) == (4, HUNG.format(os.getpid()))
    assert not (short_path / "run" / "stopped").exists(), "it was not stopped"


def test_restart_ends_no_daemon_that_could_not_start_again(amp, healthy, daemon, monkeypatch):
    said = "ampd: error: config.toml:2: there is no key domian in [node]; did you mean domain?"
    checked(monkeypatch, f"import sys; sys.stderr.write({said!r}); sys.exit(2)")
    answer = amp("daemon", "restart")
    assert answer.code == 2
    assert "the daemon was left running, for it could not start again: config.toml:2" in answer.err
    assert answer.err.endswith("in [node]; did you mean domain?\n")
    assert daemon.asked == []


def test_doctor_in_a_sandbox_looks_at_what_its_socket_may_ask(amp, daemon):
    daemon.errors["journal.check"] = Refusal("forbidden", "journal.check is not for one agent")
    daemon.results["system.status"] = {"version": "0.1.0"}
    said = amp("doctor")
    assert said.code == 0
    assert "folder" not in said.out and "journal" not in said.out


def test_doctor_in_a_sandbox_without_a_daemon_starts_and_checks_nothing(amp, daemon):
    daemon.close()
    said = amp("doctor")
    assert said.code == 1
    assert "daemon: start the daemon it belongs to\n" in said.out


@pytest.mark.parametrize(
    ("words", "said", "hint"),
    [
        (["sned"], "there is no command amp sned", "did you mean amp send?"),
        (["contact", "ad"], "there is no command amp contact ad", "did you mean amp contact add?"),
        (["contact"], "amp contact takes one of: add, list", "amp help contact"),
        (["daemon", "x"], "there is no command amp daemon x", "amp help daemon"),
        (["daemon"], "start, stop, restart, status, log, install", "amp help daemon"),
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
VERBS = {
    "contact": "add", "daemon": "log", "relay": "add", "bundle": "write", "provider": "list",
}  # fmt: skip


@pytest.mark.parametrize("words", [[name, *VERBS.get(name, "").split()] for name in NAMES])
def test_every_command_has_a_short_help_with_an_example(capsys, words):
    assert run(["help", *words]) == 0
    text = capsys.readouterr().out
    assert run([*words, "--help"]) == 0
    assert capsys.readouterr().out == text
    assert f"amp {' '.join(words)}" in text and "example:\n  amp " in text


@pytest.mark.parametrize("name", VERBS)
def test_the_help_of_a_group_is_the_list_of_its_verbs(capsys, name):
    for words in (["help", name], [name, "--help"], ["--help", name], [name, "-h"]):
        assert run(words) == 0
        assert f"amp {name} {VERBS[name]} " in capsys.readouterr().out


@pytest.mark.parametrize("name", VERBS)
def test_the_help_of_a_group_has_the_flags_and_an_example_of_each_verb(capsys, name):
    run([name, "--help"])
    text, _, examples = capsys.readouterr().out.partition("\nexample:\n")
    verbs = [line.split()[2] for line in text.splitlines() if line.startswith(f"amp {name} ")]
    for verb in verbs:
        assert f"  amp {name} {verb}" in examples
        run([name, verb, "--help"])
        _, _, flags = capsys.readouterr().out.partition("\nflags:\n")
        for flag in flags.partition("\n\n")[0].splitlines() if flags else []:
            assert flag.split()[0] in text


def test_the_verbs_of_daemon_include_install(capsys):
    run(["daemon", "--help"])
    assert "amp daemon install" in capsys.readouterr().out


@pytest.mark.parametrize(
    "words",
    [["help"], ["help", "send"], ["contact", "--help"], ["--help"], ["daemon", "install", "-h"]],
)
def test_help_as_json_is_one_document(capsys, words):
    run(words)
    text = capsys.readouterr().out
    for asked in ([*words, "--json"], ["--json", *words]):
        assert run(asked) == 0
        assert json.loads(capsys.readouterr().out)["help"].strip() == text.strip()


def test_help_states_the_exit_codes_and_the_environment(capsys):
    run(["help"])
    text = capsys.readouterr().out
    for stated in ("4 no daemon answers", "6 timed out", "AMP_AGENT", "AMP_SOCKET", "AMPD_HOME"):
        assert stated in text


def test_amp_alone_lists_every_command(capsys):
    assert run([]) == 0
    text = capsys.readouterr().out
    assert all(f"\n  {name} " in text for name in NAMES)
    assert run(["help"]) == 0
    assert run(["--help"]) == 0


def test_the_version_is_one_line(capsys):
    assert run(["--version"]) == 0
    assert capsys.readouterr().out == "amp 0.1.0\n"
    assert run(["inbox", "--version"]) == 0
    assert capsys.readouterr().out == "amp 0.1.0\n"
    assert run(["--version", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"version": "0.1.0"}
