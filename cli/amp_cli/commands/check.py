"""`amp check`: journal, index and signatures end to end; exit 1 where something is wrong."""

from amp_cli.arguments import Arguments, Command, Option
from amp_cli.client import Client
from amp_cli.document import Document
from amp_cli.errors import FAILED
from amp_cli.output import Output

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
        out.said(f"{found.number('records')} records, all whole")
        return 0
    word = "set aside" if found.flag("repaired") else "damage"
    out.said(f"{found.number('records')} records are whole; {word}:")
    for each in found.each("damage"):
        out.line(f"  {damage(each)}")
    if not arguments.flag("--repair"):
        out.note("amp check --repair sets the damaged bytes aside; what is whole stays readable")
    return 0 if found.flag("ok") else FAILED


def damage(found: Document) -> str:
    """One damaged place in words."""
    place = found.text("segment")
    if found.number("bytes"):
        place += f" at byte {found.number('offset')}: {found.number('bytes')} bytes"
    ids = ", ".join(found.texts("ids"))
    reason = found.text("reason")
    return f"{place}{', ' * bool(reason)}{reason}{', messages ' * bool(ids)}{ids}"


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
