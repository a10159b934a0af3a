"""How workflows are remembered: kinds of the registry, and their values.

    amtp.workflow         by id: everything but the answers
    amtp.workflow.reply   by id/place: what one participant answered
    amtp.workflow.leg     by message id, as version 7: which workflow a message belongs to
    amtp.workflow.cursor  by agent: the number of the last message that was looked at

Ids of messages are kept as gateways see them that know version 7 only (mail.py, MA2), so that an
answer finds its workflow whichever form it names.

Not here: what happens to a workflow (protocol/amtp/coordination.py, workflows.py).
"""

import dataclasses
from collections.abc import Iterator
from typing import Any, Final

from ampd.protocol.amtp.coordination import Branch, Participant, Plan, Workflow
from ampd.storage.registry import Batch, Registry

WORKFLOW: Final = "amtp.workflow"
REPLY: Final = "amtp.workflow.reply"
LEG: Final = "amtp.workflow.leg"
CURSOR: Final = "amtp.workflow.cursor"
KEPT_FOR: Final = 31 * 86_400_000  # ms after its deadline
MAX_REPLY: Final = 128 << 10  # characters; of a longer answer only its message's id is kept


def save(batch: Batch, workflow: Workflow, owner: str, *, told: bool) -> None:
    """Within a change: this is its state now. `told`: its sender knows how it ended."""
    value = dataclasses.asdict(workflow)
    for each in value["participants"]:
        del each["reply"]
    value["told"] = told
    expires = workflow.deadline + KEPT_FOR
    for place, participant in enumerate(workflow.participants):
        if participant.reply:
            reply = {"text": participant.reply}
            key = _reply_key(workflow.id, place)
            if batch.get(REPLY, key) is None:
                batch.put(REPLY, key, reply, owner=owner, expires=expires)
    batch.put(WORKFLOW, workflow.id, value, owner=owner, expires=expires)


def forget(batch: Batch, workflow: Workflow) -> None:
    """Within a change: it never began."""
    batch.delete(WORKFLOW, workflow.id)
    batch.delete(LEG, as_v7(workflow.id))


def load(registry: Registry, identifier: str) -> tuple[Workflow, bool] | None:
    """A workflow, and whether its sender knows how it ended."""
    value = registry.get(WORKFLOW, identifier)
    if value is None:
        return None
    replies = {
        entry.key.rpartition("/")[2]: entry.value["text"]
        for entry in registry.find(REPLY, prefix=f"{identifier}/")
    }
    return _workflow(value, replies), value["told"]


def unfinished(registry: Registry) -> Iterator[tuple[str, str, int]]:
    """The id, the owner and the deadline of each workflow that is not over, or not told of."""
    after = ""
    while page := registry.find(WORKFLOW, after=after):
        for entry in page:
            if entry.value["status"] == "in_progress" or not entry.value["told"]:
                yield entry.key, entry.owner, entry.value["deadline"]
        after = page[-1].key


def unfinished_of(batch: Batch, owner: str) -> int:
    """How many workflows of an agent are not over."""
    found, after = 0, ""
    while page := batch.find(WORKFLOW, owner=owner, after=after):
        found += sum(entry.value["status"] == "in_progress" for entry in page)
        after = page[-1].key
    return found


def as_v7(identifier: str) -> str:
    """A message id in the form that is kept."""
    return f"{identifier[:14].lower()}7{identifier[15:].lower()}"


def _reply_key(identifier: str, place: int) -> str:
    return f"{identifier}/{place:03d}"


def _workflow(value: dict[str, Any], replies: dict[str, str]) -> Workflow:
    plan = value["plan"]
    branches = tuple(
        Branch(each["text"], tuple(each["then"]), tuple(each["otherwise"]))
        for each in plan["branches"]
    )
    first = tuple((address, required) for address, required in plan["first"])
    participants = tuple(
        Participant(**each, reply=replies.get(f"{place:03d}", ""))
        for place, each in enumerate(value["participants"])
    )
    members = {name: each for name, each in value.items() if name != "told"}
    return Workflow(
        **members
        | {
            "plan": Plan(
                plan["kind"], plan["timeout"], first, plan["stop_on_failure"], branches
            ),
            "participants": participants,
        }
    )  # fmt: skip
