"""Writes the vectors beside it, from fixed seeds: python tests/vectors/make.py

A vector is {kind, name, input, ...} with either `expect` (what it says; bytes are written h'..')
or `error` (the code with which a reader refuses it). A bad vector has one defect.
"""

import copy
import hashlib
import json
from dataclasses import replace
from pathlib import Path

from nacl import bindings

from ampd.crypto.keys import OpeningKey, SigningKey
from ampd.model.address import Address, ContactLink, NodeUri, fingerprint, key_text
from ampd.model.card import Card
from ampd.model.encoding import decode, encode
from ampd.model.message import (
    Envelope,
    Letter,
    Message,
    Receipt,
    Recipient,
    digest,
    new_id,
    receipts_to_bytes,
)

HERE = Path(__file__).parent
NOW = 1_790_000_000_000  # 2026-09-21
DAY = 86_400_000
ORDER = 2**252 + 27742317777372353535851937790883648493  # of the group, RFC 8032, section 5.1


def seeded(name, size=32):
    return digest(b"ampd vectors: " + name.encode())[:size]


ALICE, BOB, NODE = (SigningKey(seeded(name)) for name in ("alice", "bob", "node"))
INBOX, FALLBACK = OpeningKey(seeded("inbox")), OpeningKey(seeded("fallback"))
RELAY = NodeUri(SigningKey(seeded("relay")).public, "relay.example", 4161)
HOME = NodeUri(NODE.public, "fe80::1%eth0", 4160)

MESSAGE = Message(
    id=new_id(NOW, seeded("id", 10)),
    sender=Address("alice", "laptop.local"),
    to=(
        Recipient(Address("bob", "desk.local"), BOB.public, 1),
        Recipient(Address("alice", "laptop.local"), ALICE.public, 2**63 - 1),
    ),
    epoch=seeded("epoch", 8),
    sent=NOW,
    expires=NOW + 30 * DAY,
    thread=new_id(NOW, seeded("id", 10)),
    subject="Grüße",
    body="The build is green. \U0001f7e2\n\0",
    payload='{"exit": 0, "load": 1.50}',
    receipt=True,
)
CARD = Card(
    address=Address("alice", "laptop.local"),
    number=7,
    issued=NOW,
    mailbox=seeded("mailbox", 16),
    nodes=(NODE.public,),
    inbox=INBOX.public,
    inbox_until=NOW + 7 * DAY,
    fallback=FALLBACK.public,
    relays=(str(RELAY),),
    alias="Alice",
    description="Reviews code",
    capabilities=("review", "python"),
)
RECEIPT = Receipt(
    message=MESSAGE.id,
    digest=digest(ALICE.sign1("ampd/message/1", MESSAGE.to_bytes())),
    recipient=Address("bob", "desk.local"),
    sender=Address("alice", "laptop.local"),
    stage="delivered",
    at=NOW + 1500,
)
RECEIPT_SIGNED = BOB.sign1("ampd/receipt/1", RECEIPT.to_bytes())
SIGNED = ALICE.sign1("ampd/message/1", MESSAGE.to_bytes())
LETTER = Letter("message", SIGNED, ALICE.sign1("ampd/card/1", CARD.to_bytes()))
LONG_LETTER = Letter("message", SIGNED + bytes(4_000), b"")


def seal(public, plaintext, ephemeral):
    """libsodium's sealed box with a known ephemeral key, so that it comes out the same."""
    point = bindings.crypto_scalarmult_base(ephemeral)
    nonce = bindings.crypto_generichash_blake2b_salt_personal(point + public, digest_size=24)
    return point + bindings.crypto_box(plaintext, nonce, public, ephemeral)


SEALED = seal(INBOX.public, LETTER.to_bytes(), seeded("ephemeral"))
ENVELOPE = Envelope(CARD.mailbox, MESSAGE.expires, SEALED)


def plain(value):
    """A decoded value as JSON can say it."""
    match value:
        case bytes():
            return f"h'{value.hex()}'"
        case list():
            return [plain(item) for item in value]
        case dict():
            return {name: plain(item) for name, item in value.items()}
    return value


def good(kind, name, given, expect, **more):
    given = given.hex() if isinstance(given, bytes) else given
    return {"kind": kind, "name": name, "input": given, **more, "expect": plain(expect)}


def bad(kind, name, given, error="invalid", **more):
    given = given.hex() if isinstance(given, bytes) else given
    return {"kind": kind, "name": name, "input": given, **more, "error": error}


