"""`amp ack` and `amp delete`: what is done with, and what should be gone."""

from amp_cli.arguments import Arguments, Command, Option
from amp_cli.client import Client
from amp_cli.document import Document
from amp_cli.errors import Usage
from amp_cli.output import Output, counted


def ack(arguments: Arguments, client: Client, out: Output) -> int:
    everything = arguments.flag("--all")
    if everything == bool(arguments.words):
        raise Usage("amp ack takes either IDs or --all", hint="amp ack 3 4")
    params: dict[str, object] = {"all": True} if everything else {"ids": arguments.words}
    return _done(client.ask("message.ack", params), "acknowledge", out)


def delete(arguments: Arguments, client: Client, out: Output) -> int:
    return _done(client.ask("message.delete", {"ids": arguments.words}), "delete", out)


def _done(answer: Document, word: str, out: Output) -> int:
    done = answer.texts("done")
    if out.json:
        out.document(answer.value)
    elif out.quiet:
        for each in done:
            out.line(each)
    elif not done:
        out.line(f"nothing to {word}")
    else:
        what = done[0] if len(done) == 1 else counted(len(done), "message")
        out.line(f"{word.removesuffix('e')}ed {what}")
    return 0


COMMANDS = {
    "ack": Command(
        "ack",
        "[ID]...",
        "done with messages: out of the inbox, kept in the journal",
        ack,
        options=(Option("--all", "", "everything in the inbox"),),
        example="amp ack 3 4",
    ),
    "delete": Command(
        "delete",
        "ID...",
        "remove messages; the bytes are gone after the next compaction",
        delete,
        example="amp delete 3",
    ),
}
