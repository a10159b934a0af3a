"""The command `amp`: the table of its commands, and how one is run.

A command is a Command in the `COMMANDS` of one module of amp_cli.commands; the module is imported
when its command is called, and nothing else of the package is.

Exit codes: errors.py. The price of every import on this path is measured in
tests/bench/bench_cli.py.
"""

import os
import sys
from _socket import socket

from amp_cli.arguments import GLOBAL, Arguments, Command, looks_like_option, parse
from amp_cli.client import Client
from amp_cli.errors import FAILED, Failure, NoDaemon, Usage
from amp_cli.output import Output, columns, complain
from ampd.protocol.local import main_socket

TYPE_CHECKING = False  # `typing` costs a third of a command
if TYPE_CHECKING:
    from types import ModuleType
    from typing import NoReturn

# title -> command -> (module of amp_cli.commands, what it does)
GROUPS = {
    "who": {
        "init": ("agents", "create an agent"),
        "whoami": ("agents", "the acting agent: address, fingerprint, contact link"),
        "agents": ("agents", "the agents on this node"),
        "card": ("agents", "the acting agent's contact link"),
        "unregister": ("agents", "remove an agent"),
    },
    "mail": {
        "send": ("send", "send a message"),
        "inbox": ("inbox", "list messages, newest last"),
        "read": ("read", "show messages, and mark them read"),
        "reply": ("send", "answer a message"),
        "ack": ("mark", "done with messages: out of the inbox"),
        "delete": ("mark", "remove messages"),
        "thread": ("inbox", "list a conversation"),
        "sent": ("inbox", "list what was sent"),
        "outbox": ("inbox", "list what is still on its way"),
        "status": ("status", "the daemon; with ID: what became of a message"),
        "trace": ("status", "the life of a message, step by step"),
        "wait": ("wait", "block until a message arrives"),
        "watch": ("wait", "show messages as they come"),
        "bundle": ("bundle", "undelivered mail as a file, for networks that do not meet"),
    },
    "others": {
        "discover": ("directory", "agents that can be reached"),
        "peers": ("directory", "nodes this one talks to"),
        "contact": ("contact", "the address book and its trust"),
        "relay": ("relay", "the relays that keep mail for who is away"),
        "register": ("provider", "get an address at a foreign AMP provider"),
        "provider": ("provider", "accounts of this node's agents at AMP providers"),
    },
    "this install": {
        "daemon": ("daemon", "start, stop, restart, status, log, install"),
        "doctor": ("doctor", "what is wrong, and what mends it"),
        "check": ("check", "verify journal, index and signatures"),
        "demo": ("demo", "two nodes and a relay on this machine, shown at work"),
    },
}
_WITH_VERBS = (
    "bundle",
    "contact",
    "relay",
    "provider",
    "daemon",
)  # their second word says what to do
_MORE = {"daemon": "daemon_install"}  # verbs in a module of their own
ALIASES = {"setup": "init"}

_ROOT = Command("", "", "", lambda: 0)  # what may stand before a command: GLOBAL
_HELP = Command("help", "[COMMAND] [VERB]", "", lambda: 0)


def main() -> "NoReturn":
    """The console script. Leaves without taking the interpreter down piece by piece, which would
    cost a fifth of what its start did; everything written has been flushed.
    """
    code = run(sys.argv[1:])
    os._exit(code)


def run(words: list[str]) -> int:
    """Do what `words` say; the exit code."""
    if not _may_be_heard():
        return FAILED
    try:
        code = _attempt(words)
        sys.stdout.flush()
    except BrokenPipeError:  # who read our output has left: `amp inbox | head -1`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        return 130  # 128 + SIGINT, as shells have it
    except OSError as exc:  # of this machine: no room, no permission
        where = f": {exc.filename}" if exc.filename else ""
        complain(Failure(f"{exc.strerror or exc}{where}"))
        return FAILED
    return code


def _may_be_heard() -> bool:
    """Whether an answer can be written. Python has None for a stream that was closed before it
    started; who closed standard error wants no prose, who closed standard output gets no answer.
    """
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - open until the end
    if sys.stdout is None:
        complain(
            Failure(
                "standard output is closed, so nothing was done",
                hint="use >/dev/null to discard it",
            )
        )
        return False
    return True


def _attempt(words: list[str]) -> int:
    try:
        return _dispatch(words)
    except Failure as failure:
        sys.stdout.flush()  # what came before the failure is read before it
        complain(failure)
        return failure.exit_code


