"""Mail between hosts of one network: mesh.py by its rules, with two gateways that are hosts."""

import json
import logging

import fakes
import pytest
import trio
from edge.amp.two_gateways import net, register

from ampd.crypto.foreign_keys import ForeignSigner
from ampd.protocol.amp import signing

A, B = "192.0.2.1", "192.0.2.2"
MESH = {"host-a": f"http://{A}:23000", "host-b": f"http://{B}:23000"}
BOB = "bob@host-b.aimaestro.local"


async def two_hosts(network, **values):
    """Alice's host and Bob's."""
    places = []
    for name, peer in (("host-a", A), ("host-b", B)):
        mesh = {host: url for host, url in MESH.items() if host != name}
        place = await network.gateway(name, peer=peer, **{"mesh": mesh, "hosts": (peer,), **values})
        network.wires.hosts[peer] = place
        places.append(place)
    return await register(places[0], "alice"), await register(places[1], "bob")


def forwarded(sender, to, text="Hello", **changes):
    """What a host posts for `sender`, a Person."""
    body = {
        "from": sender.address, "to": to, "subject": "Subject", "priority": "normal",
        "in_reply_to": None,
    } | changes  # fmt: skip
    body["payload"] = {"type": "request", "message": text}
    body["signature"] = signing.sign(body, body["payload"], sender.signer.sign)
    headers = {
        "X-Forwarded-From": "host-a", "X-AMP-Envelope-Id": "msg_1800000000_abc123",
        "X-AMP-Signature": body["signature"],
        "X-AMP-Sender-Key": sender.signer.public.raw.hex(),
    }  # fmt: skip
    return body, headers


async def post(place, body, headers, peer=A):
    return await place.post("/v1/route", body, headers=headers, peer=peer)


async def test_row_082_mail_for_a_host_is_forwarded_to_its_route(tmp_path):
    async with net(tmp_path) as network:
        alice, bob = await two_hosts(network)
        answer = await alice.route(BOB, "over the mesh")
        assert answer.status == 200, answer.text
        ((url, headers, _),) = network.wires.sent
        envelope = (await bob.pending())[0]["envelope"]
        assert url == f"http://{B}:23000/v1/route"
        assert headers["X-Forwarded-From"] == "host-a"
        assert headers["X-AMP-Envelope-Id"] == answer.json["id"] == envelope["id"]
        assert headers["X-AMP-Signature"] == envelope["signature"]
        assert await bob.texts() == ["over the mesh"]


async def test_row_083_the_sender_key_and_the_trail_go_with_it(tmp_path):
    async with net(tmp_path) as network:
        alice, bob = await two_hosts(network)
        await alice.route(BOB)
        ((_, headers, body),) = network.wires.sent
        assert headers["X-AMP-Sender-Key"] == alice.signer.public.raw.hex()
        assert json.loads(body)["_forwarded"] == {
            "original_from": alice.address, "original_to": BOB, "forwarded_by": "host-a",
            "forwarded_at": "2027-01-15T08:00:00.000Z",
        }  # fmt: skip
        assert (await bob.pending())[0]["sender_public_key"] == alice.signer.public.raw.hex()


async def test_row_085_the_answer_says_mesh_and_the_host_and_health_shows_the_mesh(tmp_path):
    async with net(tmp_path) as network:
        alice, _ = await two_hosts(network)
        said = (await alice.route(BOB)).json
        assert (said["method"], said["remote_host"]) == ("mesh", "host-b")
        mesh = (await alice.place.get("/api/v1/health")).json["mesh"]
        assert mesh == {
            "enabled": True, "hosts_configured": 1, "hosts_reachable": 1, "self_host_id": "host-a",
        }  # fmt: skip


async def test_row_084_mh4_an_unreachable_host_gets_it_when_it_is_back(tmp_path, autojump_clock):
    async with net(tmp_path, fakes.JumpingClock(autojump_clock)) as network:
        alice, bob = await two_hosts(network)
        network.wires.down.add(B)
        said = (await alice.route(BOB, "later")).json
        assert (said["status"], said["method"]) == ("queued", "relay")
        await trio.sleep(3600)
        network.wires.down.clear()
        await bob.news()
        assert await bob.texts() == ["later"]


async def test_row_080_mail_of_this_network_never_leaves(tmp_path):
    async with net(tmp_path) as network:
        alice, _ = await two_hosts(network)
        for to in ("bob@host-c.aimaestro.local", "bob@host-c.local", "bob@x.internal"):
            answer = await alice.route(to)
            assert answer.status == 404, to
        assert network.wires.asked == []


@pytest.mark.parametrize(
    ("address", "host"),
    [
        ("bob@host-b.aimaestro.local", "host-b"), ("Bob@HOST-B.acme.aimaestro.local", "host-b"),
        ("bob@host-b.local", "host-b"), ("bob@office.internal", "office.internal"),
        ("bob@host-b.example", ""), ("bob@host-c.local", ""), ("bob@x.host-b.local", ""),
        ("bob", ""),
    ],
)  # fmt: skip
async def test_mh1_the_first_label_or_the_whole_name_is_the_host(tmp_path, address, host):
    async with net(tmp_path) as network:
        mesh = {"host-b": f"http://{B}:1", "office.internal": f"http://{B}:2"}
        place = await network.gateway("host-a", mesh=mesh)
        assert place.amp.transport.mesh_host(address) == host


