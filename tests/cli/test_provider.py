"""`amp register` and `amp provider`, against a daemon that keeps the contract."""

import json

import pytest

ACCOUNT = {
    "agent": "alice", "provider": "aimaestro.local", "address": "alice@acme.aimaestro.local",
    "tenant": "acme", "url": "http://localhost:23000/api/v1", "last_error": None,
}  # fmt: skip
URL = "http://localhost:23000/api"


@pytest.fixture
def provider(daemon):
    daemon.results["provider.register"] = daemon.results["provider.remove"] = ACCOUNT
    daemon.results["provider.list"] = {"providers": [ACCOUNT]}


def test_an_address_at_a_provider_is_asked_for_as_the_acting_agent(amp, daemon, provider):
    said = amp("register", "--provider", URL, "--tenant", "acme", "--agent", "alice")
    assert (said.code, said.out) == (0, "alice@acme.aimaestro.local\n")
    assert "is fetched from http://localhost:23000/api/v1" in said.err
    assert daemon.asked[-1] == ("alice", "provider.register", {"url": URL, "tenant": "acme"})


def test_everything_that_a_provider_may_ask_for_can_be_said(amp, daemon, provider, monkeypatch):
    words = ["--provider", URL, "--name", "al", "--invite", "CODE"]
    amp("register", *words, "--user-key", "uk_1")
    asked = {"url": URL, "name": "al", "invite": "CODE", "user_key": "uk_1"}
    assert daemon.asked[-1][2] == asked
    monkeypatch.setenv("AMP_USER_KEY", "uk_2")
    amp("register", *words)
    assert daemon.asked[-1][2] == asked | {"user_key": "uk_2"}


def test_without_a_provider_it_says_what_is_missing(amp):
    said = amp("register", "--tenant", "acme")
    assert said.code == 2 and "--provider" in said.err


def test_accounts_are_listed_and_removed(amp, daemon, provider):
    listed = amp("provider", "list").out
    assert listed == "alice  alice@acme.aimaestro.local  http://localhost:23000/api/v1\n"
    assert amp("provider", "list", "--quiet").out == "alice@acme.aimaestro.local\n"
    assert json.loads(amp("provider", "list", "--json").out)["providers"] == [ACCOUNT]
    said = amp("provider", "remove", "aimaestro.local")
    assert (said.code, said.out) == (0, "alice@acme.aimaestro.local is used no more\n")
    assert daemon.asked[-1][1:] == ("provider.remove", {"provider": "aimaestro.local"})


def test_where_there_is_none_it_says_how_to_make_one(amp, daemon):
    daemon.results["provider.list"] = {"providers": []}
    said = amp("provider", "list")
    assert said.out == "no accounts at other providers\n" and "amp register" in said.err
