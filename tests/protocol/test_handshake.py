import contextlib
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from protocol.harness import ALICE, BOB, STATIC, shaken

from ampd.crypto.keys import SigningKey
from ampd.model.errors import RemoteProtocolError
from ampd.protocol.framing import record
from ampd.protocol.handshake import CONTEXT, OPENING, Handshake, WrongNode

FIRST = Handshake.calling(ALICE, STATIC[ALICE]).start()


def answering(key=BOB):
    return Handshake.answering(key, STATIC.get(key, b"x" * 32))


def test_both_sides_know_each_other_and_share_a_cipher():
    here, there = shaken()
    assert (here.peer, there.peer) == (BOB.public, ALICE.public)
    assert there.channel.open(here.channel.seal(b"hello")) == b"hello"
    assert here.channel.open(there.channel.seal(b"hello to you")) == b"hello to you"


def test_two_handshakes_share_no_key():
    (here, _), (_, other) = shaken(), shaken()
    with pytest.raises(RemoteProtocolError):
        other.channel.open(here.channel.seal(b"hello"))


@pytest.mark.parametrize("size", range(len(FIRST)))
def test_h1_the_answerer_is_silent_until_a_whole_first_message_is_there(size):
    handshake = answering()
    assert handshake.start() == b""
    assert handshake.receive(FIRST[:size]) == b""
    assert handshake.receive(FIRST[size:]) != b""


@pytest.mark.parametrize("noise", [b"GET / HTTP/1.1\r\n", b"\x16\x03\x01\x02", b"\0", b"ampd/2\n"])
def test_h1_what_is_no_handshake_gets_no_answer(noise):
    with pytest.raises(RemoteProtocolError, match="H1"):
        answering().receive(noise)


@pytest.mark.parametrize("length", [0, 31, 33, 65535])
def test_h2_a_message_of_another_length_is_refused_when_its_length_has_arrived(length):
    with pytest.raises(RemoteProtocolError, match="H2"):
        answering().receive(OPENING + length.to_bytes(2, "big"))


def test_h2_a_caller_that_reaches_another_service_says_nothing_more():
    caller = Handshake.calling(ALICE, STATIC[ALICE])
    caller.start()
    with pytest.raises(RemoteProtocolError, match="H2"):
        caller.receive(b"SSH-2.0-OpenSSH_9.2\r\n")


class Liar:
    """Claims a node key that it does not have, or signs something else."""

    def __init__(self, public, sign):
        self.public, self._sign = public, sign

    def sign(self, context, message):
        return self._sign(context, message)


LIES = {
    "another's key": Liar(ALICE.public, BOB.sign),
    "another context": Liar(BOB.public, lambda _, message: BOB.sign("ampd/card/1", message)),
    "another session key": Liar(BOB.public, lambda context, _: BOB.sign(context, bytes(32))),
    "a key of low order": Liar(bytes([1]) + bytes(31), BOB.sign),
    "no signature": Liar(BOB.public, lambda *_: bytes(64)),
}


@pytest.mark.parametrize("lie", LIES)
def test_h3_an_answerer_must_prove_its_key(lie):
    caller = Handshake.calling(ALICE, STATIC[ALICE])
    liar = Handshake.answering(LIES[lie], b"x" * 32)
    with pytest.raises(RemoteProtocolError, match="H3"):
        caller.receive(liar.receive(caller.start()))
    assert caller.peer is None and caller.channel is None


@pytest.mark.parametrize("lie", LIES)
def test_h3_a_caller_must_prove_its_key(lie):
    liar = Handshake.calling(LIES[lie], b"x" * 32)
    answerer = answering(SigningKey(b"c" * 32))
    third = liar.receive(answerer.receive(liar.start()))
    with pytest.raises(RemoteProtocolError, match="H3"):
        answerer.receive(third)
    assert answerer.peer is None and answerer.channel is None


def test_h3_a_proof_taken_from_another_session_proves_nothing():
    stolen = ALICE.sign(CONTEXT, b"the session key that was seen elsewhere")
    thief = Handshake.calling(Liar(ALICE.public, lambda *_: stolen), b"x" * 32)
    answerer = answering()
    with pytest.raises(RemoteProtocolError, match="H3"):
        answerer.receive(thief.receive(answerer.receive(thief.start())))


# Orders 1, 2, 4 and 8 of Curve25519 in their canonical forms (RFC 7748, section 6.1).
LOW_ORDER = [
    "0000000000000000000000000000000000000000000000000000000000000000",
    "0100000000000000000000000000000000000000000000000000000000000000",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
    "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
]


@pytest.mark.parametrize("point", LOW_ORDER)
def test_h3_a_session_key_of_low_order_ends_the_handshake(point):
    with pytest.raises(RemoteProtocolError, match="H3"):
        answering().receive(OPENING + record(bytes.fromhex(point)))
    caller = Handshake.calling(ALICE, STATIC[ALICE])
    caller.start()
    with pytest.raises(RemoteProtocolError, match="H3"):
        caller.receive(record(bytes.fromhex(point) + bytes(160)))


