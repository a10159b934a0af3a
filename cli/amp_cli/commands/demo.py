"""`amp demo`: two real nodes on this machine, in a temporary folder, shown at work.

Two daemons find each other by mDNS on loopback; a message and a reply; one of them leaves, mail
is queued, and arrives when it is back. Nothing outside the temporary folder is touched, and it is
removed however the demo ends.
"""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import Final, NoReturn

from amp_cli.arguments import Arguments, Command, Option
from amp_cli.client import Client
from amp_cli.errors import Failure
from amp_cli.output import Output
from ampd.client import Amp, connect
from ampd.model.errors import AmpdError, Unavailable

STARTS_WITHIN: Final = 10.0  # seconds; a daemon takes less than one
FOUND_WITHIN: Final = 10.0  # seconds; mDNS takes one or two
_LOOK_EVERY: Final = 0.05

_STAY: Final = """\
To stay:   amp init NAME                    your first agent; the daemon starts by itself
           amp send SOMEBODY SUBJECT BODY   amp inbox   amp help
           amp daemon install               start it with your session (systemd)
"""


class Host:
    """One of the two nodes: a home of its own, a daemon, and a connection to it."""

    def __init__(self, folder: Path, name: str) -> None:
        self.name = name
        self.home = folder / name
        self.socket = self.home / "run" / "ampd.sock"
        self._daemon: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the daemon, and wait until it answers."""
        self.home.mkdir(mode=0o700, exist_ok=True)
        environ = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("AMPD_", "AMP_"))
        }
        environ |= {
            "AMPD_HOME": str(self.home),
            "AMPD_NODE_DOMAIN": f"{self.name}.local",
            "AMPD_PEER_LISTEN": "127.0.0.1:0",
            "AMPD_DISCOVERY_INTERFACES": "127.0.0.1",
        }
        with (self.home / "ampd.log").open("ab") as log:
            self._daemon = subprocess.Popen(
                [sys.executable, "-m", "ampd"],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environ,
                start_new_session=True,
            )  # fmt: skip
        deadline = time.monotonic() + STARTS_WITHIN
        while not self._answers():
            if self._daemon.poll() is not None or time.monotonic() > deadline:
                raise Failure(f"the daemon of {self.name} did not start: {self._last_words()}")
            time.sleep(_LOOK_EVERY)

    def _answers(self) -> bool:
        try:
            connect(socket_path=str(self.socket)).close()
        except Unavailable:
            return False
        return True

    def _last_words(self) -> str:
        lines = (self.home / "ampd.log").read_text(errors="replace").splitlines()
        return lines[-1] if lines else "it said nothing"

    def stop(self) -> None:
        """End the daemon, if it runs."""
        if self._daemon is not None:
            self._daemon.terminate()
            try:
                self._daemon.wait(timeout=5)
            except subprocess.TimeoutExpired:
                self._daemon.kill()
                self._daemon.wait()
            self._daemon = None

    def agent(self, name: str) -> Amp:
        """A connection that acts as `name`, which is made if there is none."""
        with connect(socket_path=str(self.socket)) as amp:
            amp.create(name)
        return connect(agent=name, socket_path=str(self.socket))


class _Story:
    """What is told while it happens; with --json, at its end."""

    def __init__(self, out: Output) -> None:
        self._out = out
        self.told: list[str] = []

    def tell(self, text: str) -> None:
        self.told.append(text)
        if not self._out.json:
            self._out.said(text)
            self._out.flush()


def run(arguments: Arguments, _client: Client, out: Output) -> int:
    signal.signal(signal.SIGTERM, _interrupted)
    keep = arguments.flag("--keep")
    began = time.monotonic()
    story = _Story(out)
    with _folder(keep=keep) as folder, ExitStack() as hosts:
        laptop, desk = Host(folder, "laptop"), Host(folder, "desk")
        hosts.callback(laptop.stop)
        hosts.callback(desk.stop)
        try:
            _show(laptop, desk, story.tell)
        except AmpdError as exc:
            raise Failure(f"the demo failed: {exc}", hint=exc.hint) from exc
    seconds = round(time.monotonic() - began, 1)
    if out.json:
        kept = str(folder) if keep else None
        out.document({"shown": story.told, "seconds": seconds, "folder": kept})
        return 0
    story.tell(f"That took {seconds} s.{f' The folder stays: {folder}' if keep else ''}")
    if not out.quiet:
        out.line()
        out.text(_STAY)
    return 0


def _show(laptop: Host, desk: Host, say: Callable[[str], None]) -> None:
    laptop.start()
    desk.start()
    say("Two nodes run on this machine: laptop.local and desk.local.")
    with desk.agent("bob"), laptop.agent("alice") as alice:
        found = _found(alice)
        say(f"By mDNS, alice@laptop.local found bob@desk.local in {found:.1f} s.")
        _talk(alice, desk, say)
        desk.stop()
        waiting = [alice.send("bob@desk.local", f"While you were away, {n}") for n in (1, 2)]
        say(
            f"desk.local is gone. alice sends two more: {waiting[0].status}, on her disk,"
            " signed and sealed."
        )
        desk.start()
        with desk.agent("bob") as bob:
            for _ in waiting:
                message = _next(bob)
                say(f"desk.local is back: bob reads {message!r}.")
        states = {_settled(alice, each.id) for each in waiting}
        say(f"alice sees both: {', '.join(sorted(states))}. Nothing lost, nothing twice.")


def _talk(alice: Amp, desk: Host, say: Callable[[str], None]) -> None:
    sent = alice.send("bob@desk.local", "Tests are green", "Shall we ship it?")
    with desk.agent("bob") as bob:
        message = bob.wait(timeout=FOUND_WITHIN)
        if message is None:
            raise Unavailable("bob got nothing")
        say(f"alice writes; bob, on the other node, reads: {message.body!r}")
        bob.reply(message, "Ship it.")
    answer = alice.wait(timeout=FOUND_WITHIN)
    if answer is None:
        raise Unavailable("alice got no answer")
    same = "in the same thread" if answer.thread_id == sent.thread_id else "in another thread"
    say(f"bob answers {same}: {answer.body!r}. Signed, sealed, on disk on both sides.")


def _found(alice: Amp) -> float:
    began = time.monotonic()
    while not any(each.online for each in alice.discover("desk.local")):
        if time.monotonic() - began > FOUND_WITHIN:
            raise Unavailable(
                "the two nodes did not find each other by mDNS on loopback",
                hint="is UDP port 5353 blocked on lo? amp doctor",
            )
        time.sleep(_LOOK_EVERY)
    return time.monotonic() - began


def _next(bob: Amp) -> str:
    message = bob.wait(timeout=FOUND_WITHIN)
    if message is None:
        raise Unavailable("queued mail did not arrive")
    return message.subject


def _settled(alice: Amp, message: str) -> str:
    deadline = time.monotonic() + FOUND_WITHIN
    while (status := alice.status_of(message).status) == "queued" and time.monotonic() < deadline:
        time.sleep(_LOOK_EVERY)
    return status


@contextmanager
def _folder(*, keep: bool) -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="amp-demo-"))
    try:
        yield folder
    finally:
        if not keep:
            shutil.rmtree(folder, ignore_errors=True)


def _interrupted(_number: int, _frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


COMMANDS = {
    "demo": Command(
        "demo",
        "",
        "two nodes on this machine find each other and write to each other, also while one is"
        " away; cleans up",
        run,
        options=(Option("--keep", "", "leave the folder, and print where it is"),),
        example="amp demo",
        as_agent=False,
    )
}
