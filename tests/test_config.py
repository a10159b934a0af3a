"""The settings: where each value comes from, and what becomes of a bad one."""

import contextlib
import json
import os
import re
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ampd.config import SOCKET_PATH_BYTES, find_paths, load, make_folders
from ampd.model.address import NodeUri, RelayUri
from ampd.model.errors import Invalid
from ampd.protocol import local
from ampd.settings import Peer, default_domain, read_address

URI = str(NodeUri(bytes(range(32)), "10.0.0.7", 4160))


@pytest.fixture
def settings(tmp_path):
    """Loads from a config.toml with this text, in an environment with these variables."""

    def read(toml="", /, environ=(), **arguments):
        (tmp_path / "config.toml").write_text(toml)
        environ = {"AMPD_HOME": str(tmp_path), **dict(environ)}
        return load(home=None, config_file=None, environ=environ, **arguments)

    return read


@pytest.fixture
def complaint(settings, tmp_path):
    """The error that these settings are answered with, the folder left out, and its hint."""

    def read(*args, **kwargs):
        with pytest.raises(Invalid) as caught:
            settings(*args, **kwargs)
        return str(caught.value).replace(f"{tmp_path}/", ""), caught.value.hint

    return read


def test_every_key_has_a_default_that_works(settings):
    config = settings()
    assert config.node.domain.endswith(".local")
    assert config.peer.listen == ("0.0.0.0", 4160)
    assert config.peer.static == config.relay.servers == config.discovery.interfaces == ()
    assert config.discovery.mdns is True
    assert config.policy.unknown_senders == "accept"
    assert config.gateway.listen is None
    assert config.gateway.amp_domain == "aimaestro.local"
    assert config.gateway.amtp_domain == "localhost"
    assert config.gateway.admin_keys is None
    assert config.gateway.resolve == config.gateway.limits == config.gateway.mesh == {}
    assert config.gateway.certificate is config.gateway.key is config.gateway.amtp_signing_key
    assert config.gateway.plain_http is config.gateway.mirror is False
    assert config.gateway.hosts == config.gateway.webhook_hosts == config.gateway.tenants == ()
    assert (config.gateway.registration, config.gateway.federation) == ("open", "allowlist")
    assert (config.gateway.amp_signatures, config.gateway.amtp_signatures) == ("strict", "flag")
    assert (config.gateway.amtp_auth, config.gateway.amtp_selector) == ("local", "ampd")
    assert config.gateway.dns == ""
    assert config.limits.message_bytes == 524288
    assert (config.log.level, config.log.format) == ("info", "auto")


def test_a_section_without_arguments_is_what_an_empty_file_means(settings):
    assert settings().peer == Peer()


def test_no_file_at_all_is_no_error(tmp_path):
    config = load(home=str(tmp_path / "new"), config_file=None, environ={})
    assert config.peer == Peer()


def test_the_command_line_beats_the_environment_which_beats_the_file(settings):
    toml = '[gateway]\nlisten = "127.0.0.1:1"\n'
    variable = {"AMPD_GATEWAY_LISTEN": "127.0.0.1:2"}
    assert settings(toml).gateway.listen == ("127.0.0.1", 1)
    assert settings(toml, variable).gateway.listen == ("127.0.0.1", 2)
    assert settings(toml, variable, gateway="127.0.0.1:3").gateway.listen == ("127.0.0.1", 3)


def test_the_flags_of_the_log_are_settings(settings):
    config = settings(log_level="debug", log_format="json")
    assert (config.log.level, config.log.format) == ("debug", "json")


@pytest.mark.parametrize("text", [f"{URI},{URI}", f"{URI}, {URI}", json.dumps([URI, URI])])
def test_a_list_in_the_environment_is_json_or_separated_by_commas(settings, text):
    config = settings(environ={"AMPD_RELAY_SERVERS": text})
    assert config.relay.servers == (RelayUri.parse(URI), RelayUri.parse(URI))


