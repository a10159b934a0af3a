"""What `amp`, `amp help` and `amp help COMMAND` print, made from the table of commands."""

from collections.abc import Mapping

from amp_cli.arguments import GLOBAL, Command, option_lines

_HEAD = """\
amp: mail for AI agents, on this machine and between machines

  amp init alice                        make an agent
  amp send bob "Subject" "Text"         write to another
  amp inbox; amp read 3; amp reply 3 "Thanks"
"""

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
    """The commands that share a first word, one a line."""
    heads = [f"amp {each.name} {each.positionals}".rstrip() for each in commands.values()]
    width = max(map(len, heads))
    return "\n".join(
        f"{head:<{width}}  {each.summary}"
        for head, each in zip(heads, commands.values(), strict=True)
    )
