"""The parser: rules A1 to A4 of amp_cli/arguments.py."""

import pytest
from amp_cli.arguments import Command, Option, duration, help_text, looks_like_option, parse
from amp_cli.errors import Usage
from hypothesis import given
from hypothesis import strategies as st

COMMAND = Command(
    "try",
    "WORD [MORE]...",
    "a command of every kind of flag",
    lambda *_: 0,
    options=(
        Option("--all", "", "a switch"),
        Option("--limit", "N", "a value"),
        Option("--to", "ADDRESS", "repeatable", many=True),
        Option("--wait", "[SECONDS]", "a value or none"),
    ),
    example="amp try it",
)


def tried(*words):
    return parse(COMMAND, words)


def test_a1_options_stand_anywhere():
    for words in (("--all", "w", "--limit", "3"), ("w", "--limit=3", "--all")):
        arguments = tried(*words)
        assert arguments.words == ["w"]
        assert arguments.flag("--all") and arguments.number("--limit") == 3


def test_a1_two_dashes_end_the_options():
    assert tried("w", "--", "--all", "--").words == ["w", "--all", "--"]


def test_a_repeatable_option_keeps_its_order():
    assert tried("w", "--to", "a", "--to=b").texts("--to") == ["a", "b"]


@pytest.mark.parametrize("word", ["-", "- item", "-1", "-5.", "---", "--- a\n+++ b", "--no such"])
def test_a2_a_text_with_a_dash_is_a_word(word):
    assert tried("w", word).words == ["w", word]


def test_a3_a_known_option_is_nobodys_value():
    with pytest.raises(Usage, match="--limit needs a value, but --all follows"):
        tried("w", "--limit", "--all")
    assert tried("w", "--to=--all").texts("--to") == ["--all"]
    assert tried("w", "--to", "--else").texts("--to") == ["--else"]


def test_an_optional_value_is_taken_where_it_is_one():
    assert tried("--wait", "w").text("--wait") == ""
    assert tried("w", "--wait", "5m").seconds("--wait") == 300
    assert tried("w", "--wait=2").seconds("--wait") == 2


@pytest.mark.parametrize(
    ("words", "said", "hint"),
    [
        (["w", "--al"], "no flag --al", "did you mean --all?"),
        (["w", "--zzzzz"], "no flag --zzzzz", "amp help try"),
        (["w", "--limit"], "--limit needs a value: --limit N", ""),
        (["w", "--all=1"], "--all takes no value", ""),
        (["w", "--limit", "1", "--limit", "2"], "--limit is given more than once", ""),
        ([], "amp try: WORD is missing", "amp help try"),
    ],
)
def test_a4_wrong_usage_names_what_is_wrong(words, said, hint):
    with pytest.raises(Usage, match=said) as caught:
        tried(*words)
    assert caught.value.exit_code == 2
    assert caught.value.hint == hint


@pytest.mark.parametrize("value", ["0", "-1", "x", "1.5", "²", ""])
def test_a_number_is_a_whole_number_from_one_up(value):
    with pytest.raises(Usage, match="whole number from 1 up"):
        tried("w", f"--limit={value}").number("--limit")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("30", 30), ("30s", 30), ("0.5", 0.5), ("10m", 600), ("2h", 7200), ("7d", 604800)],
)
def test_a_duration_has_a_unit_or_is_in_seconds(text, seconds):
    assert duration(text) == seconds


@pytest.mark.parametrize("text", ["", "s", "-1", "1w", "1e3", "inf", "1.", ".5", "²", "9" * 10])
def test_what_is_no_duration_is_none(text):
    assert duration(text) is None


def test_help_is_asked_for_before_anything_is_checked():
    assert tried("--help").flag("--help")


def test_the_help_text_has_every_flag_and_the_example():
    text = help_text(COMMAND)
    for option in COMMAND.options:
        assert option.name in text
    assert "amp try WORD [MORE]... [FLAGS]" in text
    assert "amp try it" in text


FLAGS = st.sampled_from(["--all", "--to", "--wait", "--"])
WORDS = st.lists(st.one_of(st.text(max_size=12), FLAGS))


@given(words=WORDS)
def test_any_words_are_arguments_or_wrong_usage(words):
    try:
        arguments = tried(*words)
    except Usage:
        return
    kept = [*arguments.words, *arguments.texts("--to")]
    assert all(word in "\0".join(words) for word in kept)


@given(words=st.lists(st.text(), min_size=1))
def test_words_behind_two_dashes_come_through_unchanged(words):
    assert tried("--", *words).words == words


@given(first=st.text(), last=st.text(), blank=st.sampled_from(" \n"))
def test_a_text_of_several_words_is_an_option_only_by_its_equals_sign(first, last, blank):
    text = first + blank + last
    assert not looks_like_option(text) or "=" in first
