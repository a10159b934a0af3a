"""What a text says once its disguise is taken off: folded to plain letters, or decoded. Pure.

`folded` undoes what Unicode can do to a letter: case, width, fonts, accents, lookalikes of other
scripts, characters that are not seen. `readings` gives what a text hides in an encoding that a
model reads as easily as plain text: base64, base32, hex, percent, backslash and character
references, tag characters, rot13, reversed, leet, spaced letters, binary and Morse.

  U1  Of a text over MAX_SCANNED characters (half as many if it is not ASCII) the beginning and
      the end are looked at.
  U2  Each step is linear: repeats are possessive, and at most MAX_RUNS runs are decoded.

Not here: which words matter (core/phrases.py), and what they mean (core/patterns.py).
"""

import base64
import binascii
import html
import re
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import product
from typing import Final
from urllib.parse import unquote

MAX_SCANNED: Final = 65_536  # characters; keeps the worst text near 50 ms
MAX_RUNS: Final = 32  # encoded runs decoded in one text; honest mail has a few hashes

# Words that no injection does without, and that other words rarely look like when disguised.
TELLTALES: Final = (
    "ignore",
    "disregard",
    "previous",
    "instructions",
    "instruction",
    "system",
    "prompt",
    "reveal",
    "override",
    "forget",
    "password",
)

_LEET: Final = {"a": "4@", "e": "3", "i": "1!", "o": "0", "s": "5$", "t": "7", "g": "9"}
_UNLEET: Final = str.maketrans("4310579@$!|", "aeiostgasii")
_ROT13: Final = str.maketrans(
    "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ",
    "nopqrstuvwxyzabcdefghijklmNOPQRSTUVWXYZABCDEFGHIJKLM",
)

# Letters of other scripts that are drawn like a Latin one (NFKD leaves them as they are).
_LOOKALIKES: Final[dict[str, str]] = (
    dict(
        zip(
            "\u0430\u0435\u043e\u0440\u0441\u0443\u0445\u0456\u0458\u0455\u04bb\u051b\u051d\u0501\u043a\u043c"
            "\u0442\u043d\u0432\u0410\u0412\u0415\u041a\u041c\u041d\u041e\u0420\u0421\u0422\u0423\u0425\u0406"
            "\u0408\u0405\u03b1\u03b5\u03b9\u03bf\u03c1\u03c5\u03bd\u03ba\u03c4\u03c7\u03b7\u0391\u0392\u0395"
            "\u0396\u0397\u0399\u039a\u039c\u039d\u039f\u03a1\u03a4\u03a5\u03a7\u0131\u0237\u0261\u0251\u1d00"
            "\u0299\u1d04\u1d05\u1d07\ua730\u0262\u029c\u026a\u1d0a\u1d0b\u029f\u1d0d\u0274\u1d0f\u1d18\u0280"
            "\ua731\u1d1b\u1d1c\u1d20\u1d21\u028f\u1d22\u0578\u057d\u0585\u0581\u0570\u0566\u0269\u04cf\u0279"
            "\u00f8\u0142\u0111\u0127\u00df\u2024\u2010\u2011\u2019",
            "aeopcyxijshqwdkm"
            + "thbabekmhopctyxi"
            + "jsaeiopuvktxnabe"
            + "zhikmnoptyxijgaa"
            + "bcdefghijklmnopr"
            + "stuvwyznsoghzilr"
            + "oldhs.--'",
            strict=True,
        )
    )
    | {chr(0x1F150 + i): chr(97 + i) for i in range(26)}
    | {chr(0x1F170 + i): chr(97 + i) for i in range(26)}
    | {chr(0x1F1E6 + i): chr(97 + i) for i in range(26)}
)
_UNSEEN: Final = (
    "\xad\u0300-\u036f\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e"
    "\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0\U000e0000-\U000e0fff"
)
_DROPPED: Final = re.compile(f"[{_UNSEEN}]+")
_HIDING: Final = re.compile(f"[{_UNSEEN}\u0430-\u0458\u03b1-\u03c9]")  # one char of any of _TRICKS
# Unseen characters inside a Latin word, text direction overridden, and words of mixed scripts.
_TRICKS: Final = re.compile(
    "[A-Za-z][\xad\u034f\u180e\u200b-\u200f\u2060-\u2064\ufeff]++[A-Za-z]|[\u202d\u202e\U000e0020-\U000e007e]"
    "|[A-Za-z]{2}[\u0430-\u0458\u03b1-\u03c9]|[A-Za-z][\u0430-\u0458\u03b1-\u03c9][A-Za-z]"
    "|[\u0430-\u0458\u03b1-\u03c9][A-Za-z]{2}"
)
_TAGS: Final = re.compile("[^\U000e0020-\U000e007e]+")

