"""The OpenAPI 3.1 document of AMP's API: every route that is served, and nothing else. Pure.

tests/edge/amp compares it with the routes.
"""

import json
import re
from typing import Any, Final

import ampd

_Who = list[dict[str, list[str]]]

_KEY: Final[_Who] = [{"apiKey": []}]
_OWNER: Final[_Who] = [{"owner": []}]
_OPEN: Final[_Who] = []
_PROVIDER: Final[_Who] = [{"provider": []}]

# method, path, what it does, who may, name of the request's schema, status of success
OPERATIONS: Final[tuple[tuple[str, str, str, _Who, str, int], ...]] = (
    ("get", "/health", "Whether the provider works", _OPEN, "", 200),
    ("get", "/info", "What the provider is and can do", _OPEN, "", 200),
    ("get", "/organization", "The tenant of this host", _OPEN, "", 200),
    ("get", "/.well-known/agent-messaging.json", "Where the provider is", _OPEN, "", 200),
    ("get", "/openapi.json", "This document", _OPEN, "", 200),
    ("get", "/openapi.yaml", "This document in YAML", _OPEN, "", 200),
    ("post", "/register", "Register an agent", [{}, {"userKey": []}], "Registration", 201),
    ("post", "/route", "Send a message", _KEY, "Message", 200),
    ("get", "/messages/pending", "Messages that wait", _KEY, "", 200),
    ("get", "/messages", "Messages that wait", _KEY, "", 200),
    ("get", "/inbox", "Messages that wait", _KEY, "", 200),
    ("get", "/messages/pending/count", "How many wait", _KEY, "", 200),
    ("delete", "/messages/pending/{id}", "Acknowledge a message", _KEY, "", 200),
    ("delete", "/messages/pending", "Acknowledge the message of ?id=", _KEY, "", 200),
    ("delete", "/inbox/{id}", "Acknowledge a message", _KEY, "", 200),
    ("post", "/inbox/{id}/ack", "Acknowledge a message", _KEY, "", 200),
    ("post", "/messages/{id}/ack", "Acknowledge a message", _KEY, "", 200),
    ("post", "/messages/pending/ack", "Acknowledge several messages", _KEY, "Ids", 200),
    ("post", "/messages/pending", "Acknowledge several messages", _KEY, "Ids", 200),
    ("post", "/inbox/ack", "Acknowledge several messages", _KEY, "Ids", 200),
    ("post", "/messages/{id}/read", "Say that a message was read", _KEY, "", 200),
    ("get", "/agents", "Agents of a tenant", _KEY, "", 200),
    ("get", "/agents/me", "The agent of the API key", _KEY, "", 200),
    ("patch", "/agents/me", "Change alias, delivery, metadata", _KEY, "Changes", 200),
    ("delete", "/agents/me", "Leave: the agent and its mail are gone", _KEY, "", 200),
    ("get", "/agents/me/card", "One's own public key", _KEY, "", 200),
    ("get", "/agents/resolve/{address}", "Whom an address means, and its key", _KEY, "", 200),
    ("get", "/agents/{address}", "Whom an address means, and its key", _KEY, "", 200),
    ("post", "/agents/{id}/amp/addresses", "Note an address elsewhere", _KEY, "Address", 200),
    ("get", "/agents/owned", "The agents of an owner", _OWNER, "", 200),
    ("delete", "/agents/owned/{id}", "Remove an agent of an owner", _OWNER, "", 200),
    ("get", "/auth/user-key", "The user key of an owner", _OWNER, "", 200),
    ("post", "/auth/invites", "An invitation to register", _OWNER, "", 201),
    ("post", "/auth/rotate-key", "A new API key", _KEY, "", 200),
    ("delete", "/auth/revoke-key", "Revoke the API keys", _KEY, "", 200),
    ("post", "/auth/rotate-keys", "A new key pair", _KEY, "Rotation", 200),
    ("post", "/attachments/upload", "Announce an attachment", _KEY, "Attachment", 201),
    ("put", "/attachments/{id}/upload/{token}", "Bring its bytes", _OPEN, "", 200),
    ("post", "/attachments/{id}/confirm", "Say that the bytes are there", _KEY, "", 200),
    ("get", "/attachments/{id}", "State of an attachment", _KEY, "", 200),
    ("get", "/attachments/{id}/download", "Its bytes", _KEY, "", 200),
    ("get", "/attachments/{id}/file/{token}", "Its bytes", _OPEN, "", 200),
    ("post", "/federation/deliver", "A message of another provider", _PROVIDER, "Delivery", 200),
)  # fmt: skip

