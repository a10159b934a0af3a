import itertools
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from protocol.harness import HELLO, LETTER, THEIR_HELLO, Pair, letter

from ampd.model.encoding import encode
from ampd.model.errors import LocalProtocolError, RemoteProtocolError
from ampd.protocol import session as session_module
from ampd.protocol.events import (
    Accept,
    Cards,
    Deliver,
    Goodbye,
    Hello,
    Ping,
    Pong,
    Refuse,
    WantCards,
    to_wire,
)
from ampd.protocol.framing import frame
from ampd.protocol.session import WINDOW, WINDOW_BYTES, Session

MEBI = 1 << 20


@pytest.fixture
def pair():
    return Pair()


def is_refused_by_both(pair, event):
    """Alice may not say `event`; and if she does, Bob ends the session."""
    with pytest.raises(LocalProtocolError) as ours:
        pair.alice.send(event)
    with pytest.raises(RemoteProtocolError) as theirs:
        pair.bob.receive(frame(encode(to_wire(event))))
    assert str(ours.value) == str(theirs.value), "the same rule binds both sides"
    with pytest.raises(RemoteProtocolError):
        pair.bob.receive(b"")
    return str(ours.value)


def test_an_envelope_is_offered_and_accepted(pair):
    pair.alice_says(Deliver(1, LETTER))
    pair.bob_says(Accept(1, "delivered", b"receipt"))


def test_an_envelope_is_offered_and_refused(pair):
    pair.bob_says(Deliver(1, LETTER))
    pair.alice_says(Refuse(1, "stale_key", "renewed on Monday", b"card"))


def test_answers_come_in_any_order(pair):
    pair.alice_says(Deliver(1, LETTER), Deliver(2, LETTER))
    pair.bob_says(Accept(2, "delivered", b""), Refuse(1, "blocked", "no"))


def test_s1_nothing_is_said_before_hello():
    for event in (Deliver(1, LETTER), Ping(1), Cards(0, ()), Goodbye(""), Pong(1)):
        assert "S1" in is_refused_by_both(Pair(greeted=False), event)


def test_s1_hello_is_said_once(pair):
    assert "S1" in is_refused_by_both(pair, HELLO)


@pytest.mark.parametrize("number", [0, 1, 3])
def test_s2_deliver_numbers_count_up_from_1(pair, number):
    pair.alice_says(Deliver(1, LETTER))
    assert "S2" in is_refused_by_both(pair, Deliver(number, LETTER))


def test_s2_questions_have_a_row_of_numbers_of_their_own(pair):
    pair.alice_says(Deliver(1, LETTER), WantCards(1, ("bob@bob.local",)))
    pair.bob_says(Cards(1, (b"card",)))
    assert "S2" in is_refused_by_both(pair, WantCards(1, ("bob@bob.local",)))


@pytest.mark.parametrize(
    "answer", [Accept(1, "delivered", b""), Refuse(1, "x", "y"), Cards(1, ()), Pong(1)]
)
def test_s3_what_was_not_asked_is_not_answered(pair, answer):
    assert "S3" in is_refused_by_both(pair, answer)


def test_s3_each_number_is_answered_once(pair):
    pair.bob_says(Deliver(1, LETTER))
    pair.alice_says(Refuse(1, "blocked", "no"))
    assert "S3" in is_refused_by_both(pair, Accept(1, "delivered", b""))


def test_s3_a_side_does_not_answer_itself(pair):
    pair.alice_says(Deliver(1, LETTER))
    assert "S3" in is_refused_by_both(pair, Accept(1, "delivered", b""))


def test_s4_no_more_than_a_window_is_open(pair):
    pair.alice_says(*(Deliver(n + 1, letter(n)) for n in range(WINDOW)))
    assert not pair.alice.may_deliver(1)
    assert "S4" in is_refused_by_both(pair, Deliver(WINDOW + 1, LETTER))


def test_s4_an_answer_makes_room(pair):
    pair.alice_says(*(Deliver(n + 1, letter(n)) for n in range(WINDOW)))
    pair.bob_says(Accept(7, "delivered", b""))
    pair.alice_says(Deliver(WINDOW + 1, LETTER))


