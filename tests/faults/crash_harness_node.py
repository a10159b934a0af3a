"""The adapter of the crash harness: the only part that knows how ampd is started and spoken to.

A `Node` is a home and, at times, a daemon that lives in it: `python -m ampd` as anybody starts it,
or with small segments (rotation then happens hundreds of times), or under strace. A `Line` is one
connection to its socket. An answer that never came is `Unknown`, a refusal is `Told`.
"""

import fcntl
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

AMP = [sys.executable, "-c", "import sys; from amp_cli.main import main; sys.exit(main())"]
READY_WITHIN = 30.0  # seconds, on a machine that does other things too
ANSWER_WITHIN = 20.0

_SMALL_SEGMENTS = f"""
import sys
sys.path.append({str(Path(__file__).parent.parent)!r})
from faults.crash_harness_warm import small_segments
small_segments(int(sys.argv.pop(1)))
from ampd.__main__ import main
sys.exit(main())
"""


class Unknown(Exception):
    """The connection ended before the answer came: it may have happened, or not."""


class Told(Exception):
    """The daemon's refusal."""

    def __init__(self, error):
        super().__init__(error["message"])
        data = error.get("data", {})
        self.code = data.get("code", str(error["code"]))
        self.hint = data.get("hint", "")


class NotReady(Exception):
    """The daemon ended before it answered, or never answered."""


def pause(seconds):
    """Let the others work."""
    select.select([], [], [], seconds)


class Line:
    """One connection; it acts as `agent`."""

    def __init__(self, path, agent="", within=ANSWER_WITHIN):
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(within)
        self._pending = b""
        self._calls = 0
        try:
            self._socket.connect(str(path))
            if agent:
                self.call("system.hello", agent=agent)
        except OSError as exc:
            self.close()
            raise Unknown(str(exc)) from exc
        except BaseException:
            self.close()
            raise

    def call(self, method, **params):
        """The result, or Told, or Unknown."""
        self.ask(method, **params)
        return self.answer()

    def ask(self, method, **params):
        """Only the request; its number."""
        self._calls += 1
        request = {"jsonrpc": "2.0", "id": self._calls, "method": method, "params": params}
        try:
            self._socket.sendall(json.dumps(request).encode() + b"\n")
        except OSError as exc:
            raise Unknown(str(exc)) from exc
        return self._calls

    def answer(self):
        """The next answer's result."""
        while b"\n" not in self._pending:
            try:
                data = self._socket.recv(1 << 20)
            except OSError as exc:
                raise Unknown(str(exc)) from exc
            if not data:
                raise Unknown("the daemon hung up")
            self._pending += data
        line, self._pending = self._pending.split(b"\n", 1)
        answer = json.loads(line)
        if "error" in answer:
            raise Told(answer["error"])
        return answer["result"]

    def close(self):
        self._socket.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


class Node:
    """A home, and the daemon that lives in it now, if any."""

    def __init__(self, home, log, *, source=None, environ=None, warm=None):
        self.home = Path(home)
        self.log = Path(log)
        self.socket = self.home / "run" / "ampd.sock"
        self.process = None
        self.warm = warm  # for starts that cost less
        self.environ = {
            **os.environ,
            "AMPD_HOME": str(self.home),
            "AMPD_DISCOVERY_MDNS": "false",
            "AMPD_PEER_LISTEN": "",
            "AMPD_NODE_DOMAIN": "crash.test",
            "AMPD_LOG_FORMAT": "text",
            "AMP_AUTOSTART": "0",
            **(environ or {}),
        }
        self.environ.pop("AMP_AGENT", None)
        self.environ.pop("AMP_SOCKET", None)
        if source is not None:  # a copy of the package with a planted bug
            self.environ["PYTHONPATH"] = str(source)

    def begin(self, *, segment_bytes=0, wrapper=()):
        """Start the daemon and do not wait for it. With `strace -D` as wrapper it is our child."""
        if self.warm is not None and not wrapper:
            self.process = self.warm.start(self.environ, self.log, segment_bytes)
            return
        program = [sys.executable, "-m", "ampd"]
        if segment_bytes:
            program = [sys.executable, "-c", _SMALL_SEGMENTS, str(segment_bytes)]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*wrapper, *program], env=self.environ, cwd="/", stdin=subprocess.DEVNULL,
                stdout=log, stderr=log,
            )  # fmt: skip

    def start(self, **options):
        """Start it; the seconds until it answered."""
        began = time.monotonic()
        self.begin(**options)
        self.ready()
        return time.monotonic() - began

    def ready(self, within=READY_WITHIN):
        """Wait until it answers, or raise NotReady."""
        until = time.monotonic() + within
        while time.monotonic() < until:
            if self.process.poll() is not None:
                raise NotReady(f"it ended with {self.process.returncode}: {self.last_words()}")
            with suppress(Unknown), Line(self.socket) as line:
                line.call("system.hello")
                return
            pause(0.01)
        raise NotReady(f"no answer within {within} s: {self.last_words()}")

    def recovering(self, within=READY_WITHIN):
        """Wait until it has taken its home, which is the first thing it does; False if it ended."""
        until = time.monotonic() + within
        while time.monotonic() < until and self.process.poll() is None:
            with suppress(OSError, ValueError):
                if int((self.home / "ampd.lock").read_text()) == self.process.pid:
                    return True
            pause(0.002)
        return False

    def last_words(self):
        return self.log.read_text(errors="replace")[-600:] if self.log.exists() else ""

    def line(self, agent="", within=ANSWER_WITHIN):
        return Line(self.socket, agent, within)

    def signal(self, number):
        self.process.send_signal(number)

    def kill(self):
        """SIGKILL, and wait until its end, lock included."""
        if self.process is not None:
            self.process.kill()
            self.ended()

    def stop(self, within=3.0):
        """SIGTERM; the exit code. subprocess.TimeoutExpired if it takes longer."""
        self.signal(signal.SIGTERM)
        return self.ended(within)

    def ended(self, within=READY_WITHIN):
        """The exit code, when it has ended."""
        code = self.process.wait(within)
        self.process = None
        return code

    def amp(self, *words, agent=""):
        """The command `amp` against this home: code, standard output, standard error."""
        environ = {**self.environ, **({"AMP_AGENT": agent} if agent else {})}
        done = subprocess.run(
            [*AMP, *words], env=environ, capture_output=True, text=True, timeout=60, check=False
        )
        return done.returncode, done.stdout, done.stderr

    def is_free(self):
        """Whether nobody holds the home."""
        with (self.home / "ampd.lock").open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
        return True

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process is not None:
            with suppress(subprocess.TimeoutExpired):
                self.kill()


def listed(line, box, upto=1_000_000):
    """Everything in a box of the line's agent, by number."""
    found, after = [], 0
    while len(found) < upto:
        page = line.call("message.list", box=box, limit=1000, after=after)["messages"]
        found += page
        if len(page) < 1000:
            break
        after = page[-1]["number"]
    return found
