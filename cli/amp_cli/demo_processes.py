"""The processes of `amp demo`: nodes and a relay of its own, on loopback, in one folder.

W1  They meet nobody: the port is one that the system picks on 127.0.0.1, mDNS is off, and no
    variable of the caller's own daemon, gateway or service reaches them.
W2  A process that ends while somebody waits is a failure at once, with what it said.
W3  None is left behind: no signal breaks in while a process is made, or while the processes and
    the folder are removed (demo_ending.py).
W4  The folder's path leaves room for the socket of an agent (108 bytes), whatever TMPDIR says.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Generic, TypeVar

from amp_cli.demo_ending import Ending
from amp_cli.errors import Failure
from ampd.client import Amp, connect
from ampd.model.errors import AmpdError, Unavailable

WITHIN: Final = 60.0  # seconds for each step; a slow machine needs ten, a quiet one less than one
LOOK_EVERY: Final = 0.05  # seconds
SHOW_AFTER: Final = 0.5  # seconds until progress is worth a line
CAUSE_WITHIN: Final = 1.0  # seconds, from the end of a connection to that of its process
STOPS_WITHIN: Final = 5.0  # seconds; a daemon ends within 3
LOOPBACK: Final = "127.0.0.1"
# Bytes; "/amp-demo-xxxxxxxx/laptop/run/agents/alice.sock" is behind them (macOS: 104 in all).
_PATH_ROOM: Final = 50
_NOT_INHERITED: Final = ("AMPD_", "AMP_", "AMTP_", "NOTIFY_", "WATCHDOG_", "LISTEN_")  # W1
_ERROR: Final = "ampd: error: "
_READY: Final = re.compile(r" ready  uri=amp://\w+@(\S+)")

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class Waited(Generic[Value]):
    """What came, and after how many seconds."""

    answer: Value
    seconds: float


class World:
    """What runs in one folder, and how to wait for it. `close` leaves nothing, except with `keep`.

    `show` gets a line of progress, "" when there is nothing to wait for any more.
    """

    def __init__(self, ending: Ending, show: Callable[[str], None], *, keep: bool) -> None:
        self._ending = ending
        self._show = show
        self._keep = keep
        self.folder = Path()  # means something once it is made
        self._is_made = False
        self._shown = ""
        self.running: list[Program] = []
        self.within = WITHIN

    @property
    def is_kept(self) -> bool:
        """Whether there is a folder that stays."""
        return self._is_made and self._keep

    def open(self) -> None:
        """Make the folder."""
        with self._ending.held():
            self.folder = Path(tempfile.mkdtemp(prefix="amp-demo-", dir=_short_folder()))
            self._is_made = True

    def close(self) -> None:
        """End what runs, and remove the folder unless it is kept. Twice is as good as once."""
        with self._ending.held():
            self._progress("")
            stop(*self.running)
            if self._is_made and not self._keep:
                shutil.rmtree(self.folder, ignore_errors=True)

    def start(self, program: "Program", words: Sequence[str], settings: dict[str, str]) -> None:
        """Make the process; it is not ready yet."""
        program.home.mkdir(mode=0o700, exist_ok=True)
        environ = {k: v for k, v in os.environ.items() if not k.startswith(_NOT_INHERITED)}
        environ |= {"AMPD_HOME": str(program.home), **settings}
        with program.log.open("ab") as log, self._ending.held():
            program.process = subprocess.Popen(
                [sys.executable, "-m", "ampd", *words],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environ,
                cwd=self.folder, start_new_session=True,
            )  # fmt: skip
            self.running.append(program)

    def stop(self, *programs: "Program") -> None:
        """End these, and wait until they have ended."""
        stop(*programs)
        for program in programs:
            self.running.remove(program)

    def wait(self, question: Callable[[], Value], what: str) -> Waited[Value]:
        """Ask until the answer is true; `what` says what that means."""
        began = time.monotonic()
        while not (answer := question()):
            for program in self.running:
                program.must_run()
            passed = time.monotonic() - began
            if passed > self.within:
                raise Failure(f"{what}: not within {self.within:g} s ({self._why()})")
            if passed > SHOW_AFTER:
                self._progress(f"... until {what} ({passed:.0f} s)")
            time.sleep(LOOK_EVERY)
        self._progress("")
        return Waited(answer, time.monotonic() - began)

    def cause_of(self, error: Exception) -> str:
        """Why it failed: of a call that broke, the process that ended (W2)."""
        deadline = time.monotonic() + CAUSE_WITHIN
        while isinstance(error, AmpdError) and time.monotonic() < deadline:
            try:
                for program in self.running:
                    program.must_run()
            except Failure as found:
                return str(found)
            time.sleep(LOOK_EVERY)
        if isinstance(error, OSError) and error.strerror:
            return f"{error.strerror}: {error.filename}"
        return str(error)

    def _progress(self, text: str) -> None:
        if text != self._shown:
            self._show(text)
            self._shown = text

    def _why(self) -> str:
        return "; ".join(f"{each.name}: {each.why()}" for each in self.running)


class Program:
    """A process, the folder that is its home, and its log beside that."""

    def __init__(self, world: World, name: str, home: str = "") -> None:
        self.name = name
        self.home = world.folder / (home or name)
        self.log = world.folder / f"{name}.log"
        self.has_an_end = False  # by itself, when it has done what it is for
        self.process: subprocess.Popen[bytes] | None = None
        self._world = world

    def must_run(self) -> None:
        """W2."""
        code = self.process.poll() if self.process is not None else None
        if code is not None and (code or not self.has_an_end):
            raise Failure(f"{self.name} ended (exit {code}): {self.last_words()}")

    def has_ended(self) -> bool:
        """Whether it has done what it is for."""
        self.must_run()
        return self.process is not None and self.process.poll() is not None

    def last_words(self) -> str:
        """The error that ended it, else the last line of its log."""
        lines = self.log.read_text("utf-8", "replace").splitlines() if self.log.exists() else []
        errors = [line.removeprefix(_ERROR) for line in lines if line.startswith(_ERROR)]
        return next(reversed(errors or lines), "it said nothing")

    def why(self) -> str:
        """What may keep it from doing what is waited for."""
        return self.last_words()


class Node(Program):
    """A daemon. It is told where `others` are; its domain is one that nobody else has."""

    def __init__(self, world: World, name: str, suffix: str) -> None:
        super().__init__(world, name)
        self.domain = f"{name}-{suffix}.local"
        self._socket = str(self.home / "run" / "ampd.sock")

    def start(self, *others: "Node") -> None:
        """Start it, and wait until it answers."""
        settings = {
            "AMPD_NODE_DOMAIN": self.domain,
            "AMPD_PEER_LISTEN": f"{LOOPBACK}:0",
            "AMPD_PEER_STATIC": ",".join(other.uri() for other in others),
            "AMPD_DISCOVERY_MDNS": "false",
            "AMPD_LOG_FORMAT": "text",
        }
        self._world.start(self, (), settings)
        self._world.wait(self._answers, f"{self.domain} starts")

    def _answers(self) -> bool:
        try:
            connect(socket_path=self._socket).close()
        except Unavailable:
            return False
        return True

    def uri(self) -> str:
        """Where it listens, as peer.static has it."""
        with connect(socket_path=self._socket) as amp:
            node = amp.status()["node"]
        return f"amp://{node['key']}@{node['listen']}"

    def use_relay(self, uri: str) -> None:
        """`amp relay add`; cards that are made later name it."""
        with connect(socket_path=self._socket) as amp:
            amp.call("relay.add", {"uri": uri})

    def is_served(self) -> bool:
        """Whether its relay brings the mail of its agents."""
        with connect(socket_path=self._socket) as amp:
            relays = amp.call("relay.list")["relays"]
        return any(each["state"] == "collecting" for each in relays)

    def why(self) -> str:
        """Why it has no session with another node; else what it said last."""
        try:
            with connect(socket_path=self._socket) as amp:
                errors = [peer.last_error for peer in amp.peers() if peer.last_error]
        except AmpdError as exc:
            return str(exc)
        return "; ".join(errors) or self.last_words()

    def agent(self, name: str) -> Amp:
        """A connection that acts as `name`, which is made if there is none."""
        with connect(socket_path=self._socket) as amp:
            amp.create(name)
        return connect(agent=name, socket_path=self._socket)


class RelayProgram(Program):
    """`ampd relay`, for those who are invited; it keeps its mail in SQLite."""

    def start(self) -> None:
        """Make the process; `invitation` waits until it listens."""
        self._world.start(self, _relay_words(f"{LOOPBACK}:0"), {})

    def invitation(self, nodes: int) -> str:
        """A URI that lets so many nodes in."""
        listen = self._world.wait(self._listens, "the relay starts").answer
        inviting = Program(self._world, "invitation", home=self.name)
        inviting.has_an_end = True
        self._world.start(inviting, [*_relay_words(listen), "--uses", str(nodes), "invite"], {})
        self._world.wait(inviting.has_ended, "the relay makes an invitation")
        self._world.stop(inviting)
        return inviting.last_words()

    def _listens(self) -> str:
        found = _READY.search(self.log.read_text("utf-8", "replace"))
        return found[1] if found else ""


def _relay_words(listen: str) -> list[str]:
    return ["relay", "--listen", listen, "--log-format", "text"]


def stop(*programs: Program) -> None:
    """End these processes, all at once."""
    running = [program.process for program in programs if program.process is not None]
    for process in running:
        process.terminate()
    deadline = time.monotonic() + STOPS_WITHIN
    for process in running:
        try:
            process.wait(timeout=max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _short_folder() -> str | None:
    """None for the usual place; /tmp where its path is too long (W4)."""
    is_long = len(os.fsencode(tempfile.gettempdir())) > _PATH_ROOM
    return "/tmp" if is_long else None  # noqa: S108 - mkdtemp makes a folder of its own, 0700
