"""`amp demo`: two real nodes and a relay on this machine, in a temporary folder, shown at work.

A message with its receipt and an answer, directly; mail for somebody who is away, which a relay
keeps until he is back while its sender is gone; and what the sender hears when she is back.
What is told was asked of the nodes; what does not come true is a failure. Nothing outside the
folder is touched, nobody else is met, and all of it is removed however the demo ends
(demo_processes.py).
"""

import secrets
import time
from collections.abc import Callable
from typing import Final

from amp_cli.arguments import Arguments, Command, Option
from amp_cli.client import Client
from amp_cli.demo_ending import Ended, Ending
from amp_cli.demo_processes import Node, RelayProgram, World
from amp_cli.errors import Failure
from amp_cli.output import Output
from ampd.client import Amp, Message, Sent
from ampd.model.errors import AmpdError

_LETTERS: Final = "abcdefghjkmnpqrstuvwxyz23456789"  # none looks like another one
_STAY: Final = """\
To stay:   amp init NAME                    your first agent; the daemon starts by itself
           amp send SOMEBODY SUBJECT BODY   amp inbox   amp help
           amp daemon install               start it with your session (systemd)
"""


class _Story:
    """What is told while it happens; with --json, at its end."""

    def __init__(self, out: Output) -> None:
        self._out = out
        self.told: list[str] = []

    def tell(self, text: str) -> None:
        self.told.append(text)
        if not self._out.json:
            self._out.said(text)
            self._out.flush()


def run(arguments: Arguments, _client: Client, out: Output) -> int:
    keep = arguments.flag("--keep")
    began = time.monotonic()
    story, ending = _Story(out), Ending()
    world = World(ending, out.progress, keep=keep)
    if code := _attempt(world, ending, story.tell):
        if world.is_kept:
            out.note(f"The folder stays, with a log of each process: {world.folder}")
        return code
    seconds = round(time.monotonic() - began, 1)
    if out.json:
        kept = str(world.folder) if keep else None
        out.document({"shown": story.told, "seconds": seconds, "folder": kept})
        return 0
    story.tell(f"That took {seconds} s.{f' The folder stays: {world.folder}' if keep else ''}")
    if not out.quiet:
        out.line()
        out.text(_STAY)
    elif keep:
        out.line(str(world.folder))
    return 0


def _attempt(world: World, ending: Ending, tell: Callable[[str], None]) -> int:
    """Everything, cleaned up: 0, or what shells make of the signal that ended it."""
    with ending:
        try:
            try:
                world.open()
                _Play(world, tell).show()
            except BrokenPipeError:
                raise  # who read our output has left
            except (AmpdError, Failure, OSError) as exc:
                raise _failure(world, exc) from exc
            finally:
                world.close()
        except Ended as end:
            world.close()  # once more: the signal may have come just before it began
            return end.exit_code
    return 0


def _failure(world: World, exc: AmpdError | Failure | OSError) -> Failure:
    why = world.cause_of(exc)
    if world.is_kept:
        mend = f"the folder stays, with a log of each process: {world.folder}"
    else:
        mend = "" if "; try: " in why else "amp demo --keep"  # its logs say more
    return Failure(f"the demo failed: {why}", hint=mend)