_PAGE: Final = ("limit", "cursor", "wait")
_QUERY: Final[dict[tuple[str, str], tuple[str, ...]]] = {
    ("get", "/messages/pending"): _PAGE,
    ("get", "/messages"): _PAGE,
    ("get", "/inbox"): _PAGE,
    ("delete", "/messages/pending"): ("id",),
    ("get", "/agents"): ("tenant", "search", "limit", "cursor"),
}
_NUMBERS: Final = {
    "limit": {"type": "integer", "minimum": 1, "maximum": 999_999_999},
    "wait": {"type": "integer", "minimum": 0, "maximum": 999_999_999},
}
_BYTES: Final[dict[str, Any]] = {"*/*": {"schema": {}}}
_OTHERS: Final[dict[str, dict[str, Any]]] = {  # what is not JSON
    "/openapi.yaml": {"application/yaml": {"schema": {}}},
    "/attachments/{id}/download": _BYTES,
    "/attachments/{id}/file/{token}": _BYTES,
}
_TEXT: Final = {"type": "string"}
_ANY: Final = {"type": "object"}
_NULLABLE: Final = {"type": ["string", "null"]}
_PAYLOAD: Final = {
    "type": "object",
    "required": ["type", "message"],
    "properties": {
        "type": {"type": "string", "maxLength": 64},
        "message": {"type": "string", "description": "at most 64 KiB in UTF-8"},
        "context": {"description": "any JSON, at most 256 KiB"},
        "attachments": {"type": "array", "maxItems": 10},
    },
}
_FLAT: Final = {
    "type": "object",
    "required": ["to", "subject", "payload"],
    "properties": {
        "to": _TEXT,
        "subject": {"type": "string", "maxLength": 256},
        "priority": {"enum": ["urgent", "high", "normal", "low", None]},
        "in_reply_to": _NULLABLE,
        "thread_id": _NULLABLE,
        "expires_at": _NULLABLE,
        "signature": _NULLABLE,
        "idempotency_key": {"type": "string", "maxLength": 200},
        "options": {"type": "object", "properties": {"receipt": {"type": "boolean"}}},
        "payload": _PAYLOAD,
    },
}
_ENVELOPE: Final = {
    "type": "object",
    "required": ["version", "id", "from", "to", "subject", "timestamp"],
    "properties": {
        **dict.fromkeys(("from", "to", "subject", "priority", "timestamp"), _TEXT),
        "version": {"const": "amp/0.1"},
        "id": {"type": "string", "pattern": "^msg[_-][0-9]+[_-][A-Za-z0-9]+$"},
        **dict.fromkeys(("signature", "in_reply_to", "thread_id", "expires_at"), _NULLABLE),
    },
}
_FULL: Final = {
    "type": "object",
    "required": ["envelope", "payload"],
    "properties": {"envelope": _ENVELOPE, "payload": _PAYLOAD},
}
_DELIVERY_SETTINGS: Final = {
    "type": "object",
    "properties": {
        "webhook_url": _NULLABLE,
        "webhook_secret": _NULLABLE,
        "prefer_websocket": {"type": "boolean"},
    },
}
SCHEMAS: Final[dict[str, Any]] = {
    "Error": {
        "type": "object",
        "required": ["error", "message"],
        "properties": {"error": _TEXT, "message": _TEXT, "field": _TEXT, "details": _ANY},
    },
    "Registration": {
        "type": "object",
        "required": ["name", "public_key", "key_algorithm"],
        "properties": {
            "name": {"type": "string", "pattern": "^[A-Za-z0-9]([A-Za-z0-9_-]{0,61}[A-Za-z0-9])?$"},
            "tenant": {"type": "string", "description": "required without a user key"},
            "public_key": {"type": "string", "description": "PEM"},
            "key_algorithm": {"enum": ["Ed25519", "RSA", "ECDSA"]},
            **dict.fromkeys(("alias", "agent_id", "invite_code", "proof", "timestamp"), _TEXT),
            "scope": {"type": "object", "properties": {"platform": _TEXT, "repo": _TEXT}},
            "delivery": {**_DELIVERY_SETTINGS, "type": ["object", "null"]},
            "metadata": _ANY,
        },
    },
    "Message": {"oneOf": [_FLAT, _FULL]},
    "Ids": {
        "type": "object",
        "required": ["ids"],
        "properties": {"ids": {"type": "array", "items": _TEXT, "maxItems": 1000}},
    },
    "Changes": {
        "type": "object",
        "properties": {
            "alias": {"type": ["string", "null"], "maxLength": 200},
            "delivery": {**_DELIVERY_SETTINGS, "type": ["object", "null"]}, "metadata": _ANY,
        },
    },
    "Rotation": {
        "type": "object",
        "required": ["new_public_key", "proof"],
        "properties": {"new_public_key": _TEXT, "key_algorithm": _TEXT, "proof": _TEXT},
    },
    "Address": {"type": "object", "required": ["address"], "properties": {"address": _TEXT}},
    "Attachment": {
        "type": "object",
        "required": ["filename", "content_type", "size", "digest"],
        "properties": {
            "filename": {"type": "string", "minLength": 1, "maxLength": 255},
            "content_type": {"type": "string", "pattern": "^[A-Za-z0-9_.+-]+/[A-Za-z0-9_.+-]+$"},
            "digest": {"type": "string", "pattern": "^sha256:[0-9a-f]{64}$"},
            "size": {"type": "integer", "minimum": 1, "maximum": 26_214_400},
        },
    },
    "Delivery": {
        "type": "object",
        "required": ["envelope", "payload"],
        "properties": {
            "envelope": _ENVELOPE, "payload": _PAYLOAD, "sender_public_key": _NULLABLE,
        },
    },
}  # fmt: skip


