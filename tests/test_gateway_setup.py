"""From the settings to a running gateway, and what keeps it from running."""

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from ampd import gateway_setup, preflight
from ampd.config import load
from ampd.edge.http.server import bind
from ampd.model.errors import Invalid, Unavailable


def config(folder, listen="127.0.0.1:0", **settings):
    environ = {f"AMPD_GATEWAY_{name.upper()}": text for name, text in settings.items()}
    return load(home=str(folder), config_file=None, environ=environ, gateway=listen)


def test_gs1_a_daemon_without_a_gateway_imports_nothing_of_http():
    code = "import ampd.daemon, sys; print([m for m in sys.modules if m.split('.')[0] in"
    code += " ('hypercorn', 'httpcore', 'dns', 'h11', 'jsonschema') or m == 'ampd.edge.gateway'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


WITHOUT = """
import sys
sys.modules["hypercorn.config"] = None
from ampd.__main__ import main
raise SystemExit(main(["--check", "--home", sys.argv[1], "--gateway", "127.0.0.1:0"]))
"""


def test_gs2_missing_packages_are_named_with_the_command(tmp_path):
    command = [sys.executable, "-c", WITHOUT, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "packages that are not installed (hypercorn.config)" in done.stderr
    assert "pip install 'ampd-node[gateway]'" in done.stderr


def test_gs2_a_taken_port_is_named(tmp_path):
    with bind(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(Unavailable, match=f"127.0.0.1:{port}"):
            preflight.check(config(tmp_path, f"127.0.0.1:{port}"))


def test_gs2_an_address_that_others_reach_needs_tls_or_a_word(tmp_path):
    with pytest.raises(Invalid, match="there is no TLS"):
        gateway_setup.check(config(tmp_path, "0.0.0.0:0"))
    gateway_setup.check(config(tmp_path, "0.0.0.0:0", plain_http="true"))


def test_gs2_half_a_certificate_is_an_error(tmp_path):
    with pytest.raises(Invalid, match="belong together"):
        gateway_setup.check(config(tmp_path, certificate=str(tmp_path / "c.pem")))


def test_without_a_gateway_there_is_nothing_to_check(tmp_path):
    gateway_setup.check(config(tmp_path, ""))


@pytest.mark.parametrize(
    ("listen", "hosts", "tls", "base"),
    [
        ("127.0.0.1:1", "", False, "http://127.0.0.1:99"),
        ("[::1]:1", "", False, "http://[::1]:99"),
        ("0.0.0.0:1", "", True, "https://n.local:99"),
        ("0.0.0.0:1", "amp.example,b", True, "https://amp.example:99"),
        ("0.0.0.0:1", "amp.example:443", True, "https://amp.example:443"),
    ],
)
def test_its_own_url_is_one_by_which_others_reach_it(tmp_path, listen, hosts, tls, base):
    found = load(
        home=str(tmp_path),
        config_file=None,
        environ={"AMPD_NODE_DOMAIN": "n.local", "AMPD_GATEWAY_HOSTS": hosts},
        gateway=listen,
    )
    values = gateway_setup.values_of(found, 99, tls=tls)
    assert values.base == base
    assert values.listen[1] == 99
    assert values.admin_keys == tmp_path / "keys" / "admin.keys"


@pytest.fixture
def daemon(tmp_path):
    """A running `ampd --gateway`, and its ready line."""
    environ = {
        "PATH": os.environ["PATH"],
        "AMPD_HOME": str(tmp_path),
        "AMPD_DISCOVERY_MDNS": "false",
    }
    command = [str(Path(sys.executable).parent / "ampd"), "--gateway", "127.0.0.1:0"]
    command += ["--log-format", "json"]
    environ |= {"AMPD_PEER_LISTEN": "127.0.0.1:0", "AMPD_DISCOVERY_MDNS": "false"}
    with subprocess.Popen(command, stderr=subprocess.PIPE, env=environ, text=True) as process:
        for line in process.stderr:
            said = json.loads(line)
            if said["message"] == "ready":
                yield process, said
                break
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0


def test_gs3_a_daemon_serves_says_where_and_ends_cleanly(daemon, tmp_path):
    process, said = daemon
    with urllib.request.urlopen(f"{said['gateway']}/health") as answer:  # a maintained client
        assert answer.status == 200
    asked = {"jsonrpc": "2.0", "id": 1, "method": "system.status", "params": {}}
    with socket.socket(socket.AF_UNIX) as local:
        local.connect(said["socket"])
        local.sendall(json.dumps(asked).encode() + b"\n")
        found = json.loads(local.makefile().readline())["result"]["gateway"]
    assert found["url"] == said["gateway"]
    assert found["admin_keys"] == str(tmp_path / "keys" / "admin.keys")
    assert Path(found["admin_keys"]).stat().st_mode & 0o777 == 0o600
    idle = socket.create_connection(said["gateway"].removeprefix("http://").split(":"))
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 0
    assert idle.recv(1) == b""
    idle.close()


@pytest.mark.parametrize(
    ("listen", "registration", "said"),
    [
        ("0.0.0.0:1", "open", True), ("10.0.0.7:1", "open", True), ("0.0.0.0:1", "invite", False),
        ("127.0.0.1:1", "open", False), ("[::1]:1", "open", False),
    ],
)  # fmt: skip
def test_gs4_an_open_door_to_the_network_is_named(tmp_path, caplog, listen, registration, said):
    found = config(tmp_path, listen, registration=registration)
    gateway_setup.warn_of_open_doors(gateway_setup.values_of(found, 1, tls=False))
    assert bool(caplog.records) is said
