"""Whole messages: the text as it was sent, and what an assistant may be shown.

O1  `content` is the text made harmless for a terminal; wrapped, unless its sender is verified.
O2  What is shown was proved against the journal's checksum and keyed chain in the same moment.
"""

from collections.abc import Sequence

from ampd.core.agents import Agent
from ampd.core.flagging import Flagging
from ampd.core.lists import Lists, Summary
from ampd.core.safety import shown, wrap
from ampd.model.address import fingerprint
from ampd.model.errors import StorageError
from ampd.model.values import value
from ampd.storage.index import read_signed
from ampd.storage.records import Kept
from ampd.storage.store import Store


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

    def get(self, agent: Agent, texts: Sequence[str]) -> list[Full]:
        """Whole messages, in the order asked for."""
        return [self.full(agent, self._lists.find(agent, text)) for text in texts]
