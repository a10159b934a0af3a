"""What the repository promises about itself."""

import ast
import pkgutil
import re
import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path

import amp_cli
import pytest

import ampd

TOP = Path(__file__).parent.parent.parent
FILES = [
    TOP / name
    for name in subprocess.run(
        ["git", "ls-files", "-z"], cwd=TOP, capture_output=True, text=True, check=True
    ).stdout.split("\0")
    if name and (TOP / name).is_file()
]
MODULES = [path for path in FILES if path.suffix == ".py" and path.is_relative_to(TOP / "ampd")]
MODULES += [path for path in FILES if path.suffix == ".py" and path.is_relative_to(TOP / "cli")]
TESTS = [path for path in FILES if path.suffix == ".py" and path.is_relative_to(TOP / "tests")]
PROJECT = tomllib.loads((TOP / "pyproject.toml").read_text())
TREES = {path: ast.parse(path.read_text()) for path in (*MODULES, *TESTS)}

# A rule stands at the head of a line of a docstring: a letter or a few, a number, two blanks.
RULE = re.compile(r"^ +([A-Z]{1,4}\d{1,2}) {2,}\S", re.MULTILINE)


# Two rooms may both have a rule S1: a test in the folder of another room does not count.
_ROOMS = {"model", "crypto", "protocol", "storage", "core", "edge", "cli", "client"}
OTHER_ROOMS = {room: _ROOMS - {room} for room in _ROOMS}


def name_of(path):
    return str(path.relative_to(TOP)) if isinstance(path, Path) else str(path)


def docstring(path):
    return ast.get_docstring(TREES[path], clean=False) or ""


def calls(path):
    return [node for node in ast.walk(TREES[path]) if isinstance(node, ast.Call)]


each_module = pytest.mark.parametrize("module", MODULES, ids=name_of)
each_test = pytest.mark.parametrize("module", TESTS, ids=name_of)


def test_the_top_level_holds_nothing_but_what_everybody_looks_for():
    assert {path.relative_to(TOP).parts[0] for path in FILES} <= {
        *("README.md", "CHANGELOG.md", "LICENSE", "pyproject.toml", "requirements.lock"),
        *("ampd", "cli", "systemd", "tests"),
        *(".ci", ".editorconfig", ".gitattributes", ".gitignore", ".importlinter"),
    }


@each_module
def test_a_module_says_what_it_is_and_fits_in_the_head(module):
    source = module.read_text()
    assert source.strip() == "" or docstring(module), "no module docstring"
    assert source.count("\n") <= 400, "split it, or argue for it in DESIGN.md"


@each_module
def test_a_function_fits_on_a_screen(module):
    long = {
        node.name: node.end_lineno - node.lineno + 1
        for node in ast.walk(TREES[module])
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        if node.end_lineno - node.lineno >= 60
    }
    assert long == {}


@pytest.mark.parametrize(
    ("module", "rule"),
    [(module, rule) for module in MODULES for rule in RULE.findall(docstring(module))],
    ids=name_of,
)
def test_every_numbered_rule_has_a_test_of_its_name(module, rule):
    room = (
        "cli" if module.is_relative_to(TOP / "cli") else module.relative_to(TOP / "ampd").parts[0]
    )
    tests = "\n".join(
        path.read_text()
        for path in TESTS
        if room.endswith(".py") or path.relative_to(TOP / "tests").parts[0] not in OTHER_ROOMS[room]
    )
    assert re.search(rf"def test_(\w+_)?{rule.lower()}_", tests), f"no test_{rule.lower()}_..."


@each_module
def test_no_code_catches_what_it_does_not_know(module):
    if module == TOP / "ampd/edge/bugs.py":
        return  # the one place: a bug in one method must not end everybody's daemon (P8)
    caught = [
        f"line {node.lineno}"
        for node in ast.walk(TREES[module])
        if isinstance(node, ast.ExceptHandler)
        if node.type is None
        or {"Exception", "BaseException"} & {n.id for n in ast.walk(node.type) if hasattr(n, "id")}
    ]
    assert caught == []


@pytest.mark.parametrize("path", [*MODULES, *TESTS], ids=name_of)
def test_nothing_is_left_to_be_done_later(path):
    marks = "|".join(["TO" + "DO", "FIX" + "ME", "X" + "XX", "NotImplemented" + "Error"])
    assert re.findall(rf"\b({marks})\b", path.read_text()) == []


# The two that wait, and why nothing else will do. What tests/bench measures is the clock itself.
WAITING = {
    TOP / "tests/lan.py": "asks processes in other network namespaces until they say yes, or fails",
    TOP / "tests/edge/mdns_forger.py": "paces a flood, so that it is more than one full buffer",
}


@pytest.mark.parametrize(
    "module",
    [path for path in TESTS if not path.is_relative_to(TOP / "tests/bench")],
    ids=name_of,
)
def test_no_test_waits_for_a_clock_on_the_wall(module):
    if module in WAITING:
        return
    waits = [ast.unparse(call) for call in calls(module) if ast.unparse(call.func) == "time.sleep"]
    assert waits == []


