"""Who is asked when, and when it is over: ampd/protocol/amtp/coordination.py."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ampd.model.errors import Invalid
from ampd.protocol import raw_json
from ampd.protocol.amtp.coordination import (
    Answered,
    Ask,
    Elapsed,
    Finish,
    plan_of,
    start,
    step,
)

A, B, C = "a@x.example", "b@x.example", "c@y.example"


class Run:
    """A workflow, what it asked for, and how it ended."""

    def __init__(self, coordination, recipients=(A, B, C)):
        plan = plan_of({"timeout": 60, **coordination}, recipients)
        self.asked, self.ends = [], []
        self._take(start("w1", "boss@x.example", plan, 1000))

    def _take(self, result):
        self.workflow, actions = result
        self.asked += [each.address for each in actions if isinstance(each, Ask)]
        self.ends += [each.status for each in actions if isinstance(each, Finish)]

    def says(self, sender, payload="{}", *, failed=False, at=2000):
        self._take(step(self.workflow, Answered(sender, at, payload, failed)))

    def waits_until(self, at):
        self._take(step(self.workflow, Elapsed(at)))

    def statuses(self):
        return [each.status for each in self.workflow.participants]


def parallel(**more):
    return Run({"type": "parallel", **more})


def sequential(**more):
    return Run({"type": "sequential", "sequence": [A, B, C], **more})


def conditional(*conditions, recipients=(A,)):
    return Run({"type": "conditional", "conditions": list(conditions)}, recipients)


def test_k1_parallel_asks_everybody_at_once():
    assert parallel(required_responses=[A], optional_responses=[C]).asked == [A, C, B]


def test_k1_with_nothing_said_all_recipients_are_required():
    run = parallel()
    run.says(A)
    run.says(B)
    assert run.ends == []
    run.says(C)
    assert run.ends == ["completed"]


def test_k1_the_required_are_enough():
    run = parallel(required_responses=[B])
    run.says(C)
    assert run.ends == []
    run.says(B, '{"ok":1}')
    assert run.ends == ["completed"]
    assert run.workflow.participants[0].reply == '{"ok":1}'


def test_k1_with_optional_ones_only_all_of_them_are_waited_for():
    run = parallel(optional_responses=[A, B, C])
    run.says(A)
    run.says(B, failed=True)
    assert run.ends == []
    run.says(C)
    assert run.ends == ["completed"]


def test_k2_a_required_failure_fails_it_and_an_optional_one_does_not():
    run = parallel(required_responses=[A, B])
    run.says(C, failed=True)
    assert run.ends == []
    run.says(B, failed=True)
    assert run.ends == ["failed"]


def test_k3_a_sequence_goes_one_by_one():
    run = sequential()
    assert run.asked == [A] and run.statuses() == ["pending", "waiting", "waiting"]
    run.says(A)
    assert run.asked == [A, B]
    run.says(B)
    run.says(C)
    assert run.asked == [A, B, C] and run.ends == ["completed"]


def test_k3_nobody_answers_before_its_turn():
    run = sequential()
    run.says(B)
    assert run.asked == [A] and run.statuses() == ["pending", "waiting", "waiting"]


def test_k3_with_stop_on_failure_the_first_failure_ends_it():
    run = sequential(stop_on_failure=True)
    run.says(A, failed=True)
    assert run.ends == ["failed"] and run.asked == [A]


def test_k3_without_it_goes_on_to_its_end():
    run = sequential()
    run.says(A, failed=True)
    run.says(B)
    run.says(C)
    assert run.ends == ["completed"] and run.statuses() == ["failed", "completed", "completed"]


def test_k3_a_required_failure_fails_it_at_its_end():
    run = sequential(required_responses=[A])
    run.says(A, failed=True)
    run.says(B)
    assert run.ends == []
    run.says(C)
    assert run.ends == ["failed"]


def test_k3_a_sequence_in_which_everybody_failed_has_failed():
    run = sequential()
    for each in (A, B, C):
        run.says(each, failed=True)
    assert run.ends == ["failed"]


APPROVED = {"if": f"{A} responds with approve=true", "then": [B], "else": [C]}


@pytest.mark.parametrize(("answer", "next_one"), [("true", B), ("false", C)])
def test_k4_the_reply_decides_who_is_asked_next(answer, next_one):
    run = conditional(APPROVED)
    run.says(A, f'{{"approve":{answer}}}')
    assert run.asked == [A, next_one] and run.ends == []
    run.says(next_one)
    assert run.ends == ["completed"]


def test_k4_all_recipients_answer_before_anything_is_decided():
    run = conditional(APPROVED, recipients=(A, B))
    run.says(A, '{"approve":true}')
    assert run.asked == [A, B]
    run.says(B)
    assert run.asked == [A, B, B], "who was a recipient may be asked again"
    run.says(B)
    assert run.ends == ["completed"]


def test_k4_every_condition_adds_its_branch_and_nobody_is_asked_twice():
    also = {"if": "urgent", "then": [B, C]}
    run = conditional(APPROVED, also)
    run.says(A, '{"approve":true,"note":"urgent"}')
    assert run.asked == [A, B, C]


def test_k4_with_nobody_to_ask_it_is_complete():
    run = conditional({"if": "approve == true", "then": [B]})
    run.says(A, '{"approve":false}')
    assert run.ends == ["completed"] and run.asked == [A]


def test_k4_if_every_recipient_failed_nothing_can_be_decided():
    run = conditional(APPROVED)
    run.says(A, failed=True)
    assert run.ends == ["failed"] and run.asked == [A]


def test_k4_a_failure_in_the_branch_fails_it():
    run = conditional(APPROVED)
    run.says(A, '{"approve":true}')
    run.says(B, failed=True)
    assert run.ends == ["failed"]


@pytest.mark.parametrize("make", [parallel, sequential, lambda: conditional(APPROVED)])
def test_k5_who_does_not_answer_in_time_timed_out(make):
    run = make()
    run.waits_until(1000 + 59_999)
    assert run.ends == []
    run.waits_until(1000 + 60_000)
    assert run.ends == ["timeout"] and set(run.statuses()) == {"timeout"}


def test_k5_if_nobody_is_required_the_end_of_time_completes_it():
    run = parallel(optional_responses=[A, B, C])
    run.says(A)
    run.waits_until(1000 + 60_000)
    assert run.ends == ["completed"] and run.statuses() == ["completed", "timeout", "timeout"]


def test_k6_forged_and_repeated_answers_change_nothing():
    run = parallel(required_responses=[A])
    before = run.workflow
    run.says("mallory@evil.example")
    assert run.workflow == before
    run.says(C, '{"n":1}')
    after = run.workflow
    run.says(C, '{"n":2}')
    assert run.workflow == after


def test_k6_an_address_is_the_same_in_any_case():
    run = parallel(required_responses=[A])
    run.says(A.upper())
    assert run.ends == ["completed"]


def test_k7_what_is_over_stays_over():
    run = parallel(required_responses=[A])
    run.says(A)
    over = run.workflow
    run.says(B)
    run.waits_until(10**15)
    assert run.workflow == over and run.ends == ["completed"]


@pytest.mark.parametrize(
    "value",
    [
        None, [], "parallel", {}, {"type": "parallel"}, {"type": "parallel", "timeout": 0},
        {"type": "parallel", "timeout": -1}, {"type": "parallel", "timeout": "60"},
        {"type": "parallel", "timeout": True}, {"type": "race", "timeout": 5},
        {"type": "sequential", "timeout": 5}, {"type": "sequential", "timeout": 5, "sequence": []},
        {"type": "sequential", "timeout": 5, "sequence": [5]},
        {"type": "conditional", "timeout": 5},
        {"type": "conditional", "timeout": 5, "conditions": []},
        {"type": "conditional", "timeout": 5, "conditions": [{"if": "x"}]},
        {"type": "conditional", "timeout": 5, "conditions": [{"if": "", "then": [A]}]},
        {"type": "conditional", "timeout": 5, "conditions": [{"then": [A]}]},
        {"type": "parallel", "timeout": 5, "required_responses": A},
        {"type": "sequential", "timeout": 5, "sequence": [f"a{n}@x.y" for n in range(201)]},
    ],
)  # fmt: skip
def test_what_is_no_plan_is_refused(value):
    with pytest.raises(Invalid):
        plan_of(value, [A])


def test_numbers_as_they_were_written_will_do():
    plan = plan_of(raw_json.parse('{"type":"parallel","timeout":36e2}'), [A])

    assert plan.timeout == 3600


def test_no_workflow_lasts_longer_than_mail_does():
    assert plan_of({"type": "parallel", "timeout": 1e300}, [A]).timeout == 30 * 86_400


PLANS = st.sampled_from(
    [
        {"type": "parallel"}, {"type": "parallel", "required_responses": [A]},
        {"type": "parallel", "optional_responses": [A, B, C]},
        {"type": "sequential", "sequence": [A, B, C, A]},
        {"type": "sequential", "sequence": [A, B], "stop_on_failure": True},
        {"type": "conditional", "conditions": [APPROVED]},
    ]
)  # fmt: skip
EVENTS = st.one_of(
    st.builds(
        Answered, st.sampled_from([A, B, C, "m@evil.example"]), st.integers(0, 10**6),
        st.sampled_from(["null", '{"approve":true}', "[1]"]), st.booleans(),
    ),
    st.builds(Elapsed, st.integers(0, 120_000)),
)  # fmt: skip


@given(PLANS, st.lists(EVENTS, max_size=12))
def test_it_ends_once_and_always_by_its_deadline(coordination, events):
    run = Run(coordination)
    for event in [*events, Elapsed(10**9)]:
        run._take(step(run.workflow, event))

    assert len(run.ends) == 1 and run.workflow.status == run.ends[0]
    assert not run.workflow.asks(A)
