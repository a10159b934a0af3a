"""Proof of keys, and the cipher that follows from it: Noise_XX_25519_ChaChaPoly_SHA256.

    caller                                     answerer
    "ampd/1\\n" record(e)              ------>
                                      <------  record(e, ee, s, es, proof)
    record(s, se, proof)              ------>
    records of ciphertext             <----->  records of ciphertext

    proof = node key (Ed25519, 32)  signature (64) by it over the sender's X25519 static key s,
            context "ampd/noise-static/1"

The prologue is "ampd/1", so the messages are 32, 192 and 160 bytes long, always. What follows are
Noise transport messages: an empty associated data, a nonce that counts from 0 in each direction.

  H1  The answerer writes nothing before it has read the opening bytes and a whole first message.
  H2  A message of another length than its own is refused when its length has arrived.
  H3  Each side proves its node key: a proof that does not hold ends the handshake.
  H4  The caller compares the node with the one that it meant before it shows its own key.
  H5  At most 1 KiB is taken before the other side is proved.
  H6  A record that does not open ends the session; so do a repeated, a lost and a swapped one.
  H7  A node does not speak with itself.

The X25519 static key is made when the daemon starts and never kept; the node key is the identity.
receive() and open() raise RemoteProtocolError, and nothing else. This module is the only one that
imports noiseprotocol and cryptography. Not here: what is said afterwards (session.py), the time
that a handshake may take (edge/peer_connection.py).
"""

import struct
from typing import Any, Final, Self

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from noise.connection import Keypair, NoiseConnection
from noise.exceptions import NoiseValueError

from ampd.crypto.keys import SigningKey, verify
from ampd.model.errors import LocalProtocolError, ProtocolError, Refused, RemoteProtocolError
from ampd.protocol.framing import MAX_RECORD, record, records

PROTOCOL: Final = b"Noise_XX_25519_ChaChaPoly_SHA256"
PROLOGUE: Final = b"ampd/1"
OPENING: Final = PROLOGUE + b"\n"
CONTEXT: Final = "ampd/noise-static/1"
MAX_UNPROVED: Final = 1024  # bytes taken before authentication; a handshake needs 203 of them

_TAG: Final = 16
_PROOF: Final = 32 + 64
_FIRST: Final = 32
_SECOND: Final = 32 + (32 + _TAG) + (_PROOF + _TAG)
_THIRD: Final = (32 + _TAG) + (_PROOF + _TAG)
_MAX_PLAIN: Final = MAX_RECORD - _TAG
_MAX_NONCE: Final = 1 << 32  # far under Noise's 2^64 - 1: a session ends long before (session.py)
_nonce = struct.Struct("<4xQ").pack


class WrongNode(RemoteProtocolError):
    """Another node answered than the one that was meant, or it was ourselves."""


class Channel:
    """The cipher of one session: plaintext streams in both directions, in records."""

    __slots__ = ("_opened", "_opener", "_records", "_sealed", "_sealer")

    def __init__(self, sending: bytes, receiving: bytes) -> None:
        self._sealer = ChaCha20Poly1305(sending)
        self._opener = ChaCha20Poly1305(receiving)
        self._sealed = self._opened = 0
        self._records = records()

    def seal(self, data: bytes) -> bytes:
        """The bytes to write so that the other side reads `data`."""
        parts = []
        for start in range(0, len(data), _MAX_PLAIN):
            if self._sealed >= _MAX_NONCE:
                raise LocalProtocolError("the keys of this session are used up")
            body = self._sealer.encrypt(
                _nonce(self._sealed), data[start : start + _MAX_PLAIN], None
            )
            self._sealed += 1
            parts.append(record(body))
        return b"".join(parts)

    def open(self, data: bytes) -> bytes:
        """What the records that `data` completes say (H6)."""
        parts = []
        try:
            for body in self._records.feed(data):
                parts.append(self._opener.decrypt(_nonce(self._opened), body, None))
                self._opened += 1
        except InvalidTag:
            raise RemoteProtocolError("H6: a record that does not open") from None
        except ProtocolError as exc:
            raise RemoteProtocolError(str(exc)) from None
        return b"".join(parts)


