"""What `amp` may import: each module here costs a good part of what Python itself does.

The price in CPU time is measured by tests/bench/bench_cli.py; this holds the reason for it.
"""

import json
import os
import subprocess
import sys

import pytest

DEAR = {
    *("argparse", "asyncio", "collections", "contextlib", "dataclasses", "datetime", "enum"),
    *("functools", "importlib", "inspect", "json", "logging", "pathlib", "re", "signal", "socket"),
    *("ssl", "string", "subprocess", "tempfile", "textwrap", "threading", "types", "typing"),
    *("trio", "nacl", "cbor2", "zeroconf", "cryptography", "appdirs", "segno"),
}
LOADED = """
import sys
before = set(sys.modules)
from amp_cli.main import run
assert run({words}) == 0
loaded = set(sys.modules) - before
import json
print(json.dumps(sorted(loaded)))
"""


@pytest.mark.parametrize(
    "words",
    [["inbox"], ["send", "bob", "S", "T"], ["read", "1"], ["reply", "1", "T"], ["ack", "1"]],
)
def test_a_command_of_every_day_imports_nothing_dear(daemon, words):
    daemon.message()
    done = subprocess.run(
        [sys.executable, "-I", "-c", LOADED.format(words=words)],
        env=os.environ,
        capture_output=True,
        check=True,
        text=True,
    )
    loaded = set(json.loads(done.stdout.splitlines()[-1]))
    assert loaded & DEAR == set()
    assert {name for name in loaded if name.partition(".")[0] == "ampd"} <= {
        "ampd",
        "ampd.protocol",
        "ampd.protocol.local",
    }
