"""The power goes at any moment: what was answered is on the disk, all the rest may be gone."""

import shutil
import tempfile
from pathlib import Path

import pytest
from faults import crash_harness, power_loss
from faults.crash_harness_mutants import planted

pytestmark = pytest.mark.slow


def on_a_disk(kind, seed, cycles, bug=""):
    """The harness after so many power failures on a disk of this kind; skips without one."""
    why = power_loss.why_not(kind)
    if why:
        pytest.skip(why)
    work = Path(tempfile.mkdtemp(prefix="amp"))
    try:
        source = planted(work, bug) if bug else None
        with power_loss.LoopDisk(work, kind) as disk:
            return crash_harness.run(work, seed, cycles, ("power",), disk=disk, source=source)
    finally:
        shutil.rmtree(work)


@pytest.mark.parametrize(("kind", "cycles"), [("ext4", 8), ("xfs", 4)])
def test_p1_what_was_answered_survives_the_loss_of_power(kind, cycles):
    harness = on_a_disk(kind, 21, cycles)
    assert harness.ledger.breaches == [], harness.report(0)
    assert harness.ledger.counts["sends ok"] > cycles


@pytest.mark.parametrize("bug", ["no sync", "answer before the sync"])
def test_the_loss_of_power_shows_a_planted_bug(bug):
    harness = on_a_disk("ext4", 22, 1, bug)
    assert harness.ledger.counts["lost"] > 0, harness.report(0)
