"""The short way through `folded` gives what the long one gives."""

import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from ampd.core import unmasking

# A fraction becomes several characters, and the table has one for one; "?" stays what it is.
LETTERS = [
    chr(code)
    for code in range(128, 256)
    if code != 0xAD and len(unicodedata.normalize("NFKD", chr(code))) <= 2
]


@given(st.text(st.sampled_from([*LETTERS, *"Az09 \n.,-"])))
def test_european_text_is_folded_by_a_table_as_by_the_general_rules(text):
    assert unmasking.folded(text).split() == unmasking._folded(text).replace("?", " ").split()


@given(st.text())
def test_a_text_that_hides_nothing_is_not_tricked(text):
    if not unmasking.hiding(text):
        assert unmasking._TRICKS.search(text) is None
