"""Attachments of AMP: announced, brought by a link of their own, confirmed, fetched.

    POST /attachments/upload            {filename, content_type, size, digest} -> {attachment_id,
                                        upload_url}
    PUT  /attachments/ID/upload/TOKEN   the bytes; whoever has the link may, once, within an hour
    POST /attachments/ID/confirm        -> the attachment
    GET  /attachments/ID                -> the attachment, with scan_status and a link to its bytes
    GET  /attachments/ID/download       the bytes, for the agents of the message
    GET  /attachments/ID/file/TOKEN     the bytes, for whoever has the link

  AT1  Sizes: MAX_SIZE a file, MAX_COUNT and MAX_TOTAL a message. One agent has QUOTA, counted from
       the announcement on, and MAX_TOTAL of it for files whose bytes can still come. What all may
       hold counts the bytes that came or are coming (attachment_files.py, AF3): nobody takes room
       from others by announcing.
  AT2  A link to bring bytes works until the bytes came, for one caller at a time, and no longer
       than an hour; only bytes of the announced size and digest are kept.
  AT3  What was not sent within two hours is gone; what was sent stays as long as its message, and
       seven days at least.
  AT4  A message may carry only attachments that its sender brought, that are whole and not
       rejected, and that no other message carries.
  AT5  scan_status is honest: no file is called "clean", for nothing here scans for viruses
       (attachment_files.py, AF4).
  AT6  Files are handed out as downloads of their declared type and never shown by a browser.
  AT7  An attachment belongs to agents by their keys: whoever takes the name of one that left reads
       nothing of it; what was sent stays for its recipients when its sender leaves.

Not here: what a message says of its attachments beside their ids; that is its sender's word.
"""

import hashlib
import hmac
import re
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from contextlib import aclosing
from typing import Any, Final
from urllib.parse import quote

import trio

from ampd.crypto.keys import random_bytes
from ampd.edge.amp.attachment_files import AttachmentFiles, judged
from ampd.edge.amp.limits import Limits
from ampd.edge.amp.ports import Account, Document, Mail, token_of
from ampd.edge.documents import time_text
from ampd.edge.gateway_values import Shared
from ampd.edge.http.words import Answer, Request, Route
from ampd.model.errors import Invalid
from ampd.model.values import value
from ampd.protocol import raw_json
from ampd.protocol.amp.faults import Fault, invalid, missing, not_found
from ampd.protocol.raw_json import Value
from ampd.storage.registry import Batch

MAX_SIZE: Final = 25 << 20  # bytes: what AMP's clients send at most
MAX_COUNT: Final = 10
MAX_TOTAL: Final = 100 << 20
QUOTA: Final = 1 << 30  # bytes of one agent's attachments
MAX_ANNOUNCED: Final = 1000  # of one agent
UPLOAD_WITHIN: Final = 3_600_000  # milliseconds
UNSENT_FOR: Final = 2 * 3_600_000
SENT_FOR: Final = 7 * 86_400_000
SWEEP_EVERY: Final = 600.0  # seconds
_KIND: Final = "amp.attachment"
_DIGEST: Final = re.compile(r"sha256:([0-9a-f]{64})")
_TYPE: Final = re.compile(r"[\w.+-]{1,80}/[\w.+-]{1,80}(?:; ?[\w-]+=[\w.+-]+)?", re.ASCII)


@value
class _Announced:
    """What a client says of a file that it will bring."""

    filename: str
    content_type: str
    size: int
    digest: str


