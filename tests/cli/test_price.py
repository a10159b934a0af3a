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
    daemon.message(content="line 1\nline 2")
    loaded = modules_of(words)
    assert loaded & DEAR == set()
    assert ours(loaded) <= {"ampd", "ampd.protocol", "ampd.protocol.local"}


@pytest.mark.parametrize("words", [["inbox"], ["read", "1"]])
def test_text_that_is_not_ascii_costs_one_module_more(daemon, words):
    daemon.message(subject="\u202e\xe9\U000e0100", content="\u3164\xe9\n\U0001f469")
    loaded = modules_of(words)
    assert loaded & DEAR == set()
    assert ours(loaded) - {"ampd", "ampd.protocol", "ampd.protocol.local"} == {
        "ampd.model",
        "ampd.model.visible",
    }


def modules_of(words):
    """What `amp WORDS` imports."""
    done = subprocess.run(
        [sys.executable, "-I", "-c", LOADED.format(words=words)],
        env=os.environ,
        capture_output=True,
        check=True,
        text=True,
    )
    return set(json.loads(done.stdout.splitlines()[-1]))


def ours(loaded):
    return {name for name in loaded if name.partition(".")[0] == "ampd"}
