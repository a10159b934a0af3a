"""Two gateways and the sockets between them: ampd/edge/amtp/inbound.py and outbound.py."""

import json

from edge.amtp.world import key_file, name_server, two_towns

from ampd.edge.http.dns import Dns


async def test_mail_goes_from_one_gateway_to_the_other_and_back(tmp_path):
    async with two_towns(tmp_path) as (home, away):
        await home.register("alice")
        await away.register("bob")

        sent = await home.write(
            "alice", "bob@away.example", subject="Hello", payload={"n": 1}, headers={"x": "y"}
        )
        [got] = await away.mail("bob")
        status = await home.ended(sent["message_id"])

        assert got["sender"] == "alice@home.example" and got["recipients"] == ["bob@away.example"]
        assert (got["subject"], got["payload"], got["headers"]) == ("Hello", {"n": 1}, {"x": "y"})
        assert status["recipients"][0]["address"] == "bob@away.example"

        await away.write("bob", "alice@home.example", in_reply_to=got["message_id"])
        [back] = await home.mail("alice")
        assert back["in_reply_to"] == sent["message_id"]


async def test_one_of_several_recipients_that_nobody_knows_fails_alone(tmp_path):
    async with two_towns(tmp_path) as (home, away):
        await home.register("alice")
        await away.register("bob")

        sent = await home.write("alice", "bob@away.example", "nobody@away.example")
        await away.mail("bob")
        status = await home.ended(sent["message_id"])
        [notice] = await home.mail("alice")

        by_name = {each["address"]: each for each in status["recipients"]}
        assert by_name["bob@away.example"]["status"] == "delivered"
        assert "AGENT_UNKNOWN" in by_name["nobody@away.example"]["error_message"]
        assert notice["payload"]["message_type"] == "delivery_failure"
        assert notice["payload"]["failed_recipients"] == ["nobody@away.example"]


async def test_a_domain_signs_what_it_sends_and_the_other_looks_its_key_up(tmp_path):
    async with name_server() as names:
        path, record = key_file(tmp_path)
        names.records["k1._amtpkey.home.example"] = (300, [record])
        signs = {"amtp_signing_key": path, "amtp_selector": "k1"}
        checks = {"amtp_signatures": "reject", "dns": Dns(names.address)}
        async with two_towns(tmp_path, here=signs, there=checks) as (home, away):
            await home.register("alice")
            await away.register("bob")

            await home.write("alice", "bob@away.example", payload={"n": 1.50, "ü": "\U0001f600"})
            [got] = await away.mail("bob")
            status = (await away.as_admin("GET", f"/v1/messages/{got['message_id']}/status")).json

            assert status["sender_verification"] == {
                "result": "verified", "domain": "home.example", "policy": "reject",
                "method": "domain_signature", "keyid": "k1", "algorithm": "ES256",
            }  # fmt: skip
            agent = away.here.rooms.agents.named("bob")
            [native] = away.here.node.inbox(agent)
            assert native.trust == "external"


async def test_without_a_signature_it_is_shown_as_untrusted_and_the_status_says_why(tmp_path):
    async with two_towns(tmp_path) as (home, away):
        await home.register("alice")
        await away.register("bob")

        await home.write("alice", "bob@away.example")
        [got] = await away.mail("bob")

        status = (await away.as_admin("GET", f"/v1/messages/{got['message_id']}/status")).json
        assert status["sender_verification"]["result"] == "unsigned"
        [native] = away.here.node.inbox(away.here.rooms.agents.named("bob"))
        assert native.trust == "untrusted"


async def test_a_gateway_is_found_by_the_dns(tmp_path):
    async with name_server() as names:
        options = {"dns": Dns(names.address), "plain_http": True}
        options["webhook_hosts"] = ("127.0.0.1",)
        async with two_towns(tmp_path, here={**options, "resolve": {}}) as (home, away):
            port = away.url.rpartition(":")[2]
            record = f"v=amtp1;gateway=http://127.0.0.1:{port};max-size=1000000"
            names.records["_amtp.away.example"] = (300, [record])
            await home.register("alice")
            await away.register("bob")

            await home.write("alice", "bob@away.example")
            assert len(await away.mail("bob")) == 1
            assert ("_amtp.away.example", "TXT") in names.asked

            found = (await home.here.get("/v1/capabilities/away.example")).json
            assert json.loads(json.dumps(found))["max_size"] == 1_000_000
