"""What one agent may try against another by AMTP."""

from edge.amtp.team import team


async def test_vi4_an_id_that_another_agent_uses_too_changes_nothing_of_a_status(tmp_path):
    async with team(tmp_path) as us:
        for name in ("alice", "bob", "eve"):
            await us.register(name)
        sent = await us.send("alice", "bob", "nobody")
        identifier = sent.json["message_id"]
        before = (await us.status(identifier)).json["recipients"]
        assert [each["status"] for each in before] == ["delivered", "failed"]

        await us.send("eve", "eve", "somebody", message_id=identifier)
        after = (await us.status(identifier)).json["recipients"]
        await us.send("eve", "eve", message_id=identifier, idempotency_key=IDEMPOTENT)
        last = (await us.status(identifier)).json["recipients"]

        assert before == after == last


async def test_vi4_who_was_not_found_is_told_to_the_sender_alone(tmp_path):
    async with team(tmp_path) as us:
        alice, eve = await us.register("alice"), await us.register("eve")
        lost = await us.send("alice", "nobody", token=alice)
        assert lost.status == 400
        identifier = lost.json["message_id"]
        assert (await us.status(identifier, token=alice)).json["status"] == "failed"
        assert (await us.status(identifier, token=eve)).status == 404
        assert (await us.status(identifier)).status == 200  # a program here (AC4)


IDEMPOTENT = "0b3a1f7e-1111-4222-8333-444455556666"
