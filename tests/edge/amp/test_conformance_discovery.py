"""Where other providers are, and their keys: discovery.py by its rules."""

from contextlib import asynccontextmanager

import pytest
from edge.amp.two_gateways import Stranger, net

from ampd.crypto.foreign_keys import ForeignSigner
from ampd.edge.amp import discovery
from ampd.edge.amp.discovery import (
    DNS_KEPT,
    DOCUMENT_KEPT,
    STALE_FOR,
    Discovery,
    read_record,
    same_fingerprint,
    versioned,
)
from ampd.model.errors import Unavailable

DOMAIN = "stranger.example"


class Finder:
    """A discovery whose clock is moved by hand."""

    def __init__(self, network, place):
        self.wires, self.seconds = network.wires, 0.0
        self.made = Discovery(place.shared, lambda: self.seconds)

    async def endpoint(self, domain=DOMAIN):
        found = await self.made.of_address(domain)
        return found and (found.endpoint, found.found_by, found.key is not None)

    def asked(self):
        """What was asked since the last time."""
        found, self.wires.asked[:] = list(self.wires.asked), []
        return found


@asynccontextmanager
async def finder(folder, **values):
    async with net(folder) as network:
        place = await network.gateway("here", amp_domain="here.example", **values)
        network.wires.hosts.clear()
        yield network, Finder(network, place)


def record(signer, endpoint=f"https://{DOMAIN}/api"):
    return f"v=AMP1; endpoint={endpoint}; pubkey={signer.public.fingerprint}; capabilities=x,y"


async def test_row_069_the_well_known_document_says_endpoint_and_key(tmp_path):
    async with finder(tmp_path) as (network, here):
        Stranger(network, DOMAIN)
        found = f"https://{DOMAIN}/api/v1", "well-known", True
        assert await here.endpoint(f"acme.{DOMAIN}") == found
    async with net(tmp_path / "own") as network:
        place = await network.gateway("a", amp_domain="a.example")
        document = (await place.get("/.well-known/agent-messaging.json")).json
        assert document["version"] == "AMP1"
        assert document["endpoint"] == "http://localhost:23000/api/v1"
        assert document["public_key"].startswith("-----BEGIN PUBLIC KEY-----")
        assert document["fingerprint"].startswith("SHA256:")
        assert "federation" in document["capabilities"]


async def test_row_068_a_txt_record_comes_first(tmp_path):
    async with finder(tmp_path) as (network, here):
        stranger = Stranger(network, DOMAIN)
        network.wires.records[f"_amp._tcp.{DOMAIN}"] = ["v=spf1", record(stranger.signer)]
        assert await here.endpoint() == (f"https://{DOMAIN}/api/v1", "dns", True)


async def test_row_070_order_and_ttls(tmp_path):
    async with finder(tmp_path) as (network, here):
        stranger = Stranger(network, DOMAIN)
        name = f"_amp._tcp.{DOMAIN}"
        document = ("GET", f"https://{DOMAIN}/.well-known/agent-messaging.json")
        await here.endpoint()
        assert here.asked() == [("TXT", name), document]
        network.wires.records[name] = [record(stranger.signer)]
        here.seconds = DOCUMENT_KEPT - 1
        assert (await here.endpoint())[1] == "well-known"
        assert here.asked() == []
        here.seconds += 1
        assert (await here.endpoint())[1] == "dns"
        here.asked()
        here.seconds += DNS_KEPT - 1  # the record says 60 s, and counts for 5 minutes
        await here.endpoint()
        assert here.asked() == []
        here.seconds += 1
        await here.endpoint()
        assert here.asked()[0] == ("TXT", name)


async def test_dy1_what_resolve_names_is_there_and_nowhere_else(tmp_path):
    resolve = {DOMAIN: "http://127.0.0.1:4444"}
    async with finder(tmp_path, resolve=resolve) as (network, here):
        stranger = Stranger(network, DOMAIN)
        network.wires.hosts["127.0.0.1"] = network.wires.hosts.pop(DOMAIN)
        network.wires.records[f"_amp._tcp.{DOMAIN}"] = [record(stranger.signer)]
        found = await here.made.of_address(f"acme.{DOMAIN}")
        assert (found.endpoint, found.anywhere) == ("http://127.0.0.1:4444/v1", True)
        document = ("GET", "http://127.0.0.1:4444/.well-known/agent-messaging.json")
        assert here.asked() == [document]


