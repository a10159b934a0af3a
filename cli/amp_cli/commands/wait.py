"""`amp wait`: block until a message arrives; `amp watch`: show messages as they come.

`watch` goes on when the daemon restarts: it subscribes again after the last number it showed, so
nothing is missed and nothing comes twice.
"""

import time

from amp_cli.arguments import Arguments, Command, Option
from amp_cli.client import ANSWER_WITHIN, Client, Lost
from amp_cli.commands.read import show
from amp_cli.document import Document
from amp_cli.errors import TIMED_OUT, Failure, NoDaemon
from amp_cli.output import Output

_GONE_FOR = 60.0  # seconds that a restart of the daemon may take before `watch` gives up
_FIRST_PAUSE = 0.1  # seconds before the first new attempt; doubled up to _LONGEST_PAUSE
_LONGEST_PAUSE = 5.0


def wait(arguments: Arguments, client: Client, out: Output) -> int:
    params: dict[str, object] = {}
    for option in ("from", "thread"):
        if value := arguments.text(f"--{option}"):
            params[option] = value
    timeout = arguments.seconds("--timeout")
    if timeout is not None:
        params["timeout_s"] = timeout
    within = None if timeout is None else timeout + ANSWER_WITHIN
    try:
        found = client.ask("message.wait", params, within=within)
    except Failure as failure:
        if failure.exit_code == TIMED_OUT:
            failure.hint = ""  # that nothing came is the answer, and there is nothing to mend
        raise
    if out.json:
        out.document(found.value)
    else:
        for message in found.each("messages"):
            show(message, out)
    return 0


def watch(_arguments: Arguments, client: Client, out: Output) -> int:
    last: int | None = None
    gone_since, pause = 0.0, _FIRST_PAUSE
    while True:
        try:
            connection = client.open()
            params: dict[str, object] = {} if last is None else {"after": last}
            subscribed = connection.call("inbox.subscribe", params)
            if last is None:
                last = subscribed.number("last")
                out.note("amp: watching")  # what is sent from now on is shown
            gone_since, pause = 0.0, _FIRST_PAUSE
            while True:
                last = _show(connection.notification(None), out, last)
        except (Lost, NoDaemon) as exc:
            now = time.monotonic()
            gone_since = gone_since or now
            if last is None or now - gone_since > _GONE_FOR:
                raise NoDaemon("the daemon went away", hint="amp daemon log") from exc
            if gone_since == now:
                out.note("amp: the connection was lost, trying again")
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)


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
