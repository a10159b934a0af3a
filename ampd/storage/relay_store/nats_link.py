"""This module is the connection to NATS, and the part of JetStream's API that the store uses.

It is the only importer of nats-py (extra `nats`), and runs on asyncio (asyncio_thread.py).

  NL1  A request that is not answered raises Unavailable after TIMEOUT, and at once without a
       connection; nothing is taken for done that the stream's leader did not acknowledge.
  NL2  It reconnects by itself, for ever, to any server of the cluster; a server that answers pings
       but has lost its cluster is left for another one.
  NL3  `restored` is called after each time in which words of the servers may have been missed.

Sources: nats-io/nats-architecture-and-design, ADR-1 (JetStream API), 31 (direct get), 43 (TTL).
Not here: subjects, and what they mean (jetstream.py, jetstream_book.py).
"""

import asyncio
import base64
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final
from urllib.parse import urlsplit

import nats
import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from ampd.model.errors import Unavailable
from ampd.model.values import value

TIMEOUT: Final = 5.0  # seconds; an election takes up to 4, and a deposit may wait for it
CONNECT_WITHIN: Final = 10.0  # seconds, at the start only
NEEDS: Final = (2, 11)  # the first version with a time to live for each message
_POLITE: Final = 0.3  # seconds between two tries at the start
_PULSE: Final = 2.0  # seconds between two looks at the stream
_LOST_AFTER: Final = 3  # pulses without an answer: try another server
_WAKE_EVERY: Final = 30  # pulses: core NATS delivers at most once, so a wake-up may be lost
_PING: Final = 2  # seconds; two pings unanswered and the connection is given up
_BUFFER: Final = 1 << 20  # bytes on their way to a server that is away; more is refused
_PLACES: Final = 32  # requests for one call at a time

_OTHERWISE: Final = 10058  # a stream of this name is there, with another configuration
NOT_FOUND: Final = frozenset((10037, 10059))  # no such message, no such stream
CONFLICT: Final = frozenset((10071, 10164))  # another sequence than the expected one
NO_ROOM: Final = frozenset((10002, 10023, 10028, 10047))  # the account or the servers are full
TOO_MANY: Final = 413  # of direct get: more than 1,024 messages of different subjects


class Declined(Unavailable):
    """JetStream answered with an error; `number` is its err_code."""

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.number = number


@value
class Stored:
    """A message in a stream."""

    subject: str
    seq: int
    headers: Mapping[str, str]
    data: bytes


@value
class Inventory:
    """What a stream holds, as its leader says; `subjects` only those that were asked for."""

    last: int
    bytes: int
    subject_count: int
    subjects: tuple[str, ...]


@value
class Page:
    """What one replica has; `complete_to` is the newest sequence it knew of."""

    messages: list[Stored]
    pending: int
    complete_to: int


