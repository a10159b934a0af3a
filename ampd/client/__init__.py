"""The Python client of ampd: blocking, the standard library only.

    from ampd.client import connect

    with connect(agent="alice") as amp:
        amp.send("bob", "Hello", "Are you there?")
        for message in amp.inbox(unread=True):
            print(message.sender, message.subject)
        for message in amp.subscribe():
            amp.reply(message, "Got it.")
            amp.ack(message)

Answers are frozen dataclasses (documents.py). Errors are those of ampd.model.errors, with `code`
and `hint` (conversation.py has the table). No daemon is started: where none answers, the error is
Unavailable and its hint `amp daemon start`.

A call whose connection broke is made once more on a new one: `send` carries a random `key`, so
nothing is sent twice. An `Amp` belongs to one thread. `ampd.client.trio` has the same verbs.
"""

import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack

from ampd.client import verbs
from ampd.client.documents import (
    Agent,
    Contact,
    Listing,
    Message,
    Peer,
    Reachable,
    Recipient,
    Sent,
)
from ampd.client.line import CLIENT, Line, Lost, agent_name, hung_up, socket_of
from ampd.client.verbs import ANSWER_WITHIN, Call, Id, ListOptions, SendOptions
from ampd.model.errors import AmpdError, Unavailable

__all__ = [
    "Agent",
    "Amp",
    "Contact",
    "Listing",
    "Message",
    "Peer",
    "Reachable",
    "Recipient",
    "Sent",
    "Subscription",
    "connect",
]

Value = TypeVar("Value")
# A restart of the daemon takes a few seconds: a subscription tries again this long.
GONE_FOR = 60.0  # seconds
FIRST_PAUSE = 0.1  # seconds between two attempts; doubled up to LONGEST_PAUSE
LONGEST_PAUSE = 5.0


def connect(agent: str | None = None, socket_path: str | None = None) -> "Amp":
    """A connection that acts as `agent`: else as AMP_AGENT, else as the only agent of the node.

    `socket_path`: else AMP_SOCKET, else the daemon of this user. Unavailable if none answers.
    """
    return Amp(agent_name(agent), socket_of(socket_path))


