"""How workflows are shown: GET /v1/workflows/{id}, and what their sender is told at their end.

  WV1  Only the sender of a workflow and administrators are shown it; to all others it is unknown.

Not here: what happens to them (workflows.py).
"""

from collections.abc import Sequence
from typing import Any

from ampd.core.agents import Agent
from ampd.edge.amtp.failures import Failure
from ampd.edge.amtp.ports import Mail
from ampd.edge.amtp.times import time_text
from ampd.edge.amtp.workflow_records import load
from ampd.edge.http.words import Answer, Request, Route
from ampd.protocol import raw_json
from ampd.protocol.amtp.coordination import Workflow
from ampd.storage.registry import Registry


class WorkflowViews:
    """Answers who asks."""

    def __init__(self, registry: Registry, mail: Mail) -> None:
        self._registry = registry
        self._mail = mail

    def routes(self) -> Sequence[Route]:
        """Every method of every path."""
        return (Route("GET", "/v1/workflows/{id}", self._show),)

    async def _show(self, request: Request) -> Answer:
        caller = self._mail.caller(request) if "x-admin-key" not in request.headers else None
        if caller is None:
            self._mail.check_admin(request)
        found = load(self._registry, request.params["id"].lower())
        if found is None or (caller and not self._is_of(found[0], caller)):
            raise Failure(404, "WORKFLOW_NOT_FOUND", "there is no such workflow of yours")
        return Answer.json(200, shown(found[0]))

    def _is_of(self, workflow: Workflow, agent: Agent) -> bool:
        """WV1. An agent that is younger has the sender's name only."""
        mine = self._mail.address_of(agent)
        return workflow.sender == mine and workflow.created >= agent.created


def shown(workflow: Workflow) -> dict[str, Any]:
    """A workflow as AMTP 1.0, section 7.2.1, shows it."""
    participants = []
    for each in workflow.participants:
        member: dict[str, Any] = {"address": each.address, "status": each.status}
        if each.status == "waiting":
            member["status"] = "pending"
        if each.reply and each.status == "completed":
            member["response"] = raw_json.Raw(each.reply)
        if member["status"] == "pending":
            member["deadline"] = time_text(workflow.deadline)
        if each.error:
            member["error"] = each.error
        participants.append(member)
    return {
        "workflow_id": workflow.id,
        "status": workflow.status,
        "coordination_type": workflow.plan.kind,
        "created_at": time_text(workflow.created),
        "updated_at": time_text(workflow.updated),
        "participants": participants,
    }


def outcome(workflow: Workflow) -> dict[str, Any]:
    """What its sender is told (WF5)."""
    results = [
        {
            "address": each.address,
            "status": each.status,
            "payload": raw_json.Raw(each.reply) if each.reply else None,
        }
        for each in workflow.participants
    ]
    found: dict[str, Any] = {
        "workflow_id": workflow.id,
        "coordination_type": workflow.plan.kind,
        "status": workflow.status,
        "results": results,
    }
    if workflow.status == "timeout":
        found["error_code"] = "WORKFLOW_TIMEOUT"
    elif workflow.status == "failed":
        missing = any(e.required and e.status == "failed" for e in workflow.participants)
        found["error_code"] = "REQUIRED_RESPONSE_MISSING" if missing else "COORDINATION_FAILED"
    return found
