"""Waiting until a message has arrived: follows `message.status` notifications until a deadline."""

import time
from _collections_abc import Callable  # `collections.abc` would import all of `collections`

from amp_cli.client import Client, Lost
from amp_cli.document import Document
from amp_cli.errors import NoDaemon


def await_delivery(
    client: Client, message: str, is_settled: Callable[[Document], bool], within: float
) -> tuple[Document, bool]:
    """The message's status once `is_settled`, or the last one known and True for "timed out"."""
    deadline = time.monotonic() + within
    connection = client.open()
    try:
        connection.call("inbox.subscribe", {})
        while True:
            status = connection.call("message.status", {"id": message})
            if is_settled(status):
                return status, False
            while True:
                rest = deadline - time.monotonic()
                news = connection.notification(rest) if rest > 0 else None
                if news is None:
                    return status, True
                if news.text("method") == "message.status":
                    break
    except Lost:
        raise NoDaemon(
            "the daemon went away; the message stays queued", hint=f"amp status {message}"
        ) from None
    finally:
        connection.close()