class Amp:
    """The verbs, for one agent. Use it with `with`, or `close()` it."""

    def __init__(self, agent: str, path: str) -> None:
        self._agent = agent
        self._path = path
        self._subscriptions: list[Subscription] = []
        self._line: Line | None = self._open()
        self.version: str = self._line.hello.get("version", "")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        for subscription in self._subscriptions:
            subscription.close()
        if self._line is not None:
            self._line.close()
            self._line = None

    def call(
        self, method: str, params: dict[str, object] | None = None, within: float = ANSWER_WITHIN
    ) -> Any:
        """Any method of the socket; its result as JSON has it."""
        return self._do(verbs.plain(method, params or {}, within))

    def hello(self) -> Any:
        return self.call("system.hello", {"client": CLIENT})

    def status(self) -> Any:
        """The `status` document."""
        return self.call("system.status")

    def create(
        self,
        name: str,
        *,
        alias: str = "",
        description: str = "",
        capabilities: Sequence[str] = (),
    ) -> Agent:
        """Make an agent; the one there is, unchanged, if the name is taken."""
        return self._do(verbs.create(name, alias, description, capabilities))

    init = create

    def whoami(self) -> Agent:
        return self._do(verbs.whoami())

    def agents(self) -> list[Agent]:
        return self._do(verbs.agents())

    def remove_agent(self, name: str, *, purge: bool = False) -> None:
        self._do(verbs.remove_agent(name, purge=purge))

    def send(
        self,
        to: str | Sequence[str],
        subject: str = "",
        text: str | None = None,
        **options: Unpack[SendOptions],
    ) -> Sent:
        """On disk here when this returns; `recipients` say how far it got."""
        return self._do(verbs.send(to, subject, text, options))

    def reply(self, message: Id, text: str | None = None, **options: Unpack[SendOptions]) -> Sent:
        """To the sender of `message`, in its thread."""
        if not isinstance(message, Message):
            message = self.read(message, peek=True)[0]
        return self._do(verbs.reply(message, text, options))

    def inbox(self, **options: Unpack[ListOptions]) -> Listing:
        return self._do(verbs.messages("inbox", options))

    def all(self, **options: Unpack[ListOptions]) -> Listing:
        """With what was acknowledged."""
        return self._do(verbs.messages("all", options))

    def quarantine(self, **options: Unpack[ListOptions]) -> Listing:
        return self._do(verbs.messages("quarantine", options))

    def sent(self, **options: Unpack[ListOptions]) -> Listing:
        return self._do(verbs.messages("sent", options))

    def outbox(self, **options: Unpack[ListOptions]) -> Listing:
        return self._do(verbs.messages("outbox", options))

    def thread(self, message: Id) -> Listing:
        return self._do(verbs.thread(message))

    def read(self, *ids: Id, peek: bool = False) -> list[Message]:
        """The messages with their text; marked read unless `peek`."""
        return self._do(verbs.read(ids, peek=peek))

    def ack(self, *ids: Id) -> list[str]:
        """Done with: out of the inbox, kept in the journal."""
        return self._do(verbs.ack(ids))

    def ack_all(self) -> list[str]:
        return self._do(verbs.ack_all())

    def delete(self, *ids: Id) -> list[str]:
        return self._do(verbs.delete(ids))

    def mark(self, *ids: Id, state: str) -> list[str]:
        return self._do(verbs.mark(ids, state))

    def status_of(self, message: Id | Sent) -> Sent:
        return self._do(verbs.status_of(message))

    def wait(
        self, *, sender: str = "", thread: Id | None = None, timeout: float | None = None
    ) -> Message | None:
        """The next message that arrives; None if none came within `timeout` seconds."""
        try:
            found = self._do(verbs.wait(sender, thread, timeout))
        except Unavailable as exc:
            if exc.code == "timeout":
                return None
            raise
        return found[0] if found else None

    def subscribe(self, after: int | None = None) -> "Subscription":
        """Messages as they come, for ever; first those with a number over `after`."""
        subscription = Subscription(self._open, after)
        self._subscriptions.append(subscription)
        return subscription

    def discover(
        self, domain: str = "", *, capability: str = "", wait: float = 0.0
    ) -> list[Reachable]:
        return self._do(verbs.discover(domain, capability, wait))

    def peers(self) -> list[Peer]:
        return self._do(verbs.peers())

    def contacts(self) -> list[Contact]:
        return self._do(verbs.contact("list"))

    def add_contact(self, link: str) -> list[Contact]:
        return self._do(verbs.contact("add", link=link))

    def show_contact(self, address: str) -> list[Contact]:
        return self._do(verbs.contact("show", address=address))

    def verify_contact(self, address: str, fingerprint: str) -> list[Contact]:
        return self._do(verbs.contact("verify", address=address, fingerprint=fingerprint))

    def block_contact(self, address: str) -> list[Contact]:
        return self._do(verbs.contact("block", address=address))

    def unblock_contact(self, address: str) -> list[Contact]:
        return self._do(verbs.contact("unblock", address=address))

    def accept_contact(self, address: str) -> list[Contact]:
        return self._do(verbs.contact("accept", address=address))

    def remove_contact(self, address: str) -> list[Contact]:
        return self._do(verbs.contact("remove", address=address))

    def _do(self, call: Call[Value]) -> Value:
        for _ in range(2):
            line, self._line = self._line or self._open(), None
            is_usable = False
            try:
                value = line.call(call)
                is_usable = True
            except Lost:
                continue
            except AmpdError:
                is_usable = not line.is_closed
                raise
            finally:
                if is_usable:
                    self._line = line
                else:
                    line.close()
            return value
        raise hung_up()

    def _open(self) -> Line:
        try:
            return Line(self._agent, self._path)
        except Lost:
            raise hung_up() from None


class Subscription:
    """An iterator over the messages of an agent as they come.

    Has a connection of its own, and opens it again after the last message when it breaks:
    nothing is missed and nothing comes twice. Unavailable when the daemon stays away.
    """

    def __init__(self, open_line: Callable[[], Line], after: int | None) -> None:
        self._open = open_line
        self._line, last = self._subscribed(after)
        self.last = last if after is None else after  # the number of the last message seen

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Message:
        while True:
            try:
                method, params = self._line.notification()
            except Lost:
                self._line.close()
                self._line = self._again()
                continue
            message = verbs.pushed(params) if method == "message.new" else None
            if message is not None and (not message.number or message.number > self.last):
                self.last = message.number or self.last
                return message

    def close(self) -> None:
        self._line.close()

    def _again(self) -> Line:
        deadline, pause = time.monotonic() + GONE_FOR, FIRST_PAUSE
        while True:
            try:
                return self._subscribed(self.last)[0]
            except Unavailable:
                if time.monotonic() > deadline:
                    raise
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)

    def _subscribed(self, after: int | None) -> tuple[Line, int]:
        line = self._open()
        try:
            return line, line.call(verbs.subscribe(after))
        except Lost:
            line.close()
            raise hung_up() from None
        except AmpdError:
            line.close()
            raise
