"""`amp bundle`: undelivered mail and cards in one file, for networks that are not connected.

    file = "ampd-bundle-1" LF, then for each item its length (4 bytes, big-endian) and its bytes

The items are the daemon's business: sealed envelopes and signed cards. Whoever carries the file can
read none of it and change none of it; reading it twice changes nothing.

  B1  `write` puts a whole file in place, synced, or leaves what was there.
  B2  `read` takes in what stands before a damaged place, and then says that it is damaged.
  B3  What the daemon refuses of it is an error with the first reason, after all else was taken in.
"""

import base64
import os
from collections.abc import Iterator
from typing import BinaryIO

from amp_cli.arguments import Arguments, Command, Option
from amp_cli.client import Client
from amp_cli.errors import Failure
from amp_cli.output import Output, counted
from ampd.protocol.local import LINE_LIMIT

_MAGIC = b"ampd-bundle-1\n"
_LARGEST = LINE_LIMIT // 4 * 3 - 1024  # bytes of an item: as base64 it fits into one request
_AT_ONCE = 2 << 20  # bytes of items in one request: a quarter of the socket's limit for a line
_COUNTED = ("messages", "receipts", "known", "elsewhere", "refused", "cards")
_WORDS = {
    "known": "known already",
    "elsewhere": "for agents of other nodes",
    "refused": "refused",
}


def write(arguments: Arguments, client: Client, out: Output) -> int:
    path = arguments.words[0]
    to = arguments.texts("--to")
    if os.path.isdir(_file(path)):
        raise Failure(f"cannot write {path}: it is a folder")
    try:
        envelopes, cards = _put(_file(path), {"to": to} if to else {}, client, out)
    except OSError as exc:
        raise Failure(f"cannot write {path}: {exc.strerror}") from None
    finally:
        out.progress("")
    if out.json:
        out.document({"path": path, "envelopes": envelopes, "cards": cards})
    else:
        out.said(f"{path}: {counted(envelopes, 'envelope')}, {counted(cards, 'card')}")
        out.note(f"on the other node: amp bundle read {os.path.basename(path)}")
    return 0


def _file(path: str) -> str:
    """The name of a file as this locale has it."""
    return os.fsdecode(path.encode())


def _put(path: str, params: dict[str, object], client: Client, out: Output) -> tuple[int, int]:
    """B1; how many envelopes and cards were written."""
    folder, name = os.path.split(os.path.abspath(path))
    half_done = os.path.join(folder, f".{name}.{os.getpid()}")
    try:
        with open(half_done, "xb") as file:
            counts = _fill(file, params, client, out)
            file.flush()
            os.fsync(file.fileno())
        os.replace(half_done, path)
        _sync(folder)
    finally:
        if os.path.exists(half_done):
            os.unlink(half_done)
    return counts


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
        out.progress(counted(envelopes, "envelope"))


def _sync(folder: str) -> None:
    """The folder's entries are on the disk: a stick may be pulled out now."""
    opened = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def read(arguments: Arguments, client: Client, out: Output) -> int:
    path = arguments.words[0]
    counts, reason = dict.fromkeys(_COUNTED, 0), ""
    try:
        with open(_file(path), "rb") as file:
            for items in _pages(file, path):
                answer = client.ask("bundle.read", {"items": items})
                for name in _COUNTED:
                    counts[name] += answer.number(name)
                reason = reason or answer.text("reason")
                out.progress(_words(counts))
    except OSError as exc:
        raise Failure(f"cannot read {path}: {exc.strerror}") from None
    finally:
        out.progress("")
    if out.json:
        out.document({"path": path, **counts, "reason": reason or None})
    else:
        out.said(_words(counts) or "nothing in it")
    if refused := counts["refused"]:  # B3
        what = f"{counted(refused, 'item')} of the bundle {'was' if refused == 1 else 'were'}"
        raise Failure(f"{what} refused{f': {reason}' if reason else ''}")
    return 0


def _words(counts: dict[str, int]) -> str:
    """`2 messages, 1 card`: what there is any of."""
    return ", ".join(
        f"{count} {_WORDS[name]}" if name in _WORDS else counted(count, name.removesuffix("s"))
        for name, count in counts.items()
        if count
    )


def _pages(file: BinaryIO, path: str) -> Iterator[list[str]]:
    """The items of a bundle as base64, as many at a time as make a request (B2)."""
    if file.read(len(_MAGIC)) != _MAGIC:
        raise Failure(
            f"{path} is no bundle", hint="give a file that `amp bundle write` made on a node"
        )
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
