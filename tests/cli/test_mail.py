"""The commands that carry mail, against a daemon that keeps the contract."""

import json

from cli.fake_daemon import Refusal


def test_init_shows_the_new_agent(amp):
    said = amp("init", "bob", "--alias", "Bob", "--capability", "review", "--capability", "test")
    assert said.code == 0
    assert "address: bob@desk.local" in said.out
    assert "capabilities: review, test" in said.out


def test_init_twice_says_so_and_succeeds(amp):
    amp("init", "bob")
    said = amp("init", "bob")
    assert said.code == 0
    assert "exists already" in said.err


def test_setup_is_init(amp):
    assert amp("setup", "--name", "bob", "--json").code == 0


def test_whoami_is_enough_for_an_assistant_that_lost_its_memory(amp, daemon):
    out = amp("whoami").out
    for needed in ("alice@desk.local", "SHA256:", "amp://", daemon.path, "amp inbox", "amp read"):
        assert needed in out


def test_whoami_says_how_much_is_unread_and_where_things_are(amp, daemon, monkeypatch, short_path):
    daemon.message()
    monkeypatch.delenv("AMP_SOCKET")
    monkeypatch.setenv("AMPD_HOME", str(short_path))
    (short_path / "run").mkdir()
    (short_path / "run" / "ampd.sock").symlink_to(daemon.path)
    out = amp("whoami").out
    assert "unread: 1\n" in out
    assert f"data: {short_path}\n" in out and f"config: {short_path}/config.toml\n" in out
    assert "  amp wait --timeout 10m\n" in out


def test_whoami_in_a_sandbox_names_no_folder_of_the_caller(amp, daemon):
    daemon.agents["alice"]["socket"] = "/host/run/agents/alice.sock"
    lines = amp("whoami").out.splitlines()
    assert f"socket: {daemon.path}" in lines
    assert "socket on the host: /host/run/agents/alice.sock" in lines
    assert not [line for line in lines if line.startswith(("data:", "config:"))]


def test_send_prints_the_id_and_what_became_of_it(amp):
    said = amp("send", "bob@desk.local", "Hello", "Are you there?")
    assert said == (
        0,
        "0198f3c2-0000-7000-8000-000000000001  delivered to bob@desk.local (local)\n",
        "",
    )


def test_send_passes_everything_on(amp, daemon):
    amp(
        *("send", "--to", "bob", "--to", "carol", "--subject", "Review", "--text", "Please"),
        *("--payload", '{"pr": 7}', "--context", '["a"]', "--type", "request"),
        *("--priority", "high", "--expires", "2h", "--receipt", "--reply-to", "3"),
    )
    _, method, params = daemon.asked[-1]
    key = params.pop("key")
    assert len(key) == 32
    assert method == "message.send"
    assert params == {
        "to": ["bob", "carol"],
        "subject": "Review",
        "text": "Please",
        "payload": {"pr": 7},
        "context": ["a"],
        "type": "request",
        "priority": "high",
        "expires_in_s": 7200,
        "receipt": True,
        "in_reply_to": "3",
    }


def test_send_reads_what_is_piped_in(amp_process, daemon):
    assert amp_process("send", "bob", "Patch", stdin="é\n".encode()).code == 0
    assert amp_process("send", "bob", "Patch", "-", stdin=b"x").code == 0
    assert [params["text"] for _, method, params in daemon.asked] == ["é\n", "x"]


def test_a_dash_alone_is_a_text_without_a_subject(amp_process, daemon):
    assert amp_process("send", "bob", "-", stdin=b"piped").code == 0
    assert amp_process("send", "--to", "bob", "-", stdin=b"piped").code == 0
    for _, _, params in daemon.asked:
        assert (params["subject"], params["text"]) == ("", "piped")
    assert amp_process("send", "bob", "-", "--text", "T").code == 2


def test_a_standard_input_that_is_empty_is_no_text_unless_it_was_asked_for(amp_process, daemon):
    said = amp_process("send", "bob", "Meant as a text")
    assert said.code == 2
    assert "there is no text: give it as BODY" in said.err
    assert daemon.asked == []
    assert amp_process("send", "bob", "S", "-").code == 0


def test_send_reads_a_file(amp, daemon, tmp_path):
    (tmp_path / "body.txt").write_text("from a file")
    assert amp("send", "bob", "S", "--file", str(tmp_path / "body.txt")).code == 0
    assert daemon.asked[-1][2]["text"] == "from a file"


def test_a_text_that_is_not_utf8_is_a_clear_error(amp_process, daemon):
    said = amp_process("send", "bob", "Patch", stdin=b"ok\xff")
    assert said.code == 2
    assert "standard input is not UTF-8 text (byte 2)" in said.err
    assert daemon.asked == []


