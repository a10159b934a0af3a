"""POST /route: a message of an account, checked, and sent like any other (sections 04, 05 and 07).

  RT1  The sender is who the API key says; a `from` that says another is refused.
  RT2  A wrong signature is refused, whoever it is for. A missing one is refused for whoever is not
       on this node ("strict"); "open" lets it pass within the mesh and the local network, too.
  RT3  An id that a client made is sent once: again, it gets the same answer; with another content,
       or an id that its recipient has from somebody else, it is refused.
  RT4  A recipient with an account has at most 1000 messages that wait, expired ones not counted.
  RT5  A message waits 7 days, or until its `expires_at`, at most 30 days.
  RT6  Who cannot be found is refused with 404, and nothing is sent.

Not here: what becomes of it then (transport.py), the checks that need no I/O (protocol/amp).
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

import trio

from ampd.core.agents import Agent
from ampd.core.submission import LONGEST_EXPIRY, Draft
from ampd.crypto.keys import random_bytes
from ampd.edge.amp.accounts import Account, Accounts
from ampd.edge.amp.keys import checker, key_hex
from ampd.edge.amp.mail import Mail
from ampd.edge.amp.outcomes import Outcome
from ampd.edge.amp.rendering import Rendering, carrying, envelope_of, seconds_text
from ampd.edge.amp.transport import Transport
from ampd.edge.gateway_mail import GatewayMail
from ampd.edge.gateway_values import Shared
from ampd.model.address import Address
from ampd.model.errors import Invalid, Refused
from ampd.model.message import id_from_text, id_text, new_id
from ampd.model.values import value
from ampd.protocol.amp import signing
from ampd.protocol.amp.address import Elsewhere, Here, Names, Nearby, is_local_network
from ampd.protocol.amp.envelope import Post, check_times, read_post
from ampd.protocol.amp.faults import Fault, forbidden, invalid, not_found
from ampd.protocol.amp.ids import amp_id, native_id, thread_of
from ampd.protocol.raw_json import Value, write

WAITS: Final = 7 * 86_400_000  # milliseconds: section 05, "Queue Characteristics"
MOST_WAITING: Final = 1000  # the same
_IN_THREAD: Final = 65_536  # bytes of payload whose hashes take longer than a millisecond or two
_AT_ONCE: Final = 2  # texts: the subject plain, and as in tab-separated values


@value
class Whom:
    """Who a message is for: `text` is a native address, `agent` set if it is of this node."""

    text: str
    agent: Agent | None


class Sending:
    """Sends what accounts post."""

    def __init__(
        self,
        shared: Shared,
        names: Names,
        accounts: Accounts,
        mail: Mail,
        rendering: Rendering,
        gateway_mail: GatewayMail,
        transport: Transport,
        find: Callable[[Sequence[str]], Awaitable[None]],
    ) -> None:
        """`find` looks for addresses that nobody knows yet."""
        self._shared = shared
        self._names = names
        self._accounts = accounts
        self._mail = mail
        self._rendering = rendering
        self._gateway_mail = gateway_mail
        self._transport = transport
        self._find = find

    async def send(self, account: Account, body: Value) -> tuple[dict[str, Any], dict[str, str]]:
        """Send one posted message; the answer's body, and headers that say what is left of the
        account's limits. Raises Fault, Refused, Unavailable."""
        wanted = (("route", account.name), ("hourly", account.name))
        headers = self._transport.limits.take_all(wanted)
        return await self._send(account, read_post(body)), headers

    async def _send(self, account: Account, post: Post) -> dict[str, Any]:
        now = self._shared.now()
        check_times(post, now)
        if post.sender and not self._mail.is_self(account, post.sender):
            raise forbidden("from is not the address of the agent whose API key this is")
        whom = await self._whom(account, post.to)
        sender = await self._signer(account, post, whom)
        agent = self._accounts.agent(account)
        native = native_id(post.id) if post.id else new_id(now, random_bytes(10))
        self._check_new(agent, whom, native)
        attached = self._transport.attachments.check(account.name, post.payload, native)
        if whom.agent is not None:
            self._transport.limits.take("received", whom.agent.name)
        draft, envelope = self._draft(account, agent, post, whom, native, sender)
        sent = await self._shared.rooms.submission.send(agent, draft)
        if sent.id != id_text(native):  # an idempotency key that was used before
            return self._answer(amp_id(id_from_text(sent.id)), "", Outcome("queued", "relay", now))
        readers = [whom.agent.name] if whom.agent else []
        await self._transport.attachments.bind(attached, now + draft.expires_in, readers, native)
        outcome = await self._outcome(agent, whom, native)
        return self._answer(envelope["id"], envelope["thread_id"], outcome)

    # --- for whom -------------------------------------------------------------------------

    async def _whom(self, account: Account, to: str) -> Whom:
        """RT6."""
        try:
            place = self._names.place(to, account.tenant)
        except Invalid as exc:
            raise invalid("to", str(exc)) from None
        match place:
            case Here():
                found = self._here(place, to)
            case Nearby(address, here):
                is_other = self.knows(str(address)) or self._transport.mesh_host(str(address))
                agent = None if is_other else self._mail.here(here)
                found = Whom(str(agent.address if agent else address), agent)
            case Elsewhere(address):
                found = Whom(str(address), None)
        if found.agent is None and not self.knows(found.text):
            await self._find([found.text])
            if not self.knows(found.text):
                self._transport.abuse.note("unknown_recipient", account.name)
                raise not_found(f"no agent {to} is known here")
        return found

    def _here(self, place: Here, to: str) -> Whom:
        """An account that the address fits, else the agent of a mesh host, else any agent here."""
        agent = self._mail.here(place)
        has_account = agent is not None and self._accounts.of(agent.name) is not None
        if (
            not has_account
            and "@" in to
            and "." not in place.name
            and self._transport.mesh_host(to.lower())
        ):
            return Whom(str(Address.parse(to)), None)
        if agent is not None:
            return Whom(str(agent.address), agent)
        if "@" in to and self.knows(str(Address.parse(to))):  # a node or provider within our domain
            return Whom(str(Address.parse(to)), None)
        native = Address(place.name, self._names.node)
        if self._shared.rooms.agents.at(native) is not None:  # of another tenant or scope
            raise not_found(f"no agent {to} is known here")
        return Whom(str(native), None)  # of another node that shares the domain

    def knows(self, address: str) -> bool:
        """Whether mail for a native address has somewhere to go. Refused: it is blocked."""
        try:
            self._shared.rooms.contacts.resolve(address)
        except Refused as exc:
            if exc.code != "recipient_unknown":
                raise
            return False
        return True

    # --- who signed -----------------------------------------------------------------------

    async def _signer(self, account: Account, post: Post, whom: Whom) -> str:
        """The address that the sender signed as (RT2)."""
        if not post.signature:
            if whom.agent is None and not self._may_be_unsigned(whom.text):
                raise Fault(
                    "signature_missing", 403,
                    "what leaves this host must be signed", field="signature",
                )  # fmt: skip
            return post.sender or account.address
        mine = self._names.signed_as(account.name, account.tenant, account.scope)
        sender = await _signed_as(post, mine, checker(account.key))
        if sender:
            return sender
        self._transport.abuse.note("signature", account.name)
        raise Fault(
            "signature_invalid", 403,
            f"the signature is not that of {account.address} over this message", field="signature",
        )  # fmt: skip

    def _may_be_unsigned(self, native: str) -> bool:
        domain = native.partition("@")[2]
        return self._shared.values.amp_signatures == "open" and is_local_network(domain)

    # --- what is sent ---------------------------------------------------------------------

    def _check_new(self, agent: Agent, whom: Whom, native: bytes) -> None:
        """RT3, RT4."""
        if whom.agent is None:
            return
        found = self._gateway_mail.received(whom.agent, native)
        if found is not None and found.summary.key != agent.key:
            raise Fault("conflict", 409, "another message has this id", field="id")
        has_account = self._accounts.of(whom.agent.name) is not None
        if found is None and has_account and self._waiting(whom.agent) >= MOST_WAITING:
            raise Fault("quota_exceeded", 507, f"{MOST_WAITING} messages wait for this recipient")

    def _waiting(self, agent: Agent) -> int:
        waiting = self._gateway_mail.waiting(agent)
        if waiting < MOST_WAITING:
            return waiting
        row = self._shared.rooms.store.view.execute(
            "SELECT count(*) FROM boxes b JOIN agents a ON a.id=b.agent JOIN messages m"
            " ON m.seq=b.message WHERE a.key=? AND b.state<2 AND m.expires>?",
            (agent.key, self._shared.now()),
        ).fetchone()
        return int(row[0])

    def _draft(
        self, account: Account, agent: Agent, post: Post, whom: Whom, native: bytes, sender: str
    ) -> tuple[Draft, dict[str, Any]]:
        now = self._shared.now()
        identifier = post.id or amp_id(native)
        answered = post.in_reply_to
        parent = self._rendering.thread_for(agent, answered) if answered else ""
        thread = thread_of(identifier, post.thread, answered, parent)
        envelope = envelope_of(post, identifier, sender, thread, now)
        payload = write(post.payload)
        context = carrying(envelope, key_hex(account.key))
        draft = Draft(
            to=(whom.text,),
            subject=post.subject,
            text=post.message,
            payload=payload,
            type=post.type,
            priority=post.priority,
            context=context,
            in_reply_to=native_id(answered) if answered else None,
            thread=native_id(thread),
            expires_in=min(post.expires - now if post.expires else WAITS, LONGEST_EXPIRY),
            receipt=post.receipt,
            key=f"amp:{post.key}"[:200] if post.key else "",
            id=native,
        )
        return draft, envelope

    # --- what became of it ----------------------------------------------------------------

    async def _outcome(self, agent: Agent, whom: Whom, native: bytes) -> Outcome:
        if whom.agent is None:
            return await self._transport.outcome_abroad(agent, native)
        if self._accounts.of(whom.agent.name) is None:
            return Outcome("delivered", "local", self._shared.now())
        return await self._transport.outcome(whom.agent, native)

    @staticmethod
    def _answer(identifier: str, thread: str, outcome: Outcome) -> dict[str, Any]:
        when = "delivered_at" if outcome.status == "delivered" else "queued_at"
        answer = {
            "id": identifier,
            "status": outcome.status,
            "method": outcome.method,
            when: seconds_text(outcome.at),
        }
        answer |= {"thread_id": thread} if thread else {}
        return answer | ({"remote_host": outcome.remote_host} if outcome.remote_host else {})


async def _signed_as(post: Post, mine: Sequence[str], check: signing.Check) -> str:
    """The first of the sender's addresses for which the signature holds; "" if for none.

    What nearly every client signs is tried at once, all else in a thread: it takes milliseconds.
    """
    senders = [post.sender] if post.sender else mine
    small = len(post.message) + len(write(post.payload.get("context"))) <= _IN_THREAD
    likeliest = {**post.envelope, "from": senders[0]}
    if small and signing.verify(likeliest, post.payload, check, tries=_AT_ONCE):
        return senders[0]

    def look() -> str:
        for sender in senders:
            if signing.verify({**post.envelope, "from": sender}, post.payload, check):
                return sender
        return ""

    return await trio.to_thread.run_sync(look)