class _Play:
    """Two nodes, a relay, and what is shown with them."""

    def __init__(self, world: World, tell: Callable[[str], None]) -> None:
        suffix = "".join(secrets.choice(_LETTERS) for _ in range(4))
        self._world = world
        self._tell = tell
        self._laptop = Node(world, "laptop", suffix)
        self._desk = Node(world, "desk", suffix)
        self._relay = RelayProgram(world, "relay")

    def show(self) -> None:
        """All of it."""
        self._relay.start()
        self._laptop.start()
        self._desk.start(self._laptop)
        invitation = self._relay.invitation(nodes=2)
        for node in (self._laptop, self._desk):
            node.use_relay(invitation)
        with self._laptop.agent("alice") as alice, self._desk.agent("bob") as bob:
            self._meet(alice, bob)
            direct = self._directly(alice, bob)
            relayed = self._through_the_relay(alice, bob)
            self._back_online(alice, bob, relayed)
            self._count(bob, [direct, relayed])

    def _meet(self, alice: Amp, bob: Amp) -> None:
        us, them = alice.whoami().address, bob.whoami().address
        self._tell(f"Two nodes run on this machine: {us} and {them}.")
        self._world.wait(lambda: _sees(alice, them) and _sees(bob, us), "the nodes meet")
        self._tell("They were told where to meet (peer.static); on a LAN, mDNS does that.")

    def _directly(self, alice: Amp, bob: Amp) -> Message:
        sent = alice.send(bob.whoami().address, "Tests are green", "Shall we ship it?")
        seconds = self._until(alice, sent, "delivered")
        message = self._arrived(bob, "alice's message arrives")
        self._tell(
            f"alice writes to bob: delivered in {seconds:.1f} s, via: {message.via}."
            f" That is a receipt of bob's key; {self._desk.domain} has it on disk."
        )
        bob.read(message)
        self._until(alice, sent, "read")
        self._tell(f"bob reads {message.body!r}, and alice sees: read.")
        bob.reply(message, "Ship it.")
        answer = self._arrived(alice, "bob's answer arrives")
        same = "in the same thread" if answer.thread_id == sent.thread_id else "in another thread"
        self._tell(f"bob answers {same}: {answer.body!r}. Signed, sealed, on disk on both sides.")
        return message

    def _through_the_relay(self, alice: Amp, bob: Amp) -> Message:
        address = bob.whoami().address
        for node in (self._laptop, self._desk):
            self._world.wait(node.is_served, f"the relay serves {node.domain}")
        self._tell("A relay runs too (ampd relay); both nodes were invited (amp relay add).")
        self._world.stop(self._desk)
        sent = alice.send(address, "While you were away", "It is out.")
        self._tell(
            f"{self._desk.domain} is off. alice writes again: {sent.status}, on her disk,"
            " signed and sealed."
        )
        seconds = self._until(alice, sent, "relayed")
        self._tell(f"{seconds:.1f} s later: relayed. The relay keeps it, and can read none of it.")
        self._world.stop(self._laptop)
        self._desk.start()
        message = self._arrived(bob, "the relay's mail arrives")
        self._tell(
            f"{self._laptop.domain} is off too, and {self._desk.domain} is back:"
            f" bob has {message.subject!r}, via: {message.via}."
        )
        return message

    def _back_online(self, alice: Amp, bob: Amp, message: Message) -> None:
        self._laptop.start(self._desk)
        self._until(alice, message, "delivered")
        self._tell(f"{self._laptop.domain} is back: alice hears that it was delivered.")
        bob.read(message)
        self._until(alice, message, "read")

    def _count(self, bob: Amp, messages: list[Message]) -> None:
        found = [message.id for message in bob.inbox()]
        if found != [message.id for message in messages]:
            raise Failure(f"bob's inbox has {len(found)} messages, of {len(messages)} sent")
        self._tell("bob reads it, and alice sees: read. Nothing lost, nothing twice.")

    def _until(self, alice: Amp, message: Sent | Message, status: str) -> float:
        """The seconds that it took."""

        def is_so() -> bool:
            return alice.status_of(message.id).status == status

        return self._world.wait(is_so, f"alice's message is {status}").seconds

    def _arrived(self, reader: Amp, what: str) -> Message:
        """The message that nobody has read yet; it stays so."""
        found = self._world.wait(lambda: reader.inbox(unread=True).messages, what).answer
        return reader.read(found[-1], peek=True)[0]


def _sees(agent: Amp, address: str) -> bool:
    return any(each.address == address and each.online for each in agent.discover())


COMMANDS = {
    "demo": Command(
        "demo",
        "",
        "two nodes and a relay on this machine: direct, offline through the relay, back online;"
        " cleans up",
        run,
        options=(Option("--keep", "", "leave the folder, and print where it is"),),
        example="amp demo",
        as_agent=False,
    )
}
