"""A daemon in a short folder of its own, from a process that has imported everything once."""

import os
import tempfile
from pathlib import Path

import pytest
from faults.crash_harness_node import Node
from faults.crash_harness_warm import Warm


@pytest.fixture
def work():
    with tempfile.TemporaryDirectory(prefix="amp") as folder:
        yield Path(folder)


@pytest.fixture(scope="module")
def warm():
    with tempfile.TemporaryDirectory(prefix="amp") as folder:
        warm = Warm(os.environ, Path(folder) / "log")
        yield warm
        warm.close()


@pytest.fixture
def node(work, warm):
    with Node(work / "home", work / "log", warm=warm) as node:
        yield node
