"""Coordination of several agents by one message: who is asked when, and when it is over.

A workflow is a value; `start` and `step` are pure: state and event in, state and actions out
(AMTP 1.0, section 7).

    parallel      everybody at once; over when every required participant answered
    sequential    one after the other; over when the last answered
    conditional   the recipients; then, by their replies, those under `then` or `else`

  K1  Required are `required_responses`; if there are none, the recipients that are not optional.
      Everybody else named is asked too, and not waited for, unless nobody is required.
  K2  A required participant that fails, or cannot be reached, fails a parallel workflow at once.
  K3  In a sequence the next is asked when the one before answered. With stop_on_failure the first
      failure ends it; without, it goes on, and fails at its end only for a required participant.
  K4  Conditions are asked when all recipients answered; each adds its `then` or its `else`. If
      every recipient failed, nothing can be decided and the workflow fails.
  K5  After `timeout` seconds who still owes an answer timed out, and the workflow with it; a
      workflow in which nobody is required is then complete.
  K6  An answer counts once, and only from a participant that was asked; whatever else comes,
      forged or late, changes nothing.
  K7  A workflow that is over stays as it is.

Not here: messages, storage and clocks (edge/amtp/workflows.py).
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

from ampd.model.errors import Invalid
from ampd.model.values import value
from ampd.protocol import raw_json
from ampd.protocol.amtp.conditions import Reply, condition_of

MAX_PARTICIPANTS: Final = 200  # as many as a message has recipients, twice
LONGEST: Final = 30 * 86_400  # seconds: no mail lives longer than 30 days here
_OVER: Final = frozenset(("completed", "failed", "timeout"))


@value
class Branch:
    """One condition, and who is asked if it is met or not."""

    text: str
    then: tuple[str, ...]
    otherwise: tuple[str, ...] = ()


@value
class Plan:
    """What a message's `coordination` asks for."""

    kind: str  # parallel, sequential or conditional
    timeout: int  # seconds
    first: tuple[tuple[str, bool], ...]  # who is asked, in order, and whether it is required
    stop_on_failure: bool = False
    branches: tuple[Branch, ...] = ()


@value
class Participant:
    """Somebody who is asked, and how that went."""

    address: str
    required: bool
    status: str = "waiting"  # for its turn; then pending, completed, failed or timeout
    reply: str = ""  # the JSON text of its answer
    error: str = ""
    at: int = 0  # when the answer came, milliseconds


@value
class Workflow:
    """Everything that is known of one workflow. Times are milliseconds since the epoch."""

    id: str
    sender: str
    plan: Plan
    created: int
    updated: int
    deadline: int
    status: str = "in_progress"
    participants: tuple[Participant, ...] = ()
    branched: bool = False

    @property
    def is_over(self) -> bool:
        """Whether nothing can happen to it any more (K7)."""
        return self.status in _OVER

    def asks(self, address: str) -> bool:
        """Whether an answer of this address is waited for."""
        return not self.is_over and self.place_of(address) is not None

    def place_of(self, address: str) -> int | None:
        """Which participant of this address still owes an answer."""
        for place, each in enumerate(self.participants):
            if each.status == "pending" and each.address.lower() == address.lower():
                return place
        return None


@value
class Answered:
    """A reply came; or the participant's gateway said that it cannot be reached."""

    sender: str
    at: int
    payload: str = "null"
    failed: bool = False
    error: str = ""


@value
class Elapsed:
    """The clock was looked at."""

    at: int


Event = Answered | Elapsed


@value
class Ask:
    """The message goes to this address now."""

    address: str


@value
class Finish:
    """The sender is told how it ended."""

    status: str


Action = Ask | Finish


def plan_of(coordination: Any, recipients: Sequence[str]) -> Plan:
    """The plan of a message's `coordination`. Raises Invalid."""
    if not isinstance(coordination, dict):
        raise Invalid("coordination is a JSON object")
    kind = coordination.get("type")
    timeout = raw_json.plain(coordination.get("timeout"))
    if isinstance(timeout, bool) or not isinstance(timeout, int | float) or not timeout > 0:
        raise Invalid("coordination has a timeout of more than 0 seconds")
    seconds = max(1, int(min(timeout, LONGEST)))
    stop = coordination.get("stop_on_failure") is True
    required = _addresses(coordination, "required_responses")
    optional = _addresses(coordination, "optional_responses")
    match kind:
        case "parallel":
            first = _parallel(recipients, required, optional)
            return _bounded(Plan("parallel", seconds, first))
        case "sequential":
            sequence = _addresses(coordination, "sequence")
            if not sequence:
                raise Invalid("sequential coordination has a sequence of addresses")
            must = {each.lower() for each in required}
            in_turn = tuple((each, each.lower() in must) for each in sequence)
            return _bounded(Plan("sequential", seconds, in_turn, stop))
        case "conditional":
            branches = _branches(coordination.get("conditions"))
            everybody = tuple((each, True) for each in _once(recipients))
            return _bounded(Plan("conditional", seconds, everybody, branches=branches))
        case _:
            raise Invalid("coordination has the type parallel, sequential or conditional")


def _bounded(plan: Plan) -> Plan:
    count = len(plan.first) + sum(len(each.then) + len(each.otherwise) for each in plan.branches)
    if not 0 < count <= MAX_PARTICIPANTS:
        raise Invalid(f"a workflow has 1 to {MAX_PARTICIPANTS} participants, not {count}")
    return plan


def _parallel(
    recipients: Sequence[str], required: Sequence[str], optional: Sequence[str]
) -> tuple[tuple[str, bool], ...]:
    named = {each.lower() for each in (*required, *optional)}
    others = [each for each in recipients if each.lower() not in named]
    must = list(required) or others  # K1
    everybody = _once([*must, *optional, *others])
    return tuple((each, each.lower() in {one.lower() for one in must}) for each in everybody)