def test_an_empty_variable_is_an_empty_value_and_not_an_absent_one(settings):
    toml = f'[peer]\nlisten = "127.0.0.1:1"\nstatic = ["{URI}"]\n'
    config = settings(toml, {"AMPD_PEER_LISTEN": "", "AMPD_PEER_STATIC": ""})
    assert (config.peer.listen, config.peer.static) == (None, ())


def test_tables_numbers_and_truths_have_a_form_in_the_environment(settings):
    config = settings(
        environ={
            "AMPD_GATEWAY_RESOLVE": '{"Peer.Example": "https://10.0.0.7:8443"}',
            "AMPD_LIMITS_MESSAGE_BYTES": "65536",
            "AMPD_DISCOVERY_MDNS": "false",
        }
    )
    assert config.gateway.resolve == {"peer.example": "https://10.0.0.7:8443"}
    assert config.limits.message_bytes == 65536
    assert config.discovery.mdns is False


def test_the_gateway_takes_hosts_limits_and_tables(settings):
    config = settings(
        """
        [gateway]
        hosts = ["Ampd.Example", "10.0.0.7", "[::1]:23000"]
        webhook_hosts = ["localhost:9000", "printer"]
        limits = {route = 0, received = 5}
        mesh = {"Studio.local" = "http://10.0.0.8:23000"}
        federation_allow = ["Other.Example"]
        tenants = ["default", "23blocks"]
        dns = "10.0.0.1:5353"
        """,
        {"AMPD_GATEWAY_MIRROR": "true"},
    ).gateway
    assert config.hosts == ("ampd.example", "10.0.0.7", "[::1]:23000")
    assert config.webhook_hosts == ("localhost:9000", "printer")
    assert config.limits == {"route": 0, "received": 5}
    assert config.mesh == {"studio.local": "http://10.0.0.8:23000"}
    assert config.federation_allow == ("other.example",)
    assert config.tenants == ("default", "23blocks")
    assert config.dns == "10.0.0.1:5353"
    assert config.mirror


def test_the_limits_of_the_gateway_have_a_form_in_the_environment(settings):
    config = settings(environ={"AMPD_GATEWAY_LIMITS": '{"route": 7}'})
    assert config.gateway.limits == {"route": 7}


@pytest.mark.parametrize(
    ("text", "endpoint"),
    [
        ("0.0.0.0:4160", ("0.0.0.0", 4160)),
        ("[::]:4160", ("::", 4160)),
        ("[fe80::1%eth0]:0", ("fe80::1%eth0", 0)),
        ("localhost:65535", ("localhost", 65535)),
        ("", None),
    ],
)
def test_an_address_to_listen_on(settings, text, endpoint):
    assert settings(f'[peer]\nlisten = "{text}"').peer.listen == endpoint


@pytest.mark.parametrize(
    "text",
    [
        "4160",
        ":4160",
        "host",
        "host:",
        "host:65536",
        "host:-1",
        "host:4160x",
        "::1:4160",
        "[::1]",
        "[::1]x:4160",
        "[1.2.3.4]:1",
        "1.2.3:4160",
        "256.0.0.1:1",
        "a b:1",
        "host:٤١",
        "-a:1",
    ],
)
def test_anything_else_is_no_address_to_listen_on(complaint, text):
    error, _ = complaint(f'[peer]\nlisten = "{text}"')
    assert error.startswith("config.toml:2: peer.listen: expected HOST:PORT")


