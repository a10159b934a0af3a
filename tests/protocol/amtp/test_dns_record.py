"""What a domain says of its gateway and its keys: ampd/protocol/amtp/dns_record.py."""

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ampd.crypto.foreign_keys import ForeignSigner
from ampd.model.errors import Invalid
from ampd.protocol.amtp.dns_record import (
    DEFAULT_MAX_SIZE,
    GatewayRecord,
    KeyRecord,
    NoKey,
    domain_of,
    gateway_name,
    gateway_record,
    key_name,
    key_record,
)

GOOD = "v=amtp1;gateway=https://amtp.example.com:443"
SIGNER = ForeignSigner.generate("ES256")
KEY = str(KeyRecord("ES256", SIGNER.public))


def test_a_record_says_where_the_gateway_is_and_what_it_takes():
    found = gateway_record([GOOD + ";auth=cert,oauth;max-size=50000000;features=agent-discovery"])

    assert found == GatewayRecord(
        "https://amtp.example.com:443", ("cert", "oauth"), 50_000_000, ("agent-discovery",)
    )


def test_without_a_size_it_is_ten_megabytes():
    assert gateway_record([GOOD]).max_size == DEFAULT_MAX_SIZE == 10_485_760


def test_what_is_published_is_what_is_read():
    record = GatewayRecord("https://a.example/base", ("apikey",), 5, ("x",))

    assert gateway_record([str(record)]) == record


def test_n1_the_first_valid_record_wins_and_others_are_passed_over():
    texts = ["v=spf1 -all", "v=amtp2;gateway=https://two.example", "v=amtp1;gateway=", GOOD,
             "v=amtp1;gateway=https://later.example"]  # fmt: skip

    assert gateway_record(texts).gateway == "https://amtp.example.com:443"


def test_n1_unknown_parameters_and_quotation_marks_do_not_matter():
    found = gateway_record(['"v=amtp1; future=yes; gateway=https://amtp.example.com/ "'])

    assert found.gateway == "https://amtp.example.com"


@pytest.mark.parametrize(
    "text",
    [
        "", "v=amtp1", "gateway=https://a.example;v=amtp1", GOOD + ";gateway=https://b.example",
        GOOD + ";max-size=many", GOOD + ";max-size=0", GOOD + ";x=" + "y" * 5000,
    ],
)  # fmt: skip
def test_n1_what_is_no_record_is_none(text):
    assert gateway_record([text]) is None


@pytest.mark.parametrize(
    "url",
    [
        "http://a.example", "ftp://a.example", "//a.example", "https://", "https://user@a.example",
        "https://a.example?x=1", "https://a.example#x", "https://a.example:99999", "https://[::1",
        "https://a.example/ b", "https://ä.example",
    ],
)  # fmt: skip
def test_n2_a_gateway_is_a_plain_https_url(url):
    assert gateway_record([f"v=amtp1;gateway={url}"]) is None


def test_n2_http_is_taken_where_it_is_allowed():
    assert gateway_record(["v=amtp1;gateway=http://127.0.0.1:80"], plain_http=True) is not None


def test_n3_one_valid_key_is_the_key():
    assert key_record([KEY]).key == SIGNER.public
    assert key_record(["v=amtpkey1;alg=ES256;p=", KEY]).algorithm == "ES256"


def test_n3_two_keys_or_none_that_is_valid_are_no_key():
    for texts in ([KEY, KEY], ["v=amtpkey1;alg=ES256;p="], ["hello"]):
        with pytest.raises(Invalid) as refused:
            key_record(texts)
        assert not isinstance(refused.value, NoKey)


def test_n3_no_record_at_all_may_come_later():
    with pytest.raises(NoKey):
        key_record([])


@pytest.mark.parametrize(
    "change",
    [
        ("amtpkey1", "amtpkey2"), ("alg=ES256", "alg=RS256"), ("alg=ES256", "alg=Ed25519"),
        (";p=", ";q="), ("p=MF", "p=!!"), ("p=MF", "p=AA"), ("v=amtpkey1", "v=amtpkey1;alg=ES256"),
    ],
)  # fmt: skip
def test_n3_a_record_with_a_fault_is_no_key(change):
    with pytest.raises(Invalid):
        key_record([KEY.replace(*change)])


def test_n3_unknown_parameters_of_a_key_are_ignored():
    assert key_record([KEY.replace(";p=", ";future=x;p=")]).key == SIGNER.public


@pytest.mark.parametrize("selector", ["k1", "k", "a-b-c", "0", "9z", "a" * 63])
def test_n4_a_selector_is_one_label(selector):
    assert key_name(selector, "Sender.Example.") == f"{selector}._amtpkey.sender.example"


@pytest.mark.parametrize(
    "selector",
    ["", "K1", "k_1", "k.1", "k 1", "-k", "k-", "a" * 64, "k1._amtpkey.evil.example", "k\n", "中"],
)
def test_n4_what_is_more_than_a_label_is_asked_nowhere(selector):
    with pytest.raises(Invalid):
        key_name(selector, "sender.example")


def test_n5_both_alphabets_with_and_without_padding():
    der = SIGNER.public.spki
    for text in (base64.b64encode(der), base64.urlsafe_b64encode(der)):
        for each in (text, text.rstrip(b"=")):
            assert key_record([f"v=amtpkey1;alg=ES256;p={each.decode()}"]).key == SIGNER.public


def test_a_key_of_rsa_is_for_rs256():
    signer = ForeignSigner.generate("RS256")

    assert key_record([str(KeyRecord("RS256", signer.public))]).key == signer.public


def test_a_domain_is_compared_in_lower_case_and_without_its_last_dot():
    assert domain_of("Sender.Example.") == "sender.example"
    assert gateway_name("LOCALHOST") == "_amtp.localhost"
    for text in ("", ".", "a..b", "münchen.example", "a b", "-a", "a" * 300, "a\n"):
        with pytest.raises(Invalid):
            domain_of(text)


@given(st.lists(st.text(max_size=80), max_size=3))
def test_noise_is_no_record_and_no_key(texts):
    assert gateway_record(texts) is None
    with pytest.raises(Invalid):
        key_record(texts)
