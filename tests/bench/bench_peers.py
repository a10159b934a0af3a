"""What many peers cost a node: idle sessions, slow handshakes, half words. By hand, not in CI.

    python tests/bench/bench_peers.py [PEERS]

The node runs in a process of its own; the peers come from addresses of 127.0.0.0/8.
"""

import os
import sys
from contextlib import suppress
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import trio
from contracts.carriers import tcp_node
from protocol.harness import BOB, Shelf, letter

from ampd.crypto.keys import SigningKey
from ampd.edge.peer_budget import Limits
from ampd.edge.peer_sockets import prove
from ampd.model.encoding import encode
from ampd.model.errors import RemoteProtocolError
from ampd.protocol.events import Accept, Deliver, Hello, to_wire
from ampd.protocol.framing import frame
from ampd.protocol.handshake import OPENING, Handshake
from ampd.protocol.session import Session

GONE = (trio.BrokenResourceError, RemoteProtocolError, OSError)
PEERS = int(sys.argv[1]) if len(sys.argv) > 1 else 1000


def node(port_to):
    """The child: a node that takes everybody."""

    async def run():
        limits = Limits(sessions=2 * PEERS, strangers=2 * PEERS, each=32)
        async with tcp_node(BOB, Shelf(), limits=limits) as bob:
            os.write(port_to, f"{bob.port:05}\n".encode())
            while True:
                await trio.sleep(0.5)
                os.write(port_to, f"{bob._budget.sessions} {bob._budget.held}\n".encode())

    trio.run(run)


class Child:
    def __init__(self):
        here, there = os.pipe()
        self.pid = os.fork()
        if not self.pid:
            node(there)
        self._figures = here
        self.port = int(os.read(here, 6))

    def figures(self, what):
        """Resident memory and processor time so far."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        ticks = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        memory = int(fields[21]) * os.sysconf("SC_PAGE_SIZE") / 1e6
        print(f"{what:<44} {memory:7.1f} MB resident {ticks:7.2f} s of processor so far")
        return memory, ticks

    async def counts(self):
        """How many sessions it has now, and the bytes it holds for them."""
        await trio.sleep(1.5)
        return os.read(self._figures, 1 << 20).decode().splitlines()[-1]


async def open_session(port, number):
    source = f"127.1.{number // 24 // 250}.{number // 24 % 250 + 1}"
    stream = await trio.open_tcp_stream("127.0.0.1", port, local_address=source)
    key = SigningKey(number.to_bytes(32, "big"))
    channel = await prove(stream, Handshake.calling(key, (number + 1).to_bytes(32, "big")))
    session = Session()
    await stream.send_all(channel.seal(session.send(Hello(1, "x.local", bytes(8), 0, 1 << 20))))
    while not session.receive(channel.open(await stream.receive_some())):
        pass
    return stream, channel, session


async def deliver(peer, number):
    stream, channel, session = peer
    began = trio.current_time()
    await stream.send_all(channel.seal(session.send(Deliver(session.next_number, letter(number)))))
    while True:
        events = session.receive(channel.open(await stream.receive_some()))
        if any(isinstance(event, Accept) for event in events):
            return (trio.current_time() - began) * 1000


async def slow_lorises(child):
    raw = []
    for number in range(500):
        source = f"127.2.{number // 200}.{number % 200 + 1}"
        stream = await trio.open_tcp_stream("127.0.0.1", child.port, local_address=source)
        with suppress(*GONE):
            await stream.send_all(OPENING[:1])
        raw.append(stream)
    child.figures("500 handshakes that stop after one byte")
    began = trio.current_time()
    while True:
        try:
            peer = await open_session(child.port, PEERS + 1)
        except GONE:
            await trio.sleep(0.2)
        else:
            break
    print(f"an honest caller got through after {trio.current_time() - began:.1f} s")
    for stream in raw:
        await trio.aclose_forcefully(stream)
    return peer


async def measure(child):
    before, _ = child.figures("no peer")
    began = trio.current_time()
    peers = [await open_session(child.port, number) for number in range(PEERS)]
    print(f"{PEERS} handshakes one by one: {trio.current_time() - began:.1f} s, both sides")
    after, used = child.figures(f"{PEERS} idle sessions")
    print(f"{(after - before) * 1000 / PEERS:.1f} kB a session")
    await trio.sleep(10)
    _, later = child.figures("10 s later")
    print(f"idle: {(later - used) * 10:.1f} % of a processor")
    print("sessions, bytes held:", await child.counts())
    took = sorted([await deliver(peers[number % PEERS], number) for number in range(200)])
    print(f"a delivery among them: {took[100]:.1f} ms in the middle, {took[198]:.1f} ms at 99 %")
    honest = await slow_lorises(child)
    half = frame(encode(to_wire(Deliver(1, letter(1, 1 << 20)))))[: 1 << 19]
    for stream, channel, _ in peers[: PEERS // 2]:
        with suppress(*GONE):
            await stream.send_all(channel.seal(half))
    child.figures(f"{PEERS // 2} peers sent half a mebibyte of a word")
    print("sessions, bytes held:", await child.counts())
    print(f"a delivery by another one: {await deliver(honest, 1):.1f} ms")


if __name__ == "__main__":
    the_node = Child()
    try:
        trio.run(measure, the_node)
    finally:
        os.kill(the_node.pid, 9)
        os.waitpid(the_node.pid, 0)