class Attachments:
    """The attachments of one node."""

    def __init__(self, shared: Shared, mail: Mail, limits: Limits) -> None:
        self._shared = shared
        self._registry = shared.registry
        self._mail = mail
        self._limits = limits
        self._files = AttachmentFiles(shared.values.state / "attachments")
        self._coming: set[str] = set()  # whose bytes are on their way (AT2)

    def routes(self) -> Sequence[Route]:
        """All of them; the order of the table is that of the docstring."""
        return (
            Route("POST", "/attachments/upload", self._upload),
            Route(
                "PUT",
                "/attachments/{id}/upload/{token}",
                self._bring,
                MAX_SIZE,
                any_type=True,
                stream=True,
            ),
            Route("POST", "/attachments/{id}/confirm", self._confirm),
            Route("GET", "/attachments/{id}", self._show),
            Route("GET", "/attachments/{id}/download", self._download),
            Route("GET", "/attachments/{id}/file/{token}", self._file),
        )

    # --- what a message carries --------------------------------------------------------------

    def check(self, agent: str, payload: Value, message: bytes = b"") -> list[str]:
        """The ids of ours that a payload carries (AT1, AT4). Raises Fault.

        `message` is the native id, if it is known: the same one may be sent again.
        """
        carried = payload.get("attachments") if isinstance(payload, dict) else None
        if not carried:
            return []
        if not isinstance(carried, list) or not all(isinstance(each, dict) for each in carried):
            raise invalid("payload.attachments", "attachments must be a list of objects")
        if len(carried) > MAX_COUNT:
            raise invalid("payload.attachments", f"more than {MAX_COUNT} attachments")
        if sum(map(_size, carried)) > MAX_TOTAL:
            raise Fault("attachment_too_large", 413, f"attachments of over {MAX_TOTAL} bytes")
        found = [self._carried(agent, each, message) for each in carried]
        return list(dict.fromkeys(each for each in found if each))

    def _carried(self, agent: str, said: Document, message: bytes) -> str:
        """One of them: its id if it is ours, "" if its bytes lie elsewhere."""
        identifier, url = said.get("id"), said.get("url")
        if not isinstance(identifier, str) or said.get("storage"):
            return ""
        known = self._registry.get(_KIND, identifier)
        if known is None:
            ours = isinstance(url, str) and url.startswith(self._shared.values.base)
            if ours or (not url and re.fullmatch(r"att_\d+_[0-9a-f]{32}", identifier)):
                raise Fault("attachment_expired", 410, f"{identifier} is not here any more")
            return ""
        if known["agent"] != self._key(agent):
            raise Fault("forbidden", 403, f"{identifier} was brought by another agent")
        if known["status"] == "pending":
            raise Fault("attachment_pending", 409, f"the bytes of {identifier} did not come yet")
        if known["status"] == "rejected":
            raise Fault("attachment_rejected", 422, f"{identifier} was rejected")
        if known["message"] not in ("", message.hex()):
            raise Fault("attachment_already_used", 409, f"{identifier} is in another message")
        return identifier

    async def bind(
        self, ids: Sequence[str], until: int, readers: Sequence[str] = (), message: bytes = b""
    ) -> None:
        """They were sent: they stay until the message ends (AT3); `readers` are agents here."""
        expires = max(until, self._shared.now() + SENT_FOR)
        keys = [self._key(name) for name in readers]

        def work(batch: Batch) -> None:
            for identifier in ids:
                known = batch.get(_KIND, identifier)
                if known is not None:
                    known["message"] = message.hex() or known["message"] or "sent"
                    known["readers"] = sorted({*known["readers"], *keys})
                    known["expires"] = max(expires, known["expires"])
                    _put(batch, identifier, known)

        if ids:
            await self._registry.change(work)

    # --- routes ------------------------------------------------------------------------------

    def _key(self, name: str) -> str:
        """An agent by its key: whoever has its name later is another one (AT7)."""
        return self._shared.rooms.agents.named(name).key.hex()

    def _account(self, request: Request) -> Account:
        account = self._mail.account_of_token(token_of(request))
        self._limits.take("api", account.name)
        return account

    async def _upload(self, request: Request) -> Answer:
        account = self._account(request)
        said = _announced(request.json())
        self._files.check_room(said.size)
        now = self._shared.now()
        identifier = f"att_{now // 1000}_{random_bytes(16).hex()}"
        token = random_bytes(32).hex()
        value = {
            "agent": self._key(account.name), "filename": said.filename,
            "content_type": said.content_type,
            "size": said.size, "digest": said.digest, "status": "pending", "message": "",
            "readers": [], "upload": _hash(token), "download": random_bytes(32).hex(),
            "at": now, "until": now + UPLOAD_WITHIN, "expires": now + UNSENT_FOR,
        }  # fmt: skip
        await self._registry.change(_announce(identifier, value))
        base = f"{request.base}/v1/attachments/{identifier}"
        answer = {
            "attachment_id": identifier,
            "upload_url": f"{base}/upload/{token}",
            "expires_at": time_text(now + UPLOAD_WITHIN),
        }
        return Answer.json(201, answer)

    async def _bring(self, request: Request) -> Answer:
        """AT2."""
        identifier = request.params["id"]
        known = self._known(identifier)
        if not hmac.compare_digest(known["upload"], _hash(request.params["token"])):
            raise not_found("there is no such link")
        if request.stream is None:
            raise Invalid("there is no body")
        if not _can_come(known, self._shared.now()):
            raise Fault("attachment_expired", 410, "this link was used, or is over an hour old")
        if identifier in self._coming:
            raise Fault("conflict", 409, "its bytes are on their way already")
        self._files.check_room(known["size"])
        self._coming.add(identifier)
        try:
            await self._take_in(identifier, known, request.stream)
        finally:
            self._coming.discard(identifier)
        return Answer.json(200, {"attachment_id": identifier, "received": known["size"]})

    async def _take_in(
        self, identifier: str, known: dict[str, Any], stream: AsyncGenerator[bytes, None]
    ) -> None:
        sha256 = known["digest"].removeprefix("sha256:")
        try:
            async with aclosing(stream) as data:
                first = await self._files.keep(identifier, data, known["size"], sha256)
        except Invalid as exc:
            raise Fault("attachment_rejected", 422, str(exc)) from exc
        status = judged(known["content_type"], first)
        await self._registry.change(_arrived(identifier, status))
        if status == "rejected":
            await self._files.remove(identifier)

    async def _confirm(self, request: Request) -> Answer:
        account, identifier = self._account(request), request.params["id"]
        known = self._known(identifier)
        if known["agent"] != self._key(account.name):
            raise not_found(f"no attachment {identifier}")
        if known["status"] == "pending":
            raise Fault("attachment_pending", 409, "its bytes did not come yet")
        await trio.lowlevel.checkpoint()
        return Answer.json(200, _document(identifier, known, request))

    async def _show(self, request: Request) -> Answer:
        await trio.lowlevel.checkpoint()
        identifier, known = self._of_reader(request)
        return Answer.json(200, _document(identifier, known, request))

    async def _download(self, request: Request) -> Answer:
        identifier, known = self._of_reader(request)
        return await self._bytes(identifier, known)

    async def _file(self, request: Request) -> Answer:
        identifier = request.params["id"]
        known = self._known(identifier)
        if not hmac.compare_digest(known["download"].encode(), request.params["token"].encode()):
            raise not_found("there is no such link")
        return await self._bytes(identifier, known)

    def _of_reader(self, request: Request) -> tuple[str, dict[str, Any]]:
        """An attachment of the agent that asks: it brought it, or got it in a message."""
        account, identifier = self._account(request), request.params["id"]
        known = self._known(identifier)
        if self._key(account.name) not in (known["agent"], *known["readers"]):
            raise not_found(f"no attachment {identifier}")
        return identifier, known

    def _known(self, identifier: str) -> dict[str, Any]:
        known = self._registry.get(_KIND, identifier)
        if known is None:
            raise not_found(f"no attachment {identifier[:80]}")
        return known

    async def _bytes(self, identifier: str, known: dict[str, Any]) -> Answer:
        """AT6."""
        await trio.lowlevel.checkpoint()
        if known["status"] == "pending":
            raise Fault("attachment_pending", 409, "its bytes did not come yet")
        if known["status"] == "rejected":
            raise Fault("attachment_rejected", 422, f"{identifier} was rejected")
        name = quote(known["filename"], safe="")
        headers = {
            "Content-Type": known["content_type"],
            "Content-Disposition": f"attachment; filename*=UTF-8''{name}",
            "Content-Security-Policy": "default-src 'none'; sandbox",
        }
        stream = self._files.pieces(identifier)
        return Answer(200, headers=headers, stream=stream, stream_size=known["size"])

    # --- the end of attachments -----------------------------------------------------------------

    async def run(self) -> None:
        """Remove what is over now and then, until cancelled (AT3)."""
        while True:
            await self.sweep()
            await trio.sleep(SWEEP_EVERY)

    async def sweep(self) -> int:
        """Remove the files of attachments that are over; how many."""
        return await self._files.sweep(lambda: self._registry.change(_living))


