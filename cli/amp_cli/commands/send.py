"""`amp send` and `amp reply`: one message out, and what became of it for each recipient.

The text is BODY, `--text T`, `--file PATH`, or `-` for standard input; with none of them what is
piped in is the text. `amp send bob -` is a text without a subject: a dash alone is never one.
A reply goes to the sender of the message it answers, in its thread. Every message carries a
random `key`, so that asking again after a broken connection cannot send it twice.
"""

import os
import sys

from amp_cli.arguments import Arguments, Command, Option
from amp_cli.client import Client
from amp_cli.document import Document
from amp_cli.errors import FAILED, TIMED_OUT, Failure, Usage
from amp_cli.output import Output

PRIORITIES = ("low", "normal", "high", "urgent")
_OPTIONS = (
    Option("--subject", "TEXT", "the subject"),
    Option("--text", "TEXT", "the text"),
    Option("--file", "PATH", "the text, from a file; - is standard input"),
    Option("--payload", "JSON", "structured data beside the text"),
    Option("--context", "JSON", "what the recipient should know about the sender's task"),
    Option("--type", "TYPE", "request, response, notification, task, status, ..."),
    Option("--priority", "LEVEL", "low, normal, high or urgent"),
    Option("--expires", "DURATION", "give up after 30m, 2h, 7d"),
    Option("--receipt", "", "ask for a receipt when it is read"),
    Option("--wait", "[SECONDS]", "until it is delivered or has failed (60 s)"),
)
_UNSENT = ("failed", "expired")
_SETTLED = ("delivered", "read", *_UNSENT)
_WAIT = 60.0  # seconds that --wait means


def send(arguments: Arguments, client: Client, out: Output) -> int:
    words = list(arguments.words)
    to = arguments.texts("--to") or words[:1]
    if not arguments.texts("--to"):
        words = words[1:]
    if not to:
        raise Usage("amp send: TO is missing", hint='amp send bob "Subject" "Text"')
    subject = arguments.text("--subject")
    if subject is None:
        if not words:
            raise Usage("amp send: SUBJECT is missing", hint=f'amp send {to[0]} "Subject" "Text"')
        subject = "" if words == ["-"] else words.pop(0)
    if len(words) > 1:
        raise Usage(
            f"amp send: {words[1]!r} is one word too many (a text goes into quotes)",
            hint='amp send bob "Subject" "Text"',
        )
    params = _params(arguments, words, f'amp send {to[0]} "Subject" "Text"')
    if answered := arguments.text("--reply-to"):
        params["in_reply_to"] = answered
    return _submit({"to": to, "subject": subject, **params}, arguments, client, out)


def reply(arguments: Arguments, client: Client, out: Output) -> int:
    answered, *words = arguments.words
    params = _params(arguments, words, f'amp reply {answered} "Text"')
    found = client.ask("message.get", {"ids": [answered], "peek": True}).each("messages")
    if not found:
        raise Failure(f"there is no message {answered}", hint="amp inbox --all")
    subject = arguments.text("--subject")
    if subject is None:
        subject = found[0].text("subject")
        subject = subject if subject[:3].lower() == "re:" else f"Re: {subject}"
    params |= {"to": [found[0].text("from")], "subject": subject}
    params["in_reply_to"] = found[0].text("id")
    return _submit(params, arguments, client, out)


def _params(arguments: Arguments, words: list[str], usual: str) -> dict[str, object]:
    """What the flags and the text say, checked; `usual` is the command with a text."""
    params: dict[str, object] = {"key": os.urandom(16).hex()}
    for option in ("payload", "context"):
        if (document := arguments.document(f"--{option}")) is not None:
            params[option] = document
    if (kind := arguments.text("--type")) is not None:
        params["type"] = kind
    if (priority := arguments.text("--priority")) is not None:
        if priority not in PRIORITIES:
            raise Usage(f"--priority is one of {', '.join(PRIORITIES)}, not {priority!r}")
        params["priority"] = priority
    if (expires := arguments.seconds("--expires")) is not None:
        params["expires_in_s"] = int(expires)
    if arguments.flag("--receipt"):
        params["receipt"] = True
    text = _text(arguments, words, usual, optional="payload" in params)
    if text is not None:
        params["text"] = text
    return params


