"""`amp bundle`: undelivered mail and cards in one file, for networks that are not connected.

    file = "ampd-bundle-1" LF, then for each item its length (4 bytes, big-endian) and its bytes

The items are the daemon's business: sealed envelopes and signed cards. Whoever carries the file can
read none of it and change none of it; reading it twice changes nothing.
"""

import base64
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from amp_cli.arguments import Arguments, Command, Option
from amp_cli.client import Client
from amp_cli.errors import Failure
from amp_cli.output import Output

_MAGIC = b"ampd-bundle-1\n"
_LARGEST = 48 << 20  # bytes of an item: three times the largest envelope
_AT_ONCE = 2 << 20  # bytes of items in one request: a quarter of the socket's limit for a line


def write(arguments: Arguments, client: Client, out: Output) -> int:
    path = Path(arguments.words[0])
    half_done = path.with_name(f".{path.name}.{os.getpid()}")
    params: dict[str, object] = {"to": arguments.texts("--to")} if arguments.texts("--to") else {}
    envelopes = cards = 0
    try:
        with half_done.open("xb") as file:
            file.write(_MAGIC)
            after = 0
            while True:
                page = client.ask("bundle.write", {**params, "after": after})
                for item in page.texts("items"):
                    data = base64.b64decode(item)
                    file.write(len(data).to_bytes(4, "big") + data)
                envelopes += page.number("envelopes") or 0
                cards += page.number("cards") or 0
                after = page.number("next") or 0
                _progress(out, f"{envelopes} envelopes")
                if not after:
                    break
            file.flush()
            os.fsync(file.fileno())
        half_done.replace(path)
    finally:
        half_done.unlink(missing_ok=True)
    if out.json:
        out.document({"path": str(path), "envelopes": envelopes, "cards": cards})
    else:
        out.line(f"{path}: {envelopes} envelopes, {cards} cards")
        out.note(f"on the other node: amp bundle read {path.name}")
    return 0


def read(arguments: Arguments, client: Client, out: Output) -> int:
    path = Path(arguments.words[0])
    counted = dict.fromkeys(("messages", "receipts", "known", "elsewhere", "refused", "cards"), 0)
    with path.open("rb") as file:
        if file.read(len(_MAGIC)) != _MAGIC:
            raise Failure(f"{path} is no bundle", hint="amp bundle write PATH makes one")
        for items in _pages(file, path):
            answer = client.ask("bundle.read", {"items": items})
            for name in counted:
                counted[name] += answer.number(name) or 0
            _progress(out, ", ".join(f"{n} {name}" for name, n in counted.items() if n))
    if out.json:
        out.document({"path": str(path), **counted})
    else:
        out.line(", ".join(f"{n} {name}" for name, n in counted.items() if n) or "nothing new")
    return 0


def _pages(file: BinaryIO, path: Path) -> Iterator[list[str]]:
    """The items of a bundle, some at a time; Failure where it is cut short."""
    page: list[str] = []
    size = 0
    while head := file.read(4):
        length = int.from_bytes(head, "big")
        data = file.read(length) if len(head) == 4 and length <= _LARGEST else b""
        if len(data) != length or len(head) != 4:
            if page:
                yield page
            raise Failure(
                f"{path} is cut short or damaged; what came before that was taken in",
                hint="copy it again",
            )
        page.append(base64.b64encode(data).decode("ascii"))
        size += length
        if size >= _AT_ONCE:
            yield page
            page, size = [], 0
    if page:
        yield page


def _progress(out: Output, text: str) -> None:
    if sys.stderr.isatty() and not out.quiet:
        sys.stderr.write(f"\r{text}\x1b[K")
        sys.stderr.flush()


COMMANDS = {
    "bundle write": Command(
        "bundle write",
        "PATH",
        "put undelivered mail and this node's cards into one file",
        write,
        options=(Option("--to", "ADDRESS", "only mail to this address (repeatable)", many=True),),
        example="amp bundle write /media/stick/mail.ampd",
    ),
    "bundle read": Command(
        "bundle read",
        "PATH",
        "take in a file that another node wrote",
        read,
        example="amp bundle read /media/stick/mail.ampd",
    ),
}