def _branches(value: Any) -> tuple[Branch, ...]:
    if not isinstance(value, list) or not value:
        raise Invalid("conditional coordination has conditions, each with if and then")
    found = []
    for each in value:
        if not isinstance(each, dict) or not isinstance(each.get("if"), str):
            raise Invalid("a condition is an object with the texts if, then and else")
        condition_of(each["if"])
        then = _addresses(each, "then")
        if not then:
            raise Invalid("a condition names under then who is asked if it is met")
        found.append(Branch(each["if"], then, _addresses(each, "else")))
    return tuple(found)


def _addresses(holder: dict[str, Any], name: str) -> tuple[str, ...]:
    value = holder.get(name)
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(each, str) and each for each in value):
        raise Invalid(f"{name} is a list of addresses")
    return _once(value)


def _once(addresses: Sequence[str]) -> tuple[str, ...]:
    return tuple({each.lower(): each for each in reversed(addresses)}.values())[::-1]


# --- what happens -----------------------------------------------------------------------------


def start(identifier: str, sender: str, plan: Plan, now: int) -> tuple[Workflow, list[Action]]:
    """A new workflow, and whom to ask first."""
    everybody = tuple(Participant(address, required) for address, required in plan.first)
    deadline = now + plan.timeout * 1000
    workflow = Workflow(identifier, sender, plan, now, now, deadline, participants=everybody)
    return _ask_next(workflow)


def step(workflow: Workflow, event: Event) -> tuple[Workflow, list[Action]]:
    """What an event makes of a workflow, and what is to be done now (K1-K7)."""
    if workflow.is_over:
        return workflow, []
    match event:
        case Answered():
            place = workflow.place_of(event.sender)
            if place is None:
                return workflow, []  # K6
            return _advance(_answered(workflow, place, event))
        case Elapsed():
            return _elapsed(workflow, event.at)


def _answered(workflow: Workflow, place: int, event: Answered) -> Workflow:
    everybody = list(workflow.participants)
    everybody[place] = replace(
        everybody[place],
        status="failed" if event.failed else "completed",
        reply=event.payload,
        error=event.error,
        at=event.at,
    )
    return replace(workflow, participants=tuple(everybody), updated=event.at)


def _advance(workflow: Workflow) -> tuple[Workflow, list[Action]]:
    match workflow.plan.kind:
        case "parallel":
            return _parallel_goes_on(workflow)
        case "sequential":
            return _sequence_goes_on(workflow)
        case _:
            return _conditions_go_on(workflow)


def _parallel_goes_on(workflow: Workflow) -> tuple[Workflow, list[Action]]:
    counted = [each for each in workflow.participants if each.required]
    if any(each.status == "failed" for each in counted):
        return _finish(workflow, "failed")  # K2
    if all(each.status != "pending" for each in counted or workflow.participants):
        return _finish(workflow, "completed")
    return workflow, []


def _sequence_goes_on(workflow: Workflow) -> tuple[Workflow, list[Action]]:
    failed = [each for each in workflow.participants if each.status == "failed"]
    if failed and workflow.plan.stop_on_failure:
        return _finish(workflow, "failed")
    if any(each.status in ("waiting", "pending") for each in workflow.participants):
        return _ask_next(workflow)
    answered = any(each.status == "completed" for each in workflow.participants)
    whole = answered and not any(each.required for each in failed)
    return _finish(workflow, "completed" if whole else "failed")


def _conditions_go_on(workflow: Workflow) -> tuple[Workflow, list[Action]]:
    if any(each.status == "pending" for each in workflow.participants):
        return workflow, []
    if workflow.branched:
        branch = workflow.participants[len(workflow.plan.first) :]
        failed = any(each.status == "failed" for each in branch)
        return _finish(workflow, "failed" if failed else "completed")
    if all(each.status == "failed" for each in workflow.participants):
        return _finish(workflow, "failed")  # K4
    replies = [
        Reply(each.address, each.reply, each.status == "failed") for each in workflow.participants
    ]
    chosen: list[str] = []
    for branch_of in workflow.plan.branches:
        met = condition_of(branch_of.text).met_by(replies)
        chosen += branch_of.then if met else branch_of.otherwise
    more = tuple(Participant(address, required=True) for address in _once(chosen))
    grown = replace(workflow, participants=workflow.participants + more, branched=True)
    return _ask_next(grown) if more else _finish(grown, "completed")


def _ask_next(workflow: Workflow) -> tuple[Workflow, list[Action]]:
    """Ask all who wait for their turn; of a sequence the next one only (K3)."""
    asked: list[Action] = []
    everybody = []
    for each in workflow.participants:
        in_turn = workflow.plan.kind != "sequential" or not asked
        if each.status == "waiting" and in_turn:
            asked.append(Ask(each.address))
            everybody.append(replace(each, status="pending"))
        else:
            everybody.append(each)
    return replace(workflow, participants=tuple(everybody)), asked


def _elapsed(workflow: Workflow, now: int) -> tuple[Workflow, list[Action]]:
    if now < workflow.deadline:
        return workflow, []
    everybody = tuple(
        replace(each, status="timeout", at=now) if each.status in ("waiting", "pending") else each
        for each in workflow.participants
    )
    over = replace(workflow, participants=everybody, updated=now)
    nobody_required = workflow.plan.kind == "parallel" and not any(
        each.required for each in everybody
    )
    return _finish(over, "completed" if nobody_required else "timeout")  # K5


def _finish(workflow: Workflow, status: str) -> tuple[Workflow, list[Action]]:
    return replace(workflow, status=status), [Finish(status)]
