"""An answer on its way to its caller: its head, then its body, whole or in pieces.

  SN1  A body that is a stream is never whole in memory: a piece is taken when the one before has
       gone. Its first piece is taken before anything is said, so that what cannot be read at all
       is an error's answer. HEAD has the same head, and the stream is not begun.
  SN2  A piece must be gone within PIECE_WITHIN, and all of them within STREAM_WITHIN.
  SN3  A stream that fails on its way, or has another size than was said, is AnswerBroken: its
       connection ends, so that its caller does not take a part for the whole.
  SN4  However it ends, the stream is closed. A caller that leaves ends it at once: over HTTP/1.1
       the next write fails; over HTTP/2 nothing fails, so whether it is still there is watched.

Not here: which answer it is (app.py); how it becomes bytes (http1.py, server.py).
"""

import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing
from typing import Any, Final

import trio

from ampd.edge.bugs import contained
from ampd.edge.http.words import Answer, AnswerBroken, Request
from ampd.model.errors import AmpdError

PIECE_WITHIN: Final = 30.0  # seconds: as long as a connection may take nothing at all
STREAM_WITHIN: Final = 900.0  # seconds: 25 MiB at a quarter of a megabit

Receive = Callable[[], Awaitable[Mapping[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]

_ALWAYS: Final = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"x-xss-protection", b"1; mode=block"),
    (b"referrer-policy", b"strict-origin-when-cross-origin"),
)
_PRIVATE: Final = (b"cache-control", b"no-store")
_HSTS: Final = (b"strict-transport-security", b"max-age=31536000")

log = logging.getLogger("ampd.http")


async def send_answer(send: Send, request: Request, answer: Answer, prefix: str = "http") -> None:
    """All of it; the body is `answer.body`."""
    await _send_head(send, _head(request, answer, prefix))
    await send({"type": f"{prefix}.response.body", "body": answer.body})


async def send_stream(
    send: Send, request: Request, answer: Answer, failure: Callable[[AmpdError], Answer]
) -> None:
    """All of it; the body is `answer.stream` (SN1-SN4). `failure` makes an error an answer."""
    if answer.stream is None or request.method == "HEAD":
        await send_answer(send, request, answer)
        return
    async with aclosing(answer.stream) as stream:
        try:
            first = await _next(stream)
        except AmpdError as exc:
            await send_answer(send, request, failure(exc))
            return
        try:
            with trio.fail_after(STREAM_WITHIN):
                await _in_pieces(send, _head(request, answer), answer.size, first, stream)
        except trio.TooSlowError:
            raise AnswerBroken("its caller takes it too slowly") from None
        except AmpdError as exc:
            log.warning("an answer broke off", extra={"path": request.path, "why": str(exc)})
            raise AnswerBroken(str(exc)) from exc


async def _in_pieces(
    send: Send,
    head: dict[str, Any],
    size: int,
    first: bytes,
    stream: AsyncGenerator[bytes, None],
) -> None:
    await _send_head(send, head)
    piece, sent = first, 0
    while piece:
        sent += len(piece)
        if sent > size:
            break
        event = {"type": "http.response.body", "body": piece, "more_body": True}
        with trio.fail_after(PIECE_WITHIN):
            await send(event)
        piece = await _next(stream)
    if sent != size:
        raise AnswerBroken(f"a body of {size} bytes has another size")
    with trio.fail_after(PIECE_WITHIN):
        await send({"type": "http.response.body", "body": b""})


async def _next(stream: AsyncGenerator[bytes, None]) -> bytes:
    with contained("the body of an answer"):
        return await anext(stream, b"")


async def _send_head(send: Send, head: dict[str, Any]) -> None:
    with trio.CancelScope(shield=True):  # HTTP/2: all streams share the state that packs heads
        await send(head)


async def beside(
    do: Callable[[], Awaitable[None]], meanwhile: Callable[[], Awaitable[None]]
) -> None:
    """Do it while `meanwhile` runs, whose end ends it, too, as if it were done."""
    failed: Exception | None = None
    async with trio.open_nursery() as nursery:

        async def watch() -> None:
            await meanwhile()
            nursery.cancel_scope.cancel()

        nursery.start_soon(watch)
        try:
            await do()
        except (AnswerBroken, trio.BrokenResourceError, trio.ClosedResourceError) as exc:
            failed = exc  # as itself, and not in a group
        nursery.cancel_scope.cancel()
    if failed is not None:
        raise failed


async def left(receive: Receive) -> None:
    """Until the caller is gone; what still comes of its body is dropped."""
    while (await receive())["type"] != "http.disconnect":
        pass


def _head(request: Request, answer: Answer, prefix: str = "http") -> dict[str, Any]:
    headers = [(b"x-request-id", request.id.encode("latin-1")), *_ALWAYS]
    own = {name.lower(): value for name, value in answer.headers.items()}
    if "cache-control" not in own:
        headers.append(_PRIVATE)
    if request.secure:
        headers.append(_HSTS)
    headers += [(name.encode("latin-1"), value.encode("latin-1")) for name, value in own.items()]
    if answer.status != 204:
        headers.append((b"content-length", b"%d" % answer.size))
    return {"type": f"{prefix}.response.start", "status": answer.status, "headers": headers}