def changed(data, *steps, to=None, drop=False):
    """The encoded map with one member changed, added or dropped."""
    value = copy.deepcopy(decode(data))
    place = value
    for step in steps[:-1]:
        place = place[step]
    if drop:
        del place[steps[-1]]
    else:
        place[steps[-1]] = to
    return encode(value)


def flipped(data, at):
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def cbor():
    spelled = {
        "null": "f6", "true": "f5", "the largest number": "1bffffffffffffffff",
        "the least number": "3bffffffffffffffff", "no bytes": "40", "text": "64f09f9fa2",
        "a map, shortest key first": "a2617a0162616102", "16 levels": "81" * 15 + "80",
        "an empty map": "a0", "an array of 24": "9818" + "00" * 24,
    }  # fmt: skip
    wrong = {
        "nothing": "", "two items": "0102", "a number that is too long": "1817",
        "a length that is too long": "590001ff", "a cut head": "19ff", "a cut string": "6261",
        "a cut array": "8201", "an array that claims 2^64 - 1 items": "9bffffffffffffffff",
        "a string that claims 2^63 bytes": "5b8000000000000000", "17 levels": "81" * 16 + "80",
        "text that is no UTF-8": "61ff", "a surrogate in UTF-8": "63eda080",
        "an overlong UTF-8": "62c0af", "a float": "f93c00", "NaN": "f97e00", "undefined": "f7",
        "a simple value": "f0", "false in two bytes": "f814", "an indefinite array": "9fff",
        "an indefinite string": "5fff", "an indefinite map": "bfff", "a break alone": "ff",
        "a tag": "c100", "a bignum": "c249010000000000000000",
        "a regular expression": "d82363612b2b",
        "the self-described tag": "d9d9f700", "a reserved head": "1c",
        "a key that is a number": "a10001",
        "a key that is bytes": "a14001", "keys out of order": "a2616201616101",
        "keys in bytewise order, the longer first": "a2626161016162 02".replace(" ", ""),
        "the same key twice": "a2616101616102", "a shared value": "d81c80", "a set": "d9010280",
        "no value for a key": "a16161",
    }  # fmt: skip
    yield from (
        good("cbor", n, bytes.fromhex(h), decode(bytes.fromhex(h))) for n, h in spelled.items()
    )
    yield from (bad("cbor", name, bytes.fromhex(h)) for name, h in wrong.items())
    yield bad("cbor", "4,097 items", b"\x99\x10\x00" + bytes(4096), "too_large")


def maps():
    message, card, receipt = MESSAGE.to_bytes(), CARD.to_bytes(), RECEIPT.to_bytes()
    plainest = replace(
        MESSAGE, to=MESSAGE.to[:1], in_reply_to=bytes(16), payload=None, context="[]"
    )
    gone = replace(CARD, number=8, withdrawn=True, nodes=(), relays=(), capabilities=())
    for kind, name, data in (
        ("message", "to two", message), ("message", "an answer", plainest.to_bytes()),
        ("card", "of an agent", card), ("card", "withdrawn", gone.to_bytes()),
        ("receipt", "delivered", receipt),
        ("receipt", "refused", replace(RECEIPT, stage="refused", reason="blocked").to_bytes()),
    ):  # fmt: skip
        yield good(kind, name, data, decode(data))
    yield bad("message", "an array", encode([1]))
    yield bad("message", "a member too few", changed(message, "epoch", drop=True))
    yield bad("message", "a null too few", changed(message, "re", drop=True))
    yield bad("message", "a member too many", changed(message, "note", to=""))
    for name, steps, value in (
        ("another version", ["v"], 2), ("true for a version", ["v"], True),
        ("an id of 15 bytes", ["id"], bytes(15)), ("text for an id", ["id"], "0" * 16),
        ("nobody addressed", ["to"], []),
        ("somebody named twice", ["to", 1], ["rob@desk.local", BOB.public, 2]),
        ("101 recipients", ["to"], [[f"b{n}@desk.local", seeded(str(n)), 1] for n in range(101)]),
        ("order number 0", ["to", 0, 2], 0), ("order number true", ["to", 0, 2], True),
        ("an order number of 64 bits", ["to", 0, 2], 1 << 63),
        ("a key of 31 bytes", ["to", 0, 1], bytes(31)),
        ("a recipient with a fourth item", ["to", 0], ["bob@desk.local", BOB.public, 1, 1]),
        ("a sender in capitals", ["from"], "Alice@laptop.local"),
        ("a space before the sender", ["from"], " alice@laptop.local"),
        ("a sender with the Kelvin sign", ["from"], "\u212aate@laptop.local"),
        ("a time before 1970", ["sent"], -1), ("a time of 64 bits", ["expires"], 1 << 63),
        ("a priority nobody knows", ["priority"], "High"), ("no type", ["type"], ""),
        ("a type of 65 characters", ["type"], "t" * 65),
        ("a subject of 257 characters", ["subject"], "s" * 257),
        ("a null subject", ["subject"], None), ("a payload that is no text", ["payload"], {}),
        ("1 for true", ["receipt"], 1),
    ):  # fmt: skip
        yield bad("message", name, changed(message, *steps, to=value))
    for name, member, value in (
        ("17 nodes", "nodes", [NODE.public] * 17), ("a node of 31 bytes", "nodes", [bytes(31)]),
        ("a relay that is no URI", "relays", ["relay.example:4161"]),
        ("a relay in capitals", "relays", [str(RELAY).upper()]),
        ("a relay on port 04161", "relays", [str(RELAY).replace(":4161", ":04161")]),
        ("a mailbox of 32 bytes", "mailbox", bytes(32)), ("a negative number", "number", -1),
        ("an alias of 129 characters", "alias", "a" * 129),
        ("65 capabilities", "capabilities", ["c"] * 65),
        ("a capability of 65 characters", "capabilities", ["c" * 65]),
        ("0 for false", "withdrawn", 0),
    ):  # fmt: skip
        yield bad("card", name, changed(card, member, to=value))
    yield bad("receipt", "a stage nobody knows", changed(receipt, "stage", to="lost"))
    yield bad("receipt", "a reason, and no refusal", changed(receipt, "reason", to="why"))
    yield bad("receipt", "a digest of 31 bytes", changed(receipt, "digest", to=bytes(31)))


