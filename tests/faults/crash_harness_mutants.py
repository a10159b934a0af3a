"""Copies of the package with a bug planted in them: what the harness and the tests must see."""

import re
import shutil
from pathlib import Path

import ampd

# name -> file, pattern (found exactly once), what stands there instead
BUGS = {
    "no sync": ("storage/disk.py", r"os\.fdatasync\(fd\)", "pass"),
    "answer before the sync": (
        "storage/disk.py",
        r"os\.fdatasync\(fd\)",
        "__import__('threading').Timer(0.5, os.fdatasync, [os.dup(fd)]).start()",
    ),
    "error of a sync ignored": (
        "storage/disk.py",
        r"os\.fdatasync\(fd\)",
        "__import__('ctypes').CDLL(None).fdatasync(fd)",
    ),
    "keys only in memory": ("core/submission.py", r"key=draft\.key\)", 'key="")'),
    "cut at the first bad record": (
        "storage/survey.py",
        r"hole = found\n( +)continue",
        r"hole = found\n\1break",
    ),
}


def planted(folder, bug):
    """The folder, for PYTHONPATH, of a copy of the package with this bug."""
    name, pattern, instead = BUGS[bug]
    copy = Path(folder) / bug.replace(" ", "-")
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(Path(ampd.__file__).parent, copy / "ampd", ignore=ignored)
    file = copy / "ampd" / name
    text, count = re.subn(pattern, instead, file.read_text())
    assert count == 1, f"{name} has changed: plant {bug!r} elsewhere"
    file.write_text(text)
    return copy
