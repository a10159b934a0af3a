"""A second reader of everything in PROTOCOL.md, section Envelopes, that shares no line with ampd.

It was written from the text alone: `read(kind, entry)` gives what a vector says, or raises Wrong
with the error's code. Slow and short on purpose; the only libraries are for the primitives.
"""

import base64
import hashlib
import ipaddress
import re
import urllib.parse
import uuid

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from nacl.exceptions import CryptoError
from nacl.public import Box, PrivateKey, PublicKey

P, L = 2**255 - 19, 2**252 + 27742317777372353535851937790883648493  # RFC 8032, section 5.1
D = -121665 * pow(121666, -1, P) % P
NAME = r"[a-z0-9](?:[a-z0-9._-]{0,61}[a-z0-9])?"
LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"


class Wrong(Exception):
    def __init__(self, code="invalid"):
        self.code = code


def need(condition, code="invalid"):
    if not condition:
        raise Wrong(code)


def decode(data, limit=1 << 20):
    need(len(data) <= limit, "too_large")
    reader = Reader(data)
    value = reader.item(0)
    need(reader.at == len(data))
    return value


class Reader:
    def __init__(self, data):
        self.data, self.at, self.items = data, 0, 0

    def take(self, size):
        need(size <= len(self.data) - self.at)
        self.at += size
        return self.data[self.at - size : self.at]

    def item(self, depth):
        self.items += 1
        need(self.items <= 4096, "too_large")
        first = self.take(1)[0]
        if first in (0xF4, 0xF5, 0xF6):
            return {0xF4: False, 0xF5: True, 0xF6: None}[first]
        major, argument = first >> 5, first & 31
        need(major < 6 and argument < 28)
        if argument >= 24:
            size = 1 << (argument - 24)
            argument = int.from_bytes(self.take(size), "big")
            need(argument >= (24 if size == 1 else 1 << (4 * size)))
        if major < 2:
            return argument if major == 0 else -1 - argument
        if major < 4:
            raw = self.take(argument)
            try:
                return raw if major == 2 else raw.decode("utf-8")
            except UnicodeDecodeError:
                raise Wrong from None
        need(depth < 16)
        if major == 4:
            return [self.item(depth + 1) for _ in range(argument)]
        found, last = {}, b""
        for _ in range(argument):
            start = self.at
            key = self.item(depth + 1)
            need(isinstance(key, str) and self.data[start : self.at] > last)
            last = self.data[start : self.at]
            found[key] = self.item(depth + 1)
        return found


def head(major, size):
    for code, width in ((24, 1), (25, 2), (26, 4)):
        if size < 24:
            break
        if size < 1 << 8 * width:
            return bytes([major << 5 | code]) + size.to_bytes(width, "big")
    return bytes([major << 5 | size])


def add(a, b):
    (x1, y1), (x2, y2) = a, b
    t = D * x1 * x2 * y1 * y2
    x, y = (x1 * y2 + x2 * y1) * pow(1 + t, -1, P), (y1 * y2 + x1 * x2) * pow(1 - t, -1, P)
    return x % P, y % P


