"""This module is the relay's cards, invitations and members in JetStream. On asyncio.

One stream NAME_BOOK, replicated, one message a subject (a key-value store, as ADR-8 has it), read
from the leader only. Keys in base64url:

    NAME.book.card.KEY                the newest card: signed bytes; number and address in headers
    NAME.book.at.DOMAIN.ADDRESS.KEY   empty: a card of this key may be there (an index)
    NAME.book.invitation.HASH         JSON: until, uses, the nodes that were let in
    NAME.book.member.NODE             "in" or "out"

  JB1  What is changed is changed on the condition that it is still what was read: two relays that
       write at the same time do it one after the other.
  JB2  The index is written before the card, and what it names is checked against the card: a relay
       that dies in between leaves nothing wrong behind.

Not here: the stream of the mail (jetstream_mail.py).
"""

import base64
import json
from collections.abc import Callable
from typing import Final

from ampd.model.errors import Unavailable
from ampd.storage.relay_store.nats_link import CONFLICT, Declined, Link, Stored, each
from ampd.storage.relay_store.port import RETRY_STORE, Full, Limits, check_uses

_TRIES: Final = 50  # of a change that others keep changing; each lost try is somebody's success


class Book:
    """Who is known to the relays of a cluster."""

    def __init__(self, link: Link, name: str, limits: Limits, now: Callable[[], int]) -> None:
        self._link = link
        self._stream = f"{name.upper()}_BOOK"
        self._base = f"{name.lower()}.book"
        self._limits = limits
        self._now = now

    async def open(self) -> None:
        """Make the stream, if it is not there."""
        await self._link.make_stream(
            {
                "name": self._stream,
                "subjects": [f"{self._base}.>"],
                "retention": "limits",
                "storage": "file",
                "num_replicas": min(3, self._link.server_count),
                "discard": "old",  # of a subject: what was there before
                "max_msgs_per_subject": 1,
                "max_msgs": -1,
                "max_bytes": -1,
                "duplicate_window": 1_000_000_000,
                "allow_msg_ttl": True,
            }
        )

    async def _read(self, subject: str) -> Stored | None:
        return await self._link.newest(self._stream, f"{self._base}.{subject}")

    async def _write(
        self, subject: str, data: bytes, before: Stored | None, headers: dict[str, str]
    ) -> bool:
        """False when it is not `before` any more (JB1)."""
        condition = {"Nats-Expected-Last-Subject-Sequence": str(before.seq if before else 0)}
        try:
            await self._link.publish(f"{self._base}.{subject}", data, {**headers, **condition})
        except Declined as exc:
            if exc.number in CONFLICT:
                return False
            raise
        return True

    # --- cards ---------------------------------------------------------------------------

    async def put_card(
        self,
        key: bytes,
        address: str,
        number: int,
        signed: bytes,
        withdrawn: bool,  # noqa: FBT001
        renew: bool,  # noqa: FBT001
    ) -> bool:
        """Keep the newest."""
        subject = f"card.{_text(key)}"
        headers = {
            "Ampd-Number": str(number),
            "Ampd-Address": _text(address.encode()),
            "Ampd-Withdrawn": str(int(withdrawn)),
        }
        for _ in range(_TRIES):
            kept = await self._read(subject)
            if kept is not None and int(kept.headers["Ampd-Number"]) >= number + renew:
                return False
            if kept is None:
                await self._check_room()
            await self._link.publish(self._index(address, key), b"", {})
            if await self._write(subject, signed, kept, headers):
                await self._forget_index(kept, address, key)
                return True
        raise Unavailable("the card is being changed by somebody else")

    async def _check_room(self) -> None:
        inventory = await self._link.inventory(self._stream, "none")
        if inventory.subject_count >= 2 * self._limits.cards:  # a card and its place
            raise Full(f"the relay's directory is full: {self._limits.cards} cards", RETRY_STORE)

    async def _forget_index(self, kept: Stored | None, address: str, key: bytes) -> None:
        if kept is None or kept.headers["Ampd-Address"] == _text(address.encode()):
            return
        before = _bytes(kept.headers["Ampd-Address"]).decode()
        old = await self._link.newest(self._stream, self._index(before, key))
        if old is not None:
            await self._link.delete(self._stream, old.seq)

    def _index(self, address: str, key: bytes) -> str:
        domain = _text(address.rpartition("@")[2].encode())
        return f"{self._base}.at.{domain}.{_text(address.encode())}.{_text(key)}"

    async def card(self, key: bytes) -> bytes | None:
        """The newest of a key."""
        kept = await self._read(f"card.{_text(key)}")
        return kept.data if kept else None

    async def cards(self, pattern: str, limit: int) -> list[bytes]:
        """Of an address, a domain, or all."""
        name, _, domain = pattern.rpartition("@")
        at = f"{self._base}.at.{_text(domain.encode()) if pattern else '*'}"
        at += f".{_text(pattern.encode())}.*" if name else ".*.*"
        found = sorted((await self._link.inventory(self._stream, at)).subjects)[:limit]
        places = [subject.split(".")[-2:] for subject in found]
        kept = await each([self._read(f"card.{key}") for _, key in places])
        there = [
            (card.headers["Ampd-Withdrawn"], _bytes(address), key, card.data)
            for (address, key), card in zip(places, kept, strict=True)
            if card is not None and card.headers["Ampd-Address"] == address  # JB2
        ]
        return [signed for *_, signed in sorted(there)]

    # --- invitations and members ---------------------------------------------------------

    async def add_invitation(self, token_hash: bytes, until: int, uses: int) -> None:
        """A new one, or new terms for a known one."""
        check_uses(uses)
        await self._link.publish(
            f"{self._base}.invitation.{_text(token_hash)}",
            json.dumps({"until": until, "uses": uses, "nodes": []}).encode(),
            self._ends(until),
        )

    def _ends(self, until: int) -> dict[str, str]:
        return {"Nats-TTL": str(max(1, -(-(until - self._now()) // 1000)))}

    async def redeem(self, token_hash: bytes, node: bytes, now: int) -> bool:
        """Put the node on the invitation's list, then make it a member: a crash costs no use."""
        subject, name = f"invitation.{_text(token_hash)}", _text(node)
        member = await self._read(f"member.{name}")
        if member is not None:
            return member.data == b"in"
        for _ in range(_TRIES):
            kept = await self._read(subject)
            terms = json.loads(kept.data) if kept else None
            if terms is None or terms["until"] <= now:
                return False
            if name in terms["nodes"]:
                break
            if len(terms["nodes"]) >= terms["uses"]:
                return False
            terms["nodes"].append(name)
            written = json.dumps(terms).encode()
            if await self._write(subject, written, kept, self._ends(terms["until"])):
                break
        else:
            raise Unavailable("the invitation is being used by many others")
        return await self._write(f"member.{name}", b"in", None, {}) or await self.is_member(node)

    async def is_member(self, node: bytes) -> bool:
        """Whether it is in, now."""
        member = await self._read(f"member.{_text(node)}")
        return member is not None and member.data == b"in"

    async def set_member(self, node: bytes, state: bytes) -> None:
        """b"in" or b"out", from now on."""
        await self._link.publish(f"{self._base}.member.{_text(node)}", state, {})


def _text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _bytes(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
