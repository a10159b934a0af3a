"""How the tests of the command line run `amp`: in this process, or as a real one."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import pytest
from amp_cli.main import run
from cli.fake_daemon import FakeDaemon

AMP = [sys.executable, "-c", "import sys; from amp_cli.main import main; sys.exit(main())"]


class Said(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def short_path():
    """A folder whose path leaves room for a socket's name."""
    with tempfile.TemporaryDirectory(prefix="amp") as folder:
        yield Path(folder)


@pytest.fixture
def daemon(short_path, monkeypatch):
    with FakeDaemon(short_path / "ampd.sock") as daemon:
        monkeypatch.setenv("AMP_SOCKET", daemon.path)
        monkeypatch.delenv("AMP_AGENT", raising=False)
        yield daemon


@pytest.fixture
def amp(daemon, capsys):
    """`amp("inbox", "--json")`, in this process."""

    def call(*words):
        code = run(list(words))
        out, err = capsys.readouterr()
        return Said(code, out, err)

    return call


@pytest.fixture
def amp_process(daemon):
    """`amp` as a process of its own, with bytes for its standard input."""

    def call(*words, stdin=b"", **environ):
        done = subprocess.run(
            [*AMP, *words],
            input=stdin,
            capture_output=True,
            check=False,
            timeout=30,
            env={**os.environ, **environ},
        )
        return Said(done.returncode, done.stdout.decode(), done.stderr.decode())

    return call
