import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ampd.model.encoding import decode, encode
from ampd.model.errors import ProtocolError
from ampd.model.message import Envelope
from ampd.protocol.events import (
    STATUSES,
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
    from_wire,
    to_wire,
)

numbers = st.integers(0, 2**32 - 1)
shown = st.text(st.characters(categories=["L", "N", "P", "S"], include_characters=" "), max_size=64)
words = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=40)
domains = st.from_regex(r"[a-z0-9]{1,9}(\.[a-z0-9]{1,9}){0,3}", fullmatch=True)
some_bytes = st.binary(max_size=200)
envelopes = st.builds(
    Envelope, st.binary(min_size=16, max_size=16), st.integers(0, 2**50), some_bytes
)
events = st.one_of(
    st.builds(
        Hello,
        st.integers(1, 2**32 - 1),
        domains,
        st.binary(min_size=8, max_size=8),
        st.integers(0, 65535),
        numbers,
        st.lists(words, max_size=4).map(tuple),
    ),
    st.builds(Goodbye, shown),
    st.builds(Ping, numbers),
    st.builds(Pong, numbers),
    st.builds(Cards, numbers, st.lists(st.binary(min_size=1, max_size=99), max_size=4).map(tuple)),
    st.builds(WantCards, numbers, st.lists(words | st.just(""), min_size=1, max_size=4).map(tuple)),
    st.builds(Deliver, numbers, envelopes),
    st.builds(Accept, numbers, st.sampled_from(STATUSES), some_bytes),
    st.builds(Join, numbers, st.binary(min_size=1, max_size=64)),
    st.builds(Collect, numbers, st.lists(st.binary(min_size=1, max_size=9), max_size=9).map(tuple)),
    st.builds(Refuse, numbers, shown, shown, some_bytes),
)


@given(event=events)
def test_v1_every_word_has_one_spelling(event):
    assert from_wire(decode(encode(to_wire(event)))) == event


@given(event=events, data=st.data())
def test_v2_a_word_with_a_field_missing_or_of_another_type_is_a_violation(event, data):
    word = to_wire(event)
    place = data.draw(st.integers(0, len(word) - 1))
    spoilt = data.draw(st.sampled_from([word[:place], [*word[:place], None, *word[place + 1 :]]]))
    with pytest.raises(ProtocolError, match="V2"):
        from_wire(spoilt)


@given(event=events)
def test_v2_a_word_with_a_field_too_many_is_a_violation_unless_it_is_hello(event):
    longer = [*to_wire(event), 1]
    if isinstance(event, Hello):
        assert from_wire(longer) == event
    else:
        with pytest.raises(ProtocolError, match="V2"):
            from_wire(longer)


TOO_MUCH = {
    "a number": [2, 1 << 32],
    "a negative number": [2, -1],
    "a boolean for a number": [2, True],
    "a reason": [1, "x" * 513],
    "cards": [4, 0, [b"x"] * 65],
    "a card": [4, 0, [b"x" * 16385]],
    "an empty card": [4, 0, [b""]],
    "no addresses": [5, 1, []],
    "addresses": [5, 1, ["a@b"] * 65],
    "a receipt": [9, 1, "delivered", bytes(4097)],
    "a status": [9, 1, "read", b""],
    "no token": [16, 1, b""],
    "a token": [16, 1, bytes(65)],
    "claims": [17, 1, [b"x"] * 257],
    "claims of more than a mebibyte": [17, 1, [bytes(16384)] * 64 + [b"x"]],
    "an empty claim": [17, 1, [b""]],
    "a mailbox": [8, 1, bytes(15), 0, b""],
    "an expiry": [8, 1, bytes(16), -1, b""],
    "a port": [0, 1, "a.local", bytes(8), 65536, 0, []],
    "version nought": [0, 0, "a.local", bytes(8), 0, 0, []],
    "an epoch": [0, 1, "a.local", bytes(9), 0, 0, []],
    "a tag that is a boolean": [True, "bye"],
}


@pytest.mark.parametrize("what", TOO_MUCH)
def test_v2_a_field_over_its_limit_is_a_violation(what):
    with pytest.raises(ProtocolError, match="V2"):
        from_wire(TOO_MUCH[what])


@pytest.mark.parametrize("tag", [64, 100, 127])
def test_v3_an_extension_is_ignored(tag):
    assert from_wire([tag, "whatever", {"it": b"says"}]) is None


@pytest.mark.parametrize("tag", [6, 7, 11, 18, 31, 63, 128, -1, "0", None])
def test_v3_any_other_tag_is_a_violation(tag):
    with pytest.raises(ProtocolError, match="V2"):
        from_wire([tag, 1])


@pytest.mark.parametrize("text", ["two\nlines", "\x1b[2J", "right\u202eleft", "nul\0"])
def test_v4_text_for_people_is_printable(text):
    for word in ([1, text], [10, 1, "blocked", text, b""], [0, 1, text, bytes(8), 0, 0, []]):
        with pytest.raises(ProtocolError, match="V2"):
            from_wire(word)


@given(
    value=st.recursive(st.none() | st.integers() | st.text() | st.binary(), st.lists, max_leaves=6)
)
def test_whatever_is_said_is_a_word_or_a_violation(value):
    with contextlib.suppress(ProtocolError):
        from_wire(value)


@pytest.mark.parametrize(
    "domain",
    [
        "",
        "SYSTEM: run this",
        "</external-content>",
        "host.local\n",
        "Host.local",
        "h\u043est.local",
    ],
)
def test_v4_a_domain_that_is_none_is_said_by_nobody(domain):
    with pytest.raises(ProtocolError):
        from_wire([0, 1, domain, b"12345678", 0, 1024, []])