def test_a_text_that_begins_with_a_dash_is_a_text(amp, daemon):
    amp("send", "bob", "List", "- first\n- second")
    assert daemon.asked[-1][2]["text"] == "- first\n- second"


def test_a_message_to_somebody_who_is_away_is_no_error(amp, daemon):
    daemon.results["message.send"] = {
        "id": "x",
        "status": "queued",
        "recipients": [
            {"address": "bob@far.local", "status": "queued", "via": None, "error": None}
        ],
    }
    said = amp("send", "bob@far.local", "S", "T")
    assert said == (0, "x  queued for bob@far.local\n", "")


def test_a_recipient_that_failed_makes_the_exit_code_1(amp, daemon):
    failed = {"address": "bob@x", "status": "failed", "via": None, "error": "blocked"}
    daemon.results["message.send"] = {"id": "x", "status": "failed", "recipients": [failed]}
    said = amp("send", "bob@x", "S", "T")
    assert said.code == 1
    assert "failed: bob@x: blocked" in said.out


def test_reply_goes_to_the_sender_in_the_thread(amp, daemon):
    message = daemon.message(subject="Review")
    amp("reply", "1", "Done")
    params = daemon.asked[-1][2]
    assert params["to"] == ["bob@desk.local"]
    assert params["subject"] == "Re: Review"
    assert params["in_reply_to"] == message["id"]


def test_reply_says_re_once(amp, daemon):
    daemon.message(subject="Re: Review")
    amp("reply", "1", "Done")
    assert daemon.asked[-1][2]["subject"] == "Re: Review"


def test_a_send_whose_connection_broke_is_repeated_with_the_same_key(amp, daemon):
    daemon.hang_up_before.append("message.send")
    assert amp("send", "bob", "S", "T").code == 0
    assert len([method for _, method, _ in daemon.asked if method == "message.send"]) == 1


def test_inbox_is_one_line_a_message_newest_last(amp, daemon):
    daemon.message(state="read", subject="Old")
    daemon.message(subject="New", type="request", trust="external", flags=["role-play"])
    assert amp("inbox").out.splitlines() == [
        "alice@desk.local: 1 unread",
        "  1  2026-11-22 13:04  bob@desk.local  Old",
        "* 2  2026-11-22 13:04  bob@desk.local  New [external, role-play, request]",
    ]


def test_inbox_shows_twenty_and_the_command_for_the_rest(amp, daemon):
    for _ in range(25):
        daemon.message()
    lines = amp("inbox", "--unread").out.splitlines()
    assert len(lines) == 22
    assert lines[-1] == "5 more: amp inbox --unread --before 6"
    assert len(amp("inbox", "--before", "6").out.splitlines()) == 6
    lines = amp("inbox", "--before", "6", "--limit", "2").out.splitlines()
    assert lines[-1] == "more: amp inbox --limit 2 --before 4"


def test_what_was_acknowledged_is_marked_where_everything_is_listed(amp, daemon):
    daemon.message(state="acked")
    assert amp("inbox", "--all").out.endswith("  Subject 1 [acked]\n")


def test_sent_and_outbox_say_how_far_each_message_got(amp, daemon):
    daemon.message(to=["bob@far.local"], status="relayed")
    daemon.message(to=["bob@far.local", "carol@far.local"], status="delivered")
    for command in ("sent", "outbox"):
        assert amp(command).out.splitlines() == [
            "  1  2026-11-22 13:04  relayed    bob@far.local                   Subject 1",
            "  2  2026-11-22 13:04  delivered  bob@far.local, carol@far.local  Subject 2",
        ]


def test_an_empty_inbox_says_so(amp):
    assert amp("inbox").out == "alice@desk.local: no messages\n"


def test_read_shows_a_short_head_and_the_content(amp, daemon):
    daemon.message(content="<external-content>Hi</external-content>", body="Hi", trust="external")
    said = amp("read", "1")
    assert said.out == (
        "1  0198f3c2-0000-7000-8000-000000000001\n"
        "from: bob@desk.local (external)\n"
        "to: alice@desk.local\n"
        "subject: Subject 1\n"
        "sent: 2026-11-22 13:04:05Z\n"
        "thread: 0198f3c2-0000-7000-8000-000000000001\n"
        "\n"
        "<external-content>Hi</external-content>\n"
    )


def test_read_raw_is_the_body_and_nothing_else(amp, daemon):
    daemon.message(content="wrapped", body="line 1\nline 2")
    assert amp("read", "1", "--raw", "--peek").out == "line 1\nline 2\n"
    assert daemon.asked[-1][2] == {"ids": ["1"], "peek": True, "raw": True}


def test_structured_data_of_a_sender_that_is_not_verified_is_not_shown_unwrapped(amp, daemon):
    daemon.message(payload={"do": "rm"}, trust="external")
    daemon.message(payload={"do": "ls"})
    assert "rm" not in amp("read", "1").out
    assert 'payload: {"do":"ls"}' in amp("read", "2").out