def _living(batch: Batch) -> set[str]:
    found: set[str] = set()
    after = ""
    while page := batch.find(_KIND, after=after):
        found.update(entry.key for entry in page)
        after = page[-1].key
    return found


def _announce(identifier: str, value: dict[str, Any]) -> Callable[[Batch], None]:
    """The work that announces one within the quotas (AT1)."""

    def work(batch: Batch) -> None:
        own: list[dict[str, Any]] = []
        after = ""
        while page := batch.find(_KIND, after=after):
            after = page[-1].key
            own += [each.value for each in page if each.value["agent"] == value["agent"]]
        if _bytes_of(own) + value["size"] > QUOTA or len(own) >= MAX_ANNOUNCED:
            raise Fault("quota_exceeded", 507, "this agent's attachments fill their share")
        if _bytes_of([e for e in own if _can_come(e, batch.now)]) + value["size"] > MAX_TOTAL:
            raise Fault("quota_exceeded", 507, f"over {MAX_TOTAL} bytes announced and not brought")
        _put(batch, identifier, value)

    return work


def _bytes_of(values: Iterable[dict[str, Any]]) -> int:
    return sum(each["size"] for each in values)


def _can_come(known: dict[str, Any], now: int) -> bool:
    """Whether its link still takes bytes (AT2)."""
    return bool(known["status"] == "pending" and now <= known["until"])


