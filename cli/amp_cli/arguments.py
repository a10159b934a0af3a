"""The words of a command line: one table for a command makes its parser and its help text.

A Command lists its positionals ("NAME", "[NAME]", "[NAME]...") and its Options; `parse` sorts the
words into Arguments, whose accessors convert and check one value each. Rules:

  A1  Options stand anywhere; GLOBAL ones also before the command. `--name VALUE` and
      `--name=VALUE` are the same; `--` ends the options.
  A2  A word is an option only if it looks like one: `--letters`, or `-x`. A message that begins
      with a dash, "- first item", is a message.
  A3  A known option is never taken for another one's value: `--text --wait` is an error;
      `--text=--wait` says it all the same.
  A4  Whatever is wrong is a Usage error (exit 2) that names the word, and the nearest known one.

argparse would do this too; importing it costs more than everything else `amp` does.
"""

from _collections_abc import (
    Callable,
    Iterable,
    Sequence,
)  # `collections.abc` would import all of `collections`

from amp_cli.errors import Usage
from amp_cli.json_text import loads


class Option:
    """One flag. `value` is its placeholder ("" for none, "[X]" for one that may be left out)."""

    __slots__ = ("help", "many", "name", "value")

    def __init__(self, name: str, value: str, text: str, *, many: bool = False) -> None:
        self.name = name
        self.value = value
        self.help = text
        self.many = many


GLOBAL = (
    Option("--agent", "NAME", "act as this agent (or AMP_AGENT)"),
    Option("--json", "", "one JSON document on standard output, nothing else"),
    Option("--quiet", "", "no prose"),
    Option("--socket", "PATH", "the daemon's socket (or AMP_SOCKET)"),
    Option("--version", "", "print the version"),
    Option("--help", "", "print this help"),
)
_SHORT = {"-h": "--help", "-q": "--quiet"}


class Command:
    """What one command takes, and the function that does it."""

    __slots__ = ("as_agent", "example", "name", "options", "positionals", "run", "summary")

    def __init__(
        self,
        name: str,
        positionals: str,
        summary: str,
        run: Callable[..., int],
        *,
        options: Sequence[Option] = (),
        example: str = "",
        as_agent: bool = True,
    ) -> None:
        self.name = name
        self.positionals = positionals
        self.summary = summary
        self.run = run
        self.options = options
        self.example = example
        self.as_agent = as_agent  # False: it is about the node, whoever asks


class Arguments:
    """The words of one command line, sorted."""

    def __init__(self) -> None:
        self.words: list[str] = []
        self._given: dict[str, list[str]] = {}

    def add(self, name: str, value: str) -> None:
        self._given.setdefault(name, []).append(value)

    def flag(self, name: str) -> bool:
        return name in self._given

    def texts(self, name: str) -> list[str]:
        return self._given.get(name, [])

    def text(self, name: str) -> str | None:
        values = self._given.get(name)
        return values[-1] if values else None

    def number(self, name: str, *, least: int = 1) -> int | None:
        """A whole number of at least `least`."""
        value = self.text(name)
        if value is None:
            return None
        if not (value.isascii() and value.isdigit() and int(value) >= least):
            raise Usage(f"{name} takes a whole number from {least} up, not {value!r}")
        return int(value)

    def seconds(self, name: str) -> float | None:
        """A duration: 30, 30s, 10m, 2h or 7d."""
        value = self.text(name)
        if value is None:
            return None
        seconds = duration(value)
        if seconds is None:
            raise Usage(f"{name} takes a duration such as 30s, 10m, 2h or 7d, not {value!r}")
        return seconds

    def document(self, name: str) -> object:
        """JSON; None where the option is not there."""
        value = self.text(name)
        if value is None:
            return None
        try:
            return loads(value)
        except ValueError as exc:
            raise Usage(
                f"{name} takes JSON: {exc}", hint=f"""{name} '{{"key": "value"}}'"""
            ) from None


_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def duration(text: str) -> float | None:
    """The seconds that `text` means; None if it means none."""
    unit = _UNITS.get(text[-1:])
    digits = text[:-1] if unit else text
    whole, point, part = digits.partition(".")
    if not (digits.isascii() and whole.isdigit() and (part.isdigit() if point else True)):
        return None
    if len(whole) > 9:  # thirty years: beyond it somebody mistyped
        return None
    return float(digits) * (unit or 1)


