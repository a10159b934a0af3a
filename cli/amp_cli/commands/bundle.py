"""`amp bundle`: undelivered mail and cards in one file, for networks that are not connected.

    file = "ampd-bundle-1" LF, then for each item its length (4 bytes, big-endian) and its bytes

The items are the daemon's business: sealed envelopes and signed cards. Whoever carries the file can
read none of it and change none of it; reading it twice changes nothing.

  B1  `write` puts a whole file in place, synced, or leaves what was there.
  B2  `read` takes in what stands before a damaged place, and then says that it is damaged.
"""

import base64
import os
from collections.abc import Iterator
from typing import BinaryIO

from amp_cli.arguments import Arguments, Command, Option
from amp_cli.client import Client
from amp_cli.errors import Failure
from amp_cli.output import Output
from ampd.protocol.local import LINE_LIMIT

_MAGIC = b"ampd-bundle-1\n"
_LARGEST = LINE_LIMIT // 4 * 3 - 1024  # bytes of an item: as base64 it fits into one request
_AT_ONCE = 2 << 20  # bytes of items in one request: a quarter of the socket's limit for a line
_COUNTED = ("messages", "receipts", "known", "elsewhere", "refused", "cards")


def write(arguments: Arguments, client: Client, out: Output) -> int:
    path = arguments.words[0]
    folder, name = os.path.split(os.path.abspath(path))
    half_done = os.path.join(folder, f".{name}.{os.getpid()}")
    to = arguments.texts("--to")
    try:
        with open(half_done, "xb") as file:  # B1
            envelopes, cards = _fill(file, {"to": to} if to else {}, client, out)
            file.flush()
            os.fsync(file.fileno())
        os.replace(half_done, path)
        _sync(folder)
    finally:
        out.progress("")
        if os.path.exists(half_done):
            os.unlink(half_done)
    if out.json:
        out.document({"path": path, "envelopes": envelopes, "cards": cards})
    else:
        out.said(f"{path}: {envelopes} envelopes, {cards} cards")
        out.note(f"on the other node: amp bundle read {name}")
    return 0


def _fill(
    file: BinaryIO, params: dict[str, object], client: Client, out: Output
) -> tuple[int, int]:
    """Write every item that the daemon has; how many envelopes and cards they were."""
    file.write(_MAGIC)
    envelopes = cards = after = 0
    while True:
        page = client.ask("bundle.write", {**params, "after": after})
        for item in page.texts("items"):
            data = base64.b64decode(item)
            file.write(len(data).to_bytes(4, "big") + data)
        envelopes += page.number("envelopes")
        cards += page.number("cards")
        after = page.number("next")
        if not after:
            return envelopes, cards
        out.progress(f"{envelopes} envelopes")


def _sync(folder: str) -> None:
    """The folder's entries are on the disk: a stick may be pulled out now."""
    opened = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def read(arguments: Arguments, client: Client, out: Output) -> int:
    path = arguments.words[0]
    counted = dict.fromkeys(_COUNTED, 0)
    try:
        with open(path, "rb") as file:
            for items in _pages(file, path):
                answer = client.ask("bundle.read", {"items": items})
                for name in _COUNTED:
                    counted[name] += answer.number(name)
                out.progress(_words(counted))
    finally:
        out.progress("")
    if out.json:
        out.document({"path": path, **counted})
    else:
        out.said(_words(counted) or "nothing in it")
    return 0


def _words(counted: dict[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counted.items() if count)


def _pages(file: BinaryIO, path: str) -> Iterator[list[str]]:
    """The items of a bundle as base64, as many at a time as make a request (B2)."""
    if file.read(len(_MAGIC)) != _MAGIC:
        raise Failure(f"{path} is no bundle", hint="amp bundle write PATH")
    page: list[str] = []
    size = 0
    while data := _item(file):
        if page and size + len(data) > _AT_ONCE:
            yield page
            page, size = [], 0
        page.append(base64.b64encode(data).decode("ascii"))
        size += len(data)
    if page:
        yield page
    if data is None:
        raise Failure(
            f"{path} is cut short or damaged; what stands before that was taken in",
            hint="copy it again",
        )


def _item(file: BinaryIO) -> bytes | None:
    """The next item, b"" at the end of the file; None where it is damaged."""
    head = file.read(4)
    length = int.from_bytes(head, "big")
    if not head:
        return b""
    if len(head) < 4 or not 0 < length <= _LARGEST:
        return None
    data = file.read(length)
    return data if len(data) == length else None


COMMANDS = {
    "bundle write": Command(
        "bundle write",
        "PATH",
        "put undelivered mail and this node's cards into one file",
        write,
        options=(Option("--to", "ADDRESS", "only mail to this address", many=True),),
        example="amp bundle write /media/stick/mail.ampd",
        as_agent=False,
    ),
    "bundle read": Command(
        "bundle read",
        "PATH",
        "take in a file that another node wrote",
        read,
        example="amp bundle read /media/stick/mail.ampd",
        as_agent=False,
    ),
}