def document(base: str) -> dict[str, Any]:
    """The document of a provider that is reached at `base`."""
    paths: dict[str, Any] = {}
    for method, path, summary, who, schema, status in OPERATIONS:
        found = paths.setdefault(path, {})
        found[method] = _operation(method, path, summary, who, schema, status)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Agent Messaging Protocol",
            "summary": "The AMP provider API of an ampd node",
            "version": "0.1.0",
            "x-implementation": f"ampd/{ampd.__version__}",
        },
        "servers": [{"url": f"{base}/v1"}, {"url": f"{base}/api/v1"}],
        "paths": paths,
        "components": {
            "schemas": SCHEMAS,
            "securitySchemes": {
                "apiKey": {"type": "http", "scheme": "bearer", "bearerFormat": "amp_live_sk_..."},
                "userKey": {"type": "http", "scheme": "bearer", "bearerFormat": "uk_..."},
                "owner": {"type": "http", "scheme": "bearer", "bearerFormat": "admin key"},
                "provider": {"type": "apiKey", "in": "header", "name": "X-AMP-Signature"},
            },
        },
    }


def _operation(
    method: str, path: str, summary: str, who: _Who, schema: str, status: int
) -> dict[str, Any]:
    names = re.findall(r"\{(\w+)\}", path)
    parameters = [{"name": name, "in": "path", "required": True, "schema": _TEXT} for name in names]
    queries = _QUERY.get((method, path), ())
    parameters += [
        {"name": name, "in": "query", "schema": _NUMBERS.get(name, _TEXT)} for name in queries
    ]
    words = [method, *re.findall(r"\w+", path)]
    error = _ANY if path == "/messages" else {"$ref": "#/components/schemas/Error"}  # AMTP's, too
    done = _OTHERS.get(path, {"application/json": {"schema": _ANY}})
    found: dict[str, Any] = {
        "operationId": "_".join(words),
        "summary": summary,
        "security": who,
        "responses": {
            str(status): {"description": "done", "content": done},
            "default": {
                "description": "refused",
                "content": {"application/json": {"schema": error}},
            },
        },
    }
    if parameters:
        found["parameters"] = parameters
    if schema:
        content = {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}}
        found["requestBody"] = {"required": True, "content": content}
    if method == "put":
        found["requestBody"] = {"required": True, "content": _BYTES}
    return found


def in_yaml(value: Any, depth: int = 0) -> str:
    """A value of JSON as YAML 1.2: blocks for objects, its JSON for everything else."""
    pad = "  " * depth
    lines = []
    for name, each in value.items():
        if isinstance(each, dict) and each:
            lines.append(f"{pad}{json.dumps(name)}:\n{in_yaml(each, depth + 1)}")
        else:
            lines.append(f"{pad}{json.dumps(name)}: {json.dumps(each)}\n")
    return "".join(lines)