def parse(command: Command, words: Iterable[str], into: Arguments | None = None) -> Arguments:
    """Sort `words`; Usage if they do not fit. Nothing is checked after --help."""
    arguments = into or Arguments()
    options = {option.name: option for option in (*GLOBAL, *command.options)}
    rest = list(words)
    rest.reverse()
    while rest:
        word = rest.pop()
        if word == "--":
            arguments.words += reversed(rest)
            break
        if not looks_like_option(word):
            arguments.words.append(word)
            continue
        name, equals, value = word.partition("=")
        name = _SHORT.get(name, name)
        option = options.get(name)
        if option is None:
            raise _unknown_option(name, command, options)
        arguments.add(name, _value(option, equals, value, rest, options))
    _check_once(arguments, options)
    if not arguments.flag("--help"):
        _count(command, arguments.words)
    return arguments


def looks_like_option(word: str) -> bool:
    """A2."""
    if word.startswith("--"):
        name = word.partition("=")[0][2:]
        return name.replace("-", "").isalnum() and name[:1] != "-"
    return len(word) > 1 and word[0] == "-" and word[1].isalpha() and word[1:].isalnum()


def _value(
    option: Option, equals: str, value: str, rest: list[str], options: dict[str, Option]
) -> str:
    if not option.value:
        if equals:
            raise Usage(f"{option.name} takes no value, but got {value!r}")
        return ""
    if equals:
        return value
    if option.value.startswith("["):
        return rest.pop() if rest and duration(rest[-1]) is not None else ""
    if not rest:
        raise Usage(f"{option.name} needs a value: {option.name} {option.value}")
    if rest[-1] in options:  # A3
        raise Usage(
            f"{option.name} needs a value, but {rest[-1]} follows",
            hint=f"{option.name}={rest[-1]} if that is the value",
        )
    return rest.pop()


def _check_once(arguments: Arguments, options: dict[str, Option]) -> None:
    for name, option in options.items():
        if option.value and not option.many and len(arguments.texts(name)) > 1:
            raise Usage(f"{name} is given more than once")


def _count(command: Command, words: list[str]) -> None:
    names = command.positionals.split()
    needed = [name for name in names if not name.startswith("[") or name.endswith("+")]
    if len(words) < len(needed):
        missing = needed[len(words)].removesuffix("...")
        raise Usage(f"amp {command.name}: {missing} is missing", hint=f"amp help {command.name}")
    endless = bool(names) and names[-1].endswith("...")
    if len(words) > len(names) and not endless:
        extra = words[len(names)]
        quotes = " (a text goes into quotes)" if names else ""
        count = "1 word" if len(names) == 1 else f"{len(names) or 'no'} words"
        raise Usage(
            f"amp {command.name} takes {count}, {extra!r} is one too many{quotes}",
            hint=f"amp help {command.name}",
        )


def _unknown_option(name: str, command: Command, options: Iterable[str]) -> Usage:
    close = nearest(name, options)
    hint = f"did you mean {close}?" if close else f"amp help {command.name}".rstrip()
    where = f"amp {command.name}".rstrip()
    return Usage(f"{where} has no flag {name}", hint=hint)


def nearest(word: str, known: Iterable[str]) -> str:
    """The known word that was probably meant, or ""."""
    from difflib import get_close_matches

    return next(iter(get_close_matches(word, list(known), 1, 0.6)), "")


def help_text(command: Command) -> str:
    """What `amp COMMAND --help` prints."""
    flags = " [FLAGS]" if command.options else ""
    words = f" {command.positionals}" if command.positionals else ""
    lines = [f"amp {command.name}{words}{flags}", f"  {command.summary}"]
    for title, options in (("flags", command.options), ("everywhere", GLOBAL)):
        if options:
            lines += ["", f"{title}:", *option_lines(options)]
    if command.example:
        lines += ["", "example:", *(f"  {line}" for line in command.example.splitlines())]
    return "\n".join(lines)


def option_lines(options: Sequence[Option]) -> list[str]:
    heads = [f"{option.name} {option.value}".rstrip() for option in options]
    width = max(map(len, heads), default=0)
    return [
        f"  {head:<{width}}  {option.help}{' (repeatable)' if option.many else ''}"
        for head, option in zip(heads, options, strict=True)
    ]
