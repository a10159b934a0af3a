"""The local socket: the facts that the daemon and every local client share.

JSON-RPC 2.0, one JSON document a line, UTF-8, over a Unix stream socket. Rules of a connection:

  L1  A line is at most LINE_LIMIT bytes, its line feed included; a longer one is answered with
      an error and the connection is closed.
  L2  `system.hello` says who a connection acts as. It is answered before the next line is
      looked at, and one that fails closes the connection after its answer: a request sent in
      the same write never runs as another agent than the one it was meant for.
  L3  Errors carry JSON-RPC's own codes (section 5.1 of its specification), or APPLICATION_ERROR
      with `data.code`, one of ampd.model.errors.CODES, and `data.hint` where something mends it.
  L4  Notifications (NOTIFICATIONS) come only on a connection that asked for them.

Where the socket is: `AMP_SOCKET` for a client, else `AMPD_HOME`/run/ampd.sock, else
`XDG_RUNTIME_DIR`/ampd/ampd.sock, else <data>/run/ampd.sock. The data folder is the one that
`appdirs.user_data_dir("ampd")` names, computed here without it because a command that takes a few
milliseconds cannot wait for an import; tests/cli/test_local.py compares the two.

Imported by the command line on its fast path, so this module imports nothing but `os` and `sys`.
Not here: who may connect (edge/local_socket.py), what a method does (core).
"""

import os
import sys
from _collections_abc import Mapping  # `collections.abc` would import all of `collections`

PROTOCOL = 1
LINE_LIMIT = 8 * 1024 * 1024  # bytes; room for a message at its limit with every byte escaped

# JSON-RPC 2.0 section 5.1
PARSE_ERROR = -32700
INVALID_REQUEST = -32600
METHOD_NOT_FOUND = -32601
INVALID_PARAMS = -32602
INTERNAL_ERROR = -32603
APPLICATION_ERROR = -32000  # `data.code` says which

METHODS = frozenset(
    (
        *("system.hello", "system.status", "system.stop"),
        *("agent.create", "agent.show", "agent.remove", "agent.list"),
        *("message.send", "message.list", "message.get", "message.ack", "message.delete"),
        *("message.mark", "message.thread", "message.search", "message.status", "message.trace"),
        *("message.wait", "inbox.subscribe", "inbox.unsubscribe"),
        *("directory.list", "peer.list", "journal.check"),
        *("contact.add", "contact.list", "contact.show", "contact.verify", "contact.block"),
        *("relay.add", "relay.list", "relay.remove", "bundle.write", "bundle.read"),
        *("contact.unblock", "contact.accept", "contact.remove"),
        *("provider.register", "provider.list", "provider.remove"),
    )
)
NOTIFICATIONS = frozenset(("message.new", "message.status"))


def socket_path_limit(platform: str = sys.platform) -> int:
    """The longest path, in bytes, that a Unix socket address holds (`sun_path` less its NUL)."""
    return 107 if platform == "linux" else 103


def data_folder(environ: Mapping[str, str] = os.environ, platform: str = sys.platform) -> str:
    """Keys, journal, index and the log of a daemon in the background."""
    if home := environ.get("AMPD_HOME"):
        return os.path.abspath(home)
    user = environ.get("HOME") or os.path.expanduser("~")
    if platform == "darwin":
        return os.path.join(user, "Library", "Application Support", "ampd")
    share = environ.get("XDG_DATA_HOME") or os.path.join(user, ".local", "share")
    return os.path.join(share, "ampd")


def run_folder(environ: Mapping[str, str] = os.environ, platform: str = sys.platform) -> str:
    """The sockets' folder, mode 0700."""
    if not environ.get("AMPD_HOME") and (runtime := environ.get("XDG_RUNTIME_DIR")):
        return os.path.join(runtime, "ampd")
    return os.path.join(data_folder(environ, platform), "run")


def main_socket(environ: Mapping[str, str] = os.environ, platform: str = sys.platform) -> str:
    """The socket that may act as every agent of the node."""
    return os.path.join(run_folder(environ, platform), "ampd.sock")


def config_file(environ: Mapping[str, str] = os.environ, platform: str = sys.platform) -> str:
    """`config.toml`, where `appdirs.user_config_dir("ampd")` has it."""
    if environ.get("AMPD_HOME") or platform == "darwin":
        return os.path.join(data_folder(environ, platform), "config.toml")
    user = environ.get("HOME") or os.path.expanduser("~")
    settings = environ.get("XDG_CONFIG_HOME") or os.path.join(user, ".config")
    return os.path.join(settings, "ampd", "config.toml")
