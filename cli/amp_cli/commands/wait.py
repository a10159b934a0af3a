"""`amp wait`: block until a message arrives; `amp watch`: show messages as they come.

Both go on when the daemon restarts. `watch` subscribes again after the last number it showed, so
nothing is missed and nothing comes twice; `wait` asks again, for what is left of its time. A daemon
that was told to stop is waited for as long as it takes; one that cannot be started, for _GONE_FOR.

What `wait` shows is marked read once it was shown: an answer that is lost on its way is asked for
again, and a message may rather be shown twice than never.
"""

import time
from contextlib import suppress

from amp_cli.arguments import Arguments, Command, Option
from amp_cli.client import ANSWER_WITHIN, Client, Lost
from amp_cli.commands.read import show
from amp_cli.document import Document
from amp_cli.errors import TIMED_OUT, Failure, NoDaemon
from amp_cli.output import Output

_GONE_FOR = 60.0  # seconds that a restart of the daemon may take
_FIRST_PAUSE = 0.1  # seconds before the first new attempt; doubled up to _LONGEST_PAUSE
_LONGEST_PAUSE = 5.0


def wait(arguments: Arguments, client: Client, out: Output) -> int:
    params: dict[str, object] = {"peek": True}
    for option in ("from", "thread"):
        if value := arguments.text(f"--{option}"):
            params[option] = value
    timeout = arguments.seconds("--timeout")
    if timeout is not None:
        params["timeout_s"] = timeout
    sender = arguments.text("--from")
    if sender and not _is_known(sender, client):
        out.note(f"nobody known is called {sender}: waiting all the same")
    try:
        found = _await(client, params, timeout, out)
    except Failure as failure:
        if failure.exit_code == TIMED_OUT:
            failure.hint = ""  # that nothing came is the answer, and there is nothing to mend
        raise
    if out.json:
        out.document(found.value)
    else:
        for message in found.each("messages"):
            show(message, out)
    out.flush()
    with suppress(Lost, NoDaemon):  # then it is unread, and comes again
        client.ask("message.get", {"ids": [each.text("id") for each in found.each("messages")]})
    return 0


def _is_known(sender: str, client: Client) -> bool:
    """False if neither the address book nor the directory has anybody of this name or address."""
    try:
        client.ask("contact.show", {"address": sender})
    except Failure as failure:
        if failure.code != "contact_unknown":
            return True  # it cannot tell; what is wrong with the address is said by `message.wait`
    else:
        return True
    wanted = sender.strip().lower()
    agents = client.ask("directory.list", {}).each("agents")
    return any(wanted in (a.text("address"), a.text("address").partition("@")[0]) for a in agents)


def _await(
    client: Client, params: dict[str, object], timeout: float | None, out: Output
) -> Document:
    patience = _Patience(client, out)
    ends = None if timeout is None else time.monotonic() + timeout
    while True:
        try:
            connection = client.open()
        except NoDaemon as exc:
            patience.pause(exc, ends)
            continue
        opened = time.monotonic()
        within = None if timeout is None else timeout + ANSWER_WITHIN
        try:
            return connection.call("message.wait", params, within)
        except Lost as exc:
            if time.monotonic() - opened > _LONGEST_PAUSE:  # else it may do nothing but hang up
                patience.is_there()
            patience.pause(exc, ends)
        finally:
            connection.close()
        if ends is not None:
            params["timeout_s"] = timeout = max(0.0, ends - time.monotonic())


def watch(_arguments: Arguments, client: Client, out: Output) -> int:
    last: int | None = None
    patience = _Patience(client, out)
    while True:
        try:
            connection = client.open()
            params: dict[str, object] = {} if last is None else {"after": last}
            subscribed = connection.call("inbox.subscribe", params)
            if last is None:
                last = subscribed.number("last")
                out.note("amp: watching")  # what is sent from now on is shown
            last = min(last, subscribed.number("last"))  # less: an older mailbox was put back
            patience.is_there()
            while True:
                last = _show(connection.notification(None), out, last)
        except (Lost, NoDaemon) as exc:
            patience.pause(exc, None)


class _Patience:
    """How long a daemon that went away is waited for."""

    def __init__(self, client: Client, out: Output) -> None:
        self._client = client
        self._out = out
        self._gone_since = 0.0
        self._pause = _FIRST_PAUSE

    def is_there(self) -> None:
        """It answers, again."""
        self._gone_since, self._pause = 0.0, _FIRST_PAUSE

    def pause(self, exc: Exception, ends: float | None) -> None:
        """Wait before the next attempt; NoDaemon or, at `ends`, a timeout if there is none."""
        now = time.monotonic()
        if ends is not None and now >= ends:
            raise Failure("no message came in time", exit_code=TIMED_OUT, code="timeout")
        if self._client.was_stopped:
            self._note("amp: the daemon was stopped, waiting for it to start")
        elif not self._client.met:
            raise exc
        elif self._gone_since and now - self._gone_since > _GONE_FOR:
            raise NoDaemon("the daemon went away", hint="amp daemon log") from exc
        else:
            self._note("amp: the connection was lost, trying again")
        self._gone_since = self._gone_since or now
        time.sleep(self._pause if ends is None else min(self._pause, ends - now))
        self._pause = min(2 * self._pause, _LONGEST_PAUSE)

    def _note(self, text: str) -> None:
        if not self._gone_since:
            self._out.note(text)


def _show(notification: Document | None, out: Output, last: int) -> int:
    """Print a new message; the number to go on after."""
    if notification is None or notification.text("method") != "message.new":
        return last
    params = notification.of("params")
    message = params.of("message") if "message" in params.value else params
    number = params.number("number") or message.number("number")
    if number and number <= last:
        return last
    if out.json:
        out.document(message.value)
    else:
        show(message, out)
        out.line()
    out.flush()
    return number or last


COMMANDS = {
    "wait": Command(
        "wait",
        "",
        "block until a message arrives, and print it; exit 6 when none came in time",
        wait,
        options=(
            Option("--from", "ADDRESS", "only from this sender"),
            Option("--thread", "ID", "only of this thread"),
            Option("--timeout", "SECONDS", "give up after this long"),
        ),
        example="amp wait --from bob --timeout 5m",
    ),
    "watch": Command(
        "watch",
        "",
        "show messages as they come; with --json one document a line",
        watch,
        example="amp watch --json",
    ),
}
