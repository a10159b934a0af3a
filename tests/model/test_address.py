"""Names, keys and links: one spelling inside, kindness to who types, nothing for who attacks."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ampd.model.address import (
    MAX_HINTS,
    Address,
    ContactLink,
    NodeUri,
    check_domain,
    check_name,
    fingerprint,
    key_from_text,
    key_text,
)
from ampd.model.errors import Invalid

NAMES = st.from_regex(r"[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?", fullmatch=True)
LABELS = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", fullmatch=True)
DOMAINS = st.lists(LABELS, min_size=1, max_size=2).map(".".join)
ADDRESSES = st.builds(Address, NAMES, DOMAINS)
KEYS = st.binary(min_size=32, max_size=32)
HOSTS = (
    DOMAINS
    | st.ip_addresses(v=4).map(str)
    | st.ip_addresses(v=6).filter(lambda ip: not ip.ipv4_mapped).map(str)
    | st.sampled_from(["fe80::1%eth0", "fe80::2%Wi-Fi_2.5"])
)
URIS = st.builds(NodeUri, KEYS, HOSTS, st.integers(1, 65535))
HINTS = st.lists(URIS, max_size=1).map(tuple)
LINKS = st.builds(ContactLink, KEYS, ADDRESSES, HINTS, HINTS)
KEY = key_text(bytes(range(32)))
HOSTILE = [
    "", " ", "@", "\0", "a\0", "../../etc/passwd", "a/b", "a\\b", "~", "-a", ".a", "a.", "_a",
    "a b", "a\nb", "a\r", "\x1b[31ma", "\x9b2J", "a\u202eb", "a\u200b", "\u0430lice", "\u212ate",
    "\uff41", "ß", "\u0131", "İ", "a\u0301", "\uff11", "\u0661", "\U0001f600", "<a>", 'a"b', "a;b",
    "$(id)", "%00", "a%2fb", "*", "\ud800",
]  # fmt: skip


@given(ADDRESSES)
def test_an_address_comes_back_from_its_text(address):
    assert Address.parse(str(address)) == address
    assert Address.from_wire(str(address)) == address


@given(ADDRESSES)
def test_an_address_may_be_typed_in_any_case_with_space_around(address):
    typed = f"  {str(address).upper()}\n"
    assert Address.parse(typed) == address
    with pytest.raises(Invalid):
        Address.from_wire(typed)


@pytest.mark.parametrize("text", HOSTILE, ids=ascii)
def test_hostile_text_is_no_name_and_no_domain(text):
    for check in (check_name, check_domain):
        with pytest.raises(Invalid):
            check(text)
    for address in (f"{text}@laptop.local", f"alice@{text}.local", f"alice@x.{text}", text):
        with pytest.raises(Invalid):
            Address.from_wire(address)


@pytest.mark.parametrize("check", [check_name, check_domain])
def test_names_and_labels_have_1_to_63_characters(check):
    assert check("a" * 63) == "a" * 63
    with pytest.raises(Invalid):
        check("a" * 64)


def test_an_address_has_at_most_254_characters():
    longest = "a@" + ".".join(["b" * 62] * 4) + "b"
    assert str(Address.parse(longest)) == longest
    with pytest.raises(Invalid):
        Address.parse("a" + longest)


@pytest.mark.parametrize(
    "parse",
    [check_name, check_domain, Address.parse, key_from_text, NodeUri.parse, ContactLink.parse],
)
@pytest.mark.parametrize("text", ["a" * 1_000_000, "\x1b]0;x\x07" * 1000, "amp://" + "b" * 100_000])
def test_an_error_repeats_little_of_a_wrong_text_and_none_of_it_raw(parse, text):
    with pytest.raises(Invalid) as caught:
        parse(text)
    assert len(str(caught.value)) < 500
    assert str(caught.value).isprintable()
    assert caught.value.hint or "address" in str(caught.value)


@given(st.text(max_size=80))
def test_any_text_is_read_or_invalid(text):
    for parse in (Address.parse, NodeUri.parse, ContactLink.parse, key_from_text):
        with contextlib.suppress(Invalid):
            parse(text)
        with contextlib.suppress(Invalid):
            parse("amp://" + KEY + text)


@given(KEYS)
def test_a_key_comes_back_from_its_text_in_either_case(key):
    text = key_text(key)
    assert len(text) == 52
    assert key_from_text(text) == key_from_text(text.upper()) == key


def test_a_key_has_one_text():
    """The last character holds one bit; the 15 spellings that set the others are refused."""
    last = [letter for letter in "abcdefghijklmnopqrstuvwxyz234567" if accepted(KEY[:-1] + letter)]
    assert last == ["a", "q"]


def accepted(text):
    with contextlib.suppress(Invalid):
        return bool(key_from_text(text))
    return False


def test_a_fingerprint_looks_like_that_of_ssh():
    assert fingerprint(bytes(32)) == "SHA256:Zmh6rfhivXdsj8GLjp+OIAiXFIVu4jOzkCpZHQ1fKSU"


@given(URIS)
def test_a_node_uri_comes_back_from_its_text(uri):
    assert NodeUri.parse(str(uri)) == uri


@given(LINKS)
def test_a_contact_link_comes_back_from_its_text(link):
    assert ContactLink.parse(str(link)) == link


@given(LINKS)
def test_a_contact_link_may_be_in_capitals_as_a_qr_code_has_it(link):
    plain = ContactLink(link.key, link.address)
    assert ContactLink.parse(f"AMP://{str(plain)[6:].upper()}") == plain


def test_a_contact_link_holds_few_hints():
    uri = f"amp://{KEY}@a:1"
    link = f"amp://{KEY}/a@b?" + "&".join([f"relay={uri}"] * 2 * MAX_HINTS)
    assert len(ContactLink.parse(link).relays) == 2 * MAX_HINTS
    with pytest.raises(Invalid):
        ContactLink.parse(f"{link}&relay={uri}")


@pytest.mark.parametrize(
    "host", ["a b", "a%0ab", "[::1", "::1", "a_b", "\u0430", "-a", "a..b", "*"]
)
def test_a_host_that_is_none_is_refused(host):
    with pytest.raises(Invalid):
        NodeUri.parse(f"amp://{KEY}@{host}:4160")


@pytest.mark.parametrize("text", ["bob@", "@team", "@", " @here.local"])
def test_an_address_that_lacks_a_part_is_repeated_whole(text):
    with pytest.raises(Invalid) as caught:
        Address.parse(text)
    assert str(caught.value) == f"{text!r} is not an address"
    assert caught.value.hint == "write it as name@domain"
