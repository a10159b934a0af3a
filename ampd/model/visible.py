"""Text that hides nothing: what is drawn as nothing, or misleads, is written out. Pure.

    visible("gold\\u202etxt.exe")  ->  gold\\u202etxt.exe

The one place that says which characters those are; whatever shows foreign text uses it, the
command line as well as the daemon. A character is written as \\x1b, \\u202e or \\U000e0041.

  V1  Written out: controls but newline and tab, format characters (soft hyphen, zero-width, tags,
      everything that changes the direction of a text), surrogates, line and paragraph separators,
      private and unassigned code points, and what is printable by its category and still drawn
      as nothing: fillers, the blank of Braille, all variation selectors. CR LF is a newline.
  V2  U+FE0F stands directly behind a character that has an emoji form; behind a digit, # and * only
      where it makes a keycap (U+20E3 follows).
  V3  U+200D (ZWJ) stands between two emoji.
  V4  U+200C and U+200D stand in a word where they change how it is drawn, and once (RFC 5892,
      appendix A.1 and A.2, for the scripts that need them): ZWNJ between two letters of Arabic
      script that would join; behind a virama of India or Sri Lanka that follows a letter, ZWJ, and
      ZWNJ before one more letter; ZWJ between such a letter and a virama (Bengali).
  V5  An unassigned code point of the blocks that are kept for pictographs and ideographs stays:
      there it can only be a character newer than this Python, and is drawn, if only as a box.

So ordinary text stays as it is: Persian, Hindi, Malayalam, Korean, flags, families, keycaps. What
stands written out in it although it was honest: the variants of an ideograph (U+E0100), the free
variation selectors and the vowel separator of Mongolian, the fillers of Old Hangul, the zero-width
spaces of Khmer, the flags of regions (tags), joiners that change nothing.

What an emoji can still carry is one choice: with or without U+FE0F where both are drawn alike, with
or without a ZWJ where no font joins. Blanks of other widths stay, for they are seen as blanks.

The command line imports this for text that is not ASCII: no module of Python is needed, but for
the few characters that are judged by their neighbours. Time is linear in the text.

Not here: what resembles `<` or a letter (core/safety.py, core/unmasking.py).
"""

# Printable to Unicode's categories, and yet drawn as nothing (DerivedCoreProperties.txt,
# Default_Ignorable_Code_Point, and blank or purely joining signs found by name in Unicode 14).
HIDDEN = frozenset(
    "\u034f\u115f\u1160\u17b4\u17b5\u180b\u180c\u180d\u180f\u2800\u2d7f\u3164\uffa0\ufffc"
    "\U0001107f\U00011a47\U00011a99\U00016fe4\U0001bc9d\U0001d159"
    + "".join(map(chr, (*range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0))))
)
# Blanks that str.isprintable() does not count as printable, and that are seen (category Zs).
_BLANKS = frozenset("\u00a0\u1680\u202f\u205f\u3000" + "".join(map(chr, range(0x2000, 0x200B))))
_JUDGED = frozenset("\ufe0f\u200c\u200d")  # by what stands beside them (V2-V4)