_RUN: Final = re.compile(r"(?<![A-Za-z0-9+/_-])[A-Za-z0-9+/_-]{20,}+={0,6}+")
_NO_BASE32: Final = re.compile("[^A-Z2-7]")
_LONG_RUN: Final = 20  # characters: fifteen bytes in base64, too short to say anything
_PERCENT: Final = re.compile(r"%[0-9A-Fa-f]{2}")
_ESCAPE: Final = re.compile(r"\\(?:u\{?([0-9A-Fa-f]{4,6}+)\}?|x([0-9A-Fa-f]{2})|([0-3][0-7]{2}))")
_BINARY: Final = re.compile(r"(?:[01]{8}[\s,]{0,2}+){6,}+")
_HEX_PAIRS: Final = re.compile(
    r"(?<!\w)(?:(?:0x)?+[0-9A-Fa-f]{2}[\s:,]{1,2}+){8,}+(?:[0-9A-Fa-f]{2})?+"
)
_MORSE: Final = re.compile(r"(?:[.\-]{1,6}+[ /|]{1,3}+){12,}+[.\-]{0,6}+")
_SPACED: Final = re.compile(r"(?<=(?<![^\W_])[^\W_])[ .\-_*|]{1,2}+(?=[^\W_](?![^\W_]))")

_PRINTABLE: Final = bytes([9, 10, 13, *range(32, 127)])
_MORSE_SIGNS: Final = (
    b".- -... -.-. -.. . ..-. --. .... .. .--- -.- .-.. -- -. --- .--. --.- .-. ... - ..- ...- .-- "
    b"-..- -.-- --.."
)
_MORSE_CODE: Final = {sign.decode(): chr(97 + i) for i, sign in enumerate(_MORSE_SIGNS.split())}


def _disguises(word: str) -> Iterator[str]:
    """`word` as rot13, reversed, and in leet with up to three letters changed."""
    yield word.translate(_ROT13)
    yield word[::-1]
    for letters in product(*((c, *_LEET.get(c, "")) for c in word)):
        changed = "".join(letters)
        if changed != word and changed.isalnum():
            yield changed


DISGUISED: Final = frozenset(
    form.encode() for word in TELLTALES for form in _disguises(word) if len(form) > 5
)
_ROTATED: Final = frozenset(word.translate(_ROT13).encode() for word in TELLTALES)
_REVERSED: Final = frozenset(word[::-1].encode() for word in TELLTALES)


def excerpt(text: str) -> str:
    """`text`, or of a long one its beginning and its end (U1)."""
    limit = MAX_SCANNED if text.isascii() else MAX_SCANNED // 2
    if len(text) <= limit:
        return text
    half = limit // 2
    return f"{text[:half]}\n{text[-half:]}"


def folded(text: str) -> str:
    """`text` in lower-case ASCII, as a reader takes it; what has no such form is a blank."""
    if text.isascii():
        return text.lower()
    for mark, plain in _MARKS.items():
        text = text.replace(mark, plain)
    if "\xad" not in text:
        with suppress(UnicodeEncodeError):
            return text.encode("latin-1").translate(_LATIN).decode("ascii")
    return _folded(text)


def _folded(text: str) -> str:
    plain = unicodedata.normalize("NFKD", _DROPPED.sub("", text))[:MAX_SCANNED]
    plain = _DROPPED.sub("", plain)
    for letter in _LOOKALIKES.keys() & set(plain):  # translate() would take four times as long
        plain = plain.replace(letter, _LOOKALIKES[letter])
    return plain.casefold().encode("ascii", "replace").decode().replace("?", " ")


