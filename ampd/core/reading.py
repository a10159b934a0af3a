"""Whole messages: the text as it was sent, and what an assistant may be shown.

O1  `content` is the text made harmless for a terminal; wrapped, unless its sender is verified.
O2  What is shown was proved against the journal's checksum and keyed chain in the same moment.
O4  Whoever asks for many is shown each once, SHOWN_AT_ONCE characters together at the most (one
    message may be longer); and others have their turns in between.
"""

from collections.abc import Sequence
from typing import Final

import trio

from ampd.core.agents import Agent
from ampd.core.flagging import Flagging
from ampd.core.lists import Lists, Summary
from ampd.core.safety import shown, wrap
from ampd.model.address import fingerprint
from ampd.model.errors import Refused, StorageError
from ampd.model.values import value
from ampd.storage.index import read_signed
from ampd.storage.records import Kept
from ampd.storage.store import Store

SHOWN_AT_ONCE: Final = 8 << 20  # characters; a line of the local socket has as many bytes
_FOUND_AT_ONCE: Final = 20  # some 1 ms of the loop


async def find_all(lists: Lists, agent: Agent, texts: Sequence[str]) -> list[int]:
    """The messages that numbers, ids or parts of ids name, each once, in the order asked for."""
    found: dict[int, None] = {}
    for place, text in enumerate(texts):
        if place % _FOUND_AT_ONCE == _FOUND_AT_ONCE - 1:
            await trio.lowlevel.checkpoint()
        found[lists.find(agent, text)] = None
    return list(found)


@value
class Full:
    """A whole message: the text as sent, and what an assistant may be shown."""

    summary: Summary
    body: str
    payload: str | None
    context: str | None
    content: str
    signer: str
    flags: tuple[str, ...]


class Reading:
    """Opens messages for the agents of this node."""

    def __init__(self, store: Store, lists: Lists, flagging: Flagging) -> None:
        self._store = store
        self._lists = lists
        self._flagging = flagging

    def full(self, agent: Agent, seq: int) -> Full:
        """A whole message, proved as it lies in the journal (P4)."""
        return self._shown(self._lists.one(agent, seq))

    def _shown(self, summary: Summary) -> Full:
        record = self._store.payload(summary.seq)
        if not isinstance(record, Kept):
            raise StorageError("the index points to another record", hint="amp check --repair")
        key, members = read_signed(record.signed)
        body, payload, context = members["body"], members["payload"], members["context"]
        flags = self._flagging.of_text(summary.seq, summary.subject, body, payload, context)
        if summary.trust == "verified":
            content = shown(body)
        else:
            content = wrap(
                body, source="agent", sender=summary.sender, trust=summary.trust, flags=flags
            )
        return Full(summary, body, payload, context, content, fingerprint(key), flags)

    async def get(self, agent: Agent, texts: Sequence[str]) -> list[Full]:
        """Whole messages, in the order asked for (O4); Refused if they are too much together."""
        found: list[Full] = []
        size = 0
        for place, seq in enumerate(await find_all(self._lists, agent, texts)):
            if place:
                await trio.lowlevel.checkpoint()
            full = self.full(agent, seq)
            size += _length(full)
            if found and size > SHOWN_AT_ONCE:
                raise Refused(
                    f"{len(texts)} messages hold more than {SHOWN_AT_ONCE >> 20} MiB together",
                    code="too_large", hint=f"ask for {len(found)} of them at a time",
                )  # fmt: skip
            found.append(full)
        return found


def _length(full: Full) -> int:
    texts = (full.body, full.content, full.payload, full.context, full.summary.subject)
    return sum(len(text or "") for text in texts)
