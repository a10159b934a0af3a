"""README.md is typed as it stands: its commands do what it says, on a node of a new user."""

import base64
import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
from contextlib import closing
from pathlib import Path

import pytest
from amp_cli.main import run
from foreign_clients import SPKI, AmtpClient, ask
from nacl.signing import SigningKey

README = (Path(__file__).parent.parent.parent / "README.md").read_text()
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def block(words):
    """The one block that has these words, without its prompts."""
    (found,) = [text for _, text in BLOCKS if words in text]
    return re.sub(r"^\$ ", "", found, flags=re.MULTILINE)


class NewUser:
    """Nothing in HOME, no AMPD_HOME; a gateway is open, and no port is a fixed one."""

    def __init__(self, folder):
        self.home = Path(folder)
        (self.home / "run").mkdir(mode=0o700)
        foreign = ("AMP", "XDG_")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
        self.environ = {
            **kept,
            "HOME": str(self.home),
            "XDG_RUNTIME_DIR": str(self.home / "run"),
            "PATH": f"{Path(sys.executable).parent}:{kept['PATH']}",
            "AMPD_NODE_DOMAIN": "laptop.local",
            "AMPD_PEER_LISTEN": "",
            "AMPD_DISCOVERY_MDNS": "false",
            "AMPD_GATEWAY_LISTEN": "127.0.0.1:0",
        }

    def types(self, text, program=("bash", "-euc")):
        """What typing this prints."""
        done = subprocess.run(
            [*program, text],
            env=self.environ,
            cwd=self.home,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def close(self):
        self.types("amp daemon stop")


@pytest.fixture(scope="module")
def user():
    """alice and bob have had the first conversation."""
    with tempfile.TemporaryDirectory(prefix="amp") as folder, closing(NewUser(folder)) as user:
        user.said = user.types(block("amp --agent bob reply"))
        yield user


def test_the_first_conversation_ends_with_the_answer(user):
    assert "Ship it." in user.said


def test_the_python_of_the_readme_runs(user):
    text, lasting, _ = block("from ampd.client import connect").partition(
        "    for message in amp.sub"
    )
    assert lasting
    user.types(text, [sys.executable, "-c"])
    assert "Hello" in user.types("amp --agent bob inbox")


def test_json_rpc_is_spoken_on_the_socket_that_whoami_names(user):
    answer = json.loads(user.types(block("system.hello")))
    assert answer["result"]["agent"] == "alice"
    assert (
        user.types("amp --agent alice whoami --json | grep -c 'agents/alice.sock'").strip() == "1"
    )


def test_the_fields_of_a_registration_are_those_the_gateway_wants(user):
    url = json.loads(user.types("amp status --json"))["gateway"]["url"]
    fields = json.loads(re.search(r"`(\{[^`]*public_key[^`]*\})`", README)[1])
    der = base64.b64encode(SPKI + bytes(SigningKey.generate().verify_key)).decode()
    pem = f"-----BEGIN PUBLIC KEY-----\n{der}\n-----END PUBLIC KEY-----"
    path = re.search(r"`http://localhost:23000(/\S*/register)`", README)[1]
    answer = ask("POST", url + path, {**fields, "public_key": pem})
    assert answer["address"].startswith(fields["name"])
    pending = f"{url}/api/v1/messages/pending"
    assert ask("GET", pending, Authorization=f"Bearer {answer['api_key']}")["messages"] == []


def test_the_admin_key_of_the_readme_is_one(user):
    url = json.loads(user.types("amp status --json"))["gateway"]["url"]
    line = next(x for x in block("AMTP_ADMIN_KEY").splitlines() if "AMTP_ADMIN_KEY" in x)
    key = user.types(f'{line}\necho "$AMTP_ADMIN_KEY"').strip()
    assert "walter" in AmtpClient(url, "walter", key).address


def commands():
    """Every `amp ...` that stands in a block or between backquotes."""
    typed = re.findall(r"^(?:\$ )?(?:\.amp/bin/)?(amp .*?)(?: +#.*| && .*)?$", README, re.MULTILINE)
    quoted = [text for text in re.findall(r"`(amp [^`]*)`", README) if "=" not in text]
    return sorted({*typed, *quoted} - {"amp help"})


@pytest.mark.parametrize("line", commands())
def test_every_command_of_the_readme_has_help_with_an_example(line, capsys):
    words = [word for word in shlex.split(line)[1:] if word != "..."]
    assert run([*words, "--help"]) == 0
    assert "\nexample:\n  amp " in capsys.readouterr().out


@pytest.mark.parametrize("extra", re.findall(r"ampd-node\[(\w+)\]", README))
def test_every_extra_of_the_readme_exists(extra):
    import tomllib

    project = tomllib.loads((Path(__file__).parent.parent.parent / "pyproject.toml").read_text())
    assert extra in project["project"]["optional-dependencies"]
