"""`amp doctor`: what is wrong with this install, and the command that mends it; exit 1 if anything.

It starts nothing and changes nothing. What needs the daemon is looked at only where one answers.
"""

import os
import stat
from _collections_abc import Iterator  # `collections.abc` would import all of `collections`

from amp_cli.arguments import Arguments, Command
from amp_cli.client import Client, reach
from amp_cli.commands.check import WITHIN, damage
from amp_cli.errors import FAILED, Failure
from amp_cli.output import Output
from ampd import __version__
from ampd.protocol.local import config_file, data_folder, run_folder

_ROOM = 64 * 1024 * 1024  # bytes; below it a disk is full within a day of ordinary mail


class Finding:
    """One thing that was looked at."""

    __slots__ = ("detail", "hint", "name", "ok")

    def __init__(self, name: str, detail: str, hint: str = "", *, ok: bool = False) -> None:
        self.name, self.detail, self.hint, self.ok = name, detail, hint, ok


def doctor(_arguments: Arguments, client: Client, out: Output) -> int:
    findings = [*_folders(), *_config(), *_socket(client)]
    if findings[-1].ok:
        findings += _daemon(client)
    wrong = [each for each in findings if not each.ok]
    if out.json:
        names = ("name", "ok", "detail", "hint")
        checks = [{name: getattr(each, name) for name in names} for each in findings]
        out.document({"ok": not wrong, "checks": checks})
        return FAILED if wrong else 0
    out.table([("ok" if each.ok else "WRONG", each.name, each.detail) for each in findings])
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


def _config() -> Iterator[Finding]:
    from tomllib import TOMLDecodeError, loads

    path = config_file()
    try:
        with open(path, encoding="utf-8") as file:
            loads(file.read())
    except FileNotFoundError:
        yield Finding("config", "the defaults (there is no config.toml)", ok=True)
    except (OSError, UnicodeDecodeError, TOMLDecodeError) as exc:
        yield Finding("config", f"{path}: {exc}", "correct the file, then amp daemon restart")
    else:
        yield Finding("config", path, ok=True)


def _socket(client: Client) -> Iterator[Finding]:
    try:
        reach(client.path).close()
    except (FileNotFoundError, ConnectionRefusedError):
        yield Finding("daemon", f"none answers on {client.path}", "amp daemon start")
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
        yield Finding("daemon", f"answers on {client.path}", ok=True)


def _daemon(client: Client) -> Iterator[Finding]:
    client.agent = ""  # about the node, whoever asks
    for look in (_version, _agents, _journal, _contacts):
        try:
            yield from look(client)
        except Failure as failure:
            yield Finding(look.__name__.strip("_"), str(failure), failure.hint)


def _version(client: Client) -> Iterator[Finding]:
    running = client.ask("system.status", {}).text("version")
    if running == __version__:
        yield Finding("version", running, ok=True)
    else:
        yield Finding(
            "version",
            f"the daemon that runs is {running}, this is {__version__}",
            "amp daemon restart",
        )


def _agents(client: Client) -> Iterator[Finding]:
    agents = client.ask("agent.list", {}).each("agents")
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


def _journal(client: Client) -> Iterator[Finding]:
    found = client.ask("journal.check", {}, within=WITHIN)
    if found.flag("ok"):
        yield Finding("journal", f"{found.number('records')} records, all whole", ok=True)
    for each in found.each("damage"):
        yield Finding("journal", damage(each), "amp check --repair")
    if not found.flag("ok") and not found.each("damage"):
        yield Finding("journal", "the check failed", "amp check")


def _contacts(client: Client) -> Iterator[Finding]:
    contacts = client.ask("contact.list", {}).each("contacts")
    doubtful = [each for each in contacts if each.text("state") == "conflict"]
    for each in doubtful:
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
