"""How far messages got, and lists of them, as AMTP clients ask (sections 5.2.2, 12.1.2, 12.1.3).

  VI1  An agent sees what it sent and what it got, and nothing else; the owner sees everything.
  VI2  A recipient's status is what is on disk; tries and the next one are this process's memory,
       or, of a push, the registry's.
  VI3  An agent with a push target has its mail (`delivered`) when the target took it; until then
       its status is `delivering`, after a try that failed `retrying`.
  VI4  Recipients that nobody could be found for are remembered for 30 days (kind "amtp.failed"),
       so that a status names them too.

Not here: whole messages (mail.py); who asks (accounts.py).
"""

import json
from collections.abc import Callable, Sequence
from typing import Any, Final

from ampd.core.agents import Agent
from ampd.core.submission import Sent
from ampd.edge.amtp.accounts import Accounts
from ampd.edge.amtp.addresses import Addresses
from ampd.edge.amtp.times import time_text
from ampd.edge.gateway_values import Shared
from ampd.model.address import Address
from ampd.model.errors import Refused
from ampd.model.message import id_text
from ampd.model.values import value
from ampd.protocol.amtp.statuses import RecipientStatus, of_native, overall

FAILED: Final = "amtp.failed"
PUSH: Final = "amtp.push"
REMEMBER: Final = 30 * 86_400_000  # ms: as long as a message may wait
STATUSES: Final = (
    *("pending", "accepted", "queued", "delivering", "retrying", "delivered", "failed"),
)

Attempts = Callable[[str, str], tuple[int, int, int]]  # of a message and an address abroad


@value
class Found:
    """A message that is here."""

    seq: int
    id: str
    sender: str  # native
    by: Agent | None  # the agent here that sent it
    sent: int
    at: int
    subject: str
    to: tuple[str, ...]  # native


@value
class Wanted:
    """What a list is narrowed to; addresses are native."""

    status: str = ""
    sender: str = ""
    recipient: str = ""
    since: int = 0
    limit: int = 100
    offset: int = 0


def failed_key(identifier: str, sender: Agent | None) -> str:
    """Where the unknown recipients of a sender's message stand: others may use the same id."""
    return f"{identifier}/{sender.key.hex()[:32] if sender else ''}"


def push_key(name: str, identifier: str) -> str:
    """Where the state of a push stands in the registry."""
    return f"{name}/{identifier}"


