"""The JSON documents of the interface contract, made from the values of the core.

Field names and forms are those that scripts rely on; nothing is left out when it is empty.
"""

import base64
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from ampd.core import json_text
from ampd.core.agents import Agent
from ampd.core.checkup import CheckReport
from ampd.core.directory import Listed
from ampd.core.flagging import Flags
from ampd.core.lists import Listing, Summary
from ampd.core.queues import Queue, Queues
from ampd.core.reading import Full
from ampd.core.relays import RelayState
from ampd.core.submission import Sent
from ampd.core.tracking import DeliveryState, Proof, Step
from ampd.core.trust import Known
from ampd.edge.peer_state import PeerState
from ampd.model.address import ContactLink, NodeUri, fingerprint, key_text
from ampd.model.errors import Invalid

Document = dict[str, Any]


def time_text(milliseconds: int | None) -> str | None:
    """RFC 3339 in UTC with milliseconds; None for 0 or None."""
    if not milliseconds:
        return None
    seconds, thousandths = divmod(milliseconds, 1000)
    try:
        return f"{_moment(seconds)}.{thousandths:03d}Z"
    except (ValueError, OverflowError, OSError):
        return "9999-12-31T23:59:59.999Z"  # a time that no calendar has


@lru_cache(maxsize=1024)  # what was written together is shown together
def _moment(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat()[:19]


def contact_link(agent: Agent, nodes: Iterable[NodeUri] = ()) -> str:
    """What somebody needs to write to this agent."""
    relays = tuple(NodeUri.parse(text) for text in agent.card.relays)
    return str(ContactLink(agent.key, agent.address, relays, tuple(nodes)))


def whoami(agent: Agent, socket: str) -> Document:
    """The `whoami` document."""
    return {
        "name": agent.name,
        "address": str(agent.address),
        "fingerprint": fingerprint(agent.key),
        "contact": contact_link(agent),
        "alias": agent.card.alias,
        "description": agent.card.description,
        "capabilities": list(agent.card.capabilities),
        "domain": agent.address.domain,
        "created": time_text(agent.created),
        "socket": socket,
    }


def sent(answer: Sent) -> Document:
    """The `send` document."""
    return {
        "id": answer.id,
        "thread_id": answer.thread,
        "status": answer.status,
        "recipients": [
            {
                "address": to.address,
                "status": to.status,
                "via": to.via or None,
                "error": to.error or None,
            }
            for to in answer.recipients
        ],
    }


def summary(found: Summary, flags: Flags) -> Document:
    """One SUMMARY."""
    return {
        "number": found.number,
        "id": found.id,
        "from": found.sender,
        "to": list(found.to),
        "subject": found.subject,
        "type": found.type,
        "priority": found.priority,
        "thread_id": found.thread,
        "in_reply_to": found.in_reply_to,
        "sent_at": time_text(found.sent),
        "received_at": time_text(found.received),
        "state": found.state,
        "reason": found.reason or None,
        "trust": found.trust,
        "encrypted": found.encrypted,
        "flags": list(flags),
        "size": found.size,
        "preview": found.preview,
        "attachments": [],
        "missing_before": found.missing,
        "status": found.status or None,
    }


def inbox(agent: Agent, listing: Listing, flags: Mapping[int, Flags]) -> Document:
    """The `inbox` document."""
    return {
        "agent": str(agent.address),
        "unread": listing.unread,
        "total": listing.total,
        "quarantined": listing.quarantined,
        "more": listing.more,
        "messages": [summary(each, flags[each.seq]) for each in listing.messages],
    }


def message(full: Full, *, raw: bool = False) -> Document:
    """One message of the `read` document."""
    return summary(full.summary, full.flags) | {
        "body": full.body,
        "payload": _json(full.payload),
        "context": _json(full.context),
        "content": full.body if raw else full.content,
        "via": full.summary.via,
        "signer": full.signer,
    }


def _json(text: str | None) -> Any:
    """The value of a JSON text; the text itself if it is none, so that it hides nothing else."""
    if text is None:
        return None
    try:
        return json_text.to_value(text)
    except Invalid:
        return text


def delivery(identifier: str, status: str, states: Sequence[DeliveryState]) -> Document:
    """The `status ID` document."""
    return {
        "id": identifier,
        "status": status,
        "recipients": [
            {
                "address": each.address,
                "status": each.status,
                "via": each.via or None,
                "attempts": each.attempts,
                "next_attempt_at": time_text(each.next_attempt_at),
                "error": each.error or None,
                "delivered_at": time_text(each.delivered_at),
                "read_at": time_text(each.read_at),
            }
            for each in states
        ],
    }


def proofs(found: Sequence[Proof]) -> list[Document]:
    """What `status ID --proof` adds."""
    return [
        {
            "address": each.address,
            "stage": each.stage,
            "at": time_text(each.at),
            "receipt": base64.b64encode(each.receipt).decode("ascii"),
            "text": _said(each),
        }
        for each in found
    ]


def _said(proof: Proof) -> str:
    if proof.stage == "refused":
        return f"{proof.address} refused it at {time_text(proof.at)}"
    return f"{proof.address} has it {proof.stage} at {time_text(proof.at)}"


def trace(identifier: str, steps: Sequence[Step], waiting: str) -> Document:
    """The `trace` document."""
    return {
        "id": identifier,
        "steps": [
            {"at": time_text(s.at), "place": s.place, "what": s.what, "detail": s.detail}
            for s in steps
        ],
        "waiting_for": waiting or None,
    }


def contacts(known: Sequence[Known], ours: Collection[str] = ()) -> Document:
    """The `contacts` document; `ours` are the addresses that only agents of this node can have."""
    return {"contacts": [_contact(each, each.address in ours) for each in known]}


def _contact(known: Known, ours: bool) -> Document:  # noqa: FBT001
    notes = [known.note] if known.note else []
    if known.blocked:
        notes.append("blocked")
    if known.state == "conflict" and ours:
        notes.append(
            "claims the address of this node, and cannot have it:"
            f" `amp contact remove {known.address}` forgets it"
        )
    elif known.state == "conflict":
        notes.append(f"key changed: `amp contact accept {known.address}` takes this one")
    if known.state == "pending":
        notes.append(f"unknown sender: `amp contact accept {known.address}` lets it in")
    return {
        "address": known.address,
        "fingerprint": fingerprint(known.key),
        "trust": known.trust,
        "state": known.state,
        "blocked": known.blocked,
        "first_seen": time_text(known.since),
        "source": known.source,
        "relays": list(known.relays),
        "note": "; ".join(notes),
    }


def discovered(found: Sequence[Listed]) -> Document:
    """The `discover` document."""
    return {
        "agents": [
            {
                "address": each.address,
                "alias": each.alias,
                "description": each.description,
                "capabilities": list(each.capabilities),
                "fingerprint": fingerprint(each.key),
                "via": each.via,
                "online": each.online,
                "trust": each.trust,
            }
            for each in found
        ]
    }


def checked(report: CheckReport) -> Document:
    """The `check` document."""
    return {
        "ok": report.ok,
        "records": report.records,
        "messages": report.messages,
        "damage": [
            {
                "segment": f"{each.segment:016d}.log" if each.segment else "index",
                "offset": each.offset,
                "bytes": each.size,
                "ids": list(each.ids),
                "reason": each.reason,
            }
            for each in report.damage
        ],
        "repaired": report.repaired,
        "note": None if report.compared else "no room on the disk to compare index and journal",
    }


def peer(state: PeerState, waiting: Queues) -> Document:
    """One line of the `peers` document."""
    return {
        "node": key_text(state.node),
        "domain": state.domain,
        "endpoint": state.endpoint,
        "found_by": state.found_by,
        "state": state.state,
        "rtt_ms": state.rtt_ms,
        "last_error": state.last_error or None,
        "last_seen": time_text(state.last_seen),
        "next_try": time_text(state.next_try),
        **_queue(waiting.of(state.node)),
    }


def _queue(waiting: Queue) -> Document:
    """What waits for a node or a relay."""
    return {"queued": waiting.count, "oldest_queued_at": time_text(waiting.oldest)}


def relays(
    states: Sequence[RelayState], peers: Sequence[PeerState], waiting: Queues
) -> list[Document]:
    """The `relays` document: each relay in use, in order, and how it is."""
    sessions = {state.node: state for state in peers}
    return [
        _relay(state, sessions.get(state.uri.key)) | _queue(waiting.of(state.uri.key))
        for state in states
    ]


def _relay(state: RelayState, session: PeerState | None) -> Document:
    how = session.state if session else "away"
    if how == "connected" and state.collecting:
        how = "collecting"
    error = state.last_error or (session.last_error if session else "")
    return {
        "uri": str(state.uri),
        "state": how,
        "source": state.source,
        "rtt_ms": session.rtt_ms if session else None,
        "last_seen": time_text(session.last_seen if session else None),
        "next_try": time_text(session.next_try if session else None),
        "last_error": error or None,
    }