@pytest.mark.parametrize("domain", ["x.local", "acme.aimaestro.local", "x.internal", "a.localhost"])
async def test_row_080_dy2_names_of_this_network_are_never_looked_up(tmp_path, domain):
    async with finder(tmp_path) as (_, here):
        assert await here.endpoint(domain) is None
        assert here.asked() == []


async def test_dy2_an_endpoint_without_tls_counts_for_nothing(tmp_path):
    async with finder(tmp_path) as (network, here):
        plain = f"http://{DOMAIN}/v1"
        stranger = Stranger(network, DOMAIN, document={"endpoint": plain})
        assert await here.endpoint() is None
        network.wires.records["_amp._tcp.b.example"] = [record(stranger.signer, plain)]
        assert await here.endpoint("b.example") is None


async def test_dy3_only_the_key_of_the_records_fingerprint_counts(tmp_path):
    async with finder(tmp_path) as (network, here):
        Stranger(network, DOMAIN)
        other = ForeignSigner.generate("Ed25519")
        network.wires.records[f"_amp._tcp.{DOMAIN}"] = [record(other)]
        assert await here.endpoint() == (f"https://{DOMAIN}/api/v1", "dns", False)


@pytest.mark.parametrize("endpoint", ["https://[", "https://[v1.x]/", "https://a:b", "https://"])
async def test_dy3_an_endpoint_that_is_no_url_is_no_provider_and_no_bug(tmp_path, endpoint):
    async with finder(tmp_path) as (network, here):
        stranger = Stranger(network, DOMAIN, document={"endpoint": endpoint})
        assert await here.endpoint() is None
        fields = f"v=AMP1; endpoint={endpoint}; pubkey={stranger.signer.public.fingerprint}"
        network.wires.records[f"_amp._tcp.tenant.{DOMAIN}"] = [fields]
        assert await here.endpoint(f"tenant.{DOMAIN}") is None


async def test_dy3_a_document_of_another_provider_counts_for_nothing(tmp_path):
    async with finder(tmp_path) as (network, here):
        Stranger(network, DOMAIN, document={"provider": "other.example"})
        assert await here.endpoint() is None


async def test_dy4_what_was_known_counts_for_a_day_when_nobody_answers(tmp_path):
    async with finder(tmp_path) as (network, here):
        Stranger(network, DOMAIN)
        known = await here.endpoint()
        network.wires.down.add(f"_amp._tcp.{DOMAIN}")
        here.seconds = DOCUMENT_KEPT + STALE_FOR
        assert await here.endpoint() == known
        here.seconds += 1
        with pytest.raises(Unavailable):
            await here.endpoint()


async def test_dy4_that_there_is_none_is_kept_too(tmp_path):
    async with finder(tmp_path) as (network, here):
        network.wires.hosts[DOMAIN] = lambda *_: 404
        assert await here.endpoint() is None
        here.asked()
        assert await here.endpoint() is None
        assert here.asked() == []


async def test_dy5_strangers_cannot_fill_the_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(discovery, "MAX_KNOWN", 2)
    async with finder(tmp_path) as (network, here):
        for name in ("a.example", "b.example", "c.example"):
            network.wires.hosts[name] = lambda *_: 404
            await here.endpoint(name)
        here.asked()
        await here.endpoint("c.example")
        assert here.asked() == []
        await here.endpoint("a.example")
        assert here.asked() != []


@pytest.mark.parametrize(
    ("text", "endpoint"),
    [
        ("v=AMP1; endpoint=https://x/v1; pubkey=SHA256:a", "https://x/v1"),
        ("v=amp1;endpoint=https://x/v1?a=b;pubkey=SHA256:a=;capabilities=e2ee", "https://x/v1?a=b"),
        ("v=AMP1; endpoint=https://x/v1", None),
        ("v=AMP2; endpoint=https://x/v1; pubkey=SHA256:a", None),
        ("v=spf1 include:x -all", None),
        ("", None),
    ],
)
def test_a_record_has_a_version_an_endpoint_and_a_key(text, endpoint):
    assert read_record(text).get("endpoint") == endpoint


def test_a_fingerprint_is_of_the_spki_or_of_the_raw_key_padded_or_not():
    key = ForeignSigner.generate("Ed25519").public
    assert same_fingerprint(key, key.fingerprint)
    assert same_fingerprint(key, key.fingerprint.rstrip("="))
    assert not same_fingerprint(key, "SHA256:abc")
    assert not same_fingerprint(key, "")
    assert not same_fingerprint(key, "SHA256:%%")


def test_an_endpoint_is_written_with_and_without_v1():
    assert versioned("https://x/api/") == versioned("https://x/api/v1") == "https://x/api/v1"
