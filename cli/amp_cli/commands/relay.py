"""`amp relay`: the relays that keep this node's mail while it is away; a method of the socket each.

Each prints the relays that are in use after it, in the order in which they are tried.
"""

from amp_cli.arguments import Arguments, Command
from amp_cli.client import Client
from amp_cli.commands.directory import condition, waiting
from amp_cli.output import Output

# verb -> (words, parameters of relay.VERB, what it does)
_VERBS = {
    "add": ("URI", ("uri",), "use a relay, by the URI that its owner gave"),
    "list": ("", (), "the relays in use, in order, and how they are"),
    "remove": ("URI", ("uri",), "use a relay no more"),
}


def run(arguments: Arguments, client: Client, out: Output, verb: str) -> int:
    params: dict[str, object] = dict(zip(_VERBS[verb][1], arguments.words, strict=True))
    found = client.ask(f"relay.{verb}", params)
    if out.json:
        out.document(found.value)
        return 0
    relays = found.each("relays")
    if verb != "list" and out.quiet:
        return 0
    if relays:
        rows = [
            (each.text("uri"), each.text("state"), waiting(each), condition(each))
            for each in relays
        ]
        out.listing(rows, [row[0] for row in rows])
    else:
        out.said("no relays")
        out.note("amp relay add URI uses one; its owner's `ampd relay invite` prints the URI")
    return 0


def _command(verb: str) -> Command:
    words, _, summary = _VERBS[verb]
    example = f"amp relay {verb}" + " 'amp://KEY@relay.example:4161'" * bool(words)
    return Command(
        f"relay {verb}",
        words,
        summary,
        lambda arguments, client, out: run(arguments, client, out, verb),
        example=example,
        as_agent=False,
    )


COMMANDS = {f"relay {verb}": _command(verb) for verb in _VERBS}
