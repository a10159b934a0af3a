"""Who may talk to the gateway: programs, and no web page of others."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ampd.edge.http.guard import Guard, check_type, host_name
from ampd.edge.http.words import HttpRefused

GUARD = Guard(["amp.example", "10.0.0.7:23000", "fe80::2", ""])


def verdict(reached="127.0.0.1", *, secure=False, **headers):
    named = {name.replace("_", "-"): text for name, text in headers.items()}
    try:
        GUARD.check(named, reached=reached, secure=secure)
    except HttpRefused as exc:
        return exc.code, exc.status
    return "welcome"


@pytest.mark.parametrize(
    "host",
    ["localhost", "localhost:23000", "LocalHost:1", "localhost.", "127.0.0.1:23000", "[::1]:23000",
     "amp.example", "AMP.example:443", "10.0.0.7", "[fe80::2]:80"],
)  # fmt: skip
def test_g1_our_own_names_are_welcome(host):
    assert verdict(host=host) == "welcome"


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:23000", "localhost.evil.example", "127.0.0.1.evil.example",
     "10.0.0.8", "[::2]", "", " ", "localhost, evil.example", "[::1", "::1]", "local host",
     "[127.0.0.1]", "[127.0.0.1]:23000", "[10.0.0.7]"],
)  # fmt: skip
def test_g1_any_other_name_is_misdirected(host):
    assert verdict(host=host) == ("misdirected", 421)


def test_g1_a_request_without_a_host_is_misdirected():
    assert verdict() == ("misdirected", 421)


def test_g1_the_address_that_was_dialled_is_ours():
    assert verdict("10.0.0.9", host="10.0.0.9:23000") == "welcome"
    assert verdict("::1", host="[0:0:0:0:0:0:0:1]:23000") == "welcome"
    assert verdict("10.0.0.9", host="10.0.0.10:23000") == ("misdirected", 421)


@pytest.mark.parametrize(
    "origin",
    ["null", "https://evil.example", "http://localhost", "http://localhost:8080", "",
     "https://localhost:23000", "file://", "http://localhost:23000.evil.example"],
)  # fmt: skip
def test_g2_a_page_of_somebody_else_is_refused(origin):
    assert verdict(host="localhost:23000", origin=origin) == ("foreign_origin", 403)


def test_g2_our_own_page_is_welcome():
    assert verdict(host="localhost:23000", origin="http://localhost:23000") == "welcome"
    own = {"host": "amp.example", "origin": "https://amp.example"}
    assert verdict(secure=True, **own) == "welcome"
    assert verdict(secure=False, **own) == ("foreign_origin", 403)


@pytest.mark.parametrize("site", ["cross-site", "same-site", "odd"])
def test_g2_what_a_browser_fetches_for_another_site_is_refused(site):
    asked = {"host": "localhost", "sec_fetch_site": site}
    assert verdict(**asked, sec_fetch_mode="no-cors") == ("foreign_origin", 403)
    assert verdict(**asked, sec_fetch_mode="navigate") == "welcome"


def test_g2_what_a_person_types_is_welcome():
    assert verdict(host="localhost", sec_fetch_site="none") == "welcome"
    assert verdict(host="localhost", sec_fetch_site="same-origin") == "welcome"


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
@pytest.mark.parametrize(
    "kind",
    ["application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "text/plain", "",
     "text/plain; application/json", "application/jsonp"],
)  # fmt: skip
def test_g3_a_body_that_a_form_can_send_is_refused(method, kind):
    with pytest.raises(HttpRefused) as caught:
        check_type(method, {"content-type": kind})
    assert (caught.value.code, caught.value.status) == ("media_type", 415)


@pytest.mark.parametrize(
    "kind", ["application/json", "Application/JSON; charset=utf-8", "application/problem+json"]
)
def test_g3_json_is_welcome(kind):
    check_type("POST", {"content-type": kind})


@given(st.text(max_size=60))
def test_no_host_header_is_read_in_two_ways(text):
    """Whatever is welcome has a name that is one of ours, however it is written."""
    if verdict(host=text) == "welcome":
        assert host_name(text) in ("localhost", "127.0.0.1", "::1", "amp.example", "10.0.0.7",
                                   "fe80::2")  # fmt: skip
