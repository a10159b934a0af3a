"""What `amp`, `amp help` and `amp help COMMAND` print."""

from amp_cli.arguments import GLOBAL, help_text, option_lines
from amp_cli.main import GROUPS, find

_HEAD = """\
amp: mail for AI agents, on this machine and between machines

  amp init alice                        make an agent
  amp send bob "Subject" "Text"         write to another
  amp inbox; amp read 3; amp reply 3 "Thanks"
"""
_WITH_VERBS = ("contact", "daemon")  # commands whose first word says what to do


def help_for(words: list[str]) -> str:
    """The help of the command that `words` name, or the list of all; Usage if there is none."""
    if not words:
        return _everything()
    if words[0] in _WITH_VERBS and len(words) == 1:
        return _verbs(words[0])
    return help_text(find(words)[0])


def _everything() -> str:
    lines = [_HEAD]
    width = max(len(name) for group in GROUPS.values() for name in group)
    for title, group in GROUPS.items():
        lines += [f"{title}:", *(f"  {name:<{width}}  {text}" for name, (_, text) in group.items())]
        lines.append("")
    lines += ["everywhere:", *option_lines(GLOBAL), "", "amp help COMMAND says more about one"]
    return "\n".join(lines)


def _verbs(name: str) -> str:
    module = __import__(f"amp_cli.commands.{name}", fromlist=("COMMANDS",))
    commands = [each for each in module.COMMANDS.values() if each.name.startswith(f"{name} ")]
    heads = [f"amp {each.name} {each.positionals}".rstrip() for each in commands]
    if name == "daemon":
        heads.append("amp daemon install")
    summaries = [*(each.summary for each in commands), "put the systemd user units in place"]
    width = max(map(len, heads))
    return "\n".join(
        f"{head:<{width}}  {text}" for head, text in zip(heads, summaries, strict=False)
    )