class Views:
    """Answers where messages are."""

    def __init__(
        self, shared: Shared, accounts: Accounts, addresses: Addresses, attempts: Attempts
    ) -> None:
        self._rooms = shared.rooms
        self._registry = shared.registry
        self._accounts = accounts
        self._addresses = addresses
        self._attempts = attempts

    # --- one ------------------------------------------------------------------------------

    def found(self, identifier: bytes, agent: Agent | None) -> Found | None:
        """The message of this id that `agent` may see (VI1); None is the owner."""
        rows = self._rooms.store.view.execute(
            f"SELECT {_COLUMNS} FROM messages m LEFT JOIN agents s ON s.id=m.by"  # noqa: S608
            f" WHERE m.id=:id AND {_VISIBLE} "
            " ORDER BY (:key IS NOT NULL AND s.key IS NOT :key), m.by IS NULL, m.seq",
            {"id": identifier, "key": agent.key if agent else None},
        ).fetchall()
        return self._found(rows[0]) if rows else None

    def repeats(self, agent: Agent, prefix: str, since: int) -> list[Found]:
        """What an agent sent under idempotency keys that begin so, the first first."""
        rows = self._rooms.store.view.execute(
            f"SELECT {_COLUMNS} FROM messages m JOIN agents s ON s.id=m.by"  # noqa: S608
            " WHERE s.key=:key AND m.key>=:first AND m.key<:last AND m.at>=:since ORDER BY m.seq",
            {"key": agent.key, "first": prefix, "last": f"{prefix}~", "since": since},
        ).fetchall()
        return [self._found(row) for row in rows]

    def is_new(self, agent: Agent, prefix: str, identifier: bytes) -> bool:
        """Whether nothing the agent sent has this id, or such a key."""
        row = self._rooms.store.view.execute(
            "SELECT 1 FROM messages WHERE id=:id AND sender_key=:key UNION ALL"
            " SELECT 1 FROM agents s JOIN messages m ON s.id=m.by"
            " WHERE s.key=:key AND m.key>=:first AND m.key<:last LIMIT 1",
            {"id": identifier, "key": agent.key, "first": prefix, "last": f"{prefix}~"},
        ).fetchone()
        return row is None

    def has_id(self, agent: Agent, identifier: bytes) -> bool:
        """Whether the agent sent a message under this id."""
        row = self._rooms.store.view.execute(
            "SELECT 1 FROM messages WHERE id=? AND sender_key=?", (identifier, agent.key)
        ).fetchone()
        return row is not None

    def _found(self, row: Any) -> Found:
        by = self._rooms.agents.of_key(row["by_key"]) if row["by_key"] else None
        return Found(
            row["seq"], id_text(row["id"]), row["sender"], by, row["sent"], row["at"],
            row["subject"], tuple(json.loads(row["recipients"])),
        )  # fmt: skip

    def recipients(self, found: Found) -> list[RecipientStatus]:
        """Every recipient's copy, in the order of the message; then those that were unknown."""
        copies = self._sent(found) if found.by else self._received(found)
        return copies + self.unknown(found)

    def just_sent(self, sent: Sent) -> list[RecipientStatus]:
        """The same of what was sent in this moment, if all of it stayed on this node; else []."""
        if not sent.at or any(each.via != "local" for each in sent.recipients):
            return []
        agents = [self._rooms.agents.at(Address.parse(each.address)) for each in sent.recipients]
        copies = [self._here(sent.id, agent, sent.at, 0) for agent in agents if agent]
        return copies if len(copies) == len(agents) else []

    def _sent(self, found: Found) -> list[RecipientStatus]:
        rows = self._rooms.store.view.execute(
            "SELECT * FROM deliveries WHERE message=? ORDER BY recipient", (found.seq,)
        ).fetchall()
        waits = any(row["status"] in ("queued", "relayed") for row in rows)
        tries = self._tries(found) if waits else {}
        return [self._copy(found, row, tries) for row in rows]

    def _tries(self, found: Found) -> dict[str, tuple[int, int, str]]:
        """Attempts, the next one and the last error, by address, of what still waits."""
        if found.by is None:
            return {}
        try:
            states = self._rooms.tracking.deliveries(found.by, found.id)[2]
        except Refused:
            return {}
        return {each.address: (each.attempts, each.next_attempt_at, each.error) for each in states}

    def _copy(
        self, found: Found, row: Any, tries: dict[str, tuple[int, int, str]]
    ) -> RecipientStatus:
        agent = self._rooms.agents.of_key(row["key"]) if row["via"] == "local" else None
        if agent is not None:
            at = row["delivered_at"] or row["at"]
            return self._here(found.id, agent, at, row["acked_at"] or 0)
        attempts, next_try, error = tries.get(row["address"], (0, 0, row["error"] or ""))
        abroad = self._attempts(found.id, row["address"])[0]
        status = of_native(row["status"], attempts or abroad)
        return RecipientStatus(
            address=self._addresses.shown(row["address"]),
            status=status,
            timestamp=time_text(row["delivered_at"] or row["at"]) or "",
            attempts=attempts or abroad or int(status == "delivered"),
            error_code=_code(row["status"], status),
            error_message=error if status in ("failed", "retrying") else "",
            next_retry=time_text(next_try) or "" if status != "delivered" else "",
            delivered_at=time_text(row["delivered_at"]) or "",
            acknowledged_at=time_text(row["acked_at"]) or "",
        )

    def _received(self, found: Found) -> list[RecipientStatus]:
        rows = self._rooms.store.view.execute(
            "SELECT a.key, b.acked_at FROM boxes b JOIN agents a ON a.id=b.agent"
            " WHERE b.message=? AND b.state<3 ORDER BY b.agent",
            (found.seq,),
        ).fetchall()
        agents = [(self._rooms.agents.of_key(row["key"]), row["acked_at"] or 0) for row in rows]
        return [self._here(found.id, agent, found.at, acked) for agent, acked in agents if agent]

    def _here(self, identifier: str, agent: Agent, at: int, acked: int) -> RecipientStatus:
        """The copy of an agent of this node (VI3)."""
        account = self._accounts.of(agent.name)
        copy = RecipientStatus(
            address=self._addresses.of_agent(agent),
            status="delivered",
            timestamp=time_text(acked or at) or "",
            attempts=1,
            delivery_mode=account.mode if account else "pull",
            local=True,
            delivered_at=time_text(at) or "",
            acknowledged_at=time_text(acked) or "",
        )
        push = self._registry.get(PUSH, push_key(agent.name, identifier))
        if push is not None:
            return _pushed(copy, push)
        if copy.delivery_mode == "push" and not acked:
            return RecipientStatus(
                copy.address, "delivering", copy.timestamp, 0, delivery_mode="push", local=True
            )
        return copy

    def unknown(self, found: Found) -> list[RecipientStatus]:
        """The recipients that nobody could be found for (VI4)."""
        key = failed_key(found.id, found.by)
        value = self._registry.get(FAILED, key) if found.by else None
        return [] if value is None else failed_copies(value)

    def unsent(self, identifier: str, agent: Agent | None) -> dict[str, Any] | None:
        """What is remembered of a message that reached nobody, as `agent` may see it (VI1)."""
        found = self._registry.find(FAILED, prefix=failed_key(identifier, agent), limit=1)
        return found[0].value if found else None

    # --- lists ----------------------------------------------------------------------------

    def listing(self, agent: Agent | None, wanted: Wanted) -> tuple[list[Found], int]:
        """The messages that fit, the newest first, and how many there are in all (VI1)."""
        where, values = [_OF_AGENT if agent else "1"], self._values(agent, wanted)
        if wanted.sender:
            where.append("m.sender=:sender")
        if wanted.recipient:
            where.append(_FOR)
        if wanted.since:
            where.append("m.at>=:since")
        if wanted.status:
            where.append(_BY_STATUS[wanted.status])
        source = "FROM messages m LEFT JOIN agents s ON s.id=m.by WHERE " + " AND ".join(where)
        view = self._rooms.store.view
        total = view.execute(f"SELECT count(*) {source}", values).fetchone()[0]
        rows = view.execute(
            f"SELECT {_COLUMNS} {source} ORDER BY m.seq DESC LIMIT :limit OFFSET :offset",
            values,
        ).fetchall()
        return [self._found(row) for row in rows], int(total)

    def _values(self, agent: Agent | None, wanted: Wanted) -> dict[str, Any]:
        pushed = [each.agent.key.hex() for each in self._accounts.all() if each.mode == "push"]
        entries = self._registry.find(PUSH) if pushed else []
        failed = [entry.key.rpartition("/")[2] for entry in entries if entry.value["failed"]]
        return {
            "key": agent.key if agent else None,
            "sender": wanted.sender,
            "recipient": wanted.recipient,
            "since": wanted.since,
            "limit": wanted.limit,
            "offset": wanted.offset,
            "pushed": json.dumps(pushed),
            "failed": json.dumps([each.replace("-", "") for each in failed]),
        }