# emoji-variation-sequences.txt of Unicode 12.0 without the keycaps, and U+26A7 of 13.0: the first
# code point of each run, and the last where there are more.
_EMOJI_BASES = (
    "a9 ae 203c 2049 2122 2139 2194-2199 21a9-21aa 231a-231b 2328 23cf 23e9-23ea 23ed-23ef"
    " 23f1-23f3 23f8-23fa 24c2 25aa-25ab 25b6 25c0 25fb-25fe 2600-2604 260e 2611 2614-2615 2618"
    " 261d 2620 2622-2623 2626 262a 262e-262f 2638-263a 2640 2642 2648-2653 265f-2660 2663"
    " 2665-2666 2668 267b 267e-267f 2692-2697 2699 269b-269c 26a0-26a1 26a7 26aa-26ab 26b0-26b1"
    " 26bd-26be 26c4-26c5 26c8 26cf 26d1 26d3-26d4 26e9-26ea 26f0-26f5 26f7-26fa 26fd 2702"
    " 2708-2709 270c-270d 270f 2712 2714 2716 271d 2721 2733-2734 2744 2747 2753 2757 2763-2764"
    " 27a1 2934-2935 2b05-2b07 2b1b-2b1c 2b50 2b55 3030 303d 3297 3299 1f004 1f170-1f171"
    " 1f17e-1f17f 1f202 1f21a 1f22f 1f237 1f30d-1f30f 1f315 1f31c 1f321 1f324-1f32c 1f336 1f378"
    " 1f37d 1f393 1f396-1f397 1f399-1f39b 1f39e-1f39f 1f3a7 1f3ac-1f3ae 1f3c2 1f3c4 1f3c6"
    " 1f3ca-1f3ce 1f3d4-1f3e0 1f3ed 1f3f3 1f3f5 1f3f7 1f408 1f415 1f41f 1f426 1f43f 1f441-1f442"
    " 1f446-1f449 1f44d-1f44e 1f453 1f46a 1f47d 1f4a3 1f4b0 1f4b3 1f4bb 1f4bf 1f4cb 1f4da 1f4df"
    " 1f4e4-1f4e6 1f4ea-1f4ed 1f4f7 1f4f9-1f4fb 1f4fd 1f508 1f50d 1f512-1f513 1f549-1f54a"
    " 1f550-1f567 1f56f-1f570 1f573-1f579 1f587 1f58a-1f58d 1f590 1f5a5 1f5a8 1f5b1-1f5b2 1f5bc"
    " 1f5c2-1f5c4 1f5d1-1f5d3 1f5dc-1f5de 1f5e1 1f5e3 1f5e8 1f5ef 1f5f3 1f5fa 1f610 1f687 1f68d"
    " 1f691 1f694 1f698 1f6ad 1f6b2 1f6b9-1f6ba 1f6bc 1f6cb 1f6cd-1f6cf 1f6e0-1f6e5 1f6e9 1f6f0"
    " 1f6f3"
)
# Joining_Type of U+0620-06FF and U+0750-077F, a sign each (DerivedJoiningType.txt of Unicode 14):
# D joins on both sides, R only to the letter before, T is a mark that the join looks through.
_ARABIC = (
    (
        0x0620,
        "D-RRRRDRDRDDDDDRRRRDDDDDDDDDDDDD-DDDDDDDRDDTTTTTTTTTTTTTTTTTTTTT"
        "--------------DDTRRR-RRRDDDDDDDDDDDDDDDDRRRRRRRRRRRRRRRRRRDDDDDD"
        "DDDDDDDDDDDDDDDDDDDDDDDDDDDDDDDDRDDRRRRRRRRRDRDRDDRR-RTTTTTTT--T"
        "TTTTT--TT-TTTTRR----------DDD--D",
    ),
    (0x0750, "DDDDDDDDDRRRDDDDDDDDDDDDDDDRRDDDDRDRRDDDRRDDDDDD"),
)
_MOST_MARKS = 3  # on one Arabic letter; a word with all its vowels has two
# The virama of Devanagari, Bengali, Gurmukhi, Gujarati, Oriya, Tamil, Telugu, Kannada, Malayalam
# and Sinhala (Indic_Syllabic_Category=Virama), and the blocks of these scripts.
_VIRAMA = "[\u094d\u09cd\u0a4d\u0acd\u0b4d\u0bcd\u0c4d\u0ccd\u0d4d\u0dca]"
_INDIC = f"(?!{_VIRAMA})[\u0900-\u0dff]"


def visible(text: str, *, lines: bool = True) -> str:
    """`text` with all that hides or misleads written out (V1-V5); the same text where nothing does.

    Without `lines`, what is for one line: newlines and tabs are written out too.
    """
    if text.isascii() and text.isprintable():
        return text
    if lines:
        text = text.replace("\r\n", "\n")
    kept = "\n\t" if lines else ""
    acting = {each for each in set(text) if _hides(each) and each not in kept}
    if not acting:
        return text
    if not acting.isdisjoint(_JUDGED):
        text = _judged(text)
        acting -= _JUDGED
    return text.translate({ord(each): written_out(each) for each in acting})


def written_out(character: str) -> str:
    """`character` as it is shown in place of itself."""
    code = ord(character)
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _hides(each: str) -> bool:
    """V1, V5; of the judged ones, that they may."""
    if each.isprintable():
        return each in HIDDEN
    return each not in _BLANKS and not (
        "\U0001f000" <= each <= "\U0001faff"
        or "\U00020000" <= each <= "\U0002fffd"
        or "\U00030000" <= each <= "\U0003fffd"
    )


def _judged(text: str) -> str:
    """`text` with each of the judged characters that is out of its place written out."""
    import re  # the command line does without, as long as no such character comes

    written = {each: written_out(each) for each in _JUDGED}
    return re.sub(_misplaced(), lambda found: written[found[0]], text)


def _misplaced() -> str:
    """The pattern of one that neither V2 nor V3 nor V4 lets stand."""
    based = "".join(
        f"{chr(int(first, 16))}-{chr(int(last or first, 16))}"
        for first, _, last in (run.partition("-") for run in _EMOJI_BASES.split())
    )
    emoji = f"[{based}\U0001f000-\U0001f1e5\U0001f200-\U0001faff]"  # but no letter of a flag
    marks = [_arabic("T") * count for count in range(_MOST_MARKS + 1)]
    joins = _arabic("DR")
    in_place = {
        "\ufe0f": (f"[{based}]\ufe0f", "[#*0-9]\ufe0f(?=\u20e3)"),
        "\u200c": (
            f"{_INDIC}{_VIRAMA}\u200c(?={_INDIC})",
            *(f"{_arabic('D')}{each}\u200c(?={joins})" for each in marks),
        ),
        "\u200d": (
            f"{emoji}\u200d(?={emoji})",
            f"[{based}]\ufe0f\u200d(?={emoji})",
            f"{_INDIC}{_VIRAMA}\u200d(?!{_VIRAMA})",
            f"{_INDIC}\u200d(?={_VIRAMA})",
        ),
    }
    return "|".join(
        each + "".join(f"(?<!{place})" for place in places) for each, places in in_place.items()
    )


def _arabic(kinds: str) -> str:
    """The class of the characters of Arabic script that have one of these Joining_Types."""
    found = (
        chr(start + at)
        for start, signs in _ARABIC
        for at, sign in enumerate(signs)
        if sign in kinds
    )
    return f"[{''.join(found)}]"
