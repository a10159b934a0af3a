"""A liar on the network: announces nodes by mDNS with packets that are made by hand.

    python mdns_forger.py ADDRESS LIE WHO

ADDRESS is the host's own, LIE one of the functions below, WHO a byte that a key is made of, or
the text of a key. It knows nothing of zeroconf.
"""

import base64
import hashlib
import socket
import struct
import sys
import time

GROUP = ("224.0.0.251", 5353)
PTR, TXT, SRV, A = 12, 16, 33, 1
FLUSH = 0x8001  # class IN with the cache-flush bit (RFC 6762, 10.2)
SERVICE = "_amp._tcp.local"


def key_text(key):
    return base64.b32encode(key).decode().rstrip("=").lower()


def key(who):
    return key_text(bytes([who]) * 32) if isinstance(who, int) else who


def name(text):
    labels = b"".join(bytes([len(label)]) + label.encode() for label in text.split("."))
    return labels + b"\0"


def record(owner, kind, data, ttl=1200, flags=FLUSH):
    header = struct.pack("!HHIH", kind, 1 if kind == PTR else flags, ttl, len(data))
    return name(owner) + header + data


def text(facts):
    return b"".join(bytes([len(fact)]) + fact for fact in facts)


def packet(*records):
    return struct.pack("!6H", 0, 0x8400, 0, len(records), 0, 0) + b"".join(records)


def announcement(who, *, facts=None, host="10.66.6.6", port=666, ttl=1200):
    """What a node named `who` would send, true or not."""
    instance = f"{who}.{SERVICE}"
    facts = [b"v=1", b"id=" + who.encode()] if facts is None else facts
    return packet(
        record(SERVICE, PTR, name(instance), ttl),
        record(instance, SRV, struct.pack("!3H", 0, 0, port) + name(f"{who}.local"), ttl),
        record(instance, TXT, text(facts), ttl),
        record(f"{who}.local", A, socket.inet_aton(host), ttl),
    )


def goodbye(who):
    """Somebody else's goodbye."""
    yield announcement(key(who), ttl=0)


def address(who):
    """Somebody else's key at an address of ours, with their records flushed."""
    yield announcement(key(who))


def malformed(seed):
    """One of each kind that must be ignored; then, to show that all were heard, a good one."""
    me = key(seed + 1)
    yield announcement("laptop")
    yield announcement("x" * 63)
    yield announcement(me[:51] + "1")
    yield announcement(me[:51])
    yield announcement(me, facts=[])
    yield announcement(me, facts=[b"v=1"])
    yield announcement(me, facts=[b"v=1", b"id=" + key(seed).encode()])
    yield announcement(me, facts=[b"v=2", b"id=" + me.encode()])
    yield announcement(me, port=0)
    yield announcement(key(seed + 2), host="127.0.0.1")
    yield announcement(key(seed + 3), host="224.0.0.1")
    yield announcement(key(seed + 4), host="0.0.0.0")
    yield announcement(key(seed + 5), facts=[b"v=1", *[b"a=" + b"z" * 250] * 33])
    looped = (
        struct.pack("!6H", 0, 0x8400, 0, 1, 0, 0) + b"\xc0\x0c" + struct.pack("!HHIH", PTR, 1, 9, 2)
    )
    yield looped + b"\xc0\x0c"
    yield struct.pack("!6H", 0, 0x8400, 0, 65535, 65535, 65535)
    yield b"\xff" * 1400
    yield b""
    yield announcement(key(seed + 9))


def flood(_):
    """More names than anybody has nodes, and than discovery lets zeroconf remember."""
    for number in range(2600):
        forged = key_text(hashlib.sha256(struct.pack("!I", number)).digest())
        yield announcement(forged, host=f"10.66.{number % 250}.1")


if __name__ == "__main__":
    ours, lie, text_of_who = sys.argv[1:]
    who = int(text_of_who) if text_of_who.isdigit() else text_of_who
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as out:
        out.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(ours))
        out.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 255)
        out.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        out.bind((ours, 5353))
        for data in globals()[lie](who):
            out.sendto(data, GROUP)
            time.sleep(0.0003)  # 3,000 a second: a flood, and not only a full buffer
