"""The daemon's settings: read once, checked once, frozen; and where its files lie.

A value comes from the first of these that has one:

    1. the command line             ampd --gateway 127.0.0.1:23000
    2. AMPD_<SECTION>_<KEY>         AMPD_PEER_LISTEN=0.0.0.0:4160; lists as JSON or
                                    separated by commas, tables as JSON
    3. AMTP_...                     what amtp_variables.py understands
    4. config.toml                  sections and keys as in settings.py
    5. the default                  every key has one that works

  C1  An unknown key, and an AMPD_ variable that is nearly a known one or begins with a known
      section, is an error: a misspelt setting never counts as unset. Any other AMPD_ variable
      that means nothing here is named in the log.
  C2  A bad value is an error even where a stronger source overrides it.
  C3  Every error is Invalid and names its place: `FILE:LINE`, the variable or the flag.
  C4  Sockets live in a folder that only this user can enter, and never in a shared
      temporary folder.

To read the settings again after SIGHUP is to call `load` again. It reads nothing but the
configuration file and writes nothing; `make_folders` is what writes, and `check_folders` says
without writing what that would end with. A relative AMPD_HOME is one of the current folder.

Not here: what each key may be (settings.py); which setting can change while the daemon
runs (daemon.py).
"""

import errno
import json
import os
import re
import stat
import sys
import tomllib
from collections.abc import Mapping
from dataclasses import Field, field, fields
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import appdirs

from ampd import amtp_variables
from ampd.model.errors import Invalid
from ampd.model.values import value
from ampd.settings import (
    Discovery,
    Gateway,
    Limits,
    Log,
    Metrics,
    Node,
    Peer,
    Policy,
    Relay,
    did_you_mean,
    expected,
)

# sockaddr_un.sun_path, its closing NUL included (unix(7); <sys/un.h> elsewhere)
SOCKET_PATH_BYTES: Final = 108 if sys.platform == "linux" else 104
MAX_FILE: Final = 1 << 20  # bytes of config.toml: a thousand times what every key needs
_OTHER_VARIABLES: Final = frozenset({"AMPD_HOME"})
_SHAPES: Final[dict[type, str]] = {
    str: "a text",
    bool: "true or false",
    int: "a whole number",
    list: "a list of texts",
    dict: "a table of texts",
}

_Key = tuple[str, str]  # section, key
_Values = dict[_Key, tuple[object, str]]  # what the daemon uses, and where it was said


@value
class Paths:
    """Where the files lie."""

    data: Path
    run: Path
    config_file: Path
    moved_by: str  # the variable that moves `run`

    @property
    def socket(self) -> Path:
        """The main socket, which may act as every agent."""
        return self._checked(self.run / "ampd.sock")

    @property
    def agent_sockets(self) -> Path:
        """The folder of the sockets that act as one agent."""
        return self.run / "agents"

    def agent_socket(self, name: str) -> Path:
        """The socket of the agent `name`; Invalid where its path is too long to be one."""
        return self._checked(self.agent_sockets / f"{name}.sock")

    def _checked(self, path: Path) -> Path:
        length = len(os.fsencode(path))
        if length >= SOCKET_PATH_BYTES:
            raise Invalid(
                f"{self.moved_by}: the socket {path} has a path of {length} bytes,"
                f" over the {SOCKET_PATH_BYTES - 1} that this system allows",
                hint=f"set {self.moved_by} to a folder with a shorter path",
            )
        return path


@value
class Config:
    """Every setting, one section a field, and the paths."""

    paths: Paths
    node: Node = field(default_factory=Node)
    peer: Peer = field(default_factory=Peer)
    discovery: Discovery = field(default_factory=Discovery)
    relay: Relay = field(default_factory=Relay)
    policy: Policy = field(default_factory=Policy)
    gateway: Gateway = field(default_factory=Gateway)
    limits: Limits = field(default_factory=Limits)
    metrics: Metrics = field(default_factory=Metrics)
    log: Log = field(default_factory=Log)
    without_effect: tuple[str, ...] = ()  # variables that were read and mean nothing here
    places: Mapping[_Key, str] = field(default_factory=dict, hash=False, compare=False)

    def place(self, section: str, key: str) -> str:
        """Where this setting was said, as errors begin (C3); its name where it is the default."""
        return self.places.get((section, key), f"{section}.{key}")


_SECTIONS: Final[dict[str, Any]] = {
    each.name: each.default_factory
    for each in fields(Config)
    if each.name not in ("paths", "without_effect", "places")
}
# (section, key) -> how it is read
_KEYS: Final[dict[tuple[str, str], Field[Any]]] = {
    (section, key.name): key for section, kind in _SECTIONS.items() for key in fields(kind)
}
_VARIABLES: Final = {f"AMPD_{s}_{k}".upper(): (s, k) for s, k in _KEYS}


