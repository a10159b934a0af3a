"""amp_cli/json_text.py agrees with `json`, with the C parts and without them."""

import json

import pytest
from amp_cli.json_text import _from_c, _from_json
from hypothesis import given
from hypothesis import strategies as st

BOTH = pytest.mark.parametrize("ways", [_from_c(), _from_json()], ids=["c", "json"])
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@BOTH
@given(value=VALUES)
def test_a_value_comes_back_and_its_text_is_that_of_json(ways, value):
    dumps, loads = ways
    assert dumps(value) == json.dumps(value, separators=(",", ":"))
    assert loads(dumps(value)) == value


@BOTH
@given(text=st.text(alphabet='{}[]",:0123456789.eE+-nultrfas \\\n\x01é'))
def test_what_json_refuses_is_refused_with_a_value_error(ways, text):
    _, loads = ways
    try:
        expected = json.loads(text)
    except ValueError:
        with pytest.raises(ValueError):  # noqa: PT011 - any text will do
            loads(text)
    else:
        assert loads(text) == expected


@BOTH
@pytest.mark.parametrize("text", ["NaN", "Infinity", "-Infinity", "[" * 100_000, '{"a":1} x'])
def test_what_json_takes_too_easily_is_refused_too(ways, text):
    with pytest.raises(ValueError):  # noqa: PT011 - any text will do
        ways[1](text)


@BOTH
def test_what_is_no_json_is_not_written(ways):
    for value in (float("nan"), float("inf"), b"bytes"):
        with pytest.raises((ValueError, TypeError)):
            ways[0](value)
