"""The daemon dies at any moment, and nothing that it said was so becomes untrue.

crash_harness.py says what is done and crash_harness_oracle.py what is looked at; for more cycles:
`python tests/faults/crash_harness.py --cycles 1000`.
"""

import shutil

import pytest
from faults import crash_harness
from faults.crash_harness_mutants import planted

pytestmark = pytest.mark.slow
needs_strace = pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")


def unharmed(harness):
    """Nothing was seen that may not be, and there was something to see."""
    counts = harness.ledger.counts
    assert harness.ledger.breaches == [], harness.report(0)
    return counts["sends ok"] > harness.cycles and counts["acked ok"] > 0


def test_p1_nothing_is_lost_or_doubled_when_it_is_killed_at_work(work):
    assert unharmed(crash_harness.run(work, 11, 24, ("kill",)))


def test_p1_nothing_is_lost_when_it_is_killed_again_and_again_while_it_recovers(work):
    assert unharmed(crash_harness.run(work, 12, 8, ("recovery",)))


@needs_strace
def test_p1_nothing_is_lost_when_it_is_killed_right_before_a_sync(work):
    assert unharmed(crash_harness.run(work, 13, 4, ("sync",)))


@needs_strace
def test_p1_nothing_is_lost_when_it_is_killed_at_any_change_that_recovery_makes(work):
    harness = crash_harness.run(work, 14, 8, ("kill", "early", "early", "early"))
    assert unharmed(harness)


def test_p1_a_second_daemon_on_the_home_is_refused_and_harms_nothing(work):
    assert unharmed(crash_harness.run(work, 15, 2, ("twice",)))


def test_z7_sigterm_in_full_work_leaves_nobody_without_an_answer(work):
    assert unharmed(crash_harness.run(work, 16, 2, ("term",)))


def test_the_oracle_sees_idempotency_keys_that_a_restart_forgets(work):
    source = planted(work, "keys only in memory")
    harness = crash_harness.run(work, 17, 2, ("kill",), source=source)
    assert harness.ledger.counts["duplicate"] > 0