BAD = {
    '[node]\ndomain = "a_b"': "config.toml:2: node.domain: 'a_b' is not a domain",
    f'[node]\ndomain = "{"a." * 126}ab"': "config.toml:2: node.domain: expected a domain of",
    "[peer]\nlisten = 4160": "config.toml:2: peer.listen: expected a text, not 4160",
    '[peer]\n\nstatic = "x"': "config.toml:3: peer.static: expected a list of texts, not 'x'",
    "[peer]\nstatic = [1]": "config.toml:2: peer.static: expected a list of texts, not [1]",
    '[peer]\nstatic = ["amp://x@h:1"]': "config.toml:2: peer.static: 'x' is not a key",
    "[discovery]\nmdns = 1": "config.toml:2: discovery.mdns: expected true or false, not 1",
    '[discovery]\ninterfaces = [""]': "config.toml:2: discovery.interfaces: expected names",
    '[policy]\nunknown_senders = "acept"': "config.toml:2: policy.unknown_senders: expected accept",
    "[gateway]\nlimits = {rout = 1}": "config.toml:2: gateway.limits: there is no limit 'rout'",
    "[gateway]\nlimits.route = -1": "config.toml:2: gateway.limits: expected 0 (no limit) to",
    '[gateway]\nlimits.route = "60"': "config.toml:2: gateway.limits: expected a table of whole",
    "[gateway]\nlimits.route = true": "config.toml:2: gateway.limits: expected a table of whole",
    '[gateway]\nhosts = ["a b"]': "config.toml:2: gateway.hosts: expected HOST or HOST:PORT",
    '[gateway]\nhosts = ["http://a"]': "config.toml:2: gateway.hosts: expected HOST or HOST:PORT",
    '[gateway]\ndns = "ns.example:53"': "config.toml:2: gateway.dns: expected the IP address and",
    '[gateway]\nregistration = "shut"': "config.toml:2: gateway.registration: expected open or",
    '[gateway]\ntenants = ["A_b"]': "config.toml:2: gateway.tenants: expected names of small",
    '[gateway]\namtp_selector = ""': "config.toml:2: gateway.amtp_selector: expected names of",
    '[gateway]\nfederation_allow = ["a b"]': "config.toml:2: gateway.federation_allow:",
    '[gateway]\ncertificate = "c.pem"': "config.toml:2: gateway.certificate: expected an absolute",
    '[gateway]\nadmin_keys = "keys"': "config.toml:2: gateway.admin_keys: expected an absolute",
    '[gateway.resolve]\n"a.b" = "ftp://c"': "config.toml:1: gateway.resolve: expected http://HOST",
    '[gateway.resolve]\n"a.b" = "https://c:x"': "config.toml:1: gateway.resolve: expected http://",
    "[gateway]\nresolve.a.b = 1": "config.toml:2: gateway.resolve: expected a table of texts",
    "[limits]\nmessage_bytes = 1": "config.toml:2: limits.message_bytes: expected 1024 to",
    "[limits]\nmessage_bytes = true": "config.toml:2: limits.message_bytes: expected a whole",
    'log = "info"': "config.toml:1: expected a section [log]",
    "[node]\n[peer]\n\n[node.x]\n": "config.toml:4: there is no key x in [node]",
    '\nlog = { level = "loud" }': "config.toml:2: log.level: expected debug or info",
    "\n\n[peer\n": "config.toml:3: this is not TOML",
    "[peer]\nlisten = ": "config.toml:2: this is not TOML",
}


@pytest.mark.parametrize(("toml", "error"), BAD.items())
def test_a_bad_value_names_its_line_and_what_was_expected(complaint, toml, error):
    assert complaint(toml)[0].startswith(error)


def test_a_bad_value_is_shown_as_far_as_it_helps(complaint):
    assert f"not '{'x' * 60}'" in complaint(f'[peer]\nlisten = "{"x" * 60}"')[0]
    assert len(complaint(f'[peer]\nlisten = "{"x" * 6000}"')[0]) < 200


def test_a_choice_that_is_nearly_right_gets_a_hint(complaint):
    assert complaint('[policy]\nunknown_senders = "acept"')[1] == "did you mean accept?"


def test_a_choice_that_is_none_is_told_the_choices_once(complaint):
    error, hint = complaint('[policy]\nunknown_senders = "zzz"')
    assert error.endswith("expected accept or quarantine or reject, not 'zzz'")
    assert hint == ""


def test_nothing_is_off_where_something_must_be(complaint):
    assert complaint('[gateway]\ndns = "x"')[0].endswith("or \"\" for the system's, not 'x'")
    assert complaint('[gateway]\nlisten = "x"')[0].endswith("or \"\" for off, not 'x'")
    with pytest.raises(Invalid, match=r"expected HOST:PORT or \[IPV6\]:PORT, not ''"):
        read_address("")