def _dispatch(words: list[str]) -> int:
    words = [word if word.isascii() else _text(word) for word in words]
    before, rest = _split(words)
    arguments = parse(_ROOT, before)
    if rest[:1] == ["help"] or _is_group_help(rest):
        parse(_HELP, [word for word in rest if word != "help"], arguments)
        return _help(arguments.words, _output(arguments))
    if arguments.flag("--version"):
        return _version(_output(arguments))
    if not rest or arguments.flag("--help"):
        return _help(rest, _output(arguments))
    command, rest = find(rest)
    parse(command, rest, arguments)
    if arguments.flag("--help"):
        return _help(command.name.split(), _output(arguments))
    if arguments.flag("--version"):
        return _version(_output(arguments))
    return command.run(arguments, _client(command, arguments), _output(arguments))


def _is_group_help(words: list[str]) -> bool:
    """`amp contact --help`: a command of several verbs, and none of them named."""
    return (
        words[:1] != []
        and words[0] in _WITH_VERBS
        and all(map(looks_like_option, words[1:]))
        and ("--help" in words or "-h" in words)
    )


def _split(words: list[str]) -> tuple[list[str], list[str]]:
    """What stands before the command, and the rest."""
    takes_value = [option.name for option in GLOBAL if option.value]
    at = 0
    while at < len(words) and looks_like_option(words[at]):
        at += 2 if words[at] in takes_value else 1
    return words[:at], words[at:]


def find(words: list[str]) -> tuple[Command, list[str]]:
    """The command that `words` begin with, and the words behind it."""
    name = ALIASES.get(words[0], words[0])
    module = next((group[name][0] for group in GROUPS.values() if name in group), "")
    if not module:
        raise _unknown(words[0], [*ALIASES, *(name for group in GROUPS.values() for name in group)])
    commands = _commands(name, module)
    if name in commands:
        return commands[name], words[1:]
    verbs = [each.split()[1] for each in commands if each.startswith(f"{name} ")]
    if len(words) < 2 or words[1].startswith("-"):
        raise Usage(f"amp {name} takes one of: {', '.join(verbs)}", hint=f"amp help {name}")
    if words[1] not in verbs:
        raise _unknown(words[1], verbs, f"{name} ")
    return commands[f"{name} {words[1]}"], words[2:]


def _unknown(word: str, known: list[str], before: str = "") -> Usage:
    from amp_cli.arguments import nearest

    close = nearest(word, known)
    hint = f"did you mean amp {before}{close}?" if close else f"amp help {before}".rstrip()
    return Usage(f"there is no command amp {before}{word}", hint=hint)


def _commands(name: str, module: str) -> dict[str, Command]:
    commands: dict[str, Command] = _load(module).COMMANDS
    return {**commands, **_load(_MORE[name]).COMMANDS} if name in _MORE else commands


def _load(module: str) -> "ModuleType":
    return __import__(f"amp_cli.commands.{module}", fromlist=("COMMANDS",))


def _client(command: Command, arguments: Arguments) -> Client:
    given = arguments.text("--socket") or ""
    named = os.fsdecode(given.encode()) or os.environ.get("AMP_SOCKET")
    agent = arguments.text("--agent") or os.environ.get("AMP_AGENT") or ""
    start = None if os.environ.get("AMP_AUTOSTART") == "0" else _autostart
    if named:
        start = _named_by_flag if given else _named_is_never_started
    return Client(named or main_socket(), agent if command.as_agent else "", start)


def _named_is_never_started(path: str) -> socket:
    raise NoDaemon(
        f"no daemon answers on {path}", hint="start the daemon it belongs to, or unset AMP_SOCKET"
    )


def _named_by_flag(path: str) -> socket:
    raise NoDaemon(
        f"no daemon answers on {path}", hint="start the daemon it belongs to, or leave out --socket"
    )


def _autostart(path: str) -> socket:
    from amp_cli.autostart import start

    return start(path)


def _output(arguments: Arguments) -> Output:
    return Output(json=arguments.flag("--json"), quiet=arguments.flag("--quiet"))


def _help(words: list[str], out: Output) -> int:
    from amp_cli.arguments import help_text
    from amp_cli.overview import everything, fitted, verbs

    if not words:
        text = everything(GROUPS)
    elif len(words) == 1 and words[0] in _WITH_VERBS:
        text = verbs(_commands(words[0], words[0]))
    else:
        text = help_text(find(words)[0])
    if out.json:
        out.document({"help": text})
    else:
        out.text(fitted(text, columns()))
    return 0


def _version(out: Output) -> int:
    from ampd import __version__

    if out.json:
        out.document({"version": __version__})
    else:
        out.line(f"amp {__version__}")
    return 0


def _text(word: str) -> str:
    """A word as the text that its bytes are in UTF-8, whatever the locale took them for."""
    try:
        return os.fsencode(word).decode()
    except UnicodeError:
        raise Usage(f"{word!r} is not UTF-8") from None
