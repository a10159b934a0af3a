"""The requests of an administrator on schemas: /v1/admin/schemas.

    POST   /v1/admin/schemas               {id, definition, force?}   register; 409 if it is there
    GET    /v1/admin/schemas[?pattern=P]   list; P is an id or a prefix with *
    GET    /v1/admin/schemas/stats
    GET, PUT, DELETE /v1/admin/schemas/ID  look, replace, forget
    POST   /v1/admin/schemas/ID/validate   {payload}                  hold a payload against it

Not here: what a schema does to messages (schemas.py).
"""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from ampd.edge.amtp.failures import Failure
from ampd.edge.amtp.ports import Mail
from ampd.edge.amtp.schemas import SchemaId, Schemas, fits, schema_id
from ampd.edge.documents import time_text
from ampd.edge.http.words import Answer, Request, Route

_BASE = "/v1/admin/schemas"


class SchemaRoutes:
    """Answers administrators."""

    def __init__(self, schemas: Schemas, mail: Mail, now: Callable[[], int]) -> None:
        self._schemas = schemas
        self._mail = mail
        self._now = now

    def routes(self) -> Sequence[Route]:
        """Every method of every path."""
        return (
            Route("POST", _BASE, self._register),
            Route("GET", _BASE, self._list),
            Route("GET", f"{_BASE}/stats", self._stats),
            Route("GET", f"{_BASE}/{{id}}", self._show),
            Route("PUT", f"{_BASE}/{{id}}", self._replace),
            Route("DELETE", f"{_BASE}/{{id}}", self._forget),
            Route("POST", f"{_BASE}/{{id}}/validate", self._validate),
        )

    def _body(self, request: Request) -> dict[str, Any]:
        self._mail.check_admin(request)
        value = request.json()
        if not isinstance(value, dict):
            raise Failure(400, "INVALID_REQUEST_FORMAT", "the body is a JSON object")
        return value

    def _named(self, request: Request) -> SchemaId:
        return _checked(request.params["id"])

    def _answer(self, status: int, **members: Any) -> Answer:
        return Answer.json(status, {**members, "timestamp": time_text(self._now())})

    async def _register(self, request: Request) -> Answer:
        body = self._body(request)
        named = _checked(body.get("id"))
        new = body.get("force") is not True
        await self._schemas.keep(named.raw, body.get("definition"), self._now(), new=new)
        return self._answer(201, message="Schema registered successfully", schema_id=named.raw)

    async def _list(self, request: Request) -> Answer:
        self._mail.check_admin(request)
        pattern = request.query.get("pattern", "") or "*"
        found = [each for each in self._schemas.registered() if fits(pattern, each.raw)]
        return self._answer(200, schemas=[_parts(each) for each in found], count=len(found))

    async def _stats(self, request: Request) -> Answer:
        self._mail.check_admin(request)
        found = self._schemas.registered()
        stats = {
            "total_schemas": len(found),
            "domains": dict(Counter(each.domain for each in found)),
            "entities": dict(Counter(each.entity for each in found)),
        }
        return self._answer(200, stats=stats)

    async def _show(self, request: Request) -> Answer:
        self._mail.check_admin(request)
        named = self._named(request)
        found = self._schemas.definition(named.raw)
        if found is None:
            raise _unknown(named)
        definition, published = found
        schema = {
            "id": _parts(named),
            "definition": definition,
            "published_at": time_text(published),
        }
        return self._answer(200, schema=schema)

    async def _replace(self, request: Request) -> Answer:
        body, named = self._body(request), self._named(request)
        if not self._schemas.known(named.raw):
            raise _unknown(named)
        await self._schemas.keep(named.raw, body.get("definition"), self._now(), new=False)
        return self._answer(200, message="Schema updated successfully", schema_id=named.raw)

    async def _forget(self, request: Request) -> Answer:
        self._mail.check_admin(request)
        named = self._named(request)
        if not await self._schemas.remove(named.raw):
            raise _unknown(named)
        return self._answer(200, message="Schema deleted successfully", schema_id=named.raw)

    async def _validate(self, request: Request) -> Answer:
        body, named = self._body(request), self._named(request)
        if "payload" not in body:
            raise Failure(400, "INVALID_REQUEST_FORMAT", "the body has no payload")
        errors = await self._schemas.errors(named.raw, body["payload"])
        return self._answer(200, valid=not errors, errors=errors or None, warnings=None)


def _parts(schema: SchemaId) -> dict[str, str]:
    return {
        "domain": schema.domain,
        "entity": schema.entity,
        "version": schema.version,
        "raw": schema.raw,
    }


def _checked(text: object) -> SchemaId:
    found = schema_id(text)
    if found is None:
        raise Failure(400, "INVALID_SCHEMA_ID", "a schema's id is agntcy:domain.entity.vN")
    return found


def _unknown(schema: SchemaId) -> Failure:
    return Failure(404, "SCHEMA_NOT_FOUND", f"there is no schema {schema.raw} here")
