"""`amp doctor`: what is wrong with this install, and the command that mends it; exit 1 if anything.

It starts nothing and changes nothing. `ampd --check` says why no daemon can start, or why the one
that answers could not start again. What needs the daemon is looked at only where one answers. On
the socket of one agent, which is all that a sandbox
has, only what that socket may ask is looked at.
"""

import os
import stat
from _collections_abc import Iterator  # `collections.abc` would import all of `collections`

from amp_cli.arguments import Arguments, Command
from amp_cli.autostart import why_not
from amp_cli.client import Client, reach
from amp_cli.commands.check import damage
from amp_cli.commands.daemon import ends, unit_environ
from amp_cli.document import Document
from amp_cli.errors import FAILED, Failure, NoDaemon
from amp_cli.output import Output
from ampd import __version__
from ampd.protocol.local import config_file, data_folder, main_socket, run_folder

_LIMIT = 5.0  # seconds for one answer; a daemon that is well takes a hundredth of one
_JOURNAL_LIMIT = 60.0  # seconds; a check reads everything there is
_ROOM = 64 * 1024 * 1024  # bytes; below it a disk is full within a day of ordinary mail


class Finding:
    """One thing that was looked at."""

    __slots__ = ("detail", "hint", "name", "ok")

    def __init__(self, name: str, detail: str, hint: str = "", *, ok: bool = False) -> None:
        self.name, self.detail, self.hint, self.ok = name, detail, hint, ok


def doctor(_arguments: Arguments, client: Client, out: Output) -> int:
    is_ours = client.path == main_socket()  # another socket's folders are not known
    wrong = why_not(unit_environ(client)) if is_ours else None
    findings = [*_folders()] if is_ours else []
    socket = list(_socket(client, wrong, is_ours=is_ours))
    answers = socket[-1].ok
    if is_ours and (answers or not wrong):
        findings.append(_config(wrong))
    findings += socket
    if answers:
        findings += _daemon(client)
    return _show(findings, out)


def _show(findings: list[Finding], out: Output) -> int:
    wrong = [each for each in findings if not each.ok]
    if out.json:
        names = ("name", "ok", "detail", "hint")
        checks = [{name: getattr(each, name) for name in names} for each in findings]
        out.document({"ok": not wrong, "checks": checks})
        return FAILED if wrong else 0
    shown = wrong if out.quiet else findings
    if shown:
        width = max(len(each.name) for each in shown)
        for each in shown:  # no table: what is wrong is never cut short
            out.line(f"{'ok' if each.ok else 'WRONG':5}  {each.name:<{width}}  {each.detail}")
    for each in wrong:
        if each.hint:
            out.line(f"{each.name}: {each.hint}")
    return FAILED if wrong else 0


def _folders() -> Iterator[Finding]:
    for name, folder in (("data folder", data_folder()), ("socket folder", run_folder())):
        try:
            found = os.lstat(folder)
        except FileNotFoundError:
            yield Finding(name, f"{folder} is not there yet", "amp init NAME makes it", ok=True)
            continue
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
            yield Finding(name, f"{folder} is not a folder of this user", f"ls -ld {folder}")
        elif found.st_mode & 0o077:
            yield Finding(
                name,
                f"{folder} is open to others (mode {stat.S_IMODE(found.st_mode):04o})",
                f"chmod 700 {folder}",
            )
        else:
            yield Finding(name, folder, ok=True)
            free = os.statvfs(folder)
            if free.f_bavail * free.f_frsize < _ROOM:
                yield Finding("disk", f"less than 64 MiB are free at {folder}", f"df -h {folder}")


def _config(wrong: Failure | None) -> Finding:
    if wrong is not None:  # the daemon that runs has read it when it was another
        what = f"the daemon that runs could not start again: {wrong}"
        return Finding("config", what, wrong.hint or "correct it, then amp daemon restart")
    path = config_file()
    there = os.path.exists(path)
    return Finding("config", path if there else "the defaults (there is no config.toml)", ok=True)


def _socket(client: Client, wrong: Failure | None, *, is_ours: bool) -> Iterator[Finding]:
    try:
        reach(client.path).close()
    except (FileNotFoundError, ConnectionRefusedError):
        yield (
            _none(client.path, wrong)
            if is_ours
            else Finding(
                "daemon", f"none answers on {client.path}", "start the daemon it belongs to"
            )
        )
    except Failure as failure:
        yield Finding("daemon", str(failure), failure.hint)
    else:
        mode = stat.S_IMODE(os.stat(client.path).st_mode)
        if mode & 0o077:
            yield Finding(
                "socket",
                f"{client.path} is open to others (mode {mode:04o})",
                f"chmod 600 {client.path}",
            )
        yield Finding("socket", client.path, ok=True)


