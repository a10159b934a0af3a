"""Our own vectors: this program and one that shares no line with it read them alike."""

import json
from collections import Counter
from pathlib import Path

import pytest
from vectors import make, second_implementation

from ampd.crypto.keys import OpeningKey, check_public, open1, verify
from ampd.model import address, encoding, message
from ampd.model.card import Card
from ampd.model.errors import AmpdError

HERE = Path(__file__).parent
VECTORS = [
    vector
    for name in make.FILES
    for vector in json.loads((HERE / f"{name}.json").read_text(encoding="utf-8"))
]
MAPS = {"message": message.Message, "card": Card, "receipt": message.Receipt}
TEXTS = {
    "address": lambda text: str(address.Address.parse(text)),
    "key": address.key_from_text,
    "node_uri": lambda text: str(address.NodeUri.parse(text)),
    "contact_link": lambda text: str(address.ContactLink.parse(text)),
    "message_id": message.id_from_text,
}


def read(kind, entry):  # noqa: PLR0911  one case a kind
    """What this program makes of a vector."""
    if kind in TEXTS:
        return TEXTS[kind](entry["input"])
    raw = bytes.fromhex(entry["input"])
    match kind:
        case "message" | "card" | "receipt":
            value = MAPS[kind].from_bytes(raw)
            assert value.to_bytes() == raw
            return encoding.decode(raw)
        case "sign1":
            key, payload = open1(raw, entry["context"])
            return {"key": key, "payload": payload}
        case "signature":
            key, signed = bytes.fromhex(entry["key"]), bytes.fromhex(entry["message"])
            return verify(key, entry["context"], signed, raw)
        case "sealed":
            opened = OpeningKey(bytes.fromhex(entry["secret"])).open(raw)
            if opened is None:
                raise AmpdError("not for this key", code="stale_key")
            return opened
        case "letter":
            letter = message.Letter.from_bytes(raw)
            assert letter.to_bytes() == raw
            return {"v": 1, "kind": letter.kind, "signed": letter.signed, "card": letter.card}
        case "receipts":
            receipts = message.receipts_from_bytes(raw)
            assert message.receipts_to_bytes(receipts) == raw
            return receipts
        case "envelope":
            envelope = message.Envelope.from_wire(encoding.decode(raw))
            assert encoding.encode(envelope.to_wire()) == raw
            return {"id": envelope.id, "expires": envelope.expires}
    return {
        "cbor": encoding.decode, "public": check_public, "fingerprint": address.fingerprint
    }[kind](raw)  # fmt: skip


def outcome(reader, error, entry):
    try:
        return {"expect": make.plain(reader(entry["kind"], entry))}
    except error as exc:
        return {"error": exc.code}


def named(entry):
    return f"{entry['kind']}: {entry['name']}"


@pytest.mark.parametrize("entry", VECTORS, ids=named)
def test_a_vector_is_read_as_it_says(entry):
    expected = {name: entry[name] for name in ("expect", "error") if name in entry}
    assert outcome(read, AmpdError, entry) == expected


@pytest.mark.parametrize("entry", VECTORS, ids=named)
def test_the_second_implementation_agrees(entry):
    ours = outcome(read, AmpdError, entry)
    assert outcome(second_implementation.read, second_implementation.Wrong, entry) == ours


@pytest.mark.parametrize("name", make.FILES)
def test_the_committed_vectors_are_what_the_generator_makes(name):
    assert (HERE / f"{name}.json").read_text(encoding="utf-8") == make.contents(name)


def test_each_vector_has_a_name_of_its_own_and_many_have_a_defect():
    assert max(Counter(map(named, VECTORS)).values()) == 1
    assert sum("error" in entry for entry in VECTORS) >= 120


def test_the_second_implementation_uses_nothing_of_this_program():
    source = Path(second_implementation.__file__).read_text(encoding="utf-8")
    assert not [line for line in source.splitlines() if "import" in line and "ampd" in line]