@each_test
def test_no_test_asserts_calls_of_a_mock(module):
    imported = {
        alias.name
        for node in ast.walk(TREES[module])
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }
    assert not imported & {"mock", "unittest.mock", "Mock", "MagicMock"}


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_no_file_names_a_place_that_only_one_machine_has(path):
    # written apart, so that this file is none of them
    places = ["/wo" + "rk/", "/ro" + "ot/", "/ho" + "me/user", "/op" + "t/pypi", "/op" + "t/wheels"]
    hosts = ["py" + "pi.org", "python" + "hosted.org", "deb.deb" + "ian.org", "npm" + "js.org"]
    text = path.read_bytes().decode(errors="replace")
    assert [each for each in (*places, *hosts) if each in text] == []


# Settings: the table of the interface contract, key by key.
SETTINGS = {
    "node": {"domain"},
    "peer": {"listen", "static"},
    "discovery": {"mdns", "interfaces"},
    "relay": {"servers"},
    "policy": {"unknown_senders"},
    "gateway": {
        *("listen", "amp_domain", "amtp_domain", "admin_keys", "resolve", "certificate", "key"),
        *("plain_http", "hosts", "webhook_hosts", "dns", "limits", "registration", "tenants"),
        *("federation", "federation_allow", "amp_signatures", "mesh", "amtp_auth"),
        *("amtp_signatures", "amtp_signing_key", "amtp_selector", "mirror"),
    },
    "limits": {"message_bytes"},
    "metrics": {"listen"},
    "log": {"level", "format"},
}


def test_every_setting_of_the_interface_exists_and_no_other():
    from ampd import config

    found = {}
    for section, key in config._KEYS:
        found.setdefault(section, set()).add(key)
    assert found == SETTINGS


# Packaging

PACKAGES = [
    module.name
    for package in (ampd, amp_cli)
    for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
    if not module.name.endswith("__main__")
]


@pytest.mark.parametrize("name", PACKAGES)
def test_every_module_can_be_imported(name):
    assert import_module(name).__name__ == name


def test_the_version_is_the_same_wherever_it_stands():
    assert PROJECT["project"]["version"] == ampd.__version__


def test_amp_help_names_every_command_module():
    run = [sys.executable, "-c", "from amp_cli.main import run; raise SystemExit(run(['--help']))"]
    text = subprocess.run(run, capture_output=True, text=True, check=True).stdout
    from amp_cli.main import GROUPS

    served = {module for group in GROUPS.values() for module, _ in group.values()}
    modules = {path.stem for path in (TOP / "cli/amp_cli/commands").glob("*.py")} - {"__init__"}
    assert modules - served <= {"daemon_install"}
    for group in GROUPS.values():
        for name in group:
            assert re.search(rf"^  {name} ", text, re.MULTILINE), name


def locked():
    """name -> the lines of its entry in requirements.lock."""
    text = (TOP / "requirements.lock").read_text().replace("\\\n", " ")
    entries = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return {line.split("==")[0].split("[")[0]: line for line in entries}


def plain(name):
    """A distribution's name as an index has it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", re.match(r"[\w.-]+", name)[0]).lower()


def test_every_dependency_is_locked_to_a_version_and_its_hashes():
    project = PROJECT["project"]
    wanted = [*project["dependencies"], *PROJECT["build-system"]["requires"]]
    for extra in project["optional-dependencies"].values():
        wanted += [each for each in extra if not each.startswith(project["name"])]
    assert {plain(each) for each in wanted} <= set(locked())
    for name, line in locked().items():
        assert re.match(rf"{re.escape(name)}==\S+ +--hash=sha256:[0-9a-f]{{64}}", line), name


def test_the_lock_names_no_address():
    text = (TOP / "requirements.lock").read_text()
    assert "://" not in text
    assert "index" not in text


def test_the_units_are_in_the_wheel_where_amp_looks_for_them():
    from amp_cli.commands import daemon_install

    into = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]["systemd"]
    assert Path(daemon_install._TEMPLATES[0]).resolve() == TOP / "cli" / into


# Documents


def test_the_license_is_the_one_that_the_project_file_names():
    assert PROJECT["project"]["license"] == "Apache-2.0"
    assert "Apache License" in (TOP / "LICENSE").read_text()


def test_the_changelog_has_a_place_for_what_comes_next():
    text = (TOP / "CHANGELOG.md").read_text()
    assert "\n## [Unreleased]\n" in text
    kinds = re.findall(r"^### (\w+)$", text, re.MULTILINE)
    assert set(kinds) <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


def test_the_readme_has_the_line_that_ci_runs():
    lines = (TOP / "README.md").read_text().splitlines()
    tests = [line.strip() for line in lines if line.strip().startswith("python3 -m venv .venv && ")]
    assert len(tests) == 1
    assert tests[0].endswith("&& .venv/bin/pytest")
    assert "--require-hashes -r requirements.lock" in tests[0]