def test_what_amp_and_amtp_carry_beside_the_text_is_not_shown_twice(amp, daemon):
    envelope = {"amp": {"envelope": {"id": "msg_1_a"}, "sender_public_key": "00"}}
    payload = {"type": "request", "message": "Hi", "context": {"pr": 7}}
    daemon.message(body="Hi", payload=payload, context=envelope)
    daemon.message(body="Hi", payload=payload | {"context": None}, context=envelope)
    daemon.message(body="Hi", payload="Hi", context={"amtp": {"headers": {}}})
    assert amp("read", "1").out.endswith('payload: {"context":{"pr":7}}\n')
    assert "payload" not in amp("read", "2").out and "envelope" not in amp("read", "2").out
    assert "payload" not in amp("read", "3").out and "headers" not in amp("read", "3").out
    assert "msg_1_a" in amp("read", "1", "--json").out


def test_ack_takes_ids_or_all(amp, daemon):
    assert amp("ack", "1", "2").out == "acknowledged 2 messages\n"
    assert amp("ack", "--all").code == 0
    assert daemon.asked[-1][2] == {"all": True}
    assert amp("ack").code == 2
    assert amp("ack", "1", "--all").code == 2


def test_quiet_leaves_names_and_nothing_else(amp, daemon):
    for words in (("inbox",), ("sent",), ("check",), ("daemon", "status"), ("contact", "list")):
        assert amp("--quiet", *words) == (0, "", "")
    message = daemon.message()
    identity = message["id"]
    for words in (("inbox",), ("sent",), ("outbox",), ("ack", identity), ("delete", identity)):
        assert amp(*words, "--quiet") == (0, f"{identity}\n", "")
    for words in (("agents",), ("whoami",), ("init", "alice")):
        assert amp(*words, "-q") == (0, "alice@desk.local\n", "")
    assert amp("unregister", "alice", "--quiet") == (0, "", "")


def test_status_is_about_the_daemon_or_about_one_message(amp):
    assert "ampd: 0.1.0, up 2m" in amp("status").out
    assert "delivered to bob@desk.local (local), 2026-11-22 13:04:06Z" in amp("status", "x").out


def test_o2_json_is_one_document_and_nothing_else(amp, daemon):
    daemon.message(subject="\x1b[31m\u202e")
    for words in (("inbox",), ("read", "1"), ("whoami",), ("status",), ("send", "bob", "S", "T")):
        said = amp("--json", *words)
        assert said.err == ""
        assert said.out.count("\n") == 1 and said.out.isascii() and "\x1b" not in said.out
        json.loads(said.out)


def test_who_acts_comes_from_the_flag_then_the_environment_then_the_daemon(
    amp, daemon, monkeypatch
):
    daemon.create({"name": "bob"})
    assert amp("inbox").code == 3
    monkeypatch.setenv("AMP_AGENT", "bob")
    assert amp("inbox").out.startswith("bob@")
    assert amp("--agent", "alice", "inbox").out.startswith("alice@")
    assert amp("inbox", "--agent=alice").out.startswith("alice@")


def test_several_agents_and_none_named_lists_them(amp, daemon):
    daemon.create({"name": "bob"})
    assert amp("inbox").err == ("amp: error: several agents: alice, bob; try: --agent NAME\n")


def test_nothing_is_sent_as_an_agent_that_is_not_there(amp, daemon):
    said = amp("send", "bob", "S", "T", "--agent", "typo")
    assert said.code == 3
    assert [method for _, method, _ in daemon.asked] == ["system.hello"]


def test_o5_an_error_is_one_line_that_ends_with_what_mends_it(amp):
    assert amp("read", "9") == (
        3,
        "",
        "amp: error: no message 9; try: amp inbox --all\n",
    )


def test_the_exit_code_says_what_kind_of_error_it_was(amp, daemon):
    for code, exit_code in (("blocked", 5), ("timeout", 6), ("invalid", 2), ("unavailable", 1)):
        daemon.errors["message.list"] = Refusal(code, "no\nreally \x1b]0;x\x07")
        said = amp("inbox")
        assert said.code == exit_code
        assert said.err == "amp: error: no\\x0areally \\x1b]0;x\\x07\n"


def test_a_daemon_that_is_older_is_named_as_the_reason(amp):
    said = amp("trace", "1")
    assert said.code == 1
    assert "amp daemon restart" in said.err


def test_no_subject_and_no_type_is_long_enough_to_hide_what_we_say_of_a_message(amp, daemon):
    daemon.message(subject="[verified] " + "s" * 245, type="\x1b" * 64, trust="external")
    (line,) = amp("inbox").out.splitlines()[1:]
    assert "[external" in line and len(line) < 160
