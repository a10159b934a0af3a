"""`amp contact`: the address book and its trust; one method of the socket each."""

from amp_cli.arguments import Arguments, Command
from amp_cli.client import Client
from amp_cli.document import Document
from amp_cli.output import Output

# verb -> (words, parameters of contact.VERB, what it does)
_VERBS = {
    "add": ("LINK", ("link",), "add a contact by the link that `amp card` printed there"),
    "list": ("", (), "everybody known, with trust and fingerprint"),
    "show": ("ADDRESS", ("address",), "one contact, with everything known"),
    "verify": (
        "ADDRESS FINGERPRINT",
        ("address", "fingerprint"),
        "confirm a key that was compared by another way: trust becomes verified",
    ),
    "block": ("ADDRESS", ("address",), "refuse what they send"),
    "unblock": ("ADDRESS", ("address",), "take it again"),
    "accept": ("ADDRESS", ("address",), "take a changed key, or a quarantined sender"),
    "remove": ("ADDRESS", ("address",), "forget a contact"),
}


def run(arguments: Arguments, client: Client, out: Output, verb: str) -> int:
    params: dict[str, object] = dict(zip(_VERBS[verb][1], arguments.words, strict=True))
    found = client.ask(f"contact.{verb}", params)
    if out.json:
        out.document(found.value)
        return 0
    contacts = found.each("contacts")
    if verb == "list":
        _list(contacts, out)
    elif verb == "remove":
        out.said(f"removed {arguments.words[0]}")
    elif verb == "show" or not out.quiet:
        for at, each in enumerate(contacts):
            if at:
                out.line()
            _show(each, out)
    return 0


def _list(contacts: list[Document], out: Output) -> None:
    if contacts:
        names = ("address", "trust", "fingerprint", "note")
        rows = [[each.text(name) for name in names] for each in contacts]
        out.listing(rows, [row[0] for row in rows])
    else:
        out.said("no contacts")
        out.note("amp contact add LINK adds one; amp discover shows who is near")


def _show(contact: Document, out: Output) -> None:
    out.fields(
        (
            ("address", contact.text("address")),
            ("trust", contact.text("trust")),
            ("fingerprint", contact.text("fingerprint")),
            ("first seen", contact.at("first_seen")),
            ("source", contact.text("source")),
            ("relays", ", ".join(contact.texts("relays"))),
            ("note", contact.text("note")),
        )
    )


def _command(verb: str) -> Command:
    words, _, summary = _VERBS[verb]
    example = {
        "add": "amp contact add 'amp://KEY/bob@host.local'",
        "verify": "amp contact verify bob@host.local SHA256:...",
    }.get(verb, f"amp contact {verb} {'bob@host.local' if words else ''}".rstrip())
    return Command(
        f"contact {verb}",
        words,
        summary,
        lambda arguments, client, out: run(arguments, client, out, verb),
        example=example,
    )


COMMANDS = {f"contact {verb}": _command(verb) for verb in _VERBS}