def test_s4_no_more_than_a_window_of_bytes_is_open(pair):
    pair.alice_says(*(Deliver(n + 1, letter(n, MEBI)) for n in range(WINDOW_BYTES // MEBI)))
    assert not pair.alice.may_deliver(1)
    assert "S4" in is_refused_by_both(pair, Deliver(WINDOW_BYTES // MEBI + 1, letter(9)))


def test_s5_after_goodbye_only_answers_are_said(pair):
    pair.alice_says(Deliver(1, LETTER))
    pair.bob_says(Deliver(1, LETTER), Ping(5), WantCards(1, ("a@alice.local",)))
    pair.alice_says(Goodbye("restarting"))
    pair.alice_says(Accept(1, "delivered", b""), Pong(5), Cards(1, (b"card",)))
    assert "S5" in is_refused_by_both(pair, Deliver(2, LETTER))


@pytest.mark.parametrize("event", [Ping(1), WantCards(1, ("a@b",)), Cards(0, ()), Goodbye("")])
def test_s5_after_goodbye_nothing_begins(pair, event):
    pair.alice_says(Goodbye("restarting"))
    assert "S5" in is_refused_by_both(pair, event)


@pytest.mark.parametrize(
    ("first", "second"),
    [(Ping(1), Ping(2)), (WantCards(1, ("a@b",)), WantCards(2, ("a@b",)))],
)
def test_s6_one_question_and_one_ping_are_open(pair, first, second):
    pair.alice_says(first)
    assert "S6" in is_refused_by_both(pair, second)


def test_s7_no_envelope_is_larger_than_the_other_sides_hello_allows():
    pair = Pair(greeted=False)
    pair.alice_says(HELLO)
    pair.bob_says(Hello(1, "small.local", bytes(8), 0, 15))
    assert "S7" in is_refused_by_both(pair, Deliver(1, letter(size=16)))


def test_s7_deliver_waits_for_the_other_sides_hello():
    pair = Pair(greeted=False)
    pair.alice_says(HELLO)
    assert "S7" in is_refused_by_both(pair, Deliver(1, LETTER))


def test_s8_a_session_wears_out(pair, monkeypatch):
    monkeypatch.setattr(session_module, "MAX_WORDS", 10)
    for nonce in range(9):
        assert not pair.alice.worn
        pair.alice_says(Ping(nonce))
        pair.bob_says(Pong(nonce))
    assert pair.alice.worn and pair.bob.worn
    for nonce in range(10):
        pair.alice_says(Ping(nonce))
        pair.bob_says(Pong(nonce))
    assert "S8" in is_refused_by_both(pair, Ping(1))


def test_s9_a_session_is_over_when_both_said_goodbye_and_nothing_is_open(pair):
    pair.alice_says(Deliver(1, LETTER), Goodbye("an hour has passed"))
    pair.bob_says(Goodbye("so it has"))
    assert not pair.alice.over and not pair.bob.over
    pair.bob_says(Accept(1, "delivered", b""))
    assert pair.alice.over and pair.bob.over


def test_the_largest_envelope_passes(pair):
    pair.alice_says(Deliver(1, letter(size=MEBI)))


def test_a_refused_word_changes_nothing_for_the_side_that_tried(pair):
    with pytest.raises(LocalProtocolError):
        pair.alice.send(Deliver(2, LETTER))
    pair.alice_says(Deliver(1, LETTER))


def test_an_extension_passes_unheard(pair):
    assert pair.bob.receive(frame(encode([99, "news"]))) == []
    pair.alice_says(Ping(1))


spoken = b"".join(
    [
        Session().send(HELLO),
        *(frame(encode(to_wire(Deliver(n, letter(n))))) for n in (1, 2, 3)),
        frame(encode([77, None])),
        frame(encode(to_wire(WantCards(1, ("bob@bob.local",))))),
        frame(encode(to_wire(Goodbye("enough")))),
    ]
)


def greeted():
    session = Session()
    session.send(THEIR_HELLO)
    return session


@given(places=st.sets(st.integers(0, len(spoken)), max_size=9))
def test_where_the_stream_is_cut_makes_no_difference(places):
    session, ends = greeted(), sorted(places | {0, len(spoken)})
    parts = [spoken[start:end] for start, end in itertools.pairwise(ends)]
    assert [e for part in parts for e in session.receive(part)] == greeted().receive(spoken)


@given(noise=st.binary(max_size=400))
def test_noise_is_only_ever_the_peers_fault(noise):
    with suppress(RemoteProtocolError):
        greeted().receive(noise)


@given(
    values=st.lists(
        st.recursive(
            st.none() | st.booleans() | st.integers(-9, 2**40) | st.text() | st.binary(),
            lambda inner: st.lists(inner, max_size=4),
            max_leaves=6,
        ),
        max_size=4,
    )
)
def test_noise_that_is_cbor_is_only_ever_the_peers_fault(values):
    with suppress(RemoteProtocolError):
        greeted().receive(b"".join(frame(encode(value)) for value in values))


@settings(max_examples=200)
@given(place=st.integers(0, len(spoken) - 1), flip=st.integers(1, 255))
def test_a_spoilt_byte_is_only_ever_the_peers_fault(place, flip):
    with suppress(RemoteProtocolError):
        greeted().receive(spoken[:place] + bytes([spoken[place] ^ flip]) + spoken[place + 1 :])
