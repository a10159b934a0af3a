"""Calls other nodes: dials their addresses, and proves that the right one answers.

  P3  A node that never proved its key is called in a pace shared by all of them: CALLS_AT_ONCE, and
      at least CALL_EVERY apart, so that forged announcements cannot make us a flood.

Not here: whom to call and when (peer_tcp.py), what is said then (peer_connection.py).
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Final

import trio

from ampd.crypto.keys import SigningKey
from ampd.edge.peer_sockets import HANDSHAKE_WITHIN, Endpoint, connect, first_to_answer, prove
from ampd.protocol.handshake import Handshake

CALLS_AT_ONCE: Final = 4
CALL_EVERY: Final = 0.1  # seconds


class Caller:
    """The calls of one node; `static` is its X25519 secret."""

    def __init__(self, key: SigningKey, static: bytes) -> None:
        self._key = key
        self._static = static
        self._at_once = trio.CapacityLimiter(CALLS_AT_ONCE)
        self._next_call = 0.0

    async def call(
        self, node: bytes, endpoints: Sequence[Endpoint], *, trusted: bool
    ) -> tuple[Endpoint, trio.SocketStream, Handshake]:
        """Where `node` answered first, and the handshake with it; the caller closes the stream.

        Raises Unavailable, or ProtocolError if somebody else is there. A node that is not
        `trusted` is called in the common pace (P3).
        """
        async with self._pace(trusted=trusted):
            endpoint, (stream, handshake) = await first_to_answer(
                endpoints, lambda endpoint: self._shake_hands(endpoint, node)
            )
        return endpoint, stream, handshake

    async def _shake_hands(
        self, endpoint: Endpoint, node: bytes
    ) -> tuple[trio.SocketStream, Handshake]:
        stream = await connect(endpoint)
        async with AsyncExitStack() as on_failure:
            on_failure.push_async_callback(trio.aclose_forcefully, stream)
            handshake = Handshake.calling(self._key, self._static, expected=node)
            with trio.fail_after(HANDSHAKE_WITHIN):
                await prove(stream, handshake)
            on_failure.pop_all()
        return stream, handshake

    @asynccontextmanager
    async def _pace(self, *, trusted: bool) -> AsyncIterator[None]:
        if trusted:
            yield
            return
        async with self._at_once:
            self._next_call = max(self._next_call + CALL_EVERY, trio.current_time())
            await trio.sleep_until(self._next_call)
            yield
