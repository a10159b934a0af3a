"""`amp daemon install`: systemd runs the daemon of this user.

The units are the files of the repository's systemd/ folder (in an installed package:
amp_cli/_systemd), with two paths made those of this installation: the `ampd` beside the running
`amp`, and the data folder in use. They go to $XDG_CONFIG_HOME/systemd/user.

  U1  Done twice, it changes nothing: a unit is written only where it differs, and whole.
  U2  A daemon that `amp` started in the background is ended first: systemd's could not have its
      data folder.
  U3  Where no user manager answers (a container, another init), the units are written all the
      same, and the commands that remain to be run are printed.
"""

import os
import sys
from _socket import socket

from amp_cli.arguments import Arguments, Command, Option
from amp_cli.client import Client
from amp_cli.errors import Failure, NoDaemon, Usage
from amp_cli.output import Output
from amp_cli.user_manager import SYSTEMCTL, UNITS, answers, is_active, tell, unit_folder
from ampd.protocol.local import data_folder, main_socket

_HERE = os.path.dirname(os.path.abspath(__file__))
_TEMPLATES = (  # as installed; as in the repository
    os.path.join(_HERE, "..", "_systemd"),
    os.path.join(_HERE, "..", "..", "..", "systemd"),
)


def run(arguments: Arguments, _client: Client, out: Output) -> int:
    if os.environ.get("AMPD_HOME"):
        raise Usage(
            "AMPD_HOME is set: the units are for the folders of the user, not for a portable one",
            hint="env -u AMPD_HOME amp daemon install",
        )
    if arguments.flag("--uninstall"):
        _uninstall(out)
    elif arguments.flag("--print"):
        _show(out)
    else:
        _install(out)
    return 0


def _install(out: Output) -> None:
    folder = unit_folder()
    changed = [name for name in UNITS if _write(os.path.join(folder, name), unit(name))]
    os.makedirs(data_folder(), mode=0o700, exist_ok=True)
    commands = [
        "daemon-reload",
        f"enable --now {' '.join(UNITS)}",
        *(["restart ampd.service"] if changed else []),
    ]
    if running := answers():
        if not is_active("ampd.socket"):
            _end_background_daemon()
        for command in commands:
            tell(*command.split())
    _report(out, "installed" if changed else "unchanged", [] if running else commands)


def _uninstall(out: Output) -> None:
    files = [os.path.join(unit_folder(), name) for name in UNITS]
    present = [file for file in files if os.path.exists(file)]
    running = answers()
    if present and running:
        tell("disable", "--now", *UNITS)
    for file in present:
        os.unlink(file)
    if present and running:
        tell("daemon-reload")
    commands = [f"disable --now {' '.join(UNITS)}", "daemon-reload"]
    _report(out, "removed" if present else "absent", commands if present and not running else [])


def _report(out: Output, state: str, commands: list[str]) -> None:
    files = [os.path.join(unit_folder(), name) for name in UNITS]
    left = [" ".join((*SYSTEMCTL, command)) for command in commands]
    if out.json:
        out.document({"state": state, "files": files, "run": left})
        return
    for file in files:
        out.said(f"{state}  {file}")
    if left:
        out.note("no systemd user manager answers here; where one does, run:")
        for command in left:
            out.line(command)
    elif state in ("installed", "unchanged"):
        out.note("to keep it running while you are logged out: loginctl enable-linger")


def _show(out: Output) -> None:
    if out.json:
        folder = unit_folder()
        out.document({"files": {os.path.join(folder, name): unit(name) for name in UNITS}})
        return
    for name in UNITS:
        out.line(f"# {os.path.join(unit_folder(), name)}")
        out.text(unit(name))


def unit(name: str) -> str:
    """The unit as it is installed here."""
    for folder in _TEMPLATES:
        try:
            with open(os.path.join(folder, name), encoding="utf-8") as file:
                text = file.read()
        except FileNotFoundError:
            continue
        return _here(text)
    raise Failure(f"{name} is missing from this installation", hint="pip install --force-reinstall")


def _here(text: str) -> str:
    """The template with the paths of this installation."""
    text = text.replace("%h/.local/bin/ampd", quoted(daemon()))
    for variable in ("XDG_DATA_HOME", "XDG_CONFIG_HOME"):  # the manager may not have them set
        if folder := os.environ.get(variable):
            line = f"Environment={quoted(f'{variable}={folder}')}"
            text = text.replace("Type=notify\n", f"Type=notify\n{line}\n")
    for prefix in ("-", ""):
        mine = quoted(prefix + data_folder())
        if data_folder() != os.path.expanduser("~/.local/share/ampd"):
            text = text.replace(f"{prefix}%h/.local/share/ampd", mine)
    return text


def daemon() -> str:
    """The `ampd` that belongs to the running `amp`."""
    from sysconfig import get_path

    beside = os.path.dirname(os.path.abspath(sys.argv[0]))
    for folder in (beside, get_path("scripts")):
        program = os.path.join(folder, "ampd")
        if os.access(program, os.X_OK):
            return program
    raise Failure(f"there is no ampd beside {sys.argv[0]}", hint="amp doctor")


def quoted(path: str) -> str:
    """`path` as one word of a unit file; Failure where units have no way to spell it."""
    if not path.isprintable() or any(each in path for each in "\\\"'$"):
        raise Failure(f"a systemd unit cannot name {path!r}", hint="install ampd elsewhere")
    text = path.replace("%", "%%")  # % begins a specifier
    return f'"{text}"' if " " in text or ";" in text else text


def _write(path: str, text: str) -> bool:
    """Whether it had to be written (U1)."""
    try:
        with open(path, encoding="utf-8") as file:
            if file.read() == text:
                return False
    except FileNotFoundError:
        os.makedirs(os.path.dirname(path), exist_ok=True)
    draft = f"{path}.new"
    with open(draft, "w", encoding="utf-8") as file:
        file.write(text)
    os.replace(draft, path)
    return True


def _end_background_daemon() -> None:
    """U2."""
    from amp_cli.commands.daemon import _stop

    _stop(Client(main_socket(), "", _never_start))


def _never_start(path: str) -> socket:
    raise NoDaemon(f"no daemon answers on {path}", hint="amp daemon install")


COMMANDS = {
    "daemon install": Command(
        "daemon install",
        "",
        "put the systemd user units in place, and start the daemon",
        run,
        options=(
            Option("--print", "", "show what it would write, and write nothing"),
            Option("--uninstall", "", "stop the daemon and remove the units"),
        ),
        example="amp daemon install",
        as_agent=False,
    )
}
