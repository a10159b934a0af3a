"""What an injection attempt looks like: rules on words, for the eight categories of AMP. Pure.

A rule (core/phrases.py) names word classes and the most words that may stand between them, as in
"IGNORE 3 PRIOR 3 RULES"; a word in small letters stands for itself, `|` for a choice. Each word
that a rule knows becomes one character and every other a blank, so a rule is a regular expression
with short bounded gaps over that string: a few steps a word, whatever the text says. Patterns that
are no words (commands, chat markup) are looked for in the folded text, with possessive repeats.

  Q1  Each rule begins with its alarm, the element with the fewest common words: only a rule whose
      alarm and other elements all have a word in the text is searched for. Most texts are done
      after a few set tests.
  Q2  Of more than MAX_KNOWN known words only the first and the last are judged.
  Q3  What a text says in disguise (core/unmasking.py) counts, and so does the disguise.

Not here: what is done with the answer, which is advice (core/safety.py).
"""

import re
from collections.abc import Iterable, Sequence
from functools import cache
from itertools import repeat
from typing import Final, NamedTuple

from ampd.core.phrases import CLASSES, RULES
from ampd.core.unmasking import DISGUISED, encoded, excerpt, folded, hiding, readings, tricked

MAX_KNOWN: Final = 3072  # 64 KiB of prose has about 2,500
MAX_READING: Final = 16_384  # characters of one decoded text: readings multiply
MAX_DEPTH: Final = 2  # an encoding inside an encoding, no deeper

# What is no rule on words, looked for in a folded text that has the word. Each begins with a letter
# or a sign of its own, so that the search skips to it.
_SAYS: Final = (
    r"\s{0,2}+[:>\]]\s{0,4}+(?:you|your|ignore|the\suser|this\suser|user|grant|call|new|override"
    r"|disregard|cleanup|all|from\snow|disable|reveal|forget|execute|output|print|send|respond)\b"
)
_ROLE: Final = r"(?:\s(?:note|notice|message|prompt|override|update|alert|command))?+\]?" + _SAYS
_PIPED: Final = (
    r"\s[^\n|]{0,120}+\|\s{0,4}+(?:sudo\s{1,4}+)?+(?:(?:ba|z|da)?+sh|python3?|perl|node)\b"
)
_WIPED: Final = r"\s{1,4}+-(?:rf|fr)\s{1,4}+[\"']?+(?:/|~|\$home)[\"'*/]{0,3}+(?:$|[\s;&|`)])"
_TOOL: Final = (
    r"\s{1,4}+(?:the\s{1,4}+)?+[\"'`]?+(?:send|fetch|delete|http|post|forward|transfer|execute|share|remove"
    r"|drop|upload)_[a-z_]{2,30}+(?!\()"
)
_TAG: Final = r"<\|?/?(?:system|thinking|instructions?|assistant)(?:_prompt)?+\|?>"
_FENCE: Final = (
    r"##[#]{0,6}+\s{0,4}+(?:end|begin|new|system)\b[^#\n]{0,40}?(?:input|instruction|prompt|user)"
)
_SHAPES: Final = {
    b"curl": ("command_injection", "curl" + _PIPED),
    b"wget": ("command_injection", "wget" + _PIPED),
    b"rm": ("command_injection", "rm" + _WIPED),
    b"drop": ("command_injection", r";\s{0,4}+drop\s{1,4}+(?:table|database)\b"),
    b"os": ("command_injection", r"import\s{1,4}+os\s{0,4}+;\s{0,4}+os\."),
    b"import": ("command_injection", r"__import__\(\s{0,4}+['\"](?:os|subprocess)['\"]"),
    b"config": ("command_injection", r"\{\{\s{0,4}+config\b[^}\n]{0,60}+\}\}"),
    b"env": ("command_injection", r"\$\{\s{0,4}+env[.:][^}\n]{0,60}+\}"),
    b"call": ("tool_abuse", "call" + _TOOL),
    b"invoke": ("tool_abuse", "invoke" + _TOOL),
    b"send": ("tool_abuse", r"us(?:e|ing)" + _TOOL),
    b"delete": ("tool_abuse", r"us(?:e|ing)" + _TOOL),
    b"http": ("tool_abuse", r"us(?:e|ing)" + _TOOL),
    b"system": ("instruction_override", "system" + _ROLE),
    b"admin": ("instruction_override", "admin" + _ROLE),
    b"developer": ("instruction_override", "developer" + _ROLE),
    b"root": ("instruction_override", "root" + _ROLE),
    b"assistant": ("instruction_override", _TAG),
    b"thinking": ("instruction_override", _TAG),
    b"instructions": ("instruction_override", _TAG),
    b"input": ("instruction_override", _FENCE),
    b"prompt": ("instruction_override", _FENCE),
    b"im": ("instruction_override", r"<\|im_(?:start|end)\|>"),
    b"inst": ("instruction_override", r"\[/?+inst\]"),
    b"sys": ("instruction_override", r"<</?+sys>>"),
    b"eval": ("command_injection", r"eval\(\s{0,4}+['\"][^'\"\n]{4,80}+['\"]\s{0,4}+\)"),
    b"endoftext": ("instruction_override", r"<\|endoftext\|>"),
    b"systemhinweis": ("instruction_override", r"systemhinweis\s{0,2}+:"),
    b"sistema": ("instruction_override", r"nota\sd(?:i|el)\ssistema\s{0,2}+:"),
    b"systeme": ("instruction_override", r"note\ssysteme\s{0,2}+:"),
}

