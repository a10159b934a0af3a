"""The signature of an AMP message, as the clients that exist make it (section 04, v1.1).

    from|to|subject|priority|in_reply_to|base64(sha256(PAYLOAD))

in UTF-8. PAYLOAD is what `jq -cS` prints: names sorted, compact, `"context":null` included, numbers
with the tokens that the sender's jq printed. The specification's text, and other clients, print it
otherwise; so a signature holds if it is made over any of these, in this order:

  SG1  PAYLOAD sorted and in UTF-8; in the order received; both with everything beyond ASCII
       escaped; and each of them with U+007F as it is (JavaScript, Python).
  SG2  The subject as it is, or as the clients sign it in local mode: backslash, tab, newline and CR
       escaped as in tab-separated values, blanks at both ends removed.
  SG3  `from` as the envelope says; where it does not, each address of the authenticated agent.
  SG4  `to`, `from`, priority and in_reply_to are never normalised: what was written was signed.

Keys do not come here: `check` and `make` are handed in.
"""

import base64
import binascii
import hashlib
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

from ampd.protocol.raw_json import Value, write

Check = Callable[[bytes, bytes], bool]  # signature, data
MAX_SIGNATURE: Final = 2048  # characters of base64: RSA of 8192 bits has 1,368
_TSV: Final = str.maketrans({"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"})


def verify(
    envelope: Mapping[str, Any],
    payload: Value,
    check: Check,
    froms: Sequence[str] = (),
    tries: int | None = None,
) -> bool:
    """Whether the envelope's signature is over this envelope and payload (SG1-SG4).

    `tries`: only so many of the likeliest texts are looked at.
    """
    signature = signature_bytes(envelope.get("signature"))
    return bool(signature) and any(
        check(signature, text)
        for text in itertools.islice(signed_texts(envelope, payload, froms), tries)
    )


def sign(envelope: Mapping[str, Any], payload: Value, make: Callable[[bytes], bytes]) -> str:
    """The signature in the first form of each rule, in base64."""
    text = next(signed_texts(envelope, payload, ()))
    return base64.b64encode(make(text)).decode("ascii")


def signature_bytes(text: object) -> bytes:
    """The bytes of a signature in base64; b"" if it is none."""
    if not isinstance(text, str) or len(text) > MAX_SIGNATURE:
        return b""
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError):
        return b""


def signed_texts(
    envelope: Mapping[str, Any], payload: Value, froms: Sequence[str]
) -> Iterator[bytes]:
    """Every text that may have been signed, the likeliest first."""
    said = envelope.get("from")
    senders = [str(said)] if said else list(dict.fromkeys(froms))
    to, subject = str(envelope.get("to") or ""), str(envelope.get("subject") or "")
    tail = f"{envelope.get('priority') or 'normal'}|{envelope.get('in_reply_to') or ''}"
    for hashed in _payload_hashes(payload):
        for sender in senders:
            for each in dict.fromkeys((subject, in_tsv(subject))):
                yield f"{sender}|{to}|{each}|{tail}|{hashed}".encode()


def in_tsv(subject: str) -> str:
    """What `jq @tsv` and then the shell's `read -r` leave of a subject (SG2)."""
    return subject.translate(_TSV).strip(" ")


def _payload_hashes(payload: Value) -> Iterator[str]:
    """SG1."""
    seen = set()
    for ascii_only, del_as_is in ((False, False), (False, True), (True, False)):
        for sort in (True, False):
            text = write(payload, sort=sort, ascii_only=ascii_only, del_as_is=del_as_is)
            digest = hashlib.sha256(text.encode()).digest()
            if digest not in seen:
                seen.add(digest)
                yield base64.b64encode(digest).decode("ascii")


def rotation_proofs(said: str, raw: bytes) -> list[bytes]:
    """What the old key may have signed to hand over to a new one (section 03 does not say): the PEM
    text, with and without its final newline, or the key itself as hex or bytes.
    """
    bare = said.rstrip("\n")
    texts = [bare, f"{bare}\n", said, raw.hex()]
    return [text.encode() for text in dict.fromkeys(texts)] + [raw]
