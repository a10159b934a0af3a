"""`amp check`: journal, index and signatures end to end; exit 1 where something is wrong."""

from amp_cli.arguments import Arguments, Command, Option
from amp_cli.client import Client
from amp_cli.document import Document
from amp_cli.errors import FAILED
from amp_cli.output import Output, counted

WITHIN = 3600.0  # seconds; a check reads everything there is


def check(arguments: Arguments, client: Client, out: Output) -> int:
    params: dict[str, object] = {"repair": True} if arguments.flag("--repair") else {}
    found = client.ask("journal.check", params, within=WITHIN)
    if out.json:
        out.document(found.value)
        return 0 if found.flag("ok") else FAILED
    if found.text("note"):
        out.note(found.text("note"))
    if found.flag("ok") and not found.each("damage"):
        out.said(f"{counted(found.number('records'), 'record')}, all whole")
        return 0
    word = "set aside" if found.flag("repaired") else "damage"
    count = found.number("records")
    out.said(f"{counted(count, 'record')} {'is' if count == 1 else 'are'} whole; {word}:")
    for each in found.each("damage"):
        out.line(f"  {damage(each)}")
    if not arguments.flag("--repair"):
        out.note("amp check --repair sets the damaged bytes aside; what is whole stays readable")
    return 0 if found.flag("ok") else FAILED


def damage(found: Document) -> str:
    """One damaged place in words."""
    place = found.text("segment")
    if found.number("bytes"):
        place += f" at byte {found.number('offset')}: {counted(found.number('bytes'), 'byte')}"
    ids = ", ".join(found.texts("ids"))
    word = "message" if len(found.texts("ids")) == 1 else "messages"
    reason = found.text("reason")
    return f"{place}{', ' * bool(reason)}{reason}{f', {word} ' * bool(ids)}{ids}"


COMMANDS = {
    "check": Command(
        "check",
        "",
        "verify journal, index and signatures; exit 1 where something is wrong",
        check,
        options=(Option("--repair", "", "set damaged bytes aside"),),
        example="amp check",
        as_agent=False,
    )
}
