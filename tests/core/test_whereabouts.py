"""Where nodes might be, and which way a letter goes: core/whereabouts.py, core/routing.py."""

import trio
from fakes import replace

from ampd.core.routing import Direct, routes
from ampd.core.whereabouts import MAX_ENDPOINTS, MAX_RELAYS, MAX_SIGHTED, Whereabouts


def at(number):
    return (f"10.0.0.{number}", 4160)


async def test_h1_so_many_nodes_are_kept_and_the_oldest_sighting_goes_first(autojump_clock):
    found = Whereabouts()
    found.sighted(b"static", [at(1)], "static")
    for number in range(MAX_SIGHTED + 5):
        await trio.sleep(1)
        found.sighted(number.to_bytes(2, "big"), [at(2)], "mdns")
    assert len(found.nodes()) <= MAX_SIGHTED + 1
    assert b"static" in found.nodes() and (0).to_bytes(2, "big") not in found.nodes()


async def test_h2_the_newest_endpoints_are_kept_and_static_ones_stay():
    found = Whereabouts()
    found.sighted(b"n", [at(1)], "static")
    found.sighted(b"n", [at(number) for number in range(2, 30)], "mdns")
    assert len(found.endpoints(b"n")) <= MAX_ENDPOINTS + 1 and at(1) in found.endpoints(b"n")
    found.sighted(b"n", [at(40)], "mdns")
    assert set(found.endpoints(b"n")) == {at(40), at(1)}
    found.lost(b"n", "mdns")
    assert found.endpoints(b"n") == [at(1)] and found.found_by(b"n") == "static"
    found.lost(b"n", "static")
    assert found.nodes() == [] and found.found_by(b"n") == ""


async def test_h3_every_change_wakes_who_waits():
    found = Whereabouts()
    changes = [
        lambda: found.sighted(b"n", [at(1)], "mdns"), lambda: found.lost(b"n", "mdns"), found.wake,
    ]  # fmt: skip
    for change in changes:
        before = found.generation
        async with trio.open_nursery() as nursery:
            nursery.start_soon(found.changed, before)
            await trio.testing.wait_all_tasks_blocked()
            change()
        assert found.generation == before + 1
        assert await found.changed(before) == before + 1, "who comes late waits for nothing"


async def test_a_letter_goes_to_the_nodes_of_its_card_but_not_to_this_one(bob):
    nodes = (b"a" * 32, b"b" * 32)
    card = replace(bob.card, nodes=nodes)
    assert routes(card, b"b" * 32) == [Direct(b"a" * 32)]
    assert routes(card, b"x" * 32) == [Direct(node) for node in nodes]
    assert routes(None, b"x" * 32) == routes(replace(card, withdrawn=True), b"x" * 32) == []


async def test_h1_cards_of_strangers_name_so_many_relays_and_no_more(autojump_clock):
    found = Whereabouts()
    for number in range(MAX_RELAYS + 5):
        await trio.sleep(1)
        found.sighted(number.to_bytes(2, "big"), [at(2)], "relay")
    assert len(found.nodes()) == MAX_RELAYS
    assert (0).to_bytes(2, "big") not in found.nodes()