def load(
    *,
    home: str | None,
    config_file: str | None,
    environ: Mapping[str, str],
    gateway: str | None = None,
    log_level: str | None = None,
    log_format: str | None = None,
) -> Config:
    """The settings in force; Invalid names the first that cannot be used, and its place."""
    paths = find_paths(home, config_file, environ)
    values = _from_file(paths.config_file, must_exist=config_file is not None)
    said, without_effect = amtp_variables.read(environ)
    for (section, key), (variable, raw) in said.items():
        values[section, key] = _read(section, key, raw, where=variable), variable
    ours, unknown = _from_environment(environ)
    values |= ours
    arguments = {
        ("gateway", "listen"): gateway,
        ("log", "level"): log_level,
        ("log", "format"): log_format,
    }
    for (section, key), text in arguments.items():
        if text is not None:
            flag = "--gateway" if section == "gateway" else f"--{section}-{key}"
            values[section, key] = _read(section, key, text, where=flag), flag
    sections = {
        section: kind(**{key: value for (s, key), (value, _) in values.items() if s == section})
        for section, kind in _SECTIONS.items()
    }
    places = MappingProxyType({key: where for key, (_, where) in values.items()})
    return Config(
        paths, **sections, without_effect=tuple(sorted((*without_effect, *unknown))), places=places
    )


def log_settings(level: str, form: str) -> Log:
    """What --log-level and --log-format say; Invalid names the flag (C3)."""
    read: dict[str, Any] = {
        key: _read("log", key, text, where=f"--log-{key}")
        for key, text in (("level", level), ("format", form))
    }
    return Log(**read)


def _read(section: str, key: str, raw: object, *, where: str) -> object:
    """The value of one key, checked; `where` begins the error."""
    meta = _KEYS[section, key].metadata
    shape = meta["shape"]
    inner = raw if isinstance(raw, list) else raw.values() if isinstance(raw, dict) else ()
    items = meta["items"]
    try:
        if type(raw) is not shape or not all(type(each) is items for each in inner):
            raise expected(_SHAPES[shape] if items is str else "a table of whole numbers", raw)
        return meta["read"](raw)
    except Invalid as exc:
        raise Invalid(f"{where}: {exc}", hint=exc.hint) from None


def _from_file(path: Path, *, must_exist: bool) -> _Values:
    """What config.toml says; nothing where there is none."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE + 1)
        if len(data) > MAX_FILE:
            raise Invalid(f"{path}: over {MAX_FILE} bytes")
        source = data.decode()
        document = tomllib.loads(source)
    except FileNotFoundError:
        if must_exist:
            raise Invalid(f"{path}: there is no such file") from None
        return {}
    except OSError as exc:
        raise Invalid(f"{path}: cannot be read: {exc.strerror}") from None
    except UnicodeDecodeError as exc:
        line = data.count(b"\n", 0, exc.start) + 1
        raise Invalid(f"{path}:{line}: expected UTF-8 text") from None
    except tomllib.TOMLDecodeError as exc:
        at = re.search(r"line (\d+)", str(exc))
        line = int(at[1]) if at else source.count("\n") + 1
        raise Invalid(f"{path}:{line}: this is not TOML: {exc}") from None
    except RecursionError:
        raise Invalid(f"{path}: nested too deeply") from None
    return _from_document(document, source, path)


def _from_document(document: dict[str, Any], source: str, path: Path) -> _Values:
    values: _Values = {}
    for section, table in document.items():
        where = f"{path}:{_line_of(source, section)}"
        if section not in _SECTIONS:
            raise Invalid(
                f"{where}: there is no section [{section}]",
                hint=did_you_mean(section, list(_SECTIONS)),
            )
        if not isinstance(table, dict):
            raise Invalid(f"{where}: expected a section [{section}]")
        for key, raw in table.items():
            where = f"{path}:{_line_of(source, section, key)}"
            if (section, key) not in _KEYS:
                known = [k for s, k in _KEYS if s == section]
                raise Invalid(
                    f"{where}: there is no key {key} in [{section}]", hint=did_you_mean(key, known)
                )
            where = f"{where}: {section}.{key}"
            values[section, key] = _read(section, key, raw, where=where), where
    return values


def _line_of(source: str, *names: str) -> int:
    """The line on which the table or key of these names is first set.

    tomllib does not keep lines. A key inside an inline table is on the line of the table.
    """
    table: tuple[str, ...] = ()
    nearest, depth = 1, 0
    for number, line in enumerate(source.split("\n"), 1):
        match = re.match(r"\s*(?:\[+([^\[\]]+)\]|([\w\-.\"' ]+?)\s*=)", line)
        if not match:
            continue
        path = tuple(re.sub(r"[\s\"']", "", match[1] or match[2]).split("."))
        if match[1]:
            table = path
        else:
            path = table + path
        if path[: len(names)] == names:
            return number
        if path == names[: len(path)] and len(path) > depth:
            nearest, depth = number, len(path)
    return nearest


def _from_environment(environ: Mapping[str, str]) -> tuple[_Values, list[str]]:
    """What the AMPD_ variables say, and the names of those that mean nothing here (C1)."""
    values: _Values = {}
    unknown = []
    for variable, text in environ.items():
        if variable in _VARIABLES:
            section, key = _VARIABLES[variable]
            raw = _parsed(text, _KEYS[section, key].metadata["shape"], where=variable)
            values[section, key] = _read(section, key, raw, where=variable), variable
        elif variable.startswith("AMPD_") and variable not in _OTHER_VARIABLES:
            _check_name(variable)
            unknown.append(variable)
    return values, unknown


def _check_name(variable: str) -> None:
    import difflib

    known = [*_VARIABLES, *_OTHER_VARIABLES]
    close = difflib.get_close_matches(variable, known, n=1, cutoff=0.8)
    if close or variable.split("_")[1].lower() in _SECTIONS:
        raise Invalid(f"{variable}: there is no such setting", hint=did_you_mean(variable, known))


def _parsed(text: str, shape: type, *, where: str) -> object:
    """An environment variable's text as the value that config.toml would have."""
    try:
        if shape is bool:
            return {"true": True, "false": False}.get(text, text)
        if shape is int and re.fullmatch(r"[0-9]{1,18}", text):
            return int(text)
        if shape is list and not text.lstrip().startswith("["):
            return [item.strip() for item in text.split(",")] if text.strip() else []
        if shape in (list, dict):
            return json.loads(text)
    except (ValueError, RecursionError):
        raise Invalid(f"{where}: {expected(_SHAPES[shape], text)}") from None
    return text


