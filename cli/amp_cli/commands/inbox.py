"""Lists of messages: `amp inbox`, `thread`, `sent` and `outbox`; one line a message.

    * 3  2026-11-22 13:04  bob@laptop.local  Build is green

`*` is unread, `!` is quarantined; the number is what `amp read 3` takes. Words in brackets behind
the subject say what a reader should know first: a type that is not a plain message, a priority,
a trust other than verified, flags, that it was acknowledged. What was sent has a column that says
how far it got.
"""

from amp_cli.arguments import Arguments, Command, Option
from amp_cli.client import Client
from amp_cli.document import Document
from amp_cli.output import Output, Prose

SHOWN = 20  # messages of a list, unless asked for more
_PAGE = (
    Option("--limit", "N", f"at most N messages ({SHOWN})"),
    Option("--before", "ID", "older than this one"),
    Option("--after", "ID", "newer than this one"),
)
_PLAIN = ("", "message", "text", "notification", "normal", "verified")
_MARKS = {"unread": "*", "quarantined": "!"}


def inbox(arguments: Arguments, client: Client, out: Output) -> int:
    params = _page(arguments)
    for option in ("from", "thread"):
        if value := arguments.text(f"--{option}"):
            params[option] = value
    if arguments.flag("--unread"):
        params["unread"] = True
    if arguments.flag("--all"):
        params["box"] = "all"
    if arguments.flag("--quarantine"):
        params["box"] = "quarantine"
    found = client.ask("message.list", params)
    if out.json:
        out.document(found.value)
        return 0
    _show_inbox(found, arguments, out)
    return 0


def _show_inbox(found: Document, arguments: Arguments, out: Output) -> None:
    agent, held = found.text("agent"), found.number("quarantined")
    of_quarantine = arguments.flag("--quarantine")
    if not found.each("messages"):
        out.said(f"{agent}: {_none(arguments)}")
    else:
        count = f"{held} in quarantine" if of_quarantine else f"{found.number('unread')} unread"
        out.said(f"{agent}: {count}")
        _list(found, out, _again(arguments))
    if held and of_quarantine:
        out.note("amp contact accept ADDRESS lets a sender in; amp contact block ADDRESS does not")
    elif held:
        out.note(f"{held} in quarantine: amp inbox --quarantine")


def thread(arguments: Arguments, client: Client, out: Output) -> int:
    found = client.ask("message.thread", {"id": arguments.words[0]})
    return _show(found, out, "this thread has no messages here", "")


def sent(arguments: Arguments, client: Client, out: Output) -> int:
    found = client.ask("message.list", {"box": "sent", **_page(arguments)})
    return _show(found, out, "nothing was sent yet", _again(arguments, "sent"), theirs="to")


def outbox(arguments: Arguments, client: Client, out: Output) -> int:
    found = client.ask("message.list", {"box": "outbox", **_page(arguments)})
    return _show(found, out, "nothing waits to be sent", _again(arguments, "outbox"), theirs="to")


def _page(arguments: Arguments) -> dict[str, object]:
    params: dict[str, object] = {"limit": arguments.number("--limit") or SHOWN}
    for option in ("before", "after"):
        if value := arguments.text(f"--{option}"):
            params[option] = int(value) if value.isdigit() and len(value) < 16 else value
    return params


def _none(arguments: Arguments) -> str:
    if arguments.flag("--quarantine"):
        return "nothing in quarantine"
    filtered = any(arguments.flag(f"--{each}") for each in ("from", "thread", "before", "after"))
    if filtered:
        return "no such message"
    return "nothing unread" if arguments.flag("--unread") else "no messages"


def _again(arguments: Arguments, command: str = "inbox") -> str:
    """The command that lists the same messages."""
    words = ["amp", command]
    words += [
        f"--{each}" for each in ("unread", "all", "quarantine") if arguments.flag(f"--{each}")
    ]
    for each in ("from", "thread", "limit", "before", "after"):  # the last two are replaced
        if value := arguments.text(f"--{each}"):
            words.append(f"--{each} {value}")
    return " ".join(words)


def _show(found: Document, out: Output, none: str, again: str, *, theirs: str = "from") -> int:
    if out.json:
        out.document(found.value)
    elif not found.each("messages"):
        out.said(none)
    else:
        _list(found, out, again, theirs=theirs)
    return 0


def _list(found: Document, out: Output, again: str, *, theirs: str = "from") -> None:
    messages = found.each("messages")
    unread = [at for at, each in enumerate(messages) if each.text("state") == "unread"]
    ids = [each.text("id") for each in messages]
    out.listing([_row(each, theirs) for each in messages], ids, bold=unread)
    if found.number("more") and again:
        out.said(_more(found, again))


def _more(found: Document, again: str) -> str:
    """How many more there are, where that is known, and the command that shows them."""
    messages = found.each("messages")
    words = ("--from", "--thread", "--before", "--after")
    counted = not any(word in again for word in words)
    count = f"{found.number('total') - len(messages)} " if counted else ""
    return f"{count}more: {again.partition(' --before')[0]} --before {_name(messages[0])}"


def _row(message: Document, theirs: str) -> tuple[str | Prose, ...]:
    at = message.at("sent_at")[:16]
    subject = _subject(message, theirs)
    if theirs == "to":
        who = ", ".join(_addresses(message))
        return f"  {_name(message)}", at, message.text("status"), who, subject
    mark = _MARKS.get(message.text("state"), "")
    return f"{mark:1} {_name(message)}", at, message.text("from"), subject


def _name(message: Document) -> str:
    return message.text("number") or message.text("id")


def _addresses(message: Document) -> list[str]:
    return message.texts("to") or [message.text("to")]


def _subject(message: Document, theirs: str) -> Prose:
    """The subject and, behind it, what this node says of the message: first and whole, however
    long the sender made the subject and the type."""
    notes: list[str] = []
    if theirs == "from":
        acked = "acked" * (message.text("state") == "acked")
        notes += [message.text("trust"), *message.texts("flags"), message.text("reason"), acked]
        if missing := message.number("missing_before"):
            notes.append(f"{missing} before it never came")
    notes += [message.text("type"), message.text("priority")]
    if files := len(message.each("attachments")):
        notes.append(f"{files} attached")
    said = ", ".join(note for note in notes if note not in _PLAIN)
    subject = message.text("subject") or message.text("preview") or "(no subject)"
    return Prose(subject, said)


COMMANDS = {
    "inbox": Command(
        "inbox",
        "",
        "list messages, newest last; * is unread",
        inbox,
        options=(
            Option("--unread", "", "only what was not read yet"),
            Option("--all", "", "with what was acknowledged"),
            Option("--quarantine", "", "what is held back because its key is in doubt"),
            Option("--from", "ADDRESS", "only from this sender"),
            Option("--thread", "ID", "only of this thread"),
            *_PAGE,
        ),
        example="amp inbox --unread --from bob",
    ),
    "thread": Command(
        "thread", "ID", "list a conversation, oldest first", thread, example="amp thread 3"
    ),
    "sent": Command("sent", "", "list what was sent", sent, options=_PAGE, example="amp sent"),
    "outbox": Command(
        "outbox", "", "list what is still on its way", outbox, options=_PAGE, example="amp outbox"
    ),
}