# Too frequent in ordinary mail to begin a search with (Q1).
_COMMON: Final = frozenset(
    b"a about access all and any are as at be before can code content data do don each email "
    b"en every everything file files first for from has have i if in is it la le list m mail "
    b"me message my new no not of off on one only or original per previous print prior re s "
    b"send show system t task test text that the then this to u un una use user users using we "
    b"what when which with without you your error request question input any add must should "
    b"note start end begin include 1 2 model job es tu de si ton su sus tus vos ta tes te run "
    b"forward output".split()
)


class _Rule(NamedTuple):
    category: str
    alarm: frozenset[str]  # of these characters one must be there (Q1)
    needed: tuple[frozenset[str], ...]  # and of each of these sets: cheaper than a search
    pattern: str


class _Alphabet:
    """One character for all known words that stand in the same classes."""

    def __init__(self, classes: dict[str, str], rules: Iterable[str]) -> None:
        members = {name: frozenset(words.split()) for name, words in classes.items()}
        names = {name for rule in rules for part in rule.split() for name in part.split("|")}
        self._members = members | {name: frozenset([name]) for name in names if name.islower()}
        holders: dict[str, list[str]] = {}
        for name, words in self._members.items():
            for word in words:
                holders.setdefault(word, []).append(name)
        letters: dict[tuple[str, ...], str] = {}
        self._of_word: dict[bytes, str] = {}
        self._of_class: dict[str, set[str]] = {"EMAILADDRESS": {"@"}}
        for word, found in holders.items():
            letter = letters.setdefault(tuple(found), chr(0x4E00 + len(letters)))
            self._of_word[word.encode()] = letter
            for name in found:
                self._of_class.setdefault(name, set()).add(letter)

    def spelled(self, blanked: bytes, words: Sequence[bytes]) -> str:
        """One character a word: its own, "@" for an e-mail address, or a blank (Q2)."""
        text = "".join(map(self._of_word.get, words, repeat(" ")))
        if b"@" in blanked:
            pairs = zip(text, words, strict=True)
            text = "".join(["@" if word.find(b"@") > 0 else letter for letter, word in pairs])
        if len(text) - text.count(" ") > MAX_KNOWN:
            return f"{text[: MAX_KNOWN // 2]}{' ' * 16}{text[-MAX_KNOWN // 2 :]}"
        return text

    def letters(self, blanked: bytes, words: frozenset[bytes]) -> frozenset[str]:
        """At least the characters that `spelled` has for `words`, of the text `blanked`."""
        found = [self._of_word[word] for word in self._of_word.keys() & words]
        return frozenset([*found, "@"] if b"@" in blanked else found)

    def compiled(self, category: str, rule: str) -> _Rule:
        elements, pattern = [], ""
        for part in rule.split():
            if part.isdecimal():
                pattern += f".{{0,{part}}}"
            else:
                letters = frozenset[str]().union(*(self._of_class[n] for n in part.split("|")))
                elements.append((self._frequency(part), letters))
                pattern += f"[{''.join(sorted(letters))}]"
        _, alarm = min(elements, key=lambda element: element[0])
        return _Rule(category, alarm, tuple(letters for _, letters in elements), pattern)

    def _frequency(self, part: str) -> tuple[int, int]:
        """How many of an element's words are common, and how many there are (Q1)."""
        words = frozenset().union(*(self._members.get(name, {"@"}) for name in part.split("|")))
        return len(_COMMON & {word.encode() for word in words}), len(words)