def _text(arguments: Arguments, words: list[str], usual: str, *, optional: bool) -> str | None:
    sources = [("BODY", words[0])] if words else []
    given = [(option, arguments.text(option)) for option in ("--text", "--file")]
    sources += [(option, value) for option, value in given if value is not None]
    if len(sources) > 1:
        raise Usage(f"the text is given twice: {' and '.join(name for name, _ in sources)}")
    if sources:
        name, value = sources[0]
        if value == "-" and name != "--text":
            return _piped()
        return _read(value) if name == "--file" else value
    if optional:
        return None
    piped = sys.stdin is None or not sys.stdin.isatty()
    text = _piped() if piped else ""
    if not text:  # nobody meant to send nothing; "-" may be empty
        raise Usage(
            "there is no text: give it as BODY, --text, --file PATH, or - for standard input",
            hint=usual,
        )
    return text


def _piped() -> str:
    if sys.stdin is None:  # so it is where it was closed before Python started
        raise Usage("standard input is closed, so there is no text", hint="give it as BODY")
    return _decode(sys.stdin.buffer.read(), "standard input")


def _read(path: str) -> str:
    try:
        with open(path.encode(), "rb") as file:
            return _decode(file.read(), path)
    except OSError as exc:
        raise Failure(f"cannot read {path}: {exc.strerror}") from None


def _decode(data: bytes, source: str) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as exc:
        raise Usage(
            f"{source} is not UTF-8 text (byte {exc.start}); messages are text",
            hint="base64 it, or send a path",
        ) from None


def _submit(params: dict[str, object], arguments: Arguments, client: Client, out: Output) -> int:
    within = None
    if arguments.flag("--wait"):
        within = _WAIT if arguments.text("--wait") == "" else arguments.seconds("--wait")
    sent = client.ask("message.send", params)
    timed_out = False
    if within is not None and not _is_settled(sent):
        from amp_cli.delivery import await_delivery

        status, timed_out = await_delivery(client, sent.text("id"), _is_settled, within)
        sent = Document({**sent.value, **status.value})
    _show(sent, out)
    if timed_out:
        raise Failure(
            f"not delivered within {within:g} s: {_where(sent)}",
            exit_code=TIMED_OUT,
            hint=f"amp status {sent.text('id')}",
            code="timeout",
        )
    unsent = [each for each in sent.each("recipients") if each.text("status") in _UNSENT]
    return FAILED if unsent else 0


def _where(sent: Document) -> str:
    """Who has a message that is not delivered yet."""
    if any(each.text("status") == "queued" for each in sent.each("recipients")):
        return "it stays queued and will be tried again"
    return "a relay keeps it until the recipient's node fetches it"


def _is_settled(sent: Document) -> bool:
    return all(each.text("status") in _SETTLED for each in sent.each("recipients"))


def _show(sent: Document, out: Output) -> None:
    if out.json:
        out.document(sent.value)
        return
    recipients = sent.each("recipients")
    if out.quiet:
        out.line(sent.text("id"))
    elif len(recipients) == 1:
        out.line(f"{sent.text('id')}  {outcome(recipients[0])}")
    else:
        out.line(sent.text("id"))
        for each in recipients:
            out.line(f"  {outcome(each)}")


def outcome(recipient: Document) -> str:
    """What became of a message for one recipient, in words."""
    status, via = recipient.text("status"), recipient.text("via")
    address = recipient.text("address")
    reason = recipient.text("error") or recipient.of("error").text("message")
    if status in _UNSENT:
        return f"{status}: {address}{': ' if reason else ''}{reason}"
    word = {"queued": "queued for", "relayed": "relayed for"}.get(status, f"{status} to")
    if status == "read":
        word = "read by"
    way = f" ({via})" if via else ""
    return f"{word} {address}{way}{': ' if reason else ''}{reason}"


COMMANDS = {
    "send": Command(
        "send",
        "[TO] [SUBJECT] [BODY]",
        "send a message; prints its id and what became of it for each recipient",
        send,
        options=(
            Option("--to", "ADDRESS", "a recipient", many=True),
            *_OPTIONS,
            Option("--reply-to", "ID", "the message this one answers"),
        ),
        example='amp send bob "Build is green" "All 214 tests pass."\n'
        "git diff | amp send --to bob --to carol --subject Patch -",
    ),
    "reply": Command(
        "reply",
        "ID [BODY]",
        "answer a message: to its sender, in its thread",
        reply,
        options=_OPTIONS,
        example='amp reply 3 "Thanks, merged."',
    ),
}
