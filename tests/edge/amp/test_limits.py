"""Limits, counts and abuse: time is a number that the tests move."""

import logging

import pytest

from ampd.edge.amp import counting
from ampd.edge.amp.abuse import NOTICED, SLOWED, WINDOW, Abuse
from ampd.edge.amp.counting import Counting
from ampd.edge.amp.limits import DEFAULTS, Limits, RateLimited


class Time:
    def __init__(self):
        self.seconds = 1000.0

    def __call__(self):
        return self.seconds

    def wall(self):
        return round(self.seconds * 1000) + 1_800_000_000_000


@pytest.fixture
def time():
    return Time()


def limits(time, abuse=None, **settings):
    return Limits(settings, abuse or Abuse(time), time.wall, time)


def test_z1_a_window_begins_with_the_first_count_after_the_one_before(time):
    counts = Counting(60.0, time)
    assert [counts.count("a"), counts.count("a"), counts.count("b")] == [1, 2, 1]
    time.seconds += 59.9
    assert counts.count("a") == 3
    time.seconds += 0.1
    assert (counts.seen("a"), counts.count("a")) == (0, 1)


def test_z2_a_flood_of_names_takes_no_more_memory_and_frees_nobodys_count(time, monkeypatch):
    monkeypatch.setattr(counting, "MAX_WATCHED", 3)
    counts = Counting(60.0, time)
    counts.count("known")
    assert [counts.count(f"flood-{n}") for n in range(5)] == [1, 1, 1, 2, 3]
    assert counts.count("known") == 2
    time.seconds += 60
    assert counts.count("new") == 1


def test_r1_each_limit_counts_for_each_agent_alone_and_for_a_minute(time):
    found = limits(time)
    for _ in range(DEFAULTS["route"]):
        found.take("route", "alice")
    with pytest.raises(RateLimited, match="60 each minute"):
        found.take("route", "alice")
    found.take("route", "bob")
    found.take("pending", "alice")
    time.seconds += 60
    found.take("route", "alice")


def test_r1_a_setting_changes_a_limit_and_zero_lifts_it(time):
    found = limits(time, route=1, pending=0)
    found.take("route", "alice")
    with pytest.raises(RateLimited):
        found.take("route", "alice")
    for _ in range(1000):
        assert found.take("pending", "alice") == {}


def test_r1_hourly_counts_for_an_hour(time):
    found = limits(time, hourly=1)
    found.take("hourly", "alice")
    time.seconds += 3599
    with pytest.raises(RateLimited, match="each hour"):
        found.take("hourly", "alice")
    time.seconds += 1
    found.take("hourly", "alice")


def test_r2_the_headers_say_the_limit_what_is_left_and_when_it_begins_anew(time):
    found = limits(time, route=2)
    assert found.take("route", "alice") == {
        "X-RateLimit-Limit": "2",
        "X-RateLimit-Remaining": "1",
        "X-RateLimit-Reset": str(time.wall() // 1000 + 60),
    }
    found.take("route", "alice")
    time.seconds += 15.5
    with pytest.raises(RateLimited) as caught:
        found.take("route", "alice")
    assert caught.value.headers["Retry-After"] == "45"
    assert caught.value.headers["X-RateLimit-Remaining"] == "0"


def test_r3_what_one_limit_refuses_the_others_do_not_count(time):
    found = limits(time, route=5, hourly=1)
    both = (("route", "alice"), ("hourly", "alice"))
    found.take_all(both)
    with pytest.raises(RateLimited):
        found.take_all(both)
    assert found.take("route", "alice")["X-RateLimit-Remaining"] == "3"


def test_x1_kinds_and_doers_are_counted_apart(time):
    abuse = Abuse(time)
    for _ in range(SLOWED):
        abuse.note("signature", "mallory")
    abuse.note("injection", "alice")
    assert abuse.totals == {"signature": SLOWED, "injection": 1}
    assert (abuse.slowed("mallory"), abuse.slowed("alice")) == (True, False)


def test_x2_it_is_said_at_ten_and_at_each_tenfold(time, caplog):
    abuse = Abuse(time)
    with caplog.at_level(logging.WARNING, "ampd.amp.abuse"):
        for _ in range(NOTICED * 10 + 5):
            abuse.note("unknown_recipient", "mallory")
    assert [record.count for record in caplog.records] == [10, 100]


def test_x3_an_abuser_has_a_quarter_of_the_limit_until_its_window_ends(time):
    abuse = Abuse(time)
    found = limits(time, abuse, route=8)
    for _ in range(SLOWED):
        abuse.note("signature", "mallory")
    assert found.take("route", "mallory")["X-RateLimit-Limit"] == "2"
    time.seconds += WINDOW
    assert found.take("route", "mallory")["X-RateLimit-Limit"] == "8"