def signatures():
    context, message = "ampd/message/1", MESSAGE.to_bytes()
    yield good(
        "sign1", "a message", SIGNED, {"key": ALICE.public, "payload": message}, context=context
    )
    protected, _, payload, signature = decode(SIGNED)
    bobs, identity = protected[:6] + BOB.public, protected[:6] + b"\1" + bytes(31)
    for name, data, error in (
        ("signed for another purpose", ALICE.sign1("ampd/card/1", message), "forged"),
        ("another signer's key", encode([bobs, {}, payload, signature]), "forged"),
        ("another payload", encode([protected, {}, payload + b"\0", signature]), "forged"),
        ("a flipped signature", encode([protected, {}, payload, flipped(signature, 5)]), "forged"),
        ("R of low order", encode([protected, {}, payload, without_chance(SIGNED)]), "forged"),
        ("S + L", encode([protected, {}, payload, raised(signature)]), "forged"),
        ("an identity key", encode([identity, {}, payload, b"\1" + bytes(63)]), "forged"),
        ("a header outside", encode([protected, {"a": 1}, payload, signature]), "invalid"),
        ("a tag", b"\xd2" + SIGNED, "invalid"),
        ("no key in the header", encode([b"\xa1\x01\x27", {}, payload, signature]), "invalid"),
        ("another algorithm", encode([flipped(protected, 2), {}, payload, signature]), "invalid"),
        ("a detached payload", encode([protected, {}, None, signature]), "invalid"),
        ("a signature of 63 bytes", encode([protected, {}, payload, signature[:63]]), "invalid"),
        ("a fifth item", encode([protected, {}, payload, signature, None]), "invalid"),
    ):  # fmt: skip
        yield bad("sign1", name, data, error, context=context)
    noise = {"key": NODE.public.hex(), "context": "ampd/noise-static/1", "message": bytes(32).hex()}
    of = NODE.sign("ampd/noise-static/1", bytes(32))
    yield good("signature", "of a session key", of, None, **noise)
    yield bad(
        "signature", "in another context", of, "forged", **{**noise, "context": "ampd/rotate/1"}
    )
    swallowed = NODE.sign("ampd/card/1", b"ampd/noise-static/1\0" + bytes(32)) + b"ampd/card/1\0"
    yield bad("signature", "that swallows a context", swallowed, "forged", **noise)
    yield good("public", "a key", ALICE.public, ALICE.public)
    low = "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"  # order 8
    for name, key in (
        ("the identity", "01" + 31 * "00"), ("a point of order 2", "ec" + 30 * "ff" + "7f"),
        ("a point of order 8", low), ("y = p + 1", "ee" + 30 * "ff" + "7f"),
        ("-0", "01" + 30 * "00" + "80"), ("no point", "02" + 31 * "00"), ("31 bytes", 31 * "01"),
        ("a key plus a point of order 2", mixed(ALICE.public).hex()),
    ):  # fmt: skip
        yield bad("public", name, bytes.fromhex(key), "forged")


