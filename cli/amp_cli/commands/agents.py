"""Who I am on this node: `amp init`, `whoami`, `agents`, `card`, `unregister`."""

from amp_cli.arguments import Arguments, Command, Option
from amp_cli.client import Client
from amp_cli.document import Document
from amp_cli.errors import Usage
from amp_cli.output import Output

_QUICK = (
    'amp send TO "Subject" "Text"',
    "amp inbox --unread",
    "amp read ID",
    'amp reply ID "Text"',
    "amp ack ID",
    "amp discover",
)


def init(arguments: Arguments, client: Client, out: Output) -> int:
    names = [*arguments.words, *arguments.texts("--name")]
    if len(names) != 1:
        raise Usage("amp init takes one NAME", hint="amp init alice")
    params: dict[str, object] = {"name": names[0]}
    for option in ("alias", "description"):
        if (value := arguments.text(f"--{option}")) is not None:
            params[option] = value
    if capabilities := arguments.texts("--capability"):
        params["capabilities"] = capabilities
    agent = client.ask("agent.create", params)
    if agent.value.get("is_new") is False:
        out.note(f"{agent.text('address')} exists already: nothing was changed")
    if out.json:
        out.document(agent.value)
    else:
        _fields(agent, out)
    return 0


def whoami(_arguments: Arguments, client: Client, out: Output) -> int:
    agent = client.ask("agent.show", {})
    if out.json:
        out.document(agent.value)
        return 0
    from ampd.protocol.local import config_file, data_folder

    _fields(agent, out)
    out.fields(
        (
            ("socket", client.path),
            ("own socket", agent.text("socket")),
            ("data", data_folder()),
            ("config", config_file()),
        )
    )
    named = f" --agent {agent.text('name')}" if client.agent else ""
    out.line()
    for command in _QUICK:
        out.line(f"  {command.replace('amp', f'amp{named}', 1)}")
    return 0


def agents(_arguments: Arguments, client: Client, out: Output) -> int:
    found = client.ask("agent.list", {})
    rows = [
        (each.text("address"), each.text("alias"), ", ".join(each.texts("capabilities")))
        for each in found.each("agents")
    ]
    if out.json:
        out.document(found.value)
    elif rows:
        out.table(rows)
    else:
        out.line("no agents on this node")
        out.note("amp init NAME makes one")
    return 0


def card(arguments: Arguments, client: Client, out: Output) -> int:
    agent = client.ask("agent.show", {})
    link = agent.text("contact")
    if out.json:
        out.document({"contact": link})
        return 0
    out.line(link)
    if arguments.flag("--qr"):
        import segno

        segno.make(link, micro=False).terminal(compact=True)
    return 0


def unregister(arguments: Arguments, client: Client, out: Output) -> int:
    params: dict[str, object] = {"name": arguments.words[0]}
    if arguments.flag("--purge"):
        params["purge"] = True
    agent = client.ask("agent.remove", params)
    if out.json:
        out.document(agent.value)
    else:
        kept = "its mail is gone" if arguments.flag("--purge") else "its mail is kept"
        out.line(f"removed {agent.text('address') or arguments.words[0]}; {kept}")
    return 0


def _fields(agent: Document, out: Output) -> None:
    out.fields(
        (
            ("address", agent.text("address")),
            ("alias", agent.text("alias")),
            ("description", agent.text("description")),
            ("capabilities", ", ".join(agent.texts("capabilities"))),
            ("fingerprint", agent.text("fingerprint")),
            ("contact", agent.text("contact")),
            ("created", agent.at("created")),
        )
    )


COMMANDS = {
    "init": Command(
        "init",
        "[NAME]",
        "create an agent: keys and an address (also amp setup --name NAME)",
        init,
        options=(
            Option("--name", "NAME", "its name, as a flag"),
            Option("--alias", "TEXT", "a name for people"),
            Option("--description", "TEXT", "what it does"),
            Option("--capability", "TEXT", "what others may ask of it", many=True),
        ),
        example="amp init alice --description 'Reviews Python' --capability review",
        as_agent=False,
    ),
    "whoami": Command("whoami", "", "the acting agent", whoami, example="amp whoami"),
    "agents": Command(
        "agents", "", "the agents on this node", agents, example="amp agents", as_agent=False
    ),
    "card": Command(
        "card",
        "",
        "the acting agent's contact link, for `amp contact add`",
        card,
        options=(Option("--qr", "", "as a QR code too"),),
        example="amp card --qr",
    ),
    "unregister": Command(
        "unregister",
        "NAME",
        "remove an agent: withdraws its card, keeps its mail",
        unregister,
        options=(Option("--purge", "", "its mail too"),),
        example="amp unregister alice",
        as_agent=False,
    ),
}