def find_paths(home: str | None, config_file: str | None, environ: Mapping[str, str]) -> Paths:
    """Where this user's files lie; AMPD_HOME (or --home) puts all in one folder."""
    home = home or environ.get("AMPD_HOME")
    if home:
        data = Path(home).absolute()
        run, moved_by, config = data / "run", "AMPD_HOME", data / "config.toml"
    else:
        data = _user_folder(environ, "XDG_DATA_HOME", appdirs.user_data_dir("ampd"))
        config = _user_folder(environ, "XDG_CONFIG_HOME", appdirs.user_config_dir("ampd"))
        config, run, moved_by = config / "config.toml", data / "run", "XDG_RUNTIME_DIR"
        if environ.get("XDG_RUNTIME_DIR"):
            run = _user_folder(environ, "XDG_RUNTIME_DIR", "")
    paths = Paths(data, run, Path(config_file).absolute() if config_file else config, moved_by)
    paths.agent_socket("a")
    return paths


def _user_folder(environ: Mapping[str, str], variable: str, otherwise: str) -> Path:
    """`variable`'s folder for ampd, as far as this platform has it; else what appdirs says."""
    base = environ.get(variable, "")
    xdg = sys.platform not in ("darwin", "win32") or variable == "XDG_RUNTIME_DIR"
    folder = Path(base, "ampd") if xdg and base else Path(otherwise)
    if not folder.is_absolute():
        raise Invalid(
            f"{variable}: {expected('an absolute path', base)}", hint=f"set it, or unset {variable}"
        )
    return folder


def make_folders(paths: Paths) -> None:
    """The folders exist and are this user's (C4); else Invalid, and nothing was opened in them."""
    for folder, forbidden in _folders(paths):
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            folder.mkdir(mode=0o700, exist_ok=True)
            found = folder.lstat()
        except OSError as exc:
            raise _cannot_make(folder, exc.strerror) from None
        _check_folder(folder, found, forbidden, paths.moved_by)


def check_folders(paths: Paths) -> None:
    """Invalid where `make_folders` would raise it; nothing is made."""
    for folder, forbidden in _folders(paths):
        try:
            found = folder.lstat()
        except FileNotFoundError:
            _check_parent(folder)
        except OSError as exc:
            raise _cannot_make(folder, exc.strerror) from None
        else:
            _check_folder(folder, found, forbidden, paths.moved_by)


def _folders(paths: Paths) -> tuple[tuple[Path, int], ...]:
    """Each folder, and the bits that its mode may not have."""
    return (paths.data, 0o022), (paths.run, 0o077), (paths.agent_sockets, 0o077)


def _check_parent(folder: Path) -> None:
    """Whether the nearest folder that is there lets this user make the missing ones."""
    nearest = next(each for each in folder.parents if os.path.lexists(each))
    if not nearest.is_dir():
        raise _cannot_make(folder, os.strerror(errno.ENOTDIR))
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise _cannot_make(folder, os.strerror(errno.EACCES))


def _cannot_make(folder: Path, why: str | None) -> Invalid:
    return Invalid(f"{folder}: cannot be made: {why}")


def _check_folder(folder: Path, found: os.stat_result, forbidden: int, moved_by: str) -> None:
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
        raise Invalid(
            f"{folder}: is not a folder of this user",
            hint=f"chown it to this user, or set {moved_by} to a folder of your own",
        )
    if found.st_mode & forbidden:
        raise Invalid(
            f"{folder}: others may use it (mode {stat.S_IMODE(found.st_mode):04o})",
            hint=f"chmod 700 {folder}",
        )
