"""The Python client for trio programs: the verbs of ampd.client, awaited.

    from ampd.client.trio import connect

    async with connect(agent="alice") as amp:
        await amp.send("bob", "Hello", "Are you there?")
        for message in await amp.inbox(unread=True):
            print(message.sender, message.subject)
        async for message in amp.subscribe():
            await amp.reply(message, "Got it.")

Values, errors and the repeated call after a broken connection are as in ampd.client. Tasks may
share an `Amp`: their calls take turns. A call that is cancelled closes the connection, because
its answer would be taken for the next one's; the next call opens a new one.
"""

import math
from collections.abc import Awaitable, Callable, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack

import trio

from ampd.client import FIRST_PAUSE, GONE_FOR, LONGEST_PAUSE, verbs
from ampd.client.conversation import Conversation
from ampd.client.documents import Agent, Contact, Listing, Message, Peer, Reachable, Sent
from ampd.client.line import Lost, agent_name, hung_up, no_daemon, silent, socket_of
from ampd.client.verbs import ANSWER_WITHIN, Call, Id, ListOptions, SendOptions
from ampd.model.errors import AmpdError, Unavailable

Value = TypeVar("Value")


def connect(agent: str | None = None, socket_path: str | None = None) -> "Amp":
    """Use it with `async with`; agent and socket as in ampd.client.connect."""
    return Amp(agent_name(agent), socket_of(socket_path))