def raised(signature):
    """The same signature with S + L, which a lenient verifier takes (RFC 8032, section 8.4)."""
    s = int.from_bytes(signature[32:], "little") + ORDER
    return signature[:32] + s.to_bytes(32, "little")


def without_chance(signed):
    """Alice's own signature with R = the identity: the equation holds, and libsodium refuses."""
    protected, _, payload, _ = decode(signed)
    message = encode(["Signature1", protected, b"ampd/message/1", payload])
    secret = int.from_bytes(hashlib.sha512(ALICE.seed).digest()[:32], "little")
    secret = secret & (1 << 254) - 8 | 1 << 254  # RFC 8032, section 5.1.5
    point = b"\1" + bytes(31)
    k = int.from_bytes(hashlib.sha512(point + ALICE.public + message).digest(), "little")
    return point + (k * secret % ORDER).to_bytes(32, "little")


def mixed(key):
    """-A's x and y negated: A plus the point (0, -1), of order 2L."""
    y = int.from_bytes(key, "little")
    sign, y = y >> 255, y & (1 << 255) - 1
    return ((2**255 - 19 - y) | (1 - sign) << 255).to_bytes(32, "little")


def sealed():
    secret = {"secret": INBOX.secret.hex()}
    yield good("sealed", "a letter", SEALED, LETTER.to_bytes(), **secret)
    yield bad("sealed", "for another key", SEALED, "stale_key", secret=FALLBACK.secret.hex())
    yield bad("sealed", "flipped", flipped(SEALED, 100), "stale_key", **secret)
    yield bad("sealed", "cut", SEALED[:-1], "stale_key", **secret)
    yield bad("sealed", "shorter than a key", SEALED[:31], "stale_key", **secret)
    yield bad("sealed", "from a key of low order", bytes(32) + SEALED[32:], "stale_key", **secret)
    data = LETTER.to_bytes()
    for name, letter in (
        ("a message", LETTER),
        ("of 5 KiB", LONG_LETTER),
        ("receipts", Letter("receipts", receipts_to_bytes([RECEIPT_SIGNED] * 2), b"")),
        ("empty", Letter("receipts", b"", b"")),
    ):
        raw = letter.to_bytes()
        yield good("letter", name, raw, decode(raw[4 : 4 + int.from_bytes(raw[:4], "big")]))
    yield bad("letter", "nothing", b"")
    yield bad("letter", "a length behind the end", b"\xff" * 4 + data[4:])
    yield bad("letter", "padding that is no zero", data[:-1] + b"\1")
    yield bad("letter", "one zero too many", data + b"\0")
    yield bad("letter", "one zero too few", data[:-1])
    yield bad("letter", "padded to a larger bucket", data + bytes(len(data)))
    yield bad("letter", "a kind nobody knows", Letter("parcel", b"", b"").to_bytes())
    several = [RECEIPT_SIGNED] * 2
    yield good("receipts", "two", receipts_to_bytes(several), several)
    for name, value in (
        ("none", []), ("501", [b""] * 501), ("text", ["receipt"]), ("a map", {}),
        ("one of 4097 bytes", [bytes(4097)]),
    ):  # fmt: skip
        yield bad("receipts", name, encode(value))
    wire = [CARD.mailbox, ENVELOPE.expires, bytes(64)]
    expect = {"id": digest(bytes(64)), "expires": ENVELOPE.expires}
    yield good("envelope", "of 64 bytes", encode(wire), expect)
    yield bad("envelope", "a mailbox of 15 bytes", encode([bytes(15), *wire[1:]]))
    yield bad("envelope", "true for an expiry", encode([wire[0], True, wire[2]]))
    yield bad("envelope", "a fourth item", encode([*wire, 0]))


