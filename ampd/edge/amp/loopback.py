"""Whether a connection over loopback comes from a program of the node's own user (Linux).

The kernel lists every TCP connection with the user who made it (proc(5), /proc/net/tcp). It is
asked where an HTTP client could prove with no key who it is, as SO_PEERCRED is on the Unix socket;
so a program of the same user may do over HTTP what it may do there.

  LB1  Yes only for a peer on loopback, reached by a name of loopback, through no proxy, and if each
       socket with the peer's address and port is of this process's user.
"""

import ipaddress
import os
import socket
import struct
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from ampd.edge.http.words import Request

_PROXIES: Final = (
    *("x-forwarded-for", "x-forwarded-host", "x-forwarded-proto"),
    *("forwarded", "x-real-ip", "via"),
)
_LISTS: Final = {4: Path("/proc/net/tcp"), 6: Path("/proc/net/tcp6")}
_LISTENING: Final = "0A"


def is_own_user(request: Request) -> bool:
    """LB1."""
    port = request.peer_port
    if not port or any(name in request.headers for name in _PROXIES):
        return False
    host = urlsplit(request.base).hostname or ""
    if not (host == "localhost" or _is_loopback(host)) or not _is_loopback(request.peer):
        return False
    users = _users(request.peer, port)
    return bool(users) and users == {os.getuid()}


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _users(host: str, port: int) -> set[int]:
    """Who has a connection from this address and port."""
    address = ipaddress.ip_address(host)
    wanted = {(address.version, f"{_hex(address.packed)}:{port:04X}")}
    if address.version == 4:  # a socket for both families
        mapped = ipaddress.IPv6Address(f"::ffff:{host}").packed
        wanted.add((6, f"{_hex(mapped)}:{port:04X}"))
    found = set()
    for version, local in wanted:
        for line in _lines(_LISTS[version]):
            words = line.split()
            if len(words) > 7 and words[1] == local and words[3] != _LISTENING:
                found.add(int(words[7]))
    return found


def _hex(packed: bytes) -> str:
    """As the kernel prints an address: words of 32 bits in the machine's order."""
    words = struct.unpack(f"!{len(packed) // 4}I", packed)
    return "".join(f"{socket.htonl(word):08X}" for word in words)


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text("ascii").splitlines()[1:]
    except OSError:  # another system than Linux: nobody can be told apart
        return []