def _none(path: str, wrong: Failure | None) -> Finding:
    if wrong is None:
        return Finding("daemon", f"none answers on {path}", "amp daemon start")
    mend = wrong.hint or "correct it, then amp daemon start"
    return Finding("daemon", f"cannot start: {wrong}", mend)


def _daemon(client: Client) -> Iterator[Finding]:
    client.agent = ""  # about the node, whoever asks
    try:
        status = client.ask("system.status", {}, within=_LIMIT)
        yield Finding("daemon", f"answers on {client.path}", ok=True)
        yield from _version(status)
        yield from _warnings(status)
        yield from _network(status)
        for look in (_agents, _journal, _contacts):
            try:
                yield from look(client, status)
            except Failure as failure:
                if isinstance(failure, NoDaemon):
                    raise
                if failure.code != "forbidden":  # it is not for an agent's own socket
                    yield Finding(look.__name__.strip("_"), str(failure), failure.hint)
    except NoDaemon as failure:
        yield Finding("daemon", f"the daemon does not answer: {failure}", ends(client.path))
    except Failure as failure:
        yield Finding("daemon", str(failure), failure.hint)


def _version(status: Document) -> Iterator[Finding]:
    running = status.text("version")
    if running == __version__:
        yield Finding("version", running, ok=True)
    else:
        yield Finding(
            "version",
            f"the daemon that runs is {running}, this is {__version__}",
            "amp daemon restart",
        )


def _warnings(status: Document) -> Iterator[Finding]:
    for each in status.texts("warnings"):
        yield Finding("warning", each)


def _network(status: Document) -> Iterator[Finding]:
    if why := status.of("discovery").text("error"):
        mend = "correct [discovery] interfaces in config.toml, then amp daemon restart"
        yield Finding("discovery", f"no other node is found: {why}", mend)
    for relay in status.each("relays"):
        yield _relay(relay)


def _relay(relay: Document) -> Finding:
    """A relay that refuses us, or is away while mail waits for it, is wrong."""
    uri, state, why = relay.text("uri"), relay.text("state"), relay.text("last_error")
    if state == "connected" and why:
        mend = "have its owner let this node in (ampd relay invite), then amp relay add URI"
        return Finding("relay", f"{uri} keeps no mail for this node: {why}", mend)
    if state in ("collecting", "connected"):
        return Finding("relay", f"{uri} ({state})", ok=True)
    waits = relay.number("queued")
    said = f"{uri} is away{f', and {waits} waiting for it' if waits else ''}"
    mend = f"start it, or use another one: amp relay add URI; amp relay remove {uri}"
    return Finding("relay", f"{said}{f': {why}' if why else ''}", mend, ok=not waits)


def _agents(client: Client, _status: Document) -> Iterator[Finding]:
    agents = client.ask("agent.list", {}, within=_LIMIT).each("agents")
    names = [each.text("name") for each in agents]
    acting = os.environ.get("AMP_AGENT")
    if not names:
        yield Finding("agents", "there is none on this node", "amp init NAME")
    elif acting and acting not in names and acting not in [each.text("address") for each in agents]:
        yield Finding(
            "agents",
            f"AMP_AGENT is {acting}, but this node has {', '.join(names)}",
            f"amp init {acting}, or export AMP_AGENT={names[0]}",
        )
    else:
        yield Finding("agents", ", ".join(names), ok=True)


def _journal(client: Client, _status: Document) -> Iterator[Finding]:
    try:
        found = client.ask("journal.check", {}, within=_JOURNAL_LIMIT)
    except NoDaemon:
        client.ask("system.status", {}, within=_LIMIT)  # it is there, and still at it
        yield Finding("journal", f"not looked through in {_JOURNAL_LIMIT:g} s: amp check", ok=True)
        return
    if found.flag("ok"):
        yield Finding("journal", f"{found.number('records')} records, all whole", ok=True)
    for each in found.each("damage"):
        yield Finding("journal", damage(each), "amp check --repair")
    if not found.flag("ok") and not found.each("damage"):
        yield Finding("journal", "the check failed", "amp check")


def _contacts(client: Client, status: Document) -> Iterator[Finding]:
    contacts = client.ask("contact.list", {}, within=_LIMIT).each("contacts")
    doubtful = [each for each in contacts if each.text("state") == "conflict"]
    warned = " ".join(status.texts("warnings"))
    for each in doubtful:
        if each.text("address") in warned:
            continue
        address = each.text("address")
        yield Finding(
            "contacts",
            f"{address} shows another key than the one known; its mail is in quarantine",
            f"amp contact show {address}, then accept or block it",
        )
    if not doubtful:
        yield Finding("contacts", f"{len(contacts)} known", ok=True)


COMMANDS = {
    "doctor": Command(
        "doctor",
        "",
        "what is wrong with this install, and the command that mends it",
        doctor,
        example="amp doctor",
        as_agent=False,
    )
}
