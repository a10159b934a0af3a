"""V1-V5: what is shown hides nothing, and ordinary text stays as it is."""

import sys
import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ampd.model.visible import HIDDEN, visible

JUDGED = "\ufe0f\u200c\u200d"
# Default_Ignorable_Code_Point of Unicode (DerivedCoreProperties.txt), and the blank of Braille:
# written down here once more, so that a gap in the module is seen.
IGNORABLE = frozenset(
    map(
        chr,
        (
            *(0xAD, 0x34F, 0x61C, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x2800, 0x3164, 0xFEFF, 0xFFA0),
            *range(0x180B, 0x1810),
            *range(0x200B, 0x2010),
            *range(0x202A, 0x202F),
            *range(0x2060, 0x2070),
            *range(0xFE00, 0xFE10),
            *range(0xFFF0, 0xFFF9),
            *range(0x1BCA0, 0x1BCA4),
            *range(0x1D173, 0x1D17B),
            *range(0xE0000, 0xE1000),
        ),
    )
)
HEART, TECHNOLOGIST, RAINBOW = "\u2764", "\U0001f469\U0001f3fd\u200d\U0001f4bb", "\U0001f308"
HONEST = {
    "Arabic with vowels": "\u0639\u064e\u0631\u064e\u0628\u0650\u064a\u0651 \u061f",
    "Persian, I want": "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645",
    "Persian, books": "\u06a9\u062a\u0627\u0628\u200c\u0647\u0627",
    "Persian, ZWNJ behind a vowel mark": "\u06a9\u062a\u0627\u0628\u0650\u200c\u0645\u0646",
    "Hebrew with points": "\u05e9\u05c1\u05b8\u05dc\u05d5\u05b9\u05dd",
    "Hindi, half form and visible virama": "\u0915\u094d\u200d\u0937 \u0915\u094d\u200c\u0937",
    "Bengali, RAB": "\u09b0\u200d\u09cd\u09af\u09be\u09ac",
    "Kannada, software": "\u0cb8\u0cbe\u0cab\u0ccd\u0c9f\u0ccd\u200c\u0cb5\u0cc7\u0cb0\u0ccd",
    "Malayalam, a chillu at the end": "\u0d28\u0d4d\u200d \u0d28\u0d28\u0d4d\u200d",
    "Sinhala, Sri": "\u0dc1\u0dca\u200d\u0dbb\u0dd3",
    "Korean": "\ud55c\uad6d\uc5b4 \u1112\u1161\u11ab",
    "Thai": "\u0e20\u0e32\u0e29\u0e32\u0e44\u0e17\u0e22",
    "Japanese": "\u65e5\u672c\u8a9e\u3000\u304b\u306a\u30ab\u30ca",
    "Mongolian": "\u182e\u1823\u1829\u182d\u1823\u182f",
    "French blanks": "Vraiment\u202f? 12\u00a0kg",
    "a heart": HEART + "\ufe0f",
    "a heart on fire": HEART + "\ufe0f\u200d\U0001f525",
    "a family": "\U0001f468\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466",
    "a technologist": TECHNOLOGIST,
    "a rainbow flag": "\U0001f3f3\ufe0f\u200d" + RAINBOW,
    "a flag of a country": "\U0001f1e9\U0001f1ea",
    "a keycap": "1\ufe0f\u20e3 #\ufe0f\u20e3",
    "an emoji newer than this Python": "\U0001fa77 \U0001fae8",
    "an ideograph newer than this Python": "\U00031350",
}
PIECES = st.sampled_from(
    [
        *JUDGED,
        *(
            "\U000e0100",
            "\ufe00",
            "\ufe0e",
            "\u3164",
            "\u2800",
            "\u034f",
            "\u180b",
            "\u17b4",
            "\xad",
        ),
        *("\u202e", "\u2066", "\u200b", "\U000e0041", "\x1b[2J", "\r\n", "\r", "\ud800", "\ue000"),
        *("1", "#", "\u20e3", "a", " ", "\n", HEART, "\U0001f469", "\U0001f3fd", "\U0001f1e9"),
        *("\u0628", "\u0627", "\u064e", "\u06cc", "\u0915", "\u094d", "\u0d28", "\u0d4d", "\u0bcd"),
    ]
)
HOSTILE = st.lists(PIECES | st.text(max_size=3), max_size=20).map("".join)


