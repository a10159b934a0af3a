"""`amp read`: a short head and the text of each message, and the message is marked read.

The text is `content`: as sent where trust is `verified`, wrapped as data where it is not
(interface contract, "What an assistant is shown"). `--raw` is the text without head and wrapper,
and nothing else; what it hides is written out there too, on a terminal and in a pipe (O3), for
assistants read pipes. `--json` has it as it was sent.
"""

from amp_cli.arguments import Arguments, Command, Option
from amp_cli.client import Client
from amp_cli.document import Document
from amp_cli.json_text import dumps
from amp_cli.output import BOLD, Output


def read(arguments: Arguments, client: Client, out: Output) -> int:
    params: dict[str, object] = {"ids": arguments.words}
    for option in ("peek", "raw"):
        if arguments.flag(f"--{option}"):
            params[option] = True
    found = client.ask("message.get", params)
    if out.json:
        out.document(found.value)
        return 0
    for at, message in enumerate(found.each("messages")):
        if at:
            out.line()
        if arguments.flag("--raw"):
            out.text(message.text("body"))
        else:
            show(message, out)
    return 0


def show(message: Document, out: Output) -> None:
    """One message, for a reader."""
    number = message.text("number")
    out.line(f"{number}  {message.text('id')}" if number else message.text("id"), BOLD)
    trust = ", ".join(
        word
        for word in (
            message.text("trust"),
            "" if message.flag("encrypted") or message.text("via") == "local" else "not encrypted",
            f"in quarantine: {message.text('reason')}"
            if message.text("state") == "quarantined"
            else "",
        )
        if word
    )
    unusual = [
        (name, message.text(name))
        for name, usual in (("type", ("", "message", "notification")), ("priority", ("", "normal")))
        if message.text(name) not in usual
    ]
    missing = message.number("missing_before")
    out.fields(
        (
            ("from", f"{message.text('from')} ({trust})"),
            ("to", ", ".join(message.texts("to")) or message.text("to")),
            ("subject", message.text("subject")),
            ("sent", message.at("sent_at")),
            ("thread", message.text("thread_id")),
            *unusual,
            ("missing", f"{missing} before it never came" if missing else ""),
            ("flags", ", ".join(message.texts("flags"))),
            ("attached", ", ".join(each.text("name") for each in message.each("attachments"))),
        )
    )
    if content := message.text("content"):
        out.line()
        out.text(content)
    _structured(message, out)
    if message.text("state") == "quarantined":
        sender = message.text("from")
        out.note(f"amp contact accept {sender} lets it in; amp contact block {sender} refuses it")


def _structured(message: Document, out: Output) -> None:
    """Payload and context: shown of verified senders only, because nothing wraps them."""
    payload, context = message.value.get("payload"), message.value.get("context")
    if isinstance(context, dict) and (set(context) <= {"amp"} or set(context) <= {"amtp"}):
        payload, context = _without_what_was_shown(payload, message.text("body")), None
    for name, value in (("payload", payload), ("context", context)):
        if value is None or value in ({}, []):
            continue
        out.line()
        if message.text("trust") == "verified":
            out.text(f"{name}: {dumps(value)}")
        else:
            out.line(f"{name}: not shown from this sender; --json has it")


def _without_what_was_shown(payload: object, body: str) -> object:
    """The payload of a message of AMP or AMTP, whose form holds the text and the type again."""
    if not isinstance(payload, dict):
        return None if payload == body else payload
    return {
        name: value
        for name, value in payload.items()
        if name != "type" and value is not None and value != body
    }


COMMANDS = {
    "read": Command(
        "read",
        "ID...",
        "show messages, and mark them read",
        read,
        options=(
            Option("--peek", "", "do not mark them read"),
            Option("--raw", "", "the text alone, without head and wrapper"),
        ),
        example="amp read 3",
    )
}
