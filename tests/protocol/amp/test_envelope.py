"""What clients post, read and held to the limits."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ampd.model.errors import AmpdError, Invalid, Refused, StorageError
from ampd.protocol import raw_json
from ampd.protocol.amp.envelope import check_times, read_envelope, read_post
from ampd.protocol.amp.faults import Fault, fault_of

NOW = 1_738_231_200_000  # 2025-01-30T10:00:00Z
FLAT = {"to": "bob", "subject": "s", "payload": {"type": "request", "message": "m"}}
ENVELOPE = {
    "version": "amp/0.1", "id": "msg_1738231200_ab12", "from": "a@b.c.d", "to": "e@f.g.h",
    "subject": "s", "timestamp": "2025-01-30T10:00:00Z",
}  # fmt: skip
FULL = {"envelope": ENVELOPE, "payload": FLAT["payload"]}


def fault(body):
    with pytest.raises(Fault) as caught:
        read_post(body)
    return caught.value.status, caught.value.error, caught.value.field


def flat(**changes):
    return FLAT | changes


def payload(**changes):
    return FLAT | {"payload": FLAT["payload"] | changes}


def full(**changes):
    return {"envelope": ENVELOPE | changes, "payload": FLAT["payload"]}


def test_a_flat_body_and_a_full_one_are_the_same_message():
    one, two = read_post(FLAT), read_post(FULL)
    assert (one.subject, one.priority, one.message) == (two.subject, two.priority, two.message)
    assert (one.id, one.timestamp) == ("", 0)
    assert (two.id, two.timestamp) == ("msg_1738231200_ab12", NOW)
    assert read_envelope(ENVELOPE, FLAT["payload"]) == two


def test_the_provider_makes_id_and_time_of_a_flat_body():
    post = read_post(flat(id="msg_1_a", timestamp="2001-01-01T00:00:00Z", version="x"))
    assert (post.id, post.timestamp) == ("", 0)


@pytest.mark.parametrize("name", ["version", "id", "from", "to", "subject", "timestamp"])
def test_ev1_a_full_envelope_has_all_that_it_must(name):
    assert fault(full(**{name: None})) == (400, "missing_field", name)


def test_ev1_other_versions_are_refused():
    assert fault(full(version="amp/0.2"))[2] == "version"
    assert fault(full(version="amp/0.11"))[2] == "version"
    assert read_post(full(version="amp/0.1.3"))


def test_ev2_an_id_is_one_that_clients_can_hold():
    assert fault(full(id="x"))[2] == fault(full(id="msg_1_" + "a" * 300))[2] == "id"


def test_ev3_priority_is_one_of_four_or_normal():
    assert read_post(flat(priority=None)).priority == read_post(FLAT).priority == "normal"
    for word in ("urgent", "high", "normal", "low"):
        assert read_post(flat(priority=word)).priority == word
    assert fault(flat(priority="Urgent")) == (400, "invalid_field", "priority")


def test_ev4_a_payload_has_a_type_and_a_message():
    assert fault({"to": "b", "subject": "s"}) == (400, "missing_field", "payload")
    assert fault(flat(payload="x")) == (400, "invalid_field", "payload")
    assert fault(payload(type=None)) == (400, "missing_field", "payload.type")
    assert fault(payload(message="")) == (400, "missing_field", "payload.message")
    assert fault(payload(message=raw_json.Number("5"))) == (400, "invalid_field", "payload.message")
    assert fault(payload(type="x" * 65)) == (400, "invalid_field", "payload.type")
    assert read_post(payload(type="github:pull_request", more=[1], context=7)).payload["more"] == [
        1
    ]


def test_ev5_everything_has_its_limit_and_that_much_is_taken():
    assert read_post(flat(subject="é" * 256))
    assert fault(flat(subject="é" * 257)) == (400, "invalid_field", "subject")
    assert read_post(payload(message="é" * 32768))
    assert fault(payload(message="é" * 32768 + "a")) == (
        413,
        "payload_too_large",
        "payload.message",
    )
    assert read_post(payload(context="x" * 262142))
    assert fault(payload(context="x" * 262143)) == (413, "payload_too_large", "payload.context")
    assert read_post(payload(other="x" * 524000))
    assert fault(payload(other="x" * 524288)) == (413, "payload_too_large", "payload")


@pytest.mark.parametrize("body", [None, [], "x", True, raw_json.Number("1")])
def test_a_body_that_is_no_object_is_refused(body):
    assert fault(body)[:2] == (400, "invalid_request")


@pytest.mark.parametrize("name", ["to", "subject", "in_reply_to", "thread_id", "signature"])
def test_fields_that_are_no_texts_are_refused(name):
    assert fault(flat(**{name: ["x"]})) == (400, "invalid_field", name)


def test_ev6_what_has_expired_is_refused():
    post = read_post(flat(expires_at="2025-01-30T10:00:00Z"))
    check_times(post, NOW - 1)
    with pytest.raises(Fault, match="expired"):
        check_times(post, NOW)
    assert fault(flat(expires_at="tomorrow"))[2] == "expires_at"


def test_ev7_stale_and_early_messages_are_refused_unless_a_relay_held_them():
    post = read_post(FULL)
    check_times(post, NOW + 300_000)
    check_times(post, NOW + 86_400_000, queued_at=NOW + 86_400_000 - 1000)
    for now in (NOW + 300_001, NOW - 60_001):
        with pytest.raises(Fault):
            check_times(post, now)


names = st.sampled_from([*ENVELOPE, "payload", "envelope", "options", "type", "message", "context"])
values = st.recursive(
    st.none() | st.booleans() | st.text(max_size=9), lambda inner: st.lists(inner, max_size=2)
    | st.dictionaries(names, inner, max_size=6), max_leaves=20,
)  # fmt: skip


@given(values)
def test_no_body_does_anything_but_be_read_or_refused(body):
    answer = {"error": "", "message": ""}
    try:
        read_post(body)
    except Fault as exc:
        answer = exc.document()
    assert set(answer) >= {"error", "message"}


def test_every_error_of_ours_has_a_status_and_a_code():
    assert fault_of(Invalid("x", hint="y")).document() == {
        "error": "invalid_request", "message": "x; y",
    }  # fmt: skip
    assert fault_of(Refused("x", code="recipient_unknown")).status == 404
    assert fault_of(StorageError("x")).status == 503
    assert fault_of(Refused("x", code="whatever")).status == 403
    assert fault_of(AmpdError("x")).document()["error"] == "internal_error"
