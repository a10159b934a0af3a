"""What the daemon says is on disk was on disk when it said so: read from its system calls."""

import json
import os
import shutil
import signal

import pytest
from faults.crash_harness_mutants import planted
from faults.crash_harness_node import Node
from faults.strace_order import calls, synced_between, wrapper

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace"),
]
SENDERS = 3


def session(node):
    """A scripted session: (what was asked, subject or id) -> the text that its answer holds."""
    said = {}
    with node.line() as line:
        for name in ("reader", *(f"s{n}" for n in range(SENDERS))):
            line.call("agent.create", name=name)
    lines = [node.line(f"s{n}") for n in range(SENDERS)]
    for n in range(24):  # all at once on every line: they share syncs
        for who, line in enumerate(lines):
            subject = f"subject-{who}-{n}-end"
            line.ask("message.send", to=["reader"], subject=subject, text="x" * (300 * (n % 5)))
    for who, line in enumerate(lines):
        for n in range(24):
            said["send", f"subject-{who}-{n}-end"] = line.answer()["id"]
        line.close()
    with node.line("reader") as line:
        for identifier in [*said.values()][:10]:
            line.call("message.ack", ids=[identifier])
            said["ack", identifier] = json.dumps({"done": [identifier]}, separators=(",", ":"))
    return said


def traced(work, source=None):
    """What was said in a session, and the system calls of its daemon."""
    trace = work / "trace"
    with Node(work / "home", work / "log", source=source) as node:
        node.start(segment_bytes=16384, wrapper=wrapper(trace))
        said = session(node)
        os.kill(int((node.home / "ampd.lock").read_text()), signal.SIGKILL)
        node.ended()
    return said, calls(trace)


def too_early(said, found):
    """The answers that began to go out before a sync of their record had ended."""
    writes = [call for call in found if call.name == "pwrite64" and "/journal/" in call.path]
    answers = [call for call in found if call.name in ("sendto", "sendmsg", "write")]
    asked = [call for call in found if call.name == "recvfrom"]
    early = []
    for (verb, what), text in said.items():
        answer = next(call for call in answers if text.replace('"', '\\"') in call.text)
        if verb == "send":
            written = [call for call in writes if what in call.text]
        else:
            since = next(c.ended for c in asked if "message.ack" in c.text and what in c.text)
            written = [call for call in writes if since < call.began < answer.began]
        if not written or not synced_between(found, written[0], answer.began):
            early.append((verb, what))
    return early


def test_p1_every_answer_leaves_after_a_sync_of_its_record_has_ended(work):
    said, found = traced(work)
    assert len(said) == 24 * SENDERS + 10
    assert too_early(said, found) == []


def test_p1_a_segment_is_in_its_folder_before_an_answer_relies_on_it(work):
    _, found = traced(work)
    made = [
        call for call in found
        if call.name == "openat" and "/journal/" in call.text and "O_CREAT" in call.text
        and ".log" in call.text
    ]  # fmt: skip
    assert len(made) > 1  # how many depends on how much came together
    answers = [call for call in found if '\\"delivered\\"' in call.text and call.name == "sendto"]
    for call in made:
        answer = next((each.began for each in answers if each.began > call.ended), call.ended)
        folder = [
            each for each in found
            if each.name == "fsync" and each.path.endswith("/journal") and each.began > call.ended
        ]  # fmt: skip
        assert answer == call.ended or folder[0].ended < answer


@pytest.mark.parametrize("bug", ["no sync", "answer before the sync"])
def test_a_planted_bug_is_seen_in_the_trace(work, bug):
    assert len(too_early(*traced(work, planted(work, bug)))) > 10
