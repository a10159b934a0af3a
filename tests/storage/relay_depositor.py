"""A program that deposits into a relay's SQLite file until it is killed.

    python relay_depositor.py FILE FIRST

Eight senders; a line with its number is written for each deposit that was answered.
"""

import itertools
import os
import sys
from pathlib import Path

import trio

from ampd.model.message import Envelope
from ampd.storage.relay_store.port import DAY, Limits
from ampd.storage.relay_store.sqlite import SqliteRelayStore


async def main(path, first):
    limits = Limits(mailbox_messages=1_000_000)
    store = SqliteRelayStore(path, limits, lambda: DAY)
    numbers = itertools.count(first)

    async def send():
        for number in numbers:
            await store.deposit(Envelope(bytes(16), 2 * DAY, number.to_bytes(4, "big") * 100))
            os.write(1, f"{number}\n".encode())

    async with trio.open_nursery() as nursery:
        await nursery.start(store.run)
        for _ in range(8):
            nursery.start_soon(send)


if __name__ == "__main__":
    trio.run(main, Path(sys.argv[1]), int(sys.argv[2]))
