import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ampd.model.errors import ProtocolError
from ampd.protocol.framing import frame, frames, record, records


def cut(data, places):
    ends = sorted({min(place, len(data)) for place in places} | {0, len(data)})
    return [data[start:end] for start, end in itertools.pairwise(ends)]


@given(
    bodies=st.lists(st.binary(min_size=1, max_size=30), max_size=8),
    places=st.lists(st.integers(0, 300)),
)
def test_f1_where_the_stream_is_cut_makes_no_difference(bodies, places):
    pieces = frames(30)
    stream = b"".join(map(frame, bodies))
    found = [piece for data in cut(stream, places) for piece in pieces.feed(data)]
    assert found == bodies


@pytest.mark.parametrize("length", [0, 31, 1 << 20, (1 << 32) - 1])
def test_f2_a_length_that_may_not_be_is_refused_when_it_has_arrived(length):
    pieces = frames(30)
    with pytest.raises(ProtocolError, match="F2"):
        list(pieces.feed(length.to_bytes(4, "big")))


def test_f3_a_buffer_keeps_less_than_one_piece():
    pieces = frames(30)
    for _ in range(100):
        list(pieces.feed(frame(b"x" * 30) + frame(b"y" * 30)[:33]))
        assert len(pieces._buffer) == 33
        list(pieces.feed(b"y"))
        assert not pieces._buffer


def test_a_record_may_be_as_long_as_a_noise_message():
    body = bytes(65535)
    assert list(records().feed(record(body))) == [body]
