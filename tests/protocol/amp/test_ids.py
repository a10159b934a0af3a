"""Message ids of AMP."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ampd.model.errors import Invalid
from ampd.model.message import new_id
from ampd.protocol.amp.ids import amp_id, is_message_id, native_id, thread_of
from ampd.protocol.amp.times import milliseconds


@given(st.integers(0, (1 << 48) - 1), st.binary(min_size=10, max_size=10))
def test_mi1_a_native_id_and_its_amp_id_name_each_other(now, chance):
    native = new_id(now, chance)
    assert native_id(amp_id(native)) == native
    assert is_message_id(amp_id(native))
    assert amp_id(native).split("_")[1] == str(now // 1000)


@given(st.binary(min_size=16, max_size=16))
def test_mi1_also_for_ids_without_a_time(native):
    assert native_id(amp_id(native)) == native


def test_mi2_any_other_text_has_a_native_id_of_its_own():
    one, two = native_id("msg_1700000000_0a1b2c3d"), native_id("msg_1700000000_0a1b2c3e")
    assert one == native_id("msg_1700000000_0a1b2c3d") != two
    assert one[6] >> 4 == 7
    assert int.from_bytes(one[:6], "big") == 1_700_000_000_000
    assert len(native_id("whatever, é")) == 16


def test_mi2_an_id_that_only_looks_like_one_of_ours_is_hashed():
    native = new_id(1_700_000_000_000, b"0123456789")
    forged = f"msg_1600000000_{native.hex()}"
    assert native_id(forged) != native


def test_mi3_a_thread_keeps_the_id_of_its_first_message():
    assert thread_of("own", "", "", "") == "own"
    assert thread_of("own", "", "answered", "") == "answered"
    assert thread_of("own", "", "answered", "first") == "first"
    assert thread_of("own", "said", "answered", "first") == "said"


@pytest.mark.parametrize(
    ("text", "good"),
    [("msg_1_a", True), ("msg-1-a", True), ("msg_1_", False), ("msg_x_a", False), ("a", False),
     ("msg_1_a/b", False), ("../msg_1_a", False), ("msg_1_a\n", False)],
)  # fmt: skip
def test_ids_are_those_that_clients_can_hold(text, good):
    assert is_message_id(text) is good


@pytest.mark.parametrize(
    ("text", "expected"),
    [("1970-01-01T00:00:00Z", 0), ("2025-01-30T10:00:00Z", 1738231200000),
     ("2025-01-30T10:00:00.123456Z", 1738231200123), ("2025-01-30T12:00:00+02:00", 1738231200000),
     ("2025-01-30T05:00:00.1-0500", 1738231200100), ("2024-02-29t00:00:00z", 1709164800000)],
)  # fmt: skip
def test_times_are_those_of_rfc_3339(text, expected):
    assert milliseconds(text) == expected


@pytest.mark.parametrize(
    "text", ["", "now", "2025-02-29T00:00:00Z", "2025-01-30T10:00:00", "2025-01-30",
             "2025-13-01T00:00:00Z", "2025-01-30T24:00:00Z", "1738231200", "0000-00-00T00:00:00Z"],
)  # fmt: skip
def test_what_is_no_time_is_refused(text):
    with pytest.raises(Invalid):
        milliseconds(text)