class Link:
    """A connection to one of `servers` that is kept up."""

    def __init__(self, servers: Sequence[str], restored: Callable[[], None]) -> None:
        """`servers` are "nats://[USER:PASSWORD@]HOST:PORT" or "tls://..."."""
        self._servers = list(servers)
        self._restored = restored
        self._client = Client()
        self._trouble = ""
        self._pulse: asyncio.Task[None] | None = None

    # --- connection ----------------------------------------------------------------------

    async def connect(self) -> None:
        """Return when connected to a server that is new enough, or raise Unavailable."""
        try:
            async with asyncio.timeout(CONNECT_WITHIN):
                await self._client.connect(
                    self._servers,
                    name="ampd relay",
                    error_cb=self._note,
                    reconnected_cb=self._reconnected,
                    max_reconnect_attempts=-1,
                    reconnect_time_wait=1,
                    ping_interval=_PING,
                    max_outstanding_pings=2,
                    pending_size=_BUFFER,
                    skip_subject_validation=True,  # ours are made of base64url
                )
        except (TimeoutError, OSError, ValueError, nats.errors.Error) as exc:
            await self._client.close()
            raise Unavailable(
                f"no NATS server answers at {self._places()}: {self._trouble or exc}",
                hint="start it with JetStream: nats-server -js",
            ) from exc
        if self._version() < NEEDS:
            await self._client.close()
            raise Unavailable(f"NATS {self._client.connected_server_version} is older than 2.11")

    def _version(self) -> tuple[int, int]:
        version = self._client.connected_server_version
        return version.major, version.minor

    def _places(self) -> str:
        """The servers without their passwords."""
        return ", ".join(f"{urlsplit(each).hostname}" for each in self._servers)

    async def close(self) -> None:
        """End it."""
        if self._pulse is not None:
            self._pulse.cancel()
        await self._client.close()

    @property
    def server_count(self) -> int:
        """Servers that were named or that the cluster told of."""
        return max(len(self._servers), len(self._client.servers))

    @property
    def max_payload(self) -> int:
        """The largest message the servers take, headers included, in bytes."""
        return self._client.max_payload

    async def _note(self, error: Exception) -> None:
        self._trouble = str(error) or type(error).__name__

    async def _reconnected(self) -> None:
        self._restored()

    def watch_over(self, stream: str) -> None:
        """Look at the stream every now and then (NL2, NL3)."""
        self._pulse = asyncio.get_running_loop().create_task(self._watch(stream))

    async def _watch(self, stream: str) -> None:
        missed = beats = 0
        while True:
            await asyncio.sleep(_PULSE)
            beats += 1
            try:
                await self.api(f"STREAM.INFO.{stream}", {}, _PULSE)
            except Unavailable:
                missed += 1
                if missed % _LOST_AFTER == 0:
                    await self._client.force_reconnect()
            else:
                if missed or beats % _WAKE_EVERY == 0:
                    self._restored()
                missed = 0

    # --- requests ------------------------------------------------------------------------

    async def request(
        self,
        subject: str,
        data: bytes,
        headers: dict[str, str] | None = None,
        wait: float = TIMEOUT,
    ) -> Msg:
        """The answer to a request, or Unavailable (NL1)."""
        if not self._client.is_connected:
            raise Unavailable(f"the relay's store at {self._places()} is away: {self._trouble}")
        try:
            return await self._client.request(subject, data, timeout=wait, headers=headers)
        except nats.errors.NoRespondersError as exc:
            raise Unavailable("the relay's store has no leader now") from exc
        except nats.errors.TimeoutError as exc:
            raise Unavailable("the relay's store did not answer in time") from exc
        except nats.errors.Error as exc:
            raise Unavailable(f"the relay's store: {exc}") from exc

    async def api(self, verb: str, body: object, wait: float = TIMEOUT) -> dict[str, Any]:
        """Ask JetStream's API; Declined when it says no."""
        answer = await self.request(f"$JS.API.{verb}", json.dumps(body).encode(), None, wait)
        return _checked(answer.data)

    async def publish(self, subject: str, data: bytes, headers: dict[str, str]) -> int:
        """The sequence number, once the stream has the message on most of its replicas."""
        answer = _checked((await self.request(subject, data, headers)).data)
        return int(answer["seq"])

    # --- streams -------------------------------------------------------------------------

    async def make_stream(self, config: dict[str, object]) -> None:
        """Make a stream, unless there is one of this name: its operator may have changed it."""
        name = str(config["name"])
        end = asyncio.get_running_loop().time() + CONNECT_WITHIN
        while True:
            try:
                return await self._make_stream(name, config)
            except Unavailable:  # a cluster that is just starting has no leader yet
                if asyncio.get_running_loop().time() > end:
                    raise
            await asyncio.sleep(_POLITE)

    async def _make_stream(self, name: str, config: dict[str, object]) -> None:
        try:
            await self.api(f"STREAM.INFO.{name}", {})
        except Declined as exc:
            if exc.number not in NOT_FOUND:
                raise
        else:
            return
        try:
            await self.api(f"STREAM.CREATE.{name}", config)
        except Declined as exc:
            if exc.number != _OTHERWISE:
                raise

    async def inventory(self, stream: str, subjects: str) -> Inventory:
        """What the stream holds, and which subjects of a pattern, as its leader says."""
        answer = await self.api(f"STREAM.INFO.{stream}", {"subjects_filter": subjects})
        state = answer["state"]
        found = state.get("subjects") or {}
        return Inventory(
            state["last_seq"], state["bytes"], state.get("num_subjects", 0), tuple(found)
        )

    async def newest(self, stream: str, subject: str) -> Stored | None:
        """The last message of a subject or pattern, as the leader has it."""
        try:
            answer = await self.api(f"STREAM.MSG.GET.{stream}", {"last_by_subj": subject})
        except Declined as exc:
            if exc.number in NOT_FOUND:
                return None
            raise
        found = answer["message"]
        headers = _headers(base64.b64decode(found.get("hdrs", "")))
        return Stored(
            found["subject"], found["seq"], headers, base64.b64decode(found.get("data", ""))
        )

    async def delete(self, stream: str, seq: int) -> None:
        """Delete a message; one that is gone is no error."""
        try:
            await self.api(f"STREAM.MSG.DELETE.{stream}", {"seq": seq, "no_erase": True})
        except Declined as exc:
            if "no message found" not in str(exc) and exc.number not in NOT_FOUND:
                raise

    async def page(self, stream: str, request: dict[str, object]) -> Page | None:
        """The messages that a batched direct get brings; None when the replica has none at all."""
        inbox = self._client.new_inbox()
        messages: list[Stored] = []
        try:
            answers = await self._client.subscribe(inbox)
            try:
                data = json.dumps(request).encode()
                await self._client.publish(f"$JS.API.DIRECT.GET.{stream}", data, reply=inbox)
                while (answer := await answers.next_msg(TIMEOUT)).data or not _status(answer):
                    messages.append(_stored(answer))
            finally:
                await answers.unsubscribe()
        except nats.errors.Error as exc:
            raise Unavailable(f"the relay's store did not answer: {exc}") from exc
        return _end_of_page(answer, messages)

    async def subscribe(
        self, subject: str, heard: Callable[[], None]
    ) -> Callable[[], Awaitable[None]]:
        """Call `heard` for each message, until the function that is returned is called."""

        async def message(_: Msg) -> None:
            heard()

        subscription: Subscription = await self._client.subscribe(subject, cb=message)

        async def end() -> None:
            if not self._client.is_closed:
                await subscription.unsubscribe()

        return end