class _Line:
    """One connection: hello first, then one request after the other."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._conversation = Conversation()
        self._stream = stream

    @classmethod
    async def open(cls, agent: str, path: str) -> Self:
        try:
            line = cls(await trio.open_unix_socket(path))
        except OSError as exc:
            raise no_daemon(path, exc) from exc
        params: dict[str, object] = {"client": "ampd.client.trio"}
        if agent:
            params["agent"] = agent
        try:
            await line.call(verbs.plain("system.hello", params, ANSWER_WITHIN))
        except Lost:
            raise hung_up() from None
        except AmpdError:
            await line.close()
            raise
        return line

    async def call(self, call: Call[Value]) -> Value:
        """Closed after anything but an answer."""
        request = self._conversation.request(call.method, call.params)
        is_usable = False  # cancelled, interrupted or lost: the answer is nobody's then
        try:
            with trio.fail_after(math.inf if call.within is None else call.within):
                answer = await self._exchange(request)
            is_usable = True
        except AmpdError:
            is_usable = True
            raise
        except trio.TooSlowError:
            raise silent(call.within) from None
        finally:
            if not is_usable:
                await self.close()
        return call.read(answer)

    async def notification(self) -> tuple[str, Any]:
        """The next one, however long it takes; Lost if the connection ends."""
        while (found := self._conversation.notification()) is None:
            self._conversation.receive(await self._read())
        return found

    async def close(self) -> None:
        await trio.aclose_forcefully(self._stream)

    @property
    def is_closed(self) -> bool:
        return self._stream.socket.fileno() < 0

    async def _exchange(self, request: bytes) -> Any:
        try:
            await self._stream.send_all(request)
        except trio.BrokenResourceError:
            raise Lost from None
        while (answer := self._conversation.answer()) is None:
            self._conversation.receive(await self._read())
        return answer

    async def _read(self) -> bytes:
        try:
            data = await self._stream.receive_some()
        except trio.BrokenResourceError:
            raise Lost from None
        if not data:
            raise Lost
        return bytes(data)


class Amp:
    """The verbs, for one agent; each says what it does in ampd.client.Amp."""

    def __init__(self, agent: str, path: str) -> None:
        self._agent = agent
        self._path = path
        self._turn = trio.Lock()
        self._line: _Line | None = None
        self._subscriptions: list[Subscription] = []

    async def __aenter__(self) -> Self:
        self._line = await self._open()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        for subscription in self._subscriptions:
            await subscription.close()
        if self._line is not None:
            await self._line.close()
            self._line = None

    async def call(
        self, method: str, params: dict[str, object] | None = None, within: float = ANSWER_WITHIN
    ) -> Any:
        return await self._do(verbs.plain(method, params or {}, within))

    async def hello(self) -> Any:
        return await self.call("system.hello", {"client": "ampd.client.trio"})

    async def status(self) -> Any:
        return await self.call("system.status")

    async def create(
        self,
        name: str,
        *,
        alias: str = "",
        description: str = "",
        capabilities: Sequence[str] = (),
    ) -> Agent:
        return await self._do(verbs.create(name, alias, description, capabilities))

    init = create

    async def whoami(self) -> Agent:
        return await self._do(verbs.whoami())

    async def agents(self) -> list[Agent]:
        return await self._do(verbs.agents())

    async def remove_agent(self, name: str, *, purge: bool = False) -> None:
        await self._do(verbs.remove_agent(name, purge=purge))

    async def send(
        self,
        to: str | Sequence[str],
        subject: str = "",
        text: str | None = None,
        **options: Unpack[SendOptions],
    ) -> Sent:
        return await self._do(verbs.send(to, subject, text, options))

    async def reply(
        self, message: Id, text: str | None = None, **options: Unpack[SendOptions]
    ) -> Sent:
        if not isinstance(message, Message):
            message = (await self.read(message, peek=True))[0]
        return await self._do(verbs.reply(message, text, options))

    async def inbox(self, **options: Unpack[ListOptions]) -> Listing:
        return await self._do(verbs.messages("inbox", options))

    async def all(self, **options: Unpack[ListOptions]) -> Listing:
        return await self._do(verbs.messages("all", options))

    async def quarantine(self, **options: Unpack[ListOptions]) -> Listing:
        return await self._do(verbs.messages("quarantine", options))

    async def sent(self, **options: Unpack[ListOptions]) -> Listing:
        return await self._do(verbs.messages("sent", options))

    async def outbox(self, **options: Unpack[ListOptions]) -> Listing:
        return await self._do(verbs.messages("outbox", options))

    async def thread(self, message: Id) -> Listing:
        return await self._do(verbs.thread(message))

    async def read(self, *ids: Id, peek: bool = False) -> list[Message]:
        return await self._do(verbs.read(ids, peek=peek))

    async def ack(self, *ids: Id) -> list[str]:
        return await self._do(verbs.ack(ids))

    async def ack_all(self) -> list[str]:
        return await self._do(verbs.ack_all())

    async def delete(self, *ids: Id) -> list[str]:
        return await self._do(verbs.delete(ids))

    async def mark(self, *ids: Id, state: str) -> list[str]:
        return await self._do(verbs.mark(ids, state))

    async def status_of(self, message: Id | Sent) -> Sent:
        return await self._do(verbs.status_of(message))

    async def wait(
        self,
        *,
        sender: str = "",
        thread: Id | None = None,
        timeout: float | None = None,  # noqa: ASYNC109 - the daemon keeps it, not trio
    ) -> Message | None:
        """The next message that arrives; None if none came within `timeout` seconds.

        Has a connection of its own, so that other tasks need not wait too.
        """
        line = await self._open()
        try:
            found = await line.call(verbs.wait(sender, thread, timeout))
        except Lost:
            raise hung_up() from None
        except Unavailable as exc:
            if exc.code == "timeout":
                return None
            raise
        finally:
            await line.close()
        return found[0] if found else None

    def subscribe(self, after: int | None = None) -> "Subscription":
        """Messages as they come, for ever; first those with a number over `after`."""
        subscription = Subscription(self._open, after)
        self._subscriptions.append(subscription)
        return subscription

    async def discover(
        self, domain: str = "", *, capability: str = "", wait: float = 0.0
    ) -> list[Reachable]:
        return await self._do(verbs.discover(domain, capability, wait))

    async def peers(self) -> list[Peer]:
        return await self._do(verbs.peers())

    async def contacts(self) -> list[Contact]:
        return await self._do(verbs.contact("list"))

    async def add_contact(self, link: str) -> list[Contact]:
        return await self._do(verbs.contact("add", link=link))

    async def show_contact(self, address: str) -> list[Contact]:
        return await self._do(verbs.contact("show", address=address))

    async def verify_contact(self, address: str, fingerprint: str) -> list[Contact]:
        return await self._do(verbs.contact("verify", address=address, fingerprint=fingerprint))

    async def block_contact(self, address: str) -> list[Contact]:
        return await self._do(verbs.contact("block", address=address))

    async def unblock_contact(self, address: str) -> list[Contact]:
        return await self._do(verbs.contact("unblock", address=address))

    async def accept_contact(self, address: str) -> list[Contact]:
        return await self._do(verbs.contact("accept", address=address))

    async def remove_contact(self, address: str) -> list[Contact]:
        return await self._do(verbs.contact("remove", address=address))

    async def _do(self, call: Call[Value]) -> Value:
        async with self._turn:
            for _ in range(2):
                if self._line is None or self._line.is_closed:
                    self._line = await self._open()
                try:
                    return await self._line.call(call)
                except Lost:
                    continue
        raise hung_up()

    async def _open(self) -> _Line:
        return await _Line.open(self._agent, self._path)


class Subscription:
    """An asynchronous iterator over the messages of an agent as they come.

    Subscribes when it is first asked for a message. Has a connection of its own, and opens it
    again after the last message when it breaks: nothing is missed and nothing comes twice.
    Unavailable when the daemon stays away.
    """

    def __init__(self, open_line: Callable[[], Awaitable[_Line]], after: int | None) -> None:
        self._open = open_line
        self._line: _Line | None = None
        self.last = after  # the number of the last message seen

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Message:
        while True:
            if self._line is None:
                self._line = await (self._first() if self.last is None else self._again())
            try:
                method, params = await self._line.notification()
            except Lost:
                await self.close()
                continue
            message = verbs.pushed(params) if method == "message.new" else None
            last = self.last or 0
            if message is not None and (not message.number or message.number > last):
                self.last = message.number or last
                return message

    async def close(self) -> None:
        line, self._line = self._line, None
        if line is not None:
            await line.close()

    async def _first(self) -> _Line:
        line = await self._open()
        try:
            self.last = await line.call(verbs.subscribe(None))
        except Lost:
            raise hung_up() from None
        return line

    async def _again(self) -> _Line:
        deadline, pause = trio.current_time() + GONE_FOR, FIRST_PAUSE
        while True:
            try:
                line = await self._open()
                await line.call(verbs.subscribe(self.last))
            except (Lost, Unavailable) as exc:
                if trio.current_time() > deadline:
                    raise hung_up() from exc
            else:
                return line
            await trio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)
