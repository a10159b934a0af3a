"""Addresses of AMP and what they mean here."""

import pytest

from ampd.model.address import Address
from ampd.model.errors import Invalid
from ampd.protocol.amp.address import (
    AmpAddress,
    Elsewhere,
    Here,
    Names,
    Nearby,
    is_local_network,
)

NAMES = Names("aimaestro.local", "laptop.example", "default")


@pytest.mark.parametrize(
    "text",
    ["bob", "bob@acme", "bob@acme.crabmail.ai", "a_b-c@web.github.acme.crabmail.ai", "-_9@1.2.3",
     "x" * 63 + "@a.b.c", "x@" + "y" * 63 + ".b.c"],
)  # fmt: skip
def test_ad1_an_address_of_the_grammar_is_taken(text):
    assert str(AmpAddress.parse(text)) == text


@pytest.mark.parametrize(
    "text",
    ["", "@acme.crabmail.ai", "bob@", "bob@acme..ai", "b.ob@acme.crabmail.ai", "x" * 64 + "@a.b.c",
     "x@" + "y" * 64 + ".b.c", "bob@a_b.c.d", "bo b@a.b.c", "bob@a@b.c.d", "böb@a.b.c",
     "\u212aa@b.c.d", "bob@" + ".".join(["x" * 60] * 5)],
)  # fmt: skip
def test_ad1_what_breaks_the_grammar_is_refused(text):
    with pytest.raises(Invalid):
        AmpAddress.parse(text)


def test_ad2_addresses_are_in_lower_case():
    assert str(AmpAddress.parse(" Bob@Acme.CrabMail.AI ")) == "bob@acme.crabmail.ai"


def test_ad3_a_bare_name_is_of_the_senders_tenant():
    assert NAMES.place("bob", "acme") == Here("bob", ("acme",))
    assert NAMES.place("bob") == Here("bob", ("default",))
    assert NAMES.place("bob@other", "acme") == Here("bob", ("other",))


def test_ad4_the_native_address_and_the_providers_own_mean_the_agent_here():
    assert NAMES.place("bob@laptop.example") == Here("bob", None)
    assert NAMES.place("bob@aimaestro.local") == Here("bob", None)
    assert NAMES.place("build.bot@laptop.example") == Here("build.bot", None)
    assert NAMES.place("build.bot@default.aimaestro.local") == Here("build.bot", ("default",))


def test_the_labels_before_the_provider_are_the_path():
    place = NAMES.place("bob@web.github.acme.AIMaestro.local")
    assert place == Here("bob", ("web", "github", "acme"))


def test_ad5_a_local_domain_of_two_labels_is_a_native_address_or_a_tenant():
    found = NAMES.place("bob@default.local")
    assert found == Nearby(Address("bob", "default.local"), Here("bob", ("default",)))


def test_other_domains_are_elsewhere():
    assert NAMES.place("bob@acme.crabmail.ai") == Elsewhere(Address("bob", "acme.crabmail.ai"))
    assert NAMES.place("bob@notaimaestro.local") == Nearby(
        Address("bob", "notaimaestro.local"), Here("bob", ("notaimaestro",))
    )


def test_ad6_local_networks_are_known_by_their_last_label():
    for domain in ("x.local", "a.b.internal", "localhost", "Host.LOCAL"):
        assert is_local_network(domain)
    for domain in ("local.example", "crabmail.ai", "xlocal"):
        assert not is_local_network(domain)


def test_ad7_the_default_tenant_means_the_agent_of_the_name():
    names = Names("aimaestro.local", "laptop.example", "main")
    assert names.fits(("default",), "acme", ())
    assert names.fits(("main",), "acme", ())
    assert names.signed_as("bob", "acme", ("web", "github")) == (
        "bob@web.github.acme.aimaestro.local", "bob@acme.aimaestro.local",
        "bob@main.aimaestro.local", "bob@default.aimaestro.local",
    )  # fmt: skip


def test_an_address_fits_an_agent_by_tenant_scope_or_host():
    fit = (
        None,
        ("acme",),
        ("default",),
        ("web", "github", "acme"),
        ("laptop",),
        ("laptop", "acme"),
    )
    for path in fit:
        assert NAMES.fits(path, "acme", ("web", "github"))
    for path in (("other",), ("github", "acme"), ("desktop", "acme"), ()):
        assert not NAMES.fits(path, "acme", ("web", "github"))
    assert NAMES.address("bob", "acme", ("web", "github")) == "bob@web.github.acme.aimaestro.local"
    assert NAMES.address("bob") == "bob@default.aimaestro.local"