# What `_folded` makes of the marks that programs set in European text, and of each character of
# Latin-1; of one that becomes several (a fraction), a blank. Most mail is folded by these two
# alone, in a few microseconds.
_MARKS: Final = {mark: _folded(mark) for mark in "\u2013\u2014\u2018\u2019\u201c\u201d\u2026\u2022"}
_LATIN: Final = bytes(range(128)).lower() + bytes(
    ord(plain) if len(plain := _folded(chr(code))) == 1 else 32 for code in range(128, 256)
)


def hiding(text: str) -> bool:
    """Whether `tricked`, or what `readings` finds only in other scripts, is possible at all."""
    return not text.isascii() and _HIDING.search(text) is not None


def tricked(text: str) -> bool:
    """Whether `text` hides letters: unseen, of another script, or in a direction of their own."""
    return hiding(text) and _TRICKS.search(text) is not None


def readings(text: str, words: frozenset[bytes]) -> Iterator[str]:
    """What `text`, whose folded words are `words`, may say besides: each decoded text once."""
    if "%" in text and _PERCENT.search(text):
        yield unquote(text)
    if "\\" in text and _ESCAPE.search(text):
        yield _ESCAPE.sub(_unescaped, text)
    if "&#" in text or "&lt" in text:
        yield html.unescape(text)
    if not text.isascii():
        yield _TAGS.sub(" ", text).translate({0xE0000 + c: c for c in range(32, 127)})
    yield from _spelled(text)
    yield from _disguised(text, words)
    for index, run in enumerate(_RUN.finditer(text)):
        if index == MAX_RUNS:
            return
        yield from _decoded(run[0])


def encoded(text: str, blanked: bytes, words: frozenset[bytes]) -> bool:
    """Whether `readings` might give anything of a text not `hiding`: may say yes in vain."""
    return (
        max(map(len, words), default=0) >= _LONG_RUN
        or "%" in text
        or "\\" in text
        or "&#" in text
        or ".-" in text
        or b"0110" in blanked
        or b"6e" in words
        or (b"e" in words and b" r e " in blanked)
        or (b"t" in words and b" s t " in blanked)
    )


def _spelled(text: str) -> Iterator[str]:
    """Texts of single letters, bits, pairs of hex digits, dots and dashes."""
    if _SPACED.search(text):
        yield _SPACED.sub("", text)
    if ".-" in text:
        for found in _MORSE.finditer(text):
            yield "".join(_MORSE_CODE.get(sign, " ") for sign in re.split(r" |(?=[/|])", found[0]))
    if "0110" in text:
        for found in _BINARY.finditer(text):
            bits = re.sub(r"[\s,]", "", found[0])
            yield int(bits, 2).to_bytes(len(bits) // 8).decode("latin-1")
    if "6e" in text or "6E" in text:
        for found in _HEX_PAIRS.finditer(text):
            digits = re.sub(r"0x|[\s:,]", "", found[0])
            yield bytes.fromhex(digits).decode("latin-1")


def _disguised(text: str, words: frozenset[bytes]) -> Iterator[str]:
    if not _ROTATED.isdisjoint(words):
        yield text.translate(_ROT13)
    if not _REVERSED.isdisjoint(words):
        yield text[::-1]
    if not DISGUISED.isdisjoint(words) or "@" in text or "$" in text:
        yield text.lower().translate(_UNLEET)


def _unescaped(match: re.Match[str]) -> str:
    code = int(match[1] or match[2], 16) if match[1] or match[2] else int(match[3], 8)
    return chr(code) if code < 0x110000 else ""


def _decoded(run: str) -> Iterator[str]:
    """The texts that `run` is the base64, base32 or hex of."""
    ways: tuple[Callable[[str], bytes], ...] = (bytes.fromhex, _from_base64, _from_base32)
    for way in ways:
        try:
            data = way(run)
        except (ValueError, binascii.Error):
            continue
        if len(data.translate(None, _PRINTABLE)) <= len(data) // 10:
            yield data.decode("latin-1")
            return


def _from_base64(run: str) -> bytes:
    digits = run.rstrip("=").replace("-", "+").replace("_", "/")
    return base64.b64decode(digits[: len(digits) - (len(digits) % 4 == 1)] + "==", validate=False)


def _from_base32(run: str) -> bytes:
    digits = run.rstrip("=").upper()
    if _NO_BASE32.search(digits):  # looked at first: the library takes ten times as long to say no
        raise ValueError("not base32")
    return base64.b32decode(digits + "=" * (-len(digits) % 8))
