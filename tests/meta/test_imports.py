"""The rules about imports hold, and they have teeth."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

TOP = Path(__file__).parent.parent.parent
PLANTED = {
    "A room imports only the rooms below it": ("ampd/model/errors.py", "import ampd.storage"),
    "No import cycles": ("ampd/model/errors.py", "import ampd.model.address"),
    "model, crypto and protocol do no I/O": ("ampd/protocol/framing.py", "import socket"),
    "The command line and the client": ("cli/amp_cli/output.py", "import ampd.crypto.keys"),
    "A room is given the values": ("ampd/edge/network.py", "import ampd.settings"),
    "Only ampd.model.encoding imports cbor2": ("ampd/storage/records.py", "import cbor2"),
    "Only ampd.crypto.keys imports nacl": ("ampd/core/contacts.py", "import nacl"),
    "Only ampd.edge.mdns imports zeroconf": ("ampd/edge/peer_tcp.py", "import zeroconf"),
    "Only ampd.config imports appdirs": ("ampd/storage/disk.py", "import appdirs"),
    "Only ampd.storage.relay_store.nats_link imports nats": (
        "ampd/storage/relay_store/jetstream.py",
        "import nats",
    ),
    "Only ampd.edge.http.server imports hypercorn": ("ampd/edge/http/app.py", "import hypercorn"),
    "Only ampd.edge.http.http1 imports h11": ("ampd/edge/http/server.py", "import h11"),
    "Only ampd.edge.http.client imports httpcore": ("ampd/edge/gateway.py", "import httpcore"),
    "Only ampd.edge.http.dns imports dns": ("ampd/edge/http/client.py", "import dns.resolver"),
    "Only ampd.edge.amtp.schema_worker imports jsonschema": (
        "ampd/edge/amtp/service.py",
        "import jsonschema",
    ),
    "Only ampd.protocol.handshake imports noise": ("ampd/edge/peer_tcp.py", "import noise"),
}


def lint(folder):
    command = [str(Path(sys.executable).parent / "lint-imports"), "--no-cache"]
    paths = {"PYTHONPATH": f"{folder}:{folder / 'cli'}", "PATH": "/usr/bin:/bin", "COLUMNS": "300"}
    done = subprocess.run(
        command, cwd=folder, env=paths, capture_output=True, text=True, check=False
    )
    verdicts = [line.strip() for line in done.stdout.splitlines()]
    broken = [line for line in verdicts if " BROKEN" in line]  # "(1 ignored import)" may follow
    return done.returncode, broken, done.stdout


@pytest.fixture
def copy(tmp_path):
    for name in ("ampd", "cli"):
        shutil.copytree(TOP / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(TOP / ".importlinter", tmp_path)
    return tmp_path


def test_every_room_imports_only_what_it_may(copy):
    code, broken, said = lint(copy)
    assert (code, broken) == (0, []), said


@pytest.mark.parametrize("rule", PLANTED)
def test_a_planted_import_breaks_its_rule(copy, rule):
    file, line = PLANTED[rule]
    with (copy / file).open("a") as module:
        module.write(f"\n{line}\n")
    code, broken, said = lint(copy)
    assert code != 0, said
    assert any(each.startswith(rule) for each in broken), said


def test_the_client_is_bound_like_the_command_line():
    exists = (TOP / "ampd/client/__init__.py").exists() or (TOP / "ampd/client.py").exists()
    named = "    ampd.client\n" in (TOP / ".importlinter").read_text()
    assert named == exists, "its line belongs to front_ends in .importlinter, once it exists"
