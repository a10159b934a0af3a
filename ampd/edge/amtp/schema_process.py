"""Asks the process that holds payloads against schemas, and ends it when it takes too long.

  Q1  A question takes at most ANSWER_WITHIN; then the process is killed, and the answer is
      Unavailable. The next question starts a new one.
  Q2  One question at a time; the process ends when it was not needed for IDLE seconds, and always
      with the daemon, whose end closes its pipe.

Not here: what is asked (schemas.py), who answers (schema_worker.py).
"""

import json
import subprocess
import sys
from typing import Any, Final

import trio

from ampd.model.errors import Unavailable
from ampd.protocol import raw_json

ANSWER_WITHIN: Final = 3.0  # seconds; a thousand errors in a megabyte take 0.5
START_WITHIN: Final = 20.0  # seconds: Python and its libraries, on a slow disk
IDLE: Final = 60.0  # seconds
_COMMAND: Final = (sys.executable, "-P", "-m", "ampd.edge.amtp.schema_worker")
_LONGEST: Final = 1 << 20  # bytes of an answer: fifty errors are 40 KiB


class SchemaProcess:
    """At most one process, started when it is needed."""

    def __init__(self) -> None:
        self._process: trio.Process | None = None
        self._turn = trio.Lock()
        self._used = trio.Event()

    async def run(self) -> None:
        """End the process when nobody needs it (Q2), and when this is cancelled."""
        try:
            while True:
                await self._used.wait()
                self._used = trio.Event()
                with trio.move_on_after(IDLE):
                    await self._used.wait()
                    continue
                async with self._turn:
                    await self._end()
        finally:
            with trio.CancelScope(shield=True):
                await self._end()

    async def ask(
        self, definition: raw_json.Raw, payload: raw_json.Value = None, *, check: bool = False
    ) -> dict[str, Any]:
        """What the worker says of a payload; with `check` of the definition only. Unavailable if
        it does not answer in time (Q1)."""
        question = {"definition": definition} | ({} if check else {"payload": payload})
        line = raw_json.write(question, ascii_only=True).encode() + b"\n"
        async with self._turn:
            self._used.set()
            try:
                if self._process is None:
                    with trio.fail_after(START_WITHIN):
                        self._process = await _started()
                        await self._asked(b'{"definition":true}\n')
                with trio.fail_after(ANSWER_WITHIN):
                    found: dict[str, Any] = json.loads(await self._asked(line))
                    return found
            except (trio.TooSlowError, trio.BrokenResourceError, trio.ClosedResourceError, OSError):
                await self._end()
                raise Unavailable("the schema could not be asked in time") from None
            except trio.Cancelled:
                with trio.CancelScope(shield=True):
                    await self._end()  # half an answer would be taken for the next one's
                raise

    async def _asked(self, line: bytes) -> bytes:
        process = self._process
        if process is None or process.stdin is None or process.stdout is None:
            raise trio.BrokenResourceError
        await process.stdin.send_all(line)
        answer = b""
        while not answer.endswith(b"\n"):
            part = await process.stdout.receive_some()
            answer += part
            if not part or len(answer) > _LONGEST:
                raise trio.BrokenResourceError
        return answer

    async def _end(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        await process.wait()
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                await stream.aclose()


async def _started() -> trio.Process:
    return await trio.lowlevel.open_process(
        _COMMAND, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
