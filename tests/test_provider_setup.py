"""What a daemon loads for accounts at foreign providers, and when."""

import subprocess
import sys
from types import SimpleNamespace

import fakes
import pytest
import trio

from ampd.core.foreign import Foreign
from ampd.core.ports import Parcel
from ampd.model.address import Address
from ampd.model.errors import Invalid, Refused
from ampd.provider_setup import LazyProviders

BOB = Address("bob", "acme.example")


@pytest.fixture
async def node(tmp_path):
    async with fakes.node(tmp_path) as found:
        await found.agent("alice")
        yield found


def lazy(node):
    clock = node.agents._now
    foreign = Foreign(node.store, node.agents, node.contacts, b"s" * 32, clock, fakes.LIMIT)
    config = SimpleNamespace(
        paths=SimpleNamespace(data=node.folder), gateway=SimpleNamespace(dns="")
    )
    return LazyProviders(config, node.agents, foreign, node.lists, node.reading)


def test_ps1_the_daemon_alone_loads_nothing_of_amp_or_http():
    program = (
        "import sys, ampd.daemon\n"
        "heavy = ('ampd.edge.amp', 'ampd.edge.amtp', 'httpcore', 'hypercorn', 'dns')\n"
        "print([name for name in sys.modules if name.startswith(heavy)])"
    )
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)  # noqa: PLW1510
    assert said.stdout == "[]\n", said.stderr


async def test_ps1_without_an_account_there_is_no_file_and_nobody_to_reach(node, nursery):
    alice = node.agents.named("alice")
    providers = lazy(node)
    nursery.start_soon(providers.run)
    await trio.testing.wait_all_tasks_blocked()
    assert list(providers.accounts()) == [] and await providers.find(BOB) == ""
    with pytest.raises(Refused, match="no account"):
        await providers.carry("provider", Parcel(alice, BOB, fakes.message(alice, alice), b"", 0))
    assert providers._made is None and not (node.folder / "gateway.db").exists()


async def test_ps1_what_is_asked_for_an_account_loads_it(node, nursery):
    alice = node.agents.named("alice")
    providers = lazy(node)
    nursery.start_soon(providers.run)
    with pytest.raises(Invalid, match="no account"):
        await providers.remove(alice, "acme.example")
    with pytest.raises(Invalid, match="no URL"):
        await providers.register(alice, "nonsense", "acme", name="", user_key="", invite="")
    assert providers._made is not None
