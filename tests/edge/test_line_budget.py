"""What unfinished lines of local programs may hold together (edge/line_budget.py)."""

import pytest
import trio
import trio.testing
from edge.local_node import place

from ampd.edge.line_budget import LineBudget


class Caller:
    """Somebody on a socket; knows whether it was given up."""

    def __init__(self):
        self.given_up = False

    def give_up(self):
        self.given_up = True


@pytest.fixture
def callers():
    return [Caller() for _ in range(4)]


def test_l1_the_longest_line_of_the_socket_that_holds_the_most_is_given_up(callers):
    budget = LineBudget(most=100)
    for caller, socket, size in zip(callers, ["a", "a", "a", "b"], [30, 31, 30, 9], strict=True):
        budget.holds(caller.give_up, socket, size)
    assert not any(caller.given_up for caller in callers)
    budget.holds(callers[3].give_up, "b", 35)
    assert [caller.given_up for caller in callers] == [False, True, False, False]


def test_l1_a_line_that_ended_holds_nothing(callers):
    budget = LineBudget(most=100)
    for _ in range(50):
        budget.holds(callers[0].give_up, "a", 90)
        budget.holds(callers[0].give_up, "a", 0)
    budget.holds(callers[1].give_up, "a", 100)
    assert not any(caller.given_up for caller in callers)


def test_l1_one_line_beyond_everything_gives_itself_up(callers):
    budget = LineBudget(most=10)
    budget.holds(callers[0].give_up, "a", 11)
    budget.holds(callers[1].give_up, "a", 10)
    assert [caller.given_up for caller in callers] == [True, False, False, False]


async def test_l1_who_is_given_up_hears_why_and_the_others_go_on(tmp_path, monkeypatch):
    monkeypatch.setattr("ampd.edge.line_budget.LineBudget.__init__.__defaults__", (1000,))
    async with place(tmp_path) as here:
        await here.node.agent("alice")
        async with here.client() as greedy, here.client() as modest:
            await modest.say(b'{"jsonrpc":"2.0","id":1,"method":"system.hello"')
            await trio.testing.wait_all_tasks_blocked()
            await greedy.say(b'{"' + b"x" * 1000)
            answer = await greedy.hear()
            assert answer["error"]["data"]["code"] == "rate_limited"
            assert await greedy.hear() is None
            await modest.say(b"}\n")
            assert "result" in await modest.hear()