def public(key):
    """A point of prime order in its one spelling."""
    need(len(key) == 32, "forged")
    y, sign = int.from_bytes(key, "little") & (1 << 255) - 1, key[31] >> 7
    need(y < P, "forged")
    square = (y * y - 1) * pow(D * y * y + 1, -1, P) % P
    x = pow(square, (P + 3) // 8, P)
    x = x if x * x % P == square else x * pow(2, (P - 1) // 4, P) % P
    need(x * x % P == square and not (x == 0 and sign), "forged")
    point, total = (x if x & 1 == sign else P - x, y), (0, 1)
    need(point != total, "forged")
    for bit in f"{L:b}":
        total = add(total, total)
        total = add(total, point) if bit == "1" else total
    need(total == (0, 1), "forged")
    return key


def signed(key, message, signature):
    need(len(signature) == 64, "forged")
    public(signature[:32])  # R: of full order too; not every library looks
    try:
        Ed25519PublicKey.from_public_bytes(public(key)).verify(signature, message)
    except InvalidSignature:
        raise Wrong("forged") from None


def sign1(data, context):
    match decode(data, 16 << 20):
        case [bytes(protected), dict(header), bytes(payload), bytes(signature)] if (
            not header and len(signature) == 64 and len(protected) == 38
        ):
            need(protected[:6].hex() == "a20127045820")
        case _:
            raise Wrong
    aad = context.encode()
    parts = [(3, b"Signature1"), (2, protected), (2, aad), (2, payload)]
    tbs = b"\x84" + b"".join(head(major, len(part)) + part for major, part in parts)
    signed(protected[6:], tbs, signature)
    return {"key": protected[6:], "payload": payload}


def data(size):
    return lambda value: type(value) is bytes and len(value) == size


def text(limit, least=0):
    return lambda value: type(value) is str and least <= len(value) <= limit


def number(value):
    return type(value) is int and 0 <= value < 1 << 63


def or_null(check):
    return lambda value: value is None or check(value)


def array(limit, check):
    return lambda value: type(value) is list and len(value) <= limit and all(map(check, value))


def wire_address(value):
    return type(value) is str and address(value) == value


def recipients(value):
    def one(item):
        return type(item) is list and len(item) == 3 and wire_address(item[0]) and data(32)(item[1])

    need(array(100, one)(value) and value)
    need(all(number(item[2]) and item[2] > 0 for item in value))
    return len({item[1] for item in value}) == len(value)


def boolean(value):
    return type(value) is bool


def version(value):
    return type(value) is int and value == 1


LONG = text(16 << 20)
MAPS = {
    "message": {
        "v": version, "id": data(16), "from": wire_address, "to": recipients, "epoch": data(8),
        "sent": number, "expires": number, "thread": data(16), "re": or_null(data(16)),
        "priority": lambda value: value in ("low", "normal", "high", "urgent"),
        "type": text(64, 1), "subject": text(256), "body": LONG, "payload": or_null(LONG),
        "context": or_null(LONG), "receipt": boolean,
    },
    "receipt": {
        "v": version, "id": data(16), "digest": data(32), "recipient": wire_address,
        "sender": wire_address, "at": number,
        "stage": lambda value: value in ("delivered", "read", "acked", "refused"),
        "reason": text(512),
    },
    "card": {
        "v": version, "address": wire_address, "number": number, "issued": number,
        "mailbox": data(16), "nodes": array(16, data(32)), "inbox": data(32),
        "inbox_until": number, "fallback": data(32), "alias": text(128),
        "relays": array(16, lambda value: text(512)(value) and node_uri(value) == value),
        "description": text(1024), "capabilities": array(64, text(64)), "withdrawn": boolean,
    },
    "letter": {
        "v": version, "kind": lambda value: value in ("message", "receipts"),
        "signed": lambda value: type(value) is bytes,
        "card": lambda value: type(value) is bytes and len(value) <= 16384,
    },
}  # fmt: skip


def members(kind, raw, limit=16 << 20):
    value = decode(raw, 16384 if kind == "card" else limit)
    need(type(value) is dict and set(value) == set(MAPS[kind]))
    need(all(check(value[name]) for name, check in MAPS[kind].items()))
    need(kind != "receipt" or not value["reason"] or value["stage"] == "refused")
    return value


def letter(raw):
    size = 4 + int.from_bytes(raw[:4], "big")
    bucket = 512
    if size > 512:
        low = size.bit_length() - 1
        step = 1 << (low - low.bit_length())
        bucket = -(-size // step) * step
    need(len(raw) == bucket and not any(raw[size:]))
    return members("letter", raw[4:size])


def receipts(raw):
    value = decode(raw, 16 << 20)
    need(type(value) is list and 0 < len(value) <= 500)
    need(all(type(each) is bytes and len(each) <= 4096 for each in value))
    return value


def envelope(raw):
    match decode(raw, 17 << 20):
        case [bytes(mailbox), expires, bytes(sealed)] if len(mailbox) == 16 and number(expires):
            need(len(sealed) <= 16 << 20)
            return {"id": hashlib.blake2b(sealed, digest_size=32).digest(), "expires": expires}
    raise Wrong


def unseal(raw, secret):
    try:
        private, sender = PrivateKey(secret), PublicKey(raw[:32])
        nonce = hashlib.blake2b(raw[:32] + bytes(private.public_key), digest_size=24).digest()
        return Box(private, sender).decrypt(raw[32:], nonce)
    except (CryptoError, ValueError):
        raise Wrong("stale_key") from None


def address(text):
    text = text.strip()
    found = re.fullmatch(rf"{NAME}@{LABEL}(?:\.{LABEL})*", text.lower(), re.ASCII)
    need(found and text.isascii() and len(text) <= 254)
    return text.lower()


def key(text):
    need(re.fullmatch("[a-z2-7]{51}[aq]", text.lower()) and text.isascii())
    return base64.b32decode(text.upper() + "====")


def node_uri(text):
    found = re.fullmatch(r"amp://(\w{52})@(\[.+\]|[\w.-]+):(\d{1,5})", text.strip(), re.ASCII)
    need(found and 0 < int(found[3]) < 65536)
    host = found[2].lower()
    if host.startswith("["):
        plain, percent, zone = found[2][1:-1].partition("%")
        need(not percent or re.fullmatch(r"[\w.-]{1,15}", zone, re.ASCII))
        try:
            six = ipaddress.IPv6Address(plain)
        except ValueError:
            raise Wrong from None
        need(int(six) >> 32 != 0xFFFF)
        host = f"[{six.compressed}{percent}{zone}]"
    else:
        need(re.fullmatch(rf"{LABEL}(?:\.{LABEL})*", host) and len(host) <= 253)
    key(found[1])
    return f"amp://{found[1].lower()}@{host}:{int(found[3])}"


def contact_link(text):
    found = re.fullmatch(r"amp://(\w{52})/([^/?#]+)(?:\?([!-~]+))?", text.strip(), re.ASCII)
    need(found and len(text) <= 8192 and "#" not in text)
    key(found[1])
    query = urllib.parse.parse_qsl(found[3] or "")
    uris = [(name, node_uri(value)) for name, value in query if name in ("relay", "node")]
    uris.sort(key=lambda pair: pair[0] != "relay")
    tail = "&".join(f"{name}={uri.replace('%', '%25')}" for name, uri in uris)
    place = address(urllib.parse.unquote(found[2]))
    return f"amp://{found[1].lower()}/{place}" + (f"?{tail}" if tail else "")


def message_id(text):
    need(re.fullmatch("-".join(f"[0-9a-f]{{{n}}}" for n in (8, 4, 4, 4, 12)), text.lower()))
    return uuid.UUID(text).bytes


def fingerprint(raw):
    return "SHA256:" + base64.b64encode(hashlib.sha256(raw).digest()).decode().rstrip("=")


def read(kind, entry):  # noqa: PLR0911  one line a kind
    """What `entry` says, or Wrong."""
    given = entry["input"]
    if kind in ("address", "key", "node_uri", "contact_link", "message_id"):
        return globals()[kind](given)
    raw = bytes.fromhex(given)
    match kind:
        case "message" | "card" | "receipt":
            return members(kind, raw)
        case "sign1":
            return sign1(raw, entry["context"])
        case "signature":
            context, body = entry["context"].encode(), bytes.fromhex(entry["message"])
            return signed(bytes.fromhex(entry["key"]), context + b"\0" + body, raw)
        case "sealed":
            return unseal(raw, bytes.fromhex(entry["secret"]))
        case "cbor":
            return decode(raw)
        case "public":
            return public(raw)
    others = {
        "letter": letter, "receipts": receipts, "envelope": envelope, "fingerprint": fingerprint
    }  # fmt: skip
    return others[kind](raw)