def test_c1_an_unknown_key_or_section_is_an_error_with_a_hint(complaint):
    error, hint = complaint('[peer]\nlisten = ""\nstatics = []')
    assert (error, hint) == (
        "config.toml:3: there is no key statics in [peer]",
        "did you mean static?",
    )
    error, hint = complaint("[node]\n[peers]\n")
    assert (error, hint) == ("config.toml:2: there is no section [peers]", "did you mean peer?")
    assert "listen" in complaint("[peer]\nzzz = 1")[1]


@pytest.mark.parametrize(
    "variable", ["AMPD_PEER_LISTN", "AMPD_PEERS_LISTEN", "AMPD_LOG_X", "AMPD_HOMES"]
)
def test_c1_a_variable_that_is_nearly_a_setting_is_an_error(complaint, variable):
    error, hint = complaint(environ={variable: "x"})
    assert error == f"{variable}: there is no such setting"
    assert "AMPD_" in hint


def test_c1_a_variable_of_another_program_is_not_ours(settings):
    read = settings(environ={"AMPD_XYZZY_B": "1", "AMP_AGENT": "alice", "PATH": "/bin"})
    assert read.without_effect == ("AMPD_XYZZY_B",), "but the log names it"


def test_c2_a_bad_value_is_an_error_even_where_a_stronger_source_overrides_it(complaint):
    error, _ = complaint('[peer]\nlisten = "x"', {"AMPD_PEER_LISTEN": "127.0.0.1:1"})
    assert error.startswith("config.toml:2:")


@pytest.mark.parametrize(
    ("variable", "text", "expected"),
    [
        ("AMPD_DISCOVERY_MDNS", "yes", "true or false, not 'yes'"),
        ("AMPD_LIMITS_MESSAGE_BYTES", "1e6", "a whole number, not '1e6'"),
        ("AMPD_LIMITS_MESSAGE_BYTES", "9" * 5000, "a whole number, not"),
        ("AMPD_PEER_STATIC", "[1]", "a list of texts, not [1]"),
        ("AMPD_PEER_STATIC", "[", "a list of texts, not '['"),
        ("AMPD_GATEWAY_RESOLVE", "a=b", "a table of texts, not 'a=b'"),
        ("AMPD_GATEWAY_RESOLVE", "[" * 100_000, "a table of texts, not"),
        ("AMPD_GATEWAY_RESOLVE", '["a"]', "a table of texts, not ['a']"),
    ],
)
def test_c3_an_error_of_the_environment_names_the_variable(complaint, variable, text, expected):
    error, _ = complaint(environ={variable: text})
    assert error.startswith(f"{variable}: expected {expected}")
    assert len(error) < 200


def test_c3_every_setting_knows_its_place(settings, tmp_path):
    read = settings("[gateway]\nkey = '/k'", {"AMPD_PEER_LISTEN": "h:1"}, gateway="127.0.0.1:1")
    assert read.place("gateway", "key") == f"{tmp_path}/config.toml:2: gateway.key"
    assert read.place("peer", "listen") == "AMPD_PEER_LISTEN"
    assert read.place("gateway", "listen") == "--gateway"
    assert read.place("node", "domain") == "node.domain"


def test_c3_an_error_of_the_command_line_names_the_flag(complaint):
    assert complaint(gateway="x")[0].startswith("--gateway: expected HOST:PORT")
    assert complaint(log_level="loud")[0].startswith("--log-level: expected debug")
    assert complaint(log_format="xml")[0].startswith("--log-format: expected auto")


