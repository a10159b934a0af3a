"""`amp status`: the daemon, or what became of one message; `amp trace`: its life step by step."""

from amp_cli.arguments import Arguments, Command, Option
from amp_cli.client import Client
from amp_cli.document import Document
from amp_cli.errors import Usage
from amp_cli.output import Output, counted


def status(arguments: Arguments, client: Client, out: Output) -> int:
    if arguments.words:
        return _message(arguments, client, out)
    if arguments.flag("--proof"):
        raise Usage("--proof is about one message", hint="amp status ID --proof")
    client.agent = ""  # about the node, whoever asks
    found = client.ask("system.status", {})
    if out.json:
        out.document(found.value)
    else:
        show_node(found, out)
    return 0


def show_node(found: Document, out: Output) -> None:
    """The status document, for a reader."""
    node, mailbox = found.of("node"), found.of("mailbox")
    listen = node.text("listen") or ", ".join(node.texts("listen"))
    held = f"{counted(mailbox.number('messages'), 'message')}, {size(mailbox.number('bytes'))}"
    since = found.at("oldest_queued_at")
    out.fields(
        (
            ("ampd", f"{found.text('version')}, up {span(found.number('uptime_s'))}"),
            ("node", f"{node.text('domain')} {node.text('key')}"),
            ("listening", listen or "no"),
            *((name, brief(found.value.get(name))) for name in _PARTS),
            ("outbox", found.text("outbox") + (f" waiting since {since}" if since else "")),
            ("mailbox", held if mailbox.value else ""),
        )
    )
    out.fields(
        (name.replace("_", " "), brief(value) if isinstance(value, dict | list) else found.at(name))
        for name, value in found.value.items()
        if name not in _SHOWN and value
    )
    out.fields(("warning", each) for each in found.texts("warnings"))


_PARTS = ("agents", "peers", "relays")
_SHOWN = frozenset(
    (
        *("version", "node", "mailbox", "uptime_s", "warnings", "outbox", "oldest_queued_at"),
        *_PARTS,
    )
)


def brief(value: object) -> str:
    """A part of the status document in a few words."""
    if isinstance(value, dict):
        return ", ".join(
            f"{name} {brief(item)}" for name, item in value.items() if item is not None
        )
    if isinstance(value, list):
        return ", ".join(map(_name, value)) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "" if value is None else str(value)


def _name(item: object) -> str:
    document = Document(item)
    for field in ("address", "domain", "uri", "node", "name"):
        if text := document.text(field):
            count = document.number("queued")
            said = [document.text("state"), f"{count} waiting" * bool(count)]
            state = ", ".join(filter(None, said))
            return f"{text} ({state})" if state else text
    return brief(item)


def span(seconds: int) -> str:
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= length:
            return f"{seconds // length}{unit}"
    return f"{seconds}s"


def size(count: int) -> str:
    for unit, length in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if count >= length:
            return f"{count / length:.1f} {unit}"
    return counted(count, "byte")


def _message(arguments: Arguments, client: Client, out: Output) -> int:
    from amp_cli.commands.send import outcome

    params: dict[str, object] = {"id": arguments.words[0]}
    if arguments.flag("--proof"):
        params["proof"] = True
    found = client.ask("message.status", params)
    if out.json:
        out.document(found.value)
        return 0
    out.line(f"{found.text('id')}  {found.text('status')}")
    for each in found.each("recipients"):
        out.line(f"  {outcome(each)}{_when(each)}")
    for receipt in found.each("receipts"):
        out.line()
        stage, at = receipt.text("stage"), receipt.at("at")
        out.line(f"receipt of {receipt.text('address')}: {stage} {at}".rstrip())
        if receipt.text("text"):
            out.text(receipt.text("text"))
        out.line(receipt.text("receipt"))
    if arguments.flag("--proof") and not found.each("receipts"):
        out.note("no receipt has come back yet")
    return 0


def _when(recipient: Document) -> str:
    if at := recipient.at("read_at") or recipient.at("delivered_at"):
        return f", {at}"
    attempts, again = recipient.number("attempts"), recipient.at("next_attempt_at")
    tried = f", tried {attempts} times" if attempts > 1 else ""
    return f"{tried}, next try {again}" if again else tried


def trace(arguments: Arguments, client: Client, out: Output) -> int:
    found = client.ask("message.trace", {"id": arguments.words[0]})
    if out.json:
        out.document(found.value)
        return 0
    steps = found.each("steps")
    out.line(found.text("id"))
    if steps:
        names = ("place", "what", "detail")
        out.table([(each.at("at"), *(each.text(name) for name in names)) for each in steps])
    if waiting := found.text("waiting_for"):
        out.line(f"waiting for: {waiting}")
    return 0


COMMANDS = {
    "status": Command(
        "status",
        "[ID]",
        "the daemon; with ID: what became of a message, by recipient",
        status,
        options=(Option("--proof", "", "the signed receipts of a message"),),
        example="amp status 0198f3c2",
    ),
    "trace": Command(
        "trace",
        "ID",
        "the life of a message, step by step, and what it waits for now",
        trace,
        example="amp trace 0198f3c2",
    ),
}
