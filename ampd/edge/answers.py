"""The writing half of a connection: documents become lines, and wait to be taken.

  Z4  A caller that does not read its answers for WRITE_WITHIN seconds is gone.
  Z8  Answers that are large and were not taken yet hold so much memory together, and no more
      (line_budget.py, L1): beyond it the caller that holds the most is gone.
  Z9  The answers to one batch are MAX_BATCH_ANSWER bytes, or a little more; what follows in the
      batch is answered with an error, and was not carried out.

Not here: what is answered (connection.py), what is pushed (subscriptions.py).
"""

import json
from typing import Final

import trio

from ampd.edge.json_rpc import Answer
from ampd.edge.line_budget import LineBudget
from ampd.protocol.local import LINE_LIMIT

WRITE_WITHIN: Final = 30.0  # seconds; then a reader that does not read is gone
MAX_BATCH_ANSWER: Final = LINE_LIMIT  # bytes; as much as a batch may have
_SMALL: Final = 65536  # bytes; 512 connections with less than this each are not worth a count


def as_text(document: object) -> str:
    """One document as JSON, without a line feed."""
    return json.dumps(document, separators=(",", ":"))


class Answers:
    """Writes to one caller."""

    def __init__(self, stream: trio.SocketStream, budget: LineBudget, socket: str) -> None:
        """`socket` says with whom this caller shares what is counted (Z8)."""
        self._stream = stream
        self._budget = budget
        self._socket = socket
        self._writing = trio.Lock()

    async def write(self, *documents: object) -> None:
        """One line each, in one piece: many answers wake their reader once."""
        await self.write_text("\n".join([as_text(document) for document in documents]))

    async def write_text(self, text: str) -> None:
        """Documents that are text already; TooSlowError when the caller is gone (Z4, Z8)."""
        data = text.encode() + b"\n"
        if len(data) <= _SMALL:
            await self._send(data)
            return
        scope = trio.CancelScope()
        self._budget.holds(scope.cancel, self._socket, len(data))
        try:
            with scope:
                await self._send(data)
        finally:
            self._budget.holds(scope.cancel, self._socket, 0)
        if scope.cancelled_caught:
            raise trio.TooSlowError

    async def _send(self, data: bytes) -> None:
        async with self._writing:
            with trio.fail_after(WRITE_WITHIN):
                await self._stream.send_all(data)

    def batch(self) -> "Batch":
        """Where the answers to one array are gathered."""
        return Batch(self, self._budget, self._socket)


class Batch:
    """The answers to one array, or to one request that takes long, each made text at once."""

    def __init__(self, answers: Answers, budget: LineBudget, socket: str) -> None:
        self._answers = answers
        self._budget = budget
        self._socket = socket
        self._texts: list[str] = []
        self._size = 0
        self._given_up = False

    @property
    def is_full(self) -> bool:
        """Whether the rest is refused (Z9)."""
        return self._size > MAX_BATCH_ANSWER

    def add(self, answer: Answer) -> None:
        """One more."""
        text = as_text(answer)
        self._texts.append(text)
        self._size += len(text)  # all ASCII
        if self._size > _SMALL:
            self._budget.holds(self._give_up, self._socket, self._size)

    def _give_up(self) -> None:
        """Z8."""
        self._texts.clear()
        self._given_up = True

    async def write(self, *, array: bool) -> bool:
        """Say it, as one array or as the one answer that it is; whether there was anything."""
        texts, self._texts = self._texts, []
        self._budget.holds(self._give_up, self._socket, 0)
        if self._given_up:
            raise trio.TooSlowError
        if texts:
            await self._answers.write_text(f"[{','.join(texts)}]" if array else texts[0])
        return bool(texts)

    def drop(self) -> None:
        """It is not written any more."""
        self._texts.clear()
        self._budget.holds(self._give_up, self._socket, 0)