async def test_mh1_answers_go_to_the_host_that_an_address_came_from(tmp_path):
    async with net(tmp_path) as network:
        alice, bob = await two_hosts(network)
        await alice.route(BOB)
        answer = await bob.route(alice.address, "an answer")  # alice@default.aimaestro.local
        assert answer.status == 200, answer.text
        assert (answer.json["method"], answer.json["remote_host"]) == ("mesh", "host-a")
        assert await alice.texts() == ["an answer"]


async def test_row_087_mh2_only_known_hosts_at_their_own_addresses_are_believed(tmp_path, caplog):
    async with net(tmp_path) as network:
        alice, bob = await two_hosts(network)
        body, headers = forwarded(alice, bob.address)
        liar = await post(bob.place, body, headers, peer="192.0.2.66")
        unknown = await post(bob.place, body, {**headers, "X-Forwarded-From": "host-x"})
        assert (liar.status, unknown.status) == (403, 403)
        assert await bob.pending() == []
        caplog.clear()
        with caplog.at_level(logging.INFO, "ampd.amp.mesh"):
            assert (await post(bob.place, body, headers)).status == 200
        (taken,) = (each for each in caplog.records if each.name == "ampd.amp.mesh")
        assert (taken.message, taken.host, taken.sender) == (
            "mesh.received", "host-a", alice.address,
        )  # fmt: skip


async def test_row_087_mh5_hosts_have_limits_too(tmp_path):
    async with net(tmp_path) as network:
        alice, bob = await two_hosts(network, limits={"federation": 1})
        body, headers = forwarded(alice, bob.address)
        assert (await post(bob.place, body, headers)).status == 200
        refused = await post(bob.place, body, headers)
        assert (refused.status, refused.json["error"]) == (429, "rate_limited")
        assert "retry-after" in refused.headers


async def test_row_112_from_counts_from_a_mesh_host_only(tmp_path):
    async with net(tmp_path) as network:
        alice, bob = await two_hosts(network)
        body, headers = forwarded(alice, bob.address)
        assert (await post(bob.place, body, headers)).status == 200
        del headers["X-Forwarded-From"]
        assert (await post(bob.place, body, headers)).status == 401
        assert len(await bob.pending()) == 1


async def test_mh3_the_word_of_a_host_proves_no_sender(tmp_path):
    async with net(tmp_path) as network:
        alice, bob = await two_hosts(network)
        body, headers = forwarded(alice, bob.address)
        altered = {**body, "subject": "Another"}
        wrong = await post(bob.place, altered, headers)
        assert (wrong.status, wrong.json["error"]) == (403, "signature_invalid")
        two = await post(bob.place, {**body, "signature": "AAAA"}, headers)
        assert (two.status, two.json["error"]) == (403, "signature_invalid")
        keyless = {name: value for name, value in headers.items() if "Key" not in name}
        assert (await post(bob.place, body, keyless)).json["error"] == "key_not_found"
        assert await bob.pending() == []


async def test_mh3_the_key_first_seen_for_an_address_stays(tmp_path):
    async with net(tmp_path) as network:
        alice, bob = await two_hosts(network)
        await post(bob.place, *forwarded(alice, bob.address))
        alice.signer = ForeignSigner.generate("Ed25519")
        body, headers = forwarded(alice, bob.address, "with another key")
        await post(bob.place, body, {**headers, "X-AMP-Envelope-Id": "msg_1800000000_abc124"})
        trusts = [each["local"]["security"]["trust"] for each in await bob.pending()]
        assert trusts == ["external", "untrusted"]


async def test_mh3_no_host_speaks_for_an_agent_here(tmp_path):
    async with net(tmp_path) as network:
        alice, bob = await two_hosts(network)
        body, headers = forwarded(alice, bob.address, **{"from": bob.address})
        assert (await post(bob.place, body, headers)).status == 403
        assert await bob.pending() == []


@pytest.mark.parametrize(("mode", "status"), [("strict", 403), ("open", 200)])
async def test_row_086_unsigned_mail_of_a_host_is_taken_in_open_mode(tmp_path, mode, status):
    async with net(tmp_path) as network:
        alice, bob = await two_hosts(network, amp_signatures=mode)
        body, headers = forwarded(alice, bob.address)
        body["signature"] = headers["X-AMP-Signature"] = ""
        assert (await post(bob.place, body, headers)).status == status
        found = await bob.pending()
        trusts = [each["local"]["security"]["trust"] for each in found]
        assert trusts == ([] if mode == "strict" else ["untrusted"])


async def test_what_a_host_brings_for_nobody_is_refused_and_told_to_its_sender(tmp_path):
    async with net(tmp_path) as network:
        alice, _ = await two_hosts(network)
        answer = await alice.route("nobody@host-b.aimaestro.local")
        assert answer.json["status"] == "failed"
        notice = (await alice.pending())[0]
        assert notice["payload"]["type"] == "system"
        assert "does not exist" in notice["payload"]["message"]


async def test_row_092_http_is_allowed_within_the_local_network(tmp_path):
    async with net(tmp_path) as network:
        alice, bob = await two_hosts(network)
        await alice.route(BOB)
        ((url, _, _),) = network.wires.sent
        assert url.startswith("http://")
        assert len(await bob.pending()) == 1
