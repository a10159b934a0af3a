"""A second implementation of the peer session's bytes, written from PROTOCOL.md alone.

It shares no code with ampd/protocol: Noise revision 34 by hmac, hashlib and libsodium. It makes and
checks tests/vectors/session.json; `python tests/protocol/by_hand.py` prints that file.
"""

import hashlib
import hmac
import json
import struct

from nacl import bindings

NAME = b"Noise_XX_25519_ChaChaPoly_SHA256"  # 32 bytes: it is the first hash itself
CONTEXT = b"ampd/noise-static/1\0"


def public(secret):
    return bindings.crypto_scalarmult_base(secret)


def hkdf(chaining_key, material):
    """Noise, section 4.3, two outputs."""
    temporary = hmac.digest(chaining_key, material, "sha256")
    first = hmac.digest(temporary, b"\1", "sha256")
    return first, hmac.digest(temporary, first + b"\2", "sha256")


def seal(key, number, text, data=b""):
    nonce = struct.pack("<4xQ", number)
    return bindings.crypto_aead_chacha20poly1305_ietf_encrypt(text, data, nonce, key)


class Transcript:
    """A SymmetricState (Noise, section 5.2) that only writes: it plays both sides."""

    def __init__(self):
        self.chaining_key = NAME
        self.hash = hashlib.sha256(NAME + b"ampd/1").digest()
        self.key, self.number = None, 0

    def mix(self, data):
        self.hash = hashlib.sha256(self.hash + data).digest()
        return data

    def agree(self, secret, other):
        shared = bindings.crypto_scalarmult(secret, public(other))
        self.chaining_key, self.key = hkdf(self.chaining_key, shared)
        self.number = 0

    def write(self, text):
        if self.key is None:
            return self.mix(text)
        sealed = seal(self.key, self.number, text, self.hash)
        self.number += 1
        return self.mix(sealed)


def proof(seed, static):
    node, secret = bindings.crypto_sign_seed_keypair(seed)
    return node + bindings.crypto_sign(CONTEXT + public(static), secret)[:64]


def record(body):
    return struct.pack(">H", len(body)) + body


def conversation(caller, answerer):
    """The three handshake messages as they are written, and the keys of both directions.

    A side is a dict of secrets: node (Ed25519 seed), static and ephemeral (X25519).
    """
    t = Transcript()
    first = t.mix(public(caller["ephemeral"])) + t.write(b"")

    second = t.mix(public(answerer["ephemeral"]))
    t.agree(answerer["ephemeral"], caller["ephemeral"])
    second += t.write(public(answerer["static"]))
    t.agree(answerer["static"], caller["ephemeral"])
    second += t.write(proof(answerer["node"], answerer["static"]))

    third = t.write(public(caller["static"]))
    t.agree(caller["static"], answerer["ephemeral"])
    third += t.write(proof(caller["node"], caller["static"]))

    messages = [b"ampd/1\n" + record(first), record(second), record(third)]
    return messages, hkdf(t.chaining_key, b"")


SIDES = {
    "caller": {
        "node": bytes(range(32)),
        "static": bytes(range(32, 64)),
        "ephemeral": bytes(range(64, 96)),
    },
    "answerer": {
        "node": bytes(range(96, 128)),
        "static": bytes(range(128, 160)),
        "ephemeral": bytes(range(160, 192)),
    },
}

# [who says it, what, its CBOR, written out by hand from RFC 8949]
WORDS = [
    (
        "caller",
        "Hello(1, 'alice.local', h'6162636465666768', 4160, 1048576, [])",
        "87 00 01 6b 616c6963652e6c6f63616c 48 6162636465666768 19 1040 1a 00100000 80",
    ),
    (
        "answerer",
        "Hello(1, 'bob.local', h'6768696a6b6c6d6e', 0, 1048576, ['later'])",
        "87 00 01 69 626f622e6c6f63616c 48 6768696a6b6c6d6e 00 1a 00100000 81 65 6c61746572",
    ),
    ("caller", "Ping(0)", "82 02 00"),
    ("answerer", "Pong(0)", "82 03 00"),
    ("answerer", "Cards(0, [h'cafe'])", "83 04 00 81 42 cafe"),
    ("caller", "WantCards(1, ['bob@bob.local'])", "83 05 01 81 6d 626f6240626f622e6c6f63616c"),
    ("answerer", "Cards(1, [])", "83 04 01 80"),
    (
        "caller",
        "Deliver(1, Envelope(h'00112233445566778899aabbccddeeff', 1800000000000, h'5ea1ed'))",
        "85 08 01 50 00112233445566778899aabbccddeeff 1b 000001a3185c5000 43 5ea1ed",
    ),
    ("answerer", "Accept(1, 'delivered', h'5160')", "84 09 01 69 64656c697665726564 42 5160"),
    (
        "caller",
        "Deliver(2, Envelope(h'00112233445566778899aabbccddeeff', 1800000000000, h'0bad'))",
        "85 08 02 50 00112233445566778899aabbccddeeff 1b 000001a3185c5000 42 0bad",
    ),
    (
        "answerer",
        "Refuse(2, 'stale_key', 'renewed', h'cafe')",
        "85 0a 02 69 7374616c655f6b6579 67 72656e65776564 42 cafe",
    ),
    ("caller", "Join(3, h'05ec4e')", "83 10 03 43 05ec4e"),
    ("answerer", "Accept(3, 'joined', h'')", "84 09 03 66 6a6f696e6564 40"),
    ("caller", "Collect(4, [h'cafe'])", "83 11 04 81 42 cafe"),
    ("answerer", "Accept(4, 'collecting', h'')", "84 09 04 6a 636f6c6c656374696e67 40"),
    (
        "answerer",
        "Deliver(1, Envelope(h'00112233445566778899aabbccddeeff', 1800000000000, h'5ea1ed'))",
        "85 08 01 50 00112233445566778899aabbccddeeff 1b 000001a3185c5000 43 5ea1ed",
    ),
    ("caller", "Accept(1, 'delivered', h'')", "84 09 01 69 64656c697665726564 40"),
    ("caller", "Goodbye('an hour')", "82 01 67 616e20686f7572"),
    ("answerer", "Goodbye('')", "82 01 60"),
]


def vectors():
    messages, keys = conversation(SIDES["caller"], SIDES["answerer"])
    sealing, numbers = dict(zip(SIDES, keys, strict=True)), dict.fromkeys(SIDES, 0)
    said = []
    for who, word, spelled in WORDS:
        body = bytes.fromhex(spelled)
        sealed = seal(sealing[who], numbers[who], struct.pack(">I", len(body)) + body)
        numbers[who] += 1
        said.append({"by": who, "word": word, "cbor": body.hex(), "bytes": record(sealed).hex()})
    return {
        "about": "One peer session, ampd/protocol/PROTOCOL.md. Hexadecimal; secrets are for tests.",
        "secrets": {
            who: {name: secret.hex() for name, secret in side.items()}
            for who, side in SIDES.items()
        },
        "handshake": [message.hex() for message in messages],
        "session": said,
    }


if __name__ == "__main__":
    print(json.dumps(vectors(), indent=1))
