"""JSON that keeps its number tokens (ampd/protocol/raw_json.py)."""

import json
import shutil
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ampd.model.errors import Invalid
from ampd.protocol.raw_json import MAX_DEPTH, Number, Raw, parse, plain, write

TOKENS = ["0", "-0", "-0.0", "1.0", "0.10", "1E+5", "1e-400", "12345678901234567890", "0.00001"]
texts = st.text(st.characters(exclude_categories=["Cs"]))
trees = st.recursive(
    st.none() | st.booleans() | texts | st.sampled_from(TOKENS).map(Number),
    lambda inner: st.lists(inner) | st.dictionaries(texts, inner),
    max_leaves=30,
)


@given(trees)
def test_j1_what_is_written_is_read_back_with_every_token(tree):
    again = parse(write(tree))
    assert again == tree and write(again) == write(tree)


@pytest.mark.parametrize("token", TOKENS)
def test_j1_a_number_keeps_its_form(token):
    assert write(parse(f'{{"n": {token}}}')) == f'{{"n":{token}}}'


def test_j1_the_order_of_names_stays():
    assert write(parse('{"10":1,"9":2,"a":3}')) == '{"10":1,"9":2,"a":3}'


def test_names_are_sorted_by_code_point_at_every_level_if_asked():
    assert write(parse('{"b":{"\u00e9":1,"z":2},"B":3}'), sort=True) == (
        '{"B":3,"b":{"z":2,"\u00e9":1}}'
    )


@pytest.mark.parametrize(
    "text",
    [
        '{"a":1,"a":2}',
        '"\\ud800"',
        '{"\\udfff":1}',
        "NaN",
        "[-Infinity]",
        "[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1),
        "[" * 100_000,
        "01",
        "",
        b"\xff",
        b'"\xed\xa0\x80"',
        "1 2",
        "1e999",
        "-1e999",
        "9" * 5000,
    ],
)
def test_j2_what_readers_would_not_agree_on_is_refused(text):
    with pytest.raises(Invalid):
        parse(text)


def test_j2_a_pair_of_surrogates_is_one_character():
    assert parse('"\\ud83d\\ude00"') == "\U0001f600"


def test_j2_the_deepest_nesting_allowed_is_read():
    text = "[" * MAX_DEPTH + "]" * MAX_DEPTH
    assert write(parse(text)) == text


def test_j3_only_what_jq_escapes_is_escaped():
    everything = "".join(map(chr, range(0x80))) + "\u2028é/<"
    written = write(everything)
    assert json.loads(written) == everything
    assert "\\u0000" in written and "\\b\\t\\n\\u000b\\f\\r" in written and "\\u001f" in written
    assert "\\u007f" in written and "\u2028é/<" in written
    assert write("\x7f", del_as_is=True) == '"\x7f"'
    assert write("é\x7f", ascii_only=True) == '"\\u00e9\\u007f"'


@pytest.mark.skipif(not shutil.which("jq"), reason="jq is not here to compare with")
def test_j3_jq_itself_prints_the_same():
    tree = {"b": ['\x01\x7f\u2028é"\\/\b\f\n\r\t', {"z": None, "a": True}], "a": "x"}
    printed = subprocess.run(
        ["jq", "-cS", "."], input=json.dumps(tree).encode(), capture_output=True, check=True
    ).stdout.decode()
    assert write(tree, sort=True) == printed.rstrip("\n")


def test_j4_a_raw_text_is_spliced_in_as_it_is():
    assert write({"payload": Raw('{ "n": 1.0 }')}) == '{"payload":{ "n": 1.0 }}'


def test_the_meaning_of_numbers_is_there_for_who_needs_it():
    assert plain(parse('[1,1.5,-2e1,"7",null]')) == [1, 1.5, -20.0, "7", None]


def test_a_number_that_no_float_can_hold_has_no_meaning():
    with pytest.raises(Invalid):
        plain(parse("9" * 1000))


def test_what_is_no_json_is_a_mistake_of_the_caller():
    with pytest.raises(TypeError):
        write(object())
