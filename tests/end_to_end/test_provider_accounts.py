"""An agent with an address at a foreign AMP provider: two daemons, and HTTP between them.

The provider is the gateway of the first node. The second node has no gateway; one of its agents is
a client of the first.
"""

import json
import tempfile

import pytest
from end_to_end.test_cli_commands import Node

pytestmark = pytest.mark.slow


@pytest.fixture
def nodes():
    with tempfile.TemporaryDirectory() as there, tempfile.TemporaryDirectory() as here:
        provider, client = Node(there), Node(here)
        provider.environ |= {
            "AMPD_NODE_DOMAIN": "there.local",
            "AMPD_GATEWAY_LISTEN": "127.0.0.1:0",
        }
        yield provider, client
        for node in (provider, client):
            node.amp("daemon", "stop")


def test_mail_goes_to_the_provider_and_comes_from_it(nodes):
    provider, client = nodes
    provider.json("init", "bob")
    url = provider.json("status")["gateway"]["url"]
    assert client.amp("init", "alice").code == 0
    said = client.amp("register", "--provider", url, "--tenant", "acme")
    assert (said.code, said.out) == (0, "alice@acme.aimaestro.local\n"), said.err
    [account] = client.json("provider", "list")["providers"]
    assert account["address"] == "alice@acme.aimaestro.local" and "api_key" not in account

    sent = client.json("send", "bob@acme.aimaestro.local", "question", "what now?", "--wait", "30")
    assert sent["recipients"][0]["via"] == "gateway"
    waited = provider.json("wait", "--agent", "bob", "--timeout", "30")
    [question] = waited["messages"]
    assert (question["subject"], question["body"]) == ("question", "what now?")

    assert provider.amp("reply", "1", "this", "--agent", "bob").code == 0
    [answer] = client.json("wait", "--timeout", "60")["messages"]
    assert answer["body"] == "this" and answer["via"] == "gateway"
    assert (answer["trust"], answer["thread_id"]) == ("external", sent["thread_id"])
    assert "<external-content" in answer["content"]

    assert client.amp("provider", "remove", "aimaestro.local").code == 0
    assert client.json("provider", "list") == {"providers": []}
    key = json.dumps((client.folder / "ampd.log").read_text())
    assert "amp_live_" not in key
