"""Daily allowances: the rules of core/meters.py."""

from ampd.core.meters import DAY, Meters


def test_bk1_a_bucket_is_full_at_first_and_fills_again_in_a_day():
    meters = Meters(100)
    assert meters.wait("a", 100, 0.0) == 0
    assert meters.wait("a", 50, 0.0) == DAY / 2
    assert meters.wait("a", 50, DAY / 2) == 0
    assert meters.wait("a", 100, 9 * DAY) == 0 and meters.wait("a", 1, 9 * DAY) > 0


def test_bk1_what_was_not_given_was_not_taken_and_a_clock_set_back_takes_nothing():
    meters = Meters(100)
    assert meters.wait("a", 90, DAY) == 0
    assert meters.wait("a", 20, DAY) > 0 and meters.wait("a", 10, 0.0) == 0


def test_bk2_the_one_that_was_used_longest_ago_is_forgotten():
    meters = Meters(100, most=2)
    for who in "abac":
        meters.wait(who, 50, 0.0)
    assert len(meters) == 2
    assert meters.wait("a", 50, 0.0) > 0 and meters.wait("b", 100, 0.0) == 0
