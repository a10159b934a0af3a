"""JSON that may travel (core/json_text.py)."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ampd.core.json_text import MAX_DEPTH, to_text, to_value
from ampd.model.errors import Invalid

scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.text()
    | st.floats(allow_nan=False, allow_infinity=False)
)
values = st.recursive(scalars, lambda v: st.lists(v) | st.dictionaries(st.text(), v), max_leaves=20)


def nested(depth, leaf=""):
    return "[" * depth + leaf + "]" * depth


@given(values)
def test_every_value_comes_back(value):
    assert to_value(to_text(value)) == value


@pytest.mark.parametrize("leaf", ["", "1", '"[[["', '{"a":1}'])
def test_what_is_nested_to_the_limit_is_taken_and_no_deeper(leaf):
    depth = MAX_DEPTH - leaf.startswith("{")
    value = to_value(nested(depth, leaf))
    assert to_text(value) == nested(depth, leaf)
    with pytest.raises(Invalid):
        to_value(nested(depth + 1, leaf))
    with pytest.raises(Invalid):
        to_text([value])


def test_many_brackets_side_by_side_are_not_deep():
    wide = [[], {}] * 500
    assert to_value(json.dumps(wide)) == wide


@pytest.mark.parametrize(
    "text", ["NaN", "-Infinity", "1e999", '{"a":1,"a":1}', nested(50_000), "", "'a'", "9" * 5000]
)
def test_what_not_every_reader_takes_is_invalid(text):
    with pytest.raises(Invalid):
        to_value(text)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {1, 2}, b"bytes"])
def test_what_json_cannot_say_is_invalid(value):
    with pytest.raises(Invalid):
        to_text(value)
