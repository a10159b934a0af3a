"""Where a stranger's URL may lead."""

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ampd.edge.http.addresses import is_public, target_of
from ampd.model.errors import Invalid

PRIVATE = [
    "127.0.0.1",
    "127.8.9.1",
    "0.0.0.0",
    "10.0.0.1",
    "172.16.0.1",
    "172.31.255.254",
    "192.168.1.1",
    "169.254.169.254",
    "100.64.0.1",
    "100.100.100.200",
    "192.0.0.192",
    "192.0.2.1",
    "198.18.0.1",
    "198.51.100.1",
    "203.0.113.1",
    "224.0.0.1",
    "239.255.255.250",
    "240.0.0.1",
    "255.255.255.255",
    "168.63.129.16",
    "::",
    "::1",
    "fe80::1",
    "fe80::1%eth0",
    "fc00::1",
    "fd00:ec2::254",
    "fec0::1",
    "ff02::1",
    "2001:db8::1",
    "100::1",
    "::ffff:127.0.0.1",
    "::ffff:7f00:1",
    "::ffff:10.0.0.1",
    "::127.0.0.1",
    "::7f00:1",
    "2002:7f00:1::",
    "2002:a00:1::1",
    "64:ff9b::7f00:1",
    "64:ff9b::a00:1",
    "64:ff9b:1::1",
    "2001:0:7f00:1::",
    "2001::1",
]
PUBLIC = [
    "9.9.9.9",
    "1.1.1.1",
    "93.184.215.14",
    "2606:4700::1111",
    "2a00:1450::1",
    "64:ff9b::909:909",
]


@pytest.mark.parametrize("address", PRIVATE)
def test_sa2_what_only_we_or_our_network_can_reach_is_not_public(address):
    assert not is_public(address)


@pytest.mark.parametrize("address", PUBLIC)
def test_sa2_what_everybody_can_reach_is_public(address):
    assert is_public(address)


def test_what_is_no_address_is_not_public():
    assert not is_public("localhost")
    assert not is_public("127.1")
    assert not is_public("")


@given(st.ip_addresses(v=4))
def test_sa1_an_address_inside_another_counts(four):
    number = int(four)
    mapped = ipaddress.IPv6Address((0xFFFF << 32) | number)
    sixtofour = ipaddress.IPv6Address((0x2002 << 112) | (number << 80))
    translated = ipaddress.IPv6Address((0x64FF9B << 96) | number)
    for each in (mapped, sixtofour, translated):
        assert not (is_public(str(each)) and not is_public(str(four)))


@pytest.mark.parametrize(
    "url",
    [
        "ftp://example.com/", "file:///etc/passwd", "gopher://a/", "javascript:alert(1)", "", "/x",
        "//example.com/", "http:", "http://", "http:///path", "https://?q", "http:example.com",
        "http://user@example.com/", "http://user:pass@example.com/", "http://a@b@c/",
        "http://example.com\\@evil.example/", "http://exa mple.com/", "http://example.com/\n",
        "http://example.com:0/", "http://example.com:99999/", "http://example.com:x/",
        "http://[::1/", "http://[::1]x/", "http://::1/", "http://[fe80::1%25eth0]/",
        "http://ex%61mple.com/", "http://ⓔxample.com/", "http://example.com/" + "a" * 2048,
        "http://[::1]@evil.example/", "http://a,b/", "http://a;b/", "http://a'b/",
    ],
)  # fmt: skip
def test_sa3_a_url_that_two_parsers_may_read_differently_is_refused(url):
    with pytest.raises(Invalid):
        target_of(url)


@pytest.mark.parametrize(
    ("url", "parts"),
    [
        ("http://Example.com", ("http", "example.com", 80, "/")),
        ("https://example.com/a?b=c#d", ("https", "example.com", 443, "/a?b=c")),
        ("HTTPS://example.com:8443/%20", ("https", "example.com", 8443, "/%20")),
        ("http://[::1]:8080/x", ("http", "::1", 8080, "/x")),
        ("http://127.0.0.1?x=1", ("http", "127.0.0.1", 80, "/?x=1")),
        ("http://under_score.local/", ("http", "under_score.local", 80, "/")),
    ],
)
def test_sa3_a_sound_url_is_taken_apart(url, parts):
    found = target_of(url)
    assert (found.scheme, found.host, found.port, found.path) == parts


@given(st.text(max_size=80))
def test_any_text_is_a_target_or_invalid(text):
    try:
        found = target_of(text)
    except Invalid:
        return
    assert target_of(str(found)) == found