def names():
    key, link = key_text(ALICE.public), ContactLink(ALICE.public, CARD.address, (RELAY,), (HOME,))
    yield good("key", "a key", key, ALICE.public)
    yield good("key", "in capitals", key.upper(), ALICE.public)
    yield good("fingerprint", "of a key", ALICE.public, fingerprint(ALICE.public))
    yield good("address", "an address", "alice@laptop.local", "alice@laptop.local")
    yield good("address", "typed", " Alice.B-c_d@LAPTOP.local\n", "alice.b-c_d@laptop.local")
    yield good(
        "address", "of 254 characters", longest := "a@" + ".".join(["b" * 62] * 4) + "b", longest
    )
    yield good(
        "node_uri", "a domain", f"amp://{key}@Desk.Local:4160", f"amp://{key}@desk.local:4160"
    )
    yield good("node_uri", "IPv4", f"amp://{key}@10.0.0.7:1", f"amp://{key}@10.0.0.7:1")
    yield good(
        "node_uri",
        "IPv6",
        f"amp://{key}@[FE80:0::1%Eth0]:65535",
        f"amp://{key}@[fe80::1%Eth0]:65535",
    )
    yield good("contact_link", "with hints", str(link), str(link))
    yield good("contact_link", "bare", f"amp://{key}/Bob@desk.local", f"amp://{key}/bob@desk.local")
    yield good("contact_link", "a hint from later", f"amp://{key}/b@c?x=1", f"amp://{key}/b@c")
    yield good(
        "message_id",
        "an id",
        "0198C0DE-0000-7000-8000-000000000001",
        bytes.fromhex("0198c0de000070008000000000000001"),
    )
    wrong = {
        "address": {
            "no @": "alice", "no name": "@b", "no domain": "a@", "two @": "a@b@c",
            "a dot first": ".a@b",
            "a dot last": "a.@b", "an empty label": "a@b..c", "a trailing dot": "a@b.",
            "a slash": "a/b@c",
            "a path": "../a@b", "a NUL": "a\0@b", "a newline": "a\nb@c", "an escape": "\x1b[2Ja@b",
            "an override": "a\u202eb@c", "a Cyrillic a": "\u0430@b", "the Kelvin sign": "\u212a@b",
            "a full-width a": "\uff41@b", "a zero-width space": "a\u200bb@c",
            "an underscore in a label": "a@b_c",
            "a name of 64": "a" * 64 + "@b", "a label of 64": "a@" + "b" * 64,
            "255 characters": "a" + longest,
            "quotes": '"a"@b', "an Arabic digit": "a\u0661@b",
        },
        "key": {
            "51 characters": key[:-1], "53 characters": key + "a",
            "bits behind the end": key[:-1] + "b",
            "a digit that is none": "1" + key[1:], "padding": key[:-4] + "====",
            "a Kelvin sign": "\u212a" + key[1:],
        },
        "node_uri": {
            "no port": f"amp://{key}@desk.local", "port 0": f"amp://{key}@a:0",
            "port 65536": f"amp://{key}@a:65536",
            "no key": "amp://desk.local:4160", "no host": f"amp://{key}@:1",
            "a password": f"amp://{key}:pw@a:1",
            "another scheme": f"http://{key}@a:1", "a path": f"amp://{key}@a:1/",
            "a query": f"amp://{key}@a:1?",
            "a fragment": f"amp://{key}@a:1#a", "a newline": f"amp://{key}@a\n.b:1",
            "an escape": f"amp://{key}@\x1b[2J:1",
            "IPv6 without brackets": f"amp://{key}@fe80::1:1", "no IPv6": f"amp://{key}@[fe80]:1",
            "IPv4 in IPv6": f"amp://{key}@[::ffff:10.0.0.1]:1",
            "a zone that is none": f"amp://{key}@[fe80::1%a;b]:1",
            "an empty zone": f"amp://{key}@[fe80::1%]:1",
        },
        "contact_link": {
            "no address": f"amp://{key}", "a host": f"amp://{key}@a:1/b@c",
            "a bad relay": f"amp://{key}/b@c?relay=x",
            "a fragment": f"amp://{key}/b@c#d", "another scheme": f"amps://{key}/b@c",
            "a newline": f"amp://{key}/b@c?\nx=1",
            "more than 8,192 characters": f"amp://{key}/b@c?x=" + "y" * 8192,
        },
        "message_id": {
            "braces": "{0198c0de-0000-7000-8000-000000000001}",
            "no hyphens": "0198c0de000070008000000000000001",
            "underscores": "0198c0de-0000-7000-8000-00000000_001", "a path": "../../etc/passwd",
        },
    }  # fmt: skip
    for kind, texts in wrong.items():
        yield from (bad(kind, name, text) for name, text in texts.items())


FILES = {"cbor": cbor, "maps": maps, "signatures": signatures, "sealed": sealed, "names": names}


def contents(name):
    """A vector on each line, so that a change shows as one."""
    return "[\n" + ",\n".join(json.dumps(vector) for vector in FILES[name]()) + "\n]\n"


if __name__ == "__main__":
    for each in FILES:
        (HERE / f"{each}.json").write_text(contents(each))
