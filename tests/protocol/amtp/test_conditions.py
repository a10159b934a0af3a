"""Conditions of a conditional coordination: ampd/protocol/amtp/conditions.py."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ampd.model.errors import Invalid
from ampd.protocol import raw_json
from ampd.protocol.amtp.conditions import Reply, condition_of

YES = Reply("approval@manager.com", '{"approve":true,"by":"Ann","n":2.0,"deep":{"er":"x"}}')
NO = Reply("other@manager.com", '{"approve":false,"note":"not now"}')


def met(text, *replies):
    return condition_of(text).met_by(replies or (YES, NO))


def test_the_sentence_of_the_standard_is_understood():
    assert met("approval@manager.com responds with approve=true")
    assert met("Approval@Manager.com responds with approve == true")
    assert not met("other@manager.com responds with approve=true")
    assert not met("nobody@manager.com responds with approve=true")


def test_a_comparison_is_asked_of_any_reply():
    assert met("approve == false") and met("approve == true")
    assert not met("approve == true", NO)


def test_anything_else_is_a_text_that_a_reply_contains():
    assert met("not now") and met('"by":"Ann"')
    assert not met("never")


def test_b1_a_dot_leads_into_an_object():
    assert met("deep.er == x")
    assert not met("deep.less == x") and not met("approve.er == x")


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("n == 2", True), ("n == 2.00", True), ("n == 3", False), ("n == two", False),
        ("by == Ann", True), ('by == "Ann"', True), ("by == 'Ann'", True), ("by == ann", False),
        ('approve == "true"', False), ('n == "2.0"', False), ("missing == null", False),
        ("deep == x", False),
    ],
)  # fmt: skip
def test_b2_values_are_compared_by_what_they_mean(text, holds):
    assert met(text, YES) is holds


def test_b2_null_is_a_value():
    assert met("x == null", Reply("a@b.c", '{"x":null}'))


def test_b3_a_failure_meets_nothing():
    assert not met("approve == true", Reply("a@b.c", YES.payload, failed=True))


@pytest.mark.parametrize("text", ["", "  ", "x" * 1001])
def test_a_condition_says_something(text):
    with pytest.raises(Invalid):
        condition_of(text)


@given(
    st.text(min_size=1, max_size=60).filter(str.strip),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda each: st.lists(each, max_size=3) | st.dictionaries(st.text(), each, max_size=3),
    ),
)
def test_any_text_can_be_asked_of_any_payload(text, payload):
    reply = Reply("a@b.c", raw_json.write(payload))

    assert condition_of(text).met_by([reply]) in (True, False)