def test_h4_a_caller_that_meets_another_node_does_not_show_its_key():
    caller = Handshake.calling(ALICE, STATIC[ALICE], expected=SigningKey(b"c" * 32).public)
    with pytest.raises(WrongNode, match="H4"):
        caller.receive(answering().receive(caller.start()))
    assert caller.channel is None


def test_h4_a_caller_may_meet_the_node_it_meant():
    here, _ = shaken(expected=BOB.public)
    assert here.peer == BOB.public


def test_h5_no_more_than_a_kibibyte_is_taken_before_the_proof():
    answerer = answering()
    with pytest.raises(RemoteProtocolError, match="H5"):
        answerer.receive(FIRST + bytes(1024))


def test_h6_a_record_that_was_touched_repeated_lost_or_swapped_does_not_open():
    def sealed():
        here, there = shaken()
        return [here.channel.seal(word) for word in (b"one", b"two", b"three")], there.channel

    (one, two, _), channel = sealed()
    assert channel.open(one) == b"one"
    with pytest.raises(RemoteProtocolError, match="H6"):
        channel.open(two[:-1] + bytes([two[-1] ^ 1]))
    (one, _, _), channel = sealed()
    channel.open(one)
    with pytest.raises(RemoteProtocolError, match="H6"):
        channel.open(one)
    (one, _, three), channel = sealed()
    channel.open(one)
    with pytest.raises(RemoteProtocolError, match="H6"):
        channel.open(three)


def test_h6_what_a_side_sealed_does_not_open_for_itself():
    here, _ = shaken()
    with pytest.raises(RemoteProtocolError, match="H6"):
        here.channel.open(here.channel.seal(b"a mirror"))


def test_h7_a_node_does_not_speak_with_itself():
    caller = Handshake.calling(ALICE, STATIC[ALICE])
    with pytest.raises(WrongNode, match="H7"):
        caller.receive(Handshake.answering(ALICE, STATIC[ALICE]).receive(caller.start()))


def test_what_comes_behind_the_handshake_is_kept_for_the_channel():
    caller, answerer = Handshake.calling(ALICE, STATIC[ALICE]), answering()
    third = caller.receive(answerer.receive(caller.start()))
    answerer.receive(third + caller.channel.seal(b"at once"))
    assert answerer.channel.open(answerer.rest) == b"at once"


@given(places=st.sets(st.integers(0, 220), max_size=6))
def test_where_a_handshake_is_cut_makes_no_difference(places):
    caller, answerer = Handshake.calling(ALICE, STATIC[ALICE]), answering()

    def fed(handshake, data):
        ends = sorted({place for place in places if place < len(data)} | {0, len(data)})
        parts = itertools.pairwise(ends)
        return b"".join(handshake.receive(data[start:end]) for start, end in parts)

    assert fed(answerer, fed(caller, fed(answerer, caller.start()))) == b""
    assert (caller.peer, answerer.peer) == (BOB.public, ALICE.public)


@given(noise=st.binary(max_size=300), sized=st.booleans())
def test_noise_in_a_handshake_is_only_ever_the_peers_fault(noise, sized):
    for handshake in (Handshake.calling(ALICE, STATIC[ALICE]), answering()):
        opening = handshake.start() or OPENING
        try:
            if sized:
                size = 32 if opening == OPENING else 192
                noise = noise.ljust(size, b"\0")[:size]
                noise = (OPENING if opening == OPENING else b"") + record(noise)
            answer = handshake.receive(noise)
            handshake.receive(record(noise.ljust(160, b"\0")[:160]) if answer else noise)
        except RemoteProtocolError:
            pass
        assert handshake.channel is None


@given(place=st.integers(0, 40), flip=st.integers(1, 255))
def test_a_flipped_bit_of_the_first_message_ends_the_handshake(place, flip):
    # The last bit of an X25519 key does not count (RFC 7748, section 5), but in the transcript.
    caller, answerer = Handshake.calling(ALICE, STATIC[ALICE]), answering()
    first = touched(caller.start(), place, flip)
    with pytest.raises(RemoteProtocolError):
        caller.receive(answerer.receive(first) or record(bytes(192)))


@given(place=st.integers(0, 193), flip=st.integers(1, 255))
def test_a_flipped_bit_of_the_second_message_ends_the_handshake(place, flip):
    caller, answerer = Handshake.calling(ALICE, STATIC[ALICE]), answering()
    second = touched(answerer.receive(caller.start()), place, flip)
    with pytest.raises(RemoteProtocolError):
        caller.receive(second)


@given(place=st.integers(0, 161), flip=st.integers(1, 255))
def test_a_flipped_bit_of_the_third_message_ends_the_handshake(place, flip):
    caller, answerer = Handshake.calling(ALICE, STATIC[ALICE]), answering()
    third = touched(caller.receive(answerer.receive(caller.start())), place, flip)
    with pytest.raises(RemoteProtocolError):
        answerer.receive(third)


def touched(data, place, flip):
    return data[:place] + bytes([data[place] ^ flip]) + data[place + 1 :]


@given(noise=st.binary(min_size=3, max_size=400))
def test_noise_on_a_channel_is_only_ever_the_peers_fault(noise):
    _, there = shaken()
    with contextlib.suppress(RemoteProtocolError):
        assert there.channel.open(noise) == b""
