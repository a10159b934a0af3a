"""The rules of protocol/amtp/message.py and statuses.py."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ampd.protocol import raw_json
from ampd.protocol.amtp.message import (
    Unacceptable,
    derived_key,
    is_uuid,
    ordered,
    read,
    text_of,
)
from ampd.protocol.amtp.statuses import RecipientStatus, http_status, of_native, overall

V4 = "6ba7b810-9dad-41d1-80b4-00c04fd430c8"
V7 = "01890a5d-ac96-774b-bcce-b302099a8057"
SMALLEST = {"sender": "alice@localhost", "recipients": ["bob@localhost"]}
FILE = {"filename": "a", "content_type": "b", "size": 0, "hash": "md5:00", "url": "https://x"}


def refusal(**members):
    with pytest.raises(Unacceptable) as caught:
        read(raw_json.parse(raw_json.write({**SMALLEST, **members})))
    return caught.value


def test_am1_the_first_thing_that_is_wrong_is_said():
    wrong = {
        "recipients": "bob@localhost", "version": "2.0", "message_id": "x", "schema": "x",
    }  # fmt: skip
    assert refusal(**wrong).word == "INVALID_REQUEST_FORMAT"
    del wrong["recipients"]
    assert refusal(**wrong).word == "UNSUPPORTED_VERSION"
    del wrong["version"]
    assert refusal(**wrong).word == "VALIDATION_FAILED"
    del wrong["message_id"]
    assert refusal(**wrong).word == "MESSAGE_VALIDATION_FAILED"


@pytest.mark.parametrize(
    "members",
    [
        {"sender": 1}, {"sender": ["a@b"]}, {"recipients": {"0": "a@b"}}, {"recipients": [1]},
        {"headers": []}, {"headers": "x"}, {"coordination": "x"}, {"attachments": ["x"]},
        {"attachments": FILE}, {"subject": 7}, {"signature": "x"}, {"schema": {}},
    ],
    ids=str,
)  # fmt: skip
def test_am1_a_wrong_shape_is_a_wrong_request(members):
    found = refusal(**members)
    assert found.word == "INVALID_REQUEST_FORMAT" and found.details["parse_error"]


@pytest.mark.parametrize("body", [[], 1, "x", None, True])
def test_am1_the_body_is_an_object(body):
    with pytest.raises(Unacceptable, match="no JSON object"):
        read(body)


@pytest.mark.parametrize(
    "members",
    [
        {"sender": None}, {"sender": "alice"}, {"sender": "a@b@c"}, {"sender": "A <a@b>"},
        {"recipients": []}, {"recipients": ["bob"]}, {"recipients": ["a@b"] * 101},
        {"coordination": {"type": "parallel"}}, {"coordination": {"type": "odd", "timeout": 1}},
        {"coordination": {"type": "sequential", "timeout": 1, "sequence": ["bob"]}},
        {"coordination": {"type": "conditional", "timeout": 1,
                          "conditions": [{"if": "a == b", "then": ["x"]}]}},
        *({"attachments": [{**FILE, name: value}]} for name, value in
          (("hash", "0"), ("hash", ""), ("url", "ftp://x"), ("size", -1), ("size", "1"),
           ("size", True), ("filename", None), ("content_type", 3))),
        {"attachments": [FILE] * 101},
    ],
    ids=str,
)  # fmt: skip
def test_am1_what_a_message_must_have(members):
    found = refusal(**members)
    assert found.word == "VALIDATION_FAILED" and found.details["validation_error"]


@pytest.mark.parametrize(
    "members",
    [
        {"idempotency_key": "once"}, {"in_reply_to": "that"}, {"workflow_id": "w"},
        {"schema": "commerce.order.v1"}, {"schema": "agntcy:commerce.order"},
        {"schema": "other:commerce.order.v1"},
    ],
    ids=str,
)  # fmt: skip
def test_am1_what_its_members_must_be(members):
    assert refusal(**members).word == "MESSAGE_VALIDATION_FAILED"


def test_am2_null_and_empty_members_are_absent():
    empty = {
        "subject": "", "schema": "", "attachments": [], "coordination": None, "headers": None,
        "signature": None, "in_reply_to": "", "response_type": "", "payload": None, "odd": 1,
    }  # fmt: skip
    assert read({**SMALLEST, **empty}) == {**SMALLEST, "version": "1.0"}


@pytest.mark.parametrize("payload", ["", [], {}, False, "text", raw_json.Number("0")])
def test_am2_an_empty_payload_is_a_payload(payload):
    assert read({**SMALLEST, "payload": payload})["payload"] == payload


@pytest.mark.parametrize("text", [V4, V7, V7.upper()])
def test_am3_any_uuid_is_an_id(text):
    assert read({**SMALLEST, "message_id": text})["message_id"] == text.lower()


@pytest.mark.parametrize("text", ["", "x", V4[:-1], "{" + V4 + "}", V4.replace("-", ""),
                                  "00000000-0000-0000-0000-000000000000"])  # fmt: skip
def test_am3_and_nothing_else_is(text):
    assert not is_uuid(text)


@pytest.mark.parametrize("token", ["1.0", "1E+5", "0.10", "12345678901234567890123", "-0"])
def test_am4_numbers_stay_as_they_were_written(token):
    message = read(raw_json.parse(raw_json.write({**SMALLEST, "payload": raw_json.Number(token)})))
    assert raw_json.write(message["payload"]) == token


def test_am4_a_number_that_no_double_holds_is_refused():
    large = raw_json.Number("9" * 400)
    assert refusal(payload={"deep": [large]}).word == "VALIDATION_FAILED"
    assert refusal(headers={"n": large}).word == "VALIDATION_FAILED"


def test_members_are_written_in_their_order():
    message = read({"payload": {}, "recipients": ["b@c"], "headers": {"a": "b"}, "sender": "a@b"})
    assert list(ordered(message)) == ["version", "sender", "recipients", "headers", "payload"]


def test_the_readable_part_of_a_payload():
    assert text_of("hello") == text_of({"text": "hello"}) == text_of({"body": "hello"}) == "hello"
    assert text_of({"text": 1, "message": "yes"}) == "yes"
    assert text_of(raw_json.Number("7")) == text_of([]) == text_of({}) == text_of(None) == ""


@given(st.uuids().map(str))
def test_a_derived_key_is_the_same_for_one_id_and_looks_like_a_uuid4(identifier):
    key = derived_key(identifier)
    assert key == derived_key(identifier) and is_uuid(key) and key[14] == "4" and key[19] in "89ab"


def copies(*words):
    return [RecipientStatus("a@b", word, "") for word in words]


def test_st1_the_furthest_back_speaks_for_the_message():
    assert overall(copies("delivered")) == "delivered"
    assert overall(copies("delivered", "delivering")) == "delivering"
    assert overall(copies("delivering", "queued")) == "queued"
    assert overall(copies("queued", "retrying")) == "retrying"
    assert overall(copies("delivered", "retrying", "failed")) == "failed"


def test_st2_only_a_send_that_nobody_took_is_an_error():
    assert http_status(copies("failed", "failed")) == 400
    assert http_status(copies("failed", "delivered")) == 202
    assert http_status(copies("delivered")) == 202
    assert http_status(copies("delivered"), replied=True) == 200


def test_words_of_the_outbox():
    assert [of_native(word, 0) for word in ("queued", "relayed", "delivered", "read")] == [
        "queued", "delivering", "delivered", "delivered",
    ]  # fmt: skip
    assert of_native("queued", 2) == "retrying"
    assert of_native("expired", 0) == of_native("failed", 3) == "failed"