@given(HOSTILE, st.booleans())
@example("".join(map(chr, range(0xE0100, 0xE01F0))), True)
def test_v1_nothing_that_hides_comes_through_but_what_is_judged(text, lines):
    shown = visible(text, lines=lines)
    assert not (IGNORABLE | HIDDEN).difference(JUDGED) & set(shown)
    unseen = {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"}
    kept = {*JUDGED, *("\n\t" if lines else "")}
    assert not [c for c in set(shown) - kept if unicodedata.category(c) in unseen]


@given(HOSTILE)
def test_v2_v3_v4_a_character_that_is_judged_has_something_seen_on_its_side(text):
    """No two of them touch but U+FE0F and ZWJ in an emoji, and none begins a text."""
    shown = visible(text)
    for at, each in enumerate(shown):
        if each in JUDGED:
            before = shown[at - 1 : at]
            is_seen = before.isprintable() and before not in ("", *JUDGED)
            assert is_seen or (before, each) == ("\ufe0f", "\u200d")
    assert shown == "" or shown[0] not in JUDGED


@given(HOSTILE)
def test_what_was_made_visible_stays_as_it_is(text):
    assert visible(visible(text)) == visible(text)
    visible(text).encode()


@given(HOSTILE)
def test_what_is_seen_of_a_text_stays_in_its_order(text):
    letters = set("a1# \n\u0628\u0627\u0915\u094d") | {HEART, "\U0001f469"}
    seen = [c for c in text.replace("\r\n", "\n") if c in letters]
    left = iter(visible(text))
    assert all(each in left for each in seen)


def test_v1_every_ignorable_code_point_is_written_out():
    blank = "\u2d7f\ufffc\U0001107f\U00011a47\U00011a99\U00016fe4\U0001bc9d\U0001d159"
    passing = {c for c in IGNORABLE | set(blank) if visible(f"a{c}b") == f"a{c}b"}
    assert {f"U+{ord(c):04X}" for c in passing} == set()


def test_v1_of_all_code_points_only_seen_ones_stay():
    stays = [c for c in map(chr, range(sys.maxunicode + 1)) if visible(c) == c]
    kinds = {unicodedata.category(c) for c in stays} - {"Zs"}
    assert not kinds & {"Cf", "Cs", "Co", "Zl", "Zp"}
    assert [c for c in stays if unicodedata.category(c) == "Cc"] == ["\t", "\n"]


def test_v5_of_the_unassigned_only_future_pictographs_and_ideographs_stay():
    unassigned = [c for c in map(chr, range(sys.maxunicode + 1)) if unicodedata.category(c) == "Cn"]
    stays = [c for c in unassigned if visible(c) == c]
    assert {ord(c) >> 16 for c in stays} == {0x1, 0x2, 0x3}
    assert {ord(c) >> 12 for c in stays if c < "\U00020000"} == {0x1F}
    assert "\U0002ffff" not in stays and "\U0003fffe" not in stays  # never characters


@pytest.mark.parametrize("text", HONEST.values(), ids=HONEST.keys())
def test_honest_text_stays_as_it_is(text):
    assert visible(f"so: {text}.\n") == f"so: {text}.\n"
    assert visible(text, lines=False) == text


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("\x1b[2J\x9b", "\\x1b[2J\\x9b"),
        ("a\r\nb\rc", "a\nb\\x0dc"),
        ("gold\u202etxt.exe", "gold\\u202etxt.exe"),
        ("pass\u200bword\xad", "pass\\u200bword\\xad"),
        ("\u845b\U000e0100", "\u845b\\U000e0100"),
        ("\u1820\u180b\u180e", "\u1820\\u180b\\u180e"),
        ("\u3164\u115f\u1160\uffa0", "\\u3164\\u115f\\u1160\\uffa0"),
        ("\U0001f3f4\U000e0067\U000e007f", "\U0001f3f4\\U000e0067\\U000e007f"),
        ("\ue000\u0378\ud800", "\\ue000\\u0378\\ud800"),
        # V2
        ("a\ufe0f", "a\\ufe0f"),
        ("\ufe0f", "\\ufe0f"),
        ("1\ufe0f2\ufe0f", "1\\ufe0f2\\ufe0f"),
        (HEART + "\ufe0f\ufe0f", HEART + "\ufe0f\\ufe0f"),
        ("\U0001f600\ufe0f", "\U0001f600\\ufe0f"),  # has one form only
        ("\U0001f1e9\ufe0f", "\U0001f1e9\\ufe0f"),
        # V3
        ("a\u200db", "a\\u200db"),
        (HEART + "\u200d", HEART + "\\u200d"),
        (HEART + "\u200d\u200d" + HEART, HEART + "\\u200d\\u200d" + HEART),
        ("\U0001f1e9\u200d\U0001f1ea", "\U0001f1e9\\u200d\U0001f1ea"),
        ("1\ufe0f\u200d" + HEART, "1\\ufe0f\\u200d" + HEART),
        # V4
        ("\u0627\u200c\u0628", "\u0627\\u200c\u0628"),  # alef joins to nothing behind it
        ("\u0628\u200c", "\u0628\\u200c"),
        ("\u0628\u200c\u0621", "\u0628\\u200c\u0621"),  # hamza joins to nothing
        ("\u0628\u200c\u064e", "\u0628\\u200c\u064e"),
        ("\u0628\u200c\u200c\u0628", "\u0628\\u200c\\u200c\u0628"),
        ("\u0628" + "\u064e" * 5 + "\u200c\u0628", "\u0628" + "\u064e" * 5 + "\\u200c\u0628"),
        ("\u0915\u200c\u0937", "\u0915\\u200c\u0937"),
        ("\u0915\u094d\u200c ", "\u0915\u094d\\u200c "),
        ("\u0915\u094d\u200d\u200d\u0937", "\u0915\u094d\u200d\\u200d\u0937"),
        ("\u0915\u094d\u200d\u094d", "\u0915\u094d\\u200d\u094d"),
        ("\u094d\u094d\u200d", "\u094d\u094d\\u200d"),
    ],
)  # fmt: skip
def test_what_hides_is_written_out_and_nothing_else_changes(text, seen):
    assert visible(text) == seen


def test_one_line_has_its_newlines_and_tabs_written_out():
    assert visible("a\r\nb\tc", lines=False) == "a\\x0d\\x0ab\\x09c"
    assert visible("a\u3000\u00a0b", lines=False) == "a\u3000\u00a0b"
