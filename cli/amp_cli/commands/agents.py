"""Who I am on this node: `amp init`, `whoami`, `agents`, `card`, `unregister`."""

import sys

from amp_cli.arguments import Arguments, Command, Option
from amp_cli.client import Client
from amp_cli.document import Document
from amp_cli.errors import Failure, Usage
from amp_cli.output import Output

_QUICK = (
    'amp send TO "Subject" "Text"',
    "amp inbox --unread",
    "amp read ID",
    'amp reply ID "Text"',
    "amp ack ID",
    "amp wait --timeout 10m",
    "amp discover",
)


def init(arguments: Arguments, client: Client, out: Output) -> int:
    names = [*arguments.words, *arguments.texts("--name")]
    if not names:
        raise Usage("amp init: NAME is missing", hint="amp init alice")
    if len(names) > 1:
        raise Usage(f"the name is given twice: {' and '.join(names)}", hint=f"amp init {names[0]}")
    params: dict[str, object] = {"name": names[0]}
    for option in ("alias", "description"):
        if (value := arguments.text(f"--{option}")) is not None:
            params[option] = value
    if capabilities := arguments.texts("--capability"):
        params["capabilities"] = capabilities
    agent = client.ask("agent.create", params)
    if agent.value.get("is_new") is False:
        out.note(f"{agent.text('address')} exists already: nothing was changed")
    _show(agent, out)
    return 0


def whoami(_arguments: Arguments, client: Client, out: Output) -> int:
    try:
        agent = client.ask("agent.show", {})
    except Failure as failure:
        if failure.code == "ambiguous":
            failure.hint = (
                "say which: amp --agent NAME whoami, or export AMP_AGENT=NAME for every command"
            )
        raise
    if out.quiet and not out.json:
        _show(agent, out)
        return 0
    unread, places = _unread(agent, client), _places(client)
    if out.json:
        out.document({**agent.value, "unread": unread, **places})
        return 0
    _show(agent, out)
    own = agent.text("socket")
    sockets = (own, "main socket") if places else (client.path, "socket on the host")
    out.fields((("unread", unread), ("socket", sockets[0])))
    if own != client.path:
        out.fields(((sockets[1], client.path if places else own),))
    out.fields((name, places.get(name)) for name in ("data", "config"))
    named = f" --agent {agent.text('name')}" if client.agent else ""
    out.line()
    for command in _QUICK:
        out.line(f"  {command.replace('amp', f'amp{named}', 1)}")
    return 0


def _unread(agent: Document, client: Client) -> int | None:
    """How many messages nobody has read yet; None where the daemon does not say."""
    agents = client.ask("system.status", {}).each("agents")
    name = agent.text("name")
    return next((each.number("unread") for each in agents if each.text("name") == name), None)


def _places(client: Client) -> dict[str, str]:
    """Where things are; nothing of a daemon behind a named socket, which may be elsewhere."""
    from ampd.protocol.local import config_file, data_folder, main_socket

    if client.path != main_socket():
        return {}
    return {"main_socket": client.path, "data": data_folder(), "config": config_file()}


def agents(_arguments: Arguments, client: Client, out: Output) -> int:
    found = client.ask("agent.list", {})
    rows = [
        (each.text("address"), each.text("alias"), ", ".join(each.texts("capabilities")))
        for each in found.each("agents")
    ]
    if out.json:
        out.document(found.value)
    elif rows:
        out.listing(rows, [row[0] for row in rows])
    else:
        out.said("no agents on this node")
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

        _check_blocks()
        segno.make(link, micro=False).terminal(compact=True)
    return 0


def _check_blocks() -> None:
    """Failure where standard output cannot take the characters that a QR code is drawn with."""
    encoding = sys.stdout.encoding
    try:
        "\u2580\u2584\u2588".encode(encoding)
    except UnicodeEncodeError:
        raise Failure(
            f"no QR code on a standard output that is {encoding}",
            hint="use a UTF-8 locale, e.g. LC_ALL=C.UTF-8",
        ) from None


def unregister(arguments: Arguments, client: Client, out: Output) -> int:
    params: dict[str, object] = {"name": arguments.words[0]}
    if arguments.flag("--purge"):
        params["purge"] = True
    try:
        agent = client.ask("agent.remove", params)
    except Failure as failure:
        if failure.code == "agent_unknown":
            failure.hint = "amp agents"  # to make it first would mend nothing
        raise
    if out.json:
        out.document(agent.value)
    else:
        kept = "its mail is gone" if arguments.flag("--purge") else "its mail is kept"
        out.said(f"removed {agent.text('address') or arguments.words[0]}; {kept}")
    return 0


def _show(agent: Document, out: Output) -> None:
    if out.json:
        out.document(agent.value)
        return
    if out.quiet:
        out.line(agent.text("address"))
        return
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