class Handshake:
    """One side of a handshake. It is over when `channel` is there; then `peer` is proved.

    `rest` is what came behind the handshake: the first bytes for the channel.
    """

    def __init__(
        self, noise: Any, key: SigningKey, steps: tuple[int, ...], expected: bytes | None
    ) -> None:
        noise.start_handshake()
        self._noise = noise
        self._state = noise.noise_protocol.handshake_state
        self._key = key
        self._sizes = list(steps)  # of the messages that are still to come
        self._expected = expected
        self._opening = b"" if noise.noise_protocol.initiator else OPENING
        self._buffer = b""
        self._taken = 0
        self.peer: bytes | None = None
        self.channel: Channel | None = None
        self.rest = b""

    @classmethod
    def calling(
        cls,
        key: SigningKey,
        static: bytes,
        expected: bytes | None = None,
        ephemeral: bytes | None = None,
    ) -> Self:
        """The side that dialled, and meant the node `expected` (None: whoever answers).

        `static` and `ephemeral` are X25519 secrets of 32 bytes; ephemeral is for test vectors only.
        """
        noise = _noise(static, ephemeral)
        noise.set_as_initiator()
        return cls(noise, key, (_SECOND,), expected)

    @classmethod
    def answering(cls, key: SigningKey, static: bytes, ephemeral: bytes | None = None) -> Self:
        """The side that was dialled; the secrets are as in `calling`."""
        noise = _noise(static, ephemeral)
        noise.set_as_responder()
        return cls(noise, key, (_FIRST, _THIRD), None)

    def start(self) -> bytes:
        """The first bytes to write; the answerer has none (H1)."""
        if self._opening:
            return b""
        return OPENING + record(bytes(self._noise.write_message()))

    def receive(self, data: bytes) -> bytes:
        """The bytes to write in answer to `data`; RemoteProtocolError: close without a word."""
        self._taken += len(data)
        if self._taken > MAX_UNPROVED:
            raise RemoteProtocolError("H5: more than 1 KiB before the handshake was over")
        self._buffer += data
        self._read_opening()
        answer = b""
        while not self._opening and self._sizes and (message := self._next_message()) is not None:
            answer += self._advance(message)
        if self.channel is not None:
            self.rest, self._buffer = self._buffer, b""
        return answer

    def _read_opening(self) -> None:
        size = min(len(self._opening), len(self._buffer))
        if self._buffer[:size] != self._opening[:size]:
            raise RemoteProtocolError("H1: this is not a handshake of ampd/1")
        self._opening, self._buffer = self._opening[size:], self._buffer[size:]

    def _next_message(self) -> bytes | None:
        size = self._sizes[0]
        if len(self._buffer) < 2:
            return None
        if int.from_bytes(self._buffer[:2], "big") != size:
            raise RemoteProtocolError("H2: this is not a handshake of ampd/1")
        if len(self._buffer) < 2 + size:
            return None
        message, self._buffer = self._buffer[2 : 2 + size], self._buffer[2 + size :]
        self._sizes.pop(0)
        return message

    def _advance(self, message: bytes) -> bytes:
        """Read one message and write the one that follows it."""
        answer = b""
        try:
            proof = bytes(self._noise.read_message(message))
            if proof:
                self.peer = self._proved(proof)
            if not self._noise.handshake_finished:
                answer = record(bytes(self._noise.write_message(self._proof())))
        except (InvalidTag, ValueError, NoiseValueError):  # ValueError: a key of low order
            raise RemoteProtocolError("H3: the handshake does not hold") from None
        if self._noise.handshake_finished:
            protocol = self._noise.noise_protocol
            self.channel = Channel(protocol.cipher_state_encrypt.k, protocol.cipher_state_decrypt.k)
        return answer

    def _proof(self) -> bytes:
        static = self._state.s.public_bytes
        return self._key.public + self._key.sign(CONTEXT, static)

    def _proved(self, proof: bytes) -> bytes:
        node, signature = proof[:32], proof[32:]
        try:
            verify(node, CONTEXT, self._state.rs.public_bytes, signature)
        except Refused as exc:
            raise RemoteProtocolError(f"H3: the node does not prove its key: {exc}") from None
        if node == self._key.public:
            raise WrongNode("H7: this is ourselves")
        if self._expected is not None and node != self._expected:
            raise WrongNode("H4: another node answers there, with another key")
        return node


def _noise(static: bytes, ephemeral: bytes | None) -> Any:
    noise = NoiseConnection.from_name(PROTOCOL)
    noise.set_prologue(PROLOGUE)
    noise.set_keypair_from_private_bytes(Keypair.STATIC, static)
    if ephemeral is not None:
        noise.set_keypair_from_private_bytes(Keypair.EPHEMERAL, ephemeral)
    return noise