def test_c3_an_error_of_the_file_names_it_whatever_is_wrong_with_it(tmp_path, complaint):
    def trouble(path):
        with pytest.raises(Invalid) as caught:
            load(home=str(tmp_path), config_file=str(path), environ={})
        return str(caught.value)

    file = tmp_path / "other.toml"
    assert trouble(file) == f"{file}: there is no such file"
    assert trouble(tmp_path).startswith(f"{tmp_path}: cannot be read: ")
    file.write_bytes(b"[node]\n\ndomain = '\xff'")
    assert trouble(file) == f"{file}:3: expected UTF-8 text"
    file.write_text("x = " + "[" * 100_000)
    assert trouble(file).startswith(f"{file}")
    file.write_bytes(b"#" * (1 << 21))
    assert trouble(file) == f"{file}: over 1048576 bytes"


@given(st.binary(max_size=200))
def test_no_file_makes_it_fail_otherwise(tmp_path_factory, data):
    folder = tmp_path_factory.getbasetemp()
    (folder / "any.toml").write_bytes(data)
    with contextlib.suppress(Invalid):
        load(home=str(folder), config_file=str(folder / "any.toml"), environ={})


@given(before=st.integers(0, 5), inside=st.integers(0, 5), dotted=st.booleans())
def test_the_line_is_right_wherever_the_key_stands(tmp_path_factory, before, inside, dotted):
    folder = tmp_path_factory.getbasetemp()
    head = ["# listen = 1"] * before if dotted else [*["[log]"][:before], *["# x"] * (before - 1)]
    lines = [*head, *([] if dotted else ["[peer]"]), *[""] * inside]
    lines.append("peer.listen = 1" if dotted else "  listen = 1")
    (folder / "line.toml").write_text("\n".join(lines))
    with pytest.raises(Invalid, match=re.escape(f"line.toml:{len(lines)}: peer.listen")):
        load(home=str(folder), config_file=str(folder / "line.toml"), environ={})


@pytest.mark.parametrize(
    ("hostname", "domain"),
    [
        ("Laptop", "laptop.local"),
        ("desk.example.org", "desk.local"),
        ("my_host!", "my-host.local"),
        ("ab" * 40, "ab" * 31 + "a.local"),
        ("a" * 62 + "-b", "a" * 62 + ".local"),
        ("", "localhost.local"),
        ("---", "localhost.local"),
        ("Büro", "b-ro.local"),
    ],
)
def test_the_domain_comes_from_the_name_of_this_host(hostname, domain):
    assert default_domain(hostname) == domain


def test_admin_keys_may_lie_in_the_home_folder(settings, monkeypatch):
    monkeypatch.setenv("HOME", "/home/someone")
    config = settings('[gateway]\nadmin_keys = "~/keys"')
    assert str(config.gateway.admin_keys) == "/home/someone/keys"


# Paths


def test_ampd_home_holds_everything(tmp_path):
    paths = find_paths(None, None, {"AMPD_HOME": str(tmp_path), "XDG_RUNTIME_DIR": "/run/user/1"})
    assert paths.data == tmp_path
    assert paths.config_file == tmp_path / "config.toml"
    assert paths.socket == tmp_path / "run/ampd.sock"
    assert paths.agent_socket("alice") == tmp_path / "run/agents/alice.sock"


def test_the_flag_beats_the_variable(tmp_path):
    assert find_paths(str(tmp_path), None, {"AMPD_HOME": "/elsewhere"}).data == tmp_path


def test_a_relative_home_is_one_of_the_current_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_paths("home", None, {}).data == tmp_path / "home"


def test_without_it_each_kind_of_file_is_where_the_platform_wants_it():
    xdg = {"XDG_DATA_HOME": "/d", "XDG_CONFIG_HOME": "/c", "XDG_RUNTIME_DIR": "/run/user/1"}
    paths = find_paths(None, None, xdg)
    assert str(paths.data) == "/d/ampd"
    assert str(paths.config_file) == "/c/ampd/config.toml"
    assert str(paths.socket) == "/run/user/1/ampd/ampd.sock"


def test_without_a_runtime_folder_the_sockets_are_beside_the_data():
    assert str(find_paths(None, None, {"XDG_DATA_HOME": "/d"}).run) == "/d/ampd/run"


