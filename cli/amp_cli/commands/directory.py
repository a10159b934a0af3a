"""`amp discover`: agents that can be reached, and how; `amp peers`: the nodes in between."""

from amp_cli.arguments import Arguments, Command, Option
from amp_cli.client import ANSWER_WITHIN, Client
from amp_cli.document import Document
from amp_cli.output import Output, Prose


def discover(arguments: Arguments, client: Client, out: Output) -> int:
    params: dict[str, object] = {}
    if arguments.words:
        params["domain"] = arguments.words[0]
    if capability := arguments.text("--capability"):
        params["capability"] = capability
    wait = arguments.seconds("--wait") or 0.0
    if wait:
        params["wait_s"] = wait
    found = client.ask("directory.list", params, within=ANSWER_WITHIN + wait)
    if out.json:
        out.document(found.value)
        return 0
    agents = found.each("agents")
    if not agents:
        out.said("nobody found")
        out.note("amp discover --wait 5 looks longer; amp contact add LINK knows somebody for good")
        return 0
    out.listing(
        [
            (
                each.text("address"),
                "online" if each.flag("online") else "away",
                each.text("via"),
                each.text("trust"),
                ", ".join(each.texts("capabilities")),
                Prose(each.text("alias") or each.text("description")),
            )
            for each in agents
        ],
        [each.text("address") for each in agents],
    )
    return 0


def peers(_arguments: Arguments, client: Client, out: Output) -> int:
    found = client.ask("peer.list", {})
    if out.json:
        out.document(found.value)
        return 0
    names = ("node", "domain", "endpoint", "found_by", "state")
    rows = [
        [
            *(each.text(name) for name in names),
            f"{each.text('rtt_ms')} ms" * bool(each.text("rtt_ms")),
            waiting(each),
            condition(each),
        ]
        for each in found.each("peers")
    ]
    if rows:
        out.listing(rows, [row[0] for row in rows])
    else:
        out.said("no peers")
    return 0


def waiting(each: Document) -> str:
    """What waits for a node or a relay; "" if nothing does."""
    count = each.number("queued")
    return f"{count} waiting since {each.at('oldest_queued_at')}" if count else ""


def condition(each: Document) -> str:
    """Of a node or a relay that is away: when it was here, the next try, and what went wrong."""
    seen, again = each.at("last_seen"), each.at("next_try")
    away = each.text("state") in ("away", "connecting")
    said = (f"last seen {seen}" * bool(away and seen), f"next try {again}" * bool(away and again))
    return ", ".join(filter(None, (*said, each.text("last_error"))))


COMMANDS = {
    "discover": Command(
        "discover",
        "[DOMAIN]",
        "agents that can be reached, and how",
        discover,
        options=(
            Option("--capability", "TEXT", "only who can do this"),
            Option("--wait", "SECONDS", "look this long for more"),
        ),
        example="amp discover --capability review --wait 3",
    ),
    "peers": Command(
        "peers",
        "",
        "nodes: address, how found, session state, round-trip time",
        peers,
        example="amp peers",
        as_agent=False,
    ),
}
