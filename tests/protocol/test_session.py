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
    Collect,
    Deliver,
    Goodbye,
    Hello,
    Join,
    Ping,
    Pong,
    Refuse,
    WantCards,
    to_wire,
)
from ampd.protocol.framing import frame
from ampd.protocol.session import AGAIN, MAX_HELD, WINDOW, WINDOW_BYTES, Held, Session

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


def test_a_relay_is_joined_and_asked_for_mail(pair):
    pair.alice_says(Join(1, b"token"))
    pair.bob_says(Accept(1, "joined", b""))
    pair.alice_says(Collect(2, (b"card",)), Deliver(3, LETTER))
    pair.bob_says(Accept(3, "relayed", b""), Accept(2, "collecting", b""), Deliver(1, LETTER))


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


@pytest.mark.parametrize("word", [Join(1, b"token"), Collect(1, ())])
def test_s2_join_and_collect_count_in_the_row_of_deliver(pair, word):
    pair.alice_says(Deliver(1, LETTER))
    assert "S2" in is_refused_by_both(pair, word)


def test_s2_questions_have_a_row_of_numbers_of_their_own(pair):
    pair.alice_says(Deliver(1, LETTER), WantCards(1, ("bob@bob.local",)))
    pair.bob_says(Cards(1, (b"card",)))
    assert "S2" in is_refused_by_both(pair, WantCards(1, ("bob@bob.local",)))


@pytest.mark.parametrize(
    "answer",
    [
        Accept(1, "delivered", b""),
        Refuse(1, "x", "y"),
        Accept(1, "joined", b""),
        Cards(1, ()),
        Pong(1),
    ],
)
def test_s3_what_was_not_asked_is_not_answered(pair, answer):
    assert "S3" in is_refused_by_both(pair, answer)


def test_s3_each_number_is_answered_once(pair):
    pair.bob_says(Deliver(1, LETTER))
    pair.alice_says(Refuse(1, "blocked", "no"))
    assert "S3" in is_refused_by_both(pair, Accept(1, "delivered", b""))


@pytest.mark.parametrize(
    ("asked", "status"),
    [
        (Deliver(1, LETTER), "joined"),
        (Deliver(1, LETTER), "collecting"),
        (Join(1, b"token"), "collecting"),
        (Join(1, b"token"), "delivered"),
        (Collect(1, (b"card",)), "joined"),
        (Collect(1, (b"card",)), "relayed"),
    ],
)
def test_s3_the_status_fits_the_word(pair, asked, status):
    pair.bob_says(asked)
    assert "S3" in is_refused_by_both(pair, Accept(1, status, b""))


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


def test_s4_cards_of_a_collect_count(pair):
    pair.alice_says(*(Deliver(n, letter(n, MEBI)) for n in (1, 2, 3)))
    pair.alice_says(Deliver(4, letter(4, MEBI - 16000)))
    assert not pair.alice.may_request(16001) and pair.alice.may_request(16000)
    assert "S4" in is_refused_by_both(pair, Collect(5, (bytes(16001),)))


def test_s5_after_goodbye_only_answers_are_said(pair):
    pair.alice_says(Deliver(1, LETTER))
    pair.bob_says(Deliver(1, LETTER), Ping(5), WantCards(1, ("a@alice.local",)))
    pair.alice_says(Goodbye("restarting"))
    pair.alice_says(Accept(1, "delivered", b""), Pong(5), Cards(1, (b"card",)))
    assert "S5" in is_refused_by_both(pair, Deliver(2, LETTER))


@pytest.mark.parametrize(
    "event",
    [Ping(1), WantCards(1, ("a@b",)), Cards(0, ()), Goodbye(""), Join(1, b"t"), Collect(1, ())],
)
def test_s5_after_goodbye_nothing_begins(pair, event):
    pair.alice_says(Goodbye("restarting"))
    assert "S5" in is_refused_by_both(pair, event)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (Ping(1), Ping(2)),
        (WantCards(1, ("a@b",)), WantCards(2, ("a@b",))),
        (Join(1, b"token"), Collect(2, ())),
        (Collect(1, ()), Collect(2, ())),
    ],
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


@pytest.mark.parametrize("word", [Join(1, b"token"), Collect(1, ())])
def test_s7_join_and_collect_wait_for_the_other_sides_hello(word):
    pair = Pair(greeted=False)
    pair.alice_says(HELLO)
    assert "S7" in is_refused_by_both(pair, word)


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


BOX, OTHER_BOX = b"mailbox of bob..", b"mailbox of carol"


@pytest.mark.parametrize("code", AGAIN)
def test_s10_a_mailbox_is_held_back_until_a_later_ping_is_answered(code):
    held = Held()
    held.ping()  # an earlier one says nothing
    held.refuse(BOX, code)
    assert BOX in held and OTHER_BOX not in held
    held.pong()
    assert BOX in held and held.want_ping
    held.ping()
    assert BOX in held and not held.want_ping
    held.refuse(OTHER_BOX, code)
    held.pong()
    assert BOX not in held and OTHER_BOX in held and held.want_ping


def test_s10_what_is_refused_for_good_holds_nothing_back():
    held = Held()
    held.refuse(BOX, "blocked")
    assert BOX not in held and not held.want_ping


def test_s10_whoever_never_says_pong_fills_no_memory():
    held = Held()
    for number in range(2 * MAX_HELD):
        held.refuse(number.to_bytes(16, "big"), "unavailable")
    assert len(held._mailboxes) == MAX_HELD and BOX in held
    held.ping()
    held.pong()
    assert BOX not in held


def test_what_the_peer_makes_us_hold_is_counted(pair):
    pair.bob.receive(frame(encode(to_wire(Deliver(1, letter(1, 1000)))))[:500])
    assert pair.bob.taken == 500
    pair.bob.receive(frame(encode(to_wire(Deliver(1, letter(1, 1000)))))[500:])
    assert pair.bob.taken == 1000
    pair.bob.send(Accept(1, "delivered", b""))
    assert pair.bob.taken == 0


def test_the_largest_collect_passes_to_a_side_that_takes_small_envelopes():
    pair = Pair(greeted=False)
    pair.alice_says(HELLO)
    pair.bob = Session(1000)
    pair.bob.receive(Session().send(HELLO))
    pair.bob_says(Hello(1, "small.local", bytes(8), 0, 1000))
    pair.alice_says(Collect(1, (bytes(16384),) * 64))


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
