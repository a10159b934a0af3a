"""The verbs of both Python clients: each is one method of the socket, its parameters and its value.

Not here: how a call is carried out (`ampd.client`, blocking; `ampd.client.trio`).
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, TypedDict, TypeVar

from ampd.client.documents import (
    Agent,
    Contact,
    Listing,
    Message,
    Peer,
    Reachable,
    Sent,
    build,
    build_each,
)

ANSWER_WITHIN = 30.0  # seconds; a daemon that is silent for longer is stuck, not busy
Value = TypeVar("Value")
Id = str | int | Message  # a full id, a unique part of one, a mailbox number, or the message


@dataclass(frozen=True, slots=True)
class Call(Generic[Value]):
    """One request, and what its result becomes."""

    method: str
    params: dict[str, object]
    read: Callable[[Any], Value]
    within: float | None = ANSWER_WITHIN  # seconds; None waits for ever


class SendOptions(TypedDict, total=False):
    """What `send` and `reply` take beside the text."""

    payload: object  # any JSON value
    context: object  # any JSON value
    type: str
    priority: str  # low, normal, high, urgent
    in_reply_to: Id
    expires_in_s: int
    receipt: bool
    key: str  # idempotency: the same key gives the first answer again


class ListOptions(TypedDict, total=False):
    """What limits a list of messages."""

    unread: bool
    sender: str
    thread: Id
    limit: int
    before: Id
    after: Id


def plain(method: str, params: dict[str, object], within: float | None) -> Call[Any]:
    return Call(method, params, lambda document: document, within)


def create(name: str, alias: str, description: str, capabilities: Sequence[str]) -> Call[Agent]:
    params: dict[str, object] = {"name": name}
    if alias:
        params["alias"] = alias
    if description:
        params["description"] = description
    if capabilities:
        params["capabilities"] = list(capabilities)
    return Call("agent.create", params, _agent)


def whoami() -> Call[Agent]:
    return Call("agent.show", {}, _agent)


def agents() -> Call[list[Agent]]:
    return Call("agent.list", {}, lambda document: build_each(Agent, document, "agents"))


def remove_agent(name: str, *, purge: bool) -> Call[Any]:
    return plain("agent.remove", {"name": name, "purge": purge}, ANSWER_WITHIN)


def send(
    to: str | Sequence[str], subject: str, text: str | None, options: SendOptions
) -> Call[Sent]:
    params: dict[str, object] = {"key": os.urandom(16).hex(), "subject": subject, **options}
    params["to"] = [to] if isinstance(to, str) else list(to)
    if text is not None:
        params["text"] = text
    if "in_reply_to" in params:
        params["in_reply_to"] = _id(options["in_reply_to"])
    return Call("message.send", params, _sent)


def reply(original: Message, text: str | None, options: SendOptions) -> Call[Sent]:
    """To the sender of `original`, in its thread."""
    subject = original.subject
    if not subject.lower().startswith("re:"):
        subject = f"Re: {subject}"
    return send(original.sender, subject, text, {**options, "in_reply_to": original})


def messages(box: str, options: ListOptions) -> Call[Listing]:
    params: dict[str, object] = {"box": box}
    for name, value in options.items():
        if isinstance(value, Message):
            value = value.thread_id if name == "thread" else value.number or value.id  # noqa: PLW2901
        params["from" if name == "sender" else name] = value
    return Call("message.list", params, _listing)


def thread(message: Id) -> Call[Listing]:
    return Call("message.thread", {"id": _id(message)}, _listing)


def read(ids: Sequence[Id], *, peek: bool) -> Call[list[Message]]:
    params: dict[str, object] = {"ids": [_id(each) for each in ids]}
    if peek:
        params["peek"] = True
    return Call("message.get", params, _messages)


def ack(ids: Sequence[Id]) -> Call[list[str]]:
    return Call("message.ack", {"ids": [_id(each) for each in ids]}, _done)


def ack_all() -> Call[list[str]]:
    return Call("message.ack", {"all": True}, _done)


def delete(ids: Sequence[Id]) -> Call[list[str]]:
    return Call("message.delete", {"ids": [_id(each) for each in ids]}, _done)


def mark(ids: Sequence[Id], state: str) -> Call[list[str]]:
    params: dict[str, object] = {"ids": [_id(each) for each in ids], "state": state}
    return Call("message.mark", params, _done)


def status_of(message: Id | Sent) -> Call[Sent]:
    identity = message.id if isinstance(message, Sent) else _id(message)
    return Call("message.status", {"id": identity}, _sent)


def wait(sender: str, thread: Id | None, timeout: float | None) -> Call[list[Message]]:
    params: dict[str, object] = {}
    if sender:
        params["from"] = sender
    if thread is not None:
        params["thread"] = thread.thread_id if isinstance(thread, Message) else thread
    if timeout is not None:
        params["timeout_s"] = timeout
    within = None if timeout is None else timeout + ANSWER_WITHIN
    return Call("message.wait", params, _messages, within)


def discover(domain: str, capability: str, wait: float) -> Call[list[Reachable]]:
    params: dict[str, object] = {}
    if domain:
        params["domain"] = domain
    if capability:
        params["capability"] = capability
    if wait:
        params["wait_s"] = wait
    return Call(
        "directory.list",
        params,
        lambda document: build_each(Reachable, document, "agents"),
        ANSWER_WITHIN + wait,
    )


def peers() -> Call[list[Peer]]:
    return Call("peer.list", {}, lambda document: build_each(Peer, document, "peers"))


def contact(verb: str, **params: object) -> Call[list[Contact]]:
    """contact.VERB; the contacts it is about."""
    return Call(
        f"contact.{verb}", params, lambda document: build_each(Contact, document, "contacts")
    )


def subscribe(after: int | None) -> Call[int]:
    """The number of the last message before what will be pushed."""
    params: dict[str, object] = {} if after is None else {"after": after}
    return Call("inbox.subscribe", params, lambda document: int(document.get("last") or 0))


def pushed(params: object) -> Message:
    """The message of a `message.new` notification."""
    inner = params.get("message") if isinstance(params, dict) else None
    message = build(Message, inner if inner is not None else params)
    if not message.number and isinstance(params, dict):
        return replace(message, number=params.get("number") or 0)
    return message


def _id(message: Id) -> str:
    return message.id if isinstance(message, Message) else str(message)


def _agent(document: Any) -> Agent:
    return build(Agent, document)


def _sent(document: Any) -> Sent:
    return build(Sent, document)


def _listing(document: Any) -> Listing:
    return build(Listing, document)


def _messages(document: Any) -> list[Message]:
    return build_each(Message, document, "messages")


def _done(document: Any) -> list[str]:
    return [str(each) for each in document.get("done") or ()]