@cache
def _compiled(pattern: str) -> re.Pattern[str]:
    """Compiled when first needed: all of them at once would cost a start 60 ms."""
    return re.compile(pattern)


def _lines(rules: str) -> list[str]:
    return [line.strip() for line in re.sub(r"\|\s+", "|", rules).splitlines() if line.strip()]


CATEGORIES: Final = tuple(sorted(RULES))
_BLANKED: Final = bytes(c if chr(c).isalnum() or c == 64 else 32 for c in range(128)) + b" " * 128
_LOWERED: Final = _BLANKED.lower()
_ALPHABET: Final = _Alphabet(CLASSES, [rule for rules in RULES.values() for rule in _lines(rules)])
_COMPILED: Final = tuple(
    _ALPHABET.compiled(category, rule)
    for category, rules in RULES.items()
    for rule in _lines(rules)
)
_BY_ALARM: Final = {
    letter: tuple(rule for rule in _COMPILED if letter in rule.alarm)
    for letter in frozenset[str]().union(*(rule.alarm for rule in _COMPILED))
}


def found_in(texts: Iterable[str]) -> tuple[str, ...]:
    """The sorted categories found in any of `texts`."""
    found: set[str] = set()
    for text in filter(None, texts):
        _judge(excerpt(text), found, 0, {})
    return tuple(sorted(found))


def _judge(text: str, found: set[str], depth: int, judged: dict[str, int]) -> None:
    judged[text] = depth
    plain = folded(text)
    blanked = plain.encode().translate(_LOWERED)
    words = blanked.split()
    vocabulary = frozenset(words)
    _match(plain, blanked, words, vocabulary, found)
    hides = hiding(text) or encoded(text, blanked, vocabulary)
    if not hides and DISGUISED.isdisjoint(vocabulary):
        return
    if tricked(text):
        found.add("unicode_encoding_tricks")
    if depth < MAX_DEPTH:
        _unmask(text, vocabulary, found, depth, judged)


def _unmask(
    text: str, words: frozenset[bytes], found: set[str], depth: int, judged: dict[str, int]
) -> None:
    for reading in readings(text, words):
        shortened = reading[:MAX_READING]
        if judged.get(shortened, MAX_DEPTH + 1) <= depth + 1:  # as leet of leet, which is leet
            continue
        hidden: set[str] = set()
        _judge(shortened, hidden, depth + 1, judged)
        if hidden - found:
            found |= hidden | {"instruction_override", "unicode_encoding_tricks"}


def _match(
    plain: str, blanked: bytes, words: list[bytes], vocabulary: frozenset[bytes], found: set[str]
) -> None:
    present = _ALPHABET.letters(blanked, vocabulary)
    due = [
        rule
        for letter in present & _BY_ALARM.keys()
        for rule in _BY_ALARM[letter]
        if not any(map(present.isdisjoint, rule.needed))
    ]
    spelled = _ALPHABET.spelled(blanked, words) if due else ""
    for rule in due:
        if rule.category not in found and _compiled(rule.pattern).search(spelled):
            found.add(rule.category)
    for word in _SHAPES.keys() & vocabulary:
        category, shape = _SHAPES[word]
        if category not in found and _compiled(shape).search(plain):
            found.add(category)