def _arrived(identifier: str, status: str) -> Callable[[Batch], None]:
    """The work that says what became of the bytes; the link is used up (AT2)."""

    def work(batch: Batch) -> None:
        known = batch.get(_KIND, identifier)
        if known is not None:
            _put(batch, identifier, {**known, "status": status, "uploaded": batch.now})

    return work


def _put(batch: Batch, identifier: str, value: dict[str, Any]) -> None:
    batch.put(_KIND, identifier, value, expires=value["expires"])


def _announced(body: Value) -> _Announced:
    """What was said of a file. Raises Fault."""
    if not isinstance(body, dict):
        raise invalid("body", "the body must be an object")
    said = raw_json.plain(body)
    for field in ("filename", "content_type", "size", "digest"):
        if field not in said:
            raise missing(field)
    name, kind, size = said["filename"], said["content_type"], said["size"]
    if not isinstance(name, str) or not 0 < len(name) <= 255 or not name.isprintable():
        raise invalid("filename", "a filename has 1 to 255 printable characters")
    if not isinstance(kind, str) or not _TYPE.fullmatch(kind):
        raise invalid("content_type", "a content type looks like text/plain")
    if type(size) is not int or size <= 0:
        raise invalid("size", "a size is a whole number of bytes, and more than 0")
    if size > MAX_SIZE:
        raise Fault("attachment_too_large", 413, f"over {MAX_SIZE} bytes", field="size")
    digest = said["digest"]
    if not isinstance(digest, str) or not _DIGEST.fullmatch(digest.lower()):
        raise invalid("digest", "a digest is sha256: and 64 hex digits")
    return _Announced(name, kind, size, digest.lower())


def _document(identifier: str, known: dict[str, Any], request: Request) -> Document:
    link = None
    if known["status"] in ("basic_clean", "suspicious"):
        link = f"{request.base}/v1/attachments/{identifier}/file/{known['download']}"
    return {
        "id": identifier, "attachment_id": identifier, "filename": known["filename"],
        "content_type": known["content_type"], "size": known["size"], "digest": known["digest"],
        "scan_status": known["status"], "url": link, "download_url": link,
        "uploaded_at": time_text(known.get("uploaded")), "expires_at": time_text(known["expires"]),
    }  # fmt: skip


def _size(said: Document) -> int:
    size = raw_json.plain(said.get("size"))
    return size if isinstance(size, int) and size > 0 else 0


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
