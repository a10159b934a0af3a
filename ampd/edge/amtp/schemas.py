"""The schemas that payloads are held against, and who takes which (AMTP 1.0, section 6).

    agntcy:DOMAIN.ENTITY.vN          a schema; it is kept in the registry as JSON Schema
    agntcy:DOMAIN.*                  what an agent supports: a schema, or all with a prefix

  C1  A payload that names a schema which is registered here is held against it before anything is
      kept or sent. A schema that nobody registered is not checked: the receiver may know it.
  C2  An agent that supports some schemas takes no others. If no recipient here takes a message's
      schema it is refused, and the answer names what they take.
  C3  A schema is at most MAX_DEFINITION long and leads nowhere else; none is ever fetched, so none
      could come unsigned (6.1.2).

Not here: JSON Schema itself (schema_worker.py), the requests of administrators (schema_routes.py).
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from ampd.core.agents import Agent
from ampd.edge.amtp.failures import Failure
from ampd.edge.amtp.ports import Mail
from ampd.edge.amtp.schema_process import SchemaProcess
from ampd.model.errors import Unavailable
from ampd.model.values import value
from ampd.protocol import raw_json
from ampd.storage.registry import Registry

KIND: Final = "amtp.schema"
MAX_DEFINITION: Final = 256 << 10  # bytes: the largest public ones have 100 KiB
MAX_SCHEMAS: Final = 10_000
_ID: Final = re.compile(r"agntcy:([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)\.(v[0-9]+)")
_PATTERN: Final = re.compile(r"agntcy:[A-Za-z0-9_-]+\.[A-Za-z0-9_.-]*\*")
_LONGEST_ID: Final = 200


@value
class SchemaId:
    """A schema's name, in its parts."""

    raw: str
    domain: str
    entity: str
    version: str


def schema_id(text: object) -> SchemaId | None:
    """The id that a text is, or None."""
    if not isinstance(text, str) or len(text) > _LONGEST_ID:
        return None
    found = _ID.fullmatch(text)
    return SchemaId(text, found[1], found[2], found[3]) if found else None


def fits(pattern: str, schema: str) -> bool:
    """Whether a schema is the one that a pattern names, or begins as it does."""
    if pattern.endswith("*"):
        return schema.startswith(pattern[:-1])
    return pattern == schema


class Schemas:
    """The registered schemas."""

    def __init__(self, registry: Registry, mail: Mail) -> None:
        self._registry = registry
        self._mail = mail
        self._process = SchemaProcess()

    async def run(self) -> None:
        """Keep the worker while it is needed."""
        await self._process.run()

    def known(self, schema: str) -> bool:
        """Whether it is registered here."""
        return self._registry.get(KIND, schema) is not None

    def check_patterns(self, patterns: Sequence[object]) -> None:
        """Failure unless each may stand in an agent's supported_schemas."""
        for each in patterns:
            pattern = (
                isinstance(each, str) and len(each) <= _LONGEST_ID and _PATTERN.fullmatch(each)
            )
            if not pattern and schema_id(each) is None:
                raise Failure(
                    400, "INVALID_SCHEMA_ID",
                    f"{str(each)[:80]!r} is neither agntcy:domain.entity.vN nor a prefix with *",
                )  # fmt: skip

    def supports(self, agent: Agent, schema: str) -> bool:
        """Whether an agent takes this schema (C2)."""
        supported = self._mail.supported(agent)
        return not supported or any(fits(pattern, schema) for pattern in supported)

    async def check(self, message: Mapping[str, Any], recipients: Sequence[Agent]) -> None:
        """Failure unless the schema of a message, if it names one, is taken and met (C1, C2)."""
        schema = message.get("schema")
        if not schema:
            return
        if schema_id(schema) is None:
            raise Failure(
                400, "MESSAGE_VALIDATION_FAILED",
                "schema is written agntcy:domain.entity.vN",
                details={"schema": str(schema)[:_LONGEST_ID]},
            )  # fmt: skip
        if recipients and not any(self.supports(each, schema) for each in recipients):
            taken = sorted({each for agent in recipients for each in self._mail.supported(agent)})
            raise Failure(
                400, "UNSUPPORTED_SCHEMA", f"no recipient takes messages of {schema}",
                details={"schema": schema, "supported_schemas": taken},
            )  # fmt: skip
        if not self.known(schema):
            return
        if errors := await self.errors(schema, message.get("payload")):
            told = [{"field": each["field"], "error": each["message"]} for each in errors]
            raise Failure(
                400, "SCHEMA_VALIDATION_FAILED", f"Payload validation failed for schema {schema}",
                details={"schema": schema, "validation_errors": told},
            )  # fmt: skip

    async def errors(self, schema: str, payload: raw_json.Value) -> list[dict[str, str]]:
        """What a payload breaks of a registered schema; none if it is met."""
        found = self._registry.get(KIND, schema)
        if found is None:
            raise Failure(404, "SCHEMA_NOT_FOUND", f"there is no schema {schema} here")
        try:
            said = await self._process.ask(raw_json.Raw(found["definition"]), payload)
        except Unavailable as exc:
            raise Failure(503, "SCHEMA_MANAGER_UNAVAILABLE", str(exc)) from None
        if "broken" in said:
            return [{"field": "", "message": said["broken"], "code": "schema"}]
        errors: list[dict[str, str]] = said["errors"]
        return errors

    async def keep(
        self, identifier: str, definition: raw_json.Value, now: int, *, new: bool
    ) -> None:
        """Register a schema; with `new` only if it is none yet. Raises Failure (C3)."""
        text = raw_json.write(definition)
        if not isinstance(definition, dict) or len(text) > MAX_DEFINITION:
            raise Failure(
                400, "INVALID_SCHEMA_DEFINITION",
                f"a definition is a JSON object of at most {MAX_DEFINITION} bytes",
            )  # fmt: skip
        if self._registry.count(KIND) >= MAX_SCHEMAS:
            raise Failure(400, "SCHEMA_REGISTRATION_FAILED", f"there are {MAX_SCHEMAS} already")
        try:
            said = await self._process.ask(raw_json.Raw(text), check=True)
        except Unavailable as exc:
            raise Failure(503, "SCHEMA_MANAGER_UNAVAILABLE", str(exc)) from None
        if "broken" in said:
            raise Failure(400, "INVALID_SCHEMA_DEFINITION", f"not a JSON Schema: {said['broken']}")
        value = {"definition": text, "published_at": now}
        if not new:
            await self._registry.put(KIND, identifier, value)
        elif not await self._registry.add(KIND, identifier, value):
            raise Failure(409, "SCHEMA_ALREADY_EXISTS", f"{identifier} is registered already")

    def registered(self) -> list[SchemaId]:
        """The ids of all of them, in their order."""
        found, after = [], ""
        while page := self._registry.find(KIND, after=after):
            found += [known for entry in page if (known := schema_id(entry.key))]
            after = page[-1].key
        return found

    def definition(self, identifier: str) -> tuple[raw_json.Raw, int] | None:
        """A schema's text, and when it was registered (milliseconds)."""
        found = self._registry.get(KIND, identifier)
        return None if found is None else (raw_json.Raw(found["definition"]), found["published_at"])

    async def remove(self, identifier: str) -> bool:
        """Forget a schema; whether there was one."""
        return await self._registry.delete(KIND, identifier)