def failed_copies(value: dict[str, Any]) -> list[RecipientStatus]:
    """What stands under "amtp.failed", as statuses."""
    return [
        RecipientStatus(
            each["address"], "failed", each["at"], 0, each["code"], each["message"]
        )
        for each in value["recipients"]
    ]  # fmt: skip


def earliest_retry(copies: Sequence[RecipientStatus]) -> str | None:
    """When the next try of any recipient is due."""
    return min((each.next_retry for each in copies if each.next_retry), default=None)


def status_members(copies: Sequence[RecipientStatus], created: str) -> dict[str, Any]:
    """What both views of a message say about how far it got."""
    status = overall(copies)
    found: dict[str, Any] = {
        "status": status,
        "recipients": [each.document() for each in copies],
        "attempts": max((each.attempts for each in copies), default=0),
        "next_retry": earliest_retry(copies),
        "created_at": created,
        "updated_at": max(created, *(each.acknowledged_at or each.timestamp for each in copies)),
    }
    if status == "delivered":
        found["delivered_at"] = max(each.delivered_at or each.timestamp for each in copies)
    return found


def _pushed(copy: RecipientStatus, push: dict[str, Any]) -> RecipientStatus:
    """The copy of an agent whose target did not take it at once."""
    failed = bool(push["failed"])
    return RecipientStatus(
        copy.address, "failed" if failed else "retrying", time_text(push["at"]) or "",
        push["attempts"], push["code"], push["error"], "push", local=True,
        next_retry="" if failed else time_text(push["next"]) or "",
    )  # fmt: skip


def _code(native: str, status: str) -> str:
    if status == "retrying":
        return "TEMPORARY_FAILURE"
    if status == "failed":
        return "RECIPIENT_UNAVAILABLE" if native == "expired" else "DELIVERY_FAILED"
    return ""


_COLUMNS: Final = (
    "m.seq, m.id, m.sender, m.sent, m.at, m.subject, m.recipients, s.key AS by_key"
)  # fmt: skip
_VISIBLE: Final = (
    "(:key IS NULL OR s.key=:key OR EXISTS(SELECT 1 FROM boxes b JOIN agents a ON a.id=b.agent"
    " WHERE b.message=m.seq AND a.key=:key AND b.state<3))"
)
# The same for lists, from the agent's side: its own mail is less than everybody's.
_OF_AGENT: Final = (
    "m.seq IN (SELECT b.message FROM boxes b JOIN agents a ON a.id=b.agent WHERE a.key=:key"
    " AND b.state<3 UNION ALL SELECT o.seq FROM messages o JOIN agents a ON a.id=o.by"
    " WHERE a.key=:key)"
)
_FOR: Final = "EXISTS(SELECT 1 FROM json_each(m.recipients) r WHERE r.value=:recipient)"
_HAS_FAILED: Final = (
    "(EXISTS(SELECT 1 FROM deliveries d WHERE d.message=m.seq AND d.status IN"
    " ('failed','expired')) OR lower(hex(m.id)) IN (SELECT value FROM json_each(:failed)))"
)
_IS_OPEN: Final = (
    "(EXISTS(SELECT 1 FROM deliveries d WHERE d.message=m.seq AND d.status IN"
    " ('queued','relayed')) OR EXISTS(SELECT 1 FROM boxes b JOIN agents a ON a.id=b.agent"
    " WHERE b.message=m.seq AND b.state<2 AND lower(hex(a.key)) IN"
    " (SELECT value FROM json_each(:pushed))))"
)
_PENDING: Final = f"({_IS_OPEN} AND NOT {_HAS_FAILED})"
_BY_STATUS: Final = {
    "failed": _HAS_FAILED,
    "delivered": f"(NOT {_IS_OPEN} AND NOT {_HAS_FAILED})",
    **dict.fromkeys(("pending", "accepted", "queued", "delivering", "retrying"), _PENDING),
}