async def each(calls: list[Awaitable[Any]]) -> list[Any]:
    """Their results in order, a few at a time; the first error when all have ended."""
    places = asyncio.Semaphore(_PLACES)

    async def one(call: Awaitable[Any]) -> Any:
        async with places:
            return await call

    results = await asyncio.gather(*(one(call) for call in calls), return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return results


def _checked(data: bytes) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(data.decode())
    error = answer.get("error")
    if error:
        raise Declined(f"the relay's store: {error['description']}", error.get("err_code", 0))
    return answer


def _headers(raw: bytes) -> dict[str, str]:
    """The fields behind the first line ("NATS/1.0")."""
    fields = (line.partition(":") for line in raw.decode().split("\r\n")[1:] if line)
    return {name: value.strip() for name, _, value in fields}


def _status(answer: Msg) -> str:
    return (answer.headers or {}).get("Status", "")


def _stored(answer: Msg) -> Stored:
    headers = answer.headers or {}
    return Stored(headers["Nats-Subject"], int(headers["Nats-Sequence"]), headers, answer.data)


def _end_of_page(answer: Msg, messages: list[Stored]) -> Page | None:
    headers = answer.headers or {}
    match _status(answer):
        case "204":
            pending = int(headers.get("Nats-Num-Pending", 0))
            return Page(messages, pending, int(headers.get("Nats-UpTo-Sequence", 0)))
        case "404":
            return None
        case status:
            number = int(status) if status.isdecimal() else 0
            raise Declined(f"the relay's store: {headers.get('Description', status)}", number)