@pytest.mark.parametrize("variable", ["XDG_DATA_HOME", "XDG_CONFIG_HOME", "XDG_RUNTIME_DIR"])
def test_a_relative_folder_of_the_desktop_is_refused(variable):
    with pytest.raises(Invalid, match=f"{variable}: expected an absolute path"):
        find_paths(None, None, {variable: "here"})


@pytest.mark.parametrize("variable", ["AMPD_HOME", "XDG_RUNTIME_DIR"])
def test_a_socket_path_that_is_too_long_names_the_setting(variable):
    folder = "/" + "x" * SOCKET_PATH_BYTES
    with pytest.raises(Invalid, match=f"^{variable}: the socket .* bytes, over the 107") as caught:
        find_paths(None, None, {variable: folder})
    assert variable in caught.value.hint


def test_a_socket_path_of_the_last_allowed_length_works(tmp_path):
    paths = find_paths(str(tmp_path), None, {})
    room = SOCKET_PATH_BYTES - 1 - len(os.fsencode(paths.agent_sockets)) - len("/.sock")
    path = paths.agent_socket("a" * room)
    make_folders(paths)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
    with pytest.raises(Invalid, match="over the 107"):
        paths.agent_socket("a" * (room + 1))


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_c4_the_folders_are_made_so_that_only_this_user_can_enter(tmp_path, umask):
    paths = find_paths(str(tmp_path / "home"), None, {})
    before = os.umask(umask)
    try:
        make_folders(paths)
    finally:
        os.umask(before)
    assert {p.stat().st_mode & 0o777 for p in (paths.data, paths.run, paths.agent_sockets)} == {
        0o700
    }
    make_folders(paths)


@pytest.mark.parametrize("mode", [0o755, 0o750, 0o701, 0o720])
def test_c4_a_runtime_folder_that_others_may_enter_is_refused(tmp_path, mode):
    paths = find_paths(str(tmp_path), None, {})
    paths.run.mkdir()
    paths.run.chmod(mode)
    with pytest.raises(Invalid, match=rf"others may use it \(mode {mode:04o}\)") as caught:
        make_folders(paths)
    assert caught.value.hint == f"chmod 700 {paths.run}"


def test_c4_a_link_or_a_file_in_its_place_is_refused(tmp_path):
    paths = find_paths(str(tmp_path / "home"), None, {})
    paths.data.mkdir(mode=0o700)
    paths.run.symlink_to(tmp_path)
    with pytest.raises(Invalid, match="is not a folder of this user"):
        make_folders(paths)
    paths.run.unlink()
    paths.run.write_text("")
    with pytest.raises(Invalid, match="cannot be made"):
        make_folders(paths)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to give a folder away")
def test_c4_a_folder_of_somebody_else_is_refused(tmp_path):
    paths = find_paths(str(tmp_path), None, {})
    paths.run.mkdir(mode=0o700)
    os.chown(paths.run, 1001, 1001)
    with pytest.raises(Invalid, match="is not a folder of this user"):
        make_folders(paths)


@pytest.mark.parametrize(
    "environ",
    [
        {"AMPD_HOME": "/srv/amp"},
        {"AMPD_HOME": "/srv/amp", "XDG_RUNTIME_DIR": "/run/user/1"},
        {"XDG_DATA_HOME": "/d", "XDG_CONFIG_HOME": "/c", "XDG_RUNTIME_DIR": "/run/user/1"},
        {"XDG_DATA_HOME": "/d"},
        {},
        {"XDG_DATA_HOME": "", "XDG_CONFIG_HOME": "", "XDG_RUNTIME_DIR": ""},
    ],
    ids=str,
)
def test_the_command_line_looks_where_the_daemon_is(environ, monkeypatch):
    for variable in ("XDG_DATA_HOME", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(variable, raising=False)
    environ = {"HOME": os.environ["HOME"], **environ}
    paths = find_paths(None, None, environ)
    assert local.main_socket(environ, "linux") == str(paths.socket)
    assert local.data_folder(environ, "linux") == str(paths.data)
    assert local.config_file(environ, "linux") == str(paths.config_file)
