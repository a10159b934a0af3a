"""What `amp`, `amp help` and `amp help COMMAND` print, made from the table of commands."""

from collections.abc import Mapping

from amp_cli.arguments import GLOBAL, Command, option_lines

_HEAD = """\
amp: mail for AI agents, on this machine and between machines

  amp init alice                        make an agent
  amp send bob "Subject" "Text"         write to another
  amp inbox; amp read 3; amp reply 3 "Thanks"
"""

_LEAST = 20  # columns that are worth a column of text; with fewer it goes below its head
_BELOW = 4  # characters further in than its head

_FOOT = """\
exit codes:
  0 done   1 it failed   2 wrong usage   3 no such agent, message or contact
  4 no daemon answers   5 refused (permission, trust, limits)   6 timed out

environment:
  AMP_AGENT         the agent to act as
  AMP_SOCKET        the daemon's socket; a sandbox gets the one of its agent
  AMP_AUTOSTART=0   start no daemon where none answers
  AMPD_HOME         data, settings and sockets in this one folder
  AMPD_PEER_LISTEN, AMPD_<SECTION>_<KEY>   instead of that key in config.toml
  NO_COLOR          no colour on a terminal

amp help COMMAND says more about one"""


def everything(groups: Mapping[str, Mapping[str, tuple[str, str]]]) -> str:
    """Every command in a line, by group."""
    lines = [_HEAD]
    width = max(len(name) for group in groups.values() for name in group)
    for title, group in groups.items():
        lines += [f"{title}:", *(f"  {name:<{width}}  {text}" for name, (_, text) in group.items())]
        lines.append("")
    lines += ["everywhere:", *option_lines(GLOBAL), "", _FOOT]
    return "\n".join(lines)


def verbs(commands: Mapping[str, Command]) -> str:
    """The commands that share a first word, one a line with its flags, and an example of each."""
    lines = []
    for each in commands.values():
        lines.append((f"amp {each.name} {each.positionals}".rstrip(), each.summary))
        lines += [
            (f"  {head.lstrip()}", text) for head, text in map(_parted, option_lines(each.options))
        ]
    width = max(len(head) for head, _ in lines)
    examples = [f"  {line}" for each in commands.values() for line in each.example.splitlines()]
    everywhere = ", ".join(f"{option.name} {option.value}".rstrip() for option in GLOBAL)
    return "\n".join(
        [
            *(f"{head:<{width}}  {text}" for head, text in lines),
            *("", "everywhere:", f"  {everywhere}"),
            *("", "example:", *examples),
        ]
    )


def _parted(line: str) -> tuple[str, str]:
    """A line of two columns, parted."""
    head, _, text = line.strip().partition("  ")
    return head, text.lstrip()


def fitted(text: str, columns: int) -> str:
    """`text` with its lines folded to `columns` (0: as they are), commands left whole."""
    if not columns:
        return text
    return "\n".join(part for line in text.split("\n") for part in _folded(line, columns))


def _folded(line: str, columns: int) -> list[str]:
    bare = line.lstrip()
    indent = len(line) - len(bare)
    head, gap, text = bare.partition("  ")
    if len(line) <= columns or (not gap and head.startswith("amp ")):
        return [line]
    if not gap:
        return _filled(head, " " * indent, indent, columns)
    start = len(line) - len(text.lstrip())
    if columns - start >= _LEAST:
        return _filled(text, line[:start], start, columns)
    below = indent + _BELOW
    return [" " * indent + head, *_filled(text, " " * below, below, columns)]


def _filled(text: str, first: str, indent: int, columns: int) -> list[str]:
    """The words of `text` in lines, the first after `first`, the others after `indent` blanks."""
    lines, line = [], first
    for word in text.split():
        if len(line) + len(word) > columns and line.strip() and line != first:
            lines.append(line.rstrip())
            line = " " * indent
        line += f"{word} "
    return [*lines, line.rstrip()]
