"""The checklists of the foreign protocols: how many of their rows have a test of their number.

AMP's has 120 rows, AMTP's 96. A row is met when `test_row_NNN_...` shows it; DESIGN.md lists the
rows that are not, with the reason.
"""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def rows(protocol, kind="row"):
    """The numbers that tests name."""
    folders = [ROOT / "tests" / room / protocol for room in ("edge", "protocol")]
    text = "".join(path.read_text() for each in folders for path in each.glob("test_*.py"))
    return {int(number) for number in re.findall(rf"def test_{kind}_?(\d+)_", text)}


@pytest.mark.parametrize(("protocol", "of", "least"), [("amp", 120, 110), ("amtp", 96, 86)])
def test_nearly_every_row_of_a_checklist_is_shown_by_a_test(protocol, of, least):
    found = rows(protocol)
    assert found <= set(range(1, of + 1))
    assert len(found) >= least, sorted(set(range(1, of + 1)) - found)


def test_every_must_have_of_amps_clients_is_shown_by_a_test():
    assert set(range(1, 20)) <= rows("amp", "k")


@pytest.mark.parametrize(("protocol", "of"), [("amp", 120), ("amtp", 96)])
def test_every_row_that_is_not_met_stands_in_the_design_with_its_reason(protocol, of):
    design = (ROOT / "ampd" / "DESIGN.md").read_text()
    told = re.findall(rf"^\| {protocol.upper()} (\d+) \|", design, re.MULTILINE)
    assert {int(number) for number in told} == set(range(1, of + 1)) - rows(protocol)
