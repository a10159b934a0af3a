"""Whole pieces out of a byte stream that may be cut anywhere, with a limit.

    record = length:u16  body      (big-endian; what Noise calls a message: at most 65535 bytes)
    frame  = length:u32  body      (big-endian; one word of a session)

  F1  Where the stream is cut makes no difference.
  F2  A length over the limit, or of zero, is refused when it has arrived: nothing is kept for it.
  F3  Between two calls a buffer holds less than one piece: at most the limit and its header.

Handshake messages and ciphertext travel as records; the frames of a session are what the records
say, end to end, and may begin and end anywhere in them.
"""

from collections.abc import Iterator
from typing import Final

from ampd.model.errors import ProtocolError

MAX_RECORD: Final = 65535  # Noise revision 34, section 3: message format


class Pieces:
    """Cuts a stream into its pieces; `width` is that of the length in bytes."""

    __slots__ = ("_buffer", "_limit", "_width")

    def __init__(self, width: int, limit: int) -> None:
        self._width = width
        self._limit = limit
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The pieces that `data` completes; ProtocolError at a length that may not be (F2)."""
        buffer = self._buffer
        buffer += data
        start = 0
        while (end := self._end(start)) is not None:
            piece = bytes(memoryview(buffer)[start + self._width : end])
            start = end
            yield piece
        del buffer[:start]

    @property
    def held(self) -> int:
        """The bytes of a piece that is not complete."""
        return len(self._buffer)

    def _end(self, start: int) -> int | None:
        """Where the piece that begins at `start` ends, once all of it is here."""
        body = start + self._width
        if len(self._buffer) < body:
            return None
        length = int.from_bytes(self._buffer[start:body], "big")
        if not 0 < length <= self._limit:
            raise ProtocolError(f"F2: a piece of {length} bytes, the limit is {self._limit}")
        return body + length if len(self._buffer) >= body + length else None


def records() -> Pieces:
    """The records of a stream."""
    return Pieces(2, MAX_RECORD)


def frames(limit: int) -> Pieces:
    """The frames of a stream, each of at most `limit` bytes."""
    return Pieces(4, limit)


def record(body: bytes) -> bytes:
    """`body`, of 1 to 65535 bytes, as a record."""
    return len(body).to_bytes(2, "big") + body


def frame(body: bytes) -> bytes:
    """`body` as a frame."""
    return len(body).to_bytes(4, "big") + body
