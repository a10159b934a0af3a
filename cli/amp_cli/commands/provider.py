"""`amp register`, `amp provider`: addresses of the agents here at foreign AMP providers.

What comes to such an address is fetched into the agent's mailbox, and what is sent to addresses
of that provider goes there.
"""

import os

from amp_cli.arguments import Arguments, Command, Option
from amp_cli.client import Client
from amp_cli.errors import Usage
from amp_cli.output import Output

_OPTIONS = (
    Option("--provider", "URL", "where its API is, or its domain"),
    Option("--tenant", "T", "the organisation to be in (default: default)"),
    Option("--name", "NAME", "the name there, if not the agent's own"),
    Option("--user-key", "K", "the owner's key at the provider (or AMP_USER_KEY)"),
    Option("--invite", "CODE", "an invitation, where the provider asks for one"),
)


def register(arguments: Arguments, client: Client, out: Output) -> int:
    url = arguments.text("--provider")
    if not url:
        raise Usage("amp register: --provider is missing", hint="--provider http://HOST:PORT/api")
    given = {
        "tenant": arguments.text("--tenant"),
        "name": arguments.text("--name"),
        "user_key": arguments.text("--user-key") or os.environ.get("AMP_USER_KEY"),
        "invite": arguments.text("--invite"),
    }
    params: dict[str, object] = {"url": url}
    params.update((name, text) for name, text in given.items() if text)
    found = client.ask("provider.register", params)
    if out.json:
        out.document(found.value)
    elif not out.quiet:
        address = found.text("address")
        out.said(address)
        out.note(f"mail for {address} is fetched from {found.text('url')}")
    return 0


def listing(_arguments: Arguments, client: Client, out: Output) -> int:
    found = client.ask("provider.list", {})
    if out.json:
        out.document(found.value)
        return 0
    accounts = found.each("providers")
    if accounts:
        names = ("agent", "address", "url", "last_error")
        rows = [[each.text(name) for name in names] for each in accounts]
        out.listing(rows, [row[1] for row in rows])
    else:
        out.said("no accounts at other providers")
        out.note("amp register --provider URL --tenant T makes one for the acting agent")
    return 0


def remove(arguments: Arguments, client: Client, out: Output) -> int:
    found = client.ask("provider.remove", {"provider": arguments.words[0]})
    if out.json:
        out.document(found.value)
    elif not out.quiet:
        address = found.text("address")
        out.said(f"{address} is used no more")
        out.note("the provider keeps the account, and what waits there")
    return 0


COMMANDS = {
    "register": Command(
        "register",
        "",
        "get an address at a foreign AMP provider, and fetch what comes there",
        register,
        options=_OPTIONS,
        example="amp register --provider http://localhost:23000/api --tenant acme",
    ),
    "provider list": Command(
        "provider list",
        "",
        "the accounts at foreign providers, and how they are",
        listing,
        example="amp provider list",
        as_agent=False,
    ),
    "provider remove": Command(
        "provider remove",
        "PROVIDER",
        "use the acting agent's account at a provider no more",
        remove,
        example="amp provider remove aimaestro.local",
    ),
}
